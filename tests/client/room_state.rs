//! Spec: client-server API, «Getting events for a room» and «Sending events to a room» (state), «Permissions».

use harness::{Server, Sync, User, Value, json, on_each_host, query};

on_each_host![
    state_is_set_and_read,
    the_state_key_may_be_left_out,
    state_that_was_never_set_is_not_found,
    state_may_be_read_as_an_event,
    a_strange_format_is_refused,
    state_says_what_it_replaced,
    all_state_is_listed,
    an_event_is_read_by_its_id,
    strangers_read_nothing,
    members_are_listed_and_filtered,
    members_are_listed_as_they_were,
    joined_members_are_members_only,
    joined_rooms_are_listed,
    too_little_power_is_forbidden,
    power_may_be_granted,
    power_beyond_ones_own_is_not_ours_to_give,
    a_state_key_of_a_user_belongs_to_the_user,
    malformed_power_levels_are_refused,
    the_create_event_is_once,
];

fn state_is_set_and_read(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let set = alice.sets_state(&room, "org.example.thing", "with/slash ü", json!({ "value": 1 })).ok();
    assert!(set["event_id"].is_string());
    assert_eq!(alice.state(&room, "org.example.thing", "with/slash ü").ok(), json!({ "value": 1 }));
    alice.sets_state(&room, "org.example.thing", "with/slash ü", json!({ "value": 2 })).ok();
    assert_eq!(alice.state(&room, "org.example.thing", "with/slash ü").ok()["value"], 2);
}

fn the_state_key_may_be_left_out(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.put(&format!("/rooms/{room}/state/m.room.name"), json!({ "name": "No slash" })).ok();
    for path in ["m.room.name", "m.room.name/"] {
        assert_eq!(alice.get(&format!("/rooms/{room}/state/{path}")).ok()["name"], "No slash", "{path}");
    }
}

fn state_that_was_never_set_is_not_found(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.state(&room, "m.room.name", "").refused(404, "M_NOT_FOUND");
    alice.state(&room, "m.room.member", "@nobody:myelin.test").refused(404, "M_NOT_FOUND");
}

fn state_may_be_read_as_an_event(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "As an event" }));
    let event = alice.get(&format!("/rooms/{room}/state/m.room.name/?format=event")).ok();
    assert_eq!(event["content"]["name"], "As an event");
    assert_eq!((&event["sender"], &event["room_id"]), (&json!(alice.id), &json!(room)));
    assert!(event["event_id"].is_string() && event["origin_server_ts"].is_u64(), "{event}");
}

fn state_says_what_it_replaced(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let sets = |topic: &str| {
        let set = alice.sets_state(&room, "m.room.topic", "", json!({ "topic": topic })).ok();
        set["event_id"].as_str().expect("an id").to_owned()
    };
    let (first, second) = (sets("one"), sets("two"));
    let unsigned = |event_id: &str| bob.event(&room, event_id).ok()["unsigned"].clone();
    assert_eq!(unsigned(&first).get("replaces_state"), None);
    let of_second = unsigned(&second);
    assert_eq!((&of_second["replaces_state"], &of_second["prev_content"]), (&json!(first), &json!({ "topic": "one" })));
    let synced = bob.syncs().timeline(&room);
    let told = synced.iter().find(|event| event["event_id"] == *second).expect("the topic");
    assert_eq!(told["unsigned"]["replaces_state"], json!(first));
}

fn a_strange_format_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "As an event" }));
    let state = |format: &str| alice.get(&format!("/rooms/{room}/state/m.room.name?format={format}"));
    assert_eq!(state("content").ok(), json!({ "name": "As an event" }));
    state("xml").refused(400, "M_INVALID_PARAM");
}

fn all_state_is_listed(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Listed" }));
    let state = alice.full_state(&room).ok();
    let state = state.as_array().expect("a list");
    for kind in ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.name"] {
        let found: Vec<_> = state.iter().filter(|event| event["type"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}");
        for field in ["event_id", "sender", "state_key", "room_id"] {
            assert!(found[0][field].is_string(), "{field} of {}", found[0]);
        }
        for inner in ["auth_events", "prev_events", "hashes", "signatures", "depth"] {
            assert!(found[0][inner].is_null(), "clients are not shown {inner}");
        }
    }
}

fn an_event_is_read_by_its_id(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    let id = alice.sends(&room, "by id");
    let path = format!("/rooms/{room}/event/{}", harness::encode(&id));
    let event = alice.get(&path).ok();
    assert_eq!((&event["event_id"], &event["content"]["body"]), (&json!(id), &json!("by id")));
    alice.get(&format!("/rooms/{room}/event/%24nothing")).refused(404, "M_NOT_FOUND");
    let hidden = bob.get(&path).status;
    assert!(matches!(hidden, 403 | 404), "{hidden}");
}

fn strangers_read_nothing(server: &Server) {
    let (alice, mallory) = (server.registers("alice"), server.registers("mallory"));
    let room = alice.creates_room(json!({ "name": "Secret" }));
    mallory.full_state(&room).refused(403, "M_FORBIDDEN");
    mallory.state(&room, "m.room.name", "").refused(403, "M_FORBIDDEN");
    mallory.state(&room, "org.example.absent", "").refused(403, "M_FORBIDDEN");
    mallory.get(&format!("/rooms/{room}/members")).refused(403, "M_FORBIDDEN");
    mallory.get(&format!("/rooms/{room}/joined_members")).refused(403, "M_FORBIDDEN");
    mallory.messages(&room, &[("dir", "b")]).refused(403, "M_FORBIDDEN");
    // Nor whether there is a room at all.
    let nowhere = "!nowhere:myelin.test";
    mallory.full_state(nowhere).refused(403, "M_FORBIDDEN");
    mallory.state(nowhere, "m.room.name", "").refused(403, "M_FORBIDDEN");
    mallory.messages(nowhere, &[("dir", "b")]).refused(403, "M_FORBIDDEN");
}

fn members_are_listed_and_filtered(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    alice.invites(&room, &carol).ok();
    let members = |query: &str| {
        let list = alice.get(&format!("/rooms/{room}/members{query}")).ok();
        let mut members: Vec<_> =
            list["chunk"].as_array().expect("a chunk").iter().map(|e| e["state_key"].clone()).collect();
        members.sort_by_key(Value::to_string);
        members
    };
    assert_eq!(members(""), [&alice.id, &bob.id, &carol.id].map(|id| json!(id)));
    assert_eq!(members("?membership=join"), [&alice.id, &bob.id].map(|id| json!(id)));
    assert_eq!(members("?membership=invite"), [json!(carol.id)]);
    assert_eq!(members("?not_membership=join"), [json!(carol.id)]);
}

fn members_are_listed_as_they_were(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let early = alice.syncs().next_batch;
    bob.joins(&room).ok();
    bob.sends(&room, "hello");
    let filter = json!({ "room": { "timeline": { "limit": 1 } } }).to_string();
    let sync = Sync::from(alice.asks_sync(&[("filter", &filter), ("timeout", "0")]));
    carol.joins(&room).ok();
    bob.leaves(&room).ok();
    let members = |user: &User, pairs: &[(&str, &str)]| {
        let list = user.get(&format!("/rooms/{room}/members{}", query(pairs))).ok();
        let list = list["chunk"].as_array().expect("a chunk").clone();
        let members = list.iter().map(|event| (event["state_key"].clone(), event["content"]["membership"].clone()));
        let mut members: Vec<_> = members.map(|(user, membership)| json!([user, membership])).collect();
        members.sort_by_key(Value::to_string);
        members
    };
    let (a, b, c) = (&alice.id, &bob.id, &carol.id);
    assert_eq!(members(&alice, &[("at", &early)]), [json!([a, "join"])]);
    for token in [&*sync.next_batch, sync.prev_batch(&room)] {
        assert_eq!(members(&alice, &[("at", token)]), [json!([a, "join"]), json!([b, "join"])]);
    }
    let at = [("at", &*sync.next_batch), ("membership", "leave")];
    assert!(members(&alice, &at).is_empty());
    let now = [json!([a, "join"]), json!([b, "leave"]), json!([c, "join"])];
    assert_eq!(members(&alice, &[]), now);
    // «either the membership is the same as `membership` or is not the same as `not_membership`»
    assert_eq!(members(&alice, &[("membership", "leave"), ("not_membership", "ban")]), now);
    assert_eq!(members(&alice, &[("membership", "leave"), ("not_membership", "join")]), now[1..2]);
    // «If you have left the room then this will be the members of the room when you left.»
    carol.leaves(&room).ok();
    assert_eq!(members(&bob, &[]), now);
    for pairs in [("membership", "guest"), ("not_membership", ""), ("at", "no token of ours"), ("at", "s1")] {
        alice.get(&format!("/rooms/{room}/members{}", query(&[pairs]))).refused(400, "M_INVALID_PARAM");
    }
}

fn joined_members_are_members_only(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    alice.invites(&room, &carol).ok();
    let joined = bob.get(&format!("/rooms/{room}/joined_members")).ok();
    let joined = joined["joined"].as_object().expect("a map");
    assert!(joined.len() == 2 && joined.contains_key(&alice.id) && joined.contains_key(&bob.id), "{joined:?}");
    carol.get(&format!("/rooms/{room}/joined_members")).refused(403, "M_FORBIDDEN");
}

fn joined_rooms_are_listed(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    assert_eq!(bob.get("/joined_rooms").ok()["joined_rooms"], json!([]));
    let room = alice.creates_room_with(&[&bob]);
    let invited = alice.creates_room(json!({ "invite": [bob.id] }));
    assert_eq!(bob.get("/joined_rooms").ok()["joined_rooms"], json!([room]));
    bob.joins(&invited).ok();
    bob.leaves(&room).ok();
    assert_eq!(bob.get("/joined_rooms").ok()["joined_rooms"], json!([invited]));
}

fn too_little_power_is_forbidden(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    bob.sets_state(&room, "m.room.name", "", json!({ "name": "Mine" })).refused(403, "M_FORBIDDEN");
    bob.sets_state(&room, "org.example.any", "", json!({})).refused(403, "M_FORBIDDEN");
    bob.kicks(&room, &alice).refused(403, "M_FORBIDDEN");
    bob.bans(&room, &alice).refused(403, "M_FORBIDDEN");
    alice.state(&room, "m.room.name", "").refused(404, "M_NOT_FOUND");
}

fn power_may_be_granted(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    levels["users"][&bob.id] = json!(50);
    alice.sets_state(&room, "m.room.power_levels", "", levels).ok();
    bob.sets_state(&room, "m.room.name", "", json!({ "name": "Bob may" })).ok();
}

fn power_beyond_ones_own_is_not_ours_to_give(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    levels["users"][&bob.id] = json!(60);
    levels["events"]["m.room.power_levels"] = json!(50);
    alice.sets_state(&room, "m.room.power_levels", "", levels.clone()).ok();
    levels["users"][&carol.id] = json!(61);
    bob.sets_state(&room, "m.room.power_levels", "", levels.clone()).refused(403, "M_FORBIDDEN");
    levels["users"][&carol.id] = json!(60);
    bob.sets_state(&room, "m.room.power_levels", "", levels).ok();
}

fn a_state_key_of_a_user_belongs_to_the_user(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sets_state(&room, "org.example.own", &bob.id, json!({})).refused(403, "M_FORBIDDEN");
    alice.sets_state(&room, "org.example.own", &alice.id, json!({})).ok();
}

fn malformed_power_levels_are_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "room_version": "10" }));
    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    // Since v10 levels are integers, never text.
    levels["users_default"] = json!("10");
    let status = alice.sets_state(&room, "m.room.power_levels", "", levels).status;
    assert!(matches!(status, 400 | 403), "{status}");
}

fn the_create_event_is_once(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let status = alice.sets_state(&room, "m.room.create", "", json!({ "room_version": "10" })).status;
    assert!(matches!(status, 400 | 403), "{status}");
}
