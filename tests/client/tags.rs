//! Spec: client-server API, «Room Tagging».

use harness::{Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    tags_come_and_go,
    a_tag_keeps_what_is_said_of_it,
    a_room_has_its_own_tags,
    tags_are_account_data,
    every_device_hears_of_tags,
    places_lie_between_0_and_1,
    names_and_numbers_have_bounds,
    tags_are_for_their_user_only,
];

fn all(user: &User, room: &str) -> String {
    format!("/user/{}/rooms/{}/tags", encode(&user.id), encode(room))
}

fn one(user: &User, room: &str, name: &str) -> String {
    format!("{}/{}", all(user, room), encode(name))
}

fn removes(user: &User, path: &str) -> harness::Answer {
    user.client().delete(&format!("/_matrix/client/v3{path}"))
}

fn tags(user: &User, room: &str) -> Value {
    user.get(&all(user, room)).ok()["tags"].clone()
}

/// The tags that a sync tells of a joined room, each time it does.
fn told(sync: &Sync, room: &str) -> Vec<Value> {
    let events = sync.joined(room)["account_data"]["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["type"] == "m.tag").map(|event| event["content"].clone()).collect()
}

fn tags_come_and_go(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    assert_eq!(tags(&alice, &room), json!({}));
    for name in ["u.work", "m.favourite", "u.with/slash and é"] {
        assert_eq!(alice.put(&one(&alice, &room, name), json!({})).ok(), json!({}));
    }
    assert_eq!(tags(&alice, &room), json!({ "u.work": {}, "m.favourite": {}, "u.with/slash and é": {} }));
    assert_eq!(removes(&alice, &one(&alice, &room, "u.with/slash and é")).ok(), json!({}));
    removes(&alice, &one(&alice, &room, "u.unknown")).ok();
    assert_eq!(tags(&alice, &room), json!({ "u.work": {}, "m.favourite": {} }));
}

fn a_tag_keeps_what_is_said_of_it(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for tag in [json!({ "order": 0.25 }), json!({ "order": 0.5, "org.example": [{ "a": null }] }), json!({})] {
        alice.put(&one(&alice, &room, "u.work"), tag.clone()).ok();
        assert_eq!(tags(&alice, &room)["u.work"], tag);
    }
}

fn a_room_has_its_own_tags(server: &Server) {
    let alice = server.registers("alice");
    let (room, other) = (alice.creates_room(json!({})), alice.creates_room(json!({})));
    alice.put(&one(&alice, &room, "u.work"), json!({})).ok();
    assert_eq!((tags(&alice, &room), tags(&alice, &other)), (json!({ "u.work": {} }), json!({})));
}

/// «The tags on a room are received as single `m.tag` event in the `account_data` section of a room.»
fn tags_are_account_data(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let content = format!("/user/{}/rooms/{}/account_data/m.tag", encode(&alice.id), encode(&room));
    alice.get(&content).refused(404, "M_NOT_FOUND");
    alice.put(&one(&alice, &room, "u.work"), json!({ "order": 0.5 })).ok();
    assert_eq!(alice.get(&content).ok(), json!({ "tags": { "u.work": { "order": 0.5 } } }));
    alice.put(&content, json!({ "tags": { "u.play": {} }, "org.example": 1 })).ok();
    assert_eq!(tags(&alice, &room), json!({ "u.play": {} }));
    alice.put(&one(&alice, &room, "u.work"), json!({})).ok();
    assert_eq!(alice.get(&content).ok(), json!({ "tags": { "u.play": {}, "u.work": {} }, "org.example": 1 }));
    // What a client makes of it is its own business.
    alice.put(&content, json!({ "tags": "none" })).ok();
    assert_eq!(tags(&alice, &room), json!({}));
    alice.put(&one(&alice, &room, "u.work"), json!({})).ok();
    assert_eq!(tags(&alice, &room), json!({ "u.work": {} }));
}

fn every_device_hears_of_tags(server: &Server) {
    let desk = server.registers("alice");
    let phone = desk.logs_in_again();
    let room = desk.creates_room(json!({}));
    let mut since = [&desk, &phone].map(|device| device.syncs().next_batch);
    desk.put(&one(&desk, &room, "u.work"), json!({ "order": 0.5 })).ok();
    for (device, since) in [&desk, &phone].into_iter().zip(&mut since) {
        let sync = device.hears_since(since);
        assert_eq!(told(&sync, &room), [json!({ "tags": { "u.work": { "order": 0.5 } } })]);
        *since = sync.next_batch;
    }
    // The same again is no news, nor is the end of a tag that was not there: the next is the end of this one.
    phone.put(&one(&desk, &room, "u.work"), json!({ "order": 0.5 })).ok();
    removes(&phone, &one(&desk, &room, "u.play")).ok();
    assert!(desk.syncs_since(&since[0]).joined(&room).is_null());
    removes(&phone, &one(&desk, &room, "u.work")).ok();
    assert_eq!(told(&desk.hears_since(&since[0]), &room), [json!({ "tags": {} })]);
    assert_eq!(told(&desk.logs_in_again().syncs(), &room), [json!({ "tags": {} })]);
}

fn places_lie_between_0_and_1(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let tag = one(&alice, &room, "u.work");
    for order in [json!(0), json!(1), json!(0.5), json!(1e-10)] {
        alice.put(&tag, json!({ "order": order })).ok();
    }
    for order in [json!(-0.1), json!(1.1), json!(7)] {
        alice.put(&tag, json!({ "order": order })).refused(400, "M_INVALID_PARAM");
    }
    for order in [json!("0.5"), json!([]), json!(null), json!(true)] {
        alice.put(&tag, json!({ "order": order })).refused(400, "M_BAD_JSON");
    }
    alice.put(&tag, json!([])).refused(400, "M_BAD_JSON");
    let path = format!("/_matrix/client/v3{tag}");
    alice.client().send("PUT", &path, Some("{".to_owned())).refused(400, "M_NOT_JSON");
    assert_eq!(tags(&alice, &room), json!({ "u.work": { "order": 1e-10 } }));
}

/// «The name of a tag MUST NOT exceed 255 bytes.»
fn names_and_numbers_have_bounds(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.put(&one(&alice, &room, &"x".repeat(256)), json!({})).refused(400, "M_INVALID_PARAM");
    alice.put(&one(&alice, &room, &"é".repeat(128)), json!({})).refused(400, "M_INVALID_PARAM");
    alice.put(&one(&alice, &room, &"x".repeat(255)), json!({})).ok();
    for number in 1..100 {
        alice.put(&one(&alice, &room, &number.to_string()), json!({})).ok();
    }
    alice.put(&one(&alice, &room, "more"), json!({})).refused(413, "M_TOO_LARGE");
    removes(&alice, &one(&alice, &room, "7")).ok();
    alice.put(&one(&alice, &room, "more"), json!({})).ok();
    alice.put(&one(&alice, "nothing", "u.work"), json!({})).refused(400, "M_INVALID_PARAM");
    alice.get(&all(&alice, "nothing")).refused(400, "M_INVALID_PARAM");
}

fn tags_are_for_their_user_only(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let tag = one(&alice, &room, "u.work");
    alice.put(&tag, json!({})).ok();
    bob.put(&tag, json!({})).refused(403, "M_FORBIDDEN");
    removes(&bob, &tag).refused(403, "M_FORBIDDEN");
    bob.get(&all(&alice, &room)).refused(403, "M_FORBIDDEN");
    assert_eq!(tags(&bob, &room), json!({}));
    server.anonymous().get(&format!("/_matrix/client/v3{}", all(&alice, &room))).refused(401, "M_MISSING_TOKEN");
    assert!(told(&bob.syncs(), &room).is_empty());
}
