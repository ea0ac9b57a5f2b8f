//! Spec: client-server API, «Server-side key backups».

use harness::{Answer, Server, User, Value, encode, json, on_each_host};

on_each_host![
    backups_come_and_go,
    keys_are_stored_and_shown,
    the_better_key_stays,
    keys_go_into_the_newest_backup,
    keys_are_deleted,
    large_backups_are_told_whole,
    backups_of_others_are_nobodys_business,
    large_keys_are_stored,
];

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";
const ROOM: &str = "!room:localhost";

fn creates(user: &User) -> String {
    let body = json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "abc" } });
    user.post("/room_keys/version", body).ok()["version"].as_str().expect("a version").to_owned()
}

fn keys(version: &str, below: &str) -> String {
    format!("/room_keys/keys{below}?version={}", encode(version))
}

fn of_session(session: &str) -> String {
    format!("/{}/{}", encode(ROOM), encode(session))
}

fn key(verified: bool, index: u32, forwarded: u32) -> Value {
    json!({
        "first_message_index": index, "forwarded_count": forwarded, "is_verified": verified,
        "session_data": { "ciphertext": format!("{verified} {index} {forwarded}"), "ephemeral": "e", "mac": "m" },
    })
}

fn backups_come_and_go(server: &Server) {
    let alice = server.registers("alice");
    alice.get("/room_keys/version").refused(404, "M_NOT_FOUND");
    let (first, second) = (creates(&alice), creates(&alice));
    assert_ne!(first, second);
    let info = alice.get("/room_keys/version").ok();
    assert_eq!(info["version"], second);
    assert_eq!((&info["algorithm"], &info["auth_data"]), (&json!(ALGORITHM), &json!({ "public_key": "abc" })));
    assert_eq!(info["count"], 0);
    assert!(info["etag"].is_string());
    let path = format!("/room_keys/version/{first}");
    assert_eq!(alice.get(&path).ok()["version"], first);
    let update = |algorithm: &str, version: Option<&str>| -> Answer {
        let mut body = json!({ "algorithm": algorithm, "auth_data": { "public_key": "def" } });
        if let Some(version) = version {
            body["version"] = version.into();
        }
        alice.put(&path, body)
    };
    update("m.other", None).refused(400, "M_INVALID_PARAM");
    update(ALGORITHM, Some(&second)).refused(400, "M_INVALID_PARAM");
    update(ALGORITHM, Some(&first)).ok();
    update(ALGORITHM, None).ok();
    assert_eq!(alice.get(&path).ok()["auth_data"], json!({ "public_key": "def" }));
    alice.delete(&format!("/room_keys/version/{second}"), json!({})).ok();
    alice.delete(&format!("/room_keys/version/{second}"), json!({})).ok();
    alice.delete("/room_keys/version/none", json!({})).refused(404, "M_NOT_FOUND");
    alice.get(&format!("/room_keys/version/{second}")).refused(404, "M_NOT_FOUND");
    assert_eq!(alice.get("/room_keys/version").ok()["version"], first, "the newest that is left");
    assert!(![first, second].contains(&creates(&alice)), "a version is never used again");
    alice
        .put("/room_keys/version/none", json!({ "algorithm": ALGORITHM, "auth_data": {} }))
        .refused(404, "M_NOT_FOUND");
    alice.post("/room_keys/version", json!({ "algorithm": ALGORITHM })).refused(400, "M_BAD_JSON");
    alice.post("/room_keys/version", json!({ "algorithm": ALGORITHM, "auth_data": "x" })).refused(400, "M_BAD_JSON");
}

fn keys_are_stored_and_shown(server: &Server) {
    let alice = server.registers("alice");
    let version = creates(&alice);
    assert_eq!(alice.get(&keys(&version, "")).ok(), json!({ "rooms": {} }));
    let of_room = format!("/{}", encode(ROOM));
    assert_eq!(alice.get(&keys(&version, &of_room)).ok(), json!({ "sessions": {} }));
    alice.get(&keys(&version, &of_session("a"))).refused(404, "M_NOT_FOUND");
    let one = alice.put(&keys(&version, &of_session("a")), key(true, 1, 1)).ok();
    let more = alice.put(&keys(&version, &of_room), json!({ "sessions": { "b/c": key(false, 2, 0) } })).ok();
    let rooms = json!({ "rooms": { "!other:localhost": { "sessions": { "d": key(true, 0, 0) } } } });
    let all = alice.put(&keys(&version, ""), rooms).ok();
    assert_eq!([&one["count"], &more["count"], &all["count"]], [1, 2, 3]);
    assert!(one["etag"] != more["etag"] && more["etag"] != all["etag"]);
    assert_eq!(alice.get(&keys(&version, &of_session("b/c"))).ok(), key(false, 2, 0));
    let sessions = json!({ "a": key(true, 1, 1), "b/c": key(false, 2, 0) });
    assert_eq!(alice.get(&keys(&version, &of_room)).ok(), json!({ "sessions": sessions }));
    let rooms =
        json!({ (ROOM): { "sessions": sessions }, "!other:localhost": { "sessions": { "d": key(true, 0, 0) } } });
    assert_eq!(alice.get(&keys(&version, "")).ok(), json!({ "rooms": rooms }));
    let info = alice.get("/room_keys/version").ok();
    assert_eq!((&info["count"], &info["etag"]), (&json!(3), &all["etag"]));
    alice.get(&keys("none", "")).refused(404, "M_NOT_FOUND");
    alice.get("/room_keys/keys").refused(400, "M_MISSING_PARAM");
    alice.put(&keys(&version, &of_session("e")), json!({ "is_verified": true })).refused(400, "M_BAD_JSON");
}

fn the_better_key_stays(server: &Server) {
    let alice = server.registers("alice");
    let version = creates(&alice);
    let path = keys(&version, &of_session("s"));
    let (worst, better, best) = (key(false, 0, 0), key(true, 5, 5), key(true, 5, 4));
    for (put, kept, is_news) in [
        (&worst, &worst, true),
        (&better, &better, true),
        (&worst, &better, false),
        (&best, &best, true),
        (&best, &best, false),
        (&better, &best, false),
    ] {
        let before = alice.get("/room_keys/version").ok()["etag"].clone();
        let answer = alice.put(&path, put.clone()).ok();
        assert_eq!(alice.get(&path).ok(), *kept);
        assert_eq!(answer["etag"] != before, is_news, "{put}");
        assert_eq!(answer["count"], 1);
    }
}

fn keys_go_into_the_newest_backup(server: &Server) {
    let alice = server.registers("alice");
    alice.put(&keys("1", &of_session("s")), key(true, 0, 0)).refused(404, "M_NOT_FOUND");
    let (first, second) = (creates(&alice), creates(&alice));
    let refused = alice.put(&keys(&first, &of_session("s")), key(true, 0, 0));
    assert_eq!(refused.body["current_version"], second);
    alice.put(&keys("none", &of_session("s")), key(true, 0, 0)).refused(404, "M_NOT_FOUND");
    refused.refused(403, "M_WRONG_ROOM_KEYS_VERSION");
    alice.put(&keys(&second, &of_session("s")), key(true, 0, 0)).ok();
    assert_eq!(alice.get(&keys(&first, "")).ok(), json!({ "rooms": {} }));
}

fn keys_are_deleted(server: &Server) {
    let alice = server.registers("alice");
    let version = creates(&alice);
    let sessions = json!({ "a": key(true, 0, 0), "b": key(true, 0, 0) });
    let rooms = json!({ "rooms": { (ROOM): { "sessions": sessions }, "!x:y": { "sessions": sessions } } });
    let put = alice.put(&keys(&version, ""), rooms).ok();
    let mut etag = put["etag"].clone();
    for (below, count) in [(of_session("a"), 3), (format!("/{}", encode(ROOM)), 2), (String::new(), 0)] {
        let answer = alice.delete(&keys(&version, &below), json!({})).ok();
        assert_eq!(answer["count"], count);
        assert_ne!(answer["etag"], etag);
        etag = answer["etag"].clone();
        assert_eq!(alice.delete(&keys(&version, &below), json!({})).ok(), answer, "there is no more to delete");
    }
    alice.delete(&keys("none", ""), json!({})).refused(404, "M_NOT_FOUND");
}

fn large_backups_are_told_whole(server: &Server) {
    let alice = server.registers("alice");
    let version = creates(&alice);
    let mut rooms = json!({});
    for number in 0..1_203 {
        rooms[format!("!{}:localhost", number % 5)]["sessions"][format!("s{number}")] = key(true, number, 0);
    }
    let put = alice.put(&keys(&version, ""), json!({ "rooms": rooms })).ok();
    assert_eq!(put["count"], 1_203);
    assert_eq!(alice.get(&keys(&version, "")).ok(), json!({ "rooms": rooms }));
    let room = alice.get(&keys(&version, &format!("/{}", encode("!0:localhost")))).ok();
    assert_eq!(room, rooms["!0:localhost"]);
}

fn backups_of_others_are_nobodys_business(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let version = creates(&alice);
    alice.put(&keys(&version, &of_session("s")), key(true, 0, 0)).ok();
    bob.get("/room_keys/version").refused(404, "M_NOT_FOUND");
    bob.get(&keys(&version, "")).refused(404, "M_NOT_FOUND");
    let path = format!("/_matrix/client/v3{}", keys(&version, ""));
    server.anonymous().get(&path).refused(401, "M_MISSING_TOKEN");
}

fn large_keys_are_stored(server: &Server) {
    let alice = server.registers("alice");
    let version = creates(&alice);
    let mut rooms = json!({});
    for number in 0..130 {
        let mut large = key(true, number, 0);
        large["session_data"]["ciphertext"] = "x".repeat(16_000).into();
        rooms["!r:localhost"]["sessions"][format!("s{number}")] = large;
    }
    let put = alice.put(&keys(&version, ""), json!({ "rooms": rooms })).ok();
    assert_eq!(put["count"], 130);
    let mut larger = key(true, 0, 0);
    larger["session_data"]["ciphertext"] = "x".repeat(17_000).into();
    alice.put(&keys(&version, &of_session("s")), larger).refused(400, "M_INVALID_PARAM");
    assert_eq!(alice.get(&keys(&version, "")).ok(), json!({ "rooms": rooms }));
    assert_eq!(alice.get(&keys(&version, &format!("/{}", encode("!r:localhost")))).ok(), rooms["!r:localhost"]);
}
