//! The whole graph of a room, as all servers together have it, and its state by ruma's resolution of whole states by
//! whole auth chains: nothing here knows how a server does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::{Pdu, RoomVersion, auth, state::StateMap};
use platform::Sql as _;
use ruma_common::OwnedEventId;
use ruma_events::StateEventType;
use ruma_state_res::utils::event_id_set::EventIdSet;

use crate::disk::Disk;

pub(crate) type State = StateMap<OwnedEventId>;

/// The first position of a log.
const LOG_START: u64 = 1 << 40;

pub(crate) struct Graph {
    pub(crate) version: RoomVersion,
    pub(crate) events: BTreeMap<OwnedEventId, Pdu>,
    after: BTreeMap<OwnedEventId, Rc<State>>,
    /// The states in which several events met.
    met: BTreeMap<Vec<OwnedEventId>, Rc<State>>,
    /// Events that the state before them did not allow, as far as that was looked at.
    rejected: BTreeSet<OwnedEventId>,
    chains: BTreeMap<OwnedEventId, Rc<BTreeSet<OwnedEventId>>>,
}

/// What one server has of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    InLog,
    Beside,
    Rejected,
    SoftFailed,
}

/// The events that a server holds.
pub(crate) fn held(disk: &Disk) -> BTreeMap<String, Held> {
    let rows = disk.query("SELECT event_id, position, verdict FROM event", &[]).expect("the schema");
    rows.into_iter()
        .map(|mut row| {
            let (id, position) = (row.text(0).expect("an id"), row.unsigned(1).expect("a position"));
            let held = match row.unsigned_or_null(2).expect("a verdict") {
                Some(1) => Held::Rejected,
                Some(_) => Held::SoftFailed,
                None if position >= LOG_START => Held::InLog,
                None => Held::Beside,
            };
            (id, held)
        })
        .collect()
}

/// The ids of a server's log, in order.
pub(crate) fn log(disk: &Disk) -> Vec<String> {
    let rows = disk.query("SELECT event_id FROM event WHERE position >= 1099511627776 ORDER BY position", &[]);
    rows.expect("the schema").into_iter().map(|mut row| row.text(0).expect("an id")).collect()
}

/// The redactions that a server has, with what they redact.
pub(crate) fn redactions(disk: &Disk) -> BTreeMap<String, String> {
    let rows = disk.query(
        "SELECT event_id, coalesce(json ->> '$.redacts', json ->> '$.content.redacts') AS redacts FROM event
         WHERE type = 'm.room.redaction' AND redacts IS NOT NULL",
        &[],
    );
    let rows = rows.expect("the schema").into_iter();
    rows.map(|mut row| (row.text(0).expect("an id"), row.text(1).expect("another"))).collect()
}

/// Who is in a room, as a server has it.
pub(crate) fn joined(disk: &Disk) -> BTreeSet<String> {
    let rows = disk.query("SELECT user_id FROM member WHERE membership = 'join'", &[]).expect("the schema");
    rows.into_iter().map(|mut row| row.text(0).expect("a user")).collect()
}

/// What was said in a room, as far as a server has it: ids and bodies.
pub(crate) fn said(disk: &Disk) -> Vec<(String, String)> {
    let rows = disk.query(
        "SELECT event_id, json_extract(json, '$.content.body') AS body FROM event
         WHERE type = 'm.room.message' AND body IS NOT NULL",
        &[],
    );
    let rows = rows.expect("the schema").into_iter();
    rows.map(|mut row| (row.text(0).expect("an id"), row.text(1).expect("a body"))).collect()
}

/// The ids of a server's log since its only edge, in order: what came while it was in the room. Nothing where there are
/// more: what it had there of others when it came back, or when two joined at once, is not in the log's order. Nor
/// where the edge is of a gap that nobody filled, and not of a join: the state there is one that it was told.
pub(crate) fn lived_through(disk: &Disk) -> Vec<OwnedEventId> {
    let joins = disk.query(
        "SELECT 1 FROM edge JOIN event ON event.position = edge.position
         WHERE event.type = 'm.room.member' AND event.sender = event.state_key
          AND json_extract(event.json, '$.content.membership') = 'join'",
        &[],
    );
    if edges(disk) > 1 || joins.expect("the schema").len() < edges(disk) {
        return Vec::new();
    }
    let rows = disk.query(
        "SELECT event_id FROM event WHERE position >= (SELECT coalesce(max(position), 1099511627776) FROM edge)
         ORDER BY position",
        &[],
    );
    let ids = rows.expect("the schema").into_iter().map(|mut row| row.text(0).expect("an id"));
    ids.filter_map(|id| OwnedEventId::try_from(id).ok()).collect()
}

/// How many edges a server's log has.
pub(crate) fn edges(disk: &Disk) -> usize {
    disk.query("SELECT 1 FROM edge", &[]).expect("the schema").len()
}

/// Whether a key of the state was left without an event, at any time.
pub(crate) fn was_reset(disk: &Disk, (event_type, key): &(String, String)) -> bool {
    let params = [event_type.as_str().into(), key.as_str().into()];
    let rows = disk.query("SELECT 1 FROM state_change WHERE type = ?1 AND state_key = ?2 AND after IS NULL", &params);
    !rows.expect("the schema").is_empty()
}

/// The events that none of a server's log comes after.
pub(crate) fn extremities(disk: &Disk) -> Vec<OwnedEventId> {
    let rows = disk.query("SELECT value FROM meta WHERE key = 'extremities'", &[]).expect("the schema");
    let stored = rows.into_iter().next().and_then(|mut row| row.text(0).ok());
    let ids: Vec<String> = match stored {
        Some(stored) => serde_json::from_str(&stored).expect("a list"),
        None => log(disk).pop().into_iter().collect(),
    };
    ids.into_iter().filter_map(|id| OwnedEventId::try_from(id).ok()).collect()
}

impl Graph {
    /// Those of a log that an event builds on, be it over events that did not get into the log.
    pub(crate) fn logged_before(&self, pdu: &Pdu, log: &[OwnedEventId]) -> BTreeSet<OwnedEventId> {
        let (mut found, mut passed) = (BTreeSet::new(), BTreeSet::new());
        let mut ahead = pdu.prev_events().to_vec();
        while let Some(id) = ahead.pop() {
            if log.contains(&id) {
                found.insert(id);
            } else if let Some(between) = self.events.get(&id).filter(|_| passed.insert(id.clone())) {
                ahead.extend(between.prev_events().iter().cloned());
            }
        }
        found
    }

    /// Whether one of these events builds on this one.
    pub(crate) fn is_behind(&self, id: &OwnedEventId, events: &[OwnedEventId]) -> bool {
        let (mut passed, mut ahead) = (BTreeSet::new(), events.to_vec());
        while let Some(next) = ahead.pop() {
            if next == *id {
                return true;
            }
            if let Some(pdu) = self.events.get(&next).filter(|_| passed.insert(next.clone())) {
                ahead.extend(pdu.prev_events().iter().cloned());
            }
        }
        false
    }

    /// What these servers have of a room, and what else there is of it.
    pub(crate) fn of(disks: &[Rc<Disk>], others: &[Pdu]) -> Option<Self> {
        let mut events: BTreeMap<OwnedEventId, Pdu> =
            others.iter().map(|pdu| (pdu.event_id().to_owned(), pdu.clone())).collect();
        for disk in disks {
            for mut row in disk.query("SELECT event_id, json FROM event", &[]).expect("the schema") {
                let (id, json) = (row.text(0).expect("an id"), row.text(1).expect("an event"));
                let Ok(id) = OwnedEventId::try_from(id) else { continue };
                if let Ok(pdu) = Pdu::from_stored(id.clone(), json, false) {
                    events.entry(id).or_insert(pdu);
                }
            }
        }
        // Who lies says that rooms were made otherwise: that is rejected, and of it no version is held.
        let is_rejected = |id: &OwnedEventId| {
            let verdict = |disk: &Rc<Disk>| held(disk).get(id.as_str()).copied();
            disks.iter().filter_map(verdict).any(|held| held == Held::Rejected)
        };
        let makes_room = |pdu: &&Pdu| pdu.event_type().to_string() == "m.room.create";
        let create = events.values().find(|pdu| makes_room(pdu) && !is_rejected(&pdu.event_id().to_owned()))?;
        let content: serde_json::Value = serde_json::from_str(create.content().get()).ok()?;
        let version = RoomVersion::parse(content["room_version"].as_str().unwrap_or("1")).ok()?;
        Some(Self {
            version,
            events,
            after: BTreeMap::new(),
            met: BTreeMap::new(),
            rejected: BTreeSet::new(),
            chains: BTreeMap::new(),
        })
    }

    fn chain_of(&mut self, id: &OwnedEventId) -> Rc<BTreeSet<OwnedEventId>> {
        if let Some(chain) = self.chains.get(id) {
            return chain.clone();
        }
        let mut ahead = vec![id.clone()];
        while let Some(next) = ahead.last().cloned() {
            let named = self.events.get(&next).map_or(Vec::new(), |pdu| pdu.auth_events().to_vec());
            let unknown: Vec<_> = named.iter().filter(|id| !self.chains.contains_key(*id)).cloned().collect();
            if unknown.is_empty() {
                let mut chain: BTreeSet<OwnedEventId> = named.iter().cloned().collect();
                named.iter().for_each(|id| chain.extend(self.chains[id].iter().cloned()));
                self.chains.insert(next, Rc::new(chain));
                ahead.pop();
            } else {
                ahead.extend(unknown);
            }
        }
        self.chains[id].clone()
    }

    /// The events that an event depends on.
    pub(crate) fn auth_chain_of(&mut self, id: &OwnedEventId) -> BTreeSet<OwnedEventId> {
        (*self.chain_of(id)).clone()
    }

    fn auth_chain(&mut self, state: &State) -> EventIdSet<OwnedEventId> {
        let mut chain = BTreeSet::new();
        for id in state.values() {
            chain.extend(self.chain_of(id).iter().cloned());
        }
        chain.into_iter().collect()
    }

    /// The events on paths along auth events from one of these to another.
    fn between(&mut self, conflicted: &BTreeSet<OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let mut below: BTreeSet<OwnedEventId> = conflicted.clone();
        for id in conflicted {
            below.extend(self.chain_of(id).iter().cloned());
        }
        let reaches = |graph: &mut Self, id: &OwnedEventId| {
            conflicted.contains(id) || graph.chain_of(id).iter().any(|named| conflicted.contains(named))
        };
        below.into_iter().filter(|id| reaches(self, id)).collect()
    }

    /// The state that these states resolve to.
    ///
    /// # Errors
    /// The room's version resolves in another way, or the graph is not whole.
    pub(crate) fn meet(&mut self, events: &[OwnedEventId]) -> Result<Rc<State>, String> {
        let mut key = events.to_vec();
        key.sort();
        if let Some(met) = self.met.get(&key) {
            return Ok(met.clone());
        }
        let met = self.resolve(events)?;
        self.met.insert(key, met.clone());
        Ok(met)
    }

    fn resolve(&mut self, events: &[OwnedEventId]) -> Result<Rc<State>, String> {
        let states = events.iter().map(|id| self.after(id)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = states.first() else { return Ok(Rc::default()) };
        if states.iter().all(|state| state == first) {
            return Ok(first.clone());
        }
        let rules = self.version.rules().clone();
        let v2 = rules.state_res.v2_rules().ok_or("state resolution of version 1")?;
        let chains = states.iter().map(|state| self.auth_chain(state)).collect();
        let states: Vec<State> = states.iter().map(|state| (**state).clone()).collect();
        let mut conflicted = BTreeSet::new();
        for (key, id) in states.iter().flatten() {
            if states.iter().any(|state| state.get(key) != Some(id)) {
                conflicted.insert(id.clone());
            }
        }
        let between = self.between(&conflicted);
        ruma_state_res::resolve(
            &rules.authorization,
            v2,
            &states,
            chains,
            |id| self.events.get(id).cloned(),
            |_: &StateMap<Vec<OwnedEventId>>| Some(between.clone()),
        )
        .map(Rc::new)
        .map_err(|error| format!("ruma does not resolve it: {error}"))
    }

    /// The state after an event.
    ///
    /// # Errors
    /// As [`Graph::meet`].
    pub(crate) fn after(&mut self, id: &OwnedEventId) -> Result<Rc<State>, String> {
        let mut ahead = vec![id.clone()];
        while let Some(next) = ahead.last().cloned() {
            if self.after.contains_key(&next) {
                ahead.pop();
                continue;
            }
            let pdu = self.events.get(&next).cloned().ok_or_else(|| format!("nobody has {next}"))?;
            let named = pdu.prev_events().iter().chain(pdu.auth_events());
            let unknown: Vec<_> = named.filter(|id| !self.after.contains_key(*id)).cloned().collect();
            if !unknown.is_empty() {
                ahead.extend(unknown);
                continue;
            }
            let before = self.meet(pdu.prev_events())?;
            let is_allowed = self.is_allowed(&pdu, &before);
            if !is_allowed {
                self.rejected.insert(next.clone());
            }
            let after = match domain::state::key_of(&pdu) {
                Some(key) if is_allowed => {
                    let mut state = (*before).clone();
                    state.insert(key, next.clone());
                    Rc::new(state)
                }
                _ => before,
            };
            self.after.insert(next, after);
            ahead.pop();
        }
        Ok(self.after[id].clone())
    }

    /// Why an event may not happen in this state, whatever it names; `None` if it may.
    pub(crate) fn forbids_in(&self, pdu: &Pdu, state: &State) -> Option<String> {
        let state = |event_type: &StateEventType, key: &str| {
            let id = state.get(&(event_type.clone(), key.to_owned()))?;
            self.events.get(id).cloned()
        };
        auth::check_against_state(pdu, &self.version, &state).err().map(|why| why.to_string())
    }

    fn is_allowed(&self, pdu: &Pdu, before: &State) -> bool {
        if pdu.prev_events().is_empty() {
            return true;
        }
        // «If any event in auth_events was rejected, reject.»
        if pdu.auth_events().iter().any(|id| self.rejected.contains(id)) {
            return false;
        }
        let named: Vec<Pdu> = pdu.auth_events().iter().filter_map(|id| self.events.get(id).cloned()).collect();
        let state = |event_type: &StateEventType, key: &str| {
            let id = before.get(&(event_type.clone(), key.to_owned()))?;
            self.events.get(id).cloned()
        };
        auth::check(pdu, &self.version, &named, &state).is_ok()
    }
}
