//! MSC4186, simplified sliding sync: what a client sees that lives with it.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Server, User, Value, encode, json, on_each_host};

on_each_host![
    it_is_announced,
    a_message_ends_the_wait,
    the_wait_lasts_as_long_as_asked,
    whatever_comes_into_a_window_ends_the_wait,
    typing_is_told_and_ends,
    a_conversation_of_windows_loses_nothing,
    an_answer_that_was_lost_is_given_again,
    an_unknown_position_is_refused,
    connections_are_apart_and_not_too_many,
    an_encrypted_message_and_its_key_arrive_on_two_connections,
    history_that_is_hidden_stays_hidden,
    messages_of_ignored_users_are_not_shown,
    a_guest_looks_through_a_window,
    a_list_of_many_rooms_comes_bit_by_bit,
    a_device_that_is_gone_has_no_connection,
];

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A client with one connection.
struct Window<'a> {
    user: &'a User,
    pos: Option<String>,
    body: Value,
}

impl<'a> Window<'a> {
    fn of(user: &'a User, body: Value) -> Self {
        Self { user, pos: None, body }
    }

    /// Of all rooms, with so many events of each.
    fn of_all(user: &'a User, timeline_limit: u64) -> Self {
        let list = json!({
            "ranges": [[0, 19]], "timeline_limit": timeline_limit, "required_state": [["m.room.member", "$LAZY"]],
        });
        Self::of(user, json!({ "lists": { "all": list }, "extensions": { "typing": { "enabled": true } } }))
    }

    fn asks(&self, timeout_ms: u64) -> Answer {
        let pos = self.pos.as_ref().map(|pos| format!("&pos={}", encode(pos))).unwrap_or_default();
        self.user.client().post(&format!("{PATH}?timeout={timeout_ms}{pos}"), self.body.clone())
    }

    fn slides_for(&mut self, timeout_ms: u64) -> Value {
        let answer = self.asks(timeout_ms).ok();
        self.pos = Some(answer["pos"].as_str().expect("a pos").to_owned());
        answer
    }

    fn slides(&mut self) -> Value {
        self.slides_for(0)
    }

    /// Slides on until an answer has this.
    fn slides_until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.slides_for(1_000);
            if wanted(&answer) {
                return answer;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{answer}");
        }
    }
}

fn bodies(answer: &Value, room: &str) -> Vec<String> {
    let timeline = answer["rooms"][room]["timeline"].as_array().cloned().unwrap_or_default();
    timeline.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}

fn it_is_announced(server: &Server) {
    let versions = server.anonymous().get("/_matrix/client/versions").ok();
    assert_eq!(versions["unstable_features"]["org.matrix.simplified_msc3575"], true, "{versions}");
    server.anonymous().post(PATH, json!({})).refused(401, "M_MISSING_TOKEN");
}

fn a_message_ends_the_wait(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sends(&room, "before");
    let started = Instant::now();
    let waiter = thread::spawn(move || {
        let mut window = Window::of_all(&bob, 5);
        window.slides();
        window.slides_until(|answer| answer["rooms"].as_object().is_some_and(|rooms| !rooms.is_empty()))
    });
    thread::sleep(Duration::from_millis(700));
    alice.sends(&room, "wake up");
    let answer = waiter.join().expect("the waiter is answered");
    assert_eq!(bodies(&answer, &room), ["wake up"]);
    let told = &answer["rooms"][&room];
    assert_eq!((&told["num_live"], &told["notification_count"]), (&json!(1), &json!(2)), "{told}");
    assert!(told["required_state"].as_array().is_none_or(|state| state.len() == 1), "who wrote, at most: {told}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

fn the_wait_lasts_as_long_as_asked(server: &Server) {
    let alice = server.registers("alice");
    alice.creates_room(json!({}));
    let mut window = Window::of_all(&alice, 1);
    let started = Instant::now();
    window.slides_for(30_000);
    assert!(started.elapsed() < Duration::from_secs(10), "without a position there is no wait");
    // What a new account itself causes may still arrive: wait from where it is quiet.
    window.slides_for(1_000);
    let started = Instant::now();
    let answer = window.slides_for(1_500);
    assert_eq!((&answer["rooms"], &answer["lists"]["all"]["count"]), (&json!({}), &json!(1)), "{answer}");
    assert!((1_400..15_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

fn whatever_comes_into_a_window_ends_the_wait(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let rooms: Vec<_> = (0..3).map(|_| alice.creates_room_with(&[&bob])).collect();
    let mut window = Window::of(
        &bob,
        json!({ "lists": { "top": { "ranges": [[0, 0]], "timeline_limit": 3, "required_state": [] } } }),
    );
    window.slides();
    // Out of sight, and silent so far.
    alice.sends(&rooms[0], "look here");
    let answer = window.slides_until(|answer| answer["rooms"][&rooms[0]].is_object());
    assert_eq!(bodies(&answer, &rooms[0]).last().map(String::as_str), Some("look here"));
    let invitation = alice.creates_room(json!({ "name": "Den", "invite": [&bob.id] }));
    let answer = window.slides_until(|answer| answer["rooms"][&invitation].is_object());
    assert!(answer["rooms"][&invitation]["invite_state"].is_array(), "{answer}");
    bob.joins(&invitation).ok();
    let answer = window.slides_until(|answer| answer["rooms"][&invitation]["membership"] == "join");
    assert_eq!((&answer["rooms"][&invitation]["initial"], &answer["lists"]["top"]["count"]), (&json!(true), &json!(4)));
    bob.leaves(&invitation).ok();
    let answer = window.slides_until(|answer| answer["rooms"][&invitation]["membership"] == "leave");
    assert_eq!(answer["lists"]["top"]["count"], 3, "{answer}");
}

fn typing_is_told_and_ends(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut window = Window::of_all(&bob, 1);
    window.slides();
    let path = format!("/rooms/{}/typing/{}", encode(&room), encode(&alice.id));
    let typists = |answer: &Value| answer["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"].clone();
    alice.put(&path, json!({ "typing": true, "timeout": 30_000 })).ok();
    let answer = window.slides_until(|answer| !typists(answer).is_null());
    assert_eq!((typists(&answer), &answer["rooms"]), (json!([alice.id]), &json!({})), "{answer}");
    alice.put(&path, json!({ "typing": false })).ok();
    let answer = window.slides_until(|answer| !typists(answer).is_null());
    assert_eq!(typists(&answer), json!([]));
}

/// Each answers what the other said, as soon as their wait tells them: one lost wake-up costs 30 s.
fn a_conversation_of_windows_loses_nothing(server: &Server) {
    const TURNS: u32 = 12;
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let started = Instant::now();
    alice.sends(&room, "0");
    let talks = |user: User, room: String, mine: u32| {
        thread::spawn(move || {
            let mut window = Window::of_all(&user, 10);
            let (mut seen, mut heard) = (Vec::new(), None);
            while heard.is_none_or(|heard: u32| heard < TURNS) {
                let answer = window.slides_for(30_000);
                assert!(started.elapsed() < Duration::from_secs(60), "{mine} waits for what comes after {heard:?}");
                for body in bodies(&answer, &room) {
                    let number: u32 = body.parse().expect("a number");
                    assert!(!seen.contains(&number), "{number} came twice");
                    seen.push(number);
                    heard = Some(number);
                    if number % 2 != mine && number < TURNS {
                        user.sends(&room, &(number + 1).to_string());
                    }
                }
            }
            seen
        })
    };
    for talk in [talks(alice, room.clone(), 0), talks(bob, room, 1)] {
        assert_eq!(talk.join().expect("it ends"), (0..=TURNS).collect::<Vec<_>>());
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}

fn an_answer_that_was_lost_is_given_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut window = Window::of_all(&bob, 10);
    window.slides();
    alice.sends(&room, "one");
    for expected in [vec!["one"], vec!["one", "two"], vec!["one", "two", "three"]] {
        // Nobody takes this answer.
        let before = window.pos.clone();
        let answer = window.slides_until(|answer| bodies(answer, &room).len() == expected.len());
        assert_eq!(bodies(&answer, &room), expected);
        window.pos = before;
        alice.sends(&room, if expected.len() == 1 { "two" } else { "three" });
    }
}

fn an_unknown_position_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let mut window = Window::of_all(&alice, 1);
    window.slides();
    let known = window.pos.clone();
    for unknown in ["", "0", "c0.1", "s1_1", "c12345678901234567890.1"] {
        window.pos = Some(unknown.to_owned());
        window.asks(0).refused(400, "M_UNKNOWN_POS");
    }
    let mut anew = Window::of_all(&alice, 1);
    anew.slides();
    window.pos = known;
    window.asks(0).refused(400, "M_UNKNOWN_POS");
}

fn connections_are_apart_and_not_too_many(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let mut windows: Vec<_> = (0..20)
        .map(|number| {
            let mut window = Window::of_all(&alice, 5);
            window.body["conn_id"] = json!(format!("c{number}"));
            window.slides();
            window
        })
        .collect();
    alice.sends(&room, "hello");
    for window in windows.iter_mut().rev().take(5) {
        assert_eq!(bodies(&window.slides(), &room), ["hello"]);
    }
    windows[0].asks(0).refused(400, "M_UNKNOWN_POS");
}

/// As Element X has it: rooms on one connection, keys on another.
fn an_encrypted_message_and_its_key_arrive_on_two_connections(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mut rooms = Window::of_all(&bob, 5);
    let extensions = json!({ "to_device": { "enabled": true }, "e2ee": { "enabled": true } });
    let mut keys = Window::of(&bob, json!({ "conn_id": "encryption", "extensions": extensions }));
    rooms.slides();
    keys.slides();
    let message = json!({ "messages": { &bob.id: { &bob.device_id: { "key": "k" } } } });
    alice.put("/sendToDevice/m.room_key/1", message).ok();
    alice.sends_event(&room, "m.room.encrypted", "1", json!({ "body": "secret" })).ok();
    let answer = rooms.slides_until(|answer| !bodies(answer, &room).is_empty());
    assert!(answer["extensions"]["to_device"].is_null(), "{answer}");
    let answer = keys.slides_until(|answer| answer["extensions"]["to_device"]["events"].is_array());
    let told = &answer["extensions"]["to_device"];
    assert_eq!(told["events"][0]["content"], json!({ "key": "k" }));
    keys.body["extensions"]["to_device"]["since"] = told["next_batch"].clone();
    let answer = keys.slides();
    assert!(answer["extensions"]["to_device"]["events"].is_null(), "{answer}");
    assert!(answer["extensions"]["e2ee"]["device_one_time_keys_count"].is_object(), "{answer}");
    // Somebody's devices change, in a room that this connection does not look at.
    let upload = json!({ "one_time_keys": { "signed_curve25519:1": { "key": "a", "signatures": {} } } });
    bob.post("/keys/upload", upload).ok();
    let counts = |answer: &Value| answer["extensions"]["e2ee"]["device_one_time_keys_count"].clone();
    keys.slides_until(|answer| counts(answer) == json!({ "signed_curve25519": 1 }));
    let carol = server.registers("carol");
    alice.invites(&room, &carol).ok();
    carol.joins(&room).ok();
    let lists = |answer: &Value, list: &str| answer["extensions"]["e2ee"]["device_lists"][list].clone();
    keys.slides_until(|answer| lists(answer, "changed") == json!([carol.id]));
    carol.leaves(&room).ok();
    keys.slides_until(|answer| lists(answer, "left") == json!([carol.id]));
}

fn history_that_is_hidden_stays_hidden(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    alice.sets_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).ok();
    alice.sends(&room, "hidden");
    bob.joins(&room).ok();
    alice.sends(&room, "seen");
    let mut window = Window::of_all(&bob, 50);
    let answer = window.slides();
    assert_eq!(bodies(&answer, &room), ["seen"], "{answer}");
    bob.leaves(&room).ok();
    alice.sends(&room, "hidden again");
    let answer = window.slides_until(|answer| answer["rooms"][&room].is_object());
    assert!(bodies(&answer, &room).is_empty(), "{answer}");
}

fn messages_of_ignored_users_are_not_shown(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let ignored = json!({ "ignored_users": { &alice.id: {} } });
    bob.put(&format!("/user/{}/account_data/m.ignored_user_list", encode(&bob.id)), ignored).ok();
    alice.sends(&room, "unheard");
    bob.sends(&room, "mine");
    let answer = Window::of_all(&bob, 50).slides();
    assert_eq!(bodies(&answer, &room), ["mine"], "{answer}");
    assert_eq!(answer["rooms"][&room]["notification_count"], 0, "{answer}");
}

fn a_guest_looks_through_a_window(server: &Server) {
    let host = server.registers("host");
    let room = host.creates_room(json!({ "preset": "public_chat" }));
    host.sets_state(&room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).ok();
    let guest = server.registers_guest();
    guest.joins(&room).ok();
    host.sends(&room, "welcome");
    let answer = Window::of_all(&guest, 5).slides();
    assert_eq!(bodies(&answer, &room), ["welcome"]);
}

fn a_list_of_many_rooms_comes_bit_by_bit(server: &Server) {
    const ROOMS: u64 = 105;
    let alice = server.registers("alice");
    let rooms: Vec<_> = (0..ROOMS).map(|_| alice.creates_room(json!({}))).collect();
    let list = |last: u64| json!({ "ranges": [[0, last]], "timeline_limit": 1, "required_state": [] });
    let mut window = Window::of(&alice, json!({ "lists": { "all": list(19) } }));
    let first = window.slides();
    let shown = |answer: &Value| answer["rooms"].as_object().expect("rooms").keys().cloned().collect::<Vec<_>>();
    assert_eq!((shown(&first).len(), &first["lists"]["all"]["count"]), (20, &json!(ROOMS)));
    assert!(rooms.iter().rev().take(20).all(|room| first["rooms"][room].is_object()), "the newest ones");
    window.body["lists"]["all"] = list(ROOMS);
    let mut all = shown(&first);
    while all.len() < rooms.len() {
        let more = shown(&window.slides());
        assert!(!more.is_empty(), "{} of {ROOMS}", all.len());
        all.extend(more);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), rooms.len(), "each once");
    assert_eq!(window.slides()["rooms"], json!({}));
}

fn a_device_that_is_gone_has_no_connection(server: &Server) {
    let alice = server.registers("alice");
    let other = alice.logs_in_again();
    let mut window = Window::of_all(&other, 1);
    window.slides();
    let waits = Window { user: &other, pos: window.pos.clone(), body: window.body.clone() };
    thread::scope(|scope| {
        let waiter = scope.spawn(move || waits.asks(30_000));
        thread::sleep(Duration::from_millis(500));
        other.post("/logout", json!({})).ok();
        waiter.join().expect("it is answered").refused(401, "M_UNKNOWN_TOKEN");
    });
    window.asks(0).refused(401, "M_UNKNOWN_TOKEN");
}
