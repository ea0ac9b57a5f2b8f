//! The servers, the people, and what is known of what they did.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use platform::{ActorKind, Address, Sql as _};

use crate::{
    client::Client,
    complaint::{Complaint, Promise},
    disk::Disk,
    machine::Machine,
    network::Network,
    scheduler::Scheduler,
    story::{Size, person_name, server_name},
};

/// Something that was said, and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) room: usize,
    pub(crate) by: usize,
    /// Stands in no other event.
    pub(crate) body: String,
    /// Once it was acknowledged.
    pub(crate) event_id: Option<String>,
    pub(crate) is_refused: bool,
}

/// A message to somebody's device.
pub(crate) struct Whisper {
    pub(crate) to: usize,
    /// Stands in no other message.
    pub(crate) body: String,
    pub(crate) is_acknowledged: bool,
}

/// How attempts of one kind ended: done, refused, unknown.
pub type Tally = BTreeMap<&'static str, [u64; 3]>;

pub(crate) struct World {
    pub(crate) network: Rc<Network>,
    pub(crate) size: Size,
    pub(crate) machines: Vec<Rc<Machine>>,
    pub(crate) clients: Vec<Rc<Client>>,
    /// The ids of rooms by their number in the story, and where each was made.
    pub(crate) rooms: RefCell<BTreeMap<usize, (String, usize)>>,
    pub(crate) said: RefCell<Vec<Said>>,
    pub(crate) whispers: RefCell<Vec<Whisper>>,
    /// The one-time keys that were given out, as often as they were.
    pub(crate) claimed: RefCell<Vec<String>>,
    pub(crate) tally: RefCell<Tally>,
    /// What was found wrong so far.
    pub(crate) complaints: RefCell<Vec<Complaint>>,
}

impl World {
    pub(crate) fn new(seed: u64, size: Size) -> Rc<Self> {
        let network = Network::new(Scheduler::new(seed), seed);
        let machines: Vec<Rc<Machine>> = (0..size.servers)
            .map(|server| {
                let others = (0..size.servers).filter(|other| *other != server).map(server_name);
                let notaries = others.collect::<Vec<_>>().join(",");
                Machine::new(server_name(server), notaries, network.clone(), seed)
            })
            .collect();
        machines.iter().for_each(|machine| network.add(machine.clone()));
        let clients = (0..size.people)
            .map(|person| Client::new(machines[size.home(person)].clone(), person_name(person), seed))
            .collect();
        Rc::new(Self {
            network,
            size,
            machines,
            clients,
            rooms: RefCell::default(),
            said: RefCell::default(),
            whispers: RefCell::default(),
            claimed: RefCell::default(),
            tally: RefCell::default(),
            complaints: RefCell::default(),
        })
    }

    pub(crate) fn scheduler(&self) -> &Rc<Scheduler> {
        &self.network.scheduler
    }

    pub(crate) fn complains(&self, promise: Promise, how: String) {
        self.complaints.borrow_mut().push(Complaint { promise, how });
    }

    pub(crate) fn counts(&self, kind: &'static str, ending: usize) {
        self.tally.borrow_mut().entry(kind).or_default()[ending] += 1;
    }

    /// Every room that some server has a log of.
    pub(crate) fn all_rooms(&self) -> BTreeSet<String> {
        let disks = self.machines.iter().flat_map(|machine| machine.disks());
        let rooms = disks.filter(|(address, disk)| address.kind == ActorKind::Room && disk.commits() > 0);
        rooms.map(|(address, _)| address.id).collect()
    }

    /// What a server keeps of a room, if it has it.
    pub(crate) fn disk_of(&self, machine: &Machine, room_id: &str) -> Option<Rc<Disk>> {
        let disk = machine.disk(&Address::new(ActorKind::Room, room_id));
        let is_founded =
            !disk.query("SELECT 1 FROM sqlite_master WHERE name = 'event'", &[]).unwrap_or_default().is_empty();
        is_founded.then_some(disk)
    }

    /// Takes the world apart: its parts hold each other.
    pub(crate) fn ends(&self) {
        self.machines.iter().for_each(|machine| machine.stops());
        self.scheduler().clear();
        self.network.clear();
    }
}
