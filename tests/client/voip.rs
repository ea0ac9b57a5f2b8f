//! Spec: client-server API, «Voice over IP».

use harness::{Server, json, on_each_host};

on_each_host![clients_learn_where_calls_are_relayed];

fn clients_learn_where_calls_are_relayed(server: &Server) {
    assert_eq!(server.registers("alice").get("/voip/turnServer").ok(), json!({}), "nowhere");
    server.anonymous().get("/_matrix/client/v3/voip/turnServer").refused(401, "M_MISSING_TOKEN");
    let uris = "turn:turn.example.org?transport=udp,turns:turn.example.org";
    let settings = [("TURN_URIS", uris), ("TURN_SHARED_SECRET", "open sesame"), ("TURN_USER_LIFETIME", "3600")];
    let relayed = Server::with(server.host(), &settings);
    let alice = relayed.registers("alice");
    let given = alice.get("/voip/turnServer").ok();
    assert_eq!(given["uris"], json!(["turn:turn.example.org?transport=udp", "turns:turn.example.org"]));
    assert_eq!(given["ttl"], json!(3600));
    let username = given["username"].as_str().unwrap();
    assert!(username.ends_with(&format!(":{}", alice.id)), "{username}");
    // The HMAC-SHA1 of the name, in base64.
    assert_eq!(given["password"].as_str().unwrap().len(), 28, "{given}");
}
