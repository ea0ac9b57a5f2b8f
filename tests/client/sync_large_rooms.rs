//! Spec: client-server API, «Syncing», for rooms whose state is told in many pieces.

use std::collections::BTreeSet;

use harness::{Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![all_of_a_large_state_is_told, large_rooms_are_told_among_many];

/// State events, each almost as large as an event may be.
const EVENTS: usize = 40;
/// With the large one more than are told in one piece.
const SMALL_ROOMS: usize = 70;

fn large_room(user: &User) -> String {
    let room = user.creates_room(json!({}));
    for number in 0..EVENTS {
        let content = json!({ "number": number, "text": "x".repeat(60_000) });
        user.sets_state(&room, "org.example.large", &number.to_string(), content).ok();
    }
    room
}

/// The numbers that a room's state and timeline tell, each once in the state.
#[track_caller]
fn told(room: &Value, state: &str) -> BTreeSet<u64> {
    let events = |section: &str| room[section]["events"].as_array().expect("events").clone();
    let number = |event: &Value| event["content"]["number"].as_u64();
    let in_state: Vec<u64> = events(state).iter().filter_map(number).collect();
    let mut told: BTreeSet<u64> = in_state.iter().copied().collect();
    assert_eq!(told.len(), in_state.len(), "each once");
    told.extend(events("timeline").iter().filter_map(number));
    told
}

fn all_of_a_large_state_is_told(server: &Server) {
    let alice = server.registers("alice");
    let room = large_room(&alice);
    let all: BTreeSet<u64> = (0..EVENTS as u64).collect();
    let first = alice.syncs();
    assert_eq!(told(first.joined(&room), "state"), all);
    assert_eq!(first.joined(&room)["timeline"]["limited"], true);
    let path = format!("/user/{}/rooms/{}/account_data/org.example.colour", encode(&alice.id), encode(&room));
    alice.put(&path, json!({ "colour": "blue" })).ok();
    alice.sets_state(&room, "org.example.large", "7", json!({ "number": 7, "text": "changed" })).ok();

    let second = alice.syncs_since(&first.next_batch);
    assert_eq!(second.state(&room).len(), 0, "nothing changed before the timeline");
    for (name, value) in [("full_state", "true"), ("use_state_after", "true")] {
        let whole = if name == "full_state" { vec![("since", &*second.next_batch)] } else { Vec::new() };
        let query: Vec<_> = whole.into_iter().chain([(name, value), ("timeout", "0")]).collect();
        let sync = Sync::from(alice.asks_sync(&query));
        let (room, section) = (sync.joined(&room), if name == "full_state" { "state" } else { "state_after" });
        assert_eq!(told(room, section), all);
        let events = room[section]["events"].as_array().expect("state");
        let seventh = events.iter().find(|event| event["state_key"] == "7").expect("the seventh");
        assert_eq!(seventh["content"]["text"], "changed");
    }
    let again = alice.syncs();
    assert_eq!(again.joined(&room)["account_data"]["events"][0]["content"]["colour"], "blue");
    assert_eq!(told(again.joined(&room), "state"), all);

    let state = alice.full_state(&room).ok();
    let large = state.as_array().expect("events").iter().filter(|event| event["type"] == "org.example.large");
    assert_eq!(large.count(), EVENTS);
}

fn large_rooms_are_told_among_many(server: &Server) {
    let alice = server.registers("alice");
    let mut rooms: Vec<String> = (0..SMALL_ROOMS / 2).map(|_| alice.creates_room(json!({}))).collect();
    let large = [large_room(&alice), large_room(&alice)];
    rooms.extend((0..SMALL_ROOMS / 2).map(|_| alice.creates_room(json!({}))));
    let sync = alice.syncs();
    for room in &large {
        assert_eq!(told(sync.joined(room), "state").len(), EVENTS);
    }
    for room in &rooms {
        assert!(!sync.timeline(room).is_empty(), "{room}");
    }
    alice.sends(&large[0], "news");
    let next = alice.hears_since(&sync.next_batch);
    assert!(next.has_message(&large[0], "news"));
    assert_eq!(next.body["rooms"]["join"].as_object().expect("rooms").len(), 1);
}
