//! Spec: client-server API, «Syncing»: rooms invited to, joined and left.

use harness::{Server, Value, json, on_each_host};

on_each_host![
    an_invitation_comes_with_stripped_state,
    an_invitation_comes_once,
    a_join_brings_the_whole_room,
    another_device_learns_of_the_join,
    a_leave_moves_the_room,
    a_kick_moves_the_room_too,
    a_ban_moves_the_room_too,
    a_declined_invitation_is_left,
    a_retracted_invitation_is_left,
    a_return_brings_the_whole_room,
    nothing_comes_after_leaving,
    another_device_learns_of_the_leave,
    another_device_learns_that_an_invitation_ended,
    a_creator_is_in_at_once,
];

fn membership_of<'a>(events: &'a [Value], user_id: &str) -> Option<&'a Value> {
    let own = |event: &&Value| event["type"] == "m.room.member" && event["state_key"] == *user_id;
    events.iter().rfind(own).map(|event| &event["content"]["membership"])
}

fn an_invitation_comes_with_stripped_state(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let since = bob.syncs().next_batch;
    let room = alice.creates_room(json!({ "name": "Come in", "invite": [bob.id] }));
    let sync = bob.syncs_until(&since, |sync| !sync.invite_state(&room).is_empty());
    let state = sync.invite_state(&room);
    assert_eq!(membership_of(&state, &bob.id), Some(&json!("invite")));
    for kind in ["m.room.create", "m.room.join_rules", "m.room.name"] {
        assert!(state.iter().any(|event| event["type"] == kind), "no {kind} in {state:?}");
    }
    for event in &state {
        assert!(event["sender"].is_string() && event["state_key"].is_string(), "{event}");
        assert!(event["content"].is_object(), "{event}");
    }
    assert!(sync.joined(&room).is_null());
}

fn an_invitation_comes_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    alice.sends(&room, "not for bob yet");
    let initial = bob.sees(|sync| !sync.invite_state(&room).is_empty());
    alice.sends(&room, "still not");
    let next = bob.syncs_since(&initial.next_batch);
    assert!(next.invite_state(&room).is_empty() && next.joined(&room).is_null(), "{}", next.body);
}

fn a_join_brings_the_whole_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "name": "Whole", "invite": [bob.id] }));
    alice.sends_numbers(&room, 1..=30);
    let since = bob.syncs().next_batch;
    bob.joins(&room).ok();
    let sync = bob.syncs_since(&since);
    let events = [sync.state(&room), sync.timeline(&room)].concat();
    for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name"] {
        assert!(events.iter().any(|event| event["type"] == kind), "no {kind}: {}", sync.joined(&room));
    }
    assert_eq!(membership_of(&events, &alice.id), Some(&json!("join")));
    assert_eq!(membership_of(&events, &bob.id), Some(&json!("join")));
    assert!(sync.invite_state(&room).is_empty(), "no longer an invitation");
}

fn another_device_learns_of_the_join(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room(json!({ "name": "Shared", "invite": [bob.id] }));
    let since = phone.syncs().next_batch;
    bob.joins(&room).ok();
    let sync = phone.syncs_until(&since, |sync| sync.joined(&room).is_object());
    let events = [sync.state(&room), sync.timeline(&room)].concat();
    assert!(events.iter().any(|event| event["type"] == "m.room.create"));
}

fn a_leave_moves_the_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.sends(&room, "last words");
    bob.leaves(&room).ok();
    let sync = bob.syncs_since(&since);
    assert!(sync.joined(&room).is_null(), "{}", sync.body);
    let timeline = sync.left(&room)["timeline"]["events"].as_array().expect("a timeline").clone();
    assert_eq!(harness::bodies(&timeline), ["last words"]);
    assert_eq!(membership_of(&timeline, &bob.id), Some(&json!("leave")));
    let next = bob.syncs_since(&sync.next_batch);
    assert!(next.left(&room).is_null(), "told once: {}", next.body);
}

fn a_kick_moves_the_room_too(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.kicks(&room, &bob).ok();
    let sync = bob.syncs_until(&since, |sync| sync.left(&room).is_object());
    let timeline = sync.left(&room)["timeline"]["events"].as_array().expect("a timeline").clone();
    let kick = timeline.last().expect("the kick");
    assert_eq!((&kick["sender"], &kick["content"]["reason"]), (&json!(alice.id), &json!("kicked")));
}

fn a_ban_moves_the_room_too(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.bans(&room, &bob).ok();
    let sync = bob.syncs_until(&since, |sync| sync.left(&room).is_object());
    let timeline = sync.left(&room)["timeline"]["events"].as_array().expect("a timeline").clone();
    assert_eq!(membership_of(&timeline, &bob.id), Some(&json!("ban")));
}

fn a_declined_invitation_is_left(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let since = bob.sees(|sync| !sync.invite_state(&room).is_empty()).next_batch;
    bob.leaves(&room).ok();
    let sync = bob.syncs_since(&since);
    assert!(sync.left(&room).is_object(), "{}", sync.body);
    assert!(sync.invite_state(&room).is_empty());
}

fn a_retracted_invitation_is_left(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    alice.sends(&room, "never for bob");
    let since = bob.sees(|sync| !sync.invite_state(&room).is_empty()).next_batch;
    alice.kicks(&room, &bob).ok();
    let sync = bob.syncs_until(&since, |sync| sync.left(&room).is_object());
    let timeline = sync.left(&room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
    assert!(harness::bodies(&timeline).is_empty(), "{}", sync.body);
    assert!(bob.syncs().invite_state(&room).is_empty());
}

fn a_return_brings_the_whole_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.joins(&room).ok();
    bob.leaves(&room).ok();
    let since = bob.syncs().next_batch;
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Renamed meanwhile" })).ok();
    alice.sends_numbers(&room, 1..=30);
    bob.joins(&room).ok();
    let sync = bob.syncs_since(&since);
    let events = [sync.state(&room), sync.timeline(&room)].concat();
    let name = events.iter().find(|event| event["type"] == "m.room.name").expect("the name");
    assert_eq!(name["content"]["name"], "Renamed meanwhile");
    assert!(events.iter().any(|event| event["type"] == "m.room.create"), "{}", sync.joined(&room));
}

fn nothing_comes_after_leaving(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let early = bob.syncs().next_batch;
    bob.leaves(&room).ok();
    let since = bob.syncs_since(&early).next_batch;
    alice.sends(&room, "among ourselves");
    let sync = bob.syncs_since(&since);
    assert!(sync.joined(&room).is_null() && sync.left(&room).is_null(), "{}", sync.body);
    // From before the leave, the leave is the last that is shown.
    let sync = bob.syncs_since(&early);
    let timeline = sync.left(&room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
    assert!(harness::bodies(&timeline).is_empty(), "{}", sync.body);
    assert!(bob.syncs().joined(&room).is_null());
}

fn another_device_learns_of_the_leave(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let since = phone.syncs().next_batch;
    alice.sends(&room, "last words");
    bob.leaves(&room).ok();
    alice.sends(&room, "among ourselves");
    let sync = phone.syncs_until(&since, |sync| sync.left(&room).is_object());
    let timeline = sync.left(&room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
    assert_eq!(harness::bodies(&timeline), ["last words"], "{}", sync.body);
    assert_eq!(membership_of(&timeline, &bob.id), Some(&json!("leave")));
    assert!(sync.joined(&room).is_null(), "{}", sync.body);
    assert!(phone.syncs_since(&sync.next_batch).left(&room).is_null(), "told once");
}

fn another_device_learns_that_an_invitation_ended(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let since = phone.sees(|sync| !sync.invite_state(&room).is_empty()).next_batch;
    bob.leaves(&room).ok();
    let sync = phone.syncs_until(&since, |sync| sync.left(&room).is_object());
    assert!(sync.invite_state(&room).is_empty(), "{}", sync.body);
    // And once more, if it is invited again.
    alice.invites(&room, &bob).ok();
    phone.syncs_until(&sync.next_batch, |sync| !sync.invite_state(&room).is_empty());
}

fn a_creator_is_in_at_once(server: &Server) {
    let alice = server.registers("alice");
    let since = alice.syncs().next_batch;
    let room = alice.creates_room(json!({ "name": "Mine" }));
    let sync = alice.syncs_since(&since);
    let events = [sync.state(&room), sync.timeline(&room)].concat();
    assert!(events.iter().any(|event| event["type"] == "m.room.create"), "{}", sync.body);
    assert_eq!(alice.get("/joined_rooms").ok()["joined_rooms"], json!([room]));
}
