//! Spec: client-server API, «Syncing»: rooms one is in, waiting, devices.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Server, Sync, Value, json, on_each_host};

on_each_host![
    an_initial_sync_shows_the_rooms,
    a_joined_room_has_all_its_parts,
    an_empty_account_syncs,
    an_incremental_sync_shows_what_is_new,
    nothing_new_is_an_empty_answer,
    the_wait_lasts_as_long_as_asked,
    a_message_ends_the_wait_at_once,
    a_conversation_of_waits_loses_nothing,
    a_wait_hears_of_a_new_room,
    a_transaction_id_is_told_to_its_device_only,
    devices_sync_independently,
    a_token_may_be_used_again,
    an_old_token_still_works,
    a_foreign_token_is_refused,
    full_state_is_given_on_demand,
    state_after_is_given_on_demand,
    state_after_covers_gap_and_timeline,
    state_after_is_told_by_its_former_name,
    state_after_is_everything_at_first,
    state_after_is_there_where_nothing_happened,
    the_members_before_a_first_timeline_are_told,
    a_summary_counts_and_names,
    events_have_an_age,
];

fn an_initial_sync_shows_the_rooms(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let one = alice.creates_room_with(&[&bob]);
    let other = alice.creates_room_with(&[&bob]);
    alice.sends(&one, "in one");
    alice.sends(&other, "in the other");
    let sync = bob.syncs();
    assert_eq!(sync.messages(&one), ["in one"]);
    assert_eq!(sync.messages(&other), ["in the other"]);
    for room in [&one, &other] {
        let events = [sync.state(room), sync.timeline(room)].concat();
        let creates = events.iter().filter(|event| event["type"] == "m.room.create").count();
        assert_eq!(creates, 1, "state and timeline together are the whole state: {}", sync.joined(room));
        assert!(events.iter().all(|event| event["room_id"].is_null() || event["room_id"] == **room));
    }
}

/// Clients look for each part, be there anything in it or not.
fn a_joined_room_has_all_its_parts(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let first = alice.syncs();
    alice.put(&format!("/user/{}/rooms/{room}/tags/u.work", alice.id), json!({})).ok();
    let tagged = alice.syncs_since(&first.next_batch);
    alice.sends(&room, "hello");
    for sync in [&first, &tagged, &alice.hears_since(&tagged.next_batch)] {
        let joined = sync.joined(&room);
        for part in ["timeline", "ephemeral", "account_data"] {
            assert!(joined[part]["events"].is_array(), "{part}: {joined}");
        }
        assert!(joined["timeline"]["limited"].is_boolean(), "{joined}");
    }
    assert_eq!(tagged.joined(&room)["state"], json!({ "events": [] }));
}

fn an_empty_account_syncs(server: &Server) {
    let sync = server.registers("alice").syncs();
    let rooms = sync.body["rooms"]["join"].as_object();
    assert!(rooms.is_none_or(|rooms| rooms.is_empty()), "{}", sync.body);
}

fn an_incremental_sync_shows_what_is_new(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let quiet = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "old");
    let since = bob.syncs().next_batch;
    alice.sends(&room, "new");
    let sync = bob.hears_since(&since);
    assert_eq!(sync.messages(&room), ["new"]);
    assert!(!sync.is_limited(&room) && sync.state(&room).is_empty());
    assert!(sync.joined(&quiet).is_null(), "a quiet room is left out");
}

fn nothing_new_is_an_empty_answer(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let mut sync = alice.syncs();
    for _again in 0..3 {
        sync = alice.syncs_since(&sync.next_batch);
        assert!(sync.joined(&room).is_null(), "{}", sync.body);
    }
}

fn the_wait_lasts_as_long_as_asked(server: &Server) {
    let alice = server.registers("alice");
    let since = alice.syncs().next_batch;
    // What a new account itself causes may still arrive: wait from where it is quiet.
    let since = alice.syncs_since(&since).next_batch;
    let started = Instant::now();
    let sync = Sync::from(alice.asks_sync(&[("since", &since), ("timeout", "1500")]));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(1400), "{waited:?}: {}", sync.body);
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    let started = Instant::now();
    alice.syncs_since(&sync.next_batch);
    assert!(started.elapsed() < Duration::from_millis(1400), "timeout=0 does not wait");
}

fn a_message_ends_the_wait_at_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    let started = Instant::now();
    let waiter = thread::spawn(move || Sync::from(bob.asks_sync(&[("since", &since), ("timeout", "30000")])));
    alice.sends(&room, "wake up");
    let sync = waiter.join().expect("the waiter is answered");
    assert_eq!(sync.messages(&room), ["wake up"]);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

/// Each answers what the other said, as soon as their wait tells them: one lost wake-up costs 30 s.
fn a_conversation_of_waits_loses_nothing(server: &Server) {
    const TURNS: u32 = 20;
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let started = Instant::now();
    let people = [alice, bob].map(|user| {
        let since = user.syncs().next_batch;
        (user, since)
    });
    people[0].0.sends(&room, "0");
    let threads: Vec<_> = people
        .into_iter()
        .enumerate()
        .map(|(place, (user, mut since))| {
            let room = room.clone();
            thread::spawn(move || {
                let mut heard = Vec::new();
                while heard.len() <= TURNS as usize {
                    let sync = Sync::from(user.asks_sync(&[("since", &since), ("timeout", "30000")]));
                    for body in sync.messages(&room) {
                        let number: u32 = body.parse().expect("a number");
                        let ours_next = (number as usize + 1) % 2 == place;
                        if ours_next && number < TURNS {
                            user.sends(&room, &(number + 1).to_string());
                        }
                        heard.push(number);
                    }
                    since = sync.next_batch;
                }
                heard
            })
        })
        .collect();
    for thread in threads {
        let heard = thread.join().expect("the conversation ends");
        assert_eq!(heard, (0..=TURNS).collect::<Vec<_>>());
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

fn a_wait_hears_of_a_new_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let since = bob.syncs().next_batch;
    let waiter = {
        let bob = bob.clone();
        thread::spawn(move || bob.syncs_until(&since, |sync| sync.body["rooms"]["invite"].is_object()))
    };
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let sync = waiter.join().expect("the waiter is answered");
    assert!(!sync.invite_state(&room).is_empty());
    let phone = bob.logs_in_again();
    let since = phone.syncs().next_batch;
    let waiter = {
        let (phone, room) = (phone.clone(), room.clone());
        thread::spawn(move || phone.syncs_until(&since, |sync| sync.joined(&room).is_object()))
    };
    bob.joins(&room).ok();
    waiter.join().expect("the other device learns of the join");
}

fn a_transaction_id_is_told_to_its_device_only(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = alice.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let content = json!({ "msgtype": "m.text", "body": "hello" });
    alice.sends_event(&room, "m.room.message", "my-txn", content).ok();
    let told = |user: &harness::User| {
        user.syncs().timeline(&room).pop().expect("an event")["unsigned"]["transaction_id"].clone()
    };
    assert_eq!(told(&alice), "my-txn");
    assert!(told(&phone).is_null());
    assert!(told(&bob).is_null());
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "1")]).ok();
    assert_eq!(page["chunk"][0]["unsigned"]["transaction_id"], "my-txn");
}

fn devices_sync_independently(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let (desk_since, phone_since) = (bob.syncs().next_batch, phone.syncs().next_batch);
    alice.sends(&room, "one");
    let desk = bob.hears_since(&desk_since);
    assert_eq!(desk.messages(&room), ["one"]);
    alice.sends(&room, "two");
    assert_eq!(bob.hears_since(&desk.next_batch).messages(&room), ["two"]);
    assert_eq!(phone.hears_since(&phone_since).messages(&room), ["one", "two"]);
}

fn a_token_may_be_used_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.sends(&room, "one");
    let first = bob.hears_since(&since);
    let again = bob.hears_since(&since);
    assert_eq!(first.messages(&room), again.messages(&room));
    alice.sends(&room, "two");
    assert_eq!(bob.hears_since(&first.next_batch).messages(&room), ["two"]);
    assert_eq!(bob.hears_since(&since).messages(&room), ["one", "two"]);
}

fn an_old_token_still_works(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let old = bob.syncs().next_batch;
    let mut since = old.clone();
    for number in 1..=8 {
        alice.sends(&room, &number.to_string());
        let sync = bob.hears_since(&since);
        assert_eq!(sync.messages(&room), [number.to_string()]);
        since = sync.next_batch;
    }
    let numbers: Vec<_> = (1..=8).map(|number| number.to_string()).collect();
    assert_eq!(bob.hears_since(&old).messages(&room), numbers);
}

fn a_foreign_token_is_refused(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let bobs = bob.syncs().next_batch;
    assert_eq!(alice.asks_sync(&[("since", &bobs), ("timeout", "0")]).status(400)["errcode"], "M_INVALID_PARAM");
    for since in ["nonsense", "-1", "s72594_4483_1934"] {
        let refused = alice.asks_sync(&[("since", since), ("timeout", "0")]).status(400);
        assert!(refused["errcode"].is_string(), "{refused}");
    }
}

fn full_state_is_given_on_demand(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Full" }));
    let since = alice.syncs().next_batch;
    let started = Instant::now();
    let pairs = [("since", since.as_str()), ("full_state", "true"), ("timeout", "30000")];
    let sync = Sync::from(alice.asks_sync(&pairs));
    // «If this is set to true, then all state events will be returned, even if since is non-empty»,
    // and such a request does not wait.
    assert!(started.elapsed() < Duration::from_secs(15));
    let state = sync.state(&room);
    for kind in ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.name"] {
        assert!(state.iter().any(|event| event["type"] == kind), "no {kind} in {state:?}");
    }
    assert!(sync.timeline(&room).is_empty());
}

fn state_after_is_given_on_demand(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "Before" }));
    let since = alice.syncs().next_batch;
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "After" })).ok();
    let pairs = [("since", since.as_str()), ("use_state_after", "true"), ("timeout", "20000")];
    let sync = Sync::from(alice.asks_sync(&pairs));
    let joined = sync.joined(&room);
    assert!(joined["state"].is_null(), "state gives way to state_after: {joined}");
    let after = joined["state_after"]["events"].as_array().expect("state_after");
    assert_eq!(after.len(), 1, "{joined}");
    assert_eq!(after[0]["content"]["name"], "After");
}

/// «the state between the previous sync and the **end** of the timeline», each key once, as it is then.
fn state_after_covers_gap_and_timeline(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    for name in ["in the gap", "in the gap, too"] {
        alice.sets_state(&room, "m.room.name", "", json!({ "name": name })).ok();
    }
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "in the gap" })).ok();
    alice.sends(&room, "one");
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "in the timeline" })).ok();
    let filter = r#"{"room":{"timeline":{"limit":2}}}"#;
    let ask = |after: &str| {
        let pairs = [("since", since.as_str()), ("timeout", "20000"), ("filter", filter), ("use_state_after", after)];
        Sync::from(bob.asks_sync(&pairs))
    };
    let told = |events: &Value| {
        let mut told: Vec<String> = Vec::new();
        for event in events["events"].as_array().expect("events") {
            let content = &event["content"];
            told.push(content["name"].as_str().or(content["topic"].as_str()).expect("a text").to_owned());
        }
        told.sort();
        told
    };
    let after = ask("true");
    assert!(after.is_limited(&room) && after.joined(&room)["state"].is_null(), "{}", after.body);
    assert_eq!(told(&after.joined(&room)["state_after"]), ["in the gap, too", "in the timeline"]);
    let before = ask("false");
    assert!(before.joined(&room)["state_after"].is_null(), "{}", before.body);
    assert_eq!(told(&before.joined(&room)["state"]), ["in the gap", "in the gap, too"]);
}

/// Element Web asks by the name from before v1.16, and reads no other.
fn state_after_is_told_by_its_former_name(server: &Server) {
    const ASKED: &str = "org.matrix.msc4222.use_state_after";
    const TOLD: &str = "org.matrix.msc4222.state_after";
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (room, left) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    let filter = r#"{"room":{"timeline":{"limit":1},"include_leave":true}}"#;
    let first = Sync::from(bob.asks_sync(&[("filter", filter), (ASKED, "true")]));
    for other in ["state", "state_after"] {
        assert!(first.joined(&room)[other].is_null(), "{other}: {}", first.body);
    }
    let told = first.joined(&room)[TOLD]["events"].as_array().expect("the state").len();
    assert_eq!(told, alice.full_state(&room).ok().as_array().expect("state").len());
    // In a gap.
    alice.sets_state(&room, "m.room.name", "", json!({ "name": "in the gap" })).ok();
    alice.sends(&room, "one");
    alice.sends(&room, "two");
    bob.leaves(&left).ok();
    let pairs = [("since", &*first.next_batch), ("filter", filter), ("timeout", "20000"), (ASKED, "true")];
    let next = Sync::from(bob.asks_sync(&pairs));
    let state = &next.joined(&room)[TOLD]["events"];
    assert!(next.is_limited(&room) && state[0]["content"]["name"] == "in the gap", "{}", next.body);
    assert!(next.left(&left)[TOLD].is_object() && next.left(&left)["state"].is_null(), "{}", next.body);
}

fn state_after_is_everything_at_first(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "All of it" }));
    let mut current = alice.full_state(&room).ok().as_array().expect("state").clone();
    let left = alice.creates_room(json!({}));
    alice.leaves(&left).ok();
    let filter = r#"{"room":{"include_leave":true}}"#;
    let sync = Sync::from(alice.asks_sync(&[("use_state_after", "true"), ("filter", filter)]));
    let mut told = sync.joined(&room)["state_after"]["events"].as_array().expect("state_after").clone();
    let by_id = |event: &Value| event["event_id"].to_string();
    current.sort_by_key(by_id);
    told.sort_by_key(by_id);
    let ids = |events: &[Value]| events.iter().map(by_id).collect::<Vec<_>>();
    assert_eq!(ids(&told), ids(&current));
    // «Required if use_state_after was set to true», for rooms left, too.
    assert!(sync.left(&left)["state_after"].is_object() && sync.left(&left)["state"].is_null(), "{}", sync.left(&left));
}

fn a_summary_counts_and_names(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    alice.invites(&room, &carol).ok();
    let sync = alice.syncs();
    let summary = &sync.joined(&room)["summary"];
    assert_eq!((&summary["m.joined_member_count"], &summary["m.invited_member_count"]), (&json!(2), &json!(1)));
    let mut heroes: Vec<_> = summary["m.heroes"].as_array().expect("heroes").clone();
    heroes.sort_by_key(ToString::to_string);
    assert_eq!(heroes, [json!(bob.id), json!(carol.id)]);
}

fn events_have_an_age(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends(&room, "hello");
    let event = alice.syncs().timeline(&room).pop().expect("an event");
    assert!(event["unsigned"]["age"].is_i64(), "{event}");
}

fn state_after_is_there_where_nothing_happened(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let since = alice.syncs().next_batch;
    alice.put(&format!("/user/{}/rooms/{room}/tags/u.work", alice.id), json!({})).ok();
    let sync = Sync::from(alice.asks_sync(&[("since", &since), ("use_state_after", "true"), ("timeout", "20000")]));
    let joined = sync.joined(&room);
    assert_eq!(joined["account_data"]["events"][0]["type"], "m.tag");
    assert_eq!(joined["state_after"], json!({ "events": [] }));
    let sync = alice.syncs_since(&since);
    assert!(sync.joined(&room)["state_after"].is_null(), "{}", sync.body);
}

fn the_members_before_a_first_timeline_are_told(server: &Server) {
    for visibility in ["joined", "invited", "shared"] {
        let (alice, bob) = (server.registers("alice"), server.registers("bob"));
        let visibility =
            json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } });
        let room = alice.creates_room(json!({ "preset": "public_chat", "initial_state": [visibility] }));
        alice.sends(&room, "before");
        bob.joins(&room).ok();
        bob.sends(&room, "after");
        // From the join on.
        let filter = json!({ "room": { "timeline": { "limit": 2 } } }).to_string();
        let sync = Sync::from(bob.asks_sync(&[("filter", &filter)]));
        let at = sync.prev_batch(&room);
        let answer = bob.get(&format!("/rooms/{room}/members?at={at}")).ok();
        let members = answer["chunk"].as_array().expect("a list");
        assert!(members.iter().any(|member| member["state_key"] == alice.id.as_str()), "{visibility}: {answer}");
    }
}
