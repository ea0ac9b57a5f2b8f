//! Spec: client-server API, «Password management», «Account deactivation», «Current account information».

use harness::{Answer, PASSWORD, Server, User, Value, bodies, encode, json, on_each_host};

on_each_host![
    a_password_changes_with_the_old_one,
    a_new_password_logs_other_devices_out,
    other_devices_may_stay,
    a_wrong_old_password_changes_nothing,
    a_password_is_neither_short_nor_endless,
    a_deactivated_account_is_over,
    a_deactivated_user_has_left_every_room,
    who_is_deactivated_is_not_invited_back,
    a_deactivation_survives_a_crash,
    an_erased_profile_is_empty,
    who_comes_later_sees_nothing_of_what_an_erased_user_said,
    what_a_deactivated_user_said_stays_unless_it_is_erased,
    deactivation_asks_for_the_password,
];

const NEW_PASSWORD: &str = "another correct horse";

fn logs_in(server: &Server, user: &User, password: &str) -> Answer {
    server.anonymous().post("/_matrix/client/v3/login", user.proof(password))
}

fn changes_password(user: &User, proof: Value, more: Value) -> Answer {
    let mut body = json!({ "new_password": NEW_PASSWORD, "auth": proof });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    user.post("/account/password", body)
}

fn deactivates(user: &User) -> Answer {
    user.post("/account/deactivate", json!({ "auth": user.proof(PASSWORD) }))
}

fn a_password_changes_with_the_old_one(server: &Server) {
    let alice = server.registers("alice");
    assert_eq!(alice.get("/capabilities").ok()["capabilities"]["m.change_password"]["enabled"], true);
    let told = alice.post("/account/password", json!({ "new_password": NEW_PASSWORD })).status(401);
    assert_eq!(told["flows"], json!([{ "stages": ["m.login.password"] }]), "{told}");
    let mut proof = alice.proof(PASSWORD);
    proof["session"] = told["session"].clone();
    assert_eq!(changes_password(&alice, proof, json!({})).ok(), json!({}));
    alice.get("/account/whoami").ok();
    logs_in(server, &alice, PASSWORD).refused(403, "M_FORBIDDEN");
    logs_in(server, &alice, NEW_PASSWORD).ok();
}

fn a_new_password_logs_other_devices_out(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    changes_password(&alice, alice.proof(PASSWORD), json!({})).ok();
    phone.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    assert_eq!(alice.get("/devices").ok()["devices"].as_array().map(Vec::len), Some(1));
}

fn other_devices_may_stay(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    changes_password(&alice, alice.proof(PASSWORD), json!({ "logout_devices": false })).ok();
    phone.get("/account/whoami").ok();
    logs_in(server, &alice, PASSWORD).refused(403, "M_FORBIDDEN");
}

fn a_wrong_old_password_changes_nothing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for proof in [alice.proof("wrong"), bob.proof(PASSWORD), json!({ "type": "m.login.dummy" })] {
        let told = changes_password(&alice, proof, json!({})).status(401);
        assert!(told["flows"].is_array() && told["errcode"].is_string(), "{told}");
    }
    let nobody = server.anonymous();
    let body = json!({ "new_password": NEW_PASSWORD, "auth": alice.proof(PASSWORD) });
    nobody.post("/_matrix/client/v3/account/password", body).refused(401, "M_MISSING_TOKEN");
    logs_in(server, &alice, PASSWORD).ok();
}

fn a_password_is_neither_short_nor_endless(server: &Server) {
    let alice = server.registers("alice");
    let new = |password: String| json!({ "new_password": password, "auth": alice.proof(PASSWORD) });
    alice.post("/account/password", new(String::new())).refused(400, "M_WEAK_PASSWORD");
    alice.post("/account/password", new("x".repeat(513))).refused(400, "M_INVALID_PARAM");
    alice.post("/account/password", json!({ "auth": alice.proof(PASSWORD) })).refused(400, "M_BAD_JSON");
    alice.post("/account/password", new("x".repeat(512))).ok();
}

fn a_deactivated_account_is_over(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    assert_eq!(deactivates(&alice).ok()["id_server_unbind_result"], "success");
    for device in [&alice, &phone] {
        device.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    }
    logs_in(server, &alice, PASSWORD).refused(403, "M_USER_DEACTIVATED");
    logs_in(server, &alice, "wrong").refused(403, "M_FORBIDDEN");
    let again = json!({ "username": alice.localpart(), "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    server.anonymous().post("/_matrix/client/v3/register", again).refused(400, "M_USER_IN_USE");
}

fn a_deactivated_user_has_left_every_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let shared = bob.creates_room_with(&[&alice]);
    let invited = bob.creates_room(json!({ "preset": "private_chat", "invite": [alice.id] }));
    let own = alice.creates_room_with(&[&bob]);
    deactivates(&alice).ok();
    for room in [&shared, &invited, &own] {
        assert_eq!(bob.state(room, "m.room.member", &alice.id).ok()["membership"], "leave");
    }
}

fn who_is_deactivated_is_not_invited_back(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    deactivates(&alice).ok();
    let room = bob.creates_room(json!({ "preset": "private_chat" }));
    bob.invites(&room, &alice).refused(403, "M_FORBIDDEN");
    bob.state(&room, "m.room.member", &alice.id).refused(404, "M_NOT_FOUND");
}

fn a_deactivation_survives_a_crash(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let rooms: Vec<String> = (0..5).map(|_| bob.creates_room_with(&[&alice])).collect();
    deactivates(&alice).ok();
    server.dies_and_returns();
    for room in &rooms {
        assert_eq!(bob.state(room, "m.room.member", &alice.id).ok()["membership"], "leave");
    }
    logs_in(&server, &alice, PASSWORD).refused(403, "M_USER_DEACTIVATED");
}

fn an_erased_profile_is_empty(server: &Server) {
    let alice = server.registers("alice");
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    alice.post("/account/deactivate", json!({ "erase": true, "auth": alice.proof(PASSWORD) })).ok();
    let profile = server.registers("bob").get(&format!("/profile/{}", alice.id));
    assert!(profile.body.get("displayname").is_none(), "{}", profile.body);
}

fn who_comes_later_sees_nothing_of_what_an_erased_user_said(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Alice In Person" })).ok();
    let room = bob.creates_room(json!({ "preset": "public_chat" }));
    alice.joins(&room).ok();
    let said = alice.sends(&room, "a secret");
    let edit = json!({
        "msgtype": "m.text", "body": "* a secret anew", "m.new_content": { "msgtype": "m.text", "body": "a secret anew" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": said },
    });
    alice.sends_content(&room, edit);
    let answer = bob.sends(&room, "an answer");
    alice.post("/account/deactivate", json!({ "erase": true, "auth": alice.proof(PASSWORD) })).ok();
    carol.joins(&room).ok();

    let event = carol.event(&room, &said).ok();
    assert_eq!((&event["sender"], &event["content"]), (&json!(alice.id), &json!({})), "{event}");
    let pages = carol.pages_back(&room, None, 50);
    assert_eq!(bodies(&pages), ["an answer"]);
    let search = json!({ "search_categories": { "room_events": { "search_term": "secret" } } });
    let reads = [
        Value::from(pages),
        event,
        carol.syncs().body,
        carol.context(&room, &answer, &[]).ok(),
        carol.full_state(&room).ok(),
        carol.state(&room, "m.room.member", &alice.id).ok(),
        carol.get(&format!("/rooms/{}/members", encode(&room))).ok(),
        carol.get(&format!("/rooms/{}/initialSync", encode(&room))).ok(),
        carol.post("/search", search.clone()).ok()["search_categories"]["room_events"]["results"].clone(),
    ];
    for read in reads {
        let text = read.to_string();
        assert!(!text.contains("secret") && !text.contains("In Person"), "{text}");
    }
    // Who was there keeps what they saw, also if they come back.
    bob.invites(&room, &server.registers("dave")).ok();
    assert_eq!(bob.event(&room, &said).ok()["content"]["body"], "a secret");
    assert_eq!(
        bob.post("/search", search).ok()["search_categories"]["room_events"]["results"][0]["result"]["sender"],
        alice.id
    );
    server.evicts("room", &room);
    assert_eq!(carol.event(&room, &said).ok()["content"], json!({}));
}

fn what_a_deactivated_user_said_stays_unless_it_is_erased(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = bob.creates_room(json!({ "preset": "public_chat" }));
    alice.joins(&room).ok();
    let said = alice.sends(&room, "for everybody");
    alice.post("/account/deactivate", json!({ "auth": alice.proof(PASSWORD) })).ok();
    carol.joins(&room).ok();
    assert_eq!(carol.event(&room, &said).ok()["content"]["body"], "for everybody");
}

fn deactivation_asks_for_the_password(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for body in [json!({}), json!({ "auth": bob.proof(PASSWORD) }), json!({ "auth": alice.proof("wrong") })] {
        let told = alice.post("/account/deactivate", body).status(401);
        assert_eq!(told["flows"], json!([{ "stages": ["m.login.password"] }]), "{told}");
    }
    alice.get("/account/whoami").ok();
}
