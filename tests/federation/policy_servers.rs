//! Spec: server-server API, «Policy Servers»: a room has one of its servers asked about each event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use harness::{Host, Keys, Reply, User, Value, bodies, json};

use crate::{
    guest::{Guest, VERSION, event_id, redacted, takes_what_is_sent},
    network::{Federated, on_each_host},
};

on_each_host![
    our_events_are_signed_before_they_are_told_of,
    events_of_others_are_told_of_once_they_are_signed,
    a_policy_server_that_is_not_there_can_be_given_up,
];

const SPAM: &str = "The message appears to contain possible spam";
const KEY_ID: &str = "ed25519:policy_server";

/// The status of a policy server that judges.
const WORKS: u16 = 200;

fn keys() -> Keys {
    Keys::of(253)
}

/// A room of alice's and its policy server, with somebody in the room.
fn protected(here: &Federated, alice: &User) -> (String, Guest, Arc<AtomicU16>) {
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let guard = Guest::joins(here, &room, "guard");
    let (name, status) = (guard.homeserver.name.clone(), Arc::new(AtomicU16::new(WORKS)));
    let answers_with = status.clone();
    guard.homeserver.answers(move |request| {
        if request.uri != "/_matrix/policy/v1/sign" {
            return takes_what_is_sent(request);
        }
        let status = answers_with.load(Ordering::Relaxed);
        if status != WORKS {
            return Some(Reply::json(status, &json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "later" })));
        }
        let event: Value = serde_json::from_str(&request.body).expect("an event is JSON");
        if event["content"].to_string().contains("spam") {
            return Some(Reply::json(400, &json!({ "errcode": "M_FORBIDDEN", "error": SPAM, "score": 7 })));
        }
        let signed = keys().signs_as(redacted(&event), &name, KEY_ID);
        Some(Reply::json(200, &json!({ (name.as_str()): { (KEY_ID): signed["signatures"][&name][KEY_ID] } })))
    });
    alice.sets_state(&room, "m.room.policy", "", policy(&guard)).ok();
    assert_eq!(asked(&guard), Vec::<Value>::new(), "it is not asked about itself");
    (room, guard, status)
}

fn policy(guard: &Guest) -> Value {
    json!({ "via": guard.homeserver.name, "public_keys": { "ed25519": keys().public() } })
}

/// The events that it was asked about.
fn asked(guard: &Guest) -> Vec<Value> {
    let received = guard.homeserver.https.takes_received().into_iter();
    let asked = received.filter(|request| request.uri == "/_matrix/policy/v1/sign");
    asked.map(|request| serde_json::from_str(&request.body).expect("an event is JSON")).collect()
}

fn is_signed(event: &Value, guard: &Guest) -> bool {
    let signed = keys().signs_as(redacted(event), &guard.homeserver.name, KEY_ID);
    let name = &guard.homeserver.name;
    event["signatures"][name][KEY_ID] == signed["signatures"][name][KEY_ID]
}

fn our_events_are_signed_before_they_are_told_of(host: Host) {
    let here = Federated::starts(host);
    let (alice, bob) = (here.server.registers("alice"), here.server.registers("bob"));
    let (room, guard, _) = protected(&here, &alice);
    let said = alice.sends(&room, "hello");
    assert_eq!(asked(&guard).iter().map(event_id).collect::<Vec<_>>(), [said.as_str()]);
    // What it says is told as it says it; nothing happened.
    let refused = alice.says(&room, "spam").refused(400, "M_FORBIDDEN");
    assert_eq!((refused["error"].as_str(), refused["score"].as_u64()), (Some(SPAM), Some(7)));
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "spam" })).refused(400, "M_FORBIDDEN");
    asked(&guard);
    // The same again is another event, and asked about again; the same transaction is not.
    let again = alice.sends(&room, "hello");
    assert_ne!(said, again);
    let content = json!({ "msgtype": "m.text", "body": "once" });
    let once = alice.sends_event(&room, "m.room.message", "t", content.clone()).ok()["event_id"].clone();
    assert_eq!(alice.sends_event(&room, "m.room.message", "t", content).ok()["event_id"], once);
    assert_eq!(asked(&guard).len(), 2);
    // Whatever kind of event it is.
    bob.joins(&room).ok();
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "tea" })).ok();
    alice.redacts(&room, &said, "r").ok();
    alice.sets_state(&room, "m.room.policy", "other", json!({})).ok();
    let kinds: Vec<_> = asked(&guard).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["m.room.member", "m.room.topic", "m.room.redaction", "m.room.policy"]);
    // Also what nobody waits for.
    bob.put(&format!("/profile/{}/displayname", harness::encode(&bob.id)), json!({ "displayname": "Bob" })).ok();
    alice.sees(|sync| {
        let joined = sync.joined(&room).to_string();
        joined.contains(r#""displayname":"Bob""#)
    });
    assert_eq!(asked(&guard).len(), 1);
    assert_eq!(bodies(&alice.pages_back(&room, None, 50)), ["once", "hello"]);
    // The others get it with that signature, too.
    let last = alice.sends(&room, "the last one");
    guard.hears_event(|event| {
        assert!(event["type"] == "m.room.policy" || is_signed(event, &guard), "{event}");
        event_id(event) == last
    });
    // Without anybody there it is not asked any more.
    let leave = json!({ "membership": "leave" });
    let mut leave = guard.draft("m.room.member", Some(&guard.id), leave);
    // Later than all that happened meanwhile.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    leave["origin_server_ts"] = u64::try_from(now.as_millis()).expect("a small number").into();
    let (_, leave) = guard.completes(leave);
    guard.sends_event(&leave);
    alice.sees(|_| alice.state(&room, "m.room.member", &guard.id).ok()["membership"] == "leave");
    alice.sends(&room, "spam");
}

fn events_of_others_are_told_of_once_they_are_signed(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let (room, guard, works) = protected(&here, &alice);
    let carol = Guest::joins(&here, &room, "carol");
    assert_eq!(asked(&guard).len(), 1, "about carol, who joins");
    let eve = Guest::starts(&here, "spam-eve");
    let (id, join) = {
        let mut join = eve.makes_join(&room).ok()["event"].clone();
        join["content"]["displayname"] = "spam".into();
        eve.completes(join)
    };
    let refused = eve.sends_join(&room, &id, &join).refused(400, "M_FORBIDDEN");
    assert_eq!(refused["error"], SPAM);
    asked(&guard);
    let says = |text: &str| {
        let (_, event) = carol.completes(carol.message(text));
        assert_eq!(carol.sends_event(&event), json!({}), "{text}");
        event
    };
    let shown = |expected: &[&str]| {
        alice.sees(|sync| sync.joined(&room).to_string().contains(expected[0]));
        assert_eq!(bodies(&alice.pages_back(&room, None, 50)), expected);
    };
    says("spam");
    says("good");
    shown(&["good"]);
    assert_eq!(asked(&guard).len(), 2);
    // One that has the signature needs no other.
    let (_, mut event) = carol.completes(carol.message("signed"));
    let signed = keys().signs_as(redacted(&event), &guard.homeserver.name, KEY_ID);
    event["signatures"][&guard.homeserver.name] = signed["signatures"][&guard.homeserver.name].clone();
    assert_eq!(carol.sends_event(&event), json!({}));
    shown(&["signed", "good"]);
    assert_eq!(asked(&guard).len(), 0);
    // One by another key does.
    let (_, mut event) = carol.completes(carol.message("spam, signed"));
    let signed = Keys::of(254).signs_as(redacted(&event), &guard.homeserver.name, KEY_ID);
    event["signatures"][&guard.homeserver.name] = signed["signatures"][&guard.homeserver.name].clone();
    carol.sends_event(&event);
    says("better");
    shown(&["better", "signed", "good"]);
    assert_eq!(asked(&guard).len(), 2);
    // While it is away nobody is judged, and what came meanwhile is later; so it is when it is asked too often.
    works.store(503, Ordering::Relaxed);
    says("patient");
    works.store(WORKS, Ordering::Relaxed);
    shown(&["patient", "better", "signed", "good"]);
    works.store(429, Ordering::Relaxed);
    says("calm");
    alice.sees(|_| !asked(&guard).is_empty());
    works.store(WORKS, Ordering::Relaxed);
    shown(&["calm", "patient", "better", "signed", "good"]);
    // Who joins is told of their join as it is in the room.
    let dora = Guest::starts(&here, "dora");
    let (id, join) = dora.completes(dora.makes_join(&room).ok()["event"].clone());
    let joined = dora.sends_join(&room, &id, &join).ok();
    assert!(is_signed(&joined["event"], &guard), "{}", joined["event"]);
}

fn a_policy_server_that_is_not_there_can_be_given_up(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let (room, guard, works) = protected(&here, &alice);
    works.store(503, Ordering::Relaxed);
    alice.says(&room, "hello").refused(502, "M_UNKNOWN");
    // One that is not valid is none.
    for nothing in [json!({}), json!({ "via": guard.homeserver.name }), json!({ "via": 5, "public_keys": {} })] {
        alice.sets_state(&room, "m.room.policy", "", nothing).ok();
        alice.says(&room, "without").ok();
        alice.sets_state(&room, "m.room.policy", "", policy(&guard)).ok();
        alice.says(&room, "with").refused(502, "M_UNKNOWN");
    }
    // Nor is one with nobody in the room.
    let elsewhere = json!({ "via": "elsewhere.test", "public_keys": { "ed25519": keys().public() } });
    alice.sets_state(&room, "m.room.policy", "", elsewhere).ok();
    alice.says(&room, "without").ok();
}
