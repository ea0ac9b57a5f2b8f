//! Spec: server-server API, «Querying for information», «Published Room Directory».

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use harness::{Homeserver, Host, PASSWORD, Reply, SERVER_NAME, User, Value, encode, json};

use crate::network::{Federated, on_each_host, ours};

on_each_host![
    profiles_are_asked_for_where_their_users_are,
    aliases_are_asked_for_where_they_were_made,
    an_alias_of_another_server_is_listed_where_it_points_here,
    our_aliases_are_told,
    what_nobody_specified_is_not_understood,
    a_room_is_joined_by_the_alias_of_another_server,
    our_directory_is_shown,
    other_directories_are_asked_for,
    who_does_not_answer_is_not_waited_for_again,
    a_token_shows_who_its_holder_is,
];

fn not_found() -> Reply {
    Reply::json(404, &json!({ "errcode": "M_NOT_FOUND", "error": "Nothing" }))
}

fn profiles_are_asked_for_where_their_users_are(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let whole = json!({ "displayname": "Bob", "avatar_url": "mxc://b/c", "org.example.x": [1] });
    let told = whole.clone();
    other.answers(move |request| match &*request.uri {
        uri if uri.contains("%40bob") && uri.contains("field=displayname") => {
            Some(Reply::json(200, &json!({ "displayname": "Bob" })))
        }
        uri if uri.contains("%40bob") => Some(Reply::json(200, &told)),
        uri if uri.contains("/profile") => Some(not_found()),
        _ => None,
    });
    let path = |name: &str| format!("/_matrix/client/v3/profile/{}", encode(&format!("@{name}:{}", other.name)));
    assert_eq!(server.anonymous().get(&path("bob")).ok(), whole);
    let name = server.anonymous().get(&format!("{}/displayname", path("bob"))).ok();
    assert_eq!(name, json!({ "displayname": "Bob" }));
    server.anonymous().get(&path("nobody")).refused(404, "M_NOT_FOUND");
    server.anonymous().get("/_matrix/client/v3/profile/@bob:localhost:1").refused(502, "M_UNKNOWN");
}

fn aliases_are_asked_for_where_they_were_made(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    other.answers(|request| match request.uri.strip_prefix("/_matrix/federation/v1/query/directory?room_alias=") {
        Some(alias) if alias.starts_with("%23tea") => {
            Some(Reply::json(200, &json!({ "room_id": "!tea:b.test", "servers": ["b.test", "c.test:1"] })))
        }
        Some(alias) if alias.starts_with("%23odd") => Some(Reply::json(200, &json!({ "room_id": "tea" }))),
        Some(_) => Some(not_found()),
        None => None,
    });
    let find = |name: &str| {
        let alias = encode(&format!("#{name}:{}", other.name));
        server.anonymous().get(&format!("/_matrix/client/v3/directory/room/{alias}"))
    };
    assert_eq!(find("tea").ok(), json!({ "room_id": "!tea:b.test", "servers": ["b.test", "c.test:1"] }));
    find("coffee").refused(404, "M_NOT_FOUND");
    find("odd").refused(502, "M_UNKNOWN");
}

fn an_alias_of_another_server_is_listed_where_it_points_here(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (here, asked) = (room.clone(), Arc::new(AtomicBool::new(false)));
    let is_asked = asked.clone();
    other.answers(move |request| {
        match request.uri.strip_prefix("/_matrix/federation/v1/query/directory?room_alias=") {
            Some(alias) if alias.starts_with("%23tea") => {
                is_asked.store(true, Relaxed);
                Some(Reply::json(200, &json!({ "room_id": here, "servers": [SERVER_NAME] })))
            }
            Some(alias) if alias.starts_with("%23elsewhere") => {
                Some(Reply::json(200, &json!({ "room_id": "!tea:b.test", "servers": ["b.test"] })))
            }
            Some(_) => Some(not_found()),
            None => None,
        }
    });
    let [tea, elsewhere, nowhere] = ["tea", "elsewhere", "nowhere"].map(|name| format!("#{name}:{}", other.name));
    let lists = |user: &User, aliases: &[&String]| {
        user.sets_state(&room, "m.room.canonical_alias", "", json!({ "alt_aliases": aliases }))
    };
    lists(&bob, &[&tea]).refused(403, "M_FORBIDDEN");
    assert!(!asked.load(Relaxed), "another server is asked for nobody");
    for wrong in [&elsewhere, &nowhere] {
        lists(&alice, &[&tea, wrong]).refused(400, "M_BAD_ALIAS");
    }
    lists(&alice, &[&tea]).ok();
    let listed = alice.state(&room, "m.room.canonical_alias", "").ok();
    assert_eq!(listed, json!({ "alt_aliases": [tea] }));
}

fn our_aliases_are_told(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    let name = server.unique("tea");
    let room = alice.creates_room(json!({ "room_alias_name": name }));
    let path = |alias: &str| format!("/_matrix/federation/v1/query/directory?room_alias={}", encode(alias));
    let told = other.gets(server, &path(&format!("#{name}:{SERVER_NAME}"))).ok();
    assert_eq!(told, json!({ "room_id": room, "servers": [SERVER_NAME] }));
    other.gets(server, &path(&format!("#nothing:{SERVER_NAME}"))).refused(404, "M_NOT_FOUND");
    other.gets(server, &path("nothing")).refused(400, "M_INVALID_PARAM");
    server.anonymous().get(&path("#x:y")).refused(401, "M_UNAUTHORIZED");
}

fn what_nobody_specified_is_not_understood(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let query = "/_matrix/federation/v1/query/org.example.weather?where=here";
    other.gets(server, query).refused(404, "M_UNRECOGNIZED");
    server.anonymous().get(query).refused(401, "M_UNAUTHORIZED");
}

fn a_room_is_joined_by_the_alias_of_another_server(host: Host) {
    let [here, there] = [Federated::starts(host), Federated::starts(Host::Native)];
    let [alice, bob] = [there.server.registers("alice"), here.server.registers("bob")];
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_alias_name": "tea" }));
    let alias = encode(&format!("#tea:{}", there.name));
    assert_eq!(bob.post(&format!("/join/{alias}"), json!({})).ok()["room_id"], room);
    bob.sends(&room, "hello alice");
    alice.sees(|sync| sync.has_message(&room, "hello alice"));
}

fn our_directory_is_shown(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    let name = server.unique("Great Tea");
    let room = alice.creates_room(json!({ "visibility": "public", "name": name }));
    let path = "/_matrix/federation/v1/publicRooms";
    let shows = |page: &Value, expected: bool| {
        let rooms = page["chunk"].as_array().expect("a page");
        assert_eq!(rooms.iter().any(|shown| shown["room_id"] == *room), expected, "{page}");
    };
    shows(&other.gets(server, path).ok(), true);
    let page = other.gets(server, &format!("{path}?limit=1")).ok();
    assert_eq!(page["chunk"].as_array().map(Vec::len), Some(1));
    let filtered = |term: &str| {
        let body = json!({ "limit": 10, "filter": { "generic_search_term": term } });
        other.asks(server, "POST", path, Some(body)).ok()
    };
    shows(&filtered(&name.to_lowercase()), true);
    shows(&filtered("coffee"), false);
    server.anonymous().get(path).refused(401, "M_UNAUTHORIZED");
}

fn other_directories_are_asked_for(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let page = json!({
        "chunk": [{ "room_id": "!tea:b.test", "num_joined_members": 1, "org.example.x": 1 }],
        "next_batch": "more", "total_room_count_estimate": 7,
    });
    let told = page.clone();
    other
        .answers(move |request| (request.uri == "/_matrix/federation/v1/publicRooms").then(|| Reply::json(200, &told)));
    let alice = server.registers("alice");
    let path = format!("/publicRooms?server={}", encode(&other.name));
    assert_eq!(alice.get(&path).ok(), page);
    let filter = json!({ "limit": 3, "since": "x", "filter": { "generic_search_term": "tea" } });
    assert_eq!(alice.post(&path, filter.clone()).ok(), page);
    let asked = other.https.takes_received();
    let asked: Vec<Value> = asked
        .iter()
        .filter(|request| request.uri.ends_with("/publicRooms"))
        .map(|request| serde_json::from_str(&request.body).expect("JSON"))
        .collect();
    assert_eq!((asked.len(), asked.last()), (2, Some(&filter)));
    alice.get("/publicRooms?server=localhost:1").refused(502, "M_UNKNOWN");
}

fn who_does_not_answer_is_not_waited_for_again(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    other.answers(|_| Some(Reply::Raw(Box::new(|_| Ok(())))));
    let path = format!("/_matrix/client/v3/profile/{}", encode(&format!("@bob:{}", other.name)));
    for _ in 0..3 {
        server.anonymous().get(&path).refused(502, "M_UNKNOWN");
    }
    let asked = other.https.takes_received().len();
    assert!((1..=2).contains(&asked), "it was asked {asked} times");
}

fn a_token_shows_who_its_holder_is(host: Host) {
    let server = ours(host);
    let [alice, bob] = ["alice", "bob"].map(|name| server.registers(name));
    let path = |user: &str| format!("/user/{}/openid/request_token", encode(user));
    let token = alice.post(&path(&alice.id), json!({})).ok();
    assert_eq!((&token["token_type"], &token["matrix_server_name"]), (&json!("Bearer"), &json!(SERVER_NAME)));
    assert!(token["expires_in"].as_u64().is_some_and(|seconds| seconds > 0), "{token}");
    let token = token["access_token"].as_str().expect("a token");
    let userinfo = |token: &str| {
        server.anonymous().get(&format!("/_matrix/federation/v1/openid/userinfo?access_token={}", encode(token)))
    };
    assert_eq!(userinfo(token).ok(), json!({ "sub": alice.id }));
    bob.post(&path(&alice.id), json!({})).refused(403, "M_FORBIDDEN");
    userinfo("x").refused(401, "M_UNKNOWN_TOKEN");
    server.anonymous().get("/_matrix/federation/v1/openid/userinfo").refused(401, "M_MISSING_TOKEN");
    userinfo(&format!("{token}x")).refused(401, "M_UNKNOWN_TOKEN");
    // It is good for nothing else.
    server.anonymous().with_token(token).get("/_matrix/client/v3/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    userinfo(&alice.token).refused(401, "M_UNKNOWN_TOKEN");
    // Nobody is who is not here any more.
    alice.post("/account/deactivate", json!({ "auth": alice.proof(PASSWORD) })).ok();
    userinfo(token).refused(401, "M_UNKNOWN_TOKEN");
}
