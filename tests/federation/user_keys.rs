//! Spec: server-server API, «End-to-End Encryption», «Device Management».

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use harness::{Homeserver, Host, Keys, Reply, SERVER_NAME, User, Value, encode, json};

use crate::{
    guest::{Guest, VERSION, takes_what_is_sent},
    network::{Federated, on_each_host, ours},
};

on_each_host![
    our_keys_are_told,
    our_one_time_keys_are_given_once,
    our_devices_are_told,
    keys_are_asked_for_where_their_users_are,
    one_time_keys_are_claimed_where_their_users_are,
    who_does_not_answer_is_a_failure,
    keys_are_known_while_their_server_tells_of_every_change,
    what_changes_of_our_devices_is_told_step_by_step,
];

const QUERY: &str = "/_matrix/federation/v1/user/keys/query";
const CLAIM: &str = "/_matrix/federation/v1/user/keys/claim";

/// Uploads a device's keys and two one-time keys.
fn uploads(user: &User, keys: &Keys) -> Value {
    let device = keys.device(user);
    let body = json!({ "device_keys": device, "one_time_keys": { "a:1": "first", "a:2": "second" } });
    user.post("/keys/upload", body).ok();
    device
}

fn our_keys_are_told(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    let device = uploads(&alice, &Keys::of(200));
    let nobody = format!("@nobody:{SERVER_NAME}");
    let asked = json!({ "device_keys": { (alice.id.clone()): [], (nobody.clone()): [] } });
    let told = other.asks(server, "POST", QUERY, Some(asked)).ok();
    let shown = &told["device_keys"][&alice.id][&alice.device_id];
    assert_eq!((&shown["keys"], &shown["signatures"]), (&device["keys"], &device["signatures"]), "{told}");
    assert!(told["device_keys"][&nobody].is_null(), "{told}");
    assert!(told["user_signing_keys"].is_null(), "{told}");
    let elsewhere = json!({ "device_keys": { "@bob:b.test": [] } });
    other.asks(server, "POST", QUERY, Some(elsewhere)).refused(400, "M_INVALID_PARAM");
    server.anonymous().post(QUERY, json!({ "device_keys": {} })).refused(401, "M_UNAUTHORIZED");
}

fn our_one_time_keys_are_given_once(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    uploads(&alice, &Keys::of(201));
    let claims = || {
        let asked = json!({ "one_time_keys": { (alice.id.clone()): { (alice.device_id.clone()): "a" } } });
        other.asks(server, "POST", CLAIM, Some(asked)).ok()["one_time_keys"][&alice.id][&alice.device_id].clone()
    };
    assert_eq!([claims(), claims(), claims()], [json!({ "a:1": "first" }), json!({ "a:2": "second" }), Value::Null]);
}

fn our_devices_are_told(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    let path = format!("/_matrix/federation/v1/user/devices/{}", encode(&alice.id));
    assert_eq!(other.gets(server, &path).ok()["devices"], json!([]), "a device without keys is nobody's business");
    let device = uploads(&alice, &Keys::of(202));
    alice.put(&format!("/devices/{}", alice.device_id), json!({ "display_name": "phone" })).ok();
    let told = other.gets(server, &path).ok();
    assert_eq!(told["user_id"], alice.id);
    assert!(told["stream_id"].as_u64().is_some_and(|id| id > 0), "{told}");
    let shown = &told["devices"][0];
    assert_eq!((&shown["device_id"], &shown["device_display_name"]), (&json!(alice.device_id), &json!("phone")));
    assert_eq!(shown["keys"]["keys"], device["keys"]);
    let nobody = format!("/_matrix/federation/v1/user/devices/{}", encode(&format!("@nobody:{SERVER_NAME}")));
    other.gets(server, &nobody).refused(404, "M_NOT_FOUND");
}

fn keys_are_asked_for_where_their_users_are(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    let device = uploads(&alice, &Keys::of(203));
    let bob = format!("@bob:{}", other.name);
    let told = json!({
        "device_keys": {
            (bob.clone()): { "PHONE": { "user_id": bob, "keys": { "ed25519:PHONE": "k" } } },
            (alice.id.clone()): { "EVIL": {} },
        },
        "master_keys": { (bob.clone()): { "user_id": bob, "usage": ["master"], "keys": { "ed25519:m": "m" } } },
    });
    other.answers(move |request| (request.uri == QUERY).then(|| Reply::json(200, &told)));
    let asked = json!({ "device_keys": { (bob.clone()): ["PHONE"], (alice.id.clone()): [] } });
    let found = alice.post("/keys/query", asked).ok();
    assert_eq!(found["device_keys"][&bob]["PHONE"]["keys"], json!({ "ed25519:PHONE": "k" }), "{found}");
    assert_eq!(found["master_keys"][&bob]["keys"], json!({ "ed25519:m": "m" }));
    assert_eq!(found["device_keys"][&alice.id][&alice.device_id]["keys"], device["keys"]);
    assert!(found["device_keys"][&alice.id]["EVIL"].is_null(), "it says nothing of others' users: {found}");
    assert_eq!(found["failures"], json!({}));
    let request = other.https.takes_received().pop().expect("it was asked");
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(body, json!({ "device_keys": { (bob): ["PHONE"] } }));
}

fn one_time_keys_are_claimed_where_their_users_are(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let alice = server.registers("alice");
    let bob = format!("@bob:{}", other.name);
    let told = json!({ "one_time_keys": { (bob.clone()): { "PHONE": { "signed_curve25519:1": { "key": "k" } } } } });
    other.answers(move |request| (request.uri == CLAIM).then(|| Reply::json(200, &told)));
    let asked = json!({ "one_time_keys": { (bob.clone()): { "PHONE": "signed_curve25519" } } });
    let found = alice.post("/keys/claim", asked).ok();
    assert_eq!(found["one_time_keys"][&bob]["PHONE"], json!({ "signed_curve25519:1": { "key": "k" } }));
    assert_eq!(found["failures"], json!({}));
}

fn who_does_not_answer_is_a_failure(host: Host) {
    let server = ours(host);
    let slow = Homeserver::starts();
    slow.answers(|_| {
        Some(Reply::Raw(Box::new(|_| {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        })))
    });
    let alice = server.registers("alice");
    let asked = |field: &str, what: Value| {
        let [slow, nobody] = [&slow.name, "localhost:1"].map(|server| format!("@bob:{server}"));
        json!({ (field): { (slow): what, (nobody): what }, "timeout": 1000 })
    };
    let started = Instant::now();
    let found = alice.post("/keys/query", asked("device_keys", json!([]))).ok();
    assert!(found["failures"][&slow.name].is_object() && found["failures"]["localhost:1"].is_object(), "{found}");
    let found = alice.post("/keys/claim", asked("one_time_keys", json!({ "PHONE": "a" }))).ok();
    assert!(found["failures"][&slow.name].is_object() && found["failures"]["localhost:1"].is_object(), "{found}");
    assert!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
}

/// What is known of somebody's devices is good, even while their server is away, until something is told that does not
/// follow from it, or they are in no room of ours any more.
fn keys_are_known_while_their_server_tells_of_every_change(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let zoe = Guest::joins(&here, &room, "zoe");
    let key = |name: &str, text: &str| {
        let id = format!("ed25519:{name}");
        json!({ "user_id": zoe.id, "device_id": name, "keys": { (id): text } })
    };
    // Her server has these devices, or (`None`) says nothing.
    let has = |stream_id: u64, devices: Option<Vec<Value>>| {
        let id = zoe.id.clone();
        zoe.homeserver.answers(move |request| {
            let is_asked = request.uri.starts_with("/_matrix/federation/v1/user/devices/");
            let Some(devices) = devices.clone().filter(|_| is_asked) else {
                let silence = json!({ "errcode": "M_FORBIDDEN", "error": "No" });
                return takes_what_is_sent(request).or_else(|| Some(Reply::json(403, &silence)));
            };
            let master = json!({ "user_id": id, "usage": ["master"], "keys": { "ed25519:m": "m" } });
            let told = json!({ "user_id": id, "stream_id": stream_id, "devices": devices, "master_key": master });
            Some(Reply::json(200, &told))
        });
    };
    let phone = json!({ "device_id": "PHONE", "device_display_name": "phone", "keys": key("PHONE", "one") });
    let query = || alice.post("/keys/query", json!({ "device_keys": { (zoe.id.clone()): [] } })).ok();
    let names = |found: &Value| {
        let devices = found["device_keys"][&zoe.id].as_object();
        devices.map(|devices| devices.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut since = alice.syncs().next_batch;
    let mut told = |edu_type: &str, mut content: Value| {
        content["user_id"] = zoe.id.as_str().into();
        zoe.sends(&json!({ "edus": [{ "edu_type": edu_type, "content": content }] })).ok();
        let sync = alice.syncs_until(&since, |sync| sync.body["device_lists"]["changed"] == json!([zoe.id]));
        since = sync.next_batch;
    };
    has(5, Some(vec![phone.clone()]));
    let first = query();
    assert_eq!(first["device_keys"][&zoe.id]["PHONE"]["keys"], json!({ "ed25519:PHONE": "one" }), "{first}");
    assert_eq!(first["device_keys"][&zoe.id]["PHONE"]["unsigned"]["device_display_name"], "phone");
    has(0, None);
    let second = query();
    assert_eq!(second, first, "she is known while her server says nothing");
    let some = alice.post("/keys/query", json!({ "device_keys": { (zoe.id.clone()): ["OTHER"] } })).ok();
    assert_eq!((names(&some), &some["failures"]), (Vec::new(), &json!({})), "only what is asked for: {some}");
    let laptop = json!({
        "device_id": "LAPTOP", "device_display_name": "laptop", "stream_id": 6, "prev_id": [5],
        "keys": key("LAPTOP", "two"),
    });
    told("m.device_list_update", laptop);
    let third = query();
    assert_eq!(names(&third), ["LAPTOP", "PHONE"], "{third}");
    assert_eq!(third["device_keys"][&zoe.id]["LAPTOP"]["unsigned"]["device_display_name"], "laptop");
    told("m.device_list_update", json!({ "device_id": "PHONE", "stream_id": 7, "prev_id": [6], "deleted": true }));
    let master = json!({ "user_id": zoe.id, "usage": ["master"], "keys": { "ed25519:n": "n" } });
    told("m.signing_key_update", json!({ "master_key": master }));
    let fourth = query();
    assert_eq!(
        (names(&fourth), &fourth["master_keys"][&zoe.id]["keys"]),
        (vec!["LAPTOP".into()], &json!({ "ed25519:n": "n" }))
    );
    // An update is missing: the list is fetched at once.
    let tablet = json!({ "device_id": "TABLET", "keys": key("TABLET", "t") });
    let tablet_after = |prev_id: u64| {
        let stream_id = prev_id + 1;
        json!({ "device_id": "TABLET", "stream_id": stream_id, "prev_id": [prev_id], "keys": key("TABLET", "t") })
    };
    has(9, Some(vec![phone.clone(), tablet]));
    told("m.device_list_update", tablet_after(8));
    has(0, None);
    let fetched = query();
    assert_eq!((names(&fetched), &fetched["failures"]), (vec!["PHONE".into(), "TABLET".into()], &json!({})));
    // It cannot be: nobody knows what the list is.
    told("m.device_list_update", tablet_after(11));
    let unknown = query();
    assert_eq!(names(&unknown), Vec::<String>::new(), "{unknown}");
    assert!(unknown["failures"][&zoe.homeserver.name].is_object(), "{unknown}");
    has(12, Some(vec![phone]));
    assert_eq!(names(&query()), ["PHONE"]);
    // She leaves, and nobody tells us any more.
    let (_, leave) = zoe.completes(zoe.draft("m.room.member", Some(&zoe.id), json!({ "membership": "leave" })));
    zoe.sends_event(&leave);
    zoe.homeserver.https.takes_received();
    query();
    let asked = zoe.homeserver.https.takes_received();
    assert!(asked.iter().any(|request| request.uri == QUERY), "she shares no room: {}", asked.len());
}

/// Each update names the one before it, so that nobody has to ask for the whole list but at first. A new device is told
/// before it has keys, unless it has them before anybody asks.
fn what_changes_of_our_devices_is_told_step_by_step(host: Host) {
    let here = Federated::starts(host);
    let alice = here.server.registers("alice");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let zoe = Guest::joins(&here, &room, "zoe");
    let hears = |kind: &str| {
        let edu = zoe.hears(|edu| edu["edu_type"] == kind && edu["content"]["user_id"] == alice.id.as_str());
        edu["content"].clone()
    };
    let last = RefCell::new(json!([]));
    let hears_of = |device_id: &str, is_wanted: &dyn Fn(&Value) -> bool| loop {
        let update = hears("m.device_list_update");
        let before = last.replace(json!([update["stream_id"]]));
        assert_eq!((&update["device_id"], &update["prev_id"]), (&json!(device_id), &before), "{update}");
        if is_wanted(&update) {
            return update;
        }
    };
    let has_keys = |update: &Value| update["keys"].is_object();
    let device = uploads(&alice, &Keys::of(204));
    let first = hears_of(&alice.device_id, &has_keys);
    assert_eq!(first["keys"]["keys"], device["keys"]);
    let path = format!("/_matrix/federation/v1/user/devices/{}", encode(&alice.id));
    assert_eq!(zoe.asks("GET", &path, None).ok()["stream_id"], first["stream_id"]);
    alice.put(&format!("/devices/{}", alice.device_id), json!({ "display_name": "phone" })).ok();
    hears_of(&alice.device_id, &|update| update["device_display_name"] == "phone");
    let tablet = alice.logs_in_again();
    let came = hears_of(&tablet.device_id, &|_| true);
    assert!(came["keys"].is_null() && came["deleted"] != true, "{came}");
    uploads(&tablet, &Keys::of(205));
    let added = hears_of(&tablet.device_id, &has_keys);
    assert!(added["deleted"] != true, "{added}");
    tablet.post("/logout", json!({})).ok();
    let gone = hears_of(&tablet.device_id, &|_| true);
    assert!(gone["deleted"] == true && gone["keys"].is_null(), "{gone}");
    // Her own keys are news of another kind.
    let master = Keys::of(206);
    let key = |keys: &Keys, usage: &str| master.signs(keys.cross_signing(&alice, usage), &alice, &master.public());
    let body = json!({
        "master_key": master.cross_signing(&alice, "master"),
        "self_signing_key": key(&Keys::of(207), "self_signing"),
        "user_signing_key": key(&Keys::of(208), "user_signing"),
    });
    alice.post("/keys/device_signing/upload", body).ok();
    let keys = hears("m.signing_key_update");
    assert_eq!(keys["master_key"]["usage"], json!(["master"]), "{keys}");
    assert!(keys["self_signing_key"].is_object() && keys["user_signing_key"].is_null(), "{keys}");
}
