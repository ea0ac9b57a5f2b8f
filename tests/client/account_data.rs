//! Spec: client-server API, «Client Config».

use harness::{Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    what_was_put_is_there_to_get,
    packs_of_images_are_kept_and_told,
    each_account_and_room_has_its_own,
    only_objects_are_taken,
    what_the_server_manages_is_not_the_clients_to_set,
    data_is_for_its_user_only,
    bounds_are_told,
    a_first_sync_brings_everything,
    each_device_hears_of_a_change_once,
    a_change_ends_the_wait_of_another_device,
    a_room_with_nothing_else_shows_its_data_alone,
    data_waits_for_the_room_to_be_joined,
    a_room_left_keeps_its_data_to_itself,
    filters_choose_types,
    filters_choose_rooms,
    a_sync_counts_no_keys,
];

fn global(user: &User, kind: &str) -> String {
    format!("/user/{}/account_data/{}", encode(&user.id), encode(kind))
}

fn of_room(user: &User, room: &str, kind: &str) -> String {
    format!("/user/{}/rooms/{}/account_data/{}", encode(&user.id), encode(room), encode(kind))
}

/// The contents of these events, of one type.
fn contents(events: &Value, kind: &str) -> Vec<Value> {
    let events = events["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["type"] == kind).map(|event| event["content"].clone()).collect()
}

fn heard(sync: &Sync, kind: &str) -> Vec<Value> {
    contents(&sync.body["account_data"], kind)
}

fn heard_of(sync: &Sync, room: &str, kind: &str) -> Vec<Value> {
    contents(&sync.joined(room)["account_data"], kind)
}

fn what_was_put_is_there_to_get(server: &Server) {
    let alice = server.registers("alice");
    for kind in ["org.example.config", "org.example/with slash?", "m.direct"] {
        alice.get(&global(&alice, kind)).refused(404, "M_NOT_FOUND");
        assert_eq!(alice.put(&global(&alice, kind), json!({ "n": 1, "deep": [{ "é": null }] })).ok(), json!({}));
        assert_eq!(alice.get(&global(&alice, kind)).ok(), json!({ "n": 1, "deep": [{ "é": null }] }));
        alice.put(&global(&alice, kind), json!({})).ok();
        assert_eq!(alice.logs_in_again().get(&global(&alice, kind)).ok(), json!({}));
    }
}

/// «There is no inheritance mechanism here.»
/// Spec: «Image packs»: a room's are its state, by any key; whose packs somebody uses is among their account data.
fn packs_of_images_are_kept_and_told(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let pack = json!({ "images": { "tea": { "url": "mxc://myelin.test/tea" } }, "pack": { "display_name": "Drinks" } });
    for key in ["", "drinks"] {
        alice.sets_state(&room, "m.room.image_pack", key, pack.clone()).ok();
        assert_eq!(bob.state(&room, "m.room.image_pack", key).ok(), pack);
    }
    let since = bob.syncs().next_batch;
    let used = json!({ "rooms": { (&*room): { "": {}, "drinks": {} } } });
    let path = format!("/user/{}/account_data/m.image_pack.rooms", bob.id);
    bob.put(&path, used.clone()).ok();
    assert_eq!(bob.get(&path).ok(), used);
    let told = bob.syncs_since(&since).body["account_data"]["events"].clone();
    assert_eq!(told, json!([{ "type": "m.image_pack.rooms", "content": used }]));
}

fn each_account_and_room_has_its_own(server: &Server) {
    let alice = server.registers("alice");
    let (one, other) = (alice.creates_room(json!({})), alice.creates_room(json!({})));
    alice.put(&global(&alice, "a.b"), json!({ "of": "account" })).ok();
    alice.get(&of_room(&alice, &one, "a.b")).refused(404, "M_NOT_FOUND");
    alice.put(&of_room(&alice, &one, "a.b"), json!({ "of": "one" })).ok();
    alice.get(&of_room(&alice, &other, "a.b")).refused(404, "M_NOT_FOUND");
    assert_eq!(alice.get(&of_room(&alice, &one, "a.b")).ok()["of"], "one");
    assert_eq!(alice.get(&global(&alice, "a.b")).ok()["of"], "account");
}

fn only_objects_are_taken(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for path in [global(&alice, "a.b"), of_room(&alice, &room, "a.b")] {
        for body in ["[]", "1", "\"text\"", "null"] {
            let path = format!("/_matrix/client/v3{path}");
            alice.client().send("PUT", &path, Some(body.to_owned())).refused(400, "M_BAD_JSON");
        }
        for body in ["", "{", "nothing"] {
            let path = format!("/_matrix/client/v3{path}");
            alice.client().send("PUT", &path, Some(body.to_owned())).refused(400, "M_NOT_JSON");
        }
        alice.get(&path).refused(404, "M_NOT_FOUND");
    }
    for room in ["@alice:myelin.test", "nothing"] {
        alice.put(&of_room(&alice, room, "a.b"), json!({})).refused(400, "M_INVALID_PARAM");
        alice.get(&of_room(&alice, room, "a.b")).refused(400, "M_INVALID_PARAM");
    }
}

fn what_the_server_manages_is_not_the_clients_to_set(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for kind in ["m.fully_read", "m.push_rules"] {
        for path in [global(&alice, kind), of_room(&alice, &room, kind)] {
            alice.put(&path, json!({ "event_id": "$e" })).refused(405, "M_BAD_JSON");
        }
    }
}

fn data_is_for_its_user_only(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    for path in [global(&alice, "a.b"), of_room(&alice, &room, "a.b")] {
        alice.put(&path, json!({ "secret": true })).ok();
        bob.put(&path, json!({})).refused(403, "M_FORBIDDEN");
        bob.get(&path).refused(403, "M_FORBIDDEN");
        server.anonymous().get(&format!("/_matrix/client/v3{path}")).refused(401, "M_MISSING_TOKEN");
        assert_eq!(alice.get(&path).ok()["secret"], true);
    }
    let sync = bob.syncs();
    assert!(heard(&sync, "a.b").is_empty() && heard_of(&sync, &room, "a.b").is_empty(), "{}", sync.body);
}

fn bounds_are_told(server: &Server) {
    let alice = server.registers("alice");
    alice.put(&global(&alice, "a.b"), json!({ "a": "x".repeat(300_000) })).refused(413, "M_TOO_LARGE");
    alice.put(&global(&alice, &"x".repeat(256)), json!({})).refused(400, "M_INVALID_PARAM");
    alice.put(&global(&alice, &"x".repeat(255)), json!({ "a": "x".repeat(60_000) })).ok();
}

fn a_first_sync_brings_everything(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.put(&global(&alice, "a.b"), json!({ "n": 1 })).ok();
    alice.put(&global(&alice, "a.b"), json!({ "n": 2 })).ok();
    alice.put(&of_room(&alice, &room, "a.b"), json!({ "n": 3 })).ok();
    let sync = alice.logs_in_again().syncs();
    assert_eq!(heard(&sync, "a.b"), [json!({ "n": 2 })]);
    assert_eq!(heard_of(&sync, &room, "a.b"), [json!({ "n": 3 })]);
    assert!(!sync.timeline(&room).is_empty(), "the room itself is there too: {}", sync.body);
}

fn each_device_hears_of_a_change_once(server: &Server) {
    let desk = server.registers("alice");
    let phone = desk.logs_in_again();
    let room = desk.creates_room(json!({}));
    let mut since = [&desk, &phone].map(|device| device.syncs().next_batch);
    let old = since[0].clone();
    for number in 1..=3 {
        desk.put(&global(&desk, "a.b"), json!({ "n": number })).ok();
        phone.put(&of_room(&desk, &room, "a.b"), json!({ "n": number })).ok();
        for (device, since) in [&desk, &phone].into_iter().zip(&mut since) {
            let sync = device.hears_since(since);
            assert_eq!(heard(&sync, "a.b"), [json!({ "n": number })]);
            assert_eq!(heard_of(&sync, &room, "a.b"), [json!({ "n": number })]);
            *since = sync.next_batch;
            let sync = device.syncs_since(since);
            assert!(heard(&sync, "a.b").is_empty() && sync.joined(&room).is_null(), "{}", sync.body);
        }
    }
    // The same again is no news, but what comes after it is.
    desk.put(&global(&desk, "a.b"), json!({ "n": 3 })).ok();
    desk.put(&global(&desk, "a.c"), json!({})).ok();
    let sync = phone.hears_since(&since[1]);
    assert_eq!((heard(&sync, "a.b").len(), heard(&sync, "a.c").len()), (0, 1), "{}", sync.body);
    let sync = desk.hears_since(&old);
    assert_eq!(heard(&sync, "a.b"), [json!({ "n": 3 })], "an old token learns how it is now");
    assert_eq!(heard_of(&sync, &room, "a.b"), [json!({ "n": 3 })]);
}

fn a_change_ends_the_wait_of_another_device(server: &Server) {
    let desk = server.registers("alice");
    let phone = desk.logs_in_again();
    let since = phone.syncs().next_batch;
    let waiter = std::thread::spawn(move || phone.syncs_until(&since, |sync| !heard(sync, "a.b").is_empty()));
    desk.put(&global(&desk, "a.b"), json!({ "n": 1 })).ok();
    assert_eq!(heard(&waiter.join().expect("the waiter is answered"), "a.b"), [json!({ "n": 1 })]);
}

fn a_room_with_nothing_else_shows_its_data_alone(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let since = alice.syncs().next_batch;
    alice.put(&of_room(&alice, &room, "a.b"), json!({ "n": 1 })).ok();
    let sync = alice.hears_since(&since);
    let joined = sync.joined(&room);
    assert_eq!(joined["account_data"], json!({ "events": [{ "type": "a.b", "content": { "n": 1 } }] }));
    assert_eq!((&joined["timeline"]["events"], &joined["state"]["events"]), (&json!([]), &json!([])), "{joined}");
    assert_eq!(joined["unread_notifications"]["notification_count"], 0, "clients take a room without it for read");
    // Together with something else, it stands beside it.
    alice.sends(&room, "hello");
    alice.syncs_until(&sync.next_batch, |sync| sync.has_message(&room, "hello"));
    alice.put(&of_room(&alice, &room, "a.b"), json!({ "n": 2 })).ok();
    let sync = alice.hears_since(&sync.next_batch);
    assert_eq!(sync.messages(&room), ["hello"]);
    assert_eq!(heard_of(&sync, &room, "a.b"), [json!({ "n": 2 })]);
}

fn data_waits_for_the_room_to_be_joined(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let since = bob.sees(|sync| !sync.invite_state(&room).is_empty()).next_batch;
    bob.put(&of_room(&bob, &room, "a.b"), json!({ "n": 1 })).ok();
    bob.put(&global(&bob, "a.b"), json!({})).ok();
    let sync = bob.hears_since(&since);
    assert!(sync.joined(&room).is_null(), "{}", sync.body);
    bob.joins(&room).ok();
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!(heard_of(&sync, &room, "a.b"), [json!({ "n": 1 })]);
}

fn a_room_left_keeps_its_data_to_itself(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    bob.put(&of_room(&bob, &room, "a.b"), json!({ "n": 1 })).ok();
    bob.leaves(&room).ok();
    let sync = bob.syncs_until(&since, |sync| sync.left(&room).is_object());
    assert_eq!(contents(&sync.left(&room)["account_data"], "a.b"), [json!({ "n": 1 })]);
    bob.put(&of_room(&bob, &room, "a.b"), json!({ "n": 2 })).ok();
    bob.put(&global(&bob, "a.b"), json!({})).ok();
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!(heard(&sync, "a.b"), [json!({})]);
    assert!(sync.joined(&room).is_null() && sync.left(&room).is_null(), "{}", sync.body);
    assert_eq!(bob.get(&of_room(&bob, &room, "a.b")).ok()["n"], 2);
}

fn filters_choose_types(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let since = alice.syncs().next_batch;
    for kind in ["a.one", "a.two", "b.one"] {
        alice.put(&global(&alice, kind), json!({})).ok();
        alice.put(&of_room(&alice, &room, kind), json!({})).ok();
    }
    let table = [
        (json!({ "types": ["a.*"] }), [true, true, false]),
        (json!({ "not_types": ["a.*"] }), [false, false, true]),
        (json!({ "types": ["a.*"], "not_types": ["*.two"] }), [true, false, false]),
        (json!({ "types": [] }), [false, false, false]),
        (json!({}), [true, true, true]),
    ];
    for (filter, expected) in table {
        let whole = json!({ "account_data": filter, "room": { "account_data": filter } }).to_string();
        let sync = alice.hears_filtered(&since, &whole);
        let shown = ["a.one", "a.two", "b.one"].map(|kind| !heard(&sync, kind).is_empty());
        assert_eq!(shown, expected, "{filter}");
        let shown = ["a.one", "a.two", "b.one"].map(|kind| !heard_of(&sync, &room, kind).is_empty());
        assert_eq!(shown, expected, "{filter}");
    }
    let filter = json!({ "account_data": { "types": ["a.two"] }, "room": { "account_data": { "types": ["b.*"] } } });
    let kept = alice.post(&format!("/user/{}/filter", encode(&alice.id)), filter).ok();
    let sync = alice.hears_filtered(&since, kept["filter_id"].as_str().expect("a filter id"));
    let shown = ["a.one", "a.two", "b.one"].map(|kind| (heard(&sync, kind).len(), heard_of(&sync, &room, kind).len()));
    assert_eq!(shown, [(0, 0), (1, 0), (0, 1)], "a filter kept here: {}", sync.body);
}

fn filters_choose_rooms(server: &Server) {
    let alice = server.registers("alice");
    let (one, other) = (alice.creates_room(json!({})), alice.creates_room(json!({})));
    let since = alice.syncs().next_batch;
    for room in [&one, &other] {
        alice.put(&of_room(&alice, room, "a.b"), json!({})).ok();
    }
    for filter in [
        json!({ "room": { "rooms": [one] } }),
        json!({ "room": { "not_rooms": [other] } }),
        json!({ "room": { "account_data": { "rooms": [one] } } }),
        json!({ "room": { "account_data": { "not_rooms": [other] } } }),
    ] {
        let sync = alice.hears_filtered(&since, &filter.to_string());
        assert_eq!(heard_of(&sync, &one, "a.b"), [json!({})], "{filter}");
        assert!(sync.joined(&other).is_null(), "{filter}: {}", sync.body);
    }
}

/// «device_unused_fallback_key_types: Required.»
fn a_sync_counts_no_keys(server: &Server) {
    let alice = server.registers("alice");
    let sync = alice.syncs();
    for sync in [alice.syncs_since(&sync.next_batch), sync] {
        assert_eq!(sync.body["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(sync.body["device_unused_fallback_key_types"], json!([]));
    }
}
