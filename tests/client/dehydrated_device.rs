//! Spec: MSC3814, «Dehydrated Devices with SSSS».

use harness::{Answer, Keys, Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    a_dehydrated_device_is_kept_and_found,
    it_is_a_device_like_others_to_everybody_else,
    its_messages_are_read_again_and_again,
    it_keeps_what_the_users_own_key_signed,
    it_goes_as_other_devices_do,
    what_is_no_dehydrated_device_is_refused,
];

const PREFIX: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// A dehydrated device as a client uploads it.
fn dehydrated(user: &User, id: &str, seed: u8) -> Value {
    let signer = Keys::of(seed);
    let mut keys = signer.device_named(user, id);
    keys["dehydrated"] = true.into();
    json!({
        "device_id": id,
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": format!("pickle {seed}"), "nonce": "n" },
        "initial_device_display_name": "Dehydrated",
        "device_keys": signer.signs(keys, user, id),
        "one_time_keys": { "signed_curve25519:A": { "key": "a" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
    })
}

fn puts(user: &User, device: &Value) -> Answer {
    user.client().put(PREFIX, device.clone())
}

fn gets(user: &User) -> Answer {
    user.client().get(PREFIX)
}

fn deletes(user: &User) -> Answer {
    user.client().delete(PREFIX)
}

fn page(user: &User, id: &str, next_batch: Option<&str>) -> Answer {
    let body = next_batch.map_or(json!({}), |token| json!({ "next_batch": token }));
    user.client().post(&format!("{PREFIX}/{}/events", encode(id)), body)
}

/// The same as clients of newer drafts ask for it.
fn page_from(user: &User, id: &str, from: Option<&str>) -> Answer {
    let query = from.map_or(String::new(), |token| format!("?from={}", encode(token)));
    user.client().get(&format!("{PREFIX}/{}/events{query}", encode(id)))
}

/// The texts that the device was sent, page by page until one is empty.
fn told(user: &User, id: &str) -> Vec<String> {
    let (mut all, mut next_batch) = (Vec::new(), None::<String>);
    loop {
        let page = page(user, id, next_batch.as_deref()).ok();
        let events = page["events"].as_array().expect("events");
        next_batch = Some(page["next_batch"].as_str().expect("a token").to_owned());
        if events.is_empty() {
            return all;
        }
        all.extend(events.iter().map(|event| event["content"]["text"].as_str().expect("a text").to_owned()));
    }
}

fn sends(from: &User, txn_id: &str, to: &User, device: &str) {
    let messages = json!({ (&to.id): { (device): { "text": txn_id } } });
    from.put(&format!("/sendToDevice/m.test/{}", encode(txn_id)), json!({ "messages": messages })).ok();
}

fn shown(asking: &User, whom: &User) -> Value {
    asking.post("/keys/query", json!({ "device_keys": { (&whom.id): [] } })).ok()["device_keys"][&whom.id].clone()
}

fn claims(asking: &User, whom: &User, device: &str) -> Option<String> {
    let request = json!({ "one_time_keys": { (&whom.id): { (device): "signed_curve25519" } } });
    let claimed = asking.post("/keys/claim", request).ok();
    Some(claimed["one_time_keys"][&whom.id][device].as_object()?.keys().next()?.clone())
}

fn changed(sync: &Sync, whom: &User) -> bool {
    let changed = sync.body["device_lists"]["changed"].as_array();
    changed.is_some_and(|changed| changed.contains(&Value::from(&*whom.id)))
}

fn a_dehydrated_device_is_kept_and_found(server: &Server) {
    let alice = server.registers("alice");
    let versions = server.anonymous().get("/_matrix/client/versions").ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc3814"], true);
    gets(&alice).refused(404, "M_NOT_FOUND");
    deletes(&alice).refused(404, "M_NOT_FOUND");
    let first = dehydrated(&alice, "dry+1/A", 1);
    assert_eq!(puts(&alice, &first).ok(), json!({ "device_id": "dry+1/A" }));
    let other = alice.logs_in_again();
    let expected = json!({ "device_id": "dry+1/A", "device_data": first["device_data"] });
    assert_eq!(gets(&other).ok(), expected, "any of the user's devices finds it");
    let second = dehydrated(&alice, "dry+2/A", 2);
    puts(&other, &second).ok();
    assert_eq!(gets(&alice).ok()["device_data"], second["device_data"]);
    assert_eq!(deletes(&alice).ok(), json!({ "device_id": "dry+2/A" }));
    gets(&alice).refused(404, "M_NOT_FOUND");
}

fn it_is_a_device_like_others_to_everybody_else(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    let device = dehydrated(&alice, "DRY", 1);
    puts(&alice, &device).ok();
    let sync = bob.syncs_until(&since, |sync| changed(sync, &alice));
    let mut keys = shown(&bob, &alice)["DRY"].clone();
    let said = keys.as_object_mut().expect("the device").remove("unsigned").expect("what the server says");
    assert_eq!(said["device_display_name"], "Dehydrated");
    assert_eq!(keys, device["device_keys"], "as it was uploaded, `dehydrated` and all");
    for name in ["A", "F", "F"] {
        assert_eq!(claims(&bob, &alice, "DRY"), Some(format!("signed_curve25519:{name}")));
    }
    let listed = alice.get("/devices").ok()["devices"].as_array().expect("devices").clone();
    let dry = listed.iter().find(|listed| listed["device_id"] == "DRY").expect("the dehydrated device");
    assert_eq!((listed.len(), &dry["display_name"], dry.get("last_seen_ts")), (2, &"Dehydrated".into(), None));
    // Neither the same again nor one in its place gives out a key twice, and only the latter is news.
    puts(&alice, &device).ok();
    assert_eq!(claims(&bob, &alice, "DRY").as_deref(), Some("signed_curve25519:F"));
    assert!(!changed(&bob.syncs_since(&sync.next_batch), &alice));
    puts(&alice, &dehydrated(&alice, "DRIER", 2)).ok();
    bob.syncs_until(&sync.next_batch, |sync| changed(sync, &alice));
    let ids: Vec<String> = shown(&bob, &alice).as_object().expect("devices").keys().cloned().collect();
    assert_eq!(ids, ["DRIER"]);
    assert_eq!(claims(&bob, &alice, "DRY"), None);
}

fn its_messages_are_read_again_and_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    sends(&bob, "before", &alice, "DRY");
    let device = dehydrated(&alice, "DRY", 1);
    puts(&alice, &device).ok();
    let sent: Vec<String> = (0..105).map(|number| number.to_string()).collect();
    for (number, text) in sent.iter().enumerate() {
        sends(&bob, text, &alice, if number % 2 == 0 { "DRY" } else { "*" });
    }
    assert_eq!(told(&alice, "DRY"), sent);
    let other = alice.logs_in_again();
    let first = page(&other, "DRY", None).ok();
    assert_eq!(first["events"][0], json!({ "sender": bob.id, "type": "m.test", "content": { "text": "0" } }));
    assert_eq!(first["events"].as_array().map(Vec::len), Some(100));
    puts(&alice, &device).ok();
    assert_eq!(told(&other, "DRY"), sent, "whoever began to read them may be gone: nothing is");
    let last = page(&other, "DRY", first["next_batch"].as_str()).ok();
    assert_eq!(last["events"].as_array().map(Vec::len), Some(5));
    let newer = page_from(&other, "DRY", None).ok();
    assert_eq!((&newer["events"], &newer["next_batch"]), (&first["events"], &first["next_batch"]));
    let newer = page_from(&other, "DRY", newer["next_batch"].as_str()).ok();
    assert_eq!(newer, json!({ "events": last["events"] }), "there are no more");
    puts(&alice, &dehydrated(&alice, "DRIER", 2)).ok();
    page(&alice, "DRY", None).refused(403, "M_FORBIDDEN");
    page_from(&alice, "DRY", None).refused(403, "M_FORBIDDEN");
    assert_eq!(told(&alice, "DRIER"), [""; 0]);
    sends(&bob, "after", &alice, "DRIER");
    assert_eq!(told(&alice, "DRIER"), ["after"]);
}

fn it_keeps_what_the_users_own_key_signed(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (master, own, stranger) = (Keys::of(11), Keys::of(12), Keys::of(13));
    let self_signing = master.signs(own.cross_signing(&alice, "self_signing"), &alice, &master.public());
    let keys = json!({ "master_key": master.cross_signing(&alice, "master"), "self_signing_key": self_signing });
    alice.post("/keys/device_signing/upload", keys).ok();
    let mut device = dehydrated(&alice, "DRY", 1);
    let signed = own.signs(device["device_keys"].clone(), &alice, &own.public());
    device["device_keys"] = stranger.signs(signed.clone(), &alice, &stranger.public());
    puts(&alice, &device).ok();
    let signatures = shown(&bob, &alice)["DRY"]["signatures"].clone();
    assert_eq!(signatures, signed["signatures"], "verified ones only");
}

fn it_goes_as_other_devices_do(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let device = dehydrated(&alice, "DRY", 1);
    puts(&alice, &device).ok();
    let body = json!({ "devices": ["DRY"] });
    let challenge = alice.post("/delete_devices", body.clone()).status(401);
    let mut proven = body;
    proven["auth"] = alice.proof(harness::PASSWORD);
    proven["auth"]["session"] = challenge["session"].clone();
    alice.post("/delete_devices", proven).ok();
    gets(&alice).refused(404, "M_NOT_FOUND");
    assert_eq!(shown(&bob, &alice), json!({}));
    puts(&alice, &device).ok();
    let other = alice.logs_in_again();
    alice.post("/logout", json!({})).ok();
    gets(&other).ok();
    other.post("/logout/all", json!({})).ok();
    assert_eq!(shown(&bob, &alice), json!({}));
    gets(&other.logs_in_again()).refused(404, "M_NOT_FOUND");
}

fn what_is_no_dehydrated_device_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let good = dehydrated(&alice, "DRY", 1);
    let without = |field: &str| {
        let mut device = good.clone();
        device.as_object_mut().expect("a device").remove(field);
        device
    };
    for field in ["device_id", "device_data", "device_keys"] {
        puts(&alice, &without(field)).refused(400, "M_BAD_JSON");
    }
    let mut no_algorithm = good.clone();
    no_algorithm["device_data"] = json!({ "device_pickle": "p" });
    puts(&alice, &no_algorithm).refused(400, "M_BAD_JSON");
    let mut forged = good.clone();
    forged["device_keys"]["dehydrated"] = false.into();
    puts(&alice, &forged).refused(400, "M_INVALID_SIGNATURE");
    puts(&alice, &dehydrated(&alice, &alice.device_id, 1)).refused(403, "M_FORBIDDEN");
    gets(&alice).refused(404, "M_NOT_FOUND");
    page(&alice, "DRY", None).refused(403, "M_FORBIDDEN");
    puts(&alice, &without("one_time_keys")).ok();
    page(&alice, "DRY", Some("nonsense")).refused(400, "M_INVALID_PARAM");
    page_from(&alice, "DRY", Some("nonsense")).refused(400, "M_INVALID_PARAM");
    page(&alice, &alice.device_id, None).refused(403, "M_FORBIDDEN");
    let log_in = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": alice.id },
        "password": harness::PASSWORD, "device_id": "DRY",
    });
    server.anonymous().post("/_matrix/client/v3/login", log_in).refused(403, "M_FORBIDDEN");
    server.anonymous().get(PREFIX).refused(401, "M_MISSING_TOKEN");
}
