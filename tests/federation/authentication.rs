//! Spec: server-server API, «Request Authentication».

use std::{io::Write, net::TcpStream, thread};

use harness::{Homeserver, Host, encode, json};

use crate::{
    guest::Guest,
    network::{Federated, on_each_host, ours, ours_with},
};

on_each_host![
    a_server_that_signs_is_answered,
    signatures_of_something_else_are_refused,
    keys_that_do_not_fit_are_refused,
    who_is_denied_is_forbidden,
    without_federation_there_is_nothing,
    large_requests_of_servers_at_once_are_all_taken,
    strangers_leave_room_for_others,
];

fn profile_of(user_id: &str) -> String {
    format!("/_matrix/federation/v1/query/profile?user_id={}", encode(user_id))
}

fn a_server_that_signs_is_answered(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    alice.put(&format!("/profile/{}/displayname", encode(&alice.id)), json!({ "displayname": "Alice" })).ok();
    for _ in 0..3 {
        assert_eq!(other.gets(server, &profile_of(&alice.id)).ok(), json!({ "displayname": "Alice" }));
    }
    let asked: Vec<_> = other.https.takes_received().into_iter().map(|request| request.uri).collect();
    assert_eq!(asked, ["/_matrix/key/v2/server"], "its keys are remembered");
    // The key is in the database: a server that starts again need not ask.
    other.gets(server, &profile_of(&format!("@nobody:{}", harness::SERVER_NAME))).refused(404, "M_NOT_FOUND");
}

fn signatures_of_something_else_are_refused(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    let uri = profile_of(&alice.id);
    let sends = |authorization: &str, uri: &str, body: Option<&str>| {
        let client = server.anonymous().with_authorization(authorization);
        client.send("GET", uri, body.map(str::to_owned)).refused(401, "M_UNAUTHORIZED");
    };
    server.anonymous().get(&uri).refused(401, "M_UNAUTHORIZED");
    sends("Bearer x", &uri, None);
    sends("X-Matrix origin=a", &uri, None);
    let good = other.authorization(harness::SERVER_NAME, "GET", &uri, None);
    sends(&good, &format!("{uri}&field=displayname"), None);
    sends(&other.authorization("another.test", "GET", &uri, None), &uri, None);
    sends(&other.authorization(harness::SERVER_NAME, "PUT", &uri, None), &uri, None);
    sends(&other.authorization(harness::SERVER_NAME, "GET", &uri, Some(&json!({}))), &uri, None);
    sends(&good.replace("ed25519:1", "ed25519:2"), &uri, None);
    sends(&good.replace(&other.name, "localhost:1"), &uri, None);
    assert!(other.gets(server, &uri).status == 200);
}

fn keys_that_do_not_fit_are_refused(host: Host) {
    let server = ours(host);
    let uri = profile_of(&server.registers("alice").id);
    let impostor = Homeserver::starts();
    let signed_by_another = impostor.key_document(4_000_000_000_000);
    for (case, document) in [
        ("of another server", {
            let mut document = impostor.key_document(4_000_000_000_000);
            document["server_name"] = json!("another.test");
            document
        }),
        ("changed", {
            let mut document = impostor.key_document(4_000_000_000_000);
            document["valid_until_ts"] = json!(4_100_000_000_000_u64);
            document
        }),
        ("not signed", {
            let mut document = impostor.key_document(4_000_000_000_000);
            document["signatures"] = json!({});
            document
        }),
        ("over", impostor.key_document(1_000)),
        ("another's", signed_by_another),
    ] {
        let other = Homeserver::starts();
        other.answers(move |request| {
            (request.uri == "/_matrix/key/v2/server").then(|| harness::Reply::json(200, &document))
        });
        let told = other.gets(server, &uri);
        assert_eq!((told.status, told.body["errcode"].as_str()), (401, Some("M_UNAUTHORIZED")), "{case}");
    }
}

fn who_is_denied_is_forbidden(host: Host) {
    let [friend, enemy] = [Homeserver::starts(), Homeserver::starts()];
    let server = ours_with(host, &[("FEDERATION_ALLOW", "localhost"), ("FEDERATION_DENY", &enemy.name)]);
    let uri = profile_of(&server.registers("alice").id);
    friend.gets(&server, &uri).ok();
    enemy.gets(&server, &uri).refused(403, "M_FORBIDDEN");
    assert!(enemy.https.takes_received().is_empty(), "who is denied is not asked either");
}

fn without_federation_there_is_nothing(host: Host) {
    let other = Homeserver::starts();
    let server = ours_with(host, &[("FEDERATION", "off")]);
    let uri = profile_of(&server.registers("alice").id);
    other.gets(&server, &uri).refused(404, "M_UNRECOGNIZED");
    server.anonymous().get("/_matrix/key/v2/server").refused(404, "M_UNRECOGNIZED");
    server.anonymous().get("/_matrix/federation/v1/version").refused(404, "M_UNRECOGNIZED");
}

/// More at a time than strangers may hold on Workers.
fn large_requests_of_servers_at_once_are_all_taken(host: Host) {
    let here = Federated::starts(host);
    let zoe = &Guest::starts(&here, "zoe");
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(move || {
                let edu = json!({ "edu_type": "org.example.large", "content": { "x": "x".repeat(1 << 20) } });
                zoe.sends(&json!({ "edus": [edu] })).ok();
            });
        }
    });
}

/// They say that they are a server, send almost all that they promise, and wait.
fn strangers_leave_room_for_others(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let address = here.server.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let strangers: Vec<_> = (0..6)
        .map(|number| {
            let address = address.clone();
            thread::spawn(move || {
                let length = 8 << 20;
                let mut stranger = TcpStream::connect(&address).expect("a connection");
                let head = format!(
                    "PUT /_matrix/federation/v1/send/{number} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\
                     Authorization: X-Matrix origin=\"evil.test\",key=\"ed25519:a\",sig=\"AAAA\"\r\n\r\n"
                );
                // Who is refused meanwhile cannot send on.
                let sent = stranger.write_all(head.as_bytes());
                drop(sent.and_then(|()| stranger.write_all(&vec![b' '; length - 1])));
                stranger
            })
        })
        .collect();
    let strangers: Vec<_> = strangers.into_iter().map(|stranger| stranger.join().expect("it sends")).collect();
    alice.creates_room(json!({ "name": "Den", "unknown": "x".repeat(1 << 20) }));
    drop(strangers);
}
