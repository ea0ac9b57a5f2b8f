//! Spec: client-server API, «Server Discovery» and «Capabilities negotiation».

use std::collections::BTreeSet;

use harness::{Server, Value, encode, json, on_each_host};

on_each_host![
    versions_are_listed_to_anybody,
    the_well_known_names_the_base_url,
    capabilities_need_a_token,
    capabilities_name_every_room_version,
    health_is_served,
];

/// Dehydrated devices; threads, their list, relations in either direction, relations of relations; media with a token.
const CLAIMED: [&str; 6] = [
    "org.matrix.msc3814",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3856.stable",
    "org.matrix.msc3715.stable",
    "org.matrix.msc3981",
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

fn capabilities_need_a_token(server: &Server) {
    server.anonymous().get("/_matrix/client/v3/capabilities").refused(401, "M_MISSING_TOKEN");
    let alice = server.registers("alice");
    let claimed = alice.get("/capabilities").ok()["capabilities"].clone();
    for name in ["m.change_password", "m.set_displayname", "m.set_avatar_url", "m.profile_fields"] {
        assert_eq!(claimed[name]["enabled"], true, "{name}");
    }
    let display_name = format!("/profile/{}/displayname", encode(&alice.id));
    alice.put(&display_name, json!({ "displayname": "A" })).ok();
    for name in ["m.3pid_changes", "m.get_login_token"] {
        assert_eq!(claimed[name]["enabled"], false, "{name}");
    }
    alice.post("/account/3pid/add", json!({ "sid": "1", "client_secret": "x" })).refused(403, "M_THREEPID_AUTH_FAILED");
    let get_token = "/_matrix/client/v1/login/get_token";
    alice.client().post(get_token, json!({})).refused(404, "M_UNRECOGNIZED");
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
