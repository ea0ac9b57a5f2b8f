//! Spec: client-server API, «Syncing»: limited timelines, the state in a gap, closing it with /messages.

use std::collections::BTreeSet;

use harness::{Server, Sync, User, Value, bodies, event_ids, json, on_each_host};

on_each_host![
    a_long_absence_gives_a_limited_timeline,
    the_gap_is_closed_by_messages,
    state_of_the_gap_is_told,
    state_that_was_redacted_in_the_gap_is_told,
    state_of_the_timeline_is_not_told_twice,
    a_gap_leaves_no_event_out,
    an_initial_sync_and_its_past_are_everything,
];

fn syncs_with_limit(user: &User, since: &str, limit: u32) -> Sync {
    user.hears_filtered(since, &json!({ "room": { "timeline": { "limit": limit } } }).to_string())
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn a_long_absence_gives_a_limited_timeline(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.sends_numbers(&room, 1..=30);
    let sync = syncs_with_limit(&bob, &since, 5);
    assert!(sync.is_limited(&room));
    assert_eq!(sync.messages(&room), numbers(26..=30));
    alice.sends(&room, "31");
    let next = syncs_with_limit(&bob, &sync.next_batch, 5);
    assert!(!next.is_limited(&room));
    assert_eq!(next.messages(&room), ["31"]);
}

fn the_gap_is_closed_by_messages(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "before");
    let since = bob.syncs().next_batch;
    alice.sends_numbers(&room, 1..=30);
    let sync = syncs_with_limit(&bob, &since, 5);
    let mut from = sync.prev_batch(&room).to_owned();
    let mut missed = Vec::new();
    for _page in 0..30 {
        let page = bob.messages(&room, &[("dir", "b"), ("from", &from), ("to", &since), ("limit", "4")]).ok();
        let chunk = page["chunk"].as_array().expect("a chunk").clone();
        missed.extend(bodies(&chunk));
        match page["end"].as_str() {
            Some(end) if !chunk.is_empty() => from = end.to_owned(),
            _ => break,
        }
    }
    missed.reverse();
    assert_eq!(missed, numbers(1..=25));
}

/// «This delta explains how to build the state prior to returned timeline»: who is not shown the redaction knows the
/// old words.
fn state_that_was_redacted_in_the_gap_is_told(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let topic = alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "Rude" })).ok();
    let topic = topic["event_id"].as_str().unwrap();
    let since = bob.syncs().next_batch;
    alice.redacts(&room, topic, "r").ok();
    let near = bob.hears_since(&since);
    assert!(near.state(&room).is_empty(), "the timeline tells it: {:?}", near.state(&room));
    alice.sends_numbers(&room, 1..=10);
    let sync = syncs_with_limit(&bob, &since, 5);
    assert!(sync.is_limited(&room));
    let state = sync.state(&room);
    assert_eq!(event_ids(&state), [topic]);
    assert_eq!(state[0]["content"], json!({}));
    let next = syncs_with_limit(&bob, &sync.next_batch, 5);
    assert!(next.state(&room).is_empty(), "once: {:?}", next.state(&room));
}

fn state_of_the_gap_is_told(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "First" })).ok();
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Second" })).ok();
    alice.invites(&room, &carol).ok();
    alice.sends_numbers(&room, 1..=10);
    let sync = syncs_with_limit(&bob, &since, 5);
    let state = sync.state(&room);
    let of = |kind: &str| state.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("m.room.name").len(), 1, "{state:?}");
    assert_eq!(of("m.room.name")[0]["content"]["name"], "Second");
    assert_eq!(of("m.room.member").len(), 1, "{state:?}");
    assert_eq!(of("m.room.member")[0]["state_key"], carol.id);
    assert_eq!(state.len(), 2, "only what changed: {state:?}");
}

fn state_of_the_timeline_is_not_told_twice(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Before" })).ok();
    let since = bob.syncs().next_batch;
    alice.sends_numbers(&room, 1..=10);
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "In the timeline" })).ok();
    let sync = syncs_with_limit(&bob, &since, 3);
    assert!(sync.is_limited(&room) && sync.state(&room).is_empty(), "{}", sync.joined(&room));
    let named = sync.timeline(&room).pop().expect("an event");
    assert_eq!(named["content"]["name"], "In the timeline");
    assert_eq!(named["unsigned"]["prev_content"]["name"], "Before");
}

/// Bob syncs now and then with a small limit and closes each gap: in the end he knows every event once.
fn a_gap_leaves_no_event_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut since = bob.syncs().next_batch;
    let mut sent = Vec::new();
    let mut known: Vec<Value> = Vec::new();
    for burst in [1, 7, 2, 12, 3, 3, 20] {
        for number in 0..burst {
            sent.push(alice.sends(&room, &format!("{number} of {burst}")));
        }
        let sync = syncs_with_limit(&bob, &since, 3);
        if sync.is_limited(&room) {
            let pairs = [("dir", "b"), ("from", sync.prev_batch(&room)), ("to", since.as_str()), ("limit", "100")];
            let mut missed = bob.messages(&room, &pairs).ok()["chunk"].as_array().expect("a chunk").clone();
            missed.reverse();
            known.extend(missed);
        }
        known.extend(sync.timeline(&room));
        since = sync.next_batch;
    }
    assert_eq!(event_ids(&known), sent);
}

fn an_initial_sync_and_its_past_are_everything(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends_numbers(&room, 1..=30);
    let sync = bob.syncs();
    let mut events = bob.pages_back(&room, Some(sync.prev_batch(&room)), 9);
    events.reverse();
    events.extend(sync.timeline(&room));
    assert_eq!(bodies(&events), numbers(1..=30));
    let unique: BTreeSet<_> = event_ids(&events).into_iter().collect();
    assert_eq!(unique.len(), events.len());
    assert_eq!(events[0]["type"], "m.room.create");
}
