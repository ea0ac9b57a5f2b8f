//! The state resolution of room version 1, which ruma does not have. It is known to reset state, and only the rooms of
//! that version use it. Spec: Room Version 1, "State resolution".

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use ruma_common::OwnedEventId;
use ruma_events::StateEventType;
use sha1::{Digest, Sha1};

use super::{Meeting, StateError, StateKey, StateMap};
use crate::{Pdu, RoomVersion, auth};

/// As [`super::resolve`].
pub(super) fn resolve(version: &RoomVersion, meeting: &dyn Meeting) -> Result<StateMap<OwnedEventId>, StateError> {
    let mut candidates: BTreeMap<StateKey, BTreeSet<OwnedEventId>> = BTreeMap::new();
    for (key, event_id) in meeting.forks().iter().flatten() {
        candidates.entry(key.clone()).or_default().insert(event_id.clone());
    }
    let conflicted = candidates.keys().cloned().collect();
    let mut resolution = Resolution { version, meeting, conflicted, resolved: BTreeMap::new() };
    let mut conflicts: Vec<(StateKey, Vec<Pdu>)> = Vec::new();
    for (key, event_ids) in candidates {
        let held = |event_id: OwnedEventId| meeting.event(&event_id).ok_or(StateError::Missing(event_id));
        let mut events = event_ids.into_iter().map(held).collect::<Result<Vec<_>, StateError>>()?;
        // A state that has no event for a key does not conflict with one that does.
        if let [event] = events.as_slice() {
            resolution.resolved.insert(key, event.clone());
            continue;
        }
        events.sort_by_key(|event| (event.depth(), Reverse(sha1(event))));
        conflicts.push((key, events));
    }
    let is_decided_in = |(event_type, state_key): &StateKey| match event_type {
        StateEventType::RoomPowerLevels if state_key.is_empty() => Pass::PowerLevels,
        StateEventType::RoomJoinRules => Pass::JoinRules,
        StateEventType::RoomMember => Pass::Members,
        _ => Pass::Others,
    };
    for pass in [Pass::PowerLevels, Pass::JoinRules, Pass::Members, Pass::Others] {
        let of_pass = conflicts.iter().filter(|(key, _)| is_decided_in(key) == pass);
        let picked = of_pass.filter_map(|(key, events)| {
            let event =
                if pass == Pass::Others { resolution.highest(events) } else { resolution.last_in_turn(key, events) };
            Some((key.clone(), event?.clone()))
        });
        let picked: Vec<_> = picked.collect();
        // Servers agree with each other here: what one pass picks decides in those after it, and not in itself.
        resolution.resolved.extend(picked);
    }
    Ok(resolution.resolved.into_iter().map(|(key, event)| (key, event.event_id().to_owned())).collect())
}

/// What is decided together, in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    PowerLevels,
    JoinRules,
    Members,
    Others,
}

/// What is resolved so far.
struct Resolution<'a> {
    version: &'a RoomVersion,
    meeting: &'a dyn Meeting,
    /// The keys on which the states do not agree: what is not resolved of them is not there.
    conflicted: BTreeSet<StateKey>,
    resolved: BTreeMap<StateKey, Pdu>,
}

impl Resolution<'_> {
    /// «Add the first event in the list to R. For each subsequent event in the list, check that the event would be
    /// allowed … If it would not be allowed, stop».
    fn last_in_turn<'e>(&self, key: &StateKey, events: &'e [Pdu]) -> Option<&'e Pdu> {
        let (first, rest) = events.split_first()?;
        let mut last = first;
        for event in rest {
            if !self.is_allowed(event, Some((key, last))) {
                break;
            }
            last = event;
        }
        Some(last)
    }

    /// «Pick the event with the highest depth and lowest sha1(event_id) that passes authentication in R». Where none
    /// does, the first one stays, as every server has it.
    fn highest<'e>(&self, events: &'e [Pdu]) -> Option<&'e Pdu> {
        events.iter().rev().find(|event| self.is_allowed(event, None)).or(events.first())
    }

    /// Whether an event is allowed in what is resolved so far, and in what is picked of one more key.
    fn is_allowed(&self, event: &Pdu, picked: Option<(&StateKey, &Pdu)>) -> bool {
        auth::check_against_state(event, self.version, &|event_type, state_key| {
            let key = (event_type.clone(), state_key.to_owned());
            let picked = picked.filter(|(picked, _)| **picked == key).map(|(_, event)| event);
            if let Some(event) = picked.or_else(|| self.resolved.get(&key)) {
                return Some(event.clone());
            }
            if self.conflicted.contains(&key) {
                return None;
            }
            self.meeting.agreed(&key).and_then(|event_id| self.meeting.event(&event_id))
        })
        .is_ok()
    }
}

fn sha1(event: &Pdu) -> Vec<u8> {
    Sha1::digest(event.event_id().as_str().as_bytes()).to_vec()
}
