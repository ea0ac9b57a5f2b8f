//! What a suspended user may not do, endpoint by endpoint: it answers `M_USER_SUSPENDED`. Spec: "Account suspension".
//!
//! They read, leave, log in and out, look after their devices and keys, redact what they said, and close their account.

use http::Method;

use crate::guest_access::after_version;

/// What they may not do, by method and path after the version.
const FORBIDDEN: &[(Method, &str)] = &[
    (Method::POST, "createRoom"),
    (Method::POST, "rooms/{}/upgrade"),
    (Method::POST, "rooms/{}/join"),
    (Method::POST, "join/{}"),
    (Method::POST, "knock/{}"),
    (Method::POST, "rooms/{}/invite"),
    (Method::POST, "rooms/{}/kick"),
    (Method::POST, "rooms/{}/ban"),
    (Method::POST, "rooms/{}/unban"),
    (Method::PUT, "rooms/{}/send/{}/{}"),
    (Method::PUT, "rooms/{}/state/{}/{}"),
    (Method::PUT, "profile/{}/{}"),
    (Method::DELETE, "profile/{}/{}"),
    // «Change or add admin contacts, but not remove»
    (Method::POST, "account/3pid/delete"),
];

/// Whether whoever is suspended is kept from an endpoint, by whichever of its paths: those from before it was stable
/// have the name of its proposal before them.
pub(crate) fn forbids(method: &Method, pattern: &str) -> bool {
    let path = after_version(pattern);
    let is_unstable = pattern.starts_with("/_matrix/client/unstable/");
    let is = |forbidden: &str| match path.strip_suffix(forbidden) {
        Some("") => true,
        Some(proposal) => is_unstable && proposal.ends_with('/'),
        None => false,
    };
    FORBIDDEN.iter().any(|(forbidden, path_of_forbidden)| forbidden == method && is(path_of_forbidden))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use ruma_client_api::{
        knock::knock_room,
        membership::{
            ban_user, invite_user, join_room_by_id, join_room_by_id_or_alias, kick_user, leave_room, unban_user,
        },
        message::send_message_event,
        profile::delete_profile_field,
        redact::redact_event,
        room::{create_room, upgrade_room},
        state::send_state_event,
    };
    use ruma_common::api::{Metadata, path_builder::PathBuilder};

    use super::forbids;

    fn is_forbidden<R: Metadata>() -> bool {
        let paths = R::PATH_BUILDER;
        paths.all_paths().all(|pattern| forbids(&R::METHOD, pattern))
    }

    #[test]
    fn the_list_knows_paths_as_they_are_routed() {
        assert!(is_forbidden::<create_room::v3::Request>());
        assert!(is_forbidden::<upgrade_room::v3::Request>());
        assert!(is_forbidden::<join_room_by_id::v3::Request>());
        assert!(is_forbidden::<join_room_by_id_or_alias::v3::Request>());
        assert!(is_forbidden::<knock_room::v3::Request>());
        assert!(is_forbidden::<invite_user::v3::Request>());
        assert!(is_forbidden::<kick_user::v3::Request>());
        assert!(is_forbidden::<ban_user::v3::Request>());
        assert!(is_forbidden::<unban_user::v3::Request>());
        assert!(is_forbidden::<send_message_event::v3::Request>());
        assert!(is_forbidden::<send_state_event::v3::Request>());
        assert!(is_forbidden::<delete_profile_field::v3::Request>());
        assert!(forbids(&Method::DELETE, "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}"));
        assert!(!forbids(&Method::DELETE, "/_matrix/client/unstable/uk.tcpip.msc4133/myprofile/{user_id}/{field}"));
        assert!(!is_forbidden::<redact_event::v3::Request>());
        assert!(!is_forbidden::<leave_room::v3::Request>());
    }
}
