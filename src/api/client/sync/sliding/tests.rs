//! What one request of a sliding sync asks, and what comes of it.

use http::StatusCode;
use serde_json::{Value, json};

use crate::testing::{TestServer, refused};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

struct Story {
    server: TestServer,
    alice: String,
    bob: String,
}

impl Story {
    fn begins() -> Self {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        Self { server, alice, bob }
    }

    fn posts(&self, token: &str, path: &str, body: &Value) -> Value {
        // A new room's events take some milliseconds of the log, whatever the clock says.
        self.server.pass_ms(100);
        let (status, answer) = self.server.post(&format!("/_matrix/client/v3{path}"), token, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    fn puts(&self, token: &str, path: &str, body: &Value) -> Value {
        self.server.pass_ms(100);
        let (status, answer) = self.server.put(&format!("/_matrix/client/v3{path}"), token, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    fn creates(&self, token: &str, body: &Value) -> String {
        self.posts(token, "/createRoom", body)["room_id"].as_str().unwrap().to_owned()
    }

    fn sends(&self, token: &str, room: &str, text: &str) {
        self.puts(
            token,
            &format!("/rooms/{room}/send/m.room.message/{text}"),
            &json!({ "msgtype": "m.text", "body": text }),
        );
    }

    fn slides(&self, pos: Option<&Value>, body: &Value) -> Value {
        self.slides_as(&self.alice, pos, body)
    }

    fn slides_as(&self, token: &str, pos: Option<&Value>, body: &Value) -> Value {
        self.server.pass_ms(1);
        let pos = pos.map_or(String::new(), |answer| format!("?pos={}", answer["pos"].as_str().unwrap()));
        let (status, answer) = self.server.post(&format!("{PATH}{pos}"), token, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }
}

/// All rooms, with so many events and this state of each.
fn all(limit: u64, state: Value) -> Value {
    json!({ "lists": { "all": { "ranges": [[0, 99]], "timeline_limit": limit, "required_state": state } } })
}

fn bodies(room: &Value) -> Vec<&str> {
    let timeline = room["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
    timeline.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn types(room: &Value) -> Vec<String> {
    let state = room["required_state"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut types: Vec<_> = state.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    types.sort();
    types
}

#[test]
fn a_room_is_told_whole_and_then_what_is_new() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({ "name": "Den", "invite": ["@bob:localhost"] }));
    for text in ["one", "two"] {
        story.sends(&story.alice, &room, text);
    }
    let asked = all(1, json!([["m.room.create", ""], ["m.room.name", ""]]));
    let first = story.slides(None, &asked);
    let told = &first["rooms"][&room];
    assert_eq!((&told["initial"], &told["name"], &told["membership"]), (&json!(true), &json!("Den"), &json!("join")));
    assert_eq!((bodies(told), &told["limited"], &told["num_live"]), (vec!["two"], &json!(true), &json!(0)), "{told}");
    assert_eq!((&told["joined_count"], &told["invited_count"]), (&json!(1), &json!(1)));
    assert_eq!(types(told), ["m.room.create", "m.room.name"]);
    assert!(told["prev_batch"].is_string() && told["bump_stamp"].is_number() && told["heroes"].is_null(), "{told}");
    assert_eq!((&told["lists"], &first["lists"]["all"]["count"]), (&json!(["all"]), &json!(1)));

    let quiet = story.slides(Some(&first), &asked);
    assert_eq!((&quiet["pos"], &quiet["rooms"]), (&first["pos"], &json!({})), "nothing is new");

    story.sends(&story.alice, &room, "three");
    let next = story.slides(Some(&first), &asked);
    let told_next = &next["rooms"][&room];
    assert_eq!((bodies(told_next), &told_next["num_live"]), (vec!["three"], &json!(1)));
    for unchanged in ["initial", "name", "limited", "required_state", "joined_count"] {
        assert_eq!(told_next[unchanged], Value::Null, "{unchanged}: {told_next}");
    }
    assert!(told_next["bump_stamp"].as_u64() > told["bump_stamp"].as_u64());

    story.puts(&story.alice, &format!("/rooms/{room}/state/m.room.name"), &json!({ "name": "Lair" }));
    story.puts(&story.alice, &format!("/rooms/{room}/state/m.room.topic"), &json!({ "topic": "caves" }));
    let renamed = &story.slides(Some(&next), &asked)["rooms"][&room];
    assert_eq!((&renamed["name"], types(renamed)), (&json!("Lair"), vec!["m.room.name".to_owned()]));
    assert_eq!((&renamed["limited"], &renamed["bump_stamp"]), (&json!(true), &Value::Null), "no activity of people");
}

#[test]
fn a_lost_answer_is_given_again_and_no_older_one() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({}));
    let asked = all(10, json!([]));
    let first = story.slides(None, &asked);
    story.sends(&story.alice, &room, "one");
    let lost = story.slides(Some(&first), &asked);
    story.sends(&story.alice, &room, "two");
    let again = story.slides(Some(&first), &asked);
    assert_eq!((bodies(&lost["rooms"][&room]), bodies(&again["rooms"][&room])), (vec!["one"], vec!["one", "two"]));
    story.sends(&story.alice, &room, "three");
    let next = story.slides(Some(&again), &asked);
    assert_eq!(bodies(&next["rooms"][&room]), ["three"]);
    for gone in [&first, &lost, &json!({ "pos": "c1.1" }), &json!({ "pos": "s1_1" })] {
        let path = format!("{PATH}?pos={}", gone["pos"].as_str().unwrap());
        let refused = refused(story.server.post(&path, &story.alice, &asked));
        assert_eq!(refused, (400, "M_UNKNOWN_POS".to_owned()), "{gone}");
    }
    // Another connection, and another user's, know nothing of this one.
    let mut other = asked.clone();
    other["conn_id"] = json!("other");
    let path = format!("{PATH}?pos={}", next["pos"].as_str().unwrap());
    for (token, body) in [(&story.alice, &other), (&story.bob, &asked)] {
        assert_eq!(refused(story.server.post(&path, token, body)).1, "M_UNKNOWN_POS");
    }
    assert_eq!(bodies(&story.slides(None, &other)["rooms"][&room]), ["one", "two", "three"]);
    assert_eq!(story.slides(Some(&next), &asked)["rooms"], json!({}), "it goes on by itself");
}

#[test]
fn a_window_shows_the_newest_rooms() {
    let story = Story::begins();
    let rooms: Vec<_> =
        (0..4).map(|number| story.creates(&story.alice, &json!({ "name": number.to_string() }))).collect();
    let window =
        |last: u64| json!({ "lists": { "all": { "ranges": [[0, last]], "timeline_limit": 1, "required_state": [] } } });
    let shown = |answer: &Value| {
        let mut names: Vec<_> = answer["rooms"].as_object().unwrap().keys().cloned().collect();
        names.sort_by_key(|name| rooms.iter().position(|room| room == name));
        names
    };
    let first = story.slides(None, &window(1));
    assert_eq!((shown(&first), &first["lists"]["all"]["count"]), (rooms[2..].to_vec(), &json!(4)));
    // The oldest comes into the window, for something happens there.
    story.sends(&story.alice, &rooms[0], "up");
    let next = story.slides(Some(&first), &window(1));
    assert_eq!(shown(&next), [&*rooms[0]]);
    assert_eq!(
        (&next["rooms"][&rooms[0]]["initial"], &next["rooms"][&rooms[0]]["num_live"]),
        (&json!(true), &json!(1))
    );
    // One that is out of the window is told when it is back, from where it was.
    story.sends(&story.alice, &rooms[2], "late");
    story.sends(&story.alice, &rooms[3], "later");
    story.sends(&story.alice, &rooms[1], "last");
    let next = story.slides(Some(&next), &window(1));
    assert_eq!(shown(&next), [&*rooms[1], &*rooms[3]]);
    let grown = story.slides(Some(&next), &window(3));
    assert_eq!(shown(&grown), [&*rooms[2]]);
    let back = &grown["rooms"][&rooms[2]];
    assert_eq!((bodies(back), &back["initial"]), (vec!["late"], &Value::Null), "{back}");
    // Two windows of one list, and a list without any.
    let ranges = json!({ "lists": {
        "some": { "ranges": [[0, 0], [3, 3]], "timeline_limit": 0, "required_state": [] },
        "none": { "ranges": [], "timeline_limit": 0 },
    } });
    let some = story.slides(None, &ranges);
    assert_eq!((shown(&some), &some["lists"]["none"]["count"]), (vec![rooms[0].clone(), rooms[1].clone()], &json!(4)));
    let whole = story.slides(None, &json!({ "lists": { "all": { "timeline_limit": 0 } } }));
    assert_eq!(shown(&whole), rooms, "a list without ranges is whole");
}

#[test]
fn state_is_told_as_it_is_asked() {
    let story = Story::begins();
    let body = json!({ "name": "Den", "preset": "public_chat" });
    let room = story.creates(&story.alice, &body);
    story.posts(&story.bob, &format!("/rooms/{room}/join"), &json!({}));
    for call in ["a", "b"] {
        story.puts(&story.alice, &format!("/rooms/{room}/state/org.test.call/{call}"), &json!({}));
    }
    story.sends(&story.alice, &room, "hello");
    let keys = |state: Value| {
        let answer = story.slides(None, &all(1, state));
        let state = answer["rooms"][&room]["required_state"].as_array().cloned().unwrap_or_default();
        let key =
            |event: &Value| format!("{} {}", event["type"].as_str().unwrap(), event["state_key"].as_str().unwrap());
        let mut keys: Vec<_> = state.iter().map(key).collect();
        keys.sort();
        keys
    };
    let (own, bobs) = ("m.room.member @alice:localhost", "m.room.member @bob:localhost");
    assert_eq!(keys(json!([["org.test.call", "*"]])), ["org.test.call a", "org.test.call b"]);
    assert_eq!(keys(json!([["m.room.member", "$ME"]])), [own]);
    assert_eq!(keys(json!([["m.room.member", "*"]])), [own, bobs]);
    assert_eq!(keys(json!([["m.room.member", "$LAZY"]])), [own], "who sent what is shown");
    assert_eq!(keys(json!([["*", "a"]])), ["org.test.call a"]);
    let everything = keys(json!([["*", "*"]]));
    assert!(everything.iter().any(|key| key == bobs) && everything.iter().any(|key| key == "m.room.create "));
    let lazy = keys(json!([["*", "*"], ["m.room.member", "$LAZY"]]));
    let others =
        |keys: &[String]| keys.iter().filter(|key| !key.starts_with("m.room.member")).cloned().collect::<Vec<_>>();
    assert_eq!((others(&lazy), lazy.iter().any(|key| key == bobs)), (others(&everything), false));
    // In the form of the proposal.
    assert_eq!(keys(json!({ "include": [{}], "lazy_members": true })), lazy);
    assert_eq!(
        keys(json!({ "include": [{ "type": "org.test.call" }], "exclude": [{ "state_key": "a" }] })),
        ["org.test.call b"]
    );
    let without =
        keys(json!({ "include": [{}], "exclude": [{ "type": "m.room.member" }, { "type": "m.room.create" }] }));
    assert_eq!(others(&everything).len(), without.len() + 1, "{without:?}");
}

#[test]
fn more_is_sent_to_who_asks_for_more() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({ "name": "Den" }));
    for text in ["one", "two", "three"] {
        story.sends(&story.alice, &room, text);
    }
    let name = json!([["m.room.name", ""]]);
    let first = story.slides(None, &all(1, name.clone()));
    assert_eq!(bodies(&first["rooms"][&room]), ["three"]);
    let mut subscribed = all(1, name.clone());
    subscribed["room_subscriptions"] =
        json!({ &room: { "timeline_limit": 3, "required_state": [["m.room.create", ""]] } });
    let more = story.slides(Some(&first), &subscribed);
    let told = &more["rooms"][&room];
    assert_eq!((bodies(told), &told["num_live"]), (vec!["one", "two", "three"], &json!(0)));
    assert_eq!((&told["expanded_timeline"], &told["unstable_expanded_timeline"]), (&json!(true), &json!(true)));
    assert_eq!((types(told), &told["initial"]), (vec!["m.room.create".to_owned()], &Value::Null), "{told}");
    assert_eq!(story.slides(Some(&more), &subscribed)["rooms"], json!({}), "it has that now");
    story.sends(&story.alice, &room, "four");
    let less = story.slides(Some(&more), &all(1, name.clone()));
    assert_eq!(bodies(&less["rooms"][&room]), ["four"]);
    // What was asked for meanwhile is not forgotten: the timeline has no gap, and the state nothing new.
    let back = story.slides(Some(&less), &subscribed);
    assert_eq!(bodies(&back["rooms"][&room]), [""; 0], "{back}");
    // A room that is subscribed to and is nobody's business.
    let strange = story.creates(&story.bob, &json!({}));
    subscribed["room_subscriptions"] =
        json!({ strange: { "timeline_limit": 3 }, "!nowhere:localhost": { "timeline_limit": 1 } });
    assert_eq!(story.slides(Some(&back), &subscribed)["rooms"], json!({}));
}

#[test]
fn invitations_and_departures_are_told() {
    let story = Story::begins();
    let alices = all(10, json!([["m.room.member", "$ME"]]));
    let first = story.slides(None, &alices);
    let body = json!({ "name": "Den", "invite": ["@alice:localhost"], "is_direct": true });
    let room = story.creates(&story.bob, &body);
    let invited = story.slides(Some(&first), &alices);
    let told = &invited["rooms"][&room];
    assert_eq!((&told["membership"], &told["initial"], &told["is_dm"]), (&json!("invite"), &json!(true), &json!(true)));
    let state = told["invite_state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["content"]["membership"] == "invite"), "{told}");
    assert!(told["timeline"].is_null() && told["required_state"].is_null(), "{told}");
    assert_eq!(story.slides(Some(&invited), &alices)["rooms"], json!({}), "once");
    for (filter, expected) in [("is_invite", 1), ("is_dm", 1), ("is_encrypted", 0)] {
        let mut filtered = alices.clone();
        filtered["lists"]["all"]["filters"] = json!({ filter: true });
        assert_eq!(story.slides_as(&story.alice, None, &filtered)["lists"]["all"]["count"], expected, "{filter}");
    }

    let first = story.slides(None, &alices);
    story.posts(&story.alice, &format!("/rooms/{room}/join"), &json!({}));
    let joined = story.slides(Some(&first), &alices);
    let told = &joined["rooms"][&room];
    assert_eq!((&told["membership"], &told["initial"], &told["name"]), (&json!("join"), &json!(true), &json!("Den")));
    story.sends(&story.bob, &room, "bye");
    story.posts(&story.bob, &format!("/rooms/{room}/kick"), &json!({ "user_id": "@alice:localhost" }));
    story.sends(&story.bob, &room, "secret");
    let kicked = story.slides(Some(&joined), &alices);
    let told = &kicked["rooms"][&room];
    assert_eq!((&told["membership"], bodies(told)), (&json!("leave"), vec!["bye"]), "{told}");
    let own = told["required_state"].as_array().unwrap().last().unwrap();
    assert_eq!((&own["content"]["membership"], &own["state_key"]), (&json!("leave"), &json!("@alice:localhost")));
    assert_eq!(
        (&kicked["lists"]["all"]["count"], &story.slides(Some(&kicked), &alices)["rooms"]),
        (&json!(0), &json!({}))
    );
    // An invitation that is turned down, or taken back.
    for who in [&story.alice, &story.bob] {
        let before = story.slides(None, &alices);
        let room = story.creates(&story.bob, &json!({ "invite": ["@alice:localhost"] }));
        let invited = story.slides(Some(&before), &alices);
        assert_eq!(invited["rooms"][&room]["membership"], "invite");
        if who == &story.alice {
            story.posts(who, &format!("/rooms/{room}/leave"), &json!({}));
        } else {
            story.posts(who, &format!("/rooms/{room}/kick"), &json!({ "user_id": "@alice:localhost" }));
        }
        let over = story.slides(Some(&invited), &alices);
        let told = &over["rooms"][&room];
        let own = told["required_state"].as_array().unwrap().last().unwrap();
        assert_eq!((&told["membership"], &own["content"]["membership"]), (&json!("leave"), &json!("leave")), "{told}");
    }
    // Of who is ignored no invitation is shown.
    let ignored = json!({ "ignored_users": { "@bob:localhost": {} } });
    story.puts(&story.alice, "/user/@alice:localhost/account_data/m.ignored_user_list", &ignored);
    let before = story.slides(None, &alices);
    story.creates(&story.bob, &json!({ "invite": ["@alice:localhost"] }));
    let after = story.slides(Some(&before), &alices);
    assert_eq!((&after["rooms"], &after["lists"]["all"]["count"]), (&json!({}), &json!(0)));
}

#[test]
fn lists_are_filtered() {
    let story = Story::begins();
    let space = story.creates(&story.alice, &json!({ "creation_content": { "type": "m.space" } }));
    let plain = story.creates(&story.alice, &json!({}));
    let encryption = json!([{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
    let encrypted = story.creates(&story.alice, &json!({ "initial_state": encryption }));
    story.puts(&story.alice, &format!("/rooms/{space}/state/m.space.child/{plain}"), &json!({ "via": ["localhost"] }));
    story.puts(
        &story.alice,
        "/user/@alice:localhost/account_data/m.direct",
        &json!({ "@bob:localhost": [&encrypted] }),
    );
    story.puts(&story.alice, &format!("/user/@alice:localhost/rooms/{plain}/tags/m.favourite"), &json!({}));
    let shown = |filters: Value| {
        let mut asked = all(0, json!([]));
        asked["lists"]["all"]["filters"] = filters;
        let answer = story.slides(None, &asked);
        let names = [(&space, "space"), (&plain, "plain"), (&encrypted, "encrypted")];
        let shown: Vec<_> =
            names.into_iter().filter(|(room, _)| answer["rooms"][*room].is_object()).map(|(_, name)| name).collect();
        assert_eq!(answer["lists"]["all"]["count"], shown.len());
        shown
    };
    for (filters, expected) in [
        (json!({}), vec!["space", "plain", "encrypted"]),
        (json!({ "room_types": ["m.space"] }), vec!["space"]),
        (json!({ "room_types": [null] }), vec!["plain", "encrypted"]),
        (json!({ "not_room_types": ["m.space"] }), vec!["plain", "encrypted"]),
        (json!({ "room_types": ["m.space", null], "not_room_types": ["m.space"] }), vec!["plain", "encrypted"]),
        (json!({ "is_encrypted": true }), vec!["encrypted"]),
        (json!({ "is_encrypted": false }), vec!["space", "plain"]),
        (json!({ "is_dm": true }), vec!["encrypted"]),
        (json!({ "is_dm": false, "not_room_types": ["m.space"] }), vec!["plain"]),
        (json!({ "tags": ["m.favourite", "m.other"] }), vec!["plain"]),
        (json!({ "not_tags": ["m.favourite"] }), vec!["space", "encrypted"]),
        (json!({ "tags": ["m.favourite"], "not_tags": ["m.favourite"] }), vec![]),
        (json!({ "spaces": [&space] }), vec!["plain"]),
        (json!({ "spaces": ["!nowhere:localhost"] }), vec![]),
        (json!({ "is_invite": true }), vec![]),
        (json!({ "is_invite": false }), vec!["space", "plain", "encrypted"]),
    ] {
        assert_eq!(shown(filters.clone()), expected, "{filters}");
    }
}

#[test]
fn extensions_tell_what_is_beside_rooms() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({ "invite": ["@bob:localhost"] }));
    story.posts(&story.bob, &format!("/rooms/{room}/join"), &json!({}));
    story.puts(&story.alice, "/user/@alice:localhost/account_data/org.test", &json!({ "n": 1 }));
    story.puts(&story.alice, &format!("/user/@alice:localhost/rooms/{room}/account_data/org.room"), &json!({ "n": 1 }));
    let mut asked = all(10, json!([]));
    asked["extensions"] = json!({
        "account_data": { "enabled": true }, "receipts": { "enabled": true }, "typing": { "enabled": true },
        "to_device": { "enabled": true }, "e2ee": { "enabled": true },
    });
    let first = story.slides(None, &asked);
    let told = &first["extensions"];
    let global: Vec<_> = told["account_data"]["global"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert!(global.contains(&"org.test") && global.contains(&"m.push_rules"), "{told}");
    assert_eq!(told["account_data"]["rooms"][&room], json!([{ "type": "org.room", "content": { "n": 1 } }]));
    assert_eq!(told["e2ee"]["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert!(told["to_device"]["next_batch"].is_string());
    assert_eq!(story.slides(Some(&first), &asked)["pos"], first["pos"]);

    story.sends(&story.alice, &room, "hello");
    let (_, page) = story.server.get(&format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1"), &story.alice);
    let event = page["chunk"][0]["event_id"].as_str().unwrap().to_owned();
    story.posts(&story.bob, &format!("/rooms/{room}/receipt/m.read/{event}"), &json!({}));
    story.puts(
        &story.bob,
        &format!("/rooms/{room}/typing/@bob:localhost"),
        &json!({ "typing": true, "timeout": 9_000 }),
    );
    story.puts(&story.alice, &format!("/user/@alice:localhost/rooms/{room}/account_data/org.room"), &json!({ "n": 2 }));
    let message = json!({ "messages": { "@alice:localhost": { "*": { "n": 1 } } } });
    story.puts(&story.bob, "/sendToDevice/org.test/1", &message);
    let next = story.slides(Some(&first), &asked);
    let told = &next["extensions"];
    assert_eq!(told["typing"]["rooms"][&room]["content"]["user_ids"], json!(["@bob:localhost"]), "{next}");
    let receipts = &told["receipts"]["rooms"][&room]["content"][&event]["m.read"];
    assert!(receipts["@bob:localhost"]["ts"].is_number(), "{next}");
    assert_eq!(told["account_data"], json!({ "rooms": { &room: [{ "type": "org.room", "content": { "n": 2 } }] } }));
    assert_eq!(told["to_device"]["events"][0]["content"], json!({ "n": 1 }));

    // The message stays until it is acknowledged by its own token, whatever became of the rest.
    let again = story.slides(Some(&next), &asked);
    assert_eq!((&again["extensions"]["to_device"], &again["rooms"]), (&told["to_device"], &json!({})));
    asked["extensions"]["to_device"]["since"] = told["to_device"]["next_batch"].clone();
    let done = story.slides(Some(&again), &asked);
    assert_eq!((&done["extensions"]["to_device"], &done["pos"]), (&Value::Null, &again["pos"]));
    // A connection without lists, for encryption alone, hears of devices in any room.
    let alone = json!({ "conn_id": "e", "extensions": { "e2ee": { "enabled": true } } });
    let before = story.slides(None, &alone);
    assert_eq!(before["rooms"], json!({}));
    let carol = story.server.register("carol");
    story.posts(&story.alice, &format!("/rooms/{room}/invite"), &json!({ "user_id": "@carol:localhost" }));
    story.posts(&carol, &format!("/rooms/{room}/join"), &json!({}));
    let after = story.slides(Some(&before), &alone);
    assert_eq!(after["extensions"]["e2ee"]["device_lists"]["changed"], json!(["@carol:localhost"]), "{after}");
    story.posts(&carol, &format!("/rooms/{room}/leave"), &json!({}));
    let left = story.slides(Some(&after), &alone);
    assert_eq!(left["extensions"]["e2ee"]["device_lists"]["left"], json!(["@carol:localhost"]), "{left}");
}

#[test]
fn extensions_keep_to_their_rooms() {
    let story = Story::begins();
    let (open, other) = (story.creates(&story.alice, &json!({})), story.creates(&story.alice, &json!({})));
    let path = |room: &str| format!("/user/@alice:localhost/rooms/{room}/account_data/org.room");
    for room in [&open, &other] {
        story.puts(&story.alice, &path(room), &json!({ "n": 1 }));
    }
    let mut asked = all(10, json!([]));
    asked["room_subscriptions"] = json!({ &open: { "timeline_limit": 1 } });
    asked["extensions"] = json!({ "account_data": { "enabled": true, "lists": [], "rooms": ["*"] } });
    let first = story.slides(None, &asked);
    let told = |answer: &Value| answer["extensions"]["account_data"]["rooms"].clone();
    let data = |n: u64| json!([{ "type": "org.room", "content": { "n": n } }]);
    assert_eq!(told(&first), json!({ &open: data(1) }));
    story.puts(&story.alice, &path(&other), &json!({ "n": 2 }));
    let quiet = story.slides(Some(&first), &asked);
    assert_eq!((told(&quiet), &quiet["pos"]), (Value::Null, &first["pos"]));
    // Another room is looked at: its data is told, and what becomes of the first one is told when that is back.
    asked["room_subscriptions"] = json!({ &other: { "timeline_limit": 1 } });
    let next = story.slides(Some(&first), &asked);
    assert_eq!(told(&next), json!({ &other: data(2) }));
    story.puts(&story.alice, &path(&open), &json!({ "n": 3 }));
    story.puts(&story.alice, &path(&other), &json!({ "n": 3 }));
    let next = story.slides(Some(&next), &asked);
    assert_eq!(told(&next), json!({ &other: data(3) }));
    asked["room_subscriptions"] = json!({ &open: { "timeline_limit": 1 } });
    assert_eq!(told(&story.slides(Some(&next), &asked)), json!({ &open: data(3) }));
}

#[test]
fn unread_messages_are_counted() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({ "invite": ["@bob:localhost"] }));
    story.posts(&story.bob, &format!("/rooms/{room}/join"), &json!({}));
    let asked = all(10, json!([]));
    let first = story.slides(None, &asked);
    story.sends(&story.bob, &room, "hello");
    let next = story.slides(Some(&first), &asked);
    let told = &next["rooms"][&room];
    assert_eq!((&told["notification_count"], &told["highlight_count"]), (&json!(1), &json!(0)));
    let event = told["timeline"][0]["event_id"].as_str().unwrap();
    story.posts(&story.alice, &format!("/rooms/{room}/receipt/m.read/{event}"), &json!({}));
    let read = story.slides(Some(&next), &asked);
    let told = &read["rooms"][&room];
    assert_eq!((&told["notification_count"], bodies(told).len()), (&json!(0), 0), "{told}");
}

#[test]
fn what_is_too_much_is_refused() {
    let story = Story::begins();
    let list = |list: Value| json!({ "lists": { "a": list } });
    let long = "x".repeat(256);
    let pairs = vec![("a", "b"); 201];
    let lists: serde_json::Map<_, _> = (0..101).map(|n| (n.to_string(), json!({ "timeline_limit": 1 }))).collect();
    for (body, errcode) in [
        (json!({ "conn_id": "x".repeat(65) }), "M_INVALID_PARAM"),
        (json!({ "lists": lists }), "M_INVALID_PARAM"),
        (list(json!({ "timeline_limit": 1, "required_state": pairs })), "M_INVALID_PARAM"),
        (list(json!({ "timeline_limit": 1, "required_state": [[&long, ""]] })), "M_INVALID_PARAM"),
        (list(json!({ "timeline_limit": 1, "ranges": vec![(0, 1); 101] })), "M_INVALID_PARAM"),
        (list(json!({ "timeline_limit": 1, "filters": { "tags": [&long] } })), "M_INVALID_PARAM"),
        (list(json!({ "timeline_limit": 1, "ranges": [[-1, 3]] })), "M_BAD_JSON"),
        (list(json!({ "timeline_limit": "1" })), "M_BAD_JSON"),
        (list(json!({ "required_state": [] })), "M_BAD_JSON"),
        (json!({ "room_subscriptions": { "here": { "timeline_limit": 1 } } }), "M_BAD_JSON"),
        (json!([]), "M_BAD_JSON"),
    ] {
        let (status, code) = refused(story.server.post(PATH, &story.alice, &body));
        assert_eq!((status, &*code), (400, errcode), "{body}");
    }
    for query in ["?set_presence=away", "?timeout=soon"] {
        let refused = refused(story.server.post(&format!("{PATH}{query}"), &story.alice, &json!({})));
        assert_eq!(refused, (400, "M_INVALID_PARAM".to_owned()), "{query}");
    }
    assert_eq!(refused(story.server.post(PATH, "nobody", &json!({}))).0, 401);
    // What is not set may be null.
    let nulls =
        json!({ "conn_id": null, "lists": { "a": { "timeline_limit": 1, "filters": null } }, "extensions": null });
    assert!(story.slides(None, &nulls)["pos"].is_string());
    assert_eq!(story.slides(None, &json!({ "txn_id": "t" }))["txn_id"], "t");
}

#[test]
fn a_large_state_comes_in_pages() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({}));
    for number in 0..12 {
        let path = format!("/rooms/{room}/state/org.test.large/{number:02}");
        story.puts(&story.alice, &path, &json!({ "large": "x".repeat(60_000) }));
    }
    // Pages end among the types right behind that of members, too.
    for number in 0..6 {
        let path = format!("/rooms/{room}/state/m.x/{number}");
        story.puts(&story.alice, &path, &json!({ "large": "x".repeat(60_000) }));
    }
    for wanted in [json!([["*", "*"]]), json!([["org.test.large", "*"], ["m.room.create", ""]])] {
        let answer = story.slides(None, &all(1, wanted));
        let state = types(&answer["rooms"][&room]);
        assert_eq!(state.iter().filter(|it| *it == "org.test.large").count(), 12, "{state:?}");
        assert_eq!(state.iter().filter(|it| *it == "m.room.create").count(), 1);
    }
    let answer = story.slides(None, &all(1, json!([["*", "*"]])));
    assert_eq!(types(&answer["rooms"][&room]).iter().filter(|it| *it == "m.x").count(), 6);
}

#[test]
fn what_is_too_much_together_is_refused() {
    let story = Story::begins();
    let asks = |lists: Value| {
        let (status, answer) = story.server.post(PATH, &story.alice, &json!({ "lists": lists }));
        (status.as_u16(), answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let refused = (400, "M_INVALID_PARAM".to_owned());
    let lists = |differ: bool| {
        let state = |list: u64| (0..30).map(|it| json!([format!("t{it}"), format!("k{list}")])).collect::<Vec<_>>();
        let list = |list| json!({ "timeline_limit": 1, "required_state": state(if differ { list } else { 0 }) });
        (0..100).map(|number| (number.to_string(), list(number))).collect::<serde_json::Map<_, _>>()
    };
    assert_eq!(asks(lists(true).into()), refused);
    assert_eq!(asks(lists(false).into()).0, 200, "the same for all");
    let spaces = |list: u64| (0..11).map(|it| format!("!{list}-{it}:localhost")).collect::<Vec<_>>();
    let list = |list: u64| json!({ "timeline_limit": 1, "filters": { "spaces": spaces(list) } });
    assert_eq!(asks(json!({ "a": list(1), "b": list(1) })).0, 200);
    assert_eq!(asks(json!({ "a": list(1), "b": list(2) })), refused);
}
