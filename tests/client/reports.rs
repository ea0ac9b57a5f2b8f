//! Spec: client-server API, «Reporting Content»; administrators read the reports with Synapse's admin API.

use harness::{SERVER_NAME, SHARED_SECRET, Server, User, encode, json, on_each_host};

on_each_host![
    a_member_reports_an_event,
    events_are_reported_by_those_who_see_them,
    a_room_is_reported_by_anyone,
    a_user_is_reported_by_anyone,
    reasons_are_bounded,
    reports_without_end_are_refused,
    administrators_read_reports_and_strike_them,
];

fn reports_event(user: &User, room: &str, event_id: &str, body: harness::Value) -> harness::Answer {
    user.post(&format!("/rooms/{}/report/{}", encode(room), encode(event_id)), body)
}

fn reports_room(user: &User, room: &str, body: harness::Value) -> harness::Answer {
    user.post(&format!("/rooms/{}/report", encode(room)), body)
}

fn reports_user(user: &User, reported: &str, body: harness::Value) -> harness::Answer {
    user.post(&format!("/users/{}/report", encode(reported)), body)
}

fn a_member_reports_an_event(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let said = alice.sends(&room, "An insult");
    for body in [json!({ "reason": "it is an insult" }), json!({ "reason": "" }), json!({}), json!({ "score": -100 })] {
        assert_eq!(reports_event(&bob, &room, &said, body.clone()).ok(), json!({}), "{body}");
        assert_eq!(reports_event(&bob, &room, &said, body.clone()).ok(), json!({}), "{body}, again");
    }
    reports_event(&bob, &room, &said, json!({ "reason": 5 })).refused(400, "M_BAD_JSON");
    let path = format!("/_matrix/client/v3/rooms/{}/report/{}", encode(&room), encode(&said));
    server.anonymous().post(&path, json!({})).refused(401, "M_MISSING_TOKEN");
}

fn events_are_reported_by_those_who_see_them(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id], "preset": "private_chat" }));
    let joined = json!({ "history_visibility": "joined" });
    alice.sets_state(&room, "m.room.history_visibility", "", joined).ok();
    let before = alice.sends(&room, "Before");
    let nothing = || json!({ "reason": "spam" });
    reports_event(&bob, &room, &before, nothing()).refused(404, "M_NOT_FOUND");
    bob.joins(&room).ok();
    let after = alice.sends(&room, "After");
    reports_event(&bob, &room, &before, nothing()).refused(404, "M_NOT_FOUND");
    reports_event(&bob, &room, &after, nothing()).ok();
    reports_event(&bob, &room, "$nothing", nothing()).refused(404, "M_NOT_FOUND");
    reports_event(&bob, "!nowhere:myelin.test", &after, nothing()).refused(404, "M_NOT_FOUND");
    bob.leaves(&room).ok();
    // «Servers MUST verify that the reporting user is currently joined to the room.»
    reports_event(&bob, &room, &after, nothing()).refused(404, "M_NOT_FOUND");
}

fn a_room_is_reported_by_anyone(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    for user in [&alice, &bob] {
        assert_eq!(reports_room(user, &room, json!({ "reason": "spam" })).ok(), json!({}));
        assert_eq!(reports_room(user, &room, json!({ "reason": "" })).ok(), json!({}));
    }
    // Which rooms there are, nobody learns.
    assert_eq!(reports_room(&bob, "!nowhere:myelin.test", json!({ "reason": "spam" })).ok(), json!({}));
    reports_room(&bob, &room, json!({ "reason": 5 })).refused(400, "M_BAD_JSON");
    let path = format!("/_matrix/client/v3/rooms/{}/report", encode(&room));
    server.anonymous().post(&path, json!({ "reason": "spam" })).refused(401, "M_MISSING_TOKEN");
}

fn a_user_is_reported_by_anyone(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for reported in [&alice.id, &bob.id, "@mallory:elsewhere.test"] {
        assert_eq!(reports_user(&bob, reported, json!({ "reason": "spam" })).ok(), json!({}));
    }
    let nobody = format!("@{}:{SERVER_NAME}", server.unique("nobody"));
    reports_user(&bob, &nobody, json!({ "reason": "spam" })).refused(404, "M_NOT_FOUND");
    reports_user(&bob, "alice", json!({ "reason": "spam" })).refused(400, "M_INVALID_PARAM");
    reports_user(&bob, &alice.id, json!({})).refused(400, "M_BAD_JSON");
}

fn reasons_are_bounded(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = alice.sends(&room, "An insult");
    for (reason, fits) in [("x".repeat(4_096), true), ("x".repeat(4_097), false)] {
        let body = json!({ "reason": reason });
        let answers = [
            reports_event(&alice, &room, &said, body.clone()),
            reports_room(&alice, &room, body.clone()),
            reports_user(&alice, &alice.id, body),
        ];
        for answer in answers {
            if fits { drop(answer.ok()) } else { drop(answer.refused(413, "M_TOO_LARGE")) }
        }
    }
    reports_user(&alice, &alice.id, json!({ "reason": "a\0b" })).refused(400, "M_INVALID_PARAM");
}

fn reports_without_end_are_refused(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for number in 0..100 {
        reports_user(&bob, &alice.id, json!({ "reason": number.to_string() })).ok();
    }
    let refused = reports_user(&bob, &alice.id, json!({ "reason": "100" })).refused(429, "M_LIMIT_EXCEEDED");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    reports_user(&alice, &bob.id, json!({ "reason": "he reports without end" })).ok();
}

fn administrators_read_reports_and_strike_them(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let name = server.unique("admin");
    let admin = User::from_login(&server.anonymous(), &server.registers_by_secret(&name, SHARED_SECRET, true).ok());
    let path = |rest: &str| format!("/_synapse/admin/v1/event_reports{rest}");
    let room = alice.creates_room_with(&[&bob]);
    let said = alice.sends(&room, "An insult");
    let reason = server.unique("reason");
    reports_event(&bob, &room, &said, json!({ "reason": reason })).ok();
    alice.client().get(&path("")).refused(403, "M_FORBIDDEN");
    let find = || {
        let mut from = 0;
        loop {
            let page = admin.client().get(&path(&format!("?limit=10&from={from}"))).ok();
            assert!(page["total"].as_u64().expect("a number") >= 1);
            let reports = page["event_reports"].as_array().expect("a list").clone();
            if let Some(found) = reports.into_iter().find(|report| report["reason"] == reason) {
                return Some(found);
            }
            from = page["next_token"].as_u64()?;
        }
    };
    let found = find().expect("it was reported");
    assert_eq!((&found["user_id"], &found["sender"]), (&json!(bob.id), &json!(alice.id)));
    assert_eq!((&found["room_id"], &found["event_id"]), (&json!(room), &json!(said)));
    let one = path(&format!("/{}", found["id"].as_str().expect("an id")));
    assert_eq!(admin.client().get(&one).ok(), found);
    let total = |filter: &str| admin.client().get(&path(filter)).ok()["total"].clone();
    assert_eq!(total(&format!("?user_id={}", encode(&bob.id))), 1);
    assert_eq!(total(&format!("?user_id={}&room_id={}", encode(&bob.id), encode(&room))), 1);
    assert_eq!(total(&format!("?user_id={}&room_id={}", encode(&alice.id), encode(&room))), 0);
    admin.client().get(&path("?dir=x")).refused(400, "M_INVALID_PARAM");
    bob.client().send("DELETE", &one, None).refused(403, "M_FORBIDDEN");
    admin.client().send("DELETE", &one, None).ok();
    admin.client().get(&one).refused(404, "M_NOT_FOUND");
    admin.client().send("DELETE", &one, None).refused(404, "M_NOT_FOUND");
    assert_eq!(find(), None);
}
