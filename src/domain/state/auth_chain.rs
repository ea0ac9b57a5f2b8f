//! Walks along `auth_events`, loading each event once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use ruma_common::{EventId, OwnedEventId};
use ruma_state_res::utils::event_id_set::EventIdSet;

use super::StateError;
use crate::Pdu;

/// The events met so far.
pub(super) struct AuthChains<'a> {
    load: &'a dyn Fn(&EventId) -> Option<Pdu>,
    /// A cell, since ruma asks through a shared borrow and may ask for more than the chains: the create event of v12.
    loaded: RefCell<BTreeMap<OwnedEventId, Option<Pdu>>>,
}

impl<'a> AuthChains<'a> {
    pub(super) fn new(load: &'a dyn Fn(&EventId) -> Option<Pdu>) -> Self {
        Self { load, loaded: RefCell::default() }
    }

    /// The event, if it is held.
    pub(super) fn get(&self, event_id: &EventId) -> Option<Pdu> {
        if let Some(known) = self.loaded.borrow().get(event_id) {
            return known.clone();
        }
        let event = (self.load)(event_id);
        self.loaded.borrow_mut().insert(event_id.to_owned(), event.clone());
        event
    }

    /// The events' `auth_events`, theirs, and so on: the full auth chain of a state.
    ///
    /// # Errors
    /// [`StateError::Missing`] for the first event that is not held.
    pub(super) fn union_of<'e>(
        &mut self,
        events: impl Iterator<Item = &'e OwnedEventId>,
    ) -> Result<EventIdSet<OwnedEventId>, StateError> {
        let mut chain = EventIdSet::new();
        let mut to_visit: Vec<OwnedEventId> = events.cloned().collect();
        while let Some(event_id) = to_visit.pop() {
            let event = self.get(&event_id).ok_or(StateError::Missing(event_id))?;
            for auth_event in event.auth_events() {
                if chain.insert(auth_event.clone()) {
                    to_visit.push(auth_event.clone());
                }
            }
        }
        Ok(chain)
    }

    /// Since v12: the union of all paths along `auth_events` from one conflicted event to another, ends included.
    ///
    /// An event is on such a path if it is reached from a conflicted event and reaches one: walk down from all of
    /// them noting the way back, then walk back up from all of them.
    pub(super) fn subgraph_between(&self, conflicted: &EventIdSet<OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let mut parents: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
        let mut seen: BTreeSet<OwnedEventId> = conflicted.iter().cloned().collect();
        let mut to_visit: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
        while let Some(event_id) = to_visit.pop() {
            let Some(event) = self.get(&event_id) else { continue };
            for auth_event in event.auth_events() {
                parents.entry(auth_event.clone()).or_default().push(event_id.clone());
                if seen.insert(auth_event.clone()) {
                    to_visit.push(auth_event.clone());
                }
            }
        }
        let mut subgraph = EventIdSet::new();
        let mut to_visit: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
        while let Some(event_id) = to_visit.pop() {
            to_visit.extend(parents.get(&event_id).into_iter().flatten().filter(|id| !subgraph.contains(id)).cloned());
            subgraph.insert(event_id);
        }
        subgraph
    }
}
