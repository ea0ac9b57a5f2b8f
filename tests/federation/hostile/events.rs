//! Events and transactions of servers that mean no good: each is bounded, refused, and changes nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Homeserver, Host, Keys, Reply, User, Value, bodies, encode, json};

use crate::{
    guest::{Guest, VERSION, event_id, hashed, redacted, takes_what_is_sent},
    network::{Federated, on_each_host},
};

on_each_host![
    events_that_are_none_change_nothing,
    what_an_event_builds_on_is_asked_for_within_bounds,
    a_state_that_is_made_up_keeps_nothing_waiting,
    whoever_lies_about_a_state_changes_none,
    what_is_passed_on_is_asked_of_who_said_it,
    transactions_that_are_none_are_refused,
    edus_that_speak_for_others_are_not_believed,
    whom_a_server_acl_denies_is_not_heard,
    keys_count_for_events_of_their_time,
    restricted_joins_are_judged_here,
];

/// What a server is told of an event of its transaction.
#[derive(Debug, PartialEq)]
enum Told {
    /// It has no id that could be named.
    Nothing,
    /// Why it was not taken in.
    Error,
    /// It was looked at. Spec: "Rejection": that the rules refuse it is no error.
    Seen,
}

fn told(outcome: &Value) -> Told {
    match outcome {
        Value::Null => Told::Nothing,
        outcome if outcome.get("error").is_some() => Told::Error,
        _ => Told::Seen,
    }
}

fn public_room(alice: &User) -> String {
    alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }))
}

/// The state, without what differs from one look to the next.
fn state_of(user: &User, room: &str) -> Vec<String> {
    let mut ids: Vec<_> =
        user.full_state(room).ok().as_array().unwrap().iter().map(|event| event["event_id"].to_string()).collect();
    ids.sort();
    ids
}

fn events_that_are_none_change_nothing(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let eve = Guest::joins(&here, &room, "eve");
    let before = state_of(&alice, &room);
    let with = |changes: Value| {
        let mut event = eve.message("evil");
        for (name, value) in changes.as_object().unwrap() {
            event[name] = value.clone();
        }
        eve.completes(event).1
    };
    let without = |field: &str| {
        let mut event = eve.message("evil");
        event.as_object_mut().unwrap().remove(field);
        eve.completes(event).1
    };
    let signed_by = |keys: &Keys, key_id: &str| {
        let mut event = hashed(eve.message("evil"));
        event["signatures"] = keys.signs_as(redacted(&event), &eve.homeserver.name, key_id)["signatures"].clone();
        event
    };
    let state = |kind: &str, key: &str, content: Value| eve.completes(eve.draft(kind, Some(key), content)).1;
    let many = |number: usize| (0..number).map(|n| format!("$prev{n}")).collect::<Vec<_>>();
    let cases: Vec<(&str, Value, Told)> = vec![
        ("in the name of a user of ours", with(json!({ "sender": alice.id })), Told::Error),
        ("in the name of another server's", with(json!({ "sender": "@x:elsewhere.test" })), Told::Error),
        ("not signed", hashed(eve.message("evil")), Told::Error),
        ("signed by another key", signed_by(&Keys::of(252), "ed25519:1"), Told::Error),
        ("signed by a key that is not there", signed_by(&Keys::of(252), "ed25519:9"), Told::Error),
        ("of a room that is not there", with(json!({ "room_id": "!nowhere:elsewhere.test" })), Told::Error),
        ("of no room", without("room_id"), Told::Error),
        ("of a room that is a number", with(json!({ "room_id": 5 })), Told::Error),
        ("after too many events", with(json!({ "prev_events": many(21) })), Told::Error),
        ("allowed by too many events", with(json!({ "auth_events": many(11) })), Told::Error),
        ("after a number", with(json!({ "prev_events": [5] })), Told::Error),
        ("too large", with(json!({ "content": { "body": "x".repeat(66_000) } })), Told::Error),
        ("with a long type", with(json!({ "type": "x".repeat(256) })), Told::Error),
        ("with a long state key", with(json!({ "state_key": "x".repeat(256) })), Told::Error),
        ("below the ground", with(json!({ "depth": -1 })), Told::Error),
        ("without depth", without("depth"), Told::Error),
        ("without content", without("content"), Told::Error),
        ("with a list as content", with(json!({ "content": [] })), Told::Error),
        ("of no type", without("type"), Told::Nothing),
        ("of no time", without("origin_server_ts"), Told::Error),
        ("of nobody", without("sender"), Told::Error),
        ("of a sender that is no user", with(json!({ "sender": "eve" })), Told::Error),
        ("a ban", state("m.room.member", &alice.id, json!({ "membership": "ban" })), Told::Seen),
        ("a kick", state("m.room.member", &alice.id, json!({ "membership": "leave" })), Told::Seen),
        ("another's join", state("m.room.member", "@x:elsewhere.test", json!({ "membership": "join" })), Told::Seen),
        ("power for all", state("m.room.power_levels", "", json!({ "users_default": 100 })), Told::Seen),
        ("another creation", state("m.room.create", "", json!({ "room_version": VERSION })), Told::Seen),
        ("a name", state("m.room.name", "", json!({ "name": "Eve's" })), Told::Seen),
        ("another's state", state("org.example.own", &alice.id, json!({})), Told::Seen),
        ("allowed by nothing", with(json!({ "auth_events": [] })), Told::Seen),
        (
            "allowed by what allows nothing",
            with(json!({ "auth_events": [eve.finds("m.room.history_visibility", "")] })),
            Told::Seen,
        ),
    ];
    for (case, event, expected) in &cases {
        let outcome = eve.sends_event(event);
        assert_eq!(told(&outcome), *expected, "{case}: {outcome}");
    }
    // What does not fit its hash is what redaction leaves of it.
    let mut changed = hashed(eve.message("changed"));
    changed["content"]["body"] = "evil".into();
    let changed = eve.signs(changed);
    assert_eq!(eve.sends_event(&changed), json!({}));
    assert_eq!(alice.event(&room, &event_id(&changed)).ok()["content"], json!({}));
    // Of one transaction, what is good is taken in, and twice the same is once.
    let (_, good) = eve.completes(eve.message("good"));
    let pdus = json!([cases[0].1, good, cases[3].1, good, cases[11].1]);
    eve.sends(&json!({ "pdus": pdus })).ok();
    let seen = bodies(&alice.pages_back(&room, None, 50));
    assert_eq!(seen, ["good"], "nothing else came");
    assert_eq!(state_of(&alice, &room), before);
    assert_eq!(alice.syncs().joined(&room)["timeline"]["limited"], false);
}

/// Of more events than a statement of the database takes.
fn a_state_that_is_made_up_keeps_nothing_waiting(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let eve = Guest::joins(&here, &room, "eve");
    let mut nowhere = eve.message("nowhere");
    nowhere["prev_events"] = json!(["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]);
    let (_, nowhere) = eve.completes(nowhere);
    let (first_id, first) = eve.completes(eve.message("first"));
    let mut second = eve.message("second");
    second["prev_events"] = json!([first_id]);
    let (second_id, second) = eve.completes(second);
    let made_up: Vec<String> = (0..45_000).map(|number| format!("${number:043}")).collect();
    eve.homeserver.answers(move |request| {
        let told = match &*request.uri {
            uri if uri.contains("/get_missing_events/") && request.body.contains(&second_id) => {
                json!({ "events": [first] })
            }
            uri if uri.contains("/get_missing_events/") => json!({ "events": [] }),
            uri if uri.contains("/state_ids/") => json!({ "pdu_ids": made_up, "auth_chain_ids": [] }),
            uri if uri.contains("/state/") => json!({ "pdus": [], "auth_chain": [] }),
            _ => return takes_what_is_sent(request),
        };
        Some(Reply::json(200, &told))
    });
    eve.sends(&json!({ "pdus": [nowhere, second] })).ok();
    alice.sees(|sync| sync.has_message(&room, "second"));
    assert_eq!(bodies(&alice.pages_back(&room, None, 20)), ["second", "first"]);
}

/// What comes after everything, and after something that is nowhere, has whatever state its server says it has.
fn whoever_lies_about_a_state_changes_none(host: Host) {
    let here = Federated::starts(host);
    let (alice, bob) = (here.server.registers("alice"), here.server.registers("bob"));
    let room = public_room(&alice);
    bob.joins(&room).ok();
    alice.sets_state(&room, "m.room.server_acl", "", json!({ "allow": ["*"] })).ok();
    let eve = Guest::joins(&here, &room, "eve");
    let said = alice.sends(&room, "hello");
    let before = state_of(&alice, &room);
    let join = eve.draft("", None, json!({}))["prev_events"][0].clone();
    let lie = json!([eve.finds("m.room.create", ""), join]);
    for is_to_be_had in [false, true] {
        let mut nowhere = eve.message("nowhere");
        nowhere["prev_events"] = json!([said, "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]);
        let (nowhere_id, nowhere) = eve.completes(nowhere);
        let body = format!("evil {is_to_be_had}");
        let mut event = eve.message(&body);
        event["prev_events"] = json!([said, nowhere_id]);
        let lie = lie.clone();
        eve.homeserver.answers(move |request| {
            let told = match &*request.uri {
                uri if uri.contains("/get_missing_events/") => json!({ "events": [] }),
                uri if uri.contains("/state_ids/") => json!({ "pdu_ids": lie, "auth_chain_ids": [] }),
                uri if uri.contains("/event/") && uri.contains(&encode(&nowhere_id)) && is_to_be_had => {
                    json!({ "pdus": [nowhere], "origin": "x", "origin_server_ts": 1 })
                }
                _ => return takes_what_is_sent(request),
            };
            Some(Reply::json(200, &told))
        });
        eve.sends_event(&eve.completes(event).1);
        alice.sees(|sync| sync.has_message(&room, &body));
        assert_eq!(state_of(&alice, &room), before, "{is_to_be_had}");
    }
    bob.sends(&room, "still here");
    alice.sees(|sync| sync.has_message(&room, "still here"));
}

/// Eve's server passes on what zoe says, and says that she is not in the room.
fn what_is_passed_on_is_asked_of_who_said_it(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let eve = Guest::joins(&here, &room, "eve");
    let zoe = Guest::joins(&here, &room, "zoe");
    let lie = json!({ "pdu_ids": [eve.finds("m.room.create", "")], "auth_chain_ids": [] });
    eve.homeserver.answers(move |request| match &*request.uri {
        uri if uri.contains("/get_missing_events/") => Some(Reply::json(200, &json!({ "events": [] }))),
        uri if uri.contains("/state_ids/") => Some(Reply::json(200, &lie)),
        _ => takes_what_is_sent(request),
    });
    let says = |body: &str| {
        let (before_id, before) = zoe.completes(zoe.message(&format!("before {body}")));
        let mut event = zoe.message(body);
        event["prev_events"] = json!([before_id]);
        (before, zoe.completes(event).1)
    };
    let (before, event) = says("truly");
    zoe.homeserver.answers(move |request| match &*request.uri {
        uri if uri.contains("/get_missing_events/") => Some(Reply::json(200, &json!({ "events": [before] }))),
        _ => takes_what_is_sent(request),
    });
    eve.sends_event(&event);
    alice.sees(|sync| sync.has_message(&room, "truly"));
    // Now her server says nothing for a while: what eve's says has no end.
    zoe.homeserver.answers(takes_what_is_sent);
    eve.homeserver.https.takes_received();
    let (before, event) = says("later");
    eve.sends_event(&event);
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_asked = || eve.homeserver.https.takes_received().iter().any(|asked| asked.uri.contains("/state_ids/"));
    while !is_asked() {
        assert!(Instant::now() < deadline, "eve's server is not asked");
        thread::sleep(Duration::from_millis(20));
    }
    zoe.sends(&json!({ "pdus": [before, event] })).ok();
    alice.sees(|sync| sync.has_message(&room, "later"));
}

/// Whoever is asked for what an event builds on answers with more and more of it.
fn what_an_event_builds_on_is_asked_for_within_bounds(host: Host) {
    const ASKED_MAX: usize = 60;
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let eve = Guest::joins(&here, &room, "eve");
    let before = state_of(&alice, &room);
    // A chain of authorisation that goes on and on, and a past that does.
    let mut deep = vec![eve.completes(eve.message("bottom")).1];
    for number in 0..300 {
        let below = event_id(deep.last().unwrap());
        let mut event = eve.draft("m.room.member", Some(&eve.id), json!({ "membership": "join", "number": number }));
        (event["auth_events"], event["prev_events"]) = (json!([below]), json!([below]));
        deep.push(eve.completes(event).1);
    }
    let top = event_id(deep.last().unwrap());
    let ids: Vec<_> = deep.iter().map(event_id).collect();
    type Answers = Box<dyn Fn(&str) -> Option<Value> + Send + Sync>;
    let (chain, past, named) = (deep.clone(), deep.clone(), ids.clone());
    let answers: [(&str, Answers); 4] = [
        ("nothing", Box::new(|_| None)),
        ("nonsense", Box::new(|_| Some(json!([[]])))),
        ("other rooms' events", {
            let mut elsewhere = eve.message("evil");
            elsewhere["room_id"] = "!elsewhere:elsewhere.test".into();
            let event = eve.completes(elsewhere).1;
            Box::new(move |_| {
                Some(json!({ "events": [event], "pdus": [event], "auth_chain": [event],
                "pdu_ids": [event_id(&event)], "auth_chain_ids": [event_id(&event)] }))
            })
        }),
        (
            "more and more",
            Box::new(move |uri| {
                let wanted = named.iter().position(|id| uri.contains(&encode(id)) || uri.contains(id.as_str()));
                let last = past.iter().rev().take(20).cloned().collect::<Vec<_>>();
                let one = wanted.filter(|_| uri.contains("/event/")).map(|index| vec![chain[index].clone()]);
                Some(json!({ "events": last, "auth_chain": chain, "pdus": one.unwrap_or_else(|| chain.clone()),
                "pdu_ids": named, "auth_chain_ids": named, "origin": "x", "origin_server_ts": 1 }))
            }),
        ),
    ];
    let mut sent = 0;
    for (case, answers) in answers {
        eve.homeserver.answers(move |request| {
            let asked = request.uri.starts_with("/_matrix/federation/") && !request.uri.contains("/send/");
            let told = asked.then(|| answers(&request.uri)).flatten();
            told.map(|told| Reply::json(200, &told)).or_else(|| takes_what_is_sent(request))
        });
        let started = Instant::now();
        eve.homeserver.https.takes_received();
        for (field, number) in [("auth_events", 0), ("prev_events", 1)] {
            let mut event = eve.message(&format!("evil {case} {number}"));
            event[field] = json!([top]);
            eve.sends_event(&eve.completes(event).1);
            // Nobody waits for what it builds on; that is asked for afterwards.
            let (mut asked, mut quiet) = (0, Instant::now());
            while asked == 0 || quiet.elapsed() < Duration::from_secs(1) {
                let came = eve.homeserver.https.takes_received().len();
                asked += came;
                if came > 0 {
                    quiet = Instant::now();
                }
                assert!(started.elapsed() < Duration::from_secs(30), "{case}: {field}: {asked} requests");
                thread::sleep(Duration::from_millis(20));
            }
            // What is not to be had is asked for again now and then.
            sent += 1;
            assert!(asked <= ASKED_MAX * sent, "{case}: {field}: {asked} requests");
        }
    }
    eve.homeserver.answers(takes_what_is_sent);
    assert_eq!(eve.sends_event(&eve.completes(eve.message("good")).1), json!({}));
    let seen = bodies(&alice.pages_back(&room, None, 50));
    assert!(seen.contains(&"good".to_owned()) && seen.iter().all(|body| !body.contains("evil")), "{seen:?}");
    assert_eq!(state_of(&alice, &room), before);
}

fn transactions_that_are_none_are_refused(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let eve = Guest::joins(&here, &room, "eve");
    let (_, event) = eve.completes(eve.message("evil"));
    let edu = json!({ "edu_type": "m.x", "content": {} });
    eve.sends(&json!({ "pdus": vec![event.clone(); 51] })).refused(400, "M_INVALID_PARAM");
    eve.sends(&json!({ "edus": vec![edu; 101] })).refused(400, "M_INVALID_PARAM");
    eve.sends(&json!({ "pdus": [event], "origin": "elsewhere.test" })).refused(403, "M_FORBIDDEN");
    eve.sends(&json!({ "pdus": 5 })).refused(400, "M_BAD_JSON");
    // No canonical JSON: what has that is no event, and the others of its transaction are looked at.
    for evil in [json!(1.5), json!(1e300), json!(9_007_199_254_740_992_u64), json!(-9_007_199_254_740_992_i64)] {
        let event = eve.completes(eve.draft("m.room.message", None, json!({ "body": "odd", "x": evil }))).1;
        let (id, good) = eve.completes(eve.message(&evil.to_string()));
        let pdus = eve.sends(&json!({ "pdus": [event, good] })).ok()["pdus"].clone();
        assert_eq!(pdus, json!({ (id): {} }));
    }
    let whole = json!({ "origin": eve.homeserver.name, "origin_server_ts": 1, "pdus": [event] });
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let nested = format!(r#"{{"a":{deep},{}"#, &whole.to_string()[1..]);
    eve.sends_text(&nested, &whole).refused(401, "M_UNAUTHORIZED");
    let twice = format!(r#"{{"pdus":[],{}"#, &whole.to_string()[1..]);
    eve.sends_text(&twice, &whole).refused(400, "M_BAD_JSON");
    let twice = whole.to_string().replace(r#""body":"evil""#, r#""body":"good","body":"evil""#);
    let outcome = eve.sends_text(&twice, &whole);
    assert_eq!(outcome.status, 200, "the last one counts: {}", outcome.text);
    eve.sends_text("{", &whole).refused(401, "M_UNAUTHORIZED");
    let huge = "x".repeat(100 << 20);
    match eve.tries_to_send(&huge, &whole) {
        Some(answer) => assert_eq!((answer.status, answer.body["errcode"].as_str()), (413, Some("M_TOO_LARGE"))),
        // Who sends on and on is cut off.
        None => assert_eq!(here.server.anonymous().get("/health").status, 200),
    }
    let said = bodies(&alice.pages_back(&room, None, 50));
    let numbers = ["-9007199254740992", "9007199254740992", "1e+300", "1.5"];
    assert_eq!(said, [&["evil"], &numbers[..]].concat(), "once, by what it was signed as");
}

fn edus_that_speak_for_others_are_not_believed(host: Host) {
    let here = Federated::starts(host);
    let (alice, bob) = (here.server.registers("alice"), here.server.registers("bob"));
    let room = public_room(&alice);
    bob.joins(&room).ok();
    let private = alice.creates_room(json!({ "preset": "private_chat", "room_version": VERSION }));
    let said = alice.sends(&room, "read this");
    let hidden = alice.sends(&private, "not for eve");
    let eve = Guest::joins(&here, &room, "eve");
    let since = alice.syncs().next_batch;
    let typing = |room: &str, user: &str| json!({ "edu_type": "m.typing", "content": { "room_id": room, "user_id": user, "typing": true } });
    let receipt = |room: &str, user: &str, event: &str| {
        let read = json!({ (user): { "event_ids": [event], "data": { "ts": 1 } } });
        json!({ "edu_type": "m.receipt", "content": { (room): { "m.read": read } } })
    };
    let message = |sender: &str, id: &str| {
        let messages = json!({ (alice.id.clone()): { "*": { "from": sender } } });
        let content = json!({ "sender": sender, "type": "org.example.note", "message_id": id, "messages": messages });
        json!({ "edu_type": "m.direct_to_device", "content": content })
    };
    let devices = |user: &str| {
        let content = json!({ "user_id": user, "device_id": "D", "stream_id": 5, "prev_id": [] });
        json!({ "edu_type": "m.device_list_update", "content": content })
    };
    let other = "@x:elsewhere.test";
    let evil = json!([
        typing(&room, &bob.id), typing(&room, other), typing(&private, &eve.id), typing("!nowhere:x", &eve.id),
        receipt(&room, &bob.id, &said), receipt(&room, other, &said), receipt(&private, &eve.id, &hidden),
        message(&bob.id, "1"), message(other, "2"), devices(&bob.id), devices(other),
        { "edu_type": "m.typing", "content": { "room_id": 5 } }, { "edu_type": "m.receipt", "content": [] },
        { "edu_type": 5 }, { "edu_type": "m.direct_to_device", "content": { "sender": eve.id } },
        { "edu_type": "m.presence", "content": { "push": 5 } }, "nonsense", 5, null,
    ]);
    eve.sends(&json!({ "edus": evil })).ok();
    eve.sends(&json!({ "edus": [typing(&room, &eve.id), receipt(&room, &eve.id, &said), message(&eve.id, "3")] })).ok();
    let (mut next, mut notes, mut readers, mut typists) = (since, Vec::new(), Vec::new(), Vec::new());
    while notes.is_empty() || readers.is_empty() || typists.is_empty() {
        let sync = alice.hears_since(&next);
        let events = sync.body["to_device"]["events"].as_array().cloned().unwrap_or_default();
        notes.extend(events.iter().map(|event| event["sender"].clone()));
        readers.extend(sync.receipts(&room, "m.read").into_iter().map(|receipt| receipt.0));
        typists.extend(sync.typing(&room).into_iter().flatten());
        assert!(sync.typing(&private).is_none_or(|typists| typists.is_empty()), "{}", sync.body);
        assert!(sync.receipts(&private, "m.read").is_empty(), "{}", sync.body);
        let changed = sync.body["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
        assert!(!changed.contains(&json!(bob.id)) && !changed.contains(&json!(other)), "{}", sync.body);
        next = sync.next_batch;
    }
    assert_eq!((notes, typists), (vec![json!(eve.id)], vec![eve.id.clone()]));
    assert!(readers.iter().all(|reader| *reader == eve.id || *reader == alice.id), "{readers:?}");
}

fn whom_a_server_acl_denies_is_not_heard(host: Host) {
    let homeserver = Homeserver::starts_as(Some("evil.test"), &["evil.test"]);
    let overrides = format!("evil.test=127.0.0.1:{}", homeserver.https.port);
    let here = Federated::starts_with(host, &[("DNS_OVERRIDES", &overrides)]);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let eve = Guest::of(&here, homeserver, "eve").enters(&room);
    assert_eq!(eve.sends_event(&eve.completes(eve.message("good")).1), json!({}));
    let acl = |deny: Value| json!({ "allow": ["*"], "deny": deny, "allow_ip_literals": true });
    alice.sets_state(&room, "m.room.server_acl", "", acl(json!(["evil.*"]))).ok();
    let (before, since) = (state_of(&alice, &room), alice.syncs().next_batch);

    let event = eve.completes(eve.message("evil")).1;
    let outcome = eve.sends_event(&event);
    assert_eq!(told(&outcome), Told::Error, "{outcome}");
    let typing = json!({ "room_id": room, "user_id": eve.id, "typing": true });
    let read = json!({ (eve.id.clone()): { "event_ids": [eve.finds("m.room.create", "")], "data": { "ts": 1 } } });
    let edus = json!([
        { "edu_type": "m.typing", "content": typing },
        { "edu_type": "m.receipt", "content": { (room.clone()): { "m.read": read } } },
    ]);
    eve.sends(&json!({ "edus": edus })).ok();
    let (encoded, user) = (encode(&room), encode(&eve.id));
    let create = encode(&eve.finds("m.room.create", ""));
    for path in [
        format!("make_join/{encoded}/{user}?ver={VERSION}"),
        format!("make_leave/{encoded}/{user}"),
        format!("make_knock/{encoded}/{user}?ver={VERSION}"),
        format!("state/{encoded}?event_id={create}"),
        format!("state_ids/{encoded}?event_id={create}"),
        format!("event_auth/{encoded}/{create}"),
        format!("backfill/{encoded}?v={create}&limit=5"),
    ] {
        let answer = eve.asks("GET", &format!("/_matrix/federation/v1/{path}"), None);
        assert_eq!((answer.status, answer.body["errcode"].as_str()), (403, Some("M_FORBIDDEN")), "{path}");
    }
    let missing = json!({ "earliest_events": [], "latest_events": [eve.finds("m.room.create", "")] });
    eve.asks("POST", &format!("/_matrix/federation/v1/get_missing_events/{encoded}"), Some(missing))
        .refused(403, "M_FORBIDDEN");
    let (id, leave) = eve.completes(eve.draft("m.room.member", Some(&eve.id), json!({ "membership": "leave" })));
    let path = format!("/_matrix/federation/v2/send_leave/{encoded}/{}", encode(&id));
    eve.asks("PUT", &path, Some(leave)).refused(403, "M_FORBIDDEN");
    assert_eq!(state_of(&alice, &room), before);
    let sync = alice.syncs_since(&since);
    assert!(sync.typing(&room).is_none() && sync.receipts(&room, "m.read").is_empty(), "{}", sync.body);
    assert!(!sync.has_message(&room, "evil"));

    alice.sets_state(&room, "m.room.server_acl", "", acl(json!([]))).ok();
    assert_eq!(eve.sends_event(&event), json!({}), "who is allowed again is heard");
    alice.syncs_until(&since, |sync| sync.has_message(&room, "evil"));
}

/// Spec: room version 5, "Signing key validity period".
fn keys_count_for_events_of_their_time(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = public_room(&alice);
    let now = alice.event(&room, &alice.sends(&room, "now")).ok()["origin_server_ts"].as_u64().unwrap();
    let eve = Guest::starts(&here, "eve");
    let document = eve.homeserver.key_document(now + 3_600_000);
    eve.homeserver.answers(move |request| match &*request.uri {
        "/_matrix/key/v2/server" => Some(Reply::json(200, &document)),
        _ => takes_what_is_sent(request),
    });
    let eve = eve.enters(&room);
    let at = |ms: u64, body: &str| {
        let mut event = eve.message(body);
        event["origin_server_ts"] = ms.into();
        told(&eve.sends_event(&eve.completes(event).1))
    };
    assert_eq!(at(now, "of now"), Told::Seen);
    assert_eq!(at(now + 7_200_000, "of later"), Told::Error);
    let seen = bodies(&alice.pages_back(&room, None, 50));
    assert!(seen.contains(&"of now".to_owned()) && !seen.contains(&"of later".to_owned()), "{seen:?}");
}

/// Spec: server-server API, "Restricted rooms".
fn restricted_joins_are_judged_here(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let (room, club) = (public_room(&alice), public_room(&alice));
    let allows =
        |room: &str| json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": room }] });
    let eve = Guest::joins(&here, &room, "eve");
    alice.sets_state(&room, "m.room.join_rules", "", allows("!elsewhere:elsewhere.test")).ok();
    let mut rules = Value::Null;
    eve.hears_event(|event| {
        rules = event.clone();
        event["type"] == "m.room.join_rules"
    });
    let leave = eve.completes(eve.draft("m.room.member", Some(&eve.id), json!({ "membership": "leave" }))).1;
    assert_eq!(eve.sends_event(&leave), json!({}));
    let before = state_of(&alice, &room);
    // In alice's name, of which nobody asked her server.
    let forged = |rules: &Value| {
        let content = json!({ "membership": "join", "join_authorised_via_users_server": alice.id });
        let mut join = eve.draft("m.room.member", Some(&eve.id), content);
        let (create, levels) = (eve.finds("m.room.create", ""), eve.finds("m.room.power_levels", ""));
        let member = eve.finds("m.room.member", &alice.id);
        join["auth_events"] = json!([create, levels, member, event_id(rules), event_id(&leave)]);
        join["prev_events"] = json!([event_id(&leave), event_id(rules)]);
        eve.completes(join)
    };
    let (id, join) = forged(&rules);
    eve.sends_join(&room, &id, &join).refused(400, "M_UNABLE_TO_AUTHORISE_JOIN");
    eve.makes_join(&room).refused(400, "M_UNABLE_TO_AUTHORISE_JOIN");
    assert_eq!(state_of(&alice, &room), before);

    alice.sets_state(&room, "m.room.join_rules", "", allows(&club)).ok();
    eve.makes_join(&room).refused(403, "M_FORBIDDEN");
    let (id, join) = forged(&rules);
    eve.sends_join(&room, &id, &join).refused(403, "M_FORBIDDEN");
    assert!(!state_of(&alice, &room).iter().any(|id| id.contains(&event_id(&join))));

    // Where no condition can be met, none is.
    for nothing in [json!([]), json!([{ "type": "org.example.paid" }]), json!([{ "type": "m.room_membership" }])] {
        let rule = json!({ "join_rule": "restricted", "allow": nothing });
        alice.sets_state(&room, "m.room.join_rules", "", rule).ok();
        eve.makes_join(&room).refused(403, "M_FORBIDDEN");
        let (id, join) = forged(&rules);
        eve.sends_join(&room, &id, &join).refused(403, "M_FORBIDDEN");
    }
    alice.sets_state(&room, "m.room.join_rules", "", allows(&club)).ok();

    // She meets the condition.
    let member = eve.enters(&club);
    let (id, join) = member.completes(member.makes_join(&room).ok()["event"].clone());
    let answer = member.sends_join(&room, &id, &join).ok();
    let signatures = &answer["event"]["signatures"];
    assert!(signatures.get(&here.name).is_some(), "this server vouches: {signatures}");

    // So does another one; but nobody here may let them in any more.
    let other = Guest::joins(&here, &club, "mallory");
    let (id, join) = other.completes(other.makes_join(&room).ok()["event"].clone());
    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    (levels["invite"], levels["users"][&alice.id]) = (100.into(), 50.into());
    alice.sets_state(&room, "m.room.power_levels", "", levels).ok();
    other.makes_join(&room).refused(400, "M_UNABLE_TO_GRANT_JOIN");
    other.sends_join(&room, &id, &join).refused(400, "M_UNABLE_TO_GRANT_JOIN");
    alice.state(&room, "m.room.member", &other.id).refused(404, "M_NOT_FOUND");
}
