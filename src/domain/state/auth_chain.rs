//! Walks along `auth_events`, by what each event names alone, from the later to the earlier: no further than it takes.
//!
//! The *generation* of an event is larger than that of each event it names. Whoever goes down by generations knows of
//! an event who all reach it before going on from it, and may stop where everybody goes the same way.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use ruma_common::{EventId, OwnedEventId};
use ruma_state_res::utils::event_id_set::EventIdSet;

use super::{BYTES_MAX, LINKS_MAX, Link, Meeting, StateError};
use crate::Pdu;

/// The events met so far.
pub(super) struct AuthChains<'a> {
    meeting: &'a dyn Meeting,
    links: BTreeMap<OwnedEventId, Rc<Link>>,
    /// A cell, since ruma asks through a shared borrow and may ask for more than the chains: the create event of v12.
    loaded: RefCell<BTreeMap<OwnedEventId, Option<Pdu>>>,
    bytes: Cell<usize>,
}

impl<'a> AuthChains<'a> {
    pub(super) fn new(meeting: &'a dyn Meeting) -> Self {
        Self { meeting, links: BTreeMap::new(), loaded: RefCell::default(), bytes: Cell::new(0) }
    }

    /// The event, if it is held and there is room for it.
    pub(super) fn get(&self, event_id: &EventId) -> Option<Pdu> {
        if let Some(known) = self.loaded.borrow().get(event_id) {
            return known.clone();
        }
        if self.is_too_much() {
            return None;
        }
        let event = self.meeting.event(event_id);
        self.bytes.set(event.as_ref().map_or(0, |event| event.json().len()).saturating_add(self.bytes.get()));
        self.loaded.borrow_mut().insert(event_id.to_owned(), event.clone());
        event
    }

    /// Whether more was asked for than is loaded: what was answered since is not to be believed.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes.get() > BYTES_MAX
    }

    /// Loads what these events name. Those that are not held are left out.
    fn load<'e>(&mut self, event_ids: impl IntoIterator<Item = &'e OwnedEventId>) -> Result<(), StateError> {
        let unknown: BTreeSet<&OwnedEventId> =
            event_ids.into_iter().filter(|event_id| !self.links.contains_key(*event_id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        if self.links.len().saturating_add(unknown.len()) > LINKS_MAX {
            return Err(StateError::TooMuch);
        }
        let unknown: Vec<OwnedEventId> = unknown.into_iter().cloned().collect();
        for link in self.meeting.links(&unknown) {
            self.links.insert(link.event_id.clone(), Rc::new(link));
        }
        Ok(())
    }

    fn link(&self, event_id: &OwnedEventId) -> Result<Rc<Link>, StateError> {
        self.links.get(event_id).cloned().ok_or_else(|| StateError::Missing(event_id.clone()))
    }

    /// For each state, the events that are in its full auth chain and not in that of another one. The auth chain of
    /// what they agree on is in each.
    ///
    /// # Errors
    /// [`StateError::Missing`] for an event that is not held; [`StateError::TooMuch`].
    pub(super) fn differing(&mut self) -> Result<Vec<EventIdSet<OwnedEventId>>, StateError> {
        let forks = self.meeting.forks();
        let mut chains = vec![EventIdSet::new(); forks.len()];
        let bit = |fork: usize| u32::try_from(fork).ok().and_then(|fork| 1_u128.checked_shl(fork));
        let many = || StateError::Failed("more states than can meet".to_owned());
        let all = bit(forks.len()).and_then(|past| past.checked_sub(1)).ok_or_else(many)?;
        self.load(forks.iter().flat_map(|fork| fork.values()))?;
        // Which forks reach an event, one bit each.
        let mut reached: BTreeMap<OwnedEventId, u128> = BTreeMap::new();
        for (fork, state) in forks.iter().enumerate() {
            for event_id in state.values() {
                for auth_event in &self.link(event_id)?.auth_events {
                    *reached.entry(auth_event.clone()).or_default() |= bit(fork).unwrap_or_default();
                }
            }
        }
        let mut ahead: BTreeMap<u64, BTreeMap<OwnedEventId, u128>> = BTreeMap::new();
        self.goes_to(reached, &mut ahead)?;
        while ahead.values().flat_map(BTreeMap::values).any(|by| *by != all) {
            let Some((_, mut events)) = ahead.pop_last() else { break };
            let unsure: Vec<OwnedEventId> =
                events.iter().filter(|(_, by)| **by != all).map(|(event_id, _)| event_id.clone()).collect();
            if !unsure.is_empty() {
                let links: Vec<Rc<Link>> = unsure.iter().map(|id| self.link(id)).collect::<Result<_, StateError>>()?;
                // And so is whatever they name.
                let agreed = self.meeting.in_agreed_chain(&links);
                events.retain(|event_id, _| !agreed.contains(event_id));
            }
            let mut reached: BTreeMap<OwnedEventId, u128> = BTreeMap::new();
            for (event_id, by) in events {
                for auth_event in &self.link(&event_id)?.auth_events {
                    *reached.entry(auth_event.clone()).or_default() |= by;
                }
                for (fork, chain) in chains.iter_mut().enumerate().filter(|_| by != all) {
                    if bit(fork).is_some_and(|bit| by & bit != 0) {
                        chain.insert(event_id.clone());
                    }
                }
            }
            self.goes_to(reached, &mut ahead)?;
        }
        Ok(chains)
    }

    fn goes_to(
        &mut self,
        reached: BTreeMap<OwnedEventId, u128>,
        ahead: &mut BTreeMap<u64, BTreeMap<OwnedEventId, u128>>,
    ) -> Result<(), StateError> {
        self.load(reached.keys())?;
        for (event_id, by) in reached {
            let generation = self.link(&event_id)?.generation;
            *ahead.entry(generation).or_default().entry(event_id).or_default() |= by;
        }
        Ok(())
    }

    /// Since v12: the union of all paths along `auth_events` from one conflicted event to another, ends included.
    ///
    /// An event is on such a path if it is reached from a conflicted event and reaches one: walk down from all of
    /// them noting the way back, no deeper than the earliest of them, then walk back up from all of them.
    ///
    /// # Errors
    /// [`StateError::TooMuch`].
    pub(super) fn subgraph_between(
        &mut self,
        conflicted: &EventIdSet<OwnedEventId>,
    ) -> Result<EventIdSet<OwnedEventId>, StateError> {
        self.load(conflicted.iter())?;
        let generations = conflicted.iter().filter_map(|event_id| self.links.get(event_id));
        let earliest = generations.map(|link| link.generation).min().unwrap_or(0);
        let mut parents: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
        let mut seen: BTreeSet<OwnedEventId> = conflicted.iter().cloned().collect();
        let mut to_visit: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
        while !to_visit.is_empty() {
            let links: Vec<Rc<Link>> = to_visit.drain(..).filter_map(|id| self.links.get(&id).cloned()).collect();
            self.load(links.iter().flat_map(|link| &link.auth_events))?;
            for link in links {
                for auth_event in &link.auth_events {
                    if self.links.get(auth_event).is_none_or(|link| link.generation < earliest) {
                        continue;
                    }
                    parents.entry(auth_event.clone()).or_default().push(link.event_id.clone());
                    if seen.insert(auth_event.clone()) {
                        to_visit.push(auth_event.clone());
                    }
                }
            }
        }
        let mut subgraph = EventIdSet::new();
        let mut to_visit: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
        while let Some(event_id) = to_visit.pop() {
            to_visit.extend(parents.get(&event_id).into_iter().flatten().filter(|id| !subgraph.contains(id)).cloned());
            subgraph.insert(event_id);
        }
        Ok(subgraph)
    }
}
