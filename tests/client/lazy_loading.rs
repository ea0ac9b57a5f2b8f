//! Spec: client-server API, «Lazy-loading room members».

use std::collections::BTreeSet;

use harness::{Server, Sync, User, Value, json, on_each_host};

on_each_host![
    sync_brings_only_the_senders_members,
    a_new_sender_brings_its_member,
    messages_bring_the_senders_members,
    redundant_members_come_on_demand,
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
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    bob.sends(&room, "hello");
    let first = syncs_lazily(&alice, None);
    carol.sends(&room, "hello from me");
    let second = syncs_lazily(&alice, Some(&first.next_batch));
    assert!(members(&second.state(&room)).contains(&carol.id), "{}", second.body);
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
