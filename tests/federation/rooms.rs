//! Spec: server-server API, «Joining Rooms», «Inviting to a room», «Transactions»: rooms of two servers of ours, the
//! host under test and a native one.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Host, Keys, Reply, Sync, User, Value, bodies, encode, json};

use crate::{
    guest::{Guest, VERSION, takes_what_is_sent},
    network::{Federated, on_each_host},
};

on_each_host![
    a_room_is_joined_from_elsewhere_and_both_sides_talk,
    who_is_invited_from_elsewhere_joins_or_turns_it_down,
    what_was_missed_arrives_when_the_server_is_back,
    after_a_long_time_away_the_newest_comes_first,
    a_transaction_does_not_wait_for_what_it_builds_on,
    who_is_banned_hears_of_it_and_no_more,
    a_restricted_room_lets_in_members_of_the_other,
    a_knock_is_heard_across_and_answered,
    who_may_not_come_in_after_all_hears_of_it,
    what_is_read_before_it_comes_is_read_when_it_is_there,
    a_member_comes_in_through_a_server_that_may_invite,
    an_alias_names_the_servers_that_are_in_the_room,
    who_types_and_who_read_is_told_across,
    messages_to_devices_and_changed_devices_cross,
    what_a_server_refuses_keeps_nothing_else_from_it,
    who_shares_no_room_any_more_is_told_across,
];

/// The host under test, and another server.
fn two(host: Host) -> (Federated, Federated) {
    (Federated::starts(host), Federated::starts(Host::Native))
}

fn joins_by(user: &User, room: &str, via: &Federated) -> harness::Answer {
    user.post(&format!("/join/{}?via={}", encode(room), encode(&via.name)), json!({}))
}

fn a_room_is_joined_from_elsewhere_and_both_sides_talk(host: Host) {
    let (here, there) = two(host);
    let versions = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];
    let both_ways = versions.into_iter().flat_map(|version| [(version, &here, &there), (version, &there, &here)]);
    for (version, at, from) in both_ways {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": version, "name": "Bridge" }));
        alice.sends(&room, "before bob");
        let since = alice.syncs().next_batch;
        joins_by(&bob, &room, at).ok();
        alice
            .syncs_until(&since, |sync| sync.timeline(&room).iter().any(|event| event["state_key"] == bob.id.as_str()));

        assert_eq!(bob.state(&room, "m.room.name", "").ok()["name"], "Bridge", "version {version}");
        alice.sends(&room, "hello bob");
        let heard = bob.sees(|sync| sync.has_message(&room, "hello bob"));
        bob.sends(&room, "hello alice");
        alice.sees(|sync| sync.has_message(&room, "hello alice"));
        alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "across" })).ok();
        bob.syncs_until(&heard.next_batch, |sync| {
            sync.timeline(&room).iter().any(|event| event["content"]["topic"] == "across")
        });
        assert_eq!(bob.state(&room, "m.room.topic", "").ok()["topic"], "across");

        let since = alice.syncs().next_batch;
        bob.leaves(&room).ok();
        alice.syncs_until(&since, |sync| {
            sync.timeline(&room).iter().any(|event| event["content"]["membership"] == "leave")
        });
    }
}

fn who_is_invited_from_elsewhere_joins_or_turns_it_down(host: Host) {
    let (here, there) = two(host);
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob, carol) =
            (at.server.registers("alice"), from.server.registers("bob"), from.server.registers("carol"));
        let room = alice.creates_room(json!({ "preset": "private_chat", "name": "Den" }));
        let since = alice.syncs().next_batch;
        alice.invites(&room, &bob).ok();
        let invited = bob.sees(|sync| !sync.invite_state(&room).is_empty());
        let shown = invited.invite_state(&room);
        assert!(shown.iter().any(|event| event["content"]["name"] == "Den"), "{shown:?}");
        assert!(shown.iter().any(|event| event["state_key"] == bob.id.as_str()), "{shown:?}");
        joins_by(&carol, &room, at).refused(403, "M_FORBIDDEN");
        bob.joins(&room).ok();
        alice.syncs_until(&since, |sync| {
            sync.timeline(&room)
                .iter()
                .any(|event| event["state_key"] == bob.id.as_str() && event["content"]["membership"] == "join")
        });
        bob.sends(&room, "thank you");
        alice.sees(|sync| sync.has_message(&room, "thank you"));

        let since = alice.syncs().next_batch;
        let other = alice.creates_room(json!({ "preset": "private_chat", "invite": [carol.id] }));
        carol.sees(|sync| !sync.invite_state(&other).is_empty());
        carol.leaves(&other).ok();
        alice.syncs_until(&since, |sync| {
            sync.timeline(&other)
                .iter()
                .any(|event| event["state_key"] == carol.id.as_str() && event["content"]["membership"] == "leave")
        });
        assert!(carol.syncs().invite_state(&other).is_empty());
    }
}

fn what_was_missed_arrives_when_the_server_is_back(host: Host) {
    let (here, there) = two(host);
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    joins_by(&bob, &room, &here).ok();
    alice.sends(&room, "one");
    bob.sees(|sync| sync.has_message(&room, "one"));
    there.is_cut_off();
    alice.sends(&room, "two");
    alice.sends(&room, "three");
    there.is_back();
    // Whoever is heard of is tried again at once.
    bob.sends(&room, "are you there?");
    bob.sees(|sync| sync.has_message(&room, "three"));
    alice.sees(|sync| sync.has_message(&room, "are you there?"));
    for user in [&alice, &bob] {
        let messages = bodies(&user.pages_back(&room, None, 20));
        for body in ["one", "two", "three", "are you there?"] {
            assert_eq!(messages.iter().filter(|message| *message == body).count(), 1, "{messages:?}");
        }
    }
}

/// It does not answer, again and again, while the other side goes on: then it gets the newest, and asks for the rest.
fn after_a_long_time_away_the_newest_comes_first(host: Host) {
    const SAID: usize = 130;
    let (here, there) = two(host);
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    joins_by(&bob, &room, &here).ok();
    alice.sends(&room, "before");
    bob.sees(|sync| sync.has_message(&room, "before"));
    there.is_cut_off();
    for number in 0..SAID {
        alice.sends(&room, &format!("said {number}"));
    }
    // Whoever is heard of is tried again at once, and fails again.
    there.takes_received();
    for number in 0..12 {
        bob.sends(&room, &format!("from away {number}"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !there.takes_received().iter().any(|request| request.uri.contains("/send/")) {
            assert!(Instant::now() < deadline, "it is not tried again");
            thread::sleep(Duration::from_millis(20));
        }
    }
    there.is_back();
    bob.sends(&room, "back");
    bob.sees(|sync| sync.has_message(&room, &format!("said {}", SAID - 1)));
    let sent: Vec<_> = there.takes_received().into_iter().filter(|request| request.uri.contains("/send/")).collect();
    let is_sent = |body: &str| sent.iter().any(|request| request.body.contains(&format!("{body:?}")));
    // What was on its way when it went away is repeated, and comes first.
    assert!(is_sent("said 0") && is_sent(&format!("said {}", SAID - 50)), "the newest is sent");
    assert!(!is_sent(&format!("said {}", SAID - 55)), "what lies between is left out");
    alice.sees(|sync| sync.has_message(&room, "back"));
    // It is history by now.
    let (mut messages, mut from) = (Vec::new(), None::<String>);
    while messages.last().is_none_or(|last| last != "before") {
        let mut path = format!("/rooms/{}/messages?dir=b&limit=50", encode(&room));
        if let Some(from) = &from {
            path.push_str(&format!("&from={}", encode(from)));
        }
        let page = bob.get(&path).ok();
        messages.extend(bodies(page["chunk"].as_array().unwrap()));
        from = Some(page["end"].as_str().unwrap_or_else(|| panic!("it ends too early: {messages:?}")).to_owned());
    }
    let mut said: Vec<_> = messages.into_iter().filter(|body| body.starts_with("said ")).collect();
    said.reverse();
    assert_eq!(said, (0..SAID).map(|number| format!("said {number}")).collect::<Vec<_>>());
}

fn a_transaction_does_not_wait_for_what_it_builds_on(host: Host) {
    const TAKES: Duration = Duration::from_secs(4);
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let zoe = Guest::joins(&here, &room, "zoe");
    let (missing_id, missing) = zoe.completes(zoe.message("first"));
    let mut next = zoe.message("second");
    next["prev_events"] = json!([missing_id]);
    let (next_id, next) = zoe.completes(next);
    let mut last = zoe.message("third");
    last["prev_events"] = json!([next_id]);
    let (last_id, last) = zoe.completes(last);
    zoe.homeserver.answers(move |request| {
        if !request.uri.contains("/get_missing_events/") {
            return takes_what_is_sent(request);
        }
        let asked: Value = serde_json::from_str(&request.body).expect("it is JSON");
        assert!(asked["min_depth"].as_u64().is_none_or(|depth| depth == 0), "another branch may be as deep: {asked}");
        let body = json!({ "events": [missing] }).to_string();
        Some(Reply::Raw(Box::new(move |out| {
            thread::sleep(TAKES);
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        })))
    });
    let started = Instant::now();
    let pdus = zoe.sends(&json!({ "pdus": [next, last] })).ok()["pdus"].clone();
    assert_eq!(pdus, json!({ (next_id): {}, (last_id): {} }));
    assert!(started.elapsed() < TAKES, "it took {:?}", started.elapsed());
    alice.sees(|sync| sync.has_message(&room, "third"));
    let messages = bodies(&alice.pages_back(&room, None, 20));
    assert_eq!(messages, ["third", "second", "first"], "in their order, each once");
}

fn who_is_banned_hears_of_it_and_no_more(host: Host) {
    let (here, there) = two(host);
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    joins_by(&bob, &room, &here).ok();
    let since = bob.syncs().next_batch;
    alice.bans(&room, &bob).ok();
    bob.syncs_until(&since, |sync| {
        let left = sync.left(&room)["timeline"]["events"].as_array().cloned().unwrap_or_default();
        left.iter().any(|event| event["content"]["membership"] == "ban")
    });
    there.takes_received();
    alice.sends(&room, "behind his back");
    bob.says(&room, "hey").refused(403, "M_FORBIDDEN");
    joins_by(&bob, &room, &here).refused(403, "M_FORBIDDEN");
    alice.unbans(&room, &bob).ok();
    joins_by(&bob, &room, &here).ok();
    alice.sends(&room, "welcome back");
    bob.sees(|sync| sync.has_message(&room, "welcome back"));
    let told: Vec<_> = there.takes_received().into_iter().filter(|request| request.uri.contains("/send/")).collect();
    assert!(told.iter().any(|request| request.body.contains("welcome back")), "{told:?}");
    assert!(told.iter().all(|request| !request.body.contains("behind his back")), "{told:?}");
}

fn a_restricted_room_lets_in_members_of_the_other(host: Host) {
    let (here, there) = two(host);
    let (alice, bob, carol) =
        (here.server.registers("alice"), there.server.registers("bob"), there.server.registers("carol"));
    let club = alice.creates_room(json!({ "preset": "public_chat", "room_version": "11" }));
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    let initial = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let room = alice.creates_room(json!({ "preset": "private_chat", "room_version": "11", "initial_state": initial }));
    joins_by(&bob, &room, &here).refused(403, "M_FORBIDDEN");
    joins_by(&bob, &club, &here).ok();
    joins_by(&bob, &room, &here).ok();
    bob.sends(&room, "I am a member");
    alice.sees(|sync| sync.has_message(&room, "I am a member"));
    joins_by(&carol, &room, &here).refused(403, "M_FORBIDDEN");
}

fn a_knock_is_heard_across_and_answered(host: Host) {
    let (here, there) = two(host);
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
        let room = alice.creates_room(json!({ "preset": "private_chat", "name": "Den", "initial_state": rule }));
        let since = alice.syncs().next_batch;
        let path = format!("/knock/{}?via={}", encode(&room), encode(&at.name));
        bob.post(&path, json!({ "reason": "It is me" })).ok();
        let knocking = bob.sees(|sync| !sync.knock_state(&room).is_empty());
        assert!(knocking.knock_state(&room).iter().any(|event| event["content"]["name"] == "Den"));
        alice.syncs_until(&since, |sync| {
            sync.timeline(&room).iter().any(|event| event["content"]["reason"] == "It is me")
        });
        alice.invites(&room, &bob).ok();
        bob.sees(|sync| !sync.invite_state(&room).is_empty());
        bob.joins(&room).ok();
        bob.sends(&room, "thank you");
        alice.sees(|sync| sync.has_message(&room, "thank you"));
    }
}

fn who_may_not_come_in_after_all_hears_of_it(host: Host) {
    let (here, there) = two(host);
    for (at, from) in [(&here, &there), (&there, &here)] {
        for version in ["12", "11", "6"] {
            let (alice, bob, carol) =
                (at.server.registers("alice"), from.server.registers("bob"), from.server.registers("carol"));
            let room = alice.creates_room(json!({ "preset": "private_chat", "room_version": version }));
            for ends in [User::kicks, User::bans] {
                alice.invites(&room, &bob).ok();
                let invited = bob.sees(|sync| !sync.invite_state(&room).is_empty());
                ends(&alice, &room, &bob).ok();
                bob.syncs_until(&invited.next_batch, |sync| sync.body["rooms"]["leave"].get(&room).is_some());
                assert!(bob.syncs().invite_state(&room).is_empty(), "version {version}");
            }
            if version == "6" {
                continue;
            }
            alice.sets_state(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).ok();
            let knock = |user: &User| {
                user.post(&format!("/knock/{}?via={}", encode(&room), encode(&at.name)), json!({})).ok();
                user.sees(|sync| sync.body["rooms"]["knock"].get(&room).is_some()).next_batch
            };
            let since = knock(&carol);
            alice.kicks(&room, &carol).ok();
            carol.syncs_until(&since, |sync| sync.body["rooms"]["leave"].get(&room).is_some());
            // And it is taken back from the other side.
            knock(&carol);
            alice.sees(|_| alice.state(&room, "m.room.member", &carol.id).ok()["membership"] == "knock");
            carol.leaves(&room).ok();
            assert!(carol.syncs().body["rooms"]["knock"].get(&room).is_none());
            alice.sees(|_| alice.state(&room, "m.room.member", &carol.id).ok()["membership"] == "leave");
        }
    }
}

fn what_is_read_before_it_comes_is_read_when_it_is_there(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let zoe = Guest::joins(&here, &room, "zoe");
    let receipt = |event_id: &str, ts: u64| {
        let read = json!({ "event_ids": [event_id], "data": { "ts": ts } });
        // What makes no sense says nothing of the others.
        let all = json!({ (zoe.id.as_str()): read, "nobody": {}, "@none:elsewhere.test": 5 });
        json!({ "edu_type": "m.receipt", "content": { (room.as_str()): { "m.read": all }, "!nowhere": 5 } })
    };
    let is_read = |event_id: &str, ts: u64| {
        let seen = alice.sees(|sync| sync.receipts(&room, "m.read").iter().any(|receipt| receipt.1 == event_id));
        let found = seen.body["rooms"]["join"][&room]["ephemeral"].to_string();
        assert!(found.contains(&format!(r#""ts":{ts}"#)), "{found}");
    };
    // In one transaction with what is read.
    let (id, event) = zoe.completes(zoe.message("one"));
    zoe.sends(&json!({ "pdus": [event], "edus": [receipt(&id, 1_790_000_000_001)] })).ok();
    is_read(&id, 1_790_000_000_001);
    // Before it.
    let (id, event) = zoe.completes(zoe.message("two"));
    zoe.sends(&json!({ "edus": [receipt(&id, 1_790_000_000_002)] })).ok();
    zoe.sends(&json!({ "pdus": [event] })).ok();
    is_read(&id, 1_790_000_000_002);
}

/// Nobody of the own server may invite, though somebody of it is in the room.
fn a_member_comes_in_through_a_server_that_may_invite(host: Host) {
    let (here, there) = two(host);
    let alice = there.server.registers("alice");
    let (bob, carol) = (here.server.registers("bob"), here.server.registers("carol"));
    let club = alice.creates_room(json!({ "preset": "public_chat" }));
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let room = alice.creates_room(json!({
        "preset": "private_chat", "invite": [bob.id], "power_level_content_override": { "invite": 50 },
        "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": rule }],
    }));
    bob.sees(|sync| !sync.invite_state(&room).is_empty());
    bob.joins(&room).ok();
    carol.joins(&room).refused(403, "M_FORBIDDEN");
    joins_by(&carol, &club, &there).ok();
    // That server does not know who is a guest.
    alice.sets_state(&club, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).ok();
    carol.sees(|_| carol.state(&club, "m.room.guest_access", "").ok()["guest_access"] == "can_join");
    let guest = here.server.registers_guest();
    guest.joins(&club).ok();
    guest.joins(&room).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    carol.joins(&room).ok();
    carol.sends(&room, "I am in");
    alice.sees(|sync| sync.has_message(&room, "I am in"));
    bob.sees(|sync| sync.has_message(&room, "I am in"));
}

fn an_alias_names_the_servers_that_are_in_the_room(host: Host) {
    let (here, there) = two(host);
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let alias = format!("#{}:{}", here.server.unique("alias"), here.name);
    alice.put(&format!("/directory/room/{}", encode(&alias)), json!({ "room_id": room })).ok();
    let servers = |user: &User| user.get(&format!("/directory/room/{}", encode(&alias))).ok()["servers"].clone();
    assert_eq!(servers(&alice), json!([here.name]));
    joins_by(&bob, &room, &here).ok();
    assert_eq!(servers(&alice), json!([here.name, there.name]));
    alice.leaves(&room).ok();
    assert_eq!(servers(&alice), json!([there.name]));
    assert_eq!(servers(&bob), json!([there.name]));
    // It leads back in.
    alice.post(&format!("/join/{}", encode(&alias)), json!({})).ok();
}

fn who_types_and_who_read_is_told_across(host: Host) {
    let (here, there) = two(host);
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let room = alice.creates_room(json!({ "preset": "public_chat" }));
        joins_by(&bob, &room, at).ok();
        let said = alice.sends(&room, "read this");
        bob.sees(|sync| sync.has_message(&room, "read this"));
        let since = alice.syncs().next_batch;
        bob.types(&room, json!({ "typing": true, "timeout": 20_000 })).ok();
        let typing =
            alice.syncs_until(&since, |sync| sync.typing(&room).is_some_and(|users| users == [bob.id.clone()]));
        bob.types(&room, json!({ "typing": false })).ok();
        alice.syncs_until(&typing.next_batch, |sync| sync.typing(&room).is_some_and(|users| users.is_empty()));
        bob.reads(&room, "m.read", &said, json!({})).ok();
        bob.reads(&room, "m.read.private", &said, json!({})).ok();
        let receipts = alice.syncs_until(&since, |sync| !sync.receipts(&room, "m.read").is_empty());
        assert!(receipts.receipts(&room, "m.read").iter().any(|receipt| receipt.0 == bob.id && receipt.1 == said));
        assert!(receipts.receipts(&room, "m.read.private").is_empty());
    }
}

fn messages_to_devices_and_changed_devices_cross(host: Host) {
    let (here, there) = two(host);
    for (at, from) in [(&here, &there), (&there, &here)] {
        let (alice, bob) = (at.server.registers("alice"), from.server.registers("bob"));
        let room = alice.creates_room(json!({ "preset": "public_chat" }));
        joins_by(&bob, &room, at).ok();
        bob.sends(&room, "here");
        alice.sees(|sync| sync.has_message(&room, "here"));
        let since = alice.syncs().next_batch;
        let message = json!({ "messages": { (alice.id.clone()): { "*": { "secret": 1 } } } });
        for _ in 0..2 {
            // The same transaction, repeated after a lost answer.
            bob.put("/sendToDevice/org.example.note/txn", message.clone()).ok();
        }
        let last = json!({ "messages": { (alice.id.clone()): { (alice.device_id.clone()): { "secret": 2 } } } });
        bob.put("/sendToDevice/org.example.note/last", last).ok();
        let mut secrets = Vec::new();
        let mut next = since.clone();
        while !secrets.contains(&json!(2)) {
            let sync = alice.hears_since(&next);
            for event in sync.body["to_device"]["events"].as_array().into_iter().flatten() {
                assert_eq!(event["sender"], bob.id.as_str());
                secrets.push(event["content"]["secret"].clone());
            }
            next = sync.next_batch;
        }
        assert_eq!(secrets, [json!(1), json!(2)]);
        // The keys of a new device of his are news to her.
        let tablet = bob.logs_in_again();
        tablet.post("/keys/upload", json!({ "device_keys": Keys::of(7).device(&tablet) })).ok();
        alice.syncs_until(&next, |sync| {
            let changed = sync.body["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
            changed.contains(&json!(bob.id))
        });
    }
}

/// A proxy before the other server takes only what is small.
fn what_a_server_refuses_keeps_nothing_else_from_it(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let zoe = Guest::joins(&here, &room, "zoe");
    zoe.homeserver.answers(|request| {
        let is_too_large = request.body.len() > 100_000;
        let refusal = || Reply::Whole(413, Vec::new(), b"<html>Request Entity Too Large</html>".to_vec());
        if is_too_large { Some(refusal()) } else { takes_what_is_sent(request) }
    });
    let writes = |txn_id: &str, devices: &[(&str, usize)]| {
        let content = |bytes: &usize| json!({ "txn": txn_id, "x": "x".repeat(*bytes) });
        let devices: std::collections::BTreeMap<_, _> =
            devices.iter().map(|(device, bytes)| (*device, content(bytes))).collect();
        alice.put(&format!("/sendToDevice/m.test/{txn_id}"), json!({ "messages": { (&*zoe.id): devices } })).ok();
    };
    // Two are too large together, each by itself is not.
    writes("first", &[("A", 60_000), ("B", 60_000)]);
    alice.sends(&room, "hello");
    writes("second", &[("A", 10)]);
    let mut wanted = vec!["\"A\":{\"txn\":\"first\"", "\"B\":{\"txn\":\"first\"", "hello", "\"txn\":\"second\""];
    let deadline = Instant::now() + Duration::from_secs(60);
    while !wanted.is_empty() {
        assert!(Instant::now() < deadline, "{wanted:?} did not come");
        let received = zoe.homeserver.https.takes_received();
        let taken = received.iter().filter(|request| request.uri.contains("/send/") && request.body.len() <= 100_000);
        taken.for_each(|request| wanted.retain(|wanted| !request.body.contains(wanted)));
        thread::sleep(Duration::from_millis(20));
    }
}

fn who_shares_no_room_any_more_is_told_across(host: Host) {
    let (here, there) = two(host);
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let rooms = [(); 2].map(|()| alice.creates_room(json!({ "preset": "public_chat" })));
    let joined =
        |sync: &Sync, room: &str| sync.timeline(room).iter().any(|event| event["state_key"] == bob.id.as_str());
    let mut since = alice.syncs().next_batch;
    for room in &rooms {
        joins_by(&bob, room, &here).ok();
        since = alice.syncs_until(&since, |sync| joined(sync, room)).next_batch;
    }
    let left = |sync: &Sync| sync.body["device_lists"]["left"].as_array().cloned().unwrap_or_default();
    bob.leaves(&rooms[0]).ok();
    let sync = alice.syncs_until(&since, |sync| joined(sync, &rooms[0]));
    assert_eq!(left(&sync), Vec::<Value>::new(), "there is another room: {}", sync.body);
    bob.leaves(&rooms[1]).ok();
    let sync = alice.syncs_until(&sync.next_batch, |sync| joined(sync, &rooms[1]));
    assert_eq!(left(&sync), [bob.id.as_str()], "{}", sync.body);
}
