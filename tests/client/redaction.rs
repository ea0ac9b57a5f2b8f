//! Spec: client-server API, «Redactions»; room versions, «Redactions» and «Handling redactions».

use harness::{SHARED_SECRET, Server, User, Value, json, on_each_host};

on_each_host![
    what_was_said_is_gone_wherever_one_looks,
    a_redaction_is_told_like_any_event,
    a_transaction_makes_one_redaction,
    who_may_redact_what_in_every_version,
    an_administrator_may_redact_what_users_say,
    a_redaction_may_be_sent_like_a_message,
    a_malformed_redaction_is_refused,
    redacted_state_is_state_still,
    a_redacted_member_is_a_member_still,
    an_invitation_forgets_what_was_redacted,
    the_room_keeps_its_rules,
    a_redaction_may_be_redacted,
    some_events_are_kept,
    only_events_of_the_room_are_redacted,
    what_one_may_not_see_is_not_there,
    who_left_learns_that_but_not_why,
    the_sender_still_knows_its_transaction,
];

#[track_caller]
fn redacts(user: &User, room: &str, event_id: &str) -> String {
    let redacted = user.redacts(room, event_id, &format!("redact {event_id}")).ok();
    redacted["event_id"].as_str().expect("an event id").to_owned()
}

/// Asserts that nothing of the content is left, and that the event says by which redaction.
#[track_caller]
fn assert_redacted(event: &Value, by: &str) {
    assert_eq!(event["content"], json!({}), "{event}");
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], by, "{event}");
    assert_eq!(because["type"], "m.room.redaction");
    assert_eq!(because["content"]["reason"], "said in anger");
    // Spec: v11, «Moving the `redacts` property»: clients find it in both places.
    for redacts in [&because["redacts"], &because["content"]["redacts"]] {
        assert_eq!(*redacts, event["event_id"], "{because}");
    }
}

fn found<'a>(events: &'a [Value], event_id: &str) -> &'a Value {
    events.iter().find(|event| event["event_id"] == event_id).expect("the event")
}

fn what_was_said_is_gone_wherever_one_looks(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let said = alice.sends(&room, "a secret");
    let redaction = redacts(&alice, &room, &said);
    for reader in [&alice, &bob] {
        assert_redacted(&reader.event(&room, &said).ok(), &redaction);
        assert_redacted(found(&reader.pages_back(&room, None, 50), &said), &redaction);
        let synced = reader.syncs();
        let event = found(&synced.timeline(&room), &said).clone();
        assert_redacted(&event, &redaction);
        assert!(!synced.body.to_string().contains("a secret"));
    }
}

fn a_redaction_is_told_like_any_event(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let said = alice.sends(&room, "a secret");
    let since = bob.syncs().next_batch;
    let redaction = redacts(&alice, &room, &said);
    let is_told = |event: &Value| event["event_id"] == redaction;
    let sync = bob.syncs_until(&since, |sync| sync.timeline(&room).iter().any(is_told));
    let event = found(&sync.timeline(&room), &redaction).clone();
    assert_eq!((&event["type"], &event["redacts"]), (&json!("m.room.redaction"), &json!(said)));
    assert_eq!(event["content"], json!({ "redacts": said, "reason": "said in anger" }));
}

fn a_transaction_makes_one_redaction(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let (one, other) = (alice.sends(&room, "one"), alice.sends(&room, "other"));
    let redact = |event: &str, txn: &str| alice.redacts(&room, event, txn).ok()["event_id"].clone();
    let first = redact(&one, "txn");
    assert_eq!(redact(&one, "txn"), first);
    assert_ne!(redact(&other, "txn"), first, "the path of the endpoint names the event");
    assert_ne!(redact(&one, "another"), first);
    let redactions = |events: Vec<Value>| events.iter().filter(|event| event["type"] == "m.room.redaction").count();
    assert_eq!(redactions(alice.pages_back(&room, None, 50)), 3);
    // The first one did it.
    assert_redacted(&alice.event(&room, &one).ok(), first.as_str().expect("an event id"));
}

fn who_may_redact_what_in_every_version(server: &Server) {
    let [alice, mona, bob, mallory] = ["alice", "mona", "bob", "mallory"].map(|name| server.registers(name));
    let stranger = server.registers("stranger");
    for version in 1..=12 {
        let mut users = json!({ (mona.id.as_str()): 50 });
        if version < 12 {
            users[alice.id.as_str()] = 100.into();
        }
        let room = alice.creates_room(json!({
            "room_version": version.to_string(),
            "preset": "public_chat",
            "power_level_content_override": { "users": users },
        }));
        for user in [&mona, &bob, &mallory] {
            user.joins(&room).ok();
        }
        let said = bob.sends(&room, "oops");
        mallory.redacts(&room, &said, "1").refused(403, "M_FORBIDDEN");
        stranger.redacts(&room, &said, "1").refused(403, "M_FORBIDDEN");
        assert_eq!(alice.event(&room, &said).ok()["content"]["body"], "oops");
        for who in [&bob, &mona, &alice] {
            let said = bob.sends(&room, "oops");
            let redaction = redacts(who, &room, &said);
            assert_redacted(&mallory.event(&room, &said).ok(), &redaction);
        }
        // One may be allowed to redact, and yet not to send redactions.
        users[mallory.id.as_str()] = 0.into();
        let levels = json!({ "users": users, "events": { "m.room.redaction": 50 }, "redact": 0 });
        alice.sets_state(&room, "m.room.power_levels", "", levels).ok();
        let own = mallory.sends(&room, "mine");
        mallory.redacts(&room, &own, "2").refused(403, "M_FORBIDDEN");
        mona.redacts(&room, &own, "2").ok();
    }
}

/// «Server administrators may redact events sent by users on their server.»
fn an_administrator_may_redact_what_users_say(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let username = server.unique("operator");
    let account = server.registers_by_secret(&username, SHARED_SECRET, true).ok();
    let operator = User::from_login(&server.anonymous(), &account);
    for version in ["2", "10", "12"] {
        let room = alice.creates_room(json!({ "room_version": version, "preset": "public_chat" }));
        let said = alice.sends(&room, "a secret");
        operator.redacts(&room, &said, "1").refused(403, "M_FORBIDDEN");
        for user in [&operator, &bob] {
            user.joins(&room).ok();
        }
        bob.redacts(&room, &said, "1").refused(403, "M_FORBIDDEN");
        let redaction = redacts(&operator, &room, &said);
        assert_redacted(&bob.event(&room, &said).ok(), &redaction);
    }
}

fn a_redaction_may_be_sent_like_a_message(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for version in ["1", "10", "11", "12"] {
        let room = alice.creates_room(json!({ "room_version": version, "preset": "public_chat" }));
        bob.joins(&room).ok();
        let (said, other) = (alice.sends(&room, "a secret"), alice.sends(&room, "another"));
        let content = json!({ "redacts": said, "reason": "said in anger" });
        let send = |txn: &str| alice.sends_event(&room, "m.room.redaction", txn, content.clone());
        let redaction = send("txn").ok()["event_id"].as_str().expect("an event id").to_owned();
        assert_eq!(send("txn").ok()["event_id"], redaction);
        assert_redacted(&bob.event(&room, &said).ok(), &redaction);
        let event = bob.event(&room, &redaction).ok();
        assert_eq!((&event["redacts"], &event["content"]), (&json!(said), &content), "version {version}");
        let others = json!({ "redacts": other });
        bob.sends_event(&room, "m.room.redaction", "txn", others).refused(403, "M_FORBIDDEN");
        assert_eq!(bob.event(&room, &other).ok()["content"]["body"], "another");
    }
}

fn a_malformed_redaction_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let said = alice.sends(&room, "hello");
    for content in [json!({}), json!({ "redacts": 5 }), json!({ "redacts": "no id" }), json!({ "redacts": [said] })] {
        alice.sends_event(&room, "m.room.redaction", "txn", content).refused(400, "M_BAD_JSON");
    }
    let state = json!({ "redacts": said });
    alice.sets_state(&room, "m.room.redaction", "", state).refused(400, "M_BAD_JSON");
    alice.redacts(&room, "no id", "1").status(400);
    alice.redacts(&room, &said, &"x".repeat(300)).refused(400, "M_INVALID_PARAM");
    assert_eq!(alice.event(&room, &said).ok()["content"]["body"], "hello");
}

fn redacted_state_is_state_still(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Before" }));
    let set = alice.sets_state(&room, "m.room.name", "", json!({ "name": "A secret" })).ok();
    let name = set["event_id"].as_str().expect("an event id");
    let redaction = redacts(&alice, &room, name);
    // «It causes the topic to be removed from the room», not to revert to what it was.
    assert_eq!(alice.state(&room, "m.room.name", "").ok(), json!({}));
    assert_redacted(found(alice.full_state(&room).ok().as_array().expect("a list"), name), &redaction);
    let synced = alice.syncs();
    assert!(!synced.body.to_string().contains("A secret"));
    let renamed = alice.sets_state(&room, "m.room.name", "", json!({ "name": "After" })).ok();
    let event = alice.event(&room, renamed["event_id"].as_str().expect("an event id")).ok();
    assert_eq!((&event["unsigned"]["prev_content"], &event["unsigned"]["replaces_state"]), (&json!({}), &json!(name)));
}

fn a_redacted_member_is_a_member_still(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let path = format!("/profile/{}/displayname", bob.id);
    bob.put(&path, json!({ "displayname": "Something rude" })).ok();
    let rude = |state: &Value| state["content"]["displayname"] == "Something rude";
    let synced = alice.sees(|sync| sync.timeline(&room).iter().any(rude));
    let timeline = synced.timeline(&room);
    let event_id = timeline.iter().find(|event| rude(event)).expect("it came")["event_id"].clone();
    let redaction = redacts(&alice, &room, event_id.as_str().expect("an event id"));

    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok(), json!({ "membership": "join" }));
    let joined = alice.get(&format!("/rooms/{room}/joined_members")).ok();
    assert_eq!(joined["joined"][&bob.id], json!({}));
    let members = alice.get(&format!("/rooms/{room}/members")).ok();
    let member = found(members["chunk"].as_array().expect("a list"), event_id.as_str().expect("an event id")).clone();
    assert_eq!(member["unsigned"]["redacted_because"]["event_id"], redaction);
    bob.sends(&room, "still here");
}

fn an_invitation_forgets_what_was_redacted(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    carol.joins(&room).ok();
    let named = alice.sets_state(&room, "m.room.name", "", json!({ "name": "a secret" })).ok();
    let named = named["event_id"].as_str().expect("an event id").to_owned();
    let reason = json!({ "user_id": bob.id, "reason": "another secret" });
    alice.post(&format!("/rooms/{}/invite", harness::encode(&room)), reason).ok();
    let since = bob.syncs();
    assert!(since.body.to_string().contains("a secret") && since.body.to_string().contains("another secret"));
    redacts(&alice, &room, &named);
    let members = carol.full_state(&room).ok();
    let is_bobs = |event: &&Value| event["state_key"] == bob.id;
    let invitation = members.as_array().expect("a list").iter().find(is_bobs).expect("the invitation").clone();
    redacts(&alice, &room, invitation["event_id"].as_str().expect("an event id"));
    let again = bob.sees(|sync| !sync.body.to_string().contains("secret"));
    let stripped = again.invite_state(&room);
    let of = |kind: &str, key: &str| {
        stripped.iter().find(|event| event["type"] == kind && event["state_key"] == key).map(|it| it["content"].clone())
    };
    assert_eq!(of("m.room.name", ""), Some(json!({})));
    assert_eq!(of("m.room.member", &bob.id), Some(json!({ "membership": "invite" })));
    // It is the invitation that it was.
    let news = bob.syncs_since(&since.next_batch);
    assert_eq!(news.invite_state(&room), [json!(null); 0], "{}", news.body);
    bob.joins(&room).ok();
}

fn the_room_keeps_its_rules(server: &Server) {
    let alice = server.registers("alice");
    for version in ["1", "6", "10", "12"] {
        let (bob, carol) = (server.registers("bob"), server.registers("carol"));
        let room = alice.creates_room(json!({ "room_version": version, "preset": "public_chat" }));
        bob.joins(&room).ok();
        let state = alice.full_state(&room).ok();
        for event_type in ["m.room.join_rules", "m.room.power_levels", "m.room.history_visibility"] {
            let state = state.as_array().expect("a list");
            let event = state.iter().find(|event| event["type"] == event_type).expect("it is there");
            redacts(&alice, &room, event["event_id"].as_str().expect("an event id"));
        }
        assert_eq!(alice.state(&room, "m.room.join_rules", "").ok(), json!({ "join_rule": "public" }));
        // It is public still, and Bob may still not rename it.
        carol.joins(&room).ok();
        bob.sets_state(&room, "m.room.name", "", json!({ "name": "Bob's" })).refused(403, "M_FORBIDDEN");
        alice.sets_state(&room, "m.room.name", "", json!({ "name": "Alice's" })).ok();
        bob.sends(&room, "hello");
        assert!(carol.syncs().has_message(&room, "hello"), "version {version}");
    }
}

fn a_redaction_may_be_redacted(server: &Server) {
    let alice = server.registers("alice");
    for version in ["10", "11"] {
        let room = alice.creates_room(json!({ "room_version": version }));
        let said = alice.sends(&room, "a secret");
        let redaction = redacts(&alice, &room, &said);
        let again = redacts(&alice, &room, &redaction);
        let event = alice.event(&room, &redaction).ok();
        assert_eq!(event["unsigned"]["redacted_because"]["event_id"], again);
        assert_eq!(event["content"]["reason"], Value::Null);
        // It cannot be undone.
        let event = alice.event(&room, &said).ok();
        assert_eq!(
            (&event["content"], &event["unsigned"]["redacted_because"]["event_id"]),
            (&json!({}), &json!(redaction))
        );
    }
}

fn some_events_are_kept(server: &Server) {
    let alice = server.registers("alice");
    for version in ["10", "12"] {
        let room = alice.creates_room(json!({ "room_version": version }));
        alice.sets_state(&room, "m.room.server_acl", "", json!({ "allow": ["*"] })).ok();
        let state = alice.full_state(&room).ok();
        for event_type in ["m.room.create", "m.room.server_acl"] {
            let state = state.as_array().expect("a list");
            let event = state.iter().find(|event| event["type"] == event_type).expect("it is there");
            let event_id = event["event_id"].as_str().expect("an event id");
            alice.redacts(&room, event_id, event_type).refused(403, "M_FORBIDDEN");
            assert_eq!(alice.event(&room, event_id).ok()["content"], event["content"]);
        }
    }
}

fn only_events_of_the_room_are_redacted(server: &Server) {
    let alice = server.registers("alice");
    let (here, there) = (alice.creates_room(json!({})), alice.creates_room(json!({})));
    let elsewhere = alice.sends(&there, "elsewhere");
    alice.redacts(&here, &elsewhere, "1").refused(404, "M_NOT_FOUND");
    alice.redacts(&here, "$nothing", "2").refused(404, "M_NOT_FOUND");
    assert_eq!(alice.event(&there, &elsewhere).ok()["content"]["body"], "elsewhere");
    let stranger = server.registers("stranger");
    let known = stranger.redacts(&here, &elsewhere, "3").refused(403, "M_FORBIDDEN");
    let unknown = stranger.redacts("!nowhere:nowhere", &elsewhere, "3").refused(403, "M_FORBIDDEN");
    assert_eq!(known, unknown, "a stranger does not learn which rooms there are");
}

fn what_one_may_not_see_is_not_there(server: &Server) {
    let [alice, mona, mallory] = ["alice", "mona", "mallory"].map(|name| server.registers(name));
    let content = json!({ "history_visibility": "joined" });
    let room = alice.creates_room(json!({
        "preset": "public_chat",
        "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
        "power_level_content_override": { "users": { (mona.id.as_str()): 50 } },
        "room_version": "12",
    }));
    let said = alice.sends(&room, "among us");
    mona.joins(&room).ok();
    mallory.joins(&room).ok();
    mallory.redacts(&room, &said, "1").refused(404, "M_NOT_FOUND");
    // A moderator need not have been there.
    let redaction = redacts(&mona, &room, &said);
    assert_redacted(&alice.event(&room, &said).ok(), &redaction);
    mona.event(&room, &said).refused(404, "M_NOT_FOUND");
}

fn who_left_learns_that_but_not_why(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let said = alice.sends(&room, "a secret");
    bob.leaves(&room).ok();
    let redaction = redacts(&alice, &room, &said);
    let event = bob.event(&room, &said).ok();
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!((&event["content"], &because["event_id"]), (&json!({}), &json!(redaction)));
    assert_eq!(because["content"], json!({ "redacts": said }));
    bob.event(&room, &redaction).refused(404, "M_NOT_FOUND");
}

fn the_sender_still_knows_its_transaction(server: &Server) {
    let alice = server.registers("alice");
    let laptop = alice.logs_in_again();
    let room = alice.creates_room(json!({}));
    let sent = alice.sends_event(&room, "m.room.message", "my txn", json!({ "msgtype": "m.text", "body": "x" })).ok();
    let said = sent["event_id"].as_str().expect("an event id");
    let redaction = alice.redacts(&room, said, "my other txn").ok()["event_id"].clone();
    for (device, said_txn, redaction_txn) in
        [(&alice, json!("my txn"), json!("my other txn")), (&laptop, Value::Null, Value::Null)]
    {
        let event = device.event(&room, said).ok();
        assert_eq!(event["unsigned"]["transaction_id"], said_txn);
        assert_eq!(event["unsigned"]["redacted_because"]["unsigned"]["transaction_id"], redaction_txn);
        let event = device.event(&room, redaction.as_str().expect("an event id")).ok();
        assert_eq!(event["unsigned"]["transaction_id"], redaction_txn);
    }
}
