//! Spec: client-server API, «Restricted rooms».

use harness::{SERVER_NAME, Server, User, Value, json, on_each_host};

on_each_host![
    a_member_of_the_other_room_joins,
    a_stranger_does_not_join,
    any_one_condition_is_enough,
    an_invitation_needs_no_condition,
    a_member_stays_when_the_condition_ends,
    a_ban_outweighs_every_condition,
    only_versions_that_know_the_rule,
    somebody_who_may_invite_vouches,
    nobody_vouches_where_nobody_may_invite,
    conditions_that_mean_nothing_let_nobody_in,
    a_client_does_not_say_who_vouches,
    a_join_by_state_meets_the_conditions_too,
    a_name_may_be_changed_with_the_whole_content,
];

fn condition(room: &str) -> Value {
    json!({ "type": "m.room_membership", "room_id": room })
}

fn restricted(alice: &User, version: &str, join_rule: &str, allow: Value) -> String {
    alice.creates_room(json!({
        "room_version": version,
        "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": join_rule, "allow": allow } }],
    }))
}

fn a_member_of_the_other_room_joins(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room_with(&[&bob]);
    for (version, join_rule) in [
        ("8", "restricted"),
        ("9", "restricted"),
        ("10", "knock_restricted"),
        ("11", "restricted"),
        ("12", "restricted"),
    ] {
        let room = restricted(&alice, version, join_rule, json!([condition(&space)]));
        assert_eq!(bob.joins(&room).ok(), json!({ "room_id": room }));
        let member = alice.state(&room, "m.room.member", &bob.id).ok();
        assert_eq!(member["join_authorised_via_users_server"], alice.id, "version {version}: {member}");
        bob.sends(&room, "in");
    }
}

fn a_stranger_does_not_join(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let space = alice.creates_room_with(&[&bob]);
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    mallory.joins(&room).refused(403, "M_FORBIDDEN");
    // Being invited to the other room is not being in it, and having been in it neither.
    alice.invites(&space, &mallory).ok();
    mallory.joins(&room).refused(403, "M_FORBIDDEN");
    bob.leaves(&space).ok();
    bob.joins(&room).refused(403, "M_FORBIDDEN");
    assert_eq!(bob.get("/joined_rooms").ok()["joined_rooms"], json!([]));
}

fn any_one_condition_is_enough(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (one, other) = (alice.creates_room(json!({})), alice.creates_room_with(&[&bob]));
    let unknown = format!("!unknown:{SERVER_NAME}");
    let allow = json!([condition(&unknown), condition("!far:away.example"), condition(&one), condition(&other)]);
    let room = restricted(&alice, "12", "restricted", allow);
    bob.joins(&room).ok();
}

fn an_invitation_needs_no_condition(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room(json!({}));
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
    let member = alice.state(&room, "m.room.member", &bob.id).ok();
    assert_eq!(member.get("join_authorised_via_users_server"), None, "{member}");
}

fn a_member_stays_when_the_condition_ends(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room_with(&[&bob]);
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    bob.joins(&room).ok();
    bob.leaves(&space).ok();
    bob.sends(&room, "still in");
    bob.joins(&room).ok();
    bob.leaves(&room).ok();
    bob.joins(&room).refused(403, "M_FORBIDDEN");
}

fn a_ban_outweighs_every_condition(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room_with(&[&bob]);
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    alice.bans(&room, &bob).ok();
    bob.joins(&room).refused(403, "M_FORBIDDEN");
}

fn only_versions_that_know_the_rule(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room_with(&[&bob]);
    for (version, join_rule) in [("7", "restricted"), ("9", "knock_restricted")] {
        let room = restricted(&alice, version, join_rule, json!([condition(&space)]));
        bob.joins(&room).refused(403, "M_FORBIDDEN");
    }
}

fn somebody_who_may_invite_vouches(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let space = alice.creates_room_with(&[&bob, &carol]);
    let room = restricted(&alice, "11", "restricted", json!([condition(&space)]));
    bob.joins(&room).ok();
    // Everyone may invite: whoever is left vouches.
    alice.leaves(&room).ok();
    carol.joins(&room).ok();
    let member = bob.state(&room, "m.room.member", &carol.id).ok();
    assert_eq!(member["join_authorised_via_users_server"], bob.id, "{member}");
}

fn nobody_vouches_where_nobody_may_invite(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let space = alice.creates_room_with(&[&bob, &carol]);
    let room = alice.creates_room(json!({
        "power_level_content_override": { "invite": 50 },
        "initial_state": [{
            "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": [condition(&space)] },
        }],
    }));
    bob.joins(&room).ok();
    alice.leaves(&room).ok();
    carol.joins(&room).refused(403, "M_FORBIDDEN");
    bob.state(&room, "m.room.member", &carol.id).refused(404, "M_NOT_FOUND");
}

fn conditions_that_mean_nothing_let_nobody_in(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room_with(&[&bob]);
    for allow in [
        json!([]),
        json!("everyone"),
        json!([{ "type": "org.example.paid", "room_id": space }]),
        json!([{ "type": "m.room_membership" }]),
        json!([{ "type": "m.room_membership", "room_id": "nonsense" }, 5, null]),
    ] {
        let room = restricted(&alice, "12", "restricted", allow);
        bob.joins(&room).refused(403, "M_FORBIDDEN");
    }
}

fn a_client_does_not_say_who_vouches(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room(json!({}));
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    let forged = json!({ "membership": "join", "join_authorised_via_users_server": alice.id });
    bob.sets_state(&room, "m.room.member", &bob.id, forged.clone()).refused(403, "M_FORBIDDEN");
    alice.state(&room, "m.room.member", &bob.id).refused(404, "M_NOT_FOUND");
    // Nor who vouched, in what may be an old copy.
    alice.invites(&room, &bob).ok();
    bob.joins(&room).ok();
    bob.sets_state(&room, "m.room.member", &bob.id, forged).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok(), json!({ "membership": "join" }));
}

fn a_join_by_state_meets_the_conditions_too(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let space = alice.creates_room_with(&[&bob]);
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    let join = || json!({ "membership": "join", "displayname": "Bob by state" });
    mallory.sets_state(&room, "m.room.member", &mallory.id, join()).refused(403, "M_FORBIDDEN");
    bob.sets_state(&room, "m.room.member", &bob.id, join()).ok();
    let member = alice.state(&room, "m.room.member", &bob.id).ok();
    assert_eq!(member["join_authorised_via_users_server"], alice.id, "{member}");
    assert_eq!(member["displayname"], "Bob by state");
}

fn a_name_may_be_changed_with_the_whole_content(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let space = alice.creates_room_with(&[&bob]);
    let room = restricted(&alice, "12", "restricted", json!([condition(&space)]));
    bob.joins(&room).ok();
    let mut member = bob.state(&room, "m.room.member", &bob.id).ok();
    member["displayname"] = json!("Bob in this room");
    bob.sets_state(&room, "m.room.member", &bob.id, member).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["displayname"], "Bob in this room");
}
