//! Spec: client-server API, «Room membership».

use harness::{Server, encode, json, on_each_host};

on_each_host![
    an_invitation_is_joined,
    a_public_room_is_open,
    a_private_room_is_closed,
    a_join_by_id_answers_the_room,
    joining_twice_changes_nothing,
    an_invitation_may_be_declined,
    a_member_may_leave_and_return,
    leaving_needs_a_membership,
    a_kicked_member_is_out,
    a_banned_user_stays_out,
    an_unbanned_user_may_return,
    unbanning_needs_a_ban,
    inviting_needs_a_membership,
    a_member_is_not_invited_again,
    power_decides_who_is_kicked,
    nobody_joins_for_another,
    a_reason_is_kept,
    a_room_that_never_was_is_not_joined,
];

fn an_invitation_is_joined(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    assert_eq!(alice.invites(&room, &bob).ok(), json!({}));
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "invite");
    assert_eq!(bob.joins(&room).ok()["room_id"], room);
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "join");
}

fn a_public_room_is_open(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.joins(&room).ok();
    bob.sends(&room, "hello");
}

fn a_private_room_is_closed(server: &Server) {
    let (alice, mallory) = (server.registers("alice"), server.registers("mallory"));
    let room = alice.creates_room(json!({ "preset": "private_chat" }));
    mallory.joins(&room).refused(403, "M_FORBIDDEN");
    mallory.post(&format!("/join/{}", encode(&room)), json!({})).refused(403, "M_FORBIDDEN");
    assert_eq!(mallory.get("/joined_rooms").ok()["joined_rooms"], json!([]));
}

fn a_join_by_id_answers_the_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    assert_eq!(bob.post(&format!("/join/{}", encode(&room)), json!({})).ok(), json!({ "room_id": room }));
}

fn joining_twice_changes_nothing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = alice.syncs().next_batch;
    bob.joins(&room).ok();
    assert!(alice.syncs_since(&since).timeline(&room).is_empty());
}

fn an_invitation_may_be_declined(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    bob.leaves(&room).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "leave");
    bob.joins(&room).refused(403, "M_FORBIDDEN");
    assert!(bob.syncs().invite_state(&room).is_empty());
}

fn a_member_may_leave_and_return(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    for _visit in 0..3 {
        bob.joins(&room).ok();
        bob.sends(&room, "here");
        bob.leaves(&room).ok();
        bob.says(&room, "gone").refused(403, "M_FORBIDDEN");
    }
    assert_eq!(alice.syncs().messages(&room), ["here"; 3]);
}

fn leaving_needs_a_membership(server: &Server) {
    let (alice, mallory) = (server.registers("alice"), server.registers("mallory"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    mallory.leaves(&room).refused(403, "M_FORBIDDEN");
    alice.state(&room, "m.room.member", &mallory.id).refused(404, "M_NOT_FOUND");
}

fn a_kicked_member_is_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.kicks(&room, &bob).ok();
    let member = alice.state(&room, "m.room.member", &bob.id).ok();
    assert_eq!((&member["membership"], &member["reason"]), (&json!("leave"), &json!("kicked")));
    bob.says(&room, "still here?").refused(403, "M_FORBIDDEN");
    bob.joins(&room).refused(403, "M_FORBIDDEN");
    alice.kicks(&room, &bob).refused(403, "M_FORBIDDEN");
}

fn a_banned_user_stays_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.joins(&room).ok();
    alice.bans(&room, &bob).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "ban");
    bob.joins(&room).refused(403, "M_FORBIDDEN");
    bob.leaves(&room).refused(403, "M_FORBIDDEN");
    alice.invites(&room, &bob).refused(403, "M_FORBIDDEN");
    // Somebody who never came may be banned too.
    let carol = server.registers("carol");
    alice.bans(&room, &carol).ok();
    carol.joins(&room).refused(403, "M_FORBIDDEN");
}

fn an_unbanned_user_may_return(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    alice.bans(&room, &bob).ok();
    bob.unbans(&room, &bob).refused(403, "M_FORBIDDEN");
    alice.unbans(&room, &bob).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "leave");
    bob.joins(&room).ok();
}

fn unbanning_needs_a_ban(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let status = alice.unbans(&room, &bob).status;
    assert!(matches!(status, 400 | 403), "{status}");
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "join");
}

fn inviting_needs_a_membership(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({
        "preset": "public_chat", "power_level_content_override": { "invite": 0 },
    }));
    bob.invites(&room, &carol).refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    bob.invites(&room, &carol).ok();
}

fn a_member_is_not_invited_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.invites(&room, &bob).refused(403, "M_FORBIDDEN");
}

fn power_decides_who_is_kicked(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    bob.kicks(&room, &carol).refused(403, "M_FORBIDDEN");
    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    levels["users"][&bob.id] = json!(50);
    levels["users"][&carol.id] = json!(50);
    alice.sets_state(&room, "m.room.power_levels", "", levels).ok();
    bob.kicks(&room, &carol).refused(403, "M_FORBIDDEN");
    bob.kicks(&room, &alice).refused(403, "M_FORBIDDEN");
    alice.kicks(&room, &carol).ok();
}

fn nobody_joins_for_another(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let forced = alice.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "join" }));
    forced.refused(403, "M_FORBIDDEN");
    // One's own membership may be set as state.
    bob.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "join" })).ok();
    bob.sends(&room, "by state");
}

fn a_reason_is_kept(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    let invitation = json!({ "user_id": bob.id, "reason": "come in" });
    alice.post(&format!("/rooms/{room}/invite"), invitation).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["reason"], "come in");
    bob.post(&format!("/rooms/{room}/join"), json!({ "reason": "thanks" })).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["reason"], "thanks");
}

fn a_room_that_never_was_is_not_joined(server: &Server) {
    let alice = server.registers("alice");
    for room in ["!never:myelin.test", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"] {
        let status = alice.joins(room).status;
        assert!(matches!(status, 400 | 403 | 404), "{room}: {status}");
    }
    alice.post("/join/nonsense", json!({})).status(400);
}
