//! Spec: client-server API, «Getting events for a room»: /messages.

use harness::{Server, User, Value, bodies, event_ids, json, on_each_host};

on_each_host![
    pages_go_back_from_the_end,
    pages_go_forward_from_the_start,
    ten_events_are_a_page_by_default,
    every_page_size_reads_everything_once,
    the_last_page_has_no_end,
    a_page_tells_where_it_starts,
    a_sync_token_is_a_place,
    next_batch_is_a_place_too,
    a_page_stops_at_to,
    going_forward_again_meets_what_is_new,
    events_are_shown_as_clients_know_them,
    a_direction_is_required,
    a_bad_token_is_refused,
    strangers_read_nothing,
    a_late_joiner_begins_where_their_sight_does,
    a_world_readable_room_is_paged_from_a_sync_too,
    limits_are_numbers,
    whoever_left_pages_up_to_the_leave,
];

/// A room of Alice's with messages 1 to 25.
fn numbered_room(alice: &User) -> String {
    let room = alice.creates_room(json!({}));
    alice.sends_numbers(&room, 1..=25);
    room
}

fn chunk(page: &Value) -> &Vec<Value> {
    page["chunk"].as_array().expect("a chunk")
}

fn numbers(range: impl Iterator<Item = u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn pages_go_back_from_the_end(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "5")]).ok();
    assert_eq!(bodies(chunk(&page)), numbers((21..=25).rev()));
    let end = page["end"].as_str().expect("there is more");
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "5"), ("from", end)]).ok();
    assert_eq!(bodies(chunk(&page)), numbers((16..=20).rev()));
}

fn pages_go_forward_from_the_start(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let mut from: Option<String> = None;
    let mut events = Vec::new();
    for _page in 0..100 {
        let mut pairs = vec![("dir", "f"), ("limit", "7")];
        pairs.extend(from.as_deref().map(|from| ("from", from)));
        let page = alice.messages(&room, &pairs).ok();
        events.extend(chunk(&page).iter().cloned());
        match page["end"].as_str() {
            Some(end) if !chunk(&page).is_empty() => from = Some(end.to_owned()),
            _ => break,
        }
    }
    assert_eq!(events.first().expect("an event")["type"], "m.room.create");
    assert_eq!(bodies(&events), numbers(1..=25));
}

fn ten_events_are_a_page_by_default(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let page = alice.messages(&room, &[("dir", "b")]).ok();
    assert_eq!(bodies(chunk(&page)), numbers((16..=25).rev()));
}

fn every_page_size_reads_everything_once(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let whole = alice.pages_back(&room, None, 1000);
    assert_eq!(bodies(&whole), numbers((1..=25).rev()));
    assert_eq!(whole.last().expect("an event")["type"], "m.room.create");
    for limit in [1, 2, 3, 7, 10, 25] {
        assert_eq!(event_ids(&alice.pages_back(&room, None, limit)), event_ids(&whole), "limit {limit}");
    }
}

fn the_last_page_has_no_end(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "1000")]).ok();
    match page["end"].as_str() {
        None => {}
        Some(end) => {
            let rest = alice.messages(&room, &[("dir", "b"), ("from", end)]).ok();
            assert!(chunk(&rest).is_empty() && rest["end"].is_null(), "{rest}");
        }
    }
}

fn a_page_tells_where_it_starts(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "5")]).ok();
    assert!(page["start"].is_string(), "{page}");
    let end = page["end"].as_str().expect("there is more");
    let next = alice.messages(&room, &[("dir", "b"), ("limit", "5"), ("from", end)]).ok();
    assert_eq!(next["start"], end);
}

fn a_sync_token_is_a_place(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let sync = alice.syncs();
    let shown = sync.messages(&room);
    assert!(sync.is_limited(&room) && shown.last().is_some_and(|body| body == "25"), "{shown:?}");
    let mut earlier = bodies(&alice.pages_back(&room, Some(sync.prev_batch(&room)), 4));
    earlier.reverse();
    assert_eq!([earlier, shown].concat(), numbers(1..=25));
}

fn next_batch_is_a_place_too(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let since = alice.syncs().next_batch;
    alice.sends_numbers(&room, 26..=30);
    assert_eq!(bodies(&alice.pages_back(&room, Some(&since), 6)), numbers((1..=25).rev()));
    let page = alice.messages(&room, &[("dir", "f"), ("from", &since), ("limit", "50")]).ok();
    assert_eq!(bodies(chunk(&page)), numbers(26..=30));
}

fn a_page_stops_at_to(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends_numbers(&room, 1..=5);
    let early = alice.syncs().next_batch;
    alice.sends_numbers(&room, 6..=15);
    let late = alice.syncs().next_batch;
    alice.sends_numbers(&room, 16..=20);
    let between = |dir: &str, from: &str, to: &str| {
        let pairs = [("dir", dir), ("from", from), ("to", to), ("limit", "100")];
        bodies(chunk(&alice.messages(&room, &pairs).ok()))
    };
    assert_eq!(between("b", &late, &early), numbers((6..=15).rev()));
    assert_eq!(between("f", &early, &late), numbers(6..=15));
}

fn going_forward_again_meets_what_is_new(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "5")]).ok();
    let end = page["end"].as_str().expect("there is more");
    let forward = alice.messages(&room, &[("dir", "f"), ("from", end), ("limit", "50")]).ok();
    assert_eq!(bodies(chunk(&forward)), numbers(21..=25));
}

fn events_are_shown_as_clients_know_them(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    for event in alice.pages_back(&room, None, 100) {
        for field in ["event_id", "sender", "type", "room_id"] {
            assert!(event[field].is_string(), "{field} of {event}");
        }
        assert_eq!(event["room_id"], room);
        assert!(event["origin_server_ts"].is_u64() && event["content"].is_object(), "{event}");
        for inner in ["auth_events", "prev_events", "hashes", "signatures", "depth"] {
            assert!(event[inner].is_null(), "clients are not shown {inner}");
        }
    }
}

fn a_direction_is_required(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.messages(&room, &[("limit", "5")]).status(400);
    alice.messages(&room, &[("dir", "sideways")]).status(400);
}

fn a_bad_token_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for token in ["no token of ours", "t", "t-1", "tx", "s", "s1", "s1_x", "t99999999999999999999", "☃"] {
        for place in ["from", "to"] {
            alice.messages(&room, &[("dir", "b"), (place, token)]).refused(400, "M_INVALID_PARAM");
        }
    }
}

fn strangers_read_nothing(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let from = alice.syncs().next_batch;
    mallory.messages(&room, &[("dir", "b")]).refused(403, "M_FORBIDDEN");
    mallory.messages(&room, &[("dir", "b"), ("from", &from)]).refused(403, "M_FORBIDDEN");
    bob.messages(&room, &[("dir", "b")]).refused(403, "M_FORBIDDEN");
}

fn a_late_joiner_begins_where_their_sight_does(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let content = json!({ "history_visibility": "joined" });
    let room = alice.creates_room(json!({
        "preset": "public_chat",
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    alice.sends_numbers(&room, 1..=12);
    bob.joins(&room).ok();
    alice.sends_numbers(&room, 13..=14);
    let whole = bob.pages_back(&room, None, 100);
    assert_eq!(bodies(&whole), ["14", "13"]);
    // What is hidden between what they may see costs them no empty page.
    let page = bob.messages(&room, &[("dir", "b"), ("limit", &whole.len().to_string())]).ok();
    assert_eq!((chunk(&page).len(), &page["end"]), (whole.len(), &Value::Null), "{page}");
    let mut forward = Vec::new();
    let page = bob.messages(&room, &[("dir", "f"), ("limit", "100")]).ok();
    forward.extend(event_ids(chunk(&page)));
    forward.reverse();
    assert_eq!(forward, event_ids(&whole));
}

fn a_world_readable_room_is_paged_from_a_sync_too(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let content = json!({ "history_visibility": "world_readable" });
    let room = alice.creates_room(json!({
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    alice.sends_numbers(&room, 1..=3);
    // A token says when, by the clock; a burst in a room may be ahead of it by some events.
    let pages = (0..20).map(|_| {
        bob.creates_room(json!({}));
        let since = bob.syncs().next_batch;
        bodies(chunk(&bob.messages(&room, &[("dir", "b"), ("from", &since)]).ok()))
    });
    let whole = numbers((1..=3).rev());
    assert!(pages.inspect(|page| assert!(whole.ends_with(page))).any(|page| page == whole));
}

fn limits_are_numbers(server: &Server) {
    let alice = server.registers("alice");
    let room = numbered_room(&alice);
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "0")]).ok();
    assert!(chunk(&page).is_empty() && page["end"].is_string(), "{page}");
    let filter = json!({ "limit": 3 }).to_string();
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "7"), ("filter", &filter)]).ok();
    assert_eq!(chunk(&page).len(), 3, "the smaller of both");
    assert!(chunk(&alice.messages(&room, &[("dir", "b"), ("limit", "1000000")]).ok()).len() > 25);
    for limit in ["-1", "many", "1.5"] {
        alice.messages(&room, &[("dir", "b"), ("limit", limit)]).refused(400, "M_INVALID_PARAM");
    }
}

fn whoever_left_pages_up_to_the_leave(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends_numbers(&room, 1..=3);
    bob.leaves(&room).ok();
    alice.sends_numbers(&room, 4..=6);
    assert_eq!(bodies(&bob.pages_back(&room, None, 2)), ["3", "2", "1"]);
    let page = bob.messages(&room, &[("dir", "f"), ("limit", "100")]).ok();
    assert_eq!(bodies(chunk(&page)), ["1", "2", "3"]);
    assert!(page["end"].is_null(), "nothing further is theirs to see");
    let filter = json!({ "lazy_load_members": true }).to_string();
    let page = bob.messages(&room, &[("dir", "b"), ("limit", "3"), ("filter", &filter)]).ok();
    let members = page["state"].as_array().expect("members").iter().map(|event| event["state_key"].clone());
    assert_eq!(members.collect::<Vec<_>>().len(), 2, "{page}");
}
