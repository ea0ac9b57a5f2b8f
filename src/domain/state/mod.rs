//! The state of a room where its history forks.
//!
//! Owns the resolution of conflicting states: the walk along auth chains, the conflicted subgraph of version 12, and
//! the call of ruma-state-res. Leaves to the room how states are stored and which ones meet.
//!
//! Resolution version 1, of room version 1, is not in ruma and not here: [`StateError::Unsupported`]. A room of
//! version 1 that never forks into two different states needs none, and works.
//! Spec: Room Versions, "State resolution".

mod auth_chain;

use ruma_common::{EventId, OwnedEventId};
pub use ruma_state_res::StateMap;
use ruma_state_res::utils::event_id_set::EventIdSet;

use self::auth_chain::AuthChains;
use crate::{Pdu, RoomVersion};

/// Why a state could not be resolved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StateError {
    /// The room version's algorithm is not implemented.
    #[error("state resolution of room version {0} is not supported")]
    Unsupported(String),
    /// An event of a state, or of its auth chain, is not held: fetch it, then ask again.
    #[error("event {0} is needed and not held")]
    Missing(OwnedEventId),
    /// ruma could not go on: an event is not what its place in the state says.
    #[error("state resolution failed: {0}")]
    Failed(String),
}

/// Resolves the states after each of an event's `prev_events` into the one state before it.
///
/// `event` answers any event of the forks and of their auth chains, and in version 12 the create event; it is called
/// once for each. The whole auth chains are walked: forks that agree are answered without.
///
/// # Errors
/// [`StateError`]; nothing is resolved in part.
pub fn resolve(
    version: &RoomVersion,
    forks: &[StateMap<OwnedEventId>],
    event: &dyn Fn(&EventId) -> Option<Pdu>,
) -> Result<StateMap<OwnedEventId>, StateError> {
    let Some((first, others)) = forks.split_first() else {
        return Ok(StateMap::new());
    };
    if others.iter().all(|other| other == first) {
        return Ok(first.clone());
    }
    let rules = version.rules();
    let v2_rules = rules.state_res.v2_rules().ok_or_else(|| StateError::Unsupported(version.as_str().to_owned()))?;

    let mut chains = AuthChains::new(event);
    let auth_chains =
        forks.iter().map(|fork| chains.union_of(fork.values())).collect::<Result<Vec<_>, StateError>>()?;
    let resolved = ruma_state_res::resolve(
        &rules.authorization,
        v2_rules,
        forks,
        auth_chains,
        |event_id| chains.get(event_id),
        |conflicted: &StateMap<Vec<OwnedEventId>>| {
            let conflicted: EventIdSet<OwnedEventId> = conflicted.values().flatten().cloned().collect();
            Some(chains.subgraph_between(&conflicted))
        },
    );
    resolved.map_err(|error| match error {
        ruma_state_res::Error::NotFound(event_id) => StateError::Missing(event_id),
        error => StateError::Failed(error.to_string()),
    })
}

#[cfg(test)]
mod tests;
