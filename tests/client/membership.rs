//! Spec: client-server API, «Room membership».

use harness::{Answer, Server, Value, encode, json, on_each_host};

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
    every_change_takes_a_reason,
    a_body_is_optional_where_it_says_nothing,
    whoever_is_not_in_the_room_changes_nothing_in_it,
    a_stranger_to_the_server_may_be_invited,
    an_invitation_is_repeatable,
    who_blocks_invitations_gets_none,
    nobody_joins_by_a_third_partys_word,
    a_name_may_be_given_in_one_room,
    a_membership_as_state_shows_the_profile,
    a_membership_as_state_follows_the_same_rules,
    a_kick_lets_one_return_and_a_ban_does_not,
    via_is_understood,
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
    // Another reason is another event; without one nothing is new.
    let ban = |body: Value| drop(alice.post(&format!("/rooms/{}/ban", encode(&room)), body).ok());
    let banned = || alice.state(&room, "m.room.member", &bob.id).ok();
    for (reason, told) in [(Some("Rude"), "Rude"), (Some("Spam"), "Spam"), (None, "Spam")] {
        ban(json!({ "user_id": bob.id, "reason": reason }));
        assert_eq!((&banned()["membership"], &banned()["reason"]), (&json!("ban"), &json!(told)));
    }
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
    alice.unbans(&room, &bob).refused(403, "M_BAD_STATE");
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

fn every_change_takes_a_reason(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let changes = [
        (&alice, "invite"),
        (&bob, "join"),
        (&bob, "leave"),
        (&alice, "ban"),
        (&alice, "unban"),
        (&bob, "join"),
        (&alice, "kick"),
    ];
    for (who, change) in changes {
        let mut body = json!({ "reason": change });
        if who.id == alice.id {
            body["user_id"] = json!(bob.id);
        }
        assert!(who.post(&format!("/rooms/{}/{change}", encode(&room)), body).ok().is_object());
        let member = alice.state(&room, "m.room.member", &bob.id).ok();
        assert_eq!(member["reason"], change, "{member}");
    }
}

fn a_body_is_optional_where_it_says_nothing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    for path in [
        format!("/rooms/{}/join", encode(&room)),
        format!("/rooms/{}/leave", encode(&room)),
        format!("/rooms/{}/forget", encode(&room)),
        format!("/join/{}", encode(&room)),
    ] {
        bob.client().send("POST", &format!("/_matrix/client/v3{path}"), None).ok();
    }
    bob.client().send("POST", "/_matrix/client/v3/createRoom", None).ok();
    let knock = format!("/_matrix/client/v3/knock/{}", encode(&room));
    bob.client().send("POST", &knock, None).refused(403, "M_FORBIDDEN");
    bob.client()
        .send("POST", &format!("/_matrix/client/v3/join/{}", encode(&room)), Some("{".to_owned()))
        .refused(400, "M_NOT_JSON");
    for change in ["invite", "kick", "ban", "unban"] {
        alice.post(&format!("/rooms/{}/{change}", encode(&room)), json!({})).status(400);
        alice.post(&format!("/rooms/{}/{change}", encode(&room)), json!({ "user_id": "bob" })).status(400);
    }
}

fn whoever_is_not_in_the_room_changes_nothing_in_it(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let room = alice.creates_room_with(&[&bob]);
    // Nor do they learn whether there is such a room.
    for room in [room.as_str(), "!never:myelin.test"] {
        for change in ["invite", "kick", "ban", "unban"] {
            let answer = mallory.post(&format!("/rooms/{}/{change}", encode(room)), json!({ "user_id": bob.id }));
            answer.refused(403, "M_FORBIDDEN");
        }
        mallory.leaves(room).refused(403, "M_FORBIDDEN");
    }
    type Deed<'a> = &'a dyn Fn(&str) -> Answer;
    let changes = |change: &'static str| {
        let (mallory, bob) = (&mallory, &bob);
        move |room: &str| mallory.post(&format!("/rooms/{}/{change}", encode(room)), json!({ "user_id": bob.id }))
    };
    let deeds: [(&str, Deed<'_>); 12] = [
        ("invite", &changes("invite")),
        ("kick", &changes("kick")),
        ("ban", &changes("ban")),
        ("unban", &changes("unban")),
        ("unban oneself", &|room| {
            mallory.post(&format!("/rooms/{}/unban", encode(room)), json!({ "user_id": mallory.id }))
        }),
        ("invite oneself", &|room| mallory.invites(room, &mallory)),
        ("leave", &|room| mallory.leaves(room)),
        ("send", &|room| {
            mallory.put(
                &format!("/rooms/{}/send/m.room.message/1", encode(room)),
                json!({ "msgtype": "m.text", "body": "x" }),
            )
        }),
        ("set state", &|room| mallory.sets_state(room, "m.room.name", "", json!({ "name": "Mine" }))),
        ("set the alias", &|room| mallory.sets_state(room, "m.room.canonical_alias", "", json!({}))),
        ("create", &|room| mallory.sets_state(room, "m.room.create", "", json!({}))),
        ("set a membership", &|room| {
            mallory.sets_state(room, "m.room.member", &bob.id, json!({ "membership": "ban" }))
        }),
    ];
    for (deed, does) in deeds {
        let (here, nowhere) =
            (does(&room).refused(403, "M_FORBIDDEN"), does("!never:myelin.test").refused(403, "M_FORBIDDEN"));
        assert_eq!(here, nowhere, "{deed}");
    }
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "join");
}

fn a_stranger_to_the_server_may_be_invited(server: &Server) {
    let alice = server.registers("alice");
    let nobody = "@not.yet.here:myelin.test";
    let room = alice.creates_room(json!({ "invite": [nobody] }));
    assert_eq!(alice.state(&room, "m.room.member", nobody).ok()["membership"], "invite");
    alice.post(&format!("/rooms/{}/kick", encode(&room)), json!({ "user_id": nobody })).ok();
    alice.post(&format!("/rooms/{}/invite", encode(&room)), json!({ "user_id": nobody })).ok();
    assert_eq!(alice.state(&room, "m.room.member", nobody).ok()["membership"], "invite");
}

fn an_invitation_is_repeatable(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    alice.invites(&room, &bob).ok();
    alice.invites(&room, &bob).ok();
    let invitations = alice.pages_back(&room, None, 50).iter().filter(|event| event["state_key"] == *bob.id).count();
    assert_eq!(invitations, 1);
}

fn who_blocks_invitations_gets_none(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let before = alice.creates_room(json!({ "invite": [bob.id] }));
    bob.sees(|sync| !sync.invite_state(&before).is_empty());
    let config = format!("/user/{}/account_data/m.invite_permission_config", encode(&bob.id));
    bob.put(&config, json!({ "default_action": "block" })).ok();
    let room = alice.creates_room(json!({}));
    alice.invites(&room, &bob).refused(403, "M_INVITE_BLOCKED");
    let invite = json!({ "membership": "invite" });
    alice.sets_state(&room, "m.room.member", &bob.id, invite.clone()).refused(403, "M_INVITE_BLOCKED");
    alice.post("/createRoom", json!({ "invite": [bob.id] })).refused(403, "M_INVITE_BLOCKED");
    let initial = json!([{ "type": "m.room.member", "state_key": bob.id, "content": invite }]);
    alice.post("/createRoom", json!({ "initial_state": initial })).refused(403, "M_INVITE_BLOCKED");
    alice.state(&room, "m.room.member", &bob.id).refused(404, "M_NOT_FOUND");
    assert!(bob.syncs().invite_state(&before).is_empty(), "nor is an earlier one shown");
    // They may still come by themselves.
    let public = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.joins(&public).ok();
    bob.put(&config, json!({})).ok();
    alice.sets_state(&room, "m.room.member", &bob.id, invite).ok();
    assert!(!bob.syncs().invite_state(&before).is_empty());
}

fn nobody_joins_by_a_third_partys_word(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "private_chat" }));
    let signed = json!({
        "sender": alice.id, "mxid": bob.id, "token": "t", "signatures": { "id.example.org": { "ed25519:0": "x" } },
    });
    for path in [format!("/rooms/{}/join", encode(&room)), format!("/join/{}", encode(&room))] {
        bob.post(&path, json!({ "third_party_signed": signed })).refused(403, "M_FORBIDDEN");
    }
    alice.state(&room, "m.room.member", &bob.id).refused(404, "M_NOT_FOUND");
    // Where everybody may come in, nobody's word is needed.
    let open = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.post(&format!("/rooms/{}/join", encode(&open)), json!({ "third_party_signed": signed })).ok();
}

fn a_name_may_be_given_in_one_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (here, there) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    bob.put(&format!("/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).ok();
    bob.sets_state(&here, "m.room.member", &bob.id, json!({ "membership": "join", "displayname": "Bobby" })).ok();
    bob.sends(&here, "it is me");
    let name = |room: &str| alice.state(room, "m.room.member", &bob.id).ok()["displayname"].clone();
    assert_eq!((name(&here), name(&there)), (json!("Bobby"), json!("Bob")));
    // A new name is everywhere.
    bob.put(&format!("/profile/{}/displayname", bob.id), json!({ "displayname": "Robert" })).ok();
    assert_eq!((name(&here), name(&there)), (json!("Robert"), json!("Robert")));
}

fn a_membership_as_state_shows_the_profile(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.put(&format!("/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).ok();
    bob.put(&format!("/profile/{}/avatar_url", bob.id), json!({ "avatar_url": "mxc://a/b" })).ok();
    alice.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "invite" })).ok();
    let invitation = json!({ "membership": "invite", "displayname": "Bob", "avatar_url": "mxc://a/b" });
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok(), invitation);
    let join = json!({ "membership": "join", "displayname": null, "org.example": 1 });
    bob.sets_state(&room, "m.room.member", &bob.id, join).ok();
    let expected = json!({ "membership": "join", "displayname": null, "avatar_url": "mxc://a/b", "org.example": 1 });
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok(), expected, "what the client says stays");
    bob.sets_state(&room, "m.room.member", &bob.id, json!({ "membership": "leave" })).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok(), json!({ "membership": "leave" }));
}

fn a_membership_as_state_follows_the_same_rules(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    let membership = |what: &str| json!({ "membership": what });
    for (who, whom, what) in [
        (&bob, &alice, "leave"),
        (&bob, &carol, "ban"),
        (&bob, &bob, "ban"),
        (&alice, &carol, "join"),
        (&alice, &carol, "leave"),
        (&carol, &carol, "join"),
        (&carol, &carol, "knock"),
        (&alice, &bob, "invite"),
        (&alice, &bob, "unheard"),
    ] {
        // Whoever kicks one who was never there is told nothing of that by the rules.
        let answer = who.sets_state(&room, "m.room.member", &whom.id, membership(what));
        if (what, whom.id == carol.id, who.id == alice.id) == ("leave", true, true) {
            answer.ok();
        } else {
            answer.refused(403, "M_FORBIDDEN");
        }
    }
    alice.sets_state(&room, "m.room.member", "carol", membership("invite")).refused(400, "M_BAD_JSON");
    // A server that is nowhere signs no invitation.
    alice
        .sets_state(&room, "m.room.member", "@carol:elsewhere.example", membership("invite"))
        .refused(502, "M_UNKNOWN");
    alice.sets_state(&room, "m.room.member", &carol.id, json!({})).refused(400, "M_BAD_JSON");
    alice.sets_state(&room, "m.room.member", &carol.id, json!({ "membership": 1 })).refused(400, "M_BAD_JSON");
    alice.sets_state(&room, "m.room.member", &bob.id, membership("ban")).ok();
    alice.sets_state(&room, "m.room.member", &bob.id, membership("leave")).ok();
    alice.sets_state(&room, "m.room.member", &bob.id, membership("invite")).ok();
    bob.sets_state(&room, "m.room.member", &bob.id, membership("join")).ok();
}

fn a_kick_lets_one_return_and_a_ban_does_not(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    bob.joins(&room).ok();
    alice.kicks(&room, &bob).ok();
    bob.joins(&room).ok();
    alice.bans(&room, &bob).ok();
    alice.kicks(&room, &bob).refused(403, "M_FORBIDDEN");
    bob.joins(&room).refused(403, "M_FORBIDDEN");
    alice.bans(&room, &bob).ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["membership"], "ban");
}

fn via_is_understood(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    for query in ["via=a.example&via=b.example", "server_name=a.example", "via=myelin.test&server_name=x"] {
        assert_eq!(bob.post(&format!("/join/{}?{query}", encode(&room)), json!({})).ok()["room_id"], room);
    }
}
