//! Spec: server-server API, «Request Authentication».

use harness::{Homeserver, Host, encode, json};

use crate::network::{on_each_host, ours, ours_with};

on_each_host![
    a_server_that_signs_is_answered,
    signatures_of_something_else_are_refused,
    keys_that_do_not_fit_are_refused,
    who_is_denied_is_forbidden,
    without_federation_there_is_nothing,
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
