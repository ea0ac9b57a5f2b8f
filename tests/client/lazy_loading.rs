//! Spec: client-server API, «Lazy-loading room members».

use std::collections::BTreeSet;

use harness::{Server, Sync, User, Value, json, on_each_host};

on_each_host![
    sync_brings_only_the_senders_members,
    a_new_sender_brings_its_member,
    messages_bring_the_senders_members,
    redundant_members_come_on_demand,
    members_come_once_to_a_device,
    a_lost_answer_loses_no_member,
    a_changed_member_comes_again,
    changes_in_a_gap_come_redundant_or_not,
    a_first_sync_brings_members_again,
    ones_own_member_comes_with_the_whole_state,
];

const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}"#;

fn members(events: &[Value]) -> Vec<String> {
    let members = events.iter().filter(|event| event["type"] == "m.room.member");
    let mut ids: Vec<_> = members.filter_map(|event| event["state_key"].as_str().map(str::to_owned)).collect();
    ids.sort();
    ids
}

fn syncs_lazily(user: &User, since: Option<&str>) -> Sync {
    match since {
        None => Sync::from(user.asks_sync(&[("filter", LAZY), ("timeout", "0")])),
        Some(since) => user.hears_filtered(since, LAZY),
    }
}

fn sync_brings_only_the_senders_members(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let others: Vec<_> = (0..6).map(|_| server.registers("other")).collect();
    let room = alice.creates_room_with(&others.iter().chain([&bob]).collect::<Vec<_>>());
    bob.sends(&room, "hello");
    let sync = syncs_lazily(&alice, None);
    let summary = &sync.joined(&room)["summary"];
    // «the membership events for the heroes MUST be included in the state», and the user's own always is.
    let heroes = summary["m.heroes"].as_array().expect("heroes").iter().filter_map(Value::as_str);
    let expected: BTreeSet<&str> = heroes.chain([&*alice.id, &*bob.id]).collect();
    assert!(expected.len() < 8, "not everyone: {expected:?}");
    assert_eq!(members(&sync.state(&room)), Vec::from_iter(expected));
    assert!(sync.state(&room).iter().any(|event| event["type"] == "m.room.create"), "other state stays");
    assert_eq!(summary["m.joined_member_count"], 8);
}

fn a_new_sender_brings_its_member(server: &Server) {
    let alice = server.registers("alice");
    let (room, strangers, first) = crowd(server, &alice);
    strangers[0].sends(&room, "hello from me");
    let second = syncs_lazily(&alice, Some(&first.next_batch));
    assert_eq!(members(&second.state(&room)), [strangers[0].id.as_str()], "{}", second.body);
}

fn messages_bring_the_senders_members(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    carol.sends(&room, "hello");
    let filter = json!({ "lazy_load_members": true }).to_string();
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "1"), ("filter", &filter)]).ok();
    let state = page["state"].as_array().cloned().unwrap_or_default();
    assert_eq!(members(&state), [carol.id.as_str()], "{page}");
}

fn redundant_members_come_on_demand(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let filter = json!({ "room": { "state": { "lazy_load_members": true, "include_redundant_members": true } } });
    let filter = filter.to_string();
    let since = Sync::from(alice.asks_sync(&[("filter", &filter), ("timeout", "0")])).next_batch;
    bob.sends(&room, "hello");
    let sync = alice.hears_filtered(&since, &filter);
    assert!(members(&sync.state(&room)).contains(&bob.id), "{}", sync.body);
}

/// «the server MAY assume that clients will remember membership events they have already been sent».
fn members_come_once_to_a_device(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = alice.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "before");
    let first = syncs_lazily(&alice, None);
    let phone_since = syncs_lazily(&phone, None).next_batch;
    let mut since = first.next_batch;
    for text in ["one", "two"] {
        bob.sends(&room, text);
        let sync = syncs_lazily(&alice, Some(&since));
        assert_eq!((sync.messages(&room), members(&sync.state(&room))), (vec![text.to_owned()], vec![]));
        since = sync.next_batch;
    }
    // «Clients may request that redundant membership events are always included».
    let sync = phone.hears_filtered(&phone_since, REDUNDANT);
    assert_eq!(members(&sync.state(&room)), [bob.id.as_str()]);
}

const REDUNDANT: &str = r#"{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}"#;

/// A room of so many that the heroes are not everyone, and the first sync of its creator's device.
fn crowd(server: &Server, creator: &User) -> (String, Vec<User>, Sync) {
    let others: Vec<_> = (0..7).map(|_| server.registers("other")).collect();
    let room = creator.creates_room_with(&others.iter().collect::<Vec<_>>());
    creator.sends(&room, "welcome");
    let first = syncs_lazily(creator, None);
    let known = members(&first.state(&room));
    let strangers: Vec<_> = others.into_iter().filter(|other| !known.contains(&other.id)).collect();
    assert!(strangers.len() >= 2, "{known:?}");
    (room, strangers, first)
}

fn a_lost_answer_loses_no_member(server: &Server) {
    let alice = server.registers("alice");
    let (room, strangers, first) = crowd(server, &alice);
    strangers[0].sends(&room, "from a stranger");
    for _attempt in 0..3 {
        // The answer is lost each time: the client asks with the token it has.
        let sync = syncs_lazily(&alice, Some(&first.next_batch));
        assert_eq!(members(&sync.state(&room)), [strangers[0].id.as_str()], "{}", sync.body);
    }
    let lost = syncs_lazily(&alice, Some(&first.next_batch));
    strangers[1].sends(&room, "from another");
    // This time it comes back from before, and the first stranger's message falls into a gap.
    let sync = syncs_lazily(&alice, Some(&first.next_batch));
    assert!(sync.is_limited(&room));
    assert_eq!(members(&sync.state(&room)), [strangers[1].id.as_str()], "{}", sync.body);
    strangers[0].sends(&room, "again");
    let sync = syncs_lazily(&alice, Some(&sync.next_batch));
    assert_eq!(members(&sync.state(&room)), [strangers[0].id.as_str()], "it never arrived: {}", sync.body);
    strangers[0].sends(&room, "and again");
    let sync = syncs_lazily(&alice, Some(&sync.next_batch));
    assert_eq!((sync.messages(&room), members(&sync.state(&room))), (vec!["and again".to_owned()], vec![]));
    assert_ne!(lost.next_batch, sync.next_batch);
}

fn a_changed_member_comes_again(server: &Server) {
    let alice = server.registers("alice");
    let (room, strangers, first) = crowd(server, &alice);
    strangers[0].sends(&room, "hello");
    let sync = syncs_lazily(&alice, Some(&first.next_batch));
    assert_eq!(members(&sync.state(&room)), [strangers[0].id.as_str()]);
    let member = json!({ "membership": "join", "displayname": "Renamed" });
    strangers[0].sets_state(&room, "m.room.member", &strangers[0].id, member).ok();
    strangers[0].sends(&room, "it is me");
    let sync = syncs_lazily(&alice, Some(&sync.next_batch));
    let told = [sync.state(&room), sync.timeline(&room)].concat();
    let member = told.iter().find(|event| event["type"] == "m.room.member").expect("the new name");
    assert_eq!(member["content"]["displayname"], "Renamed");
    strangers[0].sends(&room, "still");
    let sync = syncs_lazily(&alice, Some(&sync.next_batch));
    assert!(members(&sync.state(&room)).is_empty(), "{}", sync.body);
}

/// «the server MUST return membership events for events in the gap […] regardless as to whether or not they are
/// redundant».
fn changes_in_a_gap_come_redundant_or_not(server: &Server) {
    let alice = server.registers("alice");
    let (room, strangers, first) = crowd(server, &alice);
    strangers[0].leaves(&room).ok();
    alice.invites(&room, &strangers[0]).ok();
    alice.sends(&room, "after it");
    let sync = syncs_lazily(&alice, Some(&first.next_batch));
    assert!(sync.is_limited(&room));
    assert_eq!(members(&sync.state(&room)), [strangers[0].id.as_str()], "{}", sync.body);
}

fn a_first_sync_brings_members_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    bob.sends(&room, "hello");
    let mut expected = [alice.id.clone(), bob.id.clone()];
    expected.sort();
    for _attempt in 0..3 {
        let sync = syncs_lazily(&alice, None);
        assert_eq!(members(&sync.state(&room)), expected);
        bob.sends(&room, "and again");
        syncs_lazily(&alice, Some(&sync.next_batch));
    }
}

/// «servers MUST include the syncing user's own membership event when […] the full state of rooms is requested».
fn ones_own_member_comes_with_the_whole_state(server: &Server) {
    let alice = server.registers("alice");
    let (room, _, first) = crowd(server, &alice);
    alice.sends(&room, "mine");
    let sync = syncs_lazily(&alice, Some(&first.next_batch));
    assert!(members(&sync.state(&room)).is_empty(), "{}", sync.body);
    let pairs = [("since", sync.next_batch.as_str()), ("full_state", "true"), ("filter", LAZY)];
    let whole = Sync::from(alice.asks_sync(&pairs));
    assert!(members(&whole.state(&room)).contains(&alice.id), "{}", whole.joined(&room));
}
