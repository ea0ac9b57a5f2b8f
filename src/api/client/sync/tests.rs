//! What a sync tells of rooms in which little happened.

use http::StatusCode;
use serde_json::{Value, json};

use super::{PIECE_BYTES, ROOMS_AT_A_TIME, ROOMS_AT_ONCE};
use crate::testing::{TestServer, refused};

struct Story {
    server: TestServer,
    alice: String,
}

impl Story {
    fn begins() -> Self {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        Self { server, alice }
    }

    fn creates(&self, token: &str, body: &Value) -> String {
        self.server.pass_ms(1);
        let (status, created) = self.server.post("/_matrix/client/v3/createRoom", token, body);
        assert_eq!(status, StatusCode::OK, "{created}");
        created["room_id"].as_str().unwrap().to_owned()
    }

    fn syncs(&self, query: &str) -> Value {
        self.server.pass_ms(1);
        self.server.get(&format!("/_matrix/client/v3/sync?{query}"), &self.alice).1
    }

    /// Syncs from where another ended.
    fn goes_on(&self, sync: &Value, query: &str) -> Value {
        self.syncs(&format!("since={}&{query}", sync["next_batch"].as_str().unwrap()))
    }

    fn puts(&self, token: &str, path: &str, body: &Value) {
        self.server.pass_ms(1);
        let (status, answer) = self.server.put(&format!("/_matrix/client/v3{path}"), token, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    fn keeps(&self, room: &str) {
        self.puts(&self.alice, &format!("/user/@alice:localhost/rooms/{room}/account_data/kept"), &json!({ "n": 1 }));
    }
}

#[test]
fn a_room_with_nothing_but_account_data_says_what_is_unread() {
    let story = Story::begins();
    let bob = story.server.register("bob");
    let room = story.creates(&bob, &json!({ "preset": "public_chat" }));
    story.server.post(&format!("/_matrix/client/v3/rooms/{room}/join"), &story.alice, &json!({}));
    story.puts(&bob, &format!("/rooms/{room}/send/m.room.message/1"), &json!({ "msgtype": "m.text", "body": "hello" }));
    let sync = story.syncs("");
    let unread = &sync["rooms"]["join"][&room]["unread_notifications"];
    assert_eq!(unread["notification_count"], 1, "{sync}");
    story.keeps(&room);
    let unstable = "org.matrix.msc4222.state_after";
    for (query, name) in [
        ("use_state_after=false", None),
        ("use_state_after=true", Some("state_after")),
        ("org.matrix.msc4222.use_state_after=false", None),
        ("org.matrix.msc4222.use_state_after=true", Some(unstable)),
        ("org.matrix.msc4222.use_state_after=true&use_state_after=true", Some("state_after")),
    ] {
        let next = story.goes_on(&sync, query);
        let told = &next["rooms"]["join"][&room];
        assert_eq!(told["account_data"]["events"][0]["type"], "kept", "{told}");
        assert_eq!((&told["unread_notifications"], &told["timeline"]["events"]), (unread, &json!([])), "{told}");
        for possible in ["state_after", unstable] {
            let expected = if Some(possible) == name { json!({ "events": [] }) } else { Value::Null };
            assert_eq!(told[possible], expected, "{query}: {told}");
        }
        let last = story.goes_on(&next, "");
        assert_eq!(last["rooms"], Value::Null, "told once");
    }
}

#[test]
fn a_long_answer_has_the_account_data_of_rooms_with_nothing_else() {
    let story = Story::begins();
    let rooms: Vec<String> = (0..=ROOMS_AT_A_TIME).map(|_| story.creates(&story.alice, &json!({}))).collect();
    let sync = story.syncs("");
    for room in &rooms {
        story.puts(
            &story.alice,
            &format!("/rooms/{room}/send/m.room.message/1"),
            &json!({ "msgtype": "m.text", "body": "hello" }),
        );
    }
    // A room that fails has nothing to show, and is owed.
    story.keeps(&rooms[3]);
    story.server.fails("delta");
    let next = story.goes_on(&sync, "");
    assert_eq!(next["rooms"]["join"][&rooms[3]]["account_data"]["events"][0]["type"], "kept", "{next}");
    assert_eq!(next["rooms"]["join"].as_object().unwrap().len(), 1, "{next}");
}

#[test]
fn an_answer_of_few_large_rooms_goes_out_in_pieces() {
    let story = Story::begins();
    let large = json!({ "msgtype": "m.text", "body": "x".repeat(PIECE_BYTES / 2) });
    let rooms: Vec<String> = (0..ROOMS_AT_ONCE * 2)
        .map(|_| {
            let room = story.creates(&story.alice, &json!({}));
            story.puts(&story.alice, &format!("/rooms/{room}/send/m.room.message/1"), &large);
            room
        })
        .collect();
    let pieces = story.server.pieces("/_matrix/client/v3/sync?timeout=0", &story.alice);
    let pieces: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
    let whole = pieces.concat();
    // Each piece of rooms is what is read at once, and what fitted before that.
    assert!(pieces.iter().all(|piece| piece.len() < whole.len() * 3 / 4), "{:?}", pieces.len());
    let answer: Value = serde_json::from_slice(&whole).unwrap();
    let joined = answer["rooms"]["join"].as_object().unwrap();
    assert_eq!(joined.len(), rooms.len());
    for room in &rooms {
        let timeline = joined[room]["timeline"]["events"].as_array().unwrap();
        assert!(timeline.iter().any(|event| event["type"] == "m.room.message"), "{room}");
    }
    let next = story.goes_on(&answer, "");
    assert_eq!(next["rooms"], Value::Null, "told once");
}

#[test]
fn whoever_was_removed_finds_that_in_the_state() {
    let story = Story::begins();
    let bob = story.server.register("bob");
    let hidden = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": { "history_visibility": "joined" } }]);
    let room = story.creates(&bob, &json!({ "preset": "public_chat", "initial_state": hidden }));
    story.server.post(&format!("/_matrix/client/v3/rooms/{room}/join"), &story.alice, &json!({}));
    let sync = story.syncs("");
    story.puts(&bob, &format!("/rooms/{room}/state/m.room.topic/"), &json!({ "topic": "tea" }));
    story.puts(&bob, &format!("/rooms/{room}/state/m.room.member/@alice:localhost"), &json!({ "membership": "leave" }));
    let next = story.goes_on(&sync, "use_state_after=true");
    let left = &next["rooms"]["leave"][&room];
    let state = left["state_after"]["events"].as_array().unwrap();
    let of = |kind: &str| state.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    let own = of("m.room.member");
    assert_eq!((own.len(), &own[0]["content"]["membership"]), (1, &json!("leave")), "{left}");
    assert_eq!(of("m.room.topic").len(), 1, "{left}");
    // And what becomes of them later.
    story.puts(&bob, &format!("/rooms/{room}/state/m.room.member/@alice:localhost"), &json!({ "membership": "ban" }));
    let banned = story.goes_on(&next, "use_state_after=true");
    let own = &banned["rooms"]["leave"][&room]["state_after"]["events"];
    assert_eq!((own.as_array().unwrap().len(), &own[0]["content"]["membership"]), (1, &json!("ban")), "{banned}");
}

#[test]
fn a_token_from_before_a_join_is_a_place_in_the_room() {
    let story = Story::begins();
    let bob = story.server.register("bob");
    let room = story.creates(&bob, &json!({ "preset": "public_chat" }));
    let says = |number: u64| {
        story.puts(
            &bob,
            &format!("/rooms/{room}/send/m.room.message/{number}"),
            &json!({ "msgtype": "m.text", "body": number.to_string() }),
        );
    };
    let posts = |token: &str, what: &str, body: &Value| {
        story.server.pass_ms(1);
        let (status, answer) = story.server.post(&format!("/_matrix/client/v3/rooms/{room}/{what}"), token, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
    };
    (1..=3).for_each(says);
    let stranger = story.syncs("");
    says(4);
    posts(&bob, "invite", &json!({ "user_id": "@alice:localhost" }));
    says(5);
    let invited = story.goes_on(&stranger, "");
    says(6);
    posts(&story.alice, "join", &json!({}));
    let reads = |sync: &Value, what: &str| {
        let path = format!("/_matrix/client/v3/rooms/{room}/{what}={}", sync["next_batch"].as_str().unwrap());
        let (status, answer) = story.server.get(&path, &story.alice);
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["chunk"].as_array().unwrap().clone()
    };
    let bodies = |events: Vec<Value>| {
        events.iter().filter_map(|event| event["content"]["body"].as_str()?.parse().ok()).collect::<Vec<u64>>()
    };
    let back = "messages?limit=50&dir=b&from";
    assert_eq!(bodies(reads(&stranger, back)), [4, 3, 2, 1], "up to the next that she learned of it");
    assert_eq!(bodies(reads(&invited, back)), [6, 5, 4, 3, 2, 1]);
    let on = "messages?limit=50&dir=f&from";
    assert_eq!(bodies(reads(&stranger, on)), [1, 2, 3, 4, 5, 6], "from the last that she learned before");
    assert_eq!(bodies(reads(&invited, on)), [5, 6]);
    for (sync, members) in [(&stranger, vec!["@bob:localhost"]), (&invited, vec!["@alice:localhost", "@bob:localhost"])]
    {
        let found = reads(sync, "members?at");
        let mut found: Vec<_> = found.iter().map(|event| event["state_key"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, members);
    }
    // Who was in the room read it so far and no further.
    let joined = story.goes_on(&invited, "");
    says(7);
    assert_eq!(bodies(reads(&joined, on)), [7]);
    assert_eq!(bodies(reads(&joined, back)), [6, 5, 4, 3, 2, 1]);
}

#[test]
fn an_invitation_that_was_not_shown_hides_no_other() {
    let story = Story::begins();
    let (bob, mallory) = (story.server.register("bob"), story.server.register("mallory"));
    let ignored = json!({ "ignored_users": { "@mallory:localhost": {} } });
    story.puts(&story.alice, "/user/@alice:localhost/account_data/m.ignored_user_list", &ignored);
    let room =
        story.creates(&mallory, &json!({ "preset": "public_chat", "power_level_content_override": { "invite": 0 } }));
    let posts = |token: &str, what: &str, body: &Value| {
        story.server.pass_ms(1);
        let (status, answer) = story.server.post(&format!("/_matrix/client/v3/rooms/{room}/{what}"), token, body);
        assert_eq!(status, StatusCode::OK, "{answer}");
    };
    posts(&bob, "join", &json!({}));
    let invitation = json!({ "user_id": "@alice:localhost" });
    posts(&mallory, "invite", &invitation);
    let sync = story.syncs("");
    assert_eq!(sync["rooms"], Value::Null, "{sync}");
    posts(&bob, "invite", &invitation);
    for sync in [story.goes_on(&sync, ""), story.syncs("")] {
        let shown = sync["rooms"]["invite"][&room]["invite_state"]["events"].as_array().unwrap().clone();
        let own = shown.iter().find(|event| event["state_key"] == "@alice:localhost").unwrap();
        assert_eq!(own["sender"], "@bob:localhost");
    }
    // The same again is no news.
    let next = story.goes_on(&sync, "");
    posts(&bob, "invite", &invitation);
    assert_eq!(story.goes_on(&next, "")["rooms"], Value::Null);
}

#[test]
fn who_was_removed_and_banned_learns_that_though_much_happened_before() {
    let story = Story::begins();
    let bob = story.server.register("bob");
    let room = story.creates(&bob, &json!({ "preset": "public_chat" }));
    story.server.post(&format!("/_matrix/client/v3/rooms/{room}/join"), &story.alice, &json!({}));
    let sync = story.syncs("");
    for number in 1..=12 {
        story.puts(
            &bob,
            &format!("/rooms/{room}/send/m.room.message/{number}"),
            &json!({ "msgtype": "m.text", "body": number.to_string() }),
        );
    }
    for membership in ["leave", "ban"] {
        let path = format!("/rooms/{room}/state/m.room.member/@alice:localhost");
        story.puts(&bob, &path, &json!({ "membership": membership }));
    }
    for sync in [story.goes_on(&sync, ""), story.syncs("filter=%7B%22room%22:%7B%22include_leave%22:true%7D%7D")] {
        let timeline = &sync["rooms"]["leave"][&room]["timeline"];
        let events = timeline["events"].as_array().unwrap();
        let memberships: Vec<_> = events.iter().filter_map(|event| event["content"]["membership"].as_str()).collect();
        assert_eq!((events.len(), memberships, &timeline["limited"]), (10, vec!["leave", "ban"], &json!(true)));
        // What had to make place for it is where one pages to.
        let from = timeline["prev_batch"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1&from={from}");
        assert_eq!(story.server.get(&path, &story.alice).1["chunk"][0]["content"]["body"], "4");
        assert_eq!(events[0]["content"]["body"], "5");
    }
    let path = "/_matrix/client/v3/initialSync?archived=true&limit=";
    for limit in [0, 1, 20] {
        let told = story.server.get(&format!("{path}{limit}"), &story.alice).1;
        assert_eq!(told["rooms"][0]["membership"], "ban", "{limit}: {told}");
    }
}

#[test]
fn of_a_room_left_an_initial_sync_without_messages_says_so() {
    let story = Story::begins();
    let room = story.creates(&story.alice, &json!({}));
    story.server.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &story.alice, &json!({}));
    for limit in [0, 5] {
        let path = format!("/_matrix/client/v3/initialSync?archived=true&limit={limit}");
        let told = story.server.get(&path, &story.alice).1;
        assert_eq!(told["rooms"][0]["membership"], "leave", "{told}");
    }
}

#[test]
fn a_filter_that_is_not_there_is_a_wrong_parameter() {
    let story = Story::begins();
    for filter in ["nope", ""] {
        let answer = story.server.get(&format!("/_matrix/client/v3/sync?filter={filter}"), &story.alice);
        assert_eq!(refused(answer), (400, "M_INVALID_PARAM".to_owned()), "{filter:?}");
    }
}

#[test]
fn nobody_ignores_themselves() {
    let story = Story::begins();
    let ignored = json!({ "ignored_users": { "@alice:localhost": {} } });
    story.puts(&story.alice, "/user/@alice:localhost/account_data/m.ignored_user_list", &ignored);
    let room = story.creates(&story.alice, &json!({}));
    story.puts(
        &story.alice,
        &format!("/rooms/{room}/send/m.room.message/1"),
        &json!({ "msgtype": "m.text", "body": "mine" }),
    );
    let sync = story.syncs("");
    let events = sync["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["content"]["body"] == "mine"), "{sync}");
}
