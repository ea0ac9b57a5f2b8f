//! Spec: client-server API, «Room Previews», and what there was before `/sync`: `/initialSync`, `/events`.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Server, User, Value, bodies, encode, json, on_each_host, query};

on_each_host![
    a_first_sync_of_the_old_kind_shows_everything,
    the_old_first_sync_shows_as_many_messages_as_asked,
    rooms_left_are_shown_if_asked,
    what_happens_is_told_as_it_happens,
    a_burst_is_told_whole_and_in_order,
    the_event_stream_leaves_messages_to_devices_alone,
    who_asks_from_nowhere_hears_from_now_on,
    a_world_readable_room_is_watched_from_outside,
    nobody_watches_a_room_that_is_not_theirs_to_see,
    a_room_that_closes_ends_the_watching,
    a_room_is_looked_into_once,
    a_member_looks_into_their_room,
    an_event_is_found_wherever_it_is,
];

/// Long enough to come for sure.
const WAIT_MS: &str = "20000";

fn asks_events(user: &User, pairs: &[(&str, &str)]) -> Answer {
    user.get(&format!("/events{}", query(pairs)))
}

/// What came since, and the next token.
#[track_caller]
fn hears(user: &User, pairs: &[(&str, &str)]) -> (Vec<Value>, String) {
    let answer = asks_events(user, pairs).ok();
    let chunk = answer["chunk"].as_array().expect("a chunk").clone();
    (chunk, answer["end"].as_str().expect("an end").to_owned())
}

/// What comes until an event fulfils `wanted`.
#[track_caller]
fn hears_until(user: &User, from: &str, wanted: impl Fn(&Value) -> bool) -> (Vec<Value>, String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut heard, mut from) = (Vec::new(), from.to_owned());
    while Instant::now() < deadline {
        let (mut chunk, end) = hears(user, &[("from", &from), ("timeout", WAIT_MS)]);
        heard.append(&mut chunk);
        from = end;
        if heard.iter().any(&wanted) {
            return (heard, from);
        }
    }
    panic!("it was not heard: {heard:#?}");
}

fn says(body: &str) -> impl Fn(&Value) -> bool {
    move |event| event["content"]["body"] == *body
}

#[track_caller]
fn initial_sync(user: &User, pairs: &[(&str, &str)]) -> Value {
    user.get(&format!("/initialSync{}", query(pairs))).ok()
}

fn room_in<'a>(sync: &'a Value, room: &str) -> Option<&'a Value> {
    sync["rooms"].as_array().expect("rooms").iter().find(|info| info["room_id"] == *room)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn a_first_sync_of_the_old_kind_shows_everything(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let public = alice.creates_room(json!({ "preset": "public_chat", "visibility": "public" }));
    bob.joins(&public).ok();
    let asked = alice.creates_room(json!({ "invite": [bob.id] }));
    alice.sends(&room, "hello");
    let of_room = format!("/user/{}/rooms/{}/account_data/org.test", encode(&bob.id), encode(&room));
    bob.put(&of_room, json!({ "mine": 1 })).ok();
    bob.put(&format!("/user/{}/account_data/org.test", encode(&bob.id)), json!({ "mine": 2 })).ok();
    // What rooms say of members they tell on their own time.
    bob.sees(|sync| sync.has_message(&room, "hello") && !sync.invite_state(&asked).is_empty());

    let sync = initial_sync(&bob, &[]);
    assert!(sync["end"].is_string() && sync["presence"].is_array(), "{sync}");
    assert!(list(&sync["account_data"]).contains(&json!({ "type": "org.test", "content": { "mine": 2 } })));
    let info = room_in(&sync, &room).expect("the room");
    assert_eq!((&info["membership"], &info["visibility"]), (&json!("join"), &json!("private")));
    assert_eq!(bodies(list(&info["messages"]["chunk"])), ["hello"]);
    assert_eq!(info["account_data"], json!([{ "type": "org.test", "content": { "mine": 1 } }]));
    for event in list(&info["state"]).iter().chain(list(&info["messages"]["chunk"])) {
        assert_eq!(event["room_id"], *room, "{event}");
    }
    let types: Vec<_> = list(&info["state"]).iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
    for kind in ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"] {
        assert!(types.contains(&kind), "the current state has {kind}: {types:?}");
    }
    assert_eq!(room_in(&sync, &public).expect("the public room")["visibility"], "public");
    let invited = room_in(&sync, &asked).expect("the invitation");
    assert_eq!(invited["membership"], "invite");
    let invite = &invited["invite"];
    assert_eq!((&invite["state_key"], &invite["sender"]), (&json!(bob.id), &json!(alice.id)));
    assert_eq!((&invite["content"]["membership"], &invite["room_id"]), (&json!("invite"), &json!(asked)));
    // A new account has nothing yet.
    let nothing = initial_sync(&server.registers("carol"), &[]);
    assert_eq!(nothing["rooms"], json!([]));
}

fn the_old_first_sync_shows_as_many_messages_as_asked(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends_numbers(&room, 1..=30);
    let sync = initial_sync(&alice, &[("limit", "3")]);
    let messages = &room_in(&sync, &room).expect("the room")["messages"];
    assert_eq!(bodies(list(&messages["chunk"])), ["28", "29", "30"]);
    // The tokens are those of /messages.
    let before = alice.messages(&room, &[("dir", "b"), ("limit", "2"), ("from", messages["start"].as_str().unwrap())]);
    assert_eq!(bodies(list(&before.ok()["chunk"])), ["27", "26"]);
    alice.sends(&room, "31");
    let after = alice.messages(&room, &[("dir", "f"), ("from", messages["end"].as_str().unwrap())]);
    assert_eq!(bodies(list(&after.ok()["chunk"])), ["31"]);
    alice.get("/initialSync?limit=many").refused(400, "M_INVALID_PARAM");
}

fn rooms_left_are_shown_if_asked(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (left, banned) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    alice.sends(&left, "before");
    bob.leaves(&left).ok();
    alice.bans(&banned, &bob).ok();
    alice.sends(&left, "after");
    alice.sets_state(&left, "m.room.name", "", json!({ "name": "later" })).ok();
    // The ban reaches the user from its room.
    let since = bob.syncs().next_batch;
    bob.syncs_until(&since, |_| bob.get("/joined_rooms").ok()["joined_rooms"] == json!([]));

    assert_eq!(initial_sync(&bob, &[])["rooms"], json!([]));
    let sync = initial_sync(&bob, &[("archived", "true")]);
    let info = room_in(&sync, &left).expect("the room left");
    assert_eq!(info["membership"], "leave");
    assert_eq!(bodies(list(&info["messages"]["chunk"])), ["before"], "nothing from after they left");
    assert!(!list(&info["state"]).iter().any(|event| event["type"] == "m.room.name"), "the state they left");
    assert_eq!(room_in(&sync, &banned).expect("the room they are banned from")["membership"], "ban");
}

fn what_happens_is_told_as_it_happens(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let start = initial_sync(&bob, &[])["end"].as_str().unwrap().to_owned();
    let waiter = {
        let (bob, start) = (bob.clone(), start.clone());
        thread::spawn(move || hears_until(&bob, &start, says("hello")))
    };
    alice.sends(&room, "hello");
    let (heard, from) = waiter.join().expect("it is heard");
    let told = heard.iter().find(|event| says("hello")(event)).unwrap();
    assert_eq!((&told["room_id"], &told["sender"]), (&json!(room), &json!(alice.id)));
    assert!(told["event_id"].is_string() && told["origin_server_ts"].is_u64(), "{told}");

    // Who types, who is invited and who joined is told, too.
    alice.types(&room, json!({ "typing": true, "timeout": 20_000 })).ok();
    let is_typing = |event: &Value| event["type"] == "m.typing" && event["room_id"] == *room;
    let (_, from) = hears_until(&bob, &from, is_typing);
    // And what is kept in the account.
    let tag = format!("/user/{}/rooms/{}/tags/u.tea", encode(&bob.id), encode(&room));
    bob.put(&tag, json!({ "order": 0.5 })).ok();
    let is_tagged = |event: &Value| event["type"] == "m.tag" && event["room_id"] == *room;
    let (heard, from) = hears_until(&bob, &from, is_tagged);
    let told = heard.into_iter().find(is_tagged).unwrap();
    assert_eq!(told["content"], json!({ "tags": { "u.tea": { "order": 0.5 } } }));
    bob.put(&format!("/user/{}/account_data/org.test", encode(&bob.id)), json!({ "mine": 1 })).ok();
    let (_, from) = hears_until(&bob, &from, |event| *event == json!({ "type": "org.test", "content": { "mine": 1 } }));
    let other = alice.creates_room(json!({ "invite": [bob.id] }));
    let is_invited = |event: &Value| event["content"]["membership"] == "invite" && event["room_id"] == *other;
    let (_, from) = hears_until(&bob, &from, is_invited);
    alice.sends(&other, "before you came");
    bob.joins(&other).ok();
    alice.sends(&other, "welcome");
    let (heard, from) = hears_until(&bob, &from, says("welcome"));
    assert!(heard.iter().any(|event| event["content"]["membership"] == "join" && event["state_key"] == bob.id));
    assert!(!heard.iter().any(says("before you came")), "it did not happen since: {heard:#?}");
    alice.kicks(&other, &bob).ok();
    hears_until(&bob, &from, |event| event["content"]["membership"] == "leave" && event["room_id"] == *other);

    // An old token may be used again, and tells it all again.
    let (again, _) = hears(&bob, &[("from", &start), ("timeout", "0")]);
    assert!(again.iter().any(says("hello")), "{again:#?}");
    asks_events(&bob, &[("from", "nonsense")]).refused(400, "M_INVALID_PARAM");
}

fn a_burst_is_told_whole_and_in_order(server: &Server) {
    const MESSAGES: u32 = 250;
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let start = initial_sync(&bob, &[])["end"].as_str().unwrap().to_owned();
    alice.sends_numbers(&room, 1..=MESSAGES);
    let (heard, _) = hears_until(&bob, &start, says(&MESSAGES.to_string()));
    let expected: Vec<String> = (1..=MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&heard), expected, "each once, none left out");
}

fn the_event_stream_leaves_messages_to_devices_alone(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let start = initial_sync(&bob, &[])["end"].as_str().unwrap().to_owned();
    let message = json!({ "messages": { (&bob.id): { (&bob.device_id): { "secret": 1 } } } });
    alice.put("/sendToDevice/org.test/1", message).ok();
    alice.sends(&room, "hello");
    let (_, from) = hears_until(&bob, &start, says("hello"));
    // A wait ends with its time, though there is a message: it does not come again and again.
    let started = Instant::now();
    let (_, from) = hears(&bob, &[("from", &from), ("timeout", "300")]);
    hears(&bob, &[("from", &from), ("timeout", "300")]);
    assert!(started.elapsed() >= Duration::from_millis(300));
    let messages = |sync: &Value| list(&sync["to_device"]["events"]).len();
    assert_eq!(messages(&bob.syncs().body), 1, "it is still there for who syncs");
    assert_eq!(messages(&bob.asks_sync(&[("since", &from)]).ok()), 1, "and with the token of the stream");
}

fn who_asks_from_nowhere_hears_from_now_on(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "old");
    bob.sees(|sync| sync.has_message(&room, "old"));
    let answer = asks_events(&bob, &[("timeout", "0")]).ok();
    assert!(!list(&answer["chunk"]).iter().any(says("old")), "{answer}");
    alice.sends(&room, "new");
    let (heard, _) = hears_until(&bob, answer["end"].as_str().unwrap(), says("new"));
    assert!(!heard.iter().any(says("old")), "{heard:#?}");
}

fn world_readable(alice: &User) -> String {
    let visibility = json!({ "history_visibility": "world_readable" });
    let state = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": visibility }]);
    alice.creates_room(json!({ "preset": "public_chat", "initial_state": state }))
}

#[track_caller]
fn looks_into(user: &User, room: &str, pairs: &[(&str, &str)]) -> Value {
    user.get(&format!("/rooms/{}/initialSync{}", encode(room), query(pairs))).ok()
}

fn a_world_readable_room_is_watched_from_outside(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = world_readable(&alice);
    for watcher in [server.registers_guest(), bob] {
        let info = looks_into(&watcher, &room, &[]);
        let end = info["messages"]["end"].as_str().unwrap().to_owned();
        let waiter = {
            let (watcher, room, end) = (watcher.clone(), room.clone(), end.clone());
            thread::spawn(move || hears(&watcher, &[("room_id", &room), ("from", &end), ("timeout", WAIT_MS)]))
        };
        alice.sends(&room, "one");
        let (heard, next) = waiter.join().expect("it is heard");
        assert_eq!(bodies(&heard), ["one"]);
        assert_eq!((&heard[0]["room_id"], &heard[0]["sender"]), (&json!(room), &json!(alice.id)));
        alice.sends_numbers(&room, 1..=3);
        let (heard, next) = hears(&watcher, &[("room_id", &room), ("from", &next), ("timeout", "0")]);
        assert_eq!(bodies(&heard), ["1", "2", "3"]);
        // Nothing more comes, and the wait ends with its time.
        let started = Instant::now();
        let (heard, again) = hears(&watcher, &[("room_id", &room), ("from", &next), ("timeout", "300")]);
        assert_eq!((heard.len(), again), (0, next));
        assert!(started.elapsed() >= Duration::from_millis(290), "{:?}", started.elapsed());
        // From nowhere: from now on.
        let (heard, now) = hears(&watcher, &[("room_id", &room), ("timeout", "0")]);
        assert!(heard.is_empty());
        alice.sends(&room, "last");
        let (heard, _) = hears(&watcher, &[("room_id", &room), ("from", &now), ("timeout", WAIT_MS)]);
        assert_eq!(bodies(&heard), ["last"]);
        let wrong = asks_events(&watcher, &[("room_id", &room), ("from", "nonsense"), ("timeout", "0")]);
        wrong.refused(400, "M_INVALID_PARAM");
        // To watch is not to join.
        assert!(watcher.syncs().joined(&room).is_null());
    }
}

fn nobody_watches_a_room_that_is_not_theirs_to_see(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    alice.sends(&room, "ours");
    for room in [room.as_str(), "!nowhere:myelin.test"] {
        asks_events(&bob, &[("room_id", room), ("timeout", "0")]).refused(403, "M_FORBIDDEN");
        bob.get(&format!("/rooms/{}/initialSync", encode(room))).refused(403, "M_FORBIDDEN");
    }
    asks_events(&bob, &[("room_id", "nonsense"), ("timeout", "0")]).refused(400, "M_INVALID_PARAM");
    bob.get("/rooms/nonsense/initialSync").refused(400, "M_INVALID_PARAM");
    // Who was there sees what there was until they left, and no more.
    bob.joins(&room).ok();
    alice.sends(&room, "theirs");
    bob.leaves(&room).ok();
    alice.sends(&room, "ours again");
    let info = looks_into(&bob, &room, &[]);
    let seen = bodies(list(&info["messages"]["chunk"]));
    assert!(seen.contains(&"theirs".to_owned()) && !seen.contains(&"ours again".to_owned()), "{seen:?}");
    assert_eq!(info["membership"], "leave");
    let end = info["messages"]["end"].as_str().unwrap();
    let (heard, _) = hears(&bob, &[("room_id", &room), ("from", end), ("timeout", "0")]);
    assert_eq!(bodies(&heard), [""; 0]);
}

fn a_room_that_closes_ends_the_watching(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = world_readable(&alice);
    let (_, end) = hears(&bob, &[("room_id", &room), ("timeout", "0")]);
    let waiter = {
        let (bob, room, end) = (bob.clone(), room.clone(), end.clone());
        thread::spawn(move || asks_events(&bob, &[("room_id", &room), ("from", &end), ("timeout", WAIT_MS)]))
    };
    let visibility = json!({ "history_visibility": "shared" });
    alice.sets_state(&room, "m.room.history_visibility", "", visibility).ok();
    let answer = waiter.join().expect("it is answered");
    assert!(answer.status == 200 || answer.status == 403, "{}", answer.body);
    alice.sends(&room, "among ourselves");
    asks_events(&bob, &[("room_id", &room), ("from", &end), ("timeout", "0")]).refused(403, "M_FORBIDDEN");
}

fn a_room_is_looked_into_once(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let room = world_readable(&alice);
    alice.sends_numbers(&room, 1..=20);
    let info = looks_into(&guest, &room, &[("limit", "2")]);
    assert_eq!((&info["room_id"], &info["visibility"]), (&json!(room), &json!("private")));
    assert!(info["membership"].is_null(), "{info}");
    assert_eq!(bodies(list(&info["messages"]["chunk"])), ["19", "20"]);
    let start = info["messages"]["start"].as_str().unwrap();
    let before = guest.messages(&room, &[("dir", "b"), ("limit", "1"), ("from", start)]).ok();
    assert_eq!(bodies(list(&before["chunk"])), ["18"]);
    let types: Vec<_> = list(&info["state"]).iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
    assert!(types.contains(&"m.room.create") && types.contains(&"m.room.history_visibility"), "{types:?}");
    assert!(list(&info["state"]).iter().all(|event| event["room_id"] == *room));
}

fn a_member_looks_into_their_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let of_room = format!("/user/{}/rooms/{}/account_data/org.test", encode(&bob.id), encode(&room));
    bob.put(&of_room, json!({ "mine": 1 })).ok();
    alice.sends(&room, "hello");
    let info = looks_into(&bob, &room, &[]);
    assert_eq!((&info["membership"], &info["visibility"]), (&json!("join"), &json!("private")));
    assert_eq!(info["account_data"], json!([{ "type": "org.test", "content": { "mine": 1 } }]));
    let end = info["messages"]["end"].as_str().unwrap();
    alice.sends(&room, "more");
    let (heard, _) = hears(&bob, &[("room_id", &room), ("from", end), ("timeout", WAIT_MS)]);
    assert_eq!(bodies(&heard), ["more"]);
}

fn an_event_is_found_wherever_it_is(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let rooms = [alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob])];
    let said = alice.sends(&rooms[0], "here");
    alice.sends(&rooms[1], "there");
    let path = format!("/events/{}", encode(&said));
    let event = bob.get(&path).ok();
    assert_eq!((&event["event_id"], &event["room_id"]), (&json!(said), &json!(rooms[0])));
    carol.get(&path).refused(404, "M_NOT_FOUND");
    bob.get("/events/%24unknown").refused(404, "M_NOT_FOUND");
    bob.get("/events/nonsense").refused(400, "M_INVALID_PARAM");
    // What was said while they were there stays theirs to see.
    bob.leaves(&rooms[0]).ok();
    assert_eq!(bob.get(&path).ok()["content"]["body"], "here");
}
