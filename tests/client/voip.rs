//! Spec: client-server API, «Voice over IP».

use harness::{Https, Reply, Server, json, on_each_host};

on_each_host![clients_learn_where_calls_are_relayed, cloudflare_relays_calls];

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

/// With a service in Cloudflare's place that the test plays.
fn cloudflare_relays_calls(server: &Server) {
    let service = Https::serves_plainly(|request| {
        let is_asked = (&*request.method, &*request.uri)
            == ("POST", "/v1/turn/keys/0a1b/credentials/generate-ice-servers")
            && request.header("authorization") == Some("Bearer sesame")
            && request.header("content-type") == Some("application/json");
        if !is_asked {
            return Reply::json(401, &json!({}));
        }
        if request.body != r#"{"ttl":3600}"# {
            return Reply::json(201, &json!({ "iceServers": [] }));
        }
        let stun = json!({ "urls": ["stun:stun.test:3478"] });
        let turn = json!({ "urls": ["turn:turn.test:3478?transport=udp"], "username": "u", "credential": "c" });
        Reply::json(201, &json!({ "iceServers": [stun, turn] }))
    });
    let url = format!("http://127.0.0.1:{}/v1/turn", service.port);
    let settings = |token| {
        [
            ("TURN_CLOUDFLARE_KEY_ID", "0a1b"),
            ("TURN_CLOUDFLARE_API_TOKEN", token),
            ("TURN_CLOUDFLARE_URL", &*url),
            ("TURN_USER_LIFETIME", "3600"),
        ]
    };
    let relayed = Server::with(server.host(), &settings("sesame"));
    let given = relayed.registers("alice").get("/voip/turnServer").ok();
    let uris = ["turn:turn.test:3478?transport=udp"];
    assert_eq!(given, json!({ "username": "u", "password": "c", "uris": uris, "ttl": 3600 }));
    let refused = Server::with(server.host(), &settings("guessed"));
    assert_eq!(refused.registers("alice").get("/voip/turnServer").status, 502);
}
