//! Spec: client-server API, «Typing Notifications».

use harness::{Server, Sync, encode, json, on_each_host};

on_each_host![
    who_types_is_shown,
    who_stops_is_shown_no_longer,
    typing_wakes_who_waits,
    the_list_replaces_the_one_before,
    a_message_ends_the_typing,
    leaving_ends_the_typing,
    time_ends_the_typing,
    who_types_on_is_waited_for,
    typing_on_is_no_news,
    a_first_sync_shows_who_types,
    every_device_is_shown,
    a_filter_leaves_typing_out,
    a_limit_loses_no_receipt,
    nobody_types_for_another,
    only_members_type,
];

fn types(user: &harness::User, room: &str) {
    user.types(room, json!({ "typing": true, "timeout": 30000 })).ok();
}

fn stops(user: &harness::User, room: &str) {
    user.types(room, json!({ "typing": false })).ok();
}

fn who_types_is_shown(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    assert_eq!(alice.types(&room, json!({ "typing": true })).ok(), json!({}), "how long may be left out");
    let sync = bob.hears_since(&since);
    assert_eq!(sync.typing(&room), Some(vec![alice.id.clone()]), "{}", sync.body);
    assert!(sync.timeline(&room).is_empty() && !sync.is_limited(&room), "{}", sync.joined(&room));
}

fn who_stops_is_shown_no_longer(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    types(&alice, &room);
    let sync = bob.hears_since(&since);
    stops(&alice, &room);
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!(sync.typing(&room), Some(vec![]), "{}", sync.body);
    // What follows does not say it again.
    alice.sends(&room, "done");
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!((sync.messages(&room), sync.typing(&room)), (vec!["done".to_owned()], None));
}

fn typing_wakes_who_waits(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    let waiter = {
        let bob = bob.clone();
        std::thread::spawn(move || bob.hears_since(&since))
    };
    types(&alice, &room);
    let sync = waiter.join().expect("the waiter is answered");
    assert_eq!(sync.typing(&room), Some(vec![alice.id.clone()]));
}

/// «it MUST use the user ID list to REPLACE its knowledge of every user who is currently typing».
fn the_list_replaces_the_one_before(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    let since = carol.syncs().next_batch;
    types(&alice, &room);
    let sync = carol.hears_since(&since);
    types(&bob, &room);
    let sync = carol.hears_since(&sync.next_batch);
    let mut both = sync.typing(&room).expect("who types");
    both.sort();
    let mut expected = [alice.id.clone(), bob.id.clone()];
    expected.sort();
    assert_eq!(both, expected);
    stops(&alice, &room);
    let sync = carol.hears_since(&sync.next_batch);
    assert_eq!(sync.typing(&room), Some(vec![bob.id.clone()]));
}

fn a_message_ends_the_typing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    types(&alice, &room);
    let sync = bob.hears_since(&since);
    alice.sends(&room, "here it is");
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!((sync.messages(&room), sync.typing(&room)), (vec!["here it is".to_owned()], Some(vec![])));
}

fn leaving_ends_the_typing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = alice.syncs().next_batch;
    types(&bob, &room);
    let sync = alice.hears_since(&since);
    assert_eq!(sync.typing(&room), Some(vec![bob.id.clone()]));
    bob.leaves(&room).ok();
    let sync = alice.syncs_until(&sync.next_batch, |sync| sync.typing(&room).is_some());
    assert_eq!(sync.typing(&room), Some(vec![]));
}

fn time_ends_the_typing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.types(&room, json!({ "typing": true, "timeout": 2000 })).ok();
    let sync = bob.hears_since(&since);
    assert_eq!(sync.typing(&room), Some(vec![alice.id.clone()]));
    // Nobody says so: the client that waits learns it all the same.
    let sync = Sync::from(bob.asks_sync(&[("since", &sync.next_batch), ("timeout", "30000")]));
    assert_eq!(sync.typing(&room), Some(vec![]), "{}", sync.body);
}

fn who_types_on_is_waited_for(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.types(&room, json!({ "typing": true, "timeout": 1000 })).ok();
    let sync = bob.hears_since(&since);
    assert_eq!(sync.typing(&room), Some(vec![alice.id.clone()]));
    alice.types(&room, json!({ "typing": true, "timeout": 4000 })).ok();
    let sync = Sync::from(bob.asks_sync(&[("since", &sync.next_batch), ("timeout", "30000")]));
    assert_eq!(sync.typing(&room), Some(vec![]), "{}", sync.body);
}

fn typing_on_is_no_news(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    types(&alice, &room);
    let sync = bob.hears_since(&since);
    types(&alice, &room);
    types(&alice, &room);
    bob.types(&room, json!({ "typing": true })).ok();
    // The next that comes is the next change.
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!(sync.typing(&room).expect("who types").len(), 2, "{}", sync.body);
}

fn a_first_sync_shows_who_types(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    assert_eq!(bob.syncs().typing(&room), None);
    types(&alice, &room);
    let sync = bob.syncs();
    assert_eq!(sync.typing(&room), Some(vec![alice.id.clone()]));
    stops(&alice, &room);
    let sync = bob.hears_since(&sync.next_batch);
    assert_eq!(sync.typing(&room), Some(vec![]));
}

fn every_device_is_shown(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let (desk_since, phone_since) = (bob.syncs().next_batch, phone.syncs().next_batch);
    types(&alice, &room);
    let desk = bob.hears_since(&desk_since);
    assert_eq!(desk.typing(&room), Some(vec![alice.id.clone()]));
    // The phone looks later, and is shown the same.
    let sync = phone.hears_since(&phone_since);
    assert_eq!(sync.typing(&room), Some(vec![alice.id.clone()]));
    stops(&alice, &room);
    assert_eq!(bob.hears_since(&desk.next_batch).typing(&room), Some(vec![]));
    assert_eq!(phone.hears_since(&sync.next_batch).typing(&room), Some(vec![]));
    // One that never saw it is told nothing, and what comes next comes alone.
    alice.sends(&room, "marker");
    let sync = phone.hears_since(&phone_since);
    assert_eq!((sync.messages(&room), sync.typing(&room)), (vec!["marker".to_owned()], None));
}

fn a_filter_leaves_typing_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let filter = json!({ "room": { "ephemeral": { "not_types": ["m.typing"] } } }).to_string();
    let since = Sync::from(bob.asks_sync(&[("filter", &filter)])).next_batch;
    types(&alice, &room);
    bob.syncs_until(&since, |sync| sync.typing(&room).is_some());
    let waiter = {
        let (bob, filter, since) = (bob.clone(), filter.clone(), since.clone());
        std::thread::spawn(move || bob.hears_filtered(&since, &filter))
    };
    alice.sends(&room, "marker");
    let sync = waiter.join().expect("the waiter is answered");
    // Typing did not end the wait.
    assert_eq!((sync.messages(&room), sync.typing(&room)), (vec!["marker".to_owned()], None), "{}", sync.body);
}

fn nobody_types_for_another(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let path = format!("/rooms/{}/typing/{}", encode(&room), encode(&bob.id));
    alice.put(&path, json!({ "typing": true })).refused(403, "M_FORBIDDEN");
    alice.types(&room, json!({})).refused(400, "M_BAD_JSON");
    alice.types(&room, json!({ "typing": "yes" })).refused(400, "M_BAD_JSON");
    assert_eq!(alice.syncs().typing(&room), None);
}

fn only_members_type(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    bob.leaves(&room).ok();
    for user in [&bob, &carol] {
        user.types(&room, json!({ "typing": true })).refused(403, "M_FORBIDDEN");
        user.types("!nowhere:myelin.test", json!({ "typing": true })).refused(403, "M_FORBIDDEN");
    }
    assert_eq!(alice.syncs().typing(&room), None);
}

/// What a limit cut off would come with no later sync.
fn a_limit_loses_no_receipt(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let said = alice.sends(&room, "hello");
    bob.reads(&room, "m.read", &said, json!({})).ok();
    types(&bob, &room);
    let filter = json!({ "room": { "ephemeral": { "limit": 1 } } }).to_string();
    let sync = Sync::from(alice.asks_sync(&[("filter", &filter)]));
    assert_eq!(sync.typing(&room), Some(vec![bob.id.clone()]), "{}", sync.body);
    assert!(sync.receipts(&room, "m.read").iter().any(|(user, event_id, _)| (user, event_id) == (&bob.id, &said)));
}
