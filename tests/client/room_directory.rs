//! Spec: client-server API, «Published room directory».

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{SERVER_NAME, SHARED_SECRET, Server, User, Value, encode, json, on_each_host, query};

on_each_host![
    a_public_room_is_in_the_directory_at_once,
    a_private_room_is_not,
    who_may_publish_a_room,
    an_administrator_may_unpublish_a_room,
    an_entry_shows_what_the_state_says,
    an_entry_follows_the_state,
    a_redacted_name_is_shown_no_longer,
    members_are_counted,
    a_search_looks_at_name_topic_and_alias,
    rooms_are_chosen_by_their_type,
    the_directory_is_read_in_pages,
    bad_questions_are_refused,
    other_servers_are_asked_for_their_directories,
    an_entry_survives_its_room_forgetting_everything,
    a_successor_takes_the_place_of_its_room,
];

/// The number of members may be shown a few seconds late.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const ASKED_EVERY: Duration = Duration::from_millis(200);

fn visibility_path(room: &str) -> String {
    format!("/directory/list/room/{}", encode(room))
}

fn publishes(user: &User, room: &str, visibility: &str) -> harness::Answer {
    user.put(&visibility_path(room), json!({ "visibility": visibility }))
}

fn visibility(server: &Server, room: &str) -> harness::Answer {
    server.anonymous().get(&format!("/_matrix/client/v3{}", visibility_path(room)))
}

fn rooms(page: &Value) -> Vec<Value> {
    page["chunk"].as_array().unwrap_or_else(|| panic!("no chunk in {page}")).clone()
}

fn ids(page: &Value) -> Vec<String> {
    rooms(page).iter().map(|room| room["room_id"].as_str().expect("an id").to_owned()).collect()
}

/// What a search for a term finds.
#[track_caller]
fn searches(user: &User, term: &str) -> Vec<Value> {
    rooms(&user.post("/publicRooms", json!({ "filter": { "generic_search_term": term } })).ok())
}

/// The entry of a room that is found by a term nobody else's room has.
#[track_caller]
fn entry(user: &User, term: &str) -> Value {
    let found = searches(user, term);
    assert_eq!(found.len(), 1, "{term}: {found:?}");
    found[0].clone()
}

/// A word that is in nobody else's story.
fn word(user: &User) -> String {
    format!("word of {}", user.localpart())
}

fn a_public_room_is_in_the_directory_at_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "visibility": "public", "name": word(&alice) }));
    assert_eq!(visibility(server, &room).ok(), json!({ "visibility": "public" }));
    assert_eq!(entry(&bob, &word(&alice))["room_id"], room);
    for visibility in ["private", "private", "public", "public"] {
        assert_eq!(publishes(&alice, &room, visibility).ok(), json!({}));
        assert_eq!(self::visibility(server, &room).ok(), json!({ "visibility": visibility }));
        assert_eq!(searches(&bob, &word(&alice)).len(), usize::from(visibility == "public"));
    }
}

fn a_private_room_is_not(server: &Server) {
    let alice = server.registers("alice");
    for request in [json!({}), json!({ "visibility": "private" }), json!({ "preset": "public_chat" })] {
        let mut request = request;
        request["name"] = word(&alice).into();
        let room = alice.creates_room(request);
        assert_eq!(visibility(server, &room).ok(), json!({ "visibility": "private" }));
    }
    assert_eq!(searches(&alice, &word(&alice)), Vec::<Value>::new());
    // Without a word, it is to be published.
    let room = alice.creates_room(json!({ "name": word(&alice) }));
    alice.put(&visibility_path(&room), json!({})).ok();
    assert_eq!(entry(&alice, &word(&alice))["room_id"], room);
}

fn who_may_publish_a_room(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob]);
    for stranger in [&bob, &carol] {
        publishes(stranger, &room, "public").refused(403, "M_FORBIDDEN");
    }
    let anonymous = server.anonymous();
    let path = format!("/_matrix/client/v3{}", visibility_path(&room));
    anonymous.put(&path, json!({ "visibility": "public" })).refused(401, "M_MISSING_TOKEN");
    publishes(&alice, &room, "secret").refused(400, "M_INVALID_PARAM");
    publishes(&alice, "!nowhere:myelin.test", "public").refused(404, "M_NOT_FOUND");
    visibility(server, "!nowhere:myelin.test").refused(404, "M_NOT_FOUND");
    assert_eq!(visibility(server, &room).ok(), json!({ "visibility": "private" }));

    let mut levels = alice.state(&room, "m.room.power_levels", "").ok();
    levels["users"] = json!({ (bob.id.as_str()): 50 });
    alice.sets_state(&room, "m.room.power_levels", "", levels).ok();
    publishes(&bob, &room, "public").ok();
    assert_eq!(visibility(server, &room).ok(), json!({ "visibility": "public" }));
    bob.leaves(&room).ok();
    publishes(&bob, &room, "private").refused(403, "M_FORBIDDEN");
}

fn an_administrator_may_unpublish_a_room(server: &Server) {
    let alice = server.registers("alice");
    let account = server.registers_by_secret(&server.unique("operator"), SHARED_SECRET, true).ok();
    let operator = User::from_login(&server.anonymous(), &account);
    let room = alice.creates_room(json!({ "visibility": "public", "name": word(&alice) }));
    publishes(&operator, &room, "private").ok();
    assert_eq!(searches(&alice, &word(&alice)), Vec::<Value>::new());
}

fn an_entry_shows_what_the_state_says(server: &Server) {
    let alice = server.registers("alice");
    let (name, alias) = (word(&alice), alice.localpart());
    let room = alice.creates_room(json!({
        "visibility": "public", "name": name, "topic": "Tea and 🫖", "room_alias_name": alias,
        "creation_content": { "type": "m.space" },
        "initial_state": [
            { "type": "m.room.avatar", "content": { "url": "mxc://myelin.test/tea" } },
            { "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } },
            { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
        ],
    }));
    assert_eq!(
        entry(&alice, &name),
        json!({
            "room_id": room, "name": name, "topic": "Tea and 🫖", "canonical_alias": format!("#{alias}:{SERVER_NAME}"),
            "avatar_url": "mxc://myelin.test/tea", "num_joined_members": 1, "world_readable": true,
            "guest_can_join": true, "join_rule": "public", "room_type": "m.space",
        })
    );
    let bare = server.registers("bare");
    let room = bare.creates_room(json!({ "visibility": "public", "name": word(&bare), "preset": "private_chat" }));
    let expected = json!({
        "room_id": room, "name": word(&bare), "num_joined_members": 1, "world_readable": false, "guest_can_join": true,
        "join_rule": "invite",
    });
    assert_eq!(entry(&alice, &word(&bare)), expected);
}

/// Whoever changes the room sees it changed at once.
fn an_entry_follows_the_state(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "visibility": "public", "name": word(&alice) }));
    let table = [
        ("m.room.topic", json!({ "topic": "New" }), "topic", json!("New")),
        ("m.room.topic", json!({ "topic": "" }), "topic", Value::Null),
        ("m.room.avatar", json!({ "url": "mxc://a.test/b" }), "avatar_url", json!("mxc://a.test/b")),
        ("m.room.join_rules", json!({ "join_rule": "knock" }), "join_rule", json!("knock")),
        ("m.room.guest_access", json!({ "guest_access": "can_join" }), "guest_can_join", json!(true)),
        ("m.room.history_visibility", json!({ "history_visibility": "world_readable" }), "world_readable", json!(true)),
        ("m.room.canonical_alias", json!({}), "canonical_alias", Value::Null),
        ("org.example.other", json!({ "topic": "Other" }), "topic", Value::Null),
    ];
    for (kind, content, field, shown) in table {
        alice.sets_state(&room, kind, "", content).ok();
        assert_eq!(entry(&alice, &word(&alice))[field], shown, "{kind}");
    }
    alice.sets_state(&room, "m.room.topic", "key", json!({ "topic": "Not the room's" })).ok();
    assert_eq!(entry(&alice, &word(&alice))["topic"], Value::Null);

    // What happens while it is not published is shown when it is.
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "A\0B" })).ok();
    assert_eq!(entry(&alice, &word(&alice))["topic"], "A\0B");
    publishes(&alice, &room, "private").ok();
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "Meanwhile" })).ok();
    assert_eq!(searches(&alice, &word(&alice)), Vec::<Value>::new());
    publishes(&alice, &room, "public").ok();
    assert_eq!(entry(&alice, &word(&alice))["topic"], "Meanwhile");
}

fn a_redacted_name_is_shown_no_longer(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "visibility": "public", "topic": word(&alice) }));
    let set = alice.sets_state(&room, "m.room.name", "", json!({ "name": "An insult" })).ok();
    assert_eq!(entry(&alice, &word(&alice))["name"], "An insult");
    alice.redacts(&room, set["event_id"].as_str().expect("an id"), "1").ok();
    assert_eq!(entry(&alice, &word(&alice))["name"], Value::Null);
}

fn members_are_counted(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({ "visibility": "public", "name": word(&alice) }));
    bob.joins(&room).ok();
    carol.joins(&room).ok();
    counts(&alice, 3);
    bob.leaves(&room).ok();
    alice.bans(&room, &carol).ok();
    counts(&alice, 1);
}

/// The directory comes to show so many members.
#[track_caller]
fn counts(user: &User, members: u64) {
    let deadline = Instant::now() + SHOWN_WITHIN;
    loop {
        let entry = entry(user, &word(user));
        if entry["num_joined_members"] == members {
            return;
        }
        assert!(Instant::now() < deadline, "{members} members never came: {entry}");
        thread::sleep(ASKED_EVERY);
    }
}

fn a_search_looks_at_name_topic_and_alias(server: &Server) {
    let alice = server.registers("alice");
    let unique = alice.localpart().to_owned();
    let name = alice.creates_room(json!({ "visibility": "public", "name": format!("Größe {unique} 100%_of '?1'") }));
    let topic = alice.creates_room(json!({ "visibility": "public", "topic": format!("{unique} Ärger") }));
    let alias = alice.creates_room(json!({ "visibility": "public", "room_alias_name": format!("{unique}-TeA") }));
    let table = [
        (format!("größe {unique}"), vec![&name]),
        (format!("GRÖSSE {unique}"), vec![]),
        (format!("GRÖßE {unique}"), vec![&name]),
        (format!("{unique} 100%_OF"), vec![&name]),
        (format!("{unique} 100%of"), vec![]),
        (format!("{unique} 100%_of '?1'"), vec![&name]),
        (format!("{unique} äRG"), vec![&topic]),
        (format!("#{unique}-tea:{SERVER_NAME}"), vec![&alias]),
        (unique.to_uppercase(), vec![&name, &topic, &alias]),
        (format!("{unique} %"), vec![]),
        (format!("{unique} {}", "x".repeat(100)), vec![]),
    ];
    for (term, mut expected) in table {
        let mut found: Vec<String> =
            searches(&alice, &term).iter().map(|room| room["room_id"].as_str().expect("an id").to_owned()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{term}");
    }
    let everything = alice.post("/publicRooms", json!({ "filter": { "generic_search_term": "" }, "limit": 1 })).ok();
    assert_eq!(rooms(&everything).len(), 1);
}

fn rooms_are_chosen_by_their_type(server: &Server) {
    let alice = server.registers("alice");
    let creates = |kind: Value| {
        let content = if kind.is_null() { json!({}) } else { json!({ "type": kind }) };
        alice.creates_room(json!({ "visibility": "public", "name": word(&alice), "creation_content": content }))
    };
    let (plain, space, other) = (creates(Value::Null), creates(json!("m.space")), creates(json!("org.example.kind")));
    let table = [
        (json!([null]), vec![&plain]),
        (json!(["m.space"]), vec![&space]),
        (json!([null, "org.example.kind"]), vec![&plain, &other]),
        (json!(["org.example.nothing"]), vec![]),
        (json!([]), vec![&plain, &space, &other]),
    ];
    for (room_types, mut expected) in table {
        let filter = json!({ "generic_search_term": word(&alice), "room_types": room_types });
        let mut found = ids(&alice.post("/publicRooms", json!({ "filter": filter })).ok());
        found.sort();
        expected.sort();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{room_types}");
    }
}

fn the_directory_is_read_in_pages(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let all: Vec<String> = (0..5).map(|_| alice.creates_room(json!({ "visibility": "public" }))).collect();
    // The one with the most members comes first.
    bob.joins(&all[3]).ok();
    publishes(&alice, &all[3], "private").ok();
    publishes(&alice, &all[3], "public").ok();
    let whole = server.anonymous().get("/_matrix/client/v3/publicRooms").ok();
    let order = ids(&whole);
    assert_eq!(order[0], all[3]);
    let mut sorted = order.clone();
    sorted.sort();
    let mut expected = all.clone();
    expected.sort();
    assert_eq!(sorted, expected);
    assert_eq!(whole["total_room_count_estimate"], 5);
    assert_eq!((&whole["next_batch"], &whole["prev_batch"]), (&Value::Null, &Value::Null));
    assert_eq!(ids(&alice.post("/publicRooms", json!({})).ok()), order);

    let get = |pairs: &[(&str, &str)]| {
        server.anonymous().get(&format!("/_matrix/client/v3/publicRooms{}", query(pairs))).ok()
    };
    let token =
        |page: &Value, name: &str| page[name].as_str().unwrap_or_else(|| panic!("no {name}: {page}")).to_owned();
    let first = get(&[("limit", "2")]);
    assert_eq!(ids(&first), order[..2]);
    assert!(first["prev_batch"].is_null(), "{first}");
    let second = get(&[("limit", "2"), ("since", &token(&first, "next_batch"))]);
    assert_eq!(ids(&second), order[2..4]);
    assert_eq!(second["total_room_count_estimate"], 5);
    let posted = alice.post("/publicRooms", json!({ "limit": 2, "since": token(&second, "next_batch") })).ok();
    assert_eq!(ids(&posted), order[4..]);
    assert!(posted["next_batch"].is_null(), "{posted}");
    let back = get(&[("limit", "2"), ("since", &token(&posted, "prev_batch"))]);
    assert_eq!(ids(&back), order[2..4]);
    let start = get(&[("limit", "2"), ("since", &token(&back, "prev_batch"))]);
    assert_eq!(ids(&start), order[..2]);
    assert!(start["prev_batch"].is_null(), "{start}");
    assert_eq!(ids(&get(&[("limit", "1"), ("since", &token(&start, "next_batch"))])), order[2..3]);
    assert_eq!(ids(&get(&[("limit", "100000")])), order);
    assert_eq!(ids(&get(&[("limit", "0")])), order);

    // Rooms that vanish between two pages shift nothing.
    for room in &order[..2] {
        publishes(&alice, room, "private").ok();
    }
    assert_eq!(ids(&get(&[("limit", "2"), ("since", &token(&first, "next_batch"))])), order[2..4]);
    let before = get(&[("since", &token(&second, "prev_batch"))]);
    assert_eq!(ids(&before), Vec::<String>::new());
    assert_eq!(ids(&get(&[("since", &token(&before, "next_batch"))])), order[2..]);
}

fn bad_questions_are_refused(server: &Server) {
    let alice = server.registers("alice");
    for pairs in [("since", "nonsense"), ("limit", "many"), ("limit", "-1"), ("server", "not a server")] {
        let path = format!("/_matrix/client/v3/publicRooms{}", query(&[pairs]));
        server.anonymous().get(&path).refused(400, "M_INVALID_PARAM");
    }
    alice.post("/publicRooms", json!({ "since": "nonsense" })).refused(400, "M_INVALID_PARAM");
    alice.post("/publicRooms", json!({ "filter": [] })).refused(400, "M_BAD_JSON");
    let long = json!({ "filter": { "generic_search_term": "x".repeat(513) } });
    alice.post("/publicRooms", long).refused(400, "M_INVALID_PARAM");
    let many = json!({ "filter": { "room_types": vec!["m.space"; 11] } });
    alice.post("/publicRooms", many).refused(400, "M_INVALID_PARAM");
    server.anonymous().post("/_matrix/client/v3/publicRooms", json!({})).refused(401, "M_MISSING_TOKEN");
}

fn other_servers_are_asked_for_their_directories(server: &Server) {
    let alice = server.registers("alice");
    alice.creates_room(json!({ "visibility": "public", "name": word(&alice) }));
    for (server_name, is_ours) in [(SERVER_NAME, true), ("elsewhere.test", false)] {
        let path = format!("/publicRooms{}", query(&[("server", server_name), ("limit", "1")]));
        let answers = [alice.get(&path), alice.post(&path, json!({}))];
        for answer in answers {
            if is_ours {
                assert!(!rooms(&answer.ok()).is_empty());
            } else {
                answer.refused(502, "M_UNKNOWN");
            }
        }
    }
    // Every room is Matrix's own: no other network is bridged.
    let filter = json!({ "generic_search_term": word(&alice) });
    let asks = |network: Value| {
        let mut body = network;
        body["filter"] = filter.clone();
        rooms(&alice.post("/publicRooms", body).ok()).len()
    };
    assert_eq!(asks(json!({ "include_all_networks": true })), 1);
    assert_eq!(asks(json!({ "third_party_instance_id": "irc" })), 0);
}

fn an_entry_survives_its_room_forgetting_everything(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "visibility": "public", "name": word(&alice) }));
    bob.joins(&room).ok();
    server.evicts("room", &room);
    counts(&alice, 2);
    server.evicts("room", &room);
    alice.sets_state(&room, "m.room.topic", "", json!({ "topic": "Awake" })).ok();
    assert_eq!(entry(&alice, &word(&alice))["topic"], "Awake");
}

fn a_successor_takes_the_place_of_its_room(server: &Server) {
    let alice = server.registers("alice");
    let upgrades = |room: &str| {
        let answer = alice.post(&format!("/rooms/{}/upgrade", encode(room)), json!({ "new_version": "12" })).ok();
        answer["replacement_room"].as_str().expect("a room").to_owned()
    };
    let old = alice.creates_room(json!({ "visibility": "public", "name": word(&alice), "room_version": "10" }));
    let new = upgrades(&old);
    assert_eq!(entry(&alice, &word(&alice))["room_id"], new);
    assert_eq!(visibility(server, &old).ok(), json!({ "visibility": "private" }));
    let private = alice.creates_room(json!({ "room_version": "10" }));
    assert_eq!(visibility(server, &upgrades(&private)).ok(), json!({ "visibility": "private" }));
}
