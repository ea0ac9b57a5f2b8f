//! Spec: client-server API, «Knocking on rooms».

use harness::{SERVER_NAME, Server, User, Value, json, on_each_host};

on_each_host![
    a_knock_asks_the_members,
    a_knock_is_shown_to_who_knocks,
    a_knock_is_accepted_by_an_invitation,
    a_knock_is_rejected_by_a_kick,
    a_knock_is_rejected_by_a_ban,
    a_knock_is_retracted_by_leaving,
    only_some_rooms_are_knocked_on,
    who_is_in_invited_or_banned_does_not_knock,
    knocking_again_changes_nothing,
    accepting_takes_the_power_to_invite,
    a_knock_is_state_too,
    a_knock_by_the_knock_restricted_rule,
    a_room_that_is_not_there_is_not_found,
];

fn knockable(alice: &User, version: &str, join_rule: &str) -> String {
    alice.creates_room(json!({
        "room_version": version, "name": "Knock here",
        "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": join_rule, "allow": [] } }],
    }))
}

fn membership(alice: &User, room: &str, whom: &User) -> Value {
    alice.state(room, "m.room.member", &whom.id).ok()["membership"].clone()
}

fn a_knock_asks_the_members(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    bob.put(&format!("/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).ok();
    let room = knockable(&alice, "12", "knock");
    let since = alice.syncs().next_batch;
    assert_eq!(bob.knocks(&room).ok(), json!({ "room_id": room }));
    let sync = alice.syncs_until(&since, |sync| !sync.timeline(&room).is_empty());
    let knock = sync.timeline(&room).pop().expect("the knock");
    assert_eq!((&knock["sender"], &knock["state_key"]), (&json!(bob.id), &json!(bob.id)));
    assert_eq!(knock["content"], json!({ "membership": "knock", "reason": "let me in", "displayname": "Bob" }));
    // Whoever knocks is not in.
    bob.says(&room, "hello?").refused(403, "M_FORBIDDEN");
    bob.full_state(&room).refused(403, "M_FORBIDDEN");
    bob.joins(&room).refused(403, "M_FORBIDDEN");
}

fn a_knock_is_shown_to_who_knocks(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = knockable(&alice, "12", "knock");
    let since = phone.syncs().next_batch;
    bob.knocks(&room).ok();
    let sync = phone.syncs_until(&since, |sync| !sync.knock_state(&room).is_empty());
    let state = sync.knock_state(&room);
    for kind in ["m.room.create", "m.room.join_rules", "m.room.name"] {
        assert!(state.iter().any(|event| event["type"] == kind), "no {kind} in {state:?}");
    }
    let own = state.iter().find(|event| event["state_key"] == *bob.id).expect("the knock itself");
    assert_eq!(own["content"]["membership"], "knock");
    assert!(sync.joined(&room).is_null() && sync.invite_state(&room).is_empty(), "{}", sync.body);
    assert!(phone.syncs_since(&sync.next_batch).knock_state(&room).is_empty(), "told once");
    assert!(!bob.syncs().knock_state(&room).is_empty(), "a first sync tells it");
}

fn a_knock_is_accepted_by_an_invitation(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    bob.knocks(&room).ok();
    let since = bob.syncs().next_batch;
    alice.invites(&room, &bob).ok();
    let sync = bob.syncs_until(&since, |sync| !sync.invite_state(&room).is_empty());
    assert!(sync.knock_state(&room).is_empty());
    bob.joins(&room).ok();
    bob.sends(&room, "thank you");
    assert!(bob.syncs().knock_state(&room).is_empty());
}

fn a_knock_is_rejected_by_a_kick(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    alice.sends(&room, "not for bob");
    bob.knocks(&room).ok();
    let since = bob.syncs().next_batch;
    alice.kicks(&room, &bob).ok();
    let sync = bob.syncs_until(&since, |sync| sync.left(&room).is_object());
    let timeline = sync.left(&room)["timeline"]["events"].as_array().expect("a timeline").clone();
    let kick = timeline.last().expect("the rejection");
    assert_eq!((&kick["sender"], &kick["content"]["reason"]), (&json!(alice.id), &json!("kicked")));
    assert!(harness::bodies(&timeline).is_empty(), "{timeline:?}");
    assert!(bob.syncs().knock_state(&room).is_empty());
    bob.knocks(&room).ok();
    assert_eq!(membership(&alice, &room, &bob), "knock");
}

fn a_knock_is_rejected_by_a_ban(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    bob.knocks(&room).ok();
    alice.bans(&room, &bob).ok();
    bob.knocks(&room).refused(403, "M_FORBIDDEN");
}

fn a_knock_is_retracted_by_leaving(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    bob.knocks(&room).ok();
    let since = bob.syncs().next_batch;
    bob.leaves(&room).ok();
    assert_eq!(membership(&alice, &room, &bob), "leave");
    let sync = bob.syncs_since(&since);
    assert!(sync.left(&room).is_object(), "{}", sync.body);
    assert!(bob.syncs().knock_state(&room).is_empty());
}

fn only_some_rooms_are_knocked_on(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    // The rule came with version 7, its mixture with restricted joins with 10.
    let table = [
        ("6", "knock", false),
        ("7", "knock", true),
        ("9", "knock_restricted", false),
        ("10", "knock_restricted", true),
        ("12", "knock", true),
        ("12", "restricted", false),
        ("12", "invite", false),
        ("12", "public", false),
    ];
    for (version, join_rule, allowed) in table {
        let room = knockable(&alice, version, join_rule);
        let knock = bob.knocks(&room);
        if allowed {
            knock.ok();
            assert_eq!(membership(&alice, &room, &bob), "knock", "version {version}: {join_rule}");
        } else {
            knock.refused(403, "M_FORBIDDEN");
            alice.state(&room, "m.room.member", &bob.id).refused(404, "M_NOT_FOUND");
        }
    }
}

fn who_is_in_invited_or_banned_does_not_knock(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    alice.invites(&room, &bob).ok();
    bob.knocks(&room).refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    bob.knocks(&room).refused(403, "M_FORBIDDEN");
    alice.bans(&room, &bob).ok();
    bob.knocks(&room).refused(403, "M_FORBIDDEN");
    alice.unbans(&room, &bob).ok();
    bob.knocks(&room).ok();
}

fn knocking_again_changes_nothing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    for _ in 0..3 {
        bob.knocks(&room).ok();
    }
    let knocks = alice.pages_back(&room, None, 50).iter().filter(|event| event["sender"] == *bob.id).count();
    assert_eq!(knocks, 1);
}

fn accepting_takes_the_power_to_invite(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({
        "invite": [bob.id], "power_level_content_override": { "invite": 50 },
        "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }],
    }));
    bob.joins(&room).ok();
    carol.knocks(&room).ok();
    bob.invites(&room, &carol).refused(403, "M_FORBIDDEN");
    bob.kicks(&room, &carol).refused(403, "M_FORBIDDEN");
    alice.invites(&room, &carol).ok();
    carol.joins(&room).ok();
}

fn a_knock_is_state_too(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "12", "knock");
    bob.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "knock" })).ok();
    assert_eq!(membership(&alice, &room, &bob), "knock");
    alice.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "knock" })).refused(403, "M_FORBIDDEN");
    alice.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "leave" })).ok();
    assert_eq!(membership(&alice, &room, &bob), "leave");
}

fn a_knock_by_the_knock_restricted_rule(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = knockable(&alice, "10", "knock_restricted");
    bob.joins(&room).refused(403, "M_FORBIDDEN");
    bob.knocks(&room).ok();
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
}

fn a_room_that_is_not_there_is_not_found(server: &Server) {
    let bob = server.registers("bob");
    for room in [format!("!never:{SERVER_NAME}"), format!("#never:{SERVER_NAME}")] {
        bob.knocks(&room).refused(404, "M_NOT_FOUND");
    }
    bob.post("/knock/nonsense", json!({})).status(400);
    let via = format!("/knock/!never:{SERVER_NAME}?via=a.example&via=b.example&server_name=c.example");
    bob.post(&via, json!({})).refused(502, "M_UNKNOWN");
}
