//! Spec: client-server API, «Receipts», «Read and unread markers».

use harness::{Server, Sync, Value, encode, json, on_each_host};

on_each_host![
    a_receipt_is_told_to_everyone,
    a_receipt_wakes_who_waits,
    a_private_receipt_is_its_owners_alone,
    a_receipt_goes_only_forward,
    receipts_of_threads_stand_side_by_side,
    a_receipt_belongs_to_its_thread,
    nonsense_is_refused,
    only_members_read,
    read_markers_do_both,
    a_first_sync_brings_all_receipts,
    a_filter_leaves_receipts_out,
    a_receipt_is_told_once,
];

const PUBLIC: &str = "m.read";
const PRIVATE: &str = "m.read.private";

fn told(user: &harness::User, event_id: &str, thread: &str) -> (String, String, String) {
    (user.id.clone(), event_id.to_owned(), thread.to_owned())
}

fn a_receipt_is_told_to_everyone(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let since = [&alice, &bob, &phone].map(|user| (user, user.syncs().next_batch));
    assert_eq!(bob.reads(&room, PUBLIC, &message, json!({})).ok(), json!({}));
    for (user, since) in since {
        let sync = user.syncs_until(&since, |sync| !sync.ephemeral(&room, "m.receipt").is_empty());
        assert_eq!(sync.receipts(&room, PUBLIC), [told(&bob, &message, "")]);
        assert!(sync.timeline(&room).is_empty() && !sync.is_limited(&room), "{}", sync.joined(&room));
    }
}

fn a_receipt_wakes_who_waits(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let since = alice.syncs().next_batch;
    let waiter = {
        let alice = alice.clone();
        std::thread::spawn(move || alice.hears_since(&since))
    };
    bob.reads(&room, PUBLIC, &message, json!({})).ok();
    let sync = waiter.join().expect("the waiter is answered");
    assert_eq!(sync.receipts(&room, PUBLIC), [told(&bob, &message, "")]);
}

fn a_private_receipt_is_its_owners_alone(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = bob.logs_in_again();
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let (alice_since, phone_since) = (alice.syncs().next_batch, phone.syncs().next_batch);
    bob.reads(&room, PRIVATE, &message, json!({})).ok();
    let sync = phone.hears_since(&phone_since);
    assert_eq!(sync.receipts(&room, PRIVATE), [told(&bob, &message, "")]);
    // What comes to Alice after it is all that comes to her.
    bob.reads(&room, PUBLIC, &message, json!({})).ok();
    let sync = alice.hears_since(&alice_since);
    assert_eq!(sync.receipts(&room, PUBLIC), [told(&bob, &message, "")]);
    for sync in [sync, alice.syncs()] {
        assert!(!sync.body.to_string().contains(PRIVATE), "{}", sync.body);
    }
    assert_eq!(bob.syncs().receipts(&room, PRIVATE), [told(&bob, &message, "")]);
}

fn a_receipt_goes_only_forward(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let messages = ["one", "two", "three"].map(|text| alice.sends(&room, text));
    for event_id in [&messages[1], &messages[0], &messages[1]] {
        bob.reads(&room, PUBLIC, event_id, json!({})).ok();
    }
    assert_eq!(alice.syncs().receipts(&room, PUBLIC), [told(&bob, &messages[1], "")]);
    bob.reads(&room, PUBLIC, &messages[2], json!({})).ok();
    assert_eq!(alice.syncs().receipts(&room, PUBLIC), [told(&bob, &messages[2], "")]);
    // «it is considered valid to have an m.read (public) receipt lag several messages behind».
    bob.reads(&room, PRIVATE, &messages[0], json!({})).ok();
    assert_eq!(bob.syncs().receipts(&room, PRIVATE), [told(&bob, &messages[0], "")]);
}

/// «Each user_id, receipt_type, and categorisation tuple must be associated with only a single event_id.»
fn receipts_of_threads_stand_side_by_side(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let root = alice.sends(&room, "root");
    let reply = alice.sends_in_thread(&room, &root, "in the thread");
    let last = alice.sends(&room, "last");
    let since = alice.syncs().next_batch;
    bob.reads(&room, PUBLIC, &reply, json!({ "thread_id": root })).ok();
    bob.reads(&room, PUBLIC, &root, json!({ "thread_id": "main" })).ok();
    bob.reads(&room, PUBLIC, &last, json!({})).ok();
    bob.reads(&room, PUBLIC, &last, json!({ "thread_id": "main" })).ok();
    let mut expected = [told(&bob, &reply, &root), told(&bob, &last, "main"), told(&bob, &last, "")];
    expected.sort();
    assert_eq!(bob.syncs().receipts(&room, PUBLIC), expected);
    let sync = alice.syncs_until(&since, |sync| sync.receipts(&room, PUBLIC).contains(&expected[0]));
    let batched = sync.ephemeral(&room, "m.receipt").len();
    assert!(batched <= 3, "«batched into one event per room and thread»: {}", sync.joined(&room));
}

fn a_receipt_belongs_to_its_thread(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (root, other) = (alice.sends(&room, "root"), alice.sends(&room, "other"));
    let reply = alice.sends_in_thread(&room, &root, "in the thread");
    let relate = |kind: &str, to: &str| {
        alice.sends_content(
            &room,
            json!({ "msgtype": "m.text", "body": "r", "m.relates_to": { "rel_type": kind, "event_id": to } }),
        )
    };
    // Followed for up to three relations; a fourth is not.
    let first = relate("m.reference", &reply);
    let second = relate("m.reference", &first);
    let third = relate("m.reference", &second);
    let to_root = relate("m.reference", &root);
    let rich_reply = alice.sends_content(
        &room,
        json!({ "msgtype": "m.text", "body": "r", "m.relates_to": { "m.in_reply_to": { "event_id": reply } } }),
    );
    for (event_id, thread, fits) in [
        (&reply, &*root, true),
        (&reply, "main", false),
        (&reply, &*other, false),
        (&root, "main", true),
        (&root, &*root, true),
        (&other, "main", true),
        (&other, &*root, false),
        (&first, &*root, true),
        (&first, "main", false),
        (&second, &*root, true),
        (&third, &*root, false),
        (&third, "main", true),
        (&to_root, "main", true),
        (&to_root, &*root, true),
        (&rich_reply, "main", true),
        (&rich_reply, &*root, false),
    ] {
        let answer = bob.reads(&room, PUBLIC, event_id, json!({ "thread_id": thread }));
        if fits {
            answer.ok();
        } else {
            answer.refused(400, "M_INVALID_PARAM");
        }
    }
}

fn nonsense_is_refused(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    for thread in [json!(""), json!(7), json!(["main"]), Value::Null, json!("side"), json!({})] {
        bob.reads(&room, PUBLIC, &message, json!({ "thread_id": thread })).refused(400, "M_INVALID_PARAM");
    }
    bob.reads(&room, "m.fully_read", &message, json!({ "thread_id": "main" })).refused(400, "M_INVALID_PARAM");
    bob.reads(&room, "m.seen", &message, json!({})).refused(400, "M_INVALID_PARAM");
    bob.reads(&room, PUBLIC, "no-event", json!({})).refused(400, "M_INVALID_PARAM");
    bob.reads(&room, PUBLIC, "$nowhere", json!({})).refused(404, "M_NOT_FOUND");
    let markers = format!("/rooms/{}/read_markers", encode(&room));
    bob.post(&markers, json!({ "m.read": "$nowhere" })).refused(404, "M_NOT_FOUND");
    bob.post(&markers, json!({ "m.fully_read": "$nowhere", "m.read": message })).refused(404, "M_NOT_FOUND");
    // An event of another room is none of this one.
    let other = bob.creates_room(json!({}));
    let elsewhere = bob.sends(&other, "elsewhere");
    bob.reads(&room, PUBLIC, &elsewhere, json!({})).refused(404, "M_NOT_FOUND");
    bob.post(&markers, json!({ "m.fully_read": elsewhere })).refused(404, "M_NOT_FOUND");
    assert!(bob.syncs().receipts(&room, PUBLIC).is_empty(), "nothing was marked");
}

fn only_members_read(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    bob.leaves(&room).ok();
    alice.invites(&room, &carol).ok();
    for user in [&bob, &carol, &server.registers("dave")] {
        user.reads(&room, PUBLIC, &message, json!({})).refused(403, "M_FORBIDDEN");
        user.reads("!nowhere:myelin.test", PUBLIC, &message, json!({})).refused(403, "M_FORBIDDEN");
    }
    assert!(alice.syncs().receipts(&room, PUBLIC).is_empty());
}

fn read_markers_do_both(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let [first, second] = ["one", "two"].map(|text| alice.sends(&room, text));
    let markers = format!("/rooms/{}/read_markers", encode(&room));
    let since = bob.syncs().next_batch;
    let body = json!({ "m.read": first, "m.read.private": second, "m.fully_read": first });
    assert_eq!(bob.post(&markers, body).ok(), json!({}));
    let fully_read = |sync: &Sync| {
        let events = sync.joined(&room)["account_data"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().find(|event| event["type"] == "m.fully_read").map(|event| event["content"]["event_id"].clone())
    };
    // «MUST send the updated account data event through to the client via the event stream».
    let sync = bob.syncs_until(&since, |sync| fully_read(sync).is_some());
    assert_eq!(fully_read(&sync), Some(json!(first)));
    // The other endpoint does the same.
    bob.reads(&room, "m.fully_read", &second, json!({})).ok();
    let sync = bob.syncs();
    assert_eq!(fully_read(&sync), Some(json!(second)));
    assert_eq!(sync.receipts(&room, PUBLIC), [told(&bob, &first, "")]);
    assert_eq!(sync.receipts(&room, PRIVATE), [told(&bob, &second, "")]);
    assert_eq!(bob.post(&markers, json!({})).ok(), json!({}));
}

fn a_first_sync_brings_all_receipts(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    bob.reads(&room, PUBLIC, &message, json!({})).ok();
    alice.reads(&room, PUBLIC, &message, json!({ "thread_id": "main" })).ok();
    let mut expected = [told(&alice, &message, "main"), told(&bob, &message, "")];
    expected.sort();
    assert_eq!(alice.syncs().receipts(&room, PUBLIC), expected);
    // And so does the sync that brings a room newly joined.
    alice.invites(&room, &carol).ok();
    let since = carol.syncs().next_batch;
    carol.joins(&room).ok();
    let sync = carol.syncs_until(&since, |sync| sync.joined(&room).is_object());
    assert_eq!(sync.receipts(&room, PUBLIC), expected);
}

fn a_filter_leaves_receipts_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let since = alice.syncs().next_batch;
    bob.reads(&room, PUBLIC, &message, json!({})).ok();
    alice.syncs_until(&since, |sync| !sync.receipts(&room, PUBLIC).is_empty());
    for ephemeral in [
        json!({ "types": [] }),
        json!({ "not_types": ["m.receipt"] }),
        json!({ "not_rooms": [room] }),
        json!({ "not_senders": [bob.id] }),
        json!({ "types": ["m.typing"] }),
    ] {
        let filter = json!({ "room": { "ephemeral": ephemeral } }).to_string();
        let first = Sync::from(alice.asks_sync(&[("filter", &filter)]));
        assert!(first.joined(&room).is_object() && first.receipts(&room, PUBLIC).is_empty(), "{ephemeral}");
        // The receipt alone is nothing to such a client.
        let next = Sync::from(alice.asks_sync(&[("since", &since), ("filter", &filter)]));
        assert!(next.joined(&room).is_null(), "{ephemeral}: {}", next.body);
    }
    let filter = json!({ "room": { "ephemeral": { "types": ["m.rec*"] } } }).to_string();
    assert_eq!(Sync::from(alice.asks_sync(&[("filter", &filter)])).receipts(&room, PUBLIC).len(), 1);
}

fn a_receipt_is_told_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let since = alice.syncs().next_batch;
    bob.reads(&room, PUBLIC, &message, json!({})).ok();
    let first = alice.hears_since(&since);
    assert_eq!(first.receipts(&room, PUBLIC).len(), 1);
    bob.sends(&room, "an answer");
    let second = alice.hears_since(&first.next_batch);
    assert_eq!(second.messages(&room), ["an answer"]);
    assert!(second.receipts(&room, PUBLIC).is_empty(), "{}", second.joined(&room));
    // A token used again brings it again.
    assert_eq!(alice.hears_since(&since).receipts(&room, PUBLIC).len(), 1);
}
