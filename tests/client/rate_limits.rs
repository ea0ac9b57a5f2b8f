//! Spec: client-server API, «Rate limiting». What is limited, and by what, is the configuration's: the keys `RC_*`.

use std::{thread, time::Duration};

use harness::{Answer, PASSWORD, Server, Value, json, on_each_host};

on_each_host![
    a_limit_says_when_to_come_back,
    each_action_has_its_limit,
    an_invitation_counts_for_who_is_invited,
    logins_are_limited_by_address_and_by_account,
    registrations_are_limited_by_address,
    guessing_registration_tokens_takes_long,
    an_address_cannot_be_made_up,
    receipts_and_reports_are_limited,
    messages_to_devices_are_limited,
    whatever_else_is_limited_counts_for_a_token,
];

/// So slow that no story sees it end.
const ONCE: &str = "0.001,1";

fn server_with(server: &Server, limits: &[(&str, &str)]) -> Server {
    let off = ["RC_LOGIN", "RC_REGISTRATION", "RC_REGISTRATION_TOKEN_VALIDITY", "RC_MESSAGE", "RC_JOINS", "RC_INVITES"];
    let off = off.into_iter().chain(["RC_ROOM_CREATION"]).map(|key| (key, "0"));
    let others: Vec<_> = off.filter(|(key, _)| limits.iter().all(|(limited, _)| limited != key)).collect();
    Server::with(server.host(), &[&[("RATE_LIMITS", "on")], limits, &others].concat())
}

#[track_caller]
fn limited(answer: Answer) {
    answer.refused(429, "M_LIMIT_EXCEEDED");
}

fn a_limit_says_when_to_come_back(server: &Server) {
    let server = server_with(server, &[("RC_MESSAGE", "0.5,2")]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let says = |txn_id: &str| {
        alice.sends_event(&room, "m.room.message", txn_id, json!({ "msgtype": "m.text", "body": txn_id }))
    };
    let txn_ids: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    let (txn_id, refused) = txn_ids
        .iter()
        .map(|txn_id| (txn_id, says(txn_id)))
        .find(|(_, answer)| answer.status != 200)
        .expect("fifty in a row are too many");
    let retry_after = refused.header("Retry-After").expect("the header").to_owned();
    let retry_after_ms =
        refused.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].as_u64().expect("the deprecated way");
    assert!((1..=2_000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(retry_after, retry_after_ms.div_ceil(1_000).to_string(), "in whole seconds, never too few");

    bob.sends(&room, "my limit is my own");
    alice.get("/account/whoami").ok();
    thread::sleep(Duration::from_millis(retry_after_ms));
    let event_id = says(txn_id).ok();
    assert_eq!(says(txn_id).ok(), event_id, "what was sent already costs nothing");
}

fn each_action_has_its_limit(server: &Server) {
    let limits = ["RC_MESSAGE", "RC_ROOM_CREATION", "RC_JOINS_LOCAL", "RC_INVITES_PER_ISSUER"];
    let server = server_with(server, &limits.map(|key| (key, ONCE)));
    let hosts = [server.registers("host"), server.registers("host")];
    let rooms = hosts.each_ref().map(|host| host.creates_room(json!({ "preset": "public_chat" })));
    let alice = server.registers("alice");

    alice.joins(&rooms[0]).ok();
    limited(alice.joins(&rooms[1]));
    limited(alice.post(&format!("/join/{}", rooms[1]), json!({})));
    alice.sends(&rooms[0], "one");
    limited(alice.says(&rooms[0], "two"));
    limited(alice.put(&format!("/rooms/{}/state/m.room.topic", rooms[0]), json!({ "topic": "three" })));
    limited(hosts[0].post("/createRoom", json!({})));
    let guests = [server.registers("guest"), server.registers("guest")];
    hosts[0].invites(&rooms[0], &guests[0]).ok();
    limited(hosts[0].invites(&rooms[0], &guests[1]));
    hosts[1].invites(&rooms[1], &guests[1]).ok();

    alice.get(&format!("/rooms/{}/messages?dir=b", rooms[0])).ok();
    alice.leaves(&rooms[0]).ok();
}

fn an_invitation_counts_for_who_is_invited(server: &Server) {
    let server = server_with(server, &[("RC_INVITES_PER_USER", ONCE), ("RC_JOINS_PER_ROOM", ONCE)]);
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    limited(bob.post("/createRoom", json!({ "invite": [carol.id, bob.id] })));
    limited(alice.post("/createRoom", json!({ "invite": [bob.id] })));
    alice.invites(&room, &carol).ok();

    let dave = server.registers("dave");
    for _ in 0..3 {
        dave.joins(&room).refused(403, "M_FORBIDDEN");
    }
    bob.joins(&room).ok();
    limited(carol.joins(&room));
}

fn logs_in(server: &Server, address: &str, user: &str, password: &str) -> Answer {
    let identifier = json!({ "type": "m.id.user", "user": user });
    let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
    server.anonymous().from_address(address).post("/_matrix/client/v3/login", body)
}

fn logins_are_limited_by_address_and_by_account(server: &Server) {
    let failed = server_with(server, &[("RC_LOGIN_FAILED_ATTEMPTS", ONCE)]);
    let alice = failed.registers("alice");
    for user in [&alice.id, "nobody"] {
        logs_in(&failed, "192.0.2.1", user, "wrong").refused(403, "M_FORBIDDEN");
        limited(logs_in(&failed, "192.0.2.2", user, PASSWORD));
    }

    let server = server_with(server, &[("RC_LOGIN_ADDRESS", "0.001,3"), ("RC_LOGIN_ACCOUNT", ONCE)]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    logs_in(&server, "192.0.2.1", &alice.id, PASSWORD).ok();
    limited(logs_in(&server, "192.0.2.1", &alice.id, PASSWORD));
    logs_in(&server, "192.0.2.1", "nobody", PASSWORD).refused(403, "M_FORBIDDEN");
    limited(logs_in(&server, "192.0.2.1", &bob.id, PASSWORD));
    logs_in(&server, "192.0.2.2", &bob.id, PASSWORD).ok();
}

fn registers(server: &Server, address: &str, auth: &Value) -> Answer {
    let body = json!({ "username": server.unique("user"), "password": PASSWORD, "auth": auth });
    server.anonymous().from_address(address).post("/_matrix/client/v3/register", body)
}

fn registrations_are_limited_by_address(server: &Server) {
    let server = server_with(server, &[("RC_REGISTRATION", "0.001,2")]);
    let dummy = json!({ "type": "m.login.dummy" });
    for _ in 0..5 {
        let _ = registers(&server, "192.0.2.1", &json!({})).status(401);
    }
    registers(&server, "192.0.2.1", &dummy).ok();
    registers(&server, "192.0.2.1", &dummy).ok();
    limited(registers(&server, "192.0.2.1", &dummy));
    // Whoever has one IPv6 address has its whole network.
    registers(&server, "2001:db8::1", &dummy).ok();
    registers(&server, "2001:db8::2", &dummy).ok();
    limited(registers(&server, "2001:db8::3", &dummy));

    let tokens = server_with(&server, &[("REGISTRATION", "token"), ("RC_REGISTRATION", "0.001,2")]);
    let guess = |token: &str| {
        let client = tokens.anonymous().from_address("192.0.2.1");
        let body = json!({ "username": "alice", "password": PASSWORD });
        let session = client.post("/_matrix/client/v3/register", body.clone());
        if session.status == 429 {
            return session;
        }
        let session = session.status(401)["session"].clone();
        let auth = json!({ "type": "m.login.registration_token", "token": token, "session": session });
        client.post("/_matrix/client/v3/register", json!({ "username": "alice", "password": PASSWORD, "auth": auth }))
    };
    let _ = (guess("one").status(401), guess("two").status(401));
    limited(guess("three"));
}

fn guessing_registration_tokens_takes_long(server: &Server) {
    let limits = [("REGISTRATION", "token"), ("RC_REGISTRATION_TOKEN_VALIDITY", "0.001,2")];
    let server = server_with(server, &limits);
    let (guesser, other) = ("192.0.2.1", "192.0.2.2");
    let validity = |address: &str| {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=guessed";
        server.anonymous().from_address(address).get(path)
    };
    let on_the_page = |address: &str| {
        let path = "/_matrix/client/v3/auth/m.login.registration_token/fallback/web?session=none";
        server.anonymous().from_address(address).send("POST", path, Some("token=guessed".to_owned()))
    };
    assert_eq!(validity(guesser).ok()["valid"], false);
    assert_ne!(on_the_page(guesser).status, 429);
    limited(validity(guesser));
    limited(on_the_page(guesser));
    assert_eq!(validity(other).ok()["valid"], false);
}

fn an_address_cannot_be_made_up(server: &Server) {
    let server = server_with(server, &[("RC_REGISTRATION", ONCE)]);
    let dummy = json!({ "type": "m.login.dummy" });
    registers(&server, "198.51.100.1, 192.0.2.1", &dummy).ok();
    limited(registers(&server, "198.51.100.2, 192.0.2.1", &dummy));
    limited(registers(&server, "192.0.2.1", &dummy));
    registers(&server, "198.51.100.1", &dummy).ok();
}

fn messages_to_devices_are_limited(server: &Server) {
    let server = server_with(server, &[("RC_TO_DEVICE", "0.001,6"), ("RC_NEW_SERVERS", "0.001,2")]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let mut txn = 0;
    let mut writes = |to: &str| {
        txn += 1;
        let messages = json!({ to: { "*": { "body": "hello" } } });
        alice.put(&format!("/sendToDevice/m.test/{txn}"), json!({ "messages": messages }))
    };
    writes("@x:one.invalid").ok();
    writes("@x:two.invalid").ok();
    // Each name that nobody knows is a server to be kept and tried: nobody invents many.
    limited(writes("@x:three.invalid"));
    writes("@y:one.invalid").ok();
    writes(&bob.id).ok();
    writes(&bob.id).ok();
    limited(writes(&bob.id));
    bob.put("/sendToDevice/m.test/1", json!({ "messages": { (&*alice.id): { "*": {} } } })).ok();
}

fn receipts_and_reports_are_limited(server: &Server) {
    let server = server_with(server, &[("RC_RECEIPTS", "0.001,3"), ("RC_REPORTS", ONCE)]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let event_id = alice.sends(&room, "read this");
    bob.reads(&room, "m.read", &event_id, json!({})).ok();
    bob.post(&format!("/rooms/{room}/read_markers"), json!({ "m.fully_read": event_id })).ok();
    bob.types(&room, json!({ "typing": true, "timeout": 30_000 })).ok();
    limited(bob.reads(&room, "m.read", &event_id, json!({})));
    limited(bob.post(&format!("/rooms/{room}/read_markers"), json!({ "m.fully_read": event_id })));
    limited(bob.types(&room, json!({ "typing": false })));
    alice.types(&room, json!({ "typing": true, "timeout": 30_000 })).ok();

    bob.post(&format!("/rooms/{room}/report"), json!({ "reason": "noise" })).ok();
    limited(bob.post(&format!("/rooms/{room}/report/{event_id}"), json!({ "reason": "noise" })));
    limited(bob.post(&format!("/users/{}/report", alice.id), json!({ "reason": "noise" })));
}

fn whatever_else_is_limited_counts_for_a_token(server: &Server) {
    let server = server_with(server, &[("RC_REQUESTS", ONCE)]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let laptop = alice.logs_in_again();
    alice.get("/account/whoami").ok();
    limited(alice.get("/capabilities"));
    limited(alice.client().get("/_matrix/client/v1/mutual_rooms?user_id=%40bob%3Amyelin.test"));
    limited(alice.get("/initialSync"));
    limited(alice.post("/rooms/!unknown:myelin.test/forget", json!({})));
    for path in ["v1/login/get_token", "unstable/org.matrix.msc3882/login/get_token"] {
        limited(alice.client().post(&format!("/_matrix/client/{path}"), json!({})));
    }
    limited(alice.client().get("/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id=%40b%3Ac"));
    laptop.get("/account/whoami").ok();
    bob.get("/account/whoami").ok();
    // Where nobody asks for a token, none counts.
    alice.get("/publicRooms").ok();
    limited(bob.get("/publicRooms"));
    // What is not limited, as the specification has it.
    alice.get("/devices").ok();

    let asks = |address: &str| server.anonymous().from_address(address).get("/_matrix/client/v3/login");
    asks("192.0.2.1").ok();
    limited(asks("192.0.2.1"));
    asks("192.0.2.2").ok();
}
