//! Spec: client-server API, «Rooms: Creation».

use harness::{SERVER_NAME, Server, User, Value, json, on_each_host};

on_each_host![
    presets_set_the_rules,
    visibility_chooses_the_preset,
    events_come_in_the_specified_order,
    name_and_topic_are_set,
    initial_state_overrides_the_preset,
    name_overrides_the_initial_state,
    invitations_go_out,
    a_direct_chat_says_so,
    trusted_invitees_are_equals,
    power_levels_are_overridden,
    creation_content_is_kept,
    an_unsupported_version_is_refused,
    an_invalid_initial_state_is_refused,
    an_unknown_preset_is_refused,
    what_is_malformed_makes_no_room,
    additional_creators_stand_with_the_creator,
    a_room_of_version_12_is_its_creators,
    a_topic_has_its_extensible_form,
    a_room_begins_encrypted,
    everyone_is_invited_once,
];

fn rules(user: &User, room: &str) -> [Value; 3] {
    [
        user.state(room, "m.room.join_rules", "").ok()["join_rule"].clone(),
        user.state(room, "m.room.history_visibility", "").ok()["history_visibility"].clone(),
        user.state(room, "m.room.guest_access", "").body["guest_access"].clone(),
    ]
}

fn presets_set_the_rules(server: &Server) {
    let alice = server.registers("alice");
    let table = [
        ("private_chat", ["invite", "shared", "can_join"]),
        ("trusted_private_chat", ["invite", "shared", "can_join"]),
        ("public_chat", ["public", "shared", "forbidden"]),
    ];
    for (preset, expected) in table {
        let room = alice.creates_room(json!({ "preset": preset }));
        assert_eq!(rules(&alice, &room), expected, "{preset}");
    }
}

fn visibility_chooses_the_preset(server: &Server) {
    let alice = server.registers("alice");
    for (visibility, join_rule) in [("public", "public"), ("private", "invite")] {
        let room = alice.creates_room(json!({ "visibility": visibility }));
        assert_eq!(alice.state(&room, "m.room.join_rules", "").ok()["join_rule"], join_rule);
    }
    let room = alice.creates_room(json!({}));
    assert_eq!(alice.state(&room, "m.room.join_rules", "").ok()["join_rule"], "invite");
}

fn events_come_in_the_specified_order(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({
        "preset": "private_chat", "name": "Ordered", "topic": "Order", "invite": [bob.id],
        "initial_state": [{ "type": "org.example.first", "content": {} }, { "type": "org.example.second", "content": {} }],
    }));
    let mut kinds: Vec<_> = alice.pages_back(&room, None, 50).iter().map(|event| event["type"].clone()).collect();
    kinds.reverse();
    let place = |kind: &str| kinds.iter().position(|k| k == kind).unwrap_or_else(|| panic!("no {kind} in {kinds:?}"));
    let expected = [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "org.example.first",
        "org.example.second",
        "m.room.name",
    ];
    assert!(expected.map(place).is_sorted(), "{kinds:?}");
    assert_eq!(kinds.last().expect("events"), "m.room.member", "invitations come last: {kinds:?}");
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "invite");
}

fn name_and_topic_are_set(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "The Pub", "topic": "Happy hour" }));
    assert!(room.starts_with('!'));
    assert_eq!(alice.state(&room, "m.room.name", "").ok(), json!({ "name": "The Pub" }));
    assert_eq!(alice.state(&room, "m.room.topic", "").ok()["topic"], "Happy hour");
}

fn initial_state_overrides_the_preset(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({
        "preset": "private_chat",
        "initial_state": [
            { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "public" } },
            { "type": "org.example.thing", "state_key": "key", "content": { "a": [1, null, "ü"] } },
        ],
    }));
    assert_eq!(alice.state(&room, "m.room.join_rules", "").ok()["join_rule"], "public");
    assert_eq!(alice.state(&room, "org.example.thing", "key").ok(), json!({ "a": [1, null, "ü"] }));
    server.registers("bob").joins(&room).ok();
}

fn name_overrides_the_initial_state(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({
        "name": "By name", "topic": "By topic",
        "initial_state": [
            { "type": "m.room.name", "content": { "name": "By state" } },
            { "type": "m.room.topic", "content": { "topic": "By state" } },
        ],
    }));
    assert_eq!(alice.state(&room, "m.room.name", "").ok()["name"], "By name");
    assert_eq!(alice.state(&room, "m.room.topic", "").ok()["topic"], "By topic");
}

fn invitations_go_out(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    bob.put(&format!("/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).ok();
    let room = alice.creates_room(json!({ "invite": [bob.id, carol.id] }));
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["displayname"], "Bob");
    for guest in [&bob, &carol] {
        guest.sees(|sync| !sync.invite_state(&room).is_empty());
        guest.joins(&room).ok();
    }
}

fn a_direct_chat_says_so(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "is_direct": true, "invite": [bob.id] }));
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["is_direct"], true);
    let invitation = bob.sees(|sync| !sync.invite_state(&room).is_empty()).invite_state(&room);
    let own = invitation.iter().find(|event| event["state_key"] == *bob.id).expect("the own membership");
    assert_eq!(own["content"]["is_direct"], true);
}

fn trusted_invitees_are_equals(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for version in ["10", "12"] {
        let room = alice.creates_room(json!({
            "preset": "trusted_private_chat", "invite": [bob.id], "room_version": version,
        }));
        bob.joins(&room).ok();
        bob.sets_state(&room, "m.room.name", "", json!({ "name": "Bob's" })).ok();
        let levels = bob.state(&room, "m.room.power_levels", "").ok();
        let create = bob.state(&room, "m.room.create", "").ok();
        match version {
            "12" => assert_eq!(create["additional_creators"], json!([bob.id]), "{create}"),
            _ => assert_eq!(levels["users"][&bob.id], levels["users"][&alice.id], "{levels}"),
        }
    }
}

fn power_levels_are_overridden(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({
        "room_version": "11", "invite": [bob.id],
        "power_level_content_override": { "events_default": 25, "users": { (alice.id.as_str()): 100, (bob.id.as_str()): 20 } },
    }));
    let levels = alice.state(&room, "m.room.power_levels", "").ok();
    assert_eq!(levels["events_default"], 25);
    assert_eq!(levels["users"], json!({ (alice.id.as_str()): 100, (bob.id.as_str()): 20 }));
    assert_eq!(levels["state_default"], 50, "the rest stays: {levels}");
    bob.joins(&room).ok();
    bob.says(&room, "too low").refused(403, "M_FORBIDDEN");
}

fn creation_content_is_kept(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({
        "room_version": "10",
        "creation_content": { "m.federate": false, "type": "m.space", "creator": "@mallory:x.test", "room_version": "1" },
    }));
    let create = alice.state(&room, "m.room.create", "").ok();
    assert_eq!(create["m.federate"], false);
    assert_eq!(create["type"], "m.space");
    assert_eq!(create["creator"], alice.id, "the server overwrites it");
    assert_eq!(create["room_version"], "10", "the server overwrites it");
    assert!(room.ends_with(&format!(":{SERVER_NAME}")));
}

fn an_unsupported_version_is_refused(server: &Server) {
    let alice = server.registers("alice");
    for version in ["13", "org.example.none", "0", "", "1 2", &"1".repeat(100)] {
        alice.post("/createRoom", json!({ "room_version": version })).refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    }
}

fn an_invalid_initial_state_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let answer = alice.post(
        "/createRoom",
        json!({
            "name": "Nobody may name it", "room_version": "11",
            "power_level_content_override": { "users": { (alice.id.as_str()): 0 } },
        }),
    );
    answer.refused(400, "M_INVALID_ROOM_STATE");
    assert_eq!(alice.get("/joined_rooms").ok()["joined_rooms"], json!([]), "nothing of it remains");
}

fn an_unknown_preset_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let answer = alice.post("/createRoom", json!({ "preset": "anarchy" }));
    assert_eq!(answer.status, 400, "{}", answer.body);
}

fn what_is_malformed_makes_no_room(server: &Server) {
    let alice = server.registers("alice");
    let table = [
        (json!([]), "M_BAD_JSON"),
        (json!({ "name": 1 }), "M_BAD_JSON"),
        (json!({ "invite": ["bob"] }), "M_BAD_JSON"),
        (json!({ "initial_state": [{ "content": {} }] }), "M_BAD_JSON"),
        (json!({ "initial_state": [{ "type": "m.room.name", "content": [] }] }), "M_BAD_JSON"),
        (json!({ "creation_content": "m.space" }), "M_BAD_JSON"),
        (json!({ "creation_content": { "additional_creators": "bob" } }), "M_BAD_JSON"),
        (json!({ "power_level_content_override": [] }), "M_BAD_JSON"),
        (json!({ "visibility": "secret" }), "M_INVALID_PARAM"),
        (json!({ "creation_content": { "m.federate": 1 } }), "M_INVALID_ROOM_STATE"),
        (json!({ "power_level_content_override": { "users": { "bob": 1 } } }), "M_INVALID_ROOM_STATE"),
        (json!({ "power_level_content_override": { "users": { (alice.id.as_str()): 1 } } }), "M_INVALID_ROOM_STATE"),
        (json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] }), "M_INVALID_ROOM_STATE"),
        (json!({ "invite": [alice.id] }), "M_INVALID_ROOM_STATE"),
    ];
    for (request, errcode) in table {
        alice.post("/createRoom", request).refused(400, errcode);
    }
    alice.client().send("POST", "/_matrix/client/v3/createRoom", Some("{".to_owned())).refused(400, "M_NOT_JSON");
    assert_eq!(alice.get("/joined_rooms").ok()["joined_rooms"], json!([]), "nothing of it remains");
}

fn additional_creators_stand_with_the_creator(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({
        "room_version": "12", "preset": "trusted_private_chat", "invite": [carol.id, bob.id],
        "creation_content": { "additional_creators": [bob.id] },
    }));
    let create = alice.state(&room, "m.room.create", "").ok();
    assert_eq!(create["additional_creators"], json!([bob.id, carol.id]), "both, each once");
    bob.joins(&room).ok();
    bob.sets_state(&room, "m.room.power_levels", "", json!({ "users": {} })).ok();
    bob.kicks(&room, &alice).refused(403, "M_FORBIDDEN");
    alice.bans(&room, &bob).refused(403, "M_FORBIDDEN");
}

fn a_room_of_version_12_is_its_creators(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({
        "room_version": "12", "invite": [bob.id], "power_level_content_override": { "users": { (bob.id.as_str()): 100 } },
    }));
    assert!(!room.contains(':'), "{room}");
    let levels = alice.state(&room, "m.room.power_levels", "").ok();
    assert_eq!(levels["users"], json!({ (bob.id.as_str()): 100 }), "creators stand in no list");
    bob.joins(&room).ok();
    bob.sets_state(&room, "m.room.name", "", json!({ "name": "Bob's" })).ok();
    let tombstone = json!({ "body": "moved", "replacement_room": "!other" });
    bob.sets_state(&room, "m.room.tombstone", "", tombstone.clone()).refused(403, "M_FORBIDDEN");
    alice.sets_state(&room, "m.room.tombstone", "", tombstone).ok();
}

fn a_topic_has_its_extensible_form(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "topic": "Happy hour" }));
    let text = json!([{ "body": "Happy hour", "mimetype": "text/plain" }]);
    assert_eq!(
        alice.state(&room, "m.room.topic", "").ok(),
        json!({ "topic": "Happy hour", "m.topic": { "m.text": text } })
    );
}

fn a_room_begins_encrypted(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let room = alice.creates_room(json!({
        "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.id],
        "initial_state": [{ "type": "m.room.encryption", "state_key": "", "content": encryption }],
    }));
    assert_eq!(alice.state(&room, "m.room.encryption", "").ok(), encryption);
    // Whoever is invited sees beforehand that it is.
    let invitation = bob.sees(|sync| !sync.invite_state(&room).is_empty()).invite_state(&room);
    assert!(invitation.iter().any(|event| event["type"] == "m.room.encryption"), "{invitation:?}");
}

fn everyone_is_invited_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id, bob.id] }));
    let invitations = alice.pages_back(&room, None, 50).iter().filter(|event| event["state_key"] == *bob.id).count();
    assert_eq!(invitations, 1);
}
