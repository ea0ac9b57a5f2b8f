//! The state at any place of the room's graph, and where such states meet.
//!
//! The log has the current state at each of its positions. The state before an event that came when the log had gone on
//! elsewhere is told as that of the log at some position, but for the keys where it differs: forks of a large room
//! differ in a handful. Whatever is done with states, only what differs is loaded.
//! Spec: Server-Server API, "Room State Resolution"; Room Versions, "State resolution".

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::{
    Pdu, Refusal,
    state::{self, Link, Meeting, StateError, StateMap},
};
use platform::{Fault, Sql, Tx};
use ruma_common::{EventId, OwnedEventId};
use ruma_events::StateEventType;

use super::{
    Room,
    append::room_id,
    auth_use::Uses,
    store::{
        self,
        graph::{Before, Key, Node, StateBefore, Stored, Verdict},
    },
};
use crate::{Cx, Error};

/// The state somewhere in the graph.
#[derive(Debug, Clone)]
pub(super) struct StateAt {
    /// The position of the log whose state it is, but for the changes.
    base: u64,
    changes: BTreeMap<Key, Option<OwnedEventId>>,
    /// The snapshot that has these changes, if one has.
    snapshot: Option<u64>,
}

/// An event before, or a state, that is needed and not held.
pub(super) type Missing = Vec<OwnedEventId>;

impl StateAt {
    /// That of the log.
    pub(super) fn of_log(position: u64) -> Self {
        Self { base: position, changes: BTreeMap::new(), snapshot: None }
    }

    /// The one that these held events make, told by how it differs from the log's at `position`. Whoever says that a
    /// refused event is part of a state is not believed: the state is as it is without it. A soft-failed one may be.
    pub(super) fn told(sql: &dyn Sql, position: u64, events: &[OwnedEventId]) -> Result<Self, Fault> {
        let changes = store::history::differences(sql, position, events)?;
        Ok(Self { base: position, changes, snapshot: None })
    }

    fn read(sql: &dyn Sql, before: Before) -> Result<Self, Fault> {
        let changes = match before.snapshot {
            Some(id) => {
                let changes: Vec<(String, String, Option<OwnedEventId>)> = store::graph::snapshot(sql, id)?;
                changes.into_iter().map(|(event_type, state_key, event)| ((event_type, state_key), event)).collect()
            }
            None => BTreeMap::new(),
        };
        Ok(Self { base: before.base, changes, snapshot: before.snapshot })
    }

    /// Stores it as what is before an event.
    pub(super) fn write(&self, tx: &Tx<'_>) -> Result<Before, Fault> {
        if self.snapshot.is_some() || self.changes.is_empty() {
            return Ok(Before { base: self.base, snapshot: self.snapshot });
        }
        let changes: Vec<_> = self.changes.iter().map(|((event_type, key), event)| (event_type, key, event)).collect();
        let snapshot = store::graph::insert_snapshot(tx, &changes)?;
        Ok(Before { base: self.base, snapshot: Some(snapshot) })
    }

    pub(super) fn get(&self, sql: &dyn Sql, event_type: &str, state_key: &str) -> Result<Option<OwnedEventId>, Fault> {
        match self.changes.get(&(event_type.to_owned(), state_key.to_owned())) {
            Some(event_id) => Ok(event_id.clone()),
            None => store::graph::event_at(sql, (event_type, state_key), self.base),
        }
    }

    pub(super) fn event(&self, sql: &dyn Sql, event_type: &str, state_key: &str) -> Result<Option<Pdu>, Fault> {
        let Some(event_id) = self.get(sql, event_type, state_key)? else { return Ok(None) };
        let node = store::graph::by_id(sql, &event_id)?;
        Ok(Some(node.ok_or_else(|| Fault::new("an event of a state is not held"))?.pdu))
    }

    /// The state after an event that this is the state before of.
    pub(super) fn after(mut self, sql: &dyn Sql, pdu: &Pdu, verdict: Verdict) -> Result<Self, Fault> {
        let Some(state_key) = pdu.state_key() else { return Ok(self) };
        // Spec: «The state used in the checks should be calculated as normal, except not updating with the rejected
        // event where it is a state event.»
        if verdict == Verdict::Rejected {
            return Ok(self);
        }
        let key = (pdu.event_type().to_string(), state_key.to_owned());
        self.snapshot = None;
        if store::graph::event_at(sql, (&key.0, &key.1), self.base)?.as_deref() == Some(pdu.event_id()) {
            self.changes.remove(&key);
        } else {
            self.changes.insert(key, Some(pdu.event_id().to_owned()));
        }
        Ok(self)
    }

    /// The same state, told by how it differs from a later one of the log.
    pub(super) fn rebased(self, sql: &dyn Sql, base: u64) -> Result<Self, Fault> {
        if base <= self.base {
            return Ok(self);
        }
        let changes = self.differences(sql, base)?;
        Ok(Self { base, changes, snapshot: None })
    }

    /// Where it differs from the log's state at a position, before its base or after.
    pub(super) fn differences(
        &self,
        sql: &dyn Sql,
        position: u64,
    ) -> Result<BTreeMap<Key, Option<OwnedEventId>>, Fault> {
        let (after, up_to) = (self.base.min(position), self.base.max(position));
        let mut keys: BTreeSet<Key> = store::graph::changed_keys(sql, after, up_to)?.into_iter().collect();
        keys.extend(self.changes.keys().cloned());
        let mut changes = BTreeMap::new();
        for key in keys {
            let event = self.get(sql, &key.0, &key.1)?;
            if store::graph::event_at(sql, (&key.0, &key.1), position)? != event {
                changes.insert(key, event);
            }
        }
        Ok(changes)
    }

    /// The position of the log whose state it is, but for the changes.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// How many changes are to be stored with it.
    pub(super) fn new_changes(&self) -> usize {
        if self.snapshot.is_some() { 0 } else { self.changes.len() }
    }

    /// Where it differs from the log's state at its base, and what it has there.
    pub(super) fn changes(&self) -> &BTreeMap<Key, Option<OwnedEventId>> {
        &self.changes
    }

    /// As [`StateAt::changes`].
    pub(super) fn into_changes(self) -> BTreeMap<Key, Option<OwnedEventId>> {
        self.changes
    }
}

impl Node {
    /// The state before this event, as far as it is known.
    pub(super) fn state_before(&self, sql: &dyn Sql) -> Result<Option<StateAt>, Fault> {
        match self.before {
            StateBefore::InTurn => Ok(Some(StateAt::of_log(self.number.saturating_sub(1)))),
            StateBefore::Elsewhere(before) => StateAt::read(sql, before).map(Some),
            StateBefore::Unknown => Ok(None),
        }
    }

    /// The state after this event; `None` where the one before it is not known.
    pub(super) fn state_after(&self, sql: &dyn Sql) -> Result<Option<StateAt>, Fault> {
        if self.before == StateBefore::InTurn {
            return Ok(Some(StateAt::of_log(self.number)));
        }
        let before = self.state_before(sql)?;
        before.map(|before| before.after(sql, &self.pdu, self.verdict)).transpose()
    }
}

impl Room {
    /// The events before this one, and, through those that nothing new comes after (refused and soft-failed ones), the
    /// ones before them: none of these is an extremity any longer. The state before this event has what they brought:
    /// so not through those of which it is another server's word what state was before them.
    pub(super) fn behind(&self, sql: &dyn Sql, pdu: &Pdu) -> Result<BTreeSet<OwnedEventId>, Fault> {
        let mut behind = BTreeSet::new();
        let mut ahead = pdu.prev_events().to_vec();
        while let Some(event_id) = ahead.pop() {
            if let Some(node) = store::graph::by_id(sql, &event_id)?
                && !node.is_in_log()
                && node.before != StateBefore::Unknown
                && !behind.contains(&event_id)
                && !store::graph::is_on_word(sql, &event_id)?
            {
                ahead.extend_from_slice(node.pdu.prev_events());
            }
            behind.insert(event_id);
        }
        Ok(behind)
    }

    /// The state after each of these events. The inner error names those that are not held, or at which the state is
    /// not known.
    pub(super) fn states_after(
        &self,
        sql: &dyn Sql,
        events: &[OwnedEventId],
    ) -> Result<Result<Vec<StateAt>, Missing>, Fault> {
        let (states, missing) = self.known_states_after(sql, events)?;
        Ok(if missing.is_empty() { Ok(states) } else { Err(missing) })
    }

    /// The states after those of these events at which they are known, and the other events.
    pub(super) fn known_states_after(
        &self,
        sql: &dyn Sql,
        events: &[OwnedEventId],
    ) -> Result<(Vec<StateAt>, Missing), Fault> {
        let (mut states, mut missing) = (Vec::new(), Missing::new());
        for event_id in events {
            match store::graph::by_id(sql, event_id)?.map(|node| node.state_after(sql)).transpose()?.flatten() {
                Some(state) => states.push(state),
                None => missing.push(event_id.clone()),
            }
        }
        Ok((states, missing))
    }

    /// The state where these events meet: before one that comes after them. The inner error is as that of
    /// [`Room::states_after`].
    pub(super) fn state_after_all(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        events: &[OwnedEventId],
    ) -> Result<Result<StateAt, Missing>, Error> {
        match self.states_after(sql, events)? {
            Ok(states) => Ok(Ok(self.meet(sql, cx, states)?)),
            Err(missing) => Ok(Err(missing)),
        }
    }

    /// Resolves states into one.
    pub(super) fn meet(&self, sql: &dyn Sql, cx: &Cx<'_>, states: Vec<StateAt>) -> Result<StateAt, Error> {
        let base = states.iter().map(|state| state.base).max().unwrap_or(0);
        let mut states = states.into_iter().map(|state| state.rebased(sql, base)).collect::<Result<Vec<_>, Fault>>()?;
        let Some(mut met) = states.pop() else { return Ok(StateAt::of_log(base)) };
        if states.iter().all(|other| other.changes == met.changes) {
            return Ok(met);
        }
        cx.room.state_moved.set(true);
        states.push(met.clone());
        let keys: BTreeSet<Key> = states.iter().flat_map(|state| state.changes.keys()).cloned().collect();
        let mut conflict = Conflict::new(sql, base, &self.generations);
        conflict.forks.resize(states.len(), StateMap::new());
        met.snapshot = None;
        met.changes.clear();
        for key in keys {
            let events =
                states.iter().map(|state| state.get(sql, &key.0, &key.1)).collect::<Result<Vec<_>, Fault>>()?;
            let agree = events.iter().all(|event| Some(event) == events.first());
            if agree && let Some(event) = events.into_iter().next() {
                conflict.agreed.insert(key, event);
                continue;
            }
            for (fork, state) in conflict.forks.iter_mut().zip(&states) {
                if let Some(event_id) = state.get(sql, &key.0, &key.1)? {
                    fork.insert((StateEventType::from(key.0.as_str()), key.1.clone()), event_id);
                }
            }
            conflict.keys.push(key);
        }
        let resolved = state::resolve(&*self.version(sql)?, &room_id(cx)?, &conflict);
        if let Some(fault) = conflict.fault.into_inner() {
            return Err(fault.into());
        }
        let mut resolved = resolved.map_err(|error| -> Error {
            match error {
                StateError::TooMuch => Refusal::Unknown(error.to_string()).into(),
                // Whatever is held has its auth chain.
                StateError::Missing(_) | StateError::Failed(_) => Fault::new(error.to_string()).into(),
            }
        })?;
        met.changes = conflict.agreed;
        for key in conflict.keys {
            let event = resolved.remove(&(StateEventType::from(key.0.as_str()), key.1.clone()));
            if store::graph::event_at(sql, (&key.0, &key.1), base)? != event {
                met.changes.insert(key, event);
            }
        }
        Ok(met)
    }
}

/// States of which each is the log's at one position, but for some keys.
struct Conflict<'a> {
    sql: &'a dyn Sql,
    base: u64,
    forks: Vec<StateMap<OwnedEventId>>,
    /// The keys on which they do not agree.
    keys: Vec<Key>,
    /// What they agree on, other than the log has it.
    agreed: BTreeMap<Key, Option<OwnedEventId>>,
    generations: &'a Generations,
    /// What the agreed part names, once that was asked; none where it is not kept.
    uses: RefCell<Option<Option<Uses>>>,
    /// The first thing that went wrong: whoever asks cannot be told.
    fault: RefCell<Option<Fault>>,
}

impl<'a> Conflict<'a> {
    fn new(sql: &'a dyn Sql, base: u64, generations: &'a Generations) -> Self {
        let (forks, keys, agreed, fault) = (Vec::new(), Vec::new(), BTreeMap::new(), RefCell::default());
        Self { sql, base, forks, keys, agreed, generations, uses: RefCell::default(), fault }
    }

    fn named_by_agreed(&self, events: &[Rc<Link>]) -> Result<BTreeSet<OwnedEventId>, Fault> {
        let except: Vec<Key> = self.keys.iter().chain(self.agreed.keys()).cloned().collect();
        let more: Vec<OwnedEventId> = self.agreed.values().flatten().cloned().collect();
        let mut uses = self.uses.borrow_mut();
        let uses = match uses.as_mut() {
            Some(uses) => uses,
            None => uses.insert(Uses::of(self.sql, self.generations, self.base, &except, &more)?),
        };
        let ids: Vec<&OwnedEventId> = events.iter().map(|link| &link.event_id).collect();
        let Some(uses) = uses else {
            return store::graph::in_auth_chain(self.sql, self.base, &except, &more, &ids);
        };
        let to = events.iter().map(|link| link.generation).min().unwrap_or(0);
        uses.goes_down(self.sql, self.generations, to)?;
        uses.named(self.sql, &ids)
    }

    fn noted<T: Default>(&self, outcome: Result<T, Fault>) -> T {
        outcome.unwrap_or_else(|fault| {
            self.fault.borrow_mut().get_or_insert(fault);
            T::default()
        })
    }
}

impl Meeting for Conflict<'_> {
    fn forks(&self) -> &[StateMap<OwnedEventId>] {
        &self.forks
    }

    fn agreed(&self, (event_type, state_key): &state::StateKey) -> Option<OwnedEventId> {
        let event_type = event_type.to_string();
        match self.agreed.get(&(event_type.clone(), state_key.clone())) {
            Some(event) => event.clone(),
            None => self.noted(store::graph::event_at(self.sql, (&event_type, state_key), self.base)),
        }
    }

    fn in_agreed_chain(&self, events: &[Rc<Link>]) -> BTreeSet<OwnedEventId> {
        self.noted(self.named_by_agreed(events))
    }

    fn links(&self, events: &[OwnedEventId]) -> Vec<Link> {
        self.noted(links(self.sql, self.generations, events))
    }

    fn event(&self, event_id: &EventId) -> Option<Pdu> {
        self.noted(store::graph::by_id(self.sql, event_id)).map(|node| node.pdu)
    }
}

/// Generations of events that were here before these were kept, as they are reckoned: to be stored some day.
#[derive(Default)]
pub(super) struct Generations(RefCell<BTreeMap<OwnedEventId, u64>>);

impl Generations {
    fn get(&self, event_id: &OwnedEventId) -> Option<u64> {
        self.0.borrow().get(event_id).copied()
    }

    /// Some of them, which are remembered no longer.
    pub(super) fn take_some(&self, count: usize) -> Vec<(OwnedEventId, u64)> {
        let mut known = self.0.borrow_mut();
        std::iter::from_fn(|| known.pop_first()).take(count).collect()
    }

    /// Reckons those of events of which it is not known, and of what these name.
    fn reckon(&self, sql: &dyn Sql, unknown: Vec<Stored>) -> Result<(), Fault> {
        let mut named: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
        let mut stored: BTreeMap<OwnedEventId, u64> = BTreeMap::new();
        let mut ahead = unknown;
        while !ahead.is_empty() {
            let mut next: BTreeSet<OwnedEventId> = BTreeSet::new();
            for link in ahead.drain(..) {
                next.extend(link.auth_events.iter().cloned());
                named.insert(link.event_id, link.auth_events);
            }
            next.retain(|id| !named.contains_key(id) && !stored.contains_key(id) && self.get(id).is_none());
            for link in store::graph::links(sql, &next.iter().collect::<Vec<_>>())? {
                match link.generation {
                    Some(generation) => drop(stored.insert(link.event_id, generation)),
                    None => ahead.push(link),
                }
            }
        }
        let mut naming: BTreeMap<&OwnedEventId, Vec<&OwnedEventId>> = BTreeMap::new();
        let mut waiting: BTreeMap<&OwnedEventId, usize> = BTreeMap::new();
        for (event_id, auth_events) in &named {
            let before: BTreeSet<&OwnedEventId> = auth_events.iter().filter(|id| named.contains_key(*id)).collect();
            waiting.insert(event_id, before.len());
            for earlier in before {
                naming.entry(earlier).or_default().push(event_id);
            }
        }
        let mut ready: Vec<&OwnedEventId> =
            waiting.iter().filter(|(_, count)| **count == 0).map(|(event_id, _)| *event_id).collect();
        while let Some(event_id) = ready.pop() {
            let of = |id: &OwnedEventId| stored.get(id).copied().or_else(|| self.get(id));
            let last = named.get(event_id).into_iter().flatten().filter_map(of).max().unwrap_or(0);
            self.0.borrow_mut().insert(event_id.clone(), last.saturating_add(1));
            for later in naming.remove(event_id).unwrap_or_default() {
                if let Some(count) = waiting.get_mut(later) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        ready.push(later);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What these events name, of those that are held.
pub(super) fn links(sql: &dyn Sql, generations: &Generations, events: &[OwnedEventId]) -> Result<Vec<Link>, Fault> {
    let mut found = store::graph::links(sql, &events.iter().collect::<Vec<_>>())?;
    let is_known = |link: &Stored| link.generation.is_some() || generations.get(&link.event_id).is_some();
    let unknown: Vec<Stored> = found.iter().filter(|link| !is_known(link)).cloned().collect();
    if !unknown.is_empty() {
        generations.reckon(sql, unknown)?;
    }
    let link = |Stored { event_id, generation, auth_events }: Stored| {
        let generation = generation.or_else(|| generations.get(&event_id));
        let generation = generation.ok_or_else(|| Fault::new("events name each other as authorisation"))?;
        Ok(Link { event_id, generation, auth_events })
    };
    found.drain(..).map(link).collect()
}

/// The current state, for tests that compare it whole.
#[cfg(test)]
pub(crate) fn current_state(sql: &dyn Sql) -> Vec<(Key, OwnedEventId)> {
    store::graph::state_at(sql, platform::INTEGER_MAX as u64).unwrap()
}

/// The forward extremities, for the same.
#[cfg(test)]
pub(crate) fn current_extremities(sql: &dyn Sql) -> Vec<OwnedEventId> {
    store::graph::extremities(sql).unwrap().ids
}
