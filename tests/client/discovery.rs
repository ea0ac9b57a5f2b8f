//! Spec: client-server API, «Server Discovery» and «Capabilities negotiation».

use harness::{Server, Value, json, on_each_host};

on_each_host![
    versions_are_listed_to_anybody,
    the_well_known_names_the_base_url,
    capabilities_need_a_token,
    capabilities_name_every_room_version,
    health_is_served,
];

fn versions_are_listed_to_anybody(server: &Server) {
    let versions = server.anonymous().get("/_matrix/client/versions").ok();
    let listed = versions["versions"].as_array().expect("a list");
    assert!(!listed.is_empty(), "{versions}");
    assert!(listed.iter().all(Value::is_string), "{versions}");
    assert!(versions["unstable_features"].is_null() || versions["unstable_features"].is_object());
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
    assert!(alice.get("/capabilities").ok()["capabilities"].is_object());
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
