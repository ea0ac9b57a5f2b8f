//! What guests may do, endpoint by endpoint: everything else answers `M_GUEST_ACCESS_FORBIDDEN`. Spec: "Guest Access".

use http::Method;

/// What a guest may do at one endpoint: answers whether they may, given the variables of the path.
pub(crate) type GuestAccess = fn(&[String]) -> bool;

/// What guests may do, by method and path after the version.
const ALLOWED: &[(Method, &str, GuestAccess)] = &[
    (Method::GET, "rooms/{}/state", always),
    (Method::GET, "rooms/{}/state/{}/{}", always),
    (Method::GET, "rooms/{}/context/{}", always),
    (Method::GET, "rooms/{}/event/{}", always),
    (Method::GET, "rooms/{}/messages", always),
    (Method::GET, "rooms/{}/members", always),
    (Method::GET, "rooms/{}/initialSync", always),
    (Method::GET, "sync", always),
    (Method::POST, "org.matrix.simplified_msc3575/sync", always),
    (Method::GET, "events", always),
    (Method::GET, "media/download/{}/{}", always),
    (Method::GET, "media/download/{}/{}/{}", always),
    (Method::GET, "media/thumbnail/{}/{}", always),
    (Method::POST, "rooms/{}/join", always),
    // The same by another name; clients that let guests in use this one.
    (Method::POST, "join/{}", always),
    (Method::POST, "rooms/{}/leave", always),
    (Method::PUT, "rooms/{}/send/{}/{}", always),
    (Method::PUT, "rooms/{}/state/{}/{}", but_membership),
    (Method::PUT, "sendToDevice/{}/{}", always),
    (Method::PUT, "profile/{}/{}", display_name),
    (Method::DELETE, "profile/{}/{}", display_name),
    (Method::GET, "devices", always),
    (Method::GET, "devices/{}", always),
    (Method::PUT, "devices/{}", always),
    (Method::GET, "account/whoami", always),
    (Method::POST, "keys/upload", always),
    (Method::POST, "keys/query", always),
    (Method::POST, "keys/claim", always),
];

fn always(_: &[String]) -> bool {
    true
}

fn never(_: &[String]) -> bool {
    false
}

/// "Guest users may only modify their display name."
fn display_name(path_args: &[String]) -> bool {
    path_args.get(1).is_some_and(|field| field == "displayname")
}

/// Guests join and leave where the room learns that they are guests.
fn but_membership(path_args: &[String]) -> bool {
    path_args.get(1).is_none_or(|event_type| event_type != "m.room.member")
}

/// What a guest may do at an endpoint.
pub(crate) fn of_endpoint(method: &Method, pattern: &str) -> GuestAccess {
    let path = after_version(pattern);
    let allowed = ALLOWED.iter().find(|(allowed, path_of_allowed, _)| allowed == method && *path_of_allowed == path);
    allowed.map_or(never, |(.., access)| *access)
}

/// A client-server path without its version and without the names of its variables; empty for others.
pub(crate) fn after_version(pattern: &str) -> String {
    let rest = pattern.strip_prefix("/_matrix/client/").and_then(|rest| rest.split_once('/'));
    let segments = rest.map_or("", |(_version, rest)| rest).split('/');
    segments.map(|segment| if segment.starts_with('{') { "{}" } else { segment }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use ruma_client_api::{
        account::whoami,
        device::{get_devices, update_device},
        membership::{join_room_by_id, join_room_by_id_or_alias, leave_room},
        message::send_message_event,
        profile::delete_profile_field,
        room::get_room_event,
        state::{get_state_event_for_key, send_state_event},
        sync::sync_events,
    };
    use ruma_common::api::{Metadata, path_builder::PathBuilder};
    use serde_json::{Value, json};

    use super::of_endpoint;
    use crate::testing::{TestServer, refused};

    const REGISTER: &str = "/_matrix/client/v3/register";

    fn allowed<R: Metadata>(path_args: &[&str]) {
        let path_args: Vec<String> = path_args.iter().map(|arg| (*arg).to_owned()).collect();
        for pattern in R::PATH_BUILDER.all_paths().filter(|pattern| !pattern.contains("/unstable/")) {
            assert!(of_endpoint(&R::METHOD, pattern)(&path_args), "{pattern}");
        }
    }

    #[test]
    fn the_list_knows_paths_as_they_are_routed() {
        allowed::<whoami::v3::Request>(&[]);
        allowed::<get_devices::v3::Request>(&[]);
        allowed::<update_device::v3::Request>(&["PHONE"]);
        allowed::<join_room_by_id::v3::Request>(&["!r"]);
        allowed::<join_room_by_id_or_alias::v3::Request>(&["!r"]);
        allowed::<leave_room::v3::Request>(&["!r"]);
        allowed::<send_message_event::v3::Request>(&["!r", "m.room.message", "1"]);
        allowed::<get_room_event::v3::Request>(&["!r", "$e"]);
        allowed::<get_state_event_for_key::v3::Request>(&["!r", "m.room.name", ""]);
        allowed::<send_state_event::v3::Request>(&["!r", "m.room.name", ""]);
        allowed::<sync_events::v3::Request>(&[]);
        allowed::<delete_profile_field::v3::Request>(&["@a:b", "displayname"]);
        assert!(!of_endpoint(&Method::GET, "/_matrix/media/v3/download/{a}/{b}")(&[]));
    }

    /// The user id and the token of a guest.
    fn guest(server: &TestServer) -> (String, String) {
        let body = json!({ "username": "ignored", "device_id": "IGNORED", "inhibit_login": true });
        let (status, answer) = server.post(&format!("{REGISTER}?kind=guest"), "", &body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_ne!(answer["device_id"], "IGNORED");
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        (text("user_id"), text("access_token"))
    }

    #[test]
    fn a_guest_is_refused_what_is_not_for_guests() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("ALLOW_GUESTS", "on")]);
        let (user_id, token) = guest(&server);
        let (_, whoami) = server.get("/_matrix/client/v3/account/whoami", &token);
        assert_eq!((&whoami["user_id"], &whoami["is_guest"]), (&json!(user_id), &json!(true)));
        let forbidden = (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned());
        let request = |method, path: &str, token: &str| {
            server.request(method, &format!("/_matrix/client/v3/{path}"), token, &json!({}))
        };
        for (method, path) in [
            (Method::POST, "createRoom".to_owned()),
            (Method::POST, "rooms/!r/invite".to_owned()),
            (Method::POST, "account/password".to_owned()),
            (Method::GET, "joined_rooms".to_owned()),
            (Method::POST, format!("user/{user_id}/filter")),
            (Method::PUT, format!("profile/{user_id}/avatar_url")),
            (Method::PUT, format!("rooms/!r/state/m.room.member/{user_id}")),
        ] {
            assert_eq!(refused(request(method, &path, &token)), forbidden, "{path}");
        }
        let unknown = refused(request(Method::POST, "createRoom", "myg_YQ.x"));
        assert_eq!(unknown, (401, "M_UNKNOWN_TOKEN".to_owned()), "who is nobody is no guest");
        let path = format!("/_matrix/client/v3/profile/{user_id}/displayname");
        assert_eq!(server.put(&path, &token, &json!({ "displayname": "Guest" })).0, StatusCode::OK);
        // What needs no token is not forbidden with one.
        assert_eq!(server.get("/_matrix/client/versions", &token).0, StatusCode::OK);
    }

    #[test]
    fn a_guest_becomes_a_user() {
        let server = TestServer::new(&[("REGISTRATION", "open"), ("ALLOW_GUESTS", "on")]);
        let (user_id, token) = guest(&server);
        let name = user_id.trim_start_matches('@').split_once(':').unwrap().0.to_owned();
        let upgrade = |username: Value, password: Value, token: &str| {
            let auth = json!({ "type": "m.login.dummy" });
            let body = json!({
                "username": username, "password": password, "guest_access_token": token, "auth": auth,
            });
            server.post(REGISTER, "", &body)
        };
        let alice = server.register("alice");
        for (username, password, token, status, errcode) in [
            (json!("other"), json!("secret"), &token, 403, "M_FORBIDDEN"),
            (Value::Null, json!("secret"), &token, 400, "M_MISSING_PARAM"),
            (json!(name), Value::Null, &token, 400, "M_MISSING_PARAM"),
            (json!(name), json!("secret"), &"myg_YQ".to_owned(), 401, "M_UNKNOWN_TOKEN"),
            (json!("alice"), json!("other"), &alice, 403, "M_FORBIDDEN"),
        ] {
            assert_eq!(refused(upgrade(username, password, token)), (status, errcode.to_owned()));
        }
        let (status, answer) = upgrade(json!(name), json!("secret"), &token);
        assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!(user_id)), "{answer}");
        let whoami = |token: &str| server.get("/_matrix/client/v3/account/whoami", token);
        assert_eq!(whoami(answer["access_token"].as_str().unwrap()).1.get("is_guest"), None);
        assert_eq!(refused(whoami(&token)), (401, "M_UNKNOWN_TOKEN".to_owned()));
    }
}
