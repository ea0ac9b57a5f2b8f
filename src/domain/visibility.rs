//! Who may see an event, by the room's history visibility.
//!
//! Decides on facts the room loaded: the setting and the user's membership at the event, and whether they joined
//! later. Spec: Client-Server API, "Room history visibility", "Server behaviour".

use ruma_events::room::{history_visibility::HistoryVisibility, member::MembershipState};
use serde::Deserialize;

use crate::Pdu;

/// Whether a user may see an event.
///
/// `visibility_at_event` and `membership_at_event` are the room's setting and this user's membership in the state at
/// the event (`leave` for one never in the room); `joined_since`: whether they joined at or after it, at any time.
pub fn may_see(
    visibility_at_event: HistoryVisibility,
    membership_at_event: MembershipState,
    joined_since: bool,
) -> bool {
    // 1. If the history_visibility was set to world_readable, allow.
    // 2. If the user's membership was join, allow.
    // 3. If history_visibility was set to shared, and the user joined at any point after the event was sent, allow.
    // 4. If the user's membership was invite, and the history_visibility was set to invited, allow.
    // 5. Otherwise, deny.
    match (visibility_at_event, membership_at_event) {
        (HistoryVisibility::WorldReadable, _) | (_, MembershipState::Join) => true,
        (HistoryVisibility::Invited, membership) => membership == MembershipState::Invite,
        (HistoryVisibility::Joined, _) => false,
        // «If the value is not understood, the visibility is assumed to be shared.»
        (HistoryVisibility::Shared | _, _) => joined_since,
    }
}

/// [`may_see`] for an event that itself changes what is asked: an `m.room.history_visibility`, or the user's own
/// `m.room.member`. The state before *or* after it must allow.
pub fn may_see_change(
    before: (HistoryVisibility, MembershipState),
    after: (HistoryVisibility, MembershipState),
    joined_since: bool,
) -> bool {
    may_see(before.0, before.1, joined_since) || may_see(after.0, after.1, joined_since)
}

/// The setting an `m.room.history_visibility` event makes; `shared` without one, or when it says nothing understood.
pub fn setting(event: Option<&Pdu>) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    match event.and_then(|event| event.content_as::<Content>().ok()) {
        Some(Content { history_visibility }) => history_visibility,
        None => HistoryVisibility::Shared,
    }
}

#[cfg(test)]
mod tests {
    use ruma_events::room::{
        history_visibility::HistoryVisibility::{self, Invited, Joined, Shared, WorldReadable},
        member::MembershipState::{self, Ban, Invite, Join, Knock, Leave},
    };

    use super::{may_see, may_see_change};

    #[test]
    fn the_rules_of_the_spec_as_a_table() {
        // y: sees, n: does not, j: sees if they joined since
        let table: [(HistoryVisibility, [(MembershipState, char); 5]); 5] = [
            (WorldReadable, [(Join, 'y'), (Invite, 'y'), (Knock, 'y'), (Leave, 'y'), (Ban, 'y')]),
            (Shared, [(Join, 'y'), (Invite, 'j'), (Knock, 'j'), (Leave, 'j'), (Ban, 'j')]),
            (Invited, [(Join, 'y'), (Invite, 'y'), (Knock, 'n'), (Leave, 'n'), (Ban, 'n')]),
            (Joined, [(Join, 'y'), (Invite, 'n'), (Knock, 'n'), (Leave, 'n'), (Ban, 'n')]),
            ("org.unheard".into(), [(Join, 'y'), (Invite, 'j'), (Knock, 'j'), (Leave, 'j'), (Ban, 'j')]),
        ];
        for (visibility, row) in table {
            for (membership, sees) in row {
                let seen = |joined_since| may_see(visibility.clone(), membership.clone(), joined_since);
                let expected = (sees == 'y', sees != 'n');
                assert_eq!((seen(false), seen(true)), expected, "{visibility} {membership}");
            }
        }
    }

    #[test]
    fn a_change_is_seen_from_either_side() {
        let stranger = |before, after| may_see_change((before, Leave), (after, Leave), false);
        assert!(stranger(WorldReadable, Joined));
        assert!(stranger(Joined, WorldReadable));
        assert!(!stranger(Joined, Shared));
        let own = |before, after| may_see_change((Joined, before), (Joined, after), false);
        assert!(own(Leave, Join));
        assert!(own(Join, Ban));
        assert!(!own(Invite, Leave));
    }
}
