//! Spec: client-server API, «Server Discovery» and «Capabilities negotiation».

use std::collections::BTreeSet;

use harness::{Server, Value, encode, json, on_each_host};

on_each_host![
    versions_are_listed_to_anybody,
    the_well_known_names_the_base_url,
    a_server_says_whom_to_turn_to,
    a_policy_server_says_its_key,
    nobody_signs_on_elsewhere,
    capabilities_need_a_token,
    capabilities_name_every_room_version,
    health_is_served,
];

/// Dehydrated devices; threads, their list, relations in either direction, relations of relations; the directory by
/// types of rooms, fields of profiles, rooms in common; accounts locked and suspended; media with a token.
const CLAIMED: [&str; 13] = [
    "org.matrix.msc3814",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3856.stable",
    "org.matrix.msc3715.stable",
    "org.matrix.msc3981",
    "org.matrix.msc3827.stable",
    "uk.tcpip.msc4133.stable",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "org.matrix.msc3881",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.timedout.msc4323",
    "org.matrix.simplified_msc3575",
    "org.matrix.msc3916.stable",
];

fn versions_are_listed_to_anybody(server: &Server) {
    let versions = server.anonymous().get("/_matrix/client/versions").ok();
    let listed = versions["versions"].as_array().expect("a list");
    assert!(!listed.is_empty(), "{versions}");
    assert!(listed.iter().all(Value::is_string), "{versions}");
    // What each stands for has stories of its own; nothing else is claimed.
    let claimed = versions["unstable_features"].as_object().expect("an object");
    assert!(claimed.values().all(|value| *value == true), "{versions}");
    assert_eq!(claimed.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(CLAIMED));
}

fn the_well_known_names_the_base_url(server: &Server) {
    let answer = server.anonymous().get("/.well-known/matrix/client");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let base_url = answer.ok()["m.homeserver"]["base_url"].as_str().expect("a base URL").to_owned();
    assert_eq!(base_url.trim_end_matches('/'), server.url());
}

fn a_server_says_whom_to_turn_to(server: &Server) {
    let support = "/.well-known/matrix/support";
    server.anonymous().get(support).refused(404, "M_NOT_FOUND");
    let contacts = "m.role.admin @admin:myelin.test admin@example.org, m.role.security security@example.org";
    let settings = [("SUPPORT_CONTACTS", contacts), ("SUPPORT_PAGE", "https://example.org/help")];
    let helpful = Server::with(server.host(), &settings);
    let answer = helpful.anonymous().get(support);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let admin =
        json!({ "role": "m.role.admin", "matrix_id": "@admin:myelin.test", "email_address": "admin@example.org" });
    let security = json!({ "role": "m.role.security", "email_address": "security@example.org" });
    assert_eq!(answer.ok(), json!({ "contacts": [admin, security], "support_page": "https://example.org/help" }));
    let page = Server::with(server.host(), &[("SUPPORT_PAGE", "https://example.org/help")]);
    assert_eq!(page.anonymous().get(support).ok(), json!({ "support_page": "https://example.org/help" }));
}

fn a_policy_server_says_its_key(server: &Server) {
    let policy_server = "/.well-known/matrix/policy_server";
    server.anonymous().get(policy_server).refused(404, "M_NOT_FOUND");
    let key = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s";
    let policing = Server::with(server.host(), &[("POLICY_SERVER_KEY", key)]);
    assert_eq!(policing.anonymous().get(policy_server).ok(), json!({ "public_keys": { "ed25519": key } }));
}

fn nobody_signs_on_elsewhere(server: &Server) {
    let anonymous = server.anonymous();
    for metadata in ["/_matrix/client/v1/auth_metadata", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"] {
        anonymous.get(metadata).refused(404, "M_UNRECOGNIZED");
    }
    for provider in ["", "/unknown"] {
        let path = format!("/_matrix/client/v3/login/sso/redirect{provider}");
        anonymous.get(&path).refused(400, "M_MISSING_PARAM");
        anonymous.get(&format!("{path}?redirectUrl=https%3A%2F%2Fclient.example")).refused(404, "M_NOT_FOUND");
    }
}

fn capabilities_need_a_token(server: &Server) {
    server.anonymous().get("/_matrix/client/v3/capabilities").refused(401, "M_MISSING_TOKEN");
    let alice = server.registers("alice");
    let claimed = alice.get("/capabilities").ok()["capabilities"].clone();
    for name in ["m.change_password", "m.set_displayname", "m.set_avatar_url", "m.profile_fields"] {
        assert_eq!(claimed[name]["enabled"], true, "{name}");
    }
    let display_name = format!("/profile/{}/displayname", encode(&alice.id));
    alice.put(&display_name, json!({ "displayname": "A" })).ok();
    assert_eq!(claimed["m.3pid_changes"]["enabled"], false);
    alice.post("/account/3pid/add", json!({ "sid": "1", "client_secret": "x" })).refused(403, "M_THREEPID_AUTH_FAILED");
}

fn capabilities_name_every_room_version(server: &Server) {
    let alice = server.registers("alice");
    let capabilities = alice.get("/capabilities").ok();
    let versions = &capabilities["capabilities"]["m.room_versions"];
    for version in 1..=12 {
        assert_eq!(versions["available"][version.to_string()], "stable", "{versions}");
    }
    let default = versions["default"].as_str().expect("a default");
    assert!(versions["available"][default].is_string(), "{versions}");
    let room = alice.creates_room(json!({}));
    assert_eq!(alice.state(&room, "m.room.create", "").ok()["room_version"], default);
}

fn health_is_served(server: &Server) {
    assert_eq!(server.anonymous().get("/health").status, 200);
}
