//! Spec: client-server API, «Getting events for a room»: /timestamp_to_event.

use std::time::Duration;

use harness::{Server, User, json, on_each_host};

on_each_host![
    the_closest_event_is_found,
    an_event_is_close_to_its_own_time,
    beyond_the_ends_there_is_nothing,
    the_hidden_is_passed_over,
    strangers_find_nothing,
    a_time_and_a_direction_are_required,
    what_is_found_has_a_context,
];

/// Sends a message and answers its id and its time, some milliseconds away from those of others.
fn says(alice: &User, room: &str, text: &str) -> (String, u64) {
    std::thread::sleep(Duration::from_millis(10));
    let id = alice.sends(room, text);
    let time = alice.event(room, &id).ok()["origin_server_ts"].as_u64().expect("a time");
    std::thread::sleep(Duration::from_millis(10));
    (id, time)
}

#[track_caller]
fn finds(user: &User, room: &str, ts_ms: u64, dir: &str, (id, time): &(String, u64)) {
    let found = user.event_at(room, ts_ms, dir).ok();
    assert_eq!(found, json!({ "event_id": id, "origin_server_ts": time }), "{dir} {ts_ms}");
}

fn the_closest_event_is_found(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = ["one", "two", "three"].map(|text| says(&alice, &room, text));
    for (number, pair) in said.windows(2).enumerate() {
        let between = pair[0].1.midpoint(pair[1].1);
        finds(&alice, &room, between, "b", &said[number]);
        finds(&alice, &room, between, "f", &said[number + 1]);
        finds(&alice, &room, pair[0].1 + 1, "f", &said[number + 1]);
        finds(&alice, &room, pair[1].1 - 1, "b", &said[number]);
    }
}

fn an_event_is_close_to_its_own_time(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = ["one", "two", "three"].map(|text| says(&alice, &room, text));
    for (id, time) in said {
        for dir in ["f", "b"] {
            finds(&alice, &room, time, dir, &(id.clone(), time));
        }
    }
}

fn beyond_the_ends_there_is_nothing(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let last = says(&alice, &room, "last");
    let create = alice.pages_back(&room, None, 100).pop().expect("the create event");
    let time = create["origin_server_ts"].as_u64().expect("a time");
    let id = create["event_id"].as_str().expect("an id").to_owned();
    finds(&alice, &room, 0, "f", &(id, time));
    finds(&alice, &room, last.1 + 1_000_000_000, "b", &last);
    alice.event_at(&room, time - 1, "b").refused(404, "M_NOT_FOUND");
    alice.event_at(&room, last.1 + 1, "f").refused(404, "M_NOT_FOUND");
}

fn the_hidden_is_passed_over(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let content = json!({ "history_visibility": "joined" });
    let room = alice.creates_room(json!({
        "preset": "public_chat",
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    let hidden = says(&alice, &room, "among us");
    bob.joins(&room).ok();
    let seen = says(&alice, &room, "welcome");
    bob.leaves(&room).ok();
    let gone = says(&alice, &room, "he is gone");
    // The first he may see is his own joining, the last his leaving.
    for (ts_ms, dir, membership) in [(hidden.1, "f", "join"), (gone.1, "b", "leave")] {
        let found = bob.event_at(&room, ts_ms, dir).ok();
        let event = bob.event(&room, found["event_id"].as_str().expect("an id")).ok();
        assert_eq!((&event["state_key"], &event["content"]["membership"]), (&json!(bob.id), &json!(membership)));
    }
    finds(&bob, &room, seen.1, "f", &seen);
    // Before the setting, history was shared: he sees how the room began.
    let found = bob.event_at(&room, hidden.1, "b").ok();
    assert!(found["origin_server_ts"].as_u64().expect("a time") < hidden.1, "{found}");
    bob.event_at(&room, gone.1, "f").refused(404, "M_NOT_FOUND");
    finds(&alice, &room, hidden.1, "b", &hidden);
}

fn strangers_find_nothing(server: &Server) {
    let (alice, mallory) = (server.registers("alice"), server.registers("mallory"));
    let room = alice.creates_room(json!({}));
    let known = mallory.event_at(&room, 0, "f").refused(403, "M_FORBIDDEN");
    assert_eq!(mallory.event_at("!nowhere:nowhere", 0, "f").refused(403, "M_FORBIDDEN"), known);
}

fn a_time_and_a_direction_are_required(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event");
    for query in ["", "?ts=1", "?dir=f", "?ts=1&dir=x", "?ts=soon&dir=f", "?ts=-1&dir=f"] {
        alice.client().get(&format!("{path}{query}")).status(400);
    }
}

fn what_is_found_has_a_context(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = says(&alice, &room, "hello");
    let found = alice.event_at(&room, said.1, "f").ok();
    let context = alice.context(&room, found["event_id"].as_str().expect("an id"), &[]).ok();
    assert_eq!(context["event"]["content"]["body"], "hello");
}
