//! Spec: client-server API, «Receiving notifications», «Marking notifications as read», «Threaded read receipts».

use harness::{Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    what_others_say_is_unread,
    the_count_comes_with_the_event,
    reading_clears_the_count,
    an_own_message_clears_the_count,
    the_receipt_further_ahead_decides,
    mentions_stand_out,
    what_does_not_notify_does_not_count,
    the_past_of_a_room_is_not_unread,
    a_redacted_message_counts_no_longer,
    redacted_levels_of_notifications_are_none,
    another_device_sees_the_count_fall,
    threads_count_together_unless_asked_for,
    threads_count_apart_when_asked_for,
    each_receipt_clears_its_own,
    an_own_message_clears_its_thread,
    reactions_count_where_they_belong,
    a_muted_room_counts_nothing,
    rules_see_the_ids_that_clients_see,
];

const THREADS: &str = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;

/// Notifications and highlights of the room.
fn unread(sync: &Sync, room: &str) -> (u64, u64) {
    counts(&sync.joined(room)["unread_notifications"])
}

fn counts(counts: &Value) -> (u64, u64) {
    let number = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"));
    (number("notification_count"), number("highlight_count"))
}

fn by_thread(user: &User, room: &str) -> (u64, Vec<(String, u64)>) {
    let sync = Sync::from(user.asks_sync(&[("filter", THREADS)]));
    let threads = sync.joined(room)["unread_thread_notifications"].as_object().cloned().unwrap_or_default();
    let threads = threads.iter().map(|(root, thread)| (root.clone(), counts(thread).0));
    (unread(&sync, room).0, threads.collect())
}

fn reads(user: &User, room: &str, event_id: &str, thread: Option<&str>) {
    let body = thread.map_or_else(|| json!({}), |thread| json!({ "thread_id": thread }));
    user.reads(room, "m.read", event_id, body).ok();
}

fn what_others_say_is_unread(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    assert_eq!(unread(&bob.syncs(), &room), (0, 0));
    alice.sends_numbers(&room, 1..=3);
    assert_eq!(unread(&bob.syncs(), &room), (3, 0));
    assert_eq!(unread(&alice.syncs(), &room), (0, 0));
}

/// «The updated notification count from a new event MUST appear in the same /sync response as the event itself.»
fn the_count_comes_with_the_event(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut since = bob.syncs().next_batch;
    for number in 1..=3 {
        alice.sends(&room, "hello");
        let sync = bob.hears_since(&since);
        assert_eq!((sync.messages(&room).len(), unread(&sync, &room)), (1, (number, 0)));
        since = sync.next_batch;
    }
}

fn reading_clears_the_count(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let messages = ["one", "two", "three"].map(|text| alice.sends(&room, text));
    let since = bob.syncs().next_batch;
    reads(&bob, &room, &messages[1], None);
    // «prior to and including that event».
    assert_eq!(unread(&bob.hears_since(&since), &room), (1, 0));
    bob.reads(&room, "m.read.private", &messages[2], json!({})).ok();
    assert_eq!(unread(&bob.syncs(), &room), (0, 0));
    alice.sends(&room, "four");
    assert_eq!(unread(&bob.syncs(), &room), (1, 0));
}

/// «When the user updates their read receipt (either by using the API or by sending an event)».
fn an_own_message_clears_the_count(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends_numbers(&room, 1..=3);
    let since = bob.syncs().next_batch;
    bob.sends(&room, "an answer");
    let sync = bob.hears_since(&since);
    assert_eq!(unread(&sync, &room), (0, 0));
    alice.sends(&room, "another");
    assert_eq!(unread(&bob.hears_since(&sync.next_batch), &room), (1, 0));
    assert_eq!(unread(&bob.syncs(), &room), (1, 0));
    // Whoever changes the room has read it; whose name changes did not say so here.
    bob.sends(&room, "more");
    assert_eq!(unread(&alice.syncs(), &room), (1, 0));
    alice.put(&format!("/profile/{}/displayname", encode(&alice.id)), json!({ "displayname": "A" })).ok();
    alice.sees(|sync| sync.timeline(&room).iter().any(|event| event["content"]["displayname"] == "A"));
    assert_eq!(unread(&alice.syncs(), &room), (1, 0));
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "Tea" })).ok();
    assert_eq!(unread(&alice.syncs(), &room), (0, 0));
}

fn the_receipt_further_ahead_decides(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let messages = ["A", "B", "C", "D"].map(|text| alice.sends(&room, text));
    for (kind, at, left) in [("m.read", 2, 1), ("m.read.private", 0, 1), ("m.read.private", 3, 0)] {
        bob.reads(&room, kind, &messages[at], json!({})).ok();
        assert_eq!(unread(&bob.syncs(), &room).0, left, "{kind} at {at}");
    }
}

fn mentions_stand_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends_content(&room, json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.id] } }));
    alice.sends_content(&room, json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } }));
    let last = alice.sends_content(&room, json!({ "msgtype": "m.text", "body": "none", "m.mentions": {} }));
    assert_eq!(unread(&bob.syncs(), &room), (3, 2));
    // Who may not notify the room does not.
    reads(&bob, &room, &last, None);
    bob.sends_content(&room, json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } }));
    assert_eq!(unread(&alice.syncs(), &room), (1, 0));
}

fn what_does_not_notify_does_not_count(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends_content(&room, json!({ "msgtype": "m.notice", "body": "from a bot" }));
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "News" })).ok();
    alice.invites(&room, &carol).ok();
    carol.joins(&room).ok();
    let message = alice.sends(&room, "hello");
    alice
        .sends_event(
            &room,
            "m.reaction",
            "r",
            json!({
                "m.relates_to": { "rel_type": "m.annotation", "event_id": message, "key": "!" },
            }),
        )
        .ok();
    assert_eq!(unread(&bob.syncs(), &room), (1, 0));
}

fn the_past_of_a_room_is_not_unread(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    alice.sends_numbers(&room, 1..=3);
    bob.joins(&room).ok();
    assert_eq!(unread(&bob.syncs(), &room), (0, 0));
    alice.sends(&room, "welcome");
    assert_eq!(unread(&bob.syncs(), &room), (1, 0));
    // Nor what was said while one was away.
    bob.leaves(&room).ok();
    alice.sends(&room, "among ourselves");
    bob.joins(&room).ok();
    assert_eq!(unread(&bob.syncs(), &room), (0, 0));
}

fn a_redacted_message_counts_no_longer(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "oops");
    alice.sends(&room, "hello");
    let sync = bob.syncs();
    assert_eq!(unread(&sync, &room), (2, 0));
    let path = format!("/rooms/{}/redact/{}/t", encode(&room), encode(&message));
    alice.put(&path, json!({})).ok();
    assert_eq!(unread(&bob.hears_since(&sync.next_batch), &room), (1, 0));
}

fn redacted_levels_of_notifications_are_none(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    levels["notifications"] = json!({ "room": 0 });
    let set = alice.sets_state(&room, "m.room.power_levels", "", levels).ok();
    bob.sends_content(&room, json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } }));
    let sync = alice.syncs();
    assert_eq!(unread(&sync, &room), (1, 1));
    alice.redacts(&room, set["event_id"].as_str().unwrap(), "levels").ok();
    bob.sends_content(&room, json!({ "msgtype": "m.text", "body": "more", "m.mentions": { "room": true } }));
    let sync = alice.syncs_until(&sync.next_batch, |sync| {
        sync.timeline(&room).iter().any(|event| event["content"]["body"] == "more")
    });
    assert_eq!(unread(&sync, &room), (1, 0), "bob has no power to make everybody look");
}

fn another_device_sees_the_count_fall(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let sync = phone.syncs();
    assert_eq!(unread(&sync, &room), (1, 0));
    reads(&bob, &room, &message, None);
    let sync = phone.hears_since(&sync.next_batch);
    assert_eq!(unread(&sync, &room), (0, 0));
    // Whether it wants to be shown the receipt or not.
    let next = alice.sends(&room, "again");
    let sync = phone.hears_since(&sync.next_batch);
    assert_eq!(unread(&sync, &room), (1, 0));
    bob.reads(&room, "m.read.private", &next, json!({})).ok();
    let filter = json!({ "room": { "ephemeral": { "types": [] } } }).to_string();
    let sync = phone.hears_filtered(&sync.next_batch, &filter);
    assert_eq!((unread(&sync, &room), sync.ephemeral(&room, "m.receipt").len()), ((0, 0), 0));
}

/// Two messages in the main timeline, one of them the root of a thread of three.
fn a_thread(alice: &User, room: &str) -> (String, [String; 3], String) {
    let root = alice.sends(room, "root");
    let replies = ["one", "two", "three"].map(|text| alice.sends_in_thread(room, &root, text));
    let last = alice.sends(room, "last");
    (root, replies, last)
}

fn threads_count_together_unless_asked_for(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    a_thread(&alice, &room);
    let sync = bob.syncs();
    assert_eq!(unread(&sync, &room), (5, 0));
    assert!(sync.joined(&room)["unread_thread_notifications"].is_null());
}

fn threads_count_apart_when_asked_for(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    assert_eq!(by_thread(&bob, &room), (0, vec![]));
    let (root, ..) = a_thread(&alice, &room);
    assert_eq!(by_thread(&bob, &room), (2, vec![(root.clone(), 3)]));
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content =
        json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.id] }, "m.relates_to": relation });
    alice.sends_content(&room, content);
    let sync = Sync::from(bob.asks_sync(&[("filter", THREADS)]));
    assert_eq!(unread(&sync, &room), (2, 0));
    assert_eq!(counts(&sync.joined(&room)["unread_thread_notifications"][&root]), (4, 1));
}

fn each_receipt_clears_its_own(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (root, replies, last) = a_thread(&alice, &room);
    reads(&bob, &room, &replies[1], Some(&root));
    assert_eq!(by_thread(&bob, &room), (2, vec![(root.clone(), 1)]));
    reads(&bob, &room, &root, Some("main"));
    assert_eq!(by_thread(&bob, &room), (1, vec![(root.clone(), 1)]));
    reads(&bob, &room, &last, Some("main"));
    // «marking A as read with a threaded read receipt would not mean that C, E, G, or H get marked as read».
    assert_eq!(by_thread(&bob, &room), (0, vec![(root.clone(), 1)]));
    // An unthreaded one is for all of them, up to its event.
    let more = alice.sends_in_thread(&room, &root, "four");
    alice.sends(&room, "after");
    reads(&bob, &room, &more, None);
    assert_eq!(by_thread(&bob, &room), (1, vec![]));
}

fn an_own_message_clears_its_thread(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (root, ..) = a_thread(&alice, &room);
    bob.sends_in_thread(&room, &root, "me too");
    assert_eq!(by_thread(&bob, &room), (2, vec![]));
    alice.sends_in_thread(&room, &root, "and me");
    bob.sends(&room, "elsewhere");
    assert_eq!(by_thread(&bob, &room), (0, vec![(root, 1)]));
}

fn reactions_count_where_they_belong(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (root, replies, last) = a_thread(&alice, &room);
    reads(&bob, &room, &last, None);
    // An event that relates to one in the thread is in the thread; one that relates to the root is not.
    for to in [&replies[0], &root] {
        let relation = json!({ "rel_type": "m.reference", "event_id": to });
        alice.sends_content(&room, json!({ "msgtype": "m.text", "body": "r", "m.relates_to": relation }));
    }
    assert_eq!(by_thread(&bob, &room), (1, vec![(root, 1)]));
}

fn a_muted_room_counts_nothing(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (room, other) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    let rule = format!("/pushrules/global/room/{}", encode(&room));
    bob.put(&rule, json!({ "actions": [] })).ok();
    alice.sends(&room, "hello");
    alice.sends(&other, "hello");
    let sync = bob.syncs();
    assert_eq!((unread(&sync, &room), unread(&sync, &other)), ((0, 0), (1, 0)));
    // The count follows the rules with the room's next event.
    bob.client().delete(&format!("/_matrix/client/v3{rule}")).ok();
    alice.sends(&room, "again");
    assert_eq!(unread(&bob.hears_since(&sync.next_batch), &room), (2, 0));
}

/// Spec: `event_match` is of «the event» as clients have it, whatever servers tell each other of it.
fn rules_see_the_ids_that_clients_see(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let conditions = json!([
        { "kind": "event_match", "key": "event_id", "pattern": "$*" },
        { "kind": "event_property_is", "key": "room_id", "value": room },
    ]);
    let rule = json!({ "conditions": conditions, "actions": ["notify", { "set_tweak": "highlight" }] });
    bob.put("/pushrules/global/override/ids", rule).ok();
    alice.sends(&room, "hello");
    assert_eq!(unread(&bob.syncs(), &room), (1, 1));
}
