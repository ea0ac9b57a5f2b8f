//! Spec: client-server API, «End-to-End Encryption»: key distribution, cross-signing, tracking device lists.

use std::{collections::BTreeSet, thread};

use harness::{Keys, PASSWORD, SERVER_NAME, Server, Sync, User, Value, encode, json, on_each_host};

on_each_host![
    device_keys_are_shown_as_they_were_uploaded,
    device_keys_are_checked,
    a_one_time_key_is_given_out_once_to_whoever_asks,
    one_time_keys_are_given_out_in_the_order_they_came,
    a_fallback_key_is_given_out_when_nothing_else_is_left,
    counts_of_keys_come_with_every_sync,
    cross_signing_keys_are_uploaded_once_for_free,
    cross_signing_keys_are_signed,
    signatures_are_seen_by_those_they_concern,
    users_of_shared_rooms_learn_of_changed_devices,
    who_comes_and_goes_is_told,
    changes_are_asked_for,
    strangers_have_no_keys,
];

fn uploads(user: &User, seed: u8) -> Value {
    let keys = Keys::of(seed).device(user);
    user.post("/keys/upload", json!({ "device_keys": keys })).ok();
    keys
}

fn queried(asking: &User, whom: &User) -> Value {
    asking.post("/keys/query", json!({ "device_keys": { (&whom.id): [] } })).ok()
}

fn one_time(names: &[String]) -> Value {
    let mut keys = json!({});
    for name in names {
        keys[format!("signed_curve25519:{name}")] = json!({ "key": name });
    }
    keys
}

fn device_keys_are_shown_as_they_were_uploaded(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.put(&format!("/devices/{}", alice.device_id), json!({ "display_name": "Phone" })).ok();
    let (phone, tablet) = (uploads(&alice, 1), alice.logs_in_again());
    let tablets = uploads(&tablet, 2);
    let mut shown = queried(&bob, &alice);
    assert_eq!(shown["failures"], json!({}));
    let devices = &mut shown["device_keys"][&alice.id];
    assert_eq!(devices[&alice.device_id]["unsigned"]["device_display_name"], "Phone");
    for (device, uploaded) in [(&alice, &phone), (&tablet, &tablets)] {
        let shown = devices[&device.device_id].as_object_mut().expect("the device");
        shown.remove("unsigned");
        assert_eq!(Value::from(shown.clone()), *uploaded);
    }
    let one = bob.post("/keys/query", json!({ "device_keys": { (&alice.id): [tablet.device_id, "NONE"] } })).ok();
    let ids: Vec<_> = one["device_keys"][&alice.id].as_object().expect("devices").keys().collect();
    assert_eq!(ids, [&tablet.device_id]);
    tablet.post("/logout", json!({})).ok();
    assert_eq!(queried(&bob, &alice)["device_keys"][&alice.id].get(&tablet.device_id), None);
}

fn device_keys_are_checked(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let upload = |keys: Value| alice.post("/keys/upload", json!({ "device_keys": keys }));
    let mut forged = Keys::of(1).device(&alice);
    forged["algorithms"] = json!([]);
    upload(forged).refused(400, "M_INVALID_SIGNATURE");
    upload(Keys::of(1).device(&bob)).refused(400, "M_INVALID_PARAM");
    upload(Keys::of(1).device(&alice.logs_in_again())).refused(400, "M_INVALID_PARAM");
    upload(json!("text")).refused(400, "M_BAD_JSON");
    alice.post("/keys/query", json!({})).refused(400, "M_BAD_JSON");
    alice.post("/keys/query", json!({ "device_keys": { "nobody": [] } })).refused(400, "M_BAD_JSON");
    assert_eq!(queried(&bob, &alice)["device_keys"][&alice.id], json!({}));
}

fn a_one_time_key_is_given_out_once_to_whoever_asks(server: &Server) {
    let alice = server.registers("alice");
    uploads(&alice, 1);
    let names: Vec<String> = (0..20).map(|number| format!("AAA{number}")).collect();
    let counts = alice.post("/keys/upload", json!({ "one_time_keys": one_time(&names) })).ok();
    assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 20 } }));
    let other = json!({ "one_time_keys": { "signed_curve25519:AAA0": { "key": "another" } } });
    alice.post("/keys/upload", other).refused(400, "M_INVALID_PARAM");
    let askers: Vec<User> = (0..4).map(|number| server.registers(&format!("asker{number}"))).collect();
    let request = json!({ "one_time_keys": { (&alice.id): { (&alice.device_id): "signed_curve25519" } } });
    let claims = |asker: &User| -> Vec<String> {
        let claim = || {
            let claimed = asker.post("/keys/claim", request.clone()).ok();
            let keys = claimed["one_time_keys"][&alice.id][&alice.device_id].as_object().expect("a key").clone();
            keys.into_iter().map(|(name, _)| name)
        };
        (0..5).flat_map(|_| claim()).collect()
    };
    let claimed: Vec<String> = thread::scope(|scope| {
        let askers: Vec<_> = askers.iter().map(|asker| scope.spawn(|| claims(asker))).collect();
        askers.into_iter().flat_map(|asker| asker.join().expect("claims")).collect()
    });
    assert_eq!(claimed.len(), 20);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 20, "{claimed:?}");
    let nothing = askers[0].post("/keys/claim", request).ok();
    assert_eq!(nothing["one_time_keys"].get(&alice.id), None, "{nothing}");
    // The answer to the upload was lost.
    let again = alice.post("/keys/upload", json!({ "one_time_keys": one_time(&names) })).ok();
    assert_eq!(again, json!({ "one_time_key_counts": { "signed_curve25519": 0 } }), "none comes back");
}

/// «One-time keys are given out in the order that they were uploaded.»
fn one_time_keys_are_given_out_in_the_order_they_came(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    uploads(&alice, 1);
    let names = ["CCC", "AAA", "DDD", "BBB"];
    for name in names {
        alice.post("/keys/upload", json!({ "one_time_keys": one_time(&[name.to_owned()]) })).ok();
    }
    let request = json!({ "one_time_keys": { (&alice.id): { (&alice.device_id): "signed_curve25519" } } });
    for name in names {
        let claimed = bob.post("/keys/claim", request.clone()).ok();
        let keys = &claimed["one_time_keys"][&alice.id][&alice.device_id];
        assert!(keys[format!("signed_curve25519:{name}")].is_object(), "{name}: {claimed}");
    }
}

fn a_fallback_key_is_given_out_when_nothing_else_is_left(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let start = alice.syncs();
    assert_eq!(start.body["device_unused_fallback_key_types"], json!([]));
    let keys = json!({
        "one_time_keys": { "signed_curve25519:A": { "key": "a" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
    });
    alice.post("/keys/upload", keys).ok();
    assert_eq!(
        alice.syncs_since(&start.next_batch).body["device_unused_fallback_key_types"],
        json!(["signed_curve25519"])
    );
    let request = json!({ "one_time_keys": { (&alice.id): { (&alice.device_id): "signed_curve25519" } } });
    for name in ["A", "F", "F"] {
        let claimed = bob.post("/keys/claim", request.clone()).ok();
        let keys = &claimed["one_time_keys"][&alice.id][&alice.device_id];
        assert!(keys.get(format!("signed_curve25519:{name}")).is_some(), "{keys}");
    }
    let used = alice.syncs_since(&start.next_batch);
    assert_eq!(used.body["device_unused_fallback_key_types"], json!([]));
}

fn counts_of_keys_come_with_every_sync(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let counted = |sync: &Sync| sync.body["device_one_time_keys_count"]["signed_curve25519"].as_u64().unwrap();
    let start = alice.syncs();
    assert_eq!(counted(&start), 0);
    let names = ["A", "B"].map(ToOwned::to_owned);
    alice.post("/keys/upload", json!({ "one_time_keys": one_time(&names) })).ok();
    let mut sync = alice.syncs_since(&start.next_batch);
    assert_eq!(counted(&sync), 2);
    for _ in 0..2 {
        sync = alice.syncs_since(&sync.next_batch);
        assert_eq!(counted(&sync), 2, "nothing happened, and still it is told");
    }
    let other_device = alice.logs_in_again();
    assert_eq!(counted(&other_device.syncs()), 0, "each device has its own");
    let request = json!({ "one_time_keys": { (&alice.id): { (&alice.device_id): "signed_curve25519" } } });
    bob.post("/keys/claim", request).ok();
    let sync = alice.syncs_since(&sync.next_batch);
    assert_eq!(counted(&sync), 1);
    let waited = alice.asks_sync(&[("since", &sync.next_batch), ("timeout", "50")]);
    assert_eq!(counted(&waited.into()), 1, "a wait for nothing tells it, too");
}

/// Master, self-signing and user-signing key.
fn cross_signing(user: &User, [master, self_signing, user_signing]: [u8; 3]) -> Value {
    let signer = Keys::of(master);
    let signed = |seed, usage| signer.signs(Keys::of(seed).cross_signing(user, usage), user, &signer.public());
    json!({
        "master_key": signer.cross_signing(user, "master"),
        "self_signing_key": signed(self_signing, "self_signing"),
        "user_signing_key": signed(user_signing, "user_signing"),
    })
}

fn cross_signing_keys_are_uploaded_once_for_free(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let upload = |keys: &Value| alice.post("/keys/device_signing/upload", keys.clone());
    let keys = cross_signing(&alice, [1, 2, 3]);
    for _ in 0..2 {
        upload(&keys).ok();
    }
    let mut others = cross_signing(&alice, [4, 2, 3]);
    let challenge = upload(&others);
    assert_eq!(challenge.status, 401);
    assert_eq!(challenge.body["flows"], json!([{ "stages": ["m.login.password"] }]));
    let seen = queried(&bob, &alice);
    assert_eq!(seen["master_keys"][&alice.id], keys["master_key"], "nothing changed");
    assert_eq!(seen["self_signing_keys"][&alice.id], keys["self_signing_key"]);
    assert_eq!(seen["user_signing_keys"], json!({}), "it is its owner's to see");
    assert_eq!(queried(&alice, &alice)["user_signing_keys"][&alice.id], keys["user_signing_key"]);
    let mut proof = alice.proof("wrong");
    proof["session"] = challenge.body["session"].clone();
    others["auth"] = proof;
    assert_eq!(upload(&others).status, 401);
    others["auth"] = alice.proof(PASSWORD);
    others["auth"]["session"] = challenge.body["session"].clone();
    upload(&others).ok();
    assert_eq!(queried(&bob, &alice)["master_keys"][&alice.id], others["master_key"]);
}

fn cross_signing_keys_are_signed(server: &Server) {
    let alice = server.registers("alice");
    let upload = |keys: &Value| alice.post("/keys/device_signing/upload", keys.clone());
    let mut keys = cross_signing(&alice, [1, 2, 3]);
    keys["self_signing_key"] = cross_signing(&alice, [4, 2, 3])["self_signing_key"].clone();
    upload(&keys).refused(400, "M_INVALID_SIGNATURE");
    let mut keys = cross_signing(&alice, [1, 2, 3]);
    keys.as_object_mut().expect("keys").remove("master_key");
    upload(&keys).refused(400, "M_MISSING_PARAM");
    let mut keys = cross_signing(&alice, [1, 2, 3]);
    keys["master_key"]["user_id"] = "@bob:localhost".into();
    upload(&keys).refused(400, "M_INVALID_PARAM");
    assert_eq!(queried(&alice, &alice)["master_keys"], json!({}), "nothing changed");
}

fn signatures_are_seen_by_those_they_concern(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let device = uploads(&alice, 9);
    let (alices, bobs) = (cross_signing(&alice, [1, 2, 3]), cross_signing(&bob, [4, 5, 6]));
    alice.post("/keys/device_signing/upload", alices.clone()).ok();
    bob.post("/keys/device_signing/upload", bobs.clone()).ok();
    let (self_signing, user_signing) = (Keys::of(2), Keys::of(3));
    let own = self_signing.signs(device, &alice, &self_signing.public());
    let others = user_signing.signs(bobs["master_key"].clone(), &alice, &user_signing.public());
    let wrong = Keys::of(8).signs(alices["master_key"].clone(), &alice, &alice.device_id);
    let (bobs_master, alices_master) = (Keys::of(4).public(), Keys::of(1).public());
    let request = json!({
        (&alice.id): { (&alice.device_id): own, (&alices_master): wrong },
        (&bob.id): { (&bobs_master): others, "unknown": {} },
    });
    let answer = alice.post("/keys/signatures/upload", request).ok();
    assert_eq!(answer["failures"][&alice.id][&alices_master]["errcode"], "M_INVALID_SIGNATURE", "{answer}");
    assert_eq!(answer["failures"][&bob.id]["unknown"]["errcode"], "M_NOT_FOUND", "{answer}");
    assert_eq!(answer["failures"][&alice.id].as_object().expect("failures").len(), 1, "{answer}");
    let key_id = |keys: &Keys| format!("ed25519:{}", keys.public());
    for asking in [&alice, &carol] {
        let shown = queried(asking, &alice);
        let signatures = &shown["device_keys"][&alice.id][&alice.device_id]["signatures"][&alice.id];
        assert!(signatures[key_id(&self_signing)].is_string(), "{shown}");
        let shown = queried(asking, &bob);
        let by_alice = shown["master_keys"][&bob.id]["signatures"][&alice.id].get(key_id(&user_signing));
        assert_eq!(by_alice.is_some(), asking.id == alice.id, "who verified whom is nobody else's business");
    }
}

fn names(lists: &Value) -> BTreeSet<&str> {
    lists.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn changed(sync: &Sync, whom: &User) -> bool {
    names(&sync.body["device_lists"]["changed"]).contains(&*whom.id)
}

fn left(sync: &Sync, whom: &User) -> bool {
    names(&sync.body["device_lists"]["left"]).contains(&*whom.id)
}

fn users_of_shared_rooms_learn_of_changed_devices(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    alice.creates_room_with(&[&bob]);
    let tablet = alice.logs_in_again();
    let mut since = bob.syncs();
    assert_eq!(since.body.get("device_lists"), None, "a first sync has none");
    let (other, own) = (carol.syncs(), alice.syncs());
    let mut told = |what: &str| {
        let sync = bob.syncs_until(&since.next_batch, |sync| changed(sync, &alice));
        let again = bob.syncs_since(&sync.next_batch);
        assert!(!changed(&again, &alice), "{what} is told once");
        since = again;
    };
    uploads(&alice, 1);
    told("a new device");
    uploads(&tablet, 2);
    told("another");
    alice.put(&format!("/devices/{}", tablet.device_id), json!({ "display_name": "Tablet" })).ok();
    told("a name");
    alice.post("/keys/device_signing/upload", cross_signing(&alice, [1, 2, 3])).ok();
    told("cross-signing keys");
    tablet.post("/logout", json!({})).ok();
    told("a device that is gone");
    assert!(!changed(&carol.syncs_since(&other.next_batch), &alice), "she shares no room with alice");
    assert!(changed(&alice.syncs_since(&own.next_batch), &alice), "one's other devices learn it, too");
    alice.post("/keys/upload", json!({ "one_time_keys": { "signed_curve25519:A": { "key": "a" } } })).ok();
    uploads(&alice, 1);
    assert!(
        !changed(&bob.syncs_since(&since.next_batch), &alice),
        "one-time keys, and the same keys again, are no news"
    );
}

fn who_comes_and_goes_is_told(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let start = bob.syncs();
    let room = alice.creates_room_with(&[&bob]);
    let sync = bob.syncs_until(&start.next_batch, |sync| changed(sync, &alice));
    alice.invites(&room, &carol).ok();
    carol.joins(&room).ok();
    let sync = bob.syncs_until(&sync.next_batch, |sync| changed(sync, &carol));
    let second = bob.creates_room_with(&[&carol]);
    carol.leaves(&room).ok();
    let sync = bob.syncs_until(&sync.next_batch, |sync| !sync.timeline(&room).is_empty());
    assert!(!left(&sync, &carol), "there is another room with her: {}", sync.body);
    carol.leaves(&second).ok();
    let sync = bob.syncs_until(&sync.next_batch, |sync| left(sync, &carol));
    assert!(!changed(&sync, &carol));
    bob.leaves(&room).ok();
    let sync = bob.syncs_until(&sync.next_batch, |sync| left(sync, &alice));
    uploads(&alice, 1);
    assert!(!changed(&bob.syncs_since(&sync.next_batch), &alice), "what alice does is not bob's to know any more");
}

fn changes_are_asked_for(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob, &carol]);
    let from = bob.syncs().next_batch;
    let asked = |from: &str, to: &str| bob.get(&format!("/keys/changes?from={}&to={}", encode(from), encode(to)));
    assert_eq!(asked(&from, &from).ok(), json!({ "changed": [], "left": [] }));
    uploads(&alice, 1);
    carol.leaves(&room).ok();
    let sync = bob.syncs_until(&from, |sync| left(sync, &carol));
    let changes = asked(&from, &sync.next_batch).ok();
    assert_eq!(changes, json!({ "changed": [alice.id], "left": [carol.id] }));
    // It is no sync: the device has received nothing by asking.
    let message = json!({ "messages": { (&bob.id): { (&bob.device_id): { "n": 1 } } } });
    alice.put("/sendToDevice/org.example.a/changes", message).ok();
    let heard = bob.hears_since(&sync.next_batch);
    assert_eq!(heard.body["to_device"]["events"][0]["content"]["n"], 1, "{}", heard.body);
    asked(&heard.next_batch, &heard.next_batch).ok();
    let again = bob.hears_since(&sync.next_batch);
    assert_eq!(again.body["to_device"], heard.body["to_device"], "{}", again.body);
    assert_eq!(asked(&sync.next_batch, &sync.next_batch).ok(), json!({ "changed": [], "left": [] }));
    asked("nonsense", &from).refused(400, "M_INVALID_PARAM");
    asked(&from, "nonsense").refused(400, "M_INVALID_PARAM");
    assert_eq!(bob.get(&format!("/keys/changes?from={}", encode(&from))).status, 400);
}

fn strangers_have_no_keys(server: &Server) {
    let alice = server.registers("alice");
    let stranger = format!("@nobody:{SERVER_NAME}");
    let users = json!({ (&stranger): [], "@bob:elsewhere.test": [] });
    let answer = alice.post("/keys/query", json!({ "device_keys": users })).ok();
    assert_eq!(answer["device_keys"], json!({}), "{answer}");
    assert!(answer["failures"]["elsewhere.test"].is_object(), "nobody is there: {answer}");
    let claim = json!({ "one_time_keys": { (&stranger): { "A": "signed_curve25519" } } });
    assert_eq!(alice.post("/keys/claim", claim).ok(), json!({ "failures": {}, "one_time_keys": {} }));
    let nobody = server.anonymous();
    for path in ["upload", "query", "claim", "signatures/upload", "device_signing/upload"] {
        nobody.post(&format!("/_matrix/client/v3/keys/{path}"), json!({})).refused(401, "M_MISSING_TOKEN");
    }
}
