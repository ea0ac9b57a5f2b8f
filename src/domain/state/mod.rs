//! The state of a room where its history forks.
//!
//! Owns the resolution of conflicting states: the walk along auth chains, the auth difference, the conflicted subgraph
//! of version 12, and the call of ruma-state-res. Leaves to the room how states are stored and which ones meet.
//!
//! A room may have a hundred thousand state events, and two forks of it differ in a handful: what is asked for here is
//! the part on which the states do not agree, never the whole of them.
//! Spec: Room Versions, "State resolution".

mod auth_chain;
mod version_1;

use std::{collections::BTreeSet, rc::Rc};

use ruma_common::{EventId, OwnedEventId, RoomId};
use ruma_events::{StateEventType, TimelineEventType};
pub use ruma_state_res::StateMap;
use ruma_state_res::utils::event_id_set::EventIdSet;

use self::auth_chain::AuthChains;
use crate::{Pdu, RoomVersion, auth};

/// A key of a state: the type and the state key of the event that makes it.
pub type StateKey = (StateEventType, String);

/// Why a state could not be resolved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StateError {
    /// An event of a state, or of its auth chain, is not held: fetch it, then ask again.
    #[error("event {0} is needed and not held")]
    Missing(OwnedEventId),
    /// ruma could not go on: an event is not what its place in the state says.
    #[error("state resolution failed: {0}")]
    Failed(String),
    /// The states, or their auth chains, differ in more than is resolved: [`LINKS_MAX`], [`BYTES_MAX`]. It does not
    /// depend on who asks, nor when.
    #[error("the states that meet differ in more than is resolved")]
    TooMuch,
}

/// The most events of which it is looked at what they name, and the most that states may have for keys on which they do
/// not agree. A room of which nothing was heard for long comes back with some ten thousand.
pub const LINKS_MAX: usize = 100_000;
/// The most bytes of events that are loaded: those in question, and what they are judged by.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What an event names as its authorisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub event_id: OwnedEventId,
    /// Larger than that of each event it names.
    pub generation: u64,
    pub auth_events: Vec<OwnedEventId>,
}

/// Where states meet that are not the same.
pub trait Meeting {
    /// What each state has for the keys on which they do not all agree; a state without an event for one leaves it out.
    fn forks(&self) -> &[StateMap<OwnedEventId>];
    /// The event that all the states have for a key on which they agree. For another key the answer means nothing.
    fn agreed(&self, key: &StateKey) -> Option<OwnedEventId>;
    /// Which of these events are in the auth chain of what the states agree on. Asked for again and again, and never
    /// for a larger generation than before.
    fn in_agreed_chain(&self, events: &[Rc<Link>]) -> BTreeSet<OwnedEventId>;
    /// What these events name; of those that are held.
    fn links(&self, events: &[OwnedEventId]) -> Vec<Link>;
    /// Any event of the states, or of their auth chains.
    fn event(&self, event_id: &EventId) -> Option<Pdu>;
}

/// Resolves the states that meet into one, and answers that for the keys on which they did not agree.
///
/// # Errors
/// [`StateError`]; nothing is resolved in part.
pub fn resolve(
    version: &RoomVersion,
    room_id: &RoomId,
    meeting: &dyn Meeting,
) -> Result<StateMap<OwnedEventId>, StateError> {
    let conflicted: BTreeSet<StateKey> = meeting.forks().iter().flat_map(StateMap::keys).cloned().collect();
    if conflicted.is_empty() {
        return Ok(StateMap::new());
    }
    if meeting.forks().iter().map(StateMap::len).fold(0, usize::saturating_add) > LINKS_MAX {
        return Err(StateError::TooMuch);
    }
    let rules = version.rules();
    let Some(v2_rules) = rules.state_res.v2_rules() else {
        return version_1::resolve(version, meeting);
    };
    let mut chains = AuthChains::new(meeting);
    let auth_chains = chains.differing()?;

    // What decides over the events in question, whichever of the keys the states agree on.
    let in_conflict: EventIdSet<OwnedEventId> = meeting.forks().iter().flat_map(StateMap::values).cloned().collect();
    let subgraph =
        if v2_rules.consider_conflicted_state_subgraph { chains.subgraph_between(&in_conflict)? } else { in_conflict };
    let mut questioned = subgraph.clone();
    questioned.extend(auth_chains.iter().flatten().cloned());
    let agreed = agreed_on(version, room_id, meeting, &chains, &questioned, &conflicted);

    let mut forks = meeting.forks().to_vec();
    for fork in &mut forks {
        fork.extend(agreed.clone());
    }
    let resolved = ruma_state_res::resolve(
        &rules.authorization,
        v2_rules,
        &forks,
        auth_chains,
        |event_id| chains.get(event_id),
        |_: &StateMap<Vec<OwnedEventId>>| Some(subgraph.clone()),
    );
    if chains.is_too_much() {
        return Err(StateError::TooMuch);
    }
    let mut resolved = resolved.map_err(|error| match error {
        ruma_state_res::Error::NotFound(event_id) => StateError::Missing(event_id),
        error => StateError::Failed(error.to_string()),
    })?;
    resolved.retain(|key, _| conflicted.contains(key));
    Ok(resolved)
}

/// What the states agree on, as far as the rules of authorisation ask for it when they judge these events.
fn agreed_on(
    version: &RoomVersion,
    room_id: &RoomId,
    meeting: &dyn Meeting,
    chains: &AuthChains<'_>,
    events: &EventIdSet<OwnedEventId>,
    conflicted: &BTreeSet<StateKey>,
) -> StateMap<OwnedEventId> {
    let mut wanted = BTreeSet::from([(StateEventType::RoomPowerLevels, String::new())]);
    if version.room_id_is_create_event() {
        // The create event is in no auth chain: it is what the room is.
        let hash = room_id.as_str().trim_start_matches('!');
        if let Ok(create) = OwnedEventId::try_from(format!("${hash}")) {
            chains.get(&create);
        }
    }
    wanted.insert((StateEventType::RoomCreate, String::new()));
    for event in events.iter().filter_map(|event_id| chains.get(event_id)) {
        let needed = auth::needed(event.event_type(), event.sender(), event.state_key(), event.content(), version);
        // Content that its type does not allow needs nothing: the event is refused.
        wanted.extend(needed.unwrap_or_default());
    }
    wanted.retain(|key| !conflicted.contains(key));
    wanted.into_iter().filter_map(|key| meeting.agreed(&key).map(|event_id| (key, event_id))).collect()
}

/// The key of the state that this event makes; `None` for one that is no state event.
pub fn key_of(pdu: &Pdu) -> Option<StateKey> {
    let event_type: &TimelineEventType = pdu.event_type();
    Some((StateEventType::from(event_type.to_string()), pdu.state_key()?.to_owned()))
}

#[cfg(test)]
mod tests;
