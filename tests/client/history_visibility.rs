//! Spec: client-server API, «Room History Visibility».

use harness::{Server, User, bodies, json, on_each_host};

on_each_host![
    shared_history_reaches_back_before_the_invitation,
    invited_history_begins_with_the_invitation,
    joined_history_begins_with_the_join,
    world_readable_history_is_open,
    a_change_does_not_open_the_past,
    sync_shows_no_more_than_messages,
    a_leaver_keeps_the_state_of_the_leave,
    a_world_readable_state_is_open,
];

const PHASES: [&str; 4] = ["before", "while invited", "while joined", "after leaving"];

/// A room of this visibility in which Alice speaks before Bob is invited, while he is, while he is in, and after
/// he left.
fn four_phases(alice: &User, bob: &User, visibility: &str) -> String {
    let content = json!({ "history_visibility": visibility });
    let room = alice.creates_room(json!({
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    alice.sends(&room, PHASES[0]);
    alice.invites(&room, bob).ok();
    alice.sends(&room, PHASES[1]);
    bob.joins(&room).ok();
    alice.sends(&room, PHASES[2]);
    bob.leaves(&room).ok();
    alice.sends(&room, PHASES[3]);
    room
}

fn reads(user: &User, room: &str) -> Vec<String> {
    let mut messages = bodies(&user.pages_back(room, None, 3));
    messages.reverse();
    messages
}

fn in_every_phase(server: &Server, visibility: &str, expected: &[&str]) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = four_phases(&alice, &bob, visibility);
    assert_eq!(reads(&bob, &room), expected);
    assert_eq!(reads(&alice, &room), PHASES);
    match visibility {
        "world_readable" => assert_eq!(reads(&carol, &room), PHASES),
        _ => drop(carol.messages(&room, &[("dir", "b")]).refused(403, "M_FORBIDDEN")),
    }
}

fn shared_history_reaches_back_before_the_invitation(server: &Server) {
    in_every_phase(server, "shared", &PHASES[..3]);
}

fn invited_history_begins_with_the_invitation(server: &Server) {
    in_every_phase(server, "invited", &PHASES[1..3]);
}

fn joined_history_begins_with_the_join(server: &Server) {
    in_every_phase(server, "joined", &PHASES[2..3]);
}

fn world_readable_history_is_open(server: &Server) {
    in_every_phase(server, "world_readable", &PHASES);
}

fn a_change_does_not_open_the_past(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    let visibility = |value: &str| {
        alice.sets_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": value })).ok();
    };
    visibility("joined");
    alice.sends(&room, "for members");
    visibility("shared");
    alice.sends(&room, "for all who come");
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
    assert_eq!(reads(&bob, &room), ["for all who come"]);
}

fn sync_shows_no_more_than_messages(server: &Server) {
    for (visibility, expected) in [("shared", &PHASES[..2]), ("invited", &PHASES[1..2]), ("joined", &[])] {
        let (alice, bob) = (server.registers("alice"), server.registers("bob"));
        let content = json!({ "history_visibility": visibility });
        let room = alice.creates_room(json!({
            "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
        }));
        alice.sends(&room, PHASES[0]);
        alice.invites(&room, &bob).ok();
        alice.sends(&room, PHASES[1]);
        bob.joins(&room).ok();
        assert_eq!(bob.syncs().messages(&room), expected, "{visibility}");
    }
}

fn a_leaver_keeps_the_state_of_the_leave(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "name": "Then", "invite": [bob.id] }));
    bob.full_state(&room).refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    bob.leaves(&room).ok();
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "Now" })).ok();
    assert_eq!(bob.state(&room, "m.room.name", "").ok()["name"], "Then");
    let state = bob.full_state(&room).ok();
    let name = state.as_array().expect("a list").iter().find(|event| event["type"] == "m.room.name");
    assert_eq!(name.expect("the name")["content"]["name"], "Then");
}

fn a_world_readable_state_is_open(server: &Server) {
    let (alice, carol) = (server.registers("alice"), server.registers("carol"));
    let content = json!({ "history_visibility": "world_readable" });
    let room = alice.creates_room(json!({
        "name": "Open",
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
    }));
    assert_eq!(carol.state(&room, "m.room.name", "").ok()["name"], "Open");
    assert!(carol.full_state(&room).ok().is_array());
    carol.says(&room, "but not writable").refused(403, "M_FORBIDDEN");
}
