//! The servers, the people, and what is known of what they did.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::Pdu;
use platform::{ActorKind, Address, Clock as _};

use crate::{
    client::Client,
    complaint::{Complaint, Promise},
    graph,
    liar::Liar,
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
    /// A server that lies, if there is one.
    pub(crate) liar: Option<Rc<Liar>>,
    /// The ids of rooms by their number in the story, and where each was made.
    pub(crate) rooms: RefCell<BTreeMap<usize, (String, usize)>>,
    pub(crate) said: RefCell<Vec<Said>>,
    pub(crate) whispers: RefCell<Vec<Whisper>>,
    /// The one-time keys that were given out, as often as they were.
    pub(crate) claimed: RefCell<Vec<String>>,
    pub(crate) tally: RefCell<Tally>,
    /// The actors that were put back to an older copy, each with its server.
    pub(crate) restored: RefCell<BTreeSet<(String, Address)>>,
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
        let liar = size.is_hostile.then(|| Liar::new(network.clone(), machines.clone(), seed));
        if let Some(liar) = &liar {
            network.add_liar(liar.clone());
        }
        Rc::new(Self {
            network,
            size,
            liar,
            machines,
            clients,
            rooms: RefCell::default(),
            said: RefCell::default(),
            whispers: RefCell::default(),
            claimed: RefCell::default(),
            tally: RefCell::default(),
            restored: RefCell::default(),
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
        self.machines.iter().flat_map(|machine| machine.rooms()).collect()
    }

    /// Who is in a room by the word of their own server, and of every server that has somebody in it. Who came in on
    /// one side of a fork alone, and is soft-failed on the other, is heard by nobody there; a server that has only such
    /// is in a room of its own.
    pub(crate) fn members(&self, room_id: &str) -> BTreeSet<String> {
        let is_of = |user_id: &String, machine: &Machine| {
            user_id.split_once(':').is_some_and(|(_, server)| server == machine.name)
        };
        let mut all: Option<BTreeSet<String>> = None;
        let mut at_home = BTreeSet::new();
        for machine in &self.machines {
            let joined = machine.room(room_id).map(|disk| graph::joined(&disk)).unwrap_or_default();
            let own: Vec<String> = joined.iter().filter(|user_id| is_of(user_id, machine)).cloned().collect();
            if !own.is_empty() {
                all = Some(all.map_or(joined.clone(), |all| &all & &joined));
                at_home.extend(own);
            }
        }
        &all.unwrap_or_default() & &at_home
    }

    /// What nobody but the liar has of a room.
    pub(crate) fn lies(&self, room_id: &str) -> Vec<Pdu> {
        self.liar.as_ref().map(|liar| liar.made(room_id)).unwrap_or_default()
    }

    /// Whether somebody was told of a state of this room that is none: then servers may differ on it.
    pub(crate) fn is_disputed(&self, room_id: &str) -> bool {
        self.liar.as_ref().is_some_and(|liar| liar.disputes(room_id))
    }

    /// An actor was put back: clients may see again what they saw before.
    pub(crate) fn was_restored(&self, machine: &Machine, address: &Address) {
        self.network.trace.note(
            self.scheduler().now_ms(),
            format_args!("{address} of {} is put back to an older copy", machine.name),
        );
        self.restored.borrow_mut().insert((machine.name.clone(), address.clone()));
        for client in self.clients.iter().filter(|client| client.machine.name == machine.name) {
            client.view.borrow_mut().may_repeat();
        }
    }

    /// Whether this actor was ever put back to an older copy.
    pub(crate) fn is_restored(&self, machine: &Machine, kind: ActorKind, id: &str) -> bool {
        self.restored.borrow().contains(&(machine.name.clone(), Address::new(kind, id)))
    }

    /// Whether one of the actors for other servers was.
    pub(crate) fn has_restored_destinations(&self) -> bool {
        self.restored.borrow().iter().any(|(_, address)| address.kind == ActorKind::Destination)
    }

    /// Takes the world apart: its parts hold each other.
    pub(crate) fn ends(&self) {
        self.machines.iter().for_each(|machine| machine.stops());
        self.scheduler().clear();
        self.network.clear();
    }
}
