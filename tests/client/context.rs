//! Spec: client-server API, «Event Context».

use harness::{Server, User, Value, bodies, json, on_each_host};

on_each_host![
    an_event_stands_between_what_was_before_and_after,
    ten_events_surround_it_by_default,
    the_limit_is_for_both_sides_together,
    at_the_ends_of_the_room_there_is_less,
    its_tokens_lead_on,
    the_state_is_as_of_the_last_event,
    members_are_loaded_lazily,
    a_filter_does_not_touch_the_event_itself,
    the_hidden_is_not_shown,
    strangers_learn_nothing,
    what_was_redacted_stays_so,
];

/// A room of Alice's with messages 1 to 21, and the ids of their events.
fn numbered_room(alice: &User) -> (String, Vec<String>) {
    let room = alice.creates_room(json!({}));
    let ids = (1..=21).map(|number| alice.sends(&room, &number.to_string())).collect();
    (room, ids)
}

fn list<'a>(context: &'a Value, part: &str) -> &'a Vec<Value> {
    context[part].as_array().unwrap_or_else(|| panic!("{part} in {context}"))
}

fn an_event_stands_between_what_was_before_and_after(server: &Server) {
    let alice = server.registers("alice");
    let (room, ids) = numbered_room(&alice);
    let context = alice.context(&room, &ids[10], &[("limit", "4")]).ok();
    assert_eq!(context["event"]["content"]["body"], "11");
    assert_eq!(bodies(list(&context, "events_before")), ["10", "9"]);
    assert_eq!(bodies(list(&context, "events_after")), ["12", "13"]);
    for event in list(&context, "events_before").iter().chain([&context["event"]]) {
        assert_eq!((&event["room_id"], &event["sender"]), (&json!(room), &json!(alice.id)));
        assert!(event["origin_server_ts"].is_u64() && event["hashes"].is_null(), "{event}");
    }
}

fn ten_events_surround_it_by_default(server: &Server) {
    let alice = server.registers("alice");
    let (room, ids) = numbered_room(&alice);
    let context = alice.context(&room, &ids[10], &[]).ok();
    assert_eq!(bodies(list(&context, "events_before")), ["10", "9", "8", "7", "6"]);
    assert_eq!(bodies(list(&context, "events_after")), ["12", "13", "14", "15", "16"]);
}

fn the_limit_is_for_both_sides_together(server: &Server) {
    let alice = server.registers("alice");
    let (room, ids) = numbered_room(&alice);
    for limit in [0, 1, 2, 3, 7, 18] {
        let context = alice.context(&room, &ids[10], &[("limit", &limit.to_string())]).ok();
        let around = list(&context, "events_before").len() + list(&context, "events_after").len();
        assert_eq!((around, &context["event"]["event_id"]), (limit, &json!(ids[10])), "{context}");
    }
    alice.context(&room, &ids[10], &[("limit", "-1")]).status(400);
    alice.context(&room, &ids[10], &[("limit", "many")]).status(400);
}

fn at_the_ends_of_the_room_there_is_less(server: &Server) {
    let alice = server.registers("alice");
    let (room, ids) = numbered_room(&alice);
    let last = alice.context(&room, &ids[20], &[("limit", "4")]).ok();
    assert!(list(&last, "events_after").is_empty());
    let create = alice.pages_back(&room, None, 100).pop().expect("the create event");
    let first = alice.context(&room, create["event_id"].as_str().expect("an id"), &[("limit", "4")]).ok();
    assert_eq!(first["event"]["type"], "m.room.create");
    assert!(list(&first, "events_before").is_empty());
    assert_eq!(list(&first, "events_after").len(), 2);
}

fn its_tokens_lead_on(server: &Server) {
    let alice = server.registers("alice");
    let (room, ids) = numbered_room(&alice);
    for limit in ["0", "1", "4"] {
        let context = alice.context(&room, &ids[10], &[("limit", limit)]).ok();
        let page = |dir: &str, token: &str| {
            let from = context[token].as_str().expect("a token");
            let pairs = [("dir", dir), ("from", from), ("limit", "100")];
            bodies(list(&alice.messages(&room, &pairs).ok(), "chunk"))
        };
        let mut earlier = page("b", "start");
        earlier.reverse();
        let mut before = bodies(list(&context, "events_before"));
        before.reverse();
        let event = vec!["11".to_owned()];
        let all = [earlier, before, event, bodies(list(&context, "events_after")), page("f", "end")].concat();
        assert_eq!(all, (1..=21).map(|number| number.to_string()).collect::<Vec<_>>(), "limit {limit}");
    }
    // From one end to the other.
    let context = alice.context(&room, &ids[10], &[("limit", "4")]).ok();
    let (start, end) = (context["start"].as_str().expect("a token"), context["end"].as_str().expect("a token"));
    let page = alice.messages(&room, &[("dir", "f"), ("from", start), ("to", end), ("limit", "100")]).ok();
    assert_eq!(bodies(list(&page, "chunk")), ["9", "10", "11", "12", "13"]);
}

fn the_state_is_as_of_the_last_event(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "One" }));
    let one = alice.sends(&room, "one");
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Two" })).ok();
    let two = alice.sends(&room, "two");
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Three" })).ok();
    for (event, limit, expected) in [(&one, "0", "One"), (&two, "0", "Two"), (&one, "4", "Two"), (&two, "4", "Three")] {
        let context = alice.context(&room, event, &[("limit", limit)]).ok();
        let state = list(&context, "state");
        let name = state.iter().find(|event| event["type"] == "m.room.name").expect("a name");
        assert_eq!(name["content"]["name"], expected, "limit {limit}");
        let create = state.iter().filter(|event| event["type"] == "m.room.create");
        assert_eq!(create.count(), 1);
    }
}

fn members_are_loaded_lazily(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob, &carol]);
    alice.sends(&room, "from alice");
    let said = bob.sends(&room, "from bob");
    let members = |filter: Value| {
        let context = alice.context(&room, &said, &[("limit", "1"), ("filter", &filter.to_string())]).ok();
        assert_eq!(list(&context, "state").iter().filter(|event| event["type"] == "m.room.create").count(), 1);
        let members = list(&context, "state").iter().filter(|event| event["type"] == "m.room.member");
        let mut ids: Vec<_> = members.map(|event| event["state_key"].as_str().expect("a key").to_owned()).collect();
        ids.sort();
        ids
    };
    let mut everyone = [&alice.id, &bob.id, &carol.id].map(String::clone);
    everyone.sort();
    assert_eq!(members(json!({})), everyone);
    assert_eq!(members(json!({ "lazy_load_members": true })), *std::slice::from_ref(&bob.id));
    alice.sends(&room, "from alice again");
    let mut shown = [&alice.id, &bob.id].map(String::clone);
    shown.sort();
    assert_eq!(members(json!({ "lazy_load_members": true })), shown);
}

fn a_filter_does_not_touch_the_event_itself(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    bob.sends(&room, "before");
    alice.sends(&room, "not this");
    let said = alice.sends(&room, "hello");
    alice.sends_event(&room, "org.example.other", "t", json!({})).ok();
    bob.sends(&room, "after");
    let filter = json!({ "senders": [bob.id], "types": ["m.room.message"] }).to_string();
    let context = alice.context(&room, &said, &[("filter", &filter)]).ok();
    assert_eq!(context["event"]["content"]["body"], "hello");
    assert_eq!(bodies(list(&context, "events_before")), ["before"]);
    assert_eq!(bodies(list(&context, "events_after")), ["after"]);
    assert!(list(&context, "state").is_empty());
    let filter = json!({ "types": ["m.room.create"] }).to_string();
    let context = alice.context(&room, &said, &[("limit", "0"), ("filter", &filter)]).ok();
    assert_eq!(list(&context, "state").len(), 1);
    alice.context(&room, &said, &[("filter", "{")]).status(400);
}

fn the_hidden_is_not_shown(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let content = json!({ "history_visibility": "joined" });
    let room = alice.creates_room(json!({
        "preset": "public_chat",
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    let hidden = alice.sends(&room, "among us");
    bob.joins(&room).ok();
    let said = alice.sends(&room, "welcome");
    bob.leaves(&room).ok();
    let after = alice.sends(&room, "he is gone");
    for unseen in [&hidden, &after, "$nothing"] {
        bob.context(&room, unseen, &[]).refused(404, "M_NOT_FOUND");
    }
    let context = bob.context(&room, &said, &[("limit", "50")]).ok();
    let shown = context.to_string();
    assert!(!shown.contains("among us") && !shown.contains("he is gone"), "{shown}");
    let kinds: Vec<_> = list(&context, "events_after").iter().map(|event| &event["content"]["membership"]).collect();
    assert_eq!(kinds, ["leave"]);
}

fn strangers_learn_nothing(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let said = alice.sends(&room, "hello");
    let known = mallory.context(&room, &said, &[]).refused(403, "M_FORBIDDEN");
    assert_eq!(mallory.context("!nowhere:nowhere", &said, &[]).refused(403, "M_FORBIDDEN"), known);
    bob.context(&room, &said, &[]).refused(403, "M_FORBIDDEN");
    let elsewhere = mallory.creates_room(json!({}));
    mallory.context(&elsewhere, &said, &[]).refused(404, "M_NOT_FOUND");
}

fn what_was_redacted_stays_so(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let (secret, said) = (alice.sends(&room, "a secret"), alice.sends(&room, "hello"));
    let redaction = alice.redacts(&room, &secret, "1").ok()["event_id"].clone();
    let context = alice.context(&room, &said, &[]).ok();
    assert!(!context.to_string().contains("a secret"));
    let before = &list(&context, "events_before")[0];
    assert_eq!((&before["content"], &before["unsigned"]["redacted_because"]["event_id"]), (&json!({}), &redaction));
    let event = &alice.context(&room, &secret, &[]).ok()["event"];
    assert_eq!((&event["content"], &event["unsigned"]["redacted_because"]["event_id"]), (&json!({}), &redaction));
}
