//! Spec: client-server API, «Filtering».

use harness::{Server, Sync, User, Value, bodies, event_ids, json, on_each_host};

on_each_host![
    a_filter_is_kept,
    a_filter_belongs_to_its_user,
    an_unknown_filter_is_not_found,
    a_malformed_filter_is_refused,
    sync_takes_a_filter_by_id_or_inline,
    the_timeline_is_limited,
    types_are_chosen,
    wildcards_match_types,
    senders_are_chosen,
    rooms_are_chosen,
    left_rooms_are_included_on_demand,
    messages_are_filtered_too,
    urls_are_chosen,
    what_is_excluded_wins,
    properties_are_chosen,
    events_come_as_servers_know_them,
    what_cannot_be_answered_is_refused,
];

fn filters(user: &User) -> String {
    format!("/user/{}/filter", user.id)
}

fn syncs_with(user: &User, filter: &Value) -> Sync {
    Sync::from(user.asks_sync(&[("filter", &filter.to_string()), ("timeout", "0")]))
}

fn a_filter_is_kept(server: &Server) {
    let alice = server.registers("alice");
    let filter = json!({ "room": { "timeline": { "limit": 3, "types": ["m.room.message"] } } });
    let made = alice.post(&filters(&alice), filter.clone()).ok();
    let id = made["filter_id"].as_str().expect("an id");
    assert!(!id.starts_with('{'), "must not look like an inline filter");
    assert_eq!(alice.get(&format!("{}/{id}", filters(&alice))).ok(), filter);
}

fn a_filter_belongs_to_its_user(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    bob.post(&filters(&alice), json!({})).status(403);
}

fn an_unknown_filter_is_not_found(server: &Server) {
    let alice = server.registers("alice");
    alice.get(&format!("{}/123456", filters(&alice))).refused(404, "M_NOT_FOUND");
}

fn a_malformed_filter_is_refused(server: &Server) {
    let alice = server.registers("alice");
    alice.post(&filters(&alice), json!({ "room": 5 })).status(400);
    alice.asks_sync(&[("filter", "{\"room\":"), ("timeout", "0")]).status(400);
}

fn sync_takes_a_filter_by_id_or_inline(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends_numbers(&room, 1..=5);
    let filter = json!({ "room": { "timeline": { "limit": 2 } } });
    let made = alice.post(&filters(&alice), filter.clone()).ok();
    let id = made["filter_id"].as_str().expect("an id");
    let by_id = Sync::from(alice.asks_sync(&[("filter", id), ("timeout", "0")]));
    let inline = syncs_with(&alice, &filter);
    assert_eq!(by_id.messages(&room), ["4", "5"]);
    assert_eq!(event_ids(&by_id.timeline(&room)), event_ids(&inline.timeline(&room)));
}

fn the_timeline_is_limited(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends_numbers(&room, 1..=5);
    for limit in 1..=5_usize {
        let sync = syncs_with(&alice, &json!({ "room": { "timeline": { "limit": limit } } }));
        assert_eq!(sync.timeline(&room).len(), limit);
        assert!(sync.is_limited(&room));
    }
    let sync = syncs_with(&alice, &json!({ "room": { "timeline": { "limit": 100 } } }));
    assert!(!sync.is_limited(&room));
    assert_eq!(sync.timeline(&room).first().expect("an event")["type"], "m.room.create");
    assert!(sync.state(&room).is_empty(), "all state is in the timeline");
    // What else there is the filter leaves out, and not the limit.
    for (limit, limited) in [(4, true), (5, false)] {
        let filter = json!({ "limit": limit, "types": ["m.room.message"] });
        let sync = syncs_with(&alice, &json!({ "room": { "timeline": filter } }));
        assert_eq!((sync.timeline(&room).len(), sync.is_limited(&room)), (limit, limited));
    }
}

fn types_are_chosen(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Types" }));
    alice.sends(&room, "hello");
    let only = syncs_with(&alice, &json!({ "room": { "timeline": { "types": ["m.room.message"] } } }));
    assert!(only.timeline(&room).iter().all(|event| event["type"] == "m.room.message"));
    assert_eq!(only.messages(&room), ["hello"]);
    let without = syncs_with(&alice, &json!({ "room": { "timeline": { "not_types": ["m.room.message"] } } }));
    assert!(without.messages(&room).is_empty());
    let state =
        syncs_with(&alice, &json!({ "room": { "timeline": { "limit": 1 }, "state": { "types": ["m.room.name"] } } }));
    let kinds: Vec<_> = state.state(&room).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["m.room.name"]);
}

fn wildcards_match_types(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends_event(&room, "org.example.one", "t1", json!({})).ok();
    alice.sends_event(&room, "org.other.two", "t2", json!({})).ok();
    let sync = syncs_with(&alice, &json!({ "room": { "timeline": { "types": ["org.example.*"] } } }));
    let kinds: Vec<_> = sync.timeline(&room).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["org.example.one"]);
}

fn senders_are_chosen(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "from alice");
    bob.sends(&room, "from bob");
    let only = syncs_with(&alice, &json!({ "room": { "timeline": { "senders": [bob.id] } } }));
    assert_eq!(only.messages(&room), ["from bob"]);
    let without = syncs_with(&alice, &json!({ "room": { "timeline": { "not_senders": [bob.id] } } }));
    assert_eq!(without.messages(&room), ["from alice"]);
}

fn rooms_are_chosen(server: &Server) {
    let alice = server.registers("alice");
    let (one, other) = (alice.creates_room(json!({})), alice.creates_room(json!({})));
    let only = syncs_with(&alice, &json!({ "room": { "rooms": [one] } }));
    assert!(only.joined(&one).is_object() && only.joined(&other).is_null());
    let without = syncs_with(&alice, &json!({ "room": { "not_rooms": [one] } }));
    assert!(without.joined(&one).is_null() && without.joined(&other).is_object());

    let timeline = json!({ "room": { "timeline": { "not_rooms": [one] }, "state": { "rooms": [other] } } });
    let without = syncs_with(&alice, &timeline);
    assert!(without.timeline(&one).is_empty() && without.state(&one).is_empty(), "{}", without.joined(&one));
    assert!(!without.timeline(&other).is_empty());

    let bob = server.registers("bob");
    alice.invites(&one, &bob).ok();
    assert!(!syncs_with(&bob, &json!({ "room": { "rooms": [one] } })).invite_state(&one).is_empty());
    assert!(syncs_with(&bob, &json!({ "room": { "rooms": [other] } })).invite_state(&one).is_empty());
    assert!(syncs_with(&bob, &json!({ "room": { "not_rooms": [one] } })).invite_state(&one).is_empty());
}

fn left_rooms_are_included_on_demand(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.leaves(&room).ok();
    assert!(alice.syncs().left(&room).is_null());
    let sync = syncs_with(&alice, &json!({ "room": { "include_leave": true } }));
    assert!(sync.left(&room).is_object());
}

fn messages_are_filtered_too(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "from alice");
    bob.sends(&room, "from bob");
    let filter = json!({ "types": ["m.room.message"], "not_senders": [alice.id] }).to_string();
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "50"), ("filter", &filter)]).ok();
    let chunk = page["chunk"].as_array().expect("a chunk");
    assert_eq!(bodies(chunk), ["from bob"]);
    assert_eq!(chunk.len(), 1);
}

fn urls_are_chosen(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends(&room, "no picture");
    let picture = json!({ "msgtype": "m.image", "body": "picture", "url": "mxc://example.org/cat" });
    alice.sends_event(&room, "m.room.message", "picture", picture).ok();
    for (wanted, expected) in [(true, ["picture"]), (false, ["no picture"])] {
        let filter = json!({ "contains_url": wanted, "types": ["m.room.message"] });
        assert_eq!(syncs_with(&alice, &json!({ "room": { "timeline": filter } })).messages(&room), expected);
        let page = alice.messages(&room, &[("dir", "b"), ("filter", &filter.to_string())]).ok();
        assert_eq!(bodies(page["chunk"].as_array().expect("a chunk")), expected);
    }
    // Whatever it is.
    alice.sends_event(&room, "org.example.a", "odd", json!({ "url": 7 })).ok();
    let filter = json!({ "room": { "timeline": { "contains_url": true, "types": ["org.example.a"] } } });
    assert_eq!(syncs_with(&alice, &filter).timeline(&room).len(), 1);
}

fn what_is_excluded_wins(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends_event(&room, "org.example.one", "t1", json!({})).ok();
    alice.sends(&room, "from alice");
    bob.sends(&room, "from bob");
    for (filter, expected) in [
        (json!({ "types": ["*"], "not_types": ["m.room.*"] }), json!(["org.example.one"])),
        (json!({ "types": ["m.room.message"], "not_types": ["m.room.message"] }), json!([])),
        (
            json!({ "types": ["org.*", "m.room.message"], "senders": [alice.id, bob.id], "not_senders": [bob.id] }),
            json!(["org.example.one", "m.room.message"]),
        ),
        (json!({ "types": [] }), json!([])),
        (json!({ "senders": [] }), json!([])),
    ] {
        let sync = syncs_with(&alice, &json!({ "room": { "timeline": filter } }));
        let kinds: Vec<_> = sync.timeline(&room).iter().map(|event| event["type"].clone()).collect();
        assert_eq!(json!(kinds), expected, "{filter}");
    }
}

fn properties_are_chosen(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Tea" }));
    let content = json!({ "body": "hi", "msgtype": "m.text", "m.relates_to": { "rel_type": "m.x", "key": "k" } });
    alice.sends_event(&room, "m.room.message", "t", content).ok();
    let fields = ["type", "content.body", r"content.m\.relates_to.rel_type"];
    let filter = json!({ "event_fields": fields, "room": { "timeline": { "limit": 1 } } });
    let made = alice.post(&filters(&alice), filter.clone()).ok();
    let id = made["filter_id"].as_str().expect("an id");
    for sync in [syncs_with(&alice, &filter), Sync::from(alice.asks_sync(&[("filter", id), ("timeout", "0")]))] {
        let expected = json!({
            "type": "m.room.message",
            "content": { "body": "hi", "m.relates_to": { "rel_type": "m.x" } },
        });
        assert_eq!(sync.timeline(&room), [expected]);
        assert!(sync.state(&room).contains(&json!({ "type": "m.room.name" })), "{:?}", sync.state(&room));
    }
}

fn events_come_as_servers_know_them(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = alice.sends(&room, "hi");
    let sync = syncs_with(&alice, &json!({ "event_format": "federation" }));
    let timeline = sync.timeline(&room);
    let event = timeline.iter().find(|event| event["event_id"] == said).expect("the message");
    for field in ["auth_events", "prev_events", "hashes", "signatures", "depth"] {
        assert!(!event[field].is_null(), "{field} of {event}");
    }
    assert_eq!((&event["room_id"], &event["content"]["body"]), (&json!(room), &json!("hi")));
    assert!(event["unsigned"]["transaction_id"].is_string());
    let usual = syncs_with(&alice, &json!({ "event_format": "client" })).timeline(&room);
    assert!(!usual.is_empty() && usual.iter().all(|event| event["hashes"].is_null() && event["room_id"].is_null()));
}

fn what_cannot_be_answered_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let many = vec!["m.*"; 5_000];
    for filter in [
        json!({ "event_format": "xml" }),
        json!({ "event_fields": "type" }),
        json!({ "room": { "timeline": { "limit": -1 } } }),
        json!({ "room": { "timeline": { "limit": "ten" } } }),
        json!({ "room": { "rooms": ["no room"] } }),
        json!({ "room": { "state": { "not_senders": ["nobody"] } } }),
        json!({ "room": { "timeline": { "lazy_load_members": "yes" } } }),
        json!({ "presence": { "types": "m.presence" } }),
        json!({ "room": { "timeline": { "types": many } } }),
    ] {
        alice.post(&filters(&alice), filter).refused(400, "M_BAD_JSON");
    }
    for filter in [json!({ "limit": -1 }), json!({ "rooms": ["no room"] }), json!([]), json!({ "types": "m.*" })] {
        alice.messages(&room, &[("dir", "b"), ("filter", &filter.to_string())]).status(400);
    }
    for filter in [json!({ "event_format": "xml" }), json!({ "room": { "timeline": { "limit": -1 } } })] {
        alice.asks_sync(&[("filter", &filter.to_string()), ("timeout", "0")]).refused(400, "M_BAD_JSON");
    }
}
