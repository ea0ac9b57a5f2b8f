//! Spec: client-server API, «API Standards», «Web Browser Clients», «Using access tokens».

use harness::{Server, json, on_each_host, query};

on_each_host![
    an_unknown_endpoint_is_unrecognized,
    a_wrong_method_is_unrecognized,
    every_answer_may_be_read_by_a_browser,
    a_preflight_does_nothing,
    a_body_that_is_not_json_is_refused,
    a_body_of_the_wrong_shape_is_refused,
    a_list_is_no_object,
    a_missing_token_is_named,
    an_unknown_token_is_named,
    the_token_may_stand_in_the_query,
    ids_in_paths_are_percent_decoded,
];

fn an_unknown_endpoint_is_unrecognized(server: &Server) {
    let nobody = server.anonymous();
    nobody.get("/_matrix/client/v3/no/such/thing").refused(404, "M_UNRECOGNIZED");
    nobody.post("/_matrix/client/v99/createRoom", json!({})).refused(404, "M_UNRECOGNIZED");
    nobody.get("/_matrix/nonsense").refused(404, "M_UNRECOGNIZED");
}

fn a_wrong_method_is_unrecognized(server: &Server) {
    let alice = server.registers("alice");
    alice.client().delete("/_matrix/client/v3/createRoom").refused(405, "M_UNRECOGNIZED");
    alice.put("/sync", json!({})).refused(405, "M_UNRECOGNIZED");
    server.anonymous().delete("/_matrix/client/v3/login").refused(405, "M_UNRECOGNIZED");
}

fn every_answer_may_be_read_by_a_browser(server: &Server) {
    let nobody = server.anonymous();
    for path in ["/_matrix/client/versions", "/_matrix/client/v3/no/such/thing", "/_matrix/client/v3/sync"] {
        let answer = nobody.get(path);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    }
}

fn a_preflight_does_nothing(server: &Server) {
    for path in ["/_matrix/client/v3/sync", "/_matrix/client/v3/createRoom", "/_matrix/client/v3/register"] {
        let answer = server.anonymous().send("OPTIONS", path, None);
        assert!(matches!(answer.status, 200 | 204), "{path}: {}", answer.status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let methods = answer.header("access-control-allow-methods").unwrap_or_default();
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(methods.contains(method), "{path} allows {methods}");
        }
        let headers = answer.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
        for header in ["x-requested-with", "content-type", "authorization"] {
            assert!(headers.contains(header), "{path} allows {headers}");
        }
    }
}

fn a_list_is_no_object(server: &Server) {
    let alice = server.registers("alice");
    let joined = || alice.get("/joined_rooms").ok();
    let before = joined();
    for (body, errcode) in [("[]", "M_BAD_JSON"), (" [\"private\"]", "M_BAD_JSON"), ("[", "M_NOT_JSON")] {
        alice.client().send("POST", "/_matrix/client/v3/createRoom", Some(body.to_owned())).refused(400, errcode);
    }
    assert_eq!(joined(), before);
    server
        .anonymous()
        .send("POST", "/_matrix/client/v3/createRoom", Some("[]".to_owned()))
        .refused(401, "M_MISSING_TOKEN");
}

fn a_body_that_is_not_json_is_refused(server: &Server) {
    let alice = server.registers("alice");
    for body in ["{\"name\":", "not json", "{\"a\":1}}"] {
        let answer = alice.client().send("POST", "/_matrix/client/v3/createRoom", Some(body.to_owned()));
        answer.refused(400, "M_NOT_JSON");
    }
    let answer = server.anonymous().send("POST", "/_matrix/client/v3/login", Some("{".to_owned()));
    answer.refused(400, "M_NOT_JSON");
}

fn a_body_of_the_wrong_shape_is_refused(server: &Server) {
    let alice = server.registers("alice");
    alice.post("/createRoom", json!({ "name": 5 })).refused(400, "M_BAD_JSON");
    alice.post("/createRoom", json!([])).refused(400, "M_BAD_JSON");
    let room = alice.creates_room(json!({}));
    alice.post(&format!("/rooms/{room}/invite"), json!({})).status(400);
    alice.post(&format!("/rooms/{room}/kick"), json!({ "user_id": "not an id" })).status(400);
}

fn a_missing_token_is_named(server: &Server) {
    let nobody = server.anonymous();
    nobody.get("/_matrix/client/v3/sync").refused(401, "M_MISSING_TOKEN");
    nobody.get("/_matrix/client/v3/account/whoami").refused(401, "M_MISSING_TOKEN");
    nobody.post("/_matrix/client/v3/createRoom", json!({})).refused(401, "M_MISSING_TOKEN");
}

fn an_unknown_token_is_named(server: &Server) {
    let alice = server.registers("alice");
    let altered = format!("{}x", alice.token);
    for token in ["nonsense", "", &altered] {
        let stranger = server.anonymous().with_token(token);
        let answer = stranger.get("/_matrix/client/v3/account/whoami");
        match token {
            "" => assert_eq!(answer.status, 401, "{}", answer.body),
            _ => {
                let body = answer.refused(401, "M_UNKNOWN_TOKEN");
                assert_ne!(body["soft_logout"], true);
            }
        }
    }
    server.anonymous().with_token("nonsense").get("/_matrix/client/v3/sync").refused(401, "M_UNKNOWN_TOKEN");
}

fn the_token_may_stand_in_the_query(server: &Server) {
    let alice = server.registers("alice");
    let nobody = server.anonymous();
    let with = |token: &str| format!("/_matrix/client/v3/account/whoami{}", query(&[("access_token", token)]));
    assert_eq!(nobody.get(&with(&alice.token)).ok()["user_id"], alice.id);
    nobody.get(&with("nonsense")).refused(401, "M_UNKNOWN_TOKEN");
}

fn ids_in_paths_are_percent_decoded(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Encoded" }));
    let raw = alice.get(&format!("/rooms/{room}/state/m.room.name/")).ok();
    let encoded = alice.get(&format!("/rooms/{}/state/m%2Eroom.name", harness::encode(&room))).ok();
    assert_eq!(raw, encoded);
}
