//! Spec: client-server API, «Leaving rooms»: forgetting them.

use harness::{SERVER_NAME, Server, Sync, User, json, on_each_host};

on_each_host![
    who_has_not_left_does_not_forget,
    a_forgotten_room_is_in_no_sync,
    a_forgotten_room_is_not_read_any_more,
    a_device_that_knew_it_learns_of_the_leave,
    forgetting_is_repeatable,
    forgetting_is_each_users_own,
    a_rejoined_room_is_remembered,
    an_invitation_brings_it_back,
    a_ban_does_not_bring_it_back,
    a_declined_invitation_is_forgotten,
    what_never_was_is_forgotten_already,
];

/// A first sync with the rooms left.
fn syncs_with_left(user: &User) -> Sync {
    Sync::from(user.asks_sync(&[("timeout", "0"), ("filter", r#"{"room":{"include_leave":true}}"#)]))
}

fn who_has_not_left_does_not_forget(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    alice.forgets(&room).refused(400, "M_UNKNOWN");
    bob.forgets(&room).refused(400, "M_UNKNOWN");
    bob.joins(&room).ok();
    bob.forgets(&room).refused(400, "M_UNKNOWN");
    bob.sends(&room, "nothing was forgotten");
}

fn a_forgotten_room_is_in_no_sync(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (room, other) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    bob.leaves(&room).ok();
    bob.leaves(&other).ok();
    assert!(syncs_with_left(&bob).left(&room).is_object());
    let since = bob.syncs().next_batch;
    assert_eq!(bob.forgets(&room).ok(), json!({}));
    let sync = syncs_with_left(&bob);
    assert!(sync.left(&room).is_null() && sync.joined(&room).is_null(), "{}", sync.body);
    assert!(sync.left(&other).is_object(), "{}", sync.body);
    let sync = bob.syncs_since(&since);
    assert!(sync.left(&room).is_null() && sync.joined(&room).is_null(), "{}", sync.body);
    let full = Sync::from(bob.asks_sync(&[("timeout", "0"), ("since", &since), ("full_state", "true")]));
    assert!(full.left(&room).is_null() && full.joined(&room).is_null(), "{}", full.body);
}

fn a_forgotten_room_is_not_read_any_more(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let said = bob.sends(&room, "I was here");
    bob.leaves(&room).ok();
    assert!(!bob.pages_back(&room, None, 10).is_empty(), "what one could read stays readable");
    bob.forgets(&room).ok();
    bob.messages(&room, &[("dir", "b")]).refused(403, "M_FORBIDDEN");
    bob.full_state(&room).refused(403, "M_FORBIDDEN");
    bob.state(&room, "m.room.create", "").refused(403, "M_FORBIDDEN");
    bob.get(&format!("/rooms/{room}/members")).refused(403, "M_FORBIDDEN");
    let status = bob.get(&format!("/rooms/{room}/event/{said}")).status;
    assert!(matches!(status, 403 | 404), "{status}");
}

fn a_device_that_knew_it_learns_of_the_leave(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let tablet = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let since = tablet.syncs().next_batch;
    alice.sends(&room, "never read");
    bob.leaves(&room).ok();
    bob.forgets(&room).ok();
    let sync = tablet.syncs_until(&since, |sync| sync.left(&room).is_object());
    let timeline = sync.left(&room)["timeline"]["events"].as_array().expect("a timeline").clone();
    assert_eq!(timeline.len(), 1, "the leave, and nothing of the history: {timeline:?}");
    assert_eq!(timeline[0]["content"]["membership"], "leave");
    assert!(tablet.syncs_since(&sync.next_batch).left(&room).is_null(), "told once");
}

fn forgetting_is_repeatable(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    bob.leaves(&room).ok();
    for _ in 0..3 {
        bob.forgets(&room).ok();
    }
    assert!(syncs_with_left(&bob).left(&room).is_null());
}

fn forgetting_is_each_users_own(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    bob.leaves(&room).ok();
    carol.leaves(&room).ok();
    bob.forgets(&room).ok();
    assert!(syncs_with_left(&carol).left(&room).is_object());
    alice.sends(&room, "still mine");
    // Members do not notice.
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "leave");
}

fn a_rejoined_room_is_remembered(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.joins(&room).ok();
    bob.sends(&room, "before");
    bob.leaves(&room).ok();
    bob.forgets(&room).ok();
    let since = bob.syncs().next_batch;
    bob.joins(&room).ok();
    assert!(bob.syncs_since(&since).joined(&room).is_object());
    assert_eq!(harness::bodies(&bob.pages_back(&room, None, 50)), ["before"], "shared history is shared again");
    bob.leaves(&room).ok();
    assert!(syncs_with_left(&bob).left(&room).is_object(), "what was forgotten was the time before");
}

fn an_invitation_brings_it_back(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    bob.leaves(&room).ok();
    bob.forgets(&room).ok();
    let since = bob.syncs().next_batch;
    alice.invites(&room, &bob).ok();
    bob.syncs_until(&since, |sync| !sync.invite_state(&room).is_empty());
    bob.joins(&room).ok();
    bob.sends(&room, "back again");
}

fn a_ban_does_not_bring_it_back(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (room, marker) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    bob.leaves(&room).ok();
    bob.forgets(&room).ok();
    let since = bob.syncs().next_batch;
    alice.bans(&room, &bob).ok();
    alice.unbans(&room, &bob).ok();
    alice.sends(&marker, "after the ban");
    let sync = bob.syncs_until(&since, |sync| sync.has_message(&marker, "after the ban"));
    assert!(sync.left(&room).is_null(), "{}", sync.body);
    assert!(syncs_with_left(&bob).left(&room).is_null());
}

fn a_declined_invitation_is_forgotten(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    bob.leaves(&room).ok();
    bob.forgets(&room).ok();
    assert!(syncs_with_left(&bob).left(&room).is_null());
}

fn what_never_was_is_forgotten_already(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    // Whether the room is there makes no difference to a stranger.
    assert_eq!(bob.forgets(&room).ok(), json!({}));
    assert_eq!(bob.forgets(&format!("!never:{SERVER_NAME}")).ok(), json!({}));
    bob.forgets("nonsense").status(400);
}
