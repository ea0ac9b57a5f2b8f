//! What the hosts promise besides Matrix: their adapters keep the platform's contracts, metadata may lie in PostgreSQL,
//! nobody's waiting calls take up more than their share, and the native process stops in order.

use std::{
    collections::BTreeMap,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use harness::{
    Database, Host, Https, Mailbox, PASSWORD, Reply, SERVER_NAME, Server, Sync, User, Value, encode, event_ids, json,
    on_each_host, query, run,
};

on_each_host![metadata_may_lie_in_postgres, one_waiting_sync_too_many_ends_another];

#[test]
fn the_workers_adapters_keep_their_contracts() {
    run(Host::Worker, keeps_the_contracts);
}

#[test]
fn the_native_server_stops_in_order() {
    run(Host::Native, stops_in_order);
}

/// A bridge that is never asked.
const APPSERVICE: &str = r#"{ "id": "irc", "url": null, "as_token": "as-secret", "hs_token": "h",
    "sender_localpart": "_irc", "namespaces": {} }"#;
/// Promises that both hosts' adapters are held to: 18 of the actors' databases, 7 of metadata, 10 of an actor's host,
/// 4 of calls; 10 of the store of media; 2 of the request tier's clock, 2 of its chance.
const PROMISES: usize = 53;
/// Calls that wait on one actor at once.
const WAITING_MAX: usize = 64;
/// Longer than anything here takes, shorter than a client's patience.
const LONG_POLL_MS: &str = "50000";
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Without requests that take long, a server has nothing to stay for.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

fn keeps_the_contracts(server: &Server) {
    let path = "/_myelin/test/contract";
    server.anonymous().post(path, json!({})).refused(404, "M_UNRECOGNIZED");
    server.anonymous().with_token("guessed").post(path, json!({})).refused(404, "M_UNRECOGNIZED");
    let outcomes = server.operator().post(path, json!({})).ok();
    let outcomes = outcomes.as_array().expect("a list");
    for outcome in outcomes {
        println!("{}: {}", outcome["name"], outcome["broken"].as_str().unwrap_or("kept"));
    }
    let broken: Vec<_> = outcomes.iter().filter(|outcome| !outcome["broken"].is_null()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(outcomes.len() >= PROMISES, "{} of {PROMISES} promises were checked", outcomes.len());
}

fn metadata_may_lie_in_postgres(server: &Server) {
    let Some(database) = Database::create() else { return };
    let mailbox = Mailbox::encrypted();
    let mail = mailbox.settings();
    let mut settings = vec![("URL_PREVIEWS", "on"), ("ALLOW_PRIVATE_ADDRESSES", "on"), ("APPSERVICES", APPSERVICE)];
    settings.extend(mail.iter().map(|(name, value)| (*name, &**value)));
    let server = Server::on_postgres(server.host(), &database, &settings);
    let alice = server.registers("alice");
    assert_eq!(alice.logs_in_again().id, alice.id);
    let taken = json!({ "username": alice.localpart(), "password": "x", "auth": { "type": "m.login.dummy" } });
    server.anonymous().post("/_matrix/client/v3/register", taken).refused(400, "M_USER_IN_USE");
    the_directory_is_found(&alice);
    other_networks_are_found(&server, &alice);
    addresses_are_found(&server, &mailbox, &alice);
    media_is_found(&alice);
    previews_are_found(&alice);
    assert_ne!(database.tables(), Vec::<String>::new(), "it lies elsewhere");
    server.dies_and_returns();
    assert_eq!(alice.logs_in_again().id, alice.id);
    if server.host() == Host::Worker {
        keeps_the_contracts(&server);
    }
}

/// What metadata is for, each statement at least once.
fn the_directory_is_found(alice: &User) {
    let body = json!({ "visibility": "public", "name": "Größe", "room_alias_name": "tea" });
    let room = alice.creates_room(body.clone());
    alice.post("/createRoom", body).refused(400, "M_ROOM_IN_USE");
    let alias = format!("/directory/room/{}", encode(&format!("#tea:{SERVER_NAME}")));
    assert_eq!(alice.get(&alias).ok()["room_id"], room);
    assert_eq!(
        alice.get(&format!("/rooms/{}/aliases", encode(&room))).ok()["aliases"].as_array().map(Vec::len),
        Some(1)
    );
    let another = alice.creates_room(json!({ "visibility": "public", "creation_content": { "type": "m.space" } }));
    let first = alice.post("/publicRooms", json!({ "limit": 1 })).ok();
    assert_eq!(first["total_room_count_estimate"], 2);
    let second = alice.post("/publicRooms", json!({ "limit": 1, "since": first["next_batch"] })).ok();
    let back = alice.post("/publicRooms", json!({ "limit": 1, "since": second["prev_batch"] })).ok();
    assert_eq!(back["chunk"], first["chunk"]);
    let filters = [
        (json!({ "generic_search_term": "GRÖß" }), &room),
        (json!({ "room_types": ["m.space", "org.example"] }), &another),
        (json!({ "room_types": [null] }), &room),
    ];
    for (filter, found) in filters {
        let page = alice.post("/publicRooms", json!({ "filter": filter })).ok();
        assert_eq!(page["chunk"].as_array().map(Vec::len), Some(1), "{filter}: {page}");
        assert_eq!(page["chunk"][0]["room_id"], **found);
    }
    alice.put(&format!("/directory/list/room/{}", encode(&room)), json!({ "visibility": "private" })).ok();
    assert_eq!(alice.post("/publicRooms", json!({})).ok()["chunk"].as_array().map(Vec::len), Some(1));
    alice.client().delete(&format!("/_matrix/client/v3{alias}")).ok();
    alice.get(&alias).refused(404, "M_NOT_FOUND");
    for _ in 0..2 {
        alice.post(&format!("/rooms/{}/report", encode(&room)), json!({ "reason": "spam" })).ok();
        alice.post(&format!("/users/{}/report", encode(&alice.id)), json!({ "reason": "" })).ok();
    }
}

/// Rooms in the directory of another network, on pages forth and back.
fn other_networks_are_found(server: &Server, alice: &User) {
    let bridge = server.anonymous().with_token("as-secret");
    let rooms = ["One", "Two"].map(|name| alice.creates_room(json!({ "name": name, "visibility": "public" })));
    for room in &rooms {
        let path = format!("/_matrix/client/v3/directory/list/appservice/net/{}", encode(room));
        bridge.put(&path, json!({ "visibility": "public" })).ok();
    }
    let page = |since: &Value| {
        let body = json!({ "third_party_instance_id": "irc|net", "limit": 1, "since": since });
        alice.post("/publicRooms", body).ok()
    };
    let first = page(&Value::Null);
    assert_eq!(first["total_room_count_estimate"], 2);
    let back = page(&page(&first["next_batch"])["prev_batch"]);
    assert_eq!(back["chunk"], first["chunk"]);
    let all = alice.post("/publicRooms", json!({ "include_all_networks": true })).ok();
    assert!(all["total_room_count_estimate"].as_u64() >= Some(4), "{all}");
}

/// An email address, from the question to its end.
fn addresses_are_found(server: &Server, mailbox: &Mailbox, alice: &User) {
    let email = "alice@example.test";
    for attempt in [1, 1, 2] {
        let body = json!({ "client_secret": "s", "email": email, "send_attempt": attempt });
        alice.post("/account/3pid/email/requestToken", body).ok();
    }
    let _older = mailbox.takes(email);
    let link = mailbox.takes(email).link().replace(&server.url(), "");
    assert_eq!(server.anonymous().get(&link).status, 200);
    assert_eq!(server.anonymous().send_bytes("POST", &link, &[], Some(Vec::new())).status, 200);
    let body = json!({ "client_secret": "s", "email": email, "send_attempt": 2 });
    let sid = alice.post("/account/3pid/email/requestToken", body).ok()["sid"].clone();
    let session = json!({ "sid": sid, "client_secret": "s", "auth": alice.proof(PASSWORD) });
    alice.post("/account/3pid/add", session).ok();
    assert_eq!(alice.get("/account/3pid").ok()["threepids"][0]["address"], email);
    alice.post("/account/3pid/delete", json!({ "medium": "email", "address": email })).ok();
    assert_eq!(alice.get("/account/3pid").ok(), json!({ "threepids": [] }));
    let bob = server.registers("bob");
    bob.post("/account/deactivate", json!({ "auth": bob.proof(PASSWORD) })).ok();
}

/// Media with the same content, and media whose content came later.
fn media_is_found(alice: &User) {
    let text = [("Content-Type", "text/plain")];
    let sends = |method: &str, path: &str| alice.client().send_bytes(method, path, &text, Some(b"hi".to_vec())).ok();
    let mxc = |answer: Value| answer["content_uri"].as_str().expect("a URI").trim_start_matches("mxc://").to_owned();
    let first = mxc(sends("POST", "/_matrix/media/v3/upload"));
    let second = mxc(sends("POST", "/_matrix/media/v3/upload?filename=Gr%C3%B6%C3%9Fe"));
    let third = mxc(alice.client().post("/_matrix/media/v1/create", json!({})).ok());
    sends("PUT", &format!("/_matrix/media/v3/upload/{third}"));
    for mxc in [first, second, third] {
        let answer = alice.client().get(&format!("/_matrix/client/v1/media/download/{mxc}"));
        assert_eq!((answer.status, &*answer.text), (200, "hi"));
    }
}

/// What was found at URLs, with an image and without.
fn previews_are_found(alice: &User) {
    let web = Https::serves_plainly(|request| {
        let (content_type, body) =
            if request.uri == "/page" { ("text/html", "<title>Page") } else { ("image/gif", "GIF89a") };
        Reply::Whole(200, vec![("Content-Type".to_owned(), content_type.to_owned())], body.into())
    });
    for path in ["page", "image"] {
        let url = query(&[("url", &format!("http://127.0.0.1:{}/{path}", web.port))]);
        let asks = || alice.client().get(&format!("/_matrix/client/v1/media/preview_url{url}")).ok();
        let told = asks();
        assert_eq!(
            (told["og:title"] == "Page", told["og:image"].is_string()),
            (path == "page", path == "image"),
            "{told}"
        );
        assert_eq!(asks(), told);
    }
    assert_eq!(web.takes_received().len(), 2);
}

fn one_waiting_sync_too_many_ends_another(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let since = alice.syncs().next_batch;
    let (answered, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..=WAITING_MAX {
            let answered = answered.clone();
            scope.spawn(|| {
                let sync = Sync::from(alice.asks_sync(&[("since", &since), ("timeout", LONG_POLL_MS)]));
                answered.send(sync).expect("the story listens");
                drop(answered);
            });
        }
        let ended = answers.recv_timeout(ANSWERS_WITHIN).expect("one wait too many ends another");
        assert!(ended.joined(&room).is_null(), "nothing happened yet: {}", ended.body);
        alice.sends(&room, "good morning");
        for _ in 0..WAITING_MAX {
            let sync = answers.recv_timeout(ANSWERS_WITHIN).expect("the others still wait");
            assert!(sync.has_message(&room, "good morning"), "{}", sync.body);
        }
    });
}

/// Speaks until the server is gone; answers what was acknowledged, by event id.
fn speaks(user: &User, room: &str) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{number}", encode(room));
        let content = json!({ "msgtype": "m.text", "body": number.to_string() }).to_string();
        match user.client().try_send("PUT", &path, Some(content)) {
            Ok(answer) if answer.status == 200 => {
                let event_id = answer.body["event_id"].as_str().expect("an event id").to_owned();
                acknowledged.insert(event_id, number.to_string());
            }
            _ => break,
        }
    }
    acknowledged
}

fn stops_in_order(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob]);
    let since = carol.syncs().next_batch;
    let acknowledged = thread::scope(|scope| {
        let requests = || server.counter("myelin_http_requests_total");
        let mut expected = requests() + 1;
        let waiting = scope.spawn(|| carol.asks_sync(&[("since", &since), ("timeout", LONG_POLL_MS)]));
        // Each look counts as well; one more is Carol's request.
        while requests() == expected {
            expected += 1;
        }
        let speaker = scope.spawn(|| speaks(&alice, &room));
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while bob.syncs().messages(&room).is_empty() {
            assert!(Instant::now() < deadline, "nobody speaks");
        }
        assert_eq!(server.stops(STOPS_WITHIN), Some(0));
        let waited = waiting.join().expect("Carol is answered").ok();
        assert!(waited["next_batch"].is_string(), "a wait that is cut short is one whose time is up: {waited}");
        speaker.join().expect("the speaker ends")
    });
    assert!(!acknowledged.is_empty());

    server.returns();
    let history = bob.pages_back(&room, None, 100);
    let ids = event_ids(&history);
    assert_eq!(ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len(), "an event is there twice");
    let told: BTreeMap<&str, &Value> =
        history.iter().filter_map(|event| Some((event["event_id"].as_str()?, &event["content"]["body"]))).collect();
    for (event_id, body) in &acknowledged {
        assert_eq!(told.get(event_id.as_str()), Some(&&json!(body)), "{event_id} was acknowledged and is lost");
    }
}
