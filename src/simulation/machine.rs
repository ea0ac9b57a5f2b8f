//! One server: what survives a crash of its process.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
};

use bytes::Bytes;
use domain::Config;
use http::{Request, Response};
use platform::{ActorKind, Address, Sql as _};
use ruma_signatures::PublicKeyMap;

use crate::{
    dice::Dice,
    disk::Disk,
    network::{Network, WayOut},
    process::Process,
    store::{Files, MetadataDatabase},
};

pub(crate) struct Machine {
    pub(crate) name: String,
    /// Whom it believes about the keys of servers that it does not reach.
    notaries: String,
    pub(crate) network: Rc<Network>,
    pub(crate) metadata: Rc<MetadataDatabase>,
    pub(crate) files: Rc<Files>,
    /// The operating system's chance.
    pub(crate) chance: Dice,
    disks: RefCell<BTreeMap<Address, Rc<Disk>>>,
    process: RefCell<Option<Rc<Process>>>,
    is_starting: Cell<bool>,
    /// The largest answer of an actor to a call, in bytes.
    pub(crate) answer_bytes_max: Cell<usize>,
    runs: Cell<u64>,
    seed: u64,
    this: Weak<Machine>,
}

impl Machine {
    pub(crate) fn new(name: String, notaries: String, network: Rc<Network>, seed: u64) -> Rc<Self> {
        let dice = Dice::of(seed, &format!("metadata of {name}"));
        Rc::new_cyclic(|this| Self {
            metadata: Rc::new(MetadataDatabase::new(network.scheduler.clone(), dice, 2)),
            files: Rc::default(),
            chance: Dice::of(seed, &format!("chance of {name}")),
            disks: RefCell::default(),
            process: RefCell::default(),
            is_starting: Cell::new(false),
            answer_bytes_max: Cell::new(0),
            runs: Cell::new(0),
            this: this.clone(),
            name,
            notaries,
            network,
            seed,
        })
    }

    pub(crate) fn config(&self) -> Config {
        let pairs = [
            ("SERVER_NAME", self.name.as_str()),
            ("REGISTRATION", "open"),
            ("RATE_LIMITS", "off"),
            ("PASSWORD_HASH_COST", "8,1,1"),
            ("TRUSTED_KEY_SERVERS", self.notaries.as_str()),
        ];
        Config::from_pairs(pairs.map(|(key, value)| (key.to_owned(), value.to_owned()))).expect("a good configuration")
    }

    pub(crate) fn way_out(&self) -> WayOut {
        WayOut { from: self.name.clone(), network: self.network.clone() }
    }

    pub(crate) fn disk(&self, address: &Address) -> Rc<Disk> {
        self.disks.borrow_mut().entry(address.clone()).or_insert_with(|| Rc::new(Disk::new())).clone()
    }

    pub(crate) fn disks(&self) -> Vec<(Address, Rc<Disk>)> {
        self.disks.borrow().iter().map(|(address, disk)| (address.clone(), disk.clone())).collect()
    }

    /// What it keeps of a room, if it has it.
    pub(crate) fn room(&self, room_id: &str) -> Option<Rc<Disk>> {
        let disk = self.disks.borrow().get(&Address::new(ActorKind::Room, room_id)).cloned()?;
        let founded = disk.query("SELECT 1 FROM sqlite_master WHERE name = 'event'", &[]).unwrap_or_default();
        (!founded.is_empty()).then_some(disk)
    }

    /// The rooms that it keeps anything of.
    pub(crate) fn rooms(&self) -> Vec<String> {
        let disks = self.disks.borrow();
        let rooms = disks.iter().filter(|(address, disk)| address.kind == ActorKind::Room && disk.commits() > 0);
        rooms.map(|(address, _)| address.id.clone()).collect()
    }

    /// The keys that it signs with, once it ran.
    pub(crate) fn public_keys(&self) -> Option<PublicKeyMap> {
        Some(self.process()?.settings().identity.public_keys())
    }

    /// The id of its key, `ed25519:xxxx`, if it runs.
    pub(crate) fn key_id(&self) -> Option<String> {
        Some(self.process()?.settings().identity.key_id())
    }

    pub(crate) fn process(&self) -> Option<Rc<Process>> {
        self.process.borrow().clone()
    }

    /// Starts the process, unless it runs.
    pub(crate) async fn start(&self) {
        if self.process.borrow().is_some() || self.is_starting.replace(true) {
            return;
        }
        self.runs.set(self.runs.get() + 1);
        let this = self.this.upgrade().expect("it stands");
        let process = Process::start(this, self.seed.wrapping_add(self.runs.get())).await;
        *self.process.borrow_mut() = Some(process);
        self.is_starting.set(false);
    }

    /// The machine loses its power: of what was not yet synced, each disk keeps as much as chance has it.
    pub(crate) fn crashes(&self) {
        let Some(process) = self.process.take() else { return };
        self.network.scheduler.end(&process.group);
        for disk in self.disks.borrow().values() {
            let unsure = disk.commits() - disk.survivors_min();
            let kept = disk.survivors_min() + process.dice.place(unsure + 1);
            disk.keep(kept).expect("what was written once can be written again");
        }
    }

    /// The process is told to stop, and does so in order: everything is written.
    pub(crate) fn stops(&self) {
        let Some(process) = self.process.take() else { return };
        self.network.scheduler.end(&process.group);
        for disk in self.disks.borrow().values() {
            disk.sync(disk.commits());
        }
    }

    /// Answers a request; `None` if nobody is there, or the connection breaks.
    pub(crate) async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let answering = self.process()?.answer(request);
        answering.await
    }
}
