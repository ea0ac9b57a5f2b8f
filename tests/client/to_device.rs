//! Spec: client-server API, «Send-to-Device messaging».

use std::thread;

use harness::{Answer, SERVER_NAME, Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    a_message_reaches_its_device_once,
    a_lost_answer_is_told_again,
    a_star_reaches_all_devices,
    a_repeated_transaction_sends_nothing_again,
    who_waits_is_woken,
    many_messages_come_in_slices,
    what_cannot_be_sent_is_refused,
];

fn sends(from: &User, kind: &str, txn_id: &str, messages: Value) -> Answer {
    from.put(&format!("/sendToDevice/{}/{}", encode(kind), encode(txn_id)), json!({ "messages": messages }))
}

fn to(whom: &User, device: &str, text: &str) -> Value {
    json!({ (&whom.id): { (device): { "text": text } } })
}

fn told(sync: &Sync) -> Vec<String> {
    let events = sync.body["to_device"]["events"].as_array().into_iter().flatten();
    events.map(|event| event["content"]["text"].as_str().expect("a text").to_owned()).collect()
}

fn a_message_reaches_its_device_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let other = bob.logs_in_again();
    let (start, others) = (bob.syncs(), other.syncs());
    assert_eq!(start.body.get("to_device"), None);
    sends(&alice, "m.test", "1", to(&bob, &bob.device_id, "hello")).ok();
    let sync = bob.syncs_since(&start.next_batch);
    let event = json!({ "sender": alice.id, "type": "m.test", "content": { "text": "hello" } });
    assert_eq!(sync.body["to_device"], json!({ "events": [event] }));
    assert_eq!(told(&bob.syncs_since(&sync.next_batch)), [""; 0]);
    assert_eq!(told(&bob.syncs()), [""; 0], "the device had it");
    assert_eq!(told(&other.syncs_since(&others.next_batch)), [""; 0], "it was not for this one");
}

fn a_lost_answer_is_told_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let start = bob.syncs();
    for text in ["1", "2", "3"] {
        sends(&alice, "m.test", text, to(&bob, &bob.device_id, text)).ok();
        assert_eq!(told(&bob.syncs_since(&start.next_batch)).last().map(String::as_str), Some(text));
    }
    let sync = bob.syncs_since(&start.next_batch);
    assert_eq!(told(&sync), ["1", "2", "3"], "in order of arrival");
    sends(&alice, "m.test", "4", to(&bob, &bob.device_id, "4")).ok();
    let next = bob.syncs_since(&sync.next_batch);
    assert_eq!(told(&next), ["4"]);
}

fn a_star_reaches_all_devices(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let other = bob.logs_in_again();
    let messages = json!({ (&bob.id): { "*": { "text": "all" } }, (&alice.id): { "*": { "text": "own" } } });
    sends(&alice, "m.test", "1", messages).ok();
    assert_eq!(told(&bob.syncs()), ["all"]);
    assert_eq!(told(&other.syncs()), ["all"]);
    assert_eq!(told(&alice.syncs()), ["own"]);
    let late = bob.logs_in_again();
    assert_eq!(told(&late.syncs()), [""; 0], "it was not there yet");
}

fn a_repeated_transaction_sends_nothing_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let again = alice.logs_in_again();
    let start = bob.syncs();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| sends(&alice, "m.test", "1", to(&bob, &bob.device_id, "1")).ok());
        }
    });
    let sync = bob.syncs_since(&start.next_batch);
    assert_eq!(told(&sync), ["1"]);
    let sync = bob.syncs_since(&sync.next_batch);
    sends(&alice, "m.test", "1", to(&bob, &bob.device_id, "1")).ok();
    sends(&again, "m.test", "1", to(&bob, &bob.device_id, "by another device")).ok();
    sends(&alice, "m.other", "1", to(&bob, &bob.device_id, "of another type")).ok();
    assert_eq!(told(&bob.syncs_since(&sync.next_batch)), ["by another device", "of another type"]);
}

fn who_waits_is_woken(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let start = bob.syncs();
    thread::scope(|scope| {
        let waits = scope.spawn(|| bob.syncs_until(&start.next_batch, |sync| !told(sync).is_empty()));
        sends(&alice, "m.test", "1", to(&bob, &bob.device_id, "wake")).ok();
        assert_eq!(told(&waits.join().expect("a sync")), ["wake"]);
    });
}

fn many_messages_come_in_slices(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let mut since = bob.syncs().next_batch;
    for number in 0..150 {
        sends(&alice, "m.test", &number.to_string(), to(&bob, &bob.device_id, &number.to_string())).ok();
    }
    let mut all = Vec::new();
    while all.len() < 150 {
        // What is left does not wait for more to happen.
        let sync = Sync::from(bob.asks_sync(&[("since", &since), ("timeout", "30000")]));
        let slice = told(&sync);
        assert!((1..=100).contains(&slice.len()), "{}", slice.len());
        all.extend(slice);
        since = sync.next_batch;
    }
    assert_eq!(all, (0..150).map(|number| number.to_string()).collect::<Vec<_>>());
}

fn what_cannot_be_sent_is_refused(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    sends(&alice, "m.test", "1", json!({ (&bob.id): { "*": "text" } })).refused(400, "M_BAD_JSON");
    sends(&alice, "m.test", "2", json!({ "bob": { "*": {} } })).refused(400, "M_BAD_JSON");
    sends(&alice, "m.test", "3", to(&bob, "*", &"x".repeat(70_000))).refused(413, "M_TOO_LARGE");
    alice.put("/sendToDevice/m.test/4", json!({})).refused(400, "M_BAD_JSON");
    for (event_type, txn_id) in [("m.test", &*"t".repeat(256)), (&*"m".repeat(256), "5")] {
        sends(&alice, event_type, txn_id, to(&bob, "*", "hello")).refused(400, "M_INVALID_PARAM");
    }
    let stranger = format!("@nobody:{SERVER_NAME}");
    sends(&alice, "m.test", "5", json!({ (stranger): { "*": {} }, "@bob:elsewhere.test": { "*": {} } })).ok();
    let path = "/_matrix/client/v3/sendToDevice/m.test/6";
    server.anonymous().put(path, json!({ "messages": {} })).refused(401, "M_MISSING_TOKEN");
    assert_eq!(told(&bob.syncs()), [""; 0]);
}
