//! Spec: client-server API, «Sending events to a room», «Transaction identifiers», «Size limits».

use harness::{Server, json, on_each_host};

on_each_host![
    a_message_is_answered_with_its_id,
    a_repeated_transaction_is_answered_alike,
    transactions_belong_to_a_device,
    transactions_belong_to_a_path,
    only_members_send,
    a_room_that_never_was_takes_nothing,
    malformed_content_is_refused,
    numbers_beyond_canonical_json_are_refused,
    an_event_beyond_the_size_limit_is_refused,
    content_arrives_unchanged,
    state_events_take_the_state_endpoint,
];

fn a_message_is_answered_with_its_id(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let id = alice.sends(&room, "hello");
    assert!(id.starts_with('$'));
    let seen = bob.syncs().timeline(&room).pop().expect("an event");
    assert_eq!((&seen["event_id"], &seen["sender"]), (&json!(id), &json!(alice.id)));
    assert_eq!(seen["content"], json!({ "msgtype": "m.text", "body": "hello" }));
}

fn a_repeated_transaction_is_answered_alike(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let content = json!({ "msgtype": "m.text", "body": "once" });
    let first = alice.sends_event(&room, "m.room.message", "t", content.clone()).ok();
    let second = alice.sends_event(&room, "m.room.message", "t", content).ok();
    assert_eq!(first, second);
    alice.sends(&room, "between");
    let third = alice.sends_event(&room, "m.room.message", "t", json!({ "msgtype": "m.text", "body": "other" })).ok();
    assert_eq!(first, third, "the transaction id alone tells");
    assert_eq!(alice.syncs().messages(&room), ["once", "between"]);
}

fn transactions_belong_to_a_device(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    let room = alice.creates_room(json!({}));
    let content = json!({ "msgtype": "m.text", "body": "hello" });
    let one = alice.sends_event(&room, "m.room.message", "same", content.clone()).ok();
    let other = phone.sends_event(&room, "m.room.message", "same", content).ok();
    assert_ne!(one["event_id"], other["event_id"]);
    assert_eq!(alice.syncs().messages(&room), ["hello", "hello"]);
}

fn transactions_belong_to_a_path(server: &Server) {
    let alice = server.registers("alice");
    let (one, other) = (alice.creates_room(json!({})), alice.creates_room(json!({})));
    let content = json!({ "msgtype": "m.text", "body": "hello" });
    let here = alice.sends_event(&one, "m.room.message", "same", content.clone()).ok();
    let there = alice.sends_event(&other, "m.room.message", "same", content.clone()).ok();
    let otherwise = alice.sends_event(&one, "org.example.message", "same", content).ok();
    assert_ne!(here, there);
    assert_ne!(here, otherwise);
}

fn only_members_send(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    mallory.says(&room, "from outside").refused(403, "M_FORBIDDEN");
    bob.says(&room, "merely invited").refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    bob.sends(&room, "inside");
    bob.leaves(&room).ok();
    bob.says(&room, "gone").refused(403, "M_FORBIDDEN");
    assert_eq!(alice.syncs().messages(&room), ["inside"]);
}

fn a_room_that_never_was_takes_nothing(server: &Server) {
    let alice = server.registers("alice");
    for room in ["!never:myelin.test", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"] {
        let status = alice.says(room, "hello").status;
        assert!(matches!(status, 403 | 404), "{room}: {status}");
        let status = alice.full_state(room).status;
        assert!(matches!(status, 403 | 404), "{room}: {status}");
    }
}

fn malformed_content_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for (txn_id, body) in [("a", "[]"), ("b", "\"text\""), ("c", "5"), ("d", "null")] {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn_id}");
        alice.client().send("PUT", &path, Some(body.to_owned())).refused(400, "M_BAD_JSON");
    }
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/e");
    alice.client().send("PUT", &path, Some("{\"body\": ".to_owned())).refused(400, "M_NOT_JSON");
    assert!(alice.syncs().messages(&room).is_empty());
}

fn numbers_beyond_canonical_json_are_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "room_version": "11" }));
    for (txn_id, number) in [("a", "1.5"), ("b", "9007199254740992"), ("c", "-9007199254740992")] {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/org.example.number/{txn_id}");
        let body = format!("{{\"number\":{number}}}");
        alice.client().send("PUT", &path, Some(body)).refused(400, "M_BAD_JSON");
    }
    alice.sends_event(&room, "org.example.number", "d", json!({ "number": 9_007_199_254_740_991_u64 })).ok();
}

fn an_event_beyond_the_size_limit_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.says(&room, &"x".repeat(66_000)).refused(413, "M_TOO_LARGE");
    alice.sends(&room, &"x".repeat(60_000));
}

fn content_arrives_unchanged(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let content =
        json!({ "body": "\u{1F600} \"quoted\" \\ \u{7f} \u{2028} <b>", "deep": [[{ "a": null }], true, -1], "": "" });
    alice.sends_event(&room, "org.example.odd", "t", content.clone()).ok();
    assert_eq!(alice.syncs().timeline(&room).pop().expect("an event")["content"], content);
}

fn state_events_take_the_state_endpoint(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "News" })).ok();
    let event = bob.syncs().timeline(&room).pop().expect("an event");
    assert_eq!((&event["type"], &event["state_key"]), (&json!("m.room.topic"), &json!("")));
    // A message of a state event's type is no state.
    alice.sends_event(&room, "m.room.topic", "t", json!({ "topic": "Not state" })).ok();
    assert_eq!(bob.state(&room, "m.room.topic", "").ok()["topic"], "News");
}
