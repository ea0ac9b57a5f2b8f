//! Spec: client-server API, «Device Management».

use std::{thread, time::Duration};

use harness::{PASSWORD, Server, User, Value, json, on_each_host};

on_each_host![
    devices_are_listed_as_they_log_in,
    a_device_says_when_and_where_it_was_seen,
    a_device_is_named,
    devices_of_others_are_nobodys_business,
    a_device_is_deleted_with_the_password,
    many_devices_are_deleted_at_once,
    a_session_is_for_one_operation_of_one_user,
    a_deleted_device_stops_waiting,
    a_replaced_token_stops_waiting,
];

fn ids(user: &User) -> Vec<String> {
    let devices = user.get("/devices").ok();
    let devices = devices["devices"].as_array().expect("devices").iter();
    devices.map(|device| device["device_id"].as_str().expect("an id").to_owned()).collect()
}

fn devices_are_listed_as_they_log_in(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    let mut expected = vec![alice.device_id.clone(), phone.device_id.clone()];
    expected.sort();
    let mut listed = ids(&alice);
    listed.sort();
    assert_eq!(listed, expected);
    phone.post("/logout", json!({})).ok();
    assert_eq!(ids(&alice), [alice.device_id.as_str()]);
}

fn a_device_says_when_and_where_it_was_seen(server: &Server) {
    let alice = server.registers("alice");
    let device = alice.get(&format!("/devices/{}", alice.device_id)).ok();
    assert_eq!(device["device_id"], alice.device_id);
    assert!(device["last_seen_ts"].as_u64().is_some_and(|seen_ms| seen_ms > 1_700_000_000_000), "{device}");
    assert!(device["last_seen_ip"].as_str().is_none_or(|ip| ip.parse::<std::net::IpAddr>().is_ok()), "{device}");
    assert_eq!(device.get("display_name"), None, "a device without a name: {device}");
}

fn a_device_is_named(server: &Server) {
    let alice = server.registers("alice");
    let path = format!("/devices/{}", alice.device_id);
    alice.put(&path, json!({ "display_name": "In the kitchen" })).ok();
    alice.put(&path, json!({})).ok();
    assert_eq!(alice.get(&path).ok()["display_name"], "In the kitchen");
    alice.put(&path, json!({ "display_name": "x".repeat(101) })).refused(400, "M_INVALID_PARAM");
    alice.put("/devices/NONE", json!({ "display_name": "x" })).refused(404, "M_NOT_FOUND");
    alice.get("/devices/NONE").refused(404, "M_NOT_FOUND");
}

fn devices_of_others_are_nobodys_business(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let path = format!("/devices/{}", alice.device_id);
    bob.get(&path).refused(404, "M_NOT_FOUND");
    bob.put(&path, json!({ "display_name": "Mine" })).refused(404, "M_NOT_FOUND");
    bob.delete(&path, json!({ "auth": bob.proof(PASSWORD) })).ok();
    alice.get("/account/whoami").ok();
}

fn a_device_is_deleted_with_the_password(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    let path = format!("/devices/{}", phone.device_id);
    let told = alice.delete(&path, json!({})).status(401);
    assert_eq!(told["flows"], json!([{ "stages": ["m.login.password"] }]), "{told}");
    let wrong = alice.delete(&path, json!({ "auth": alice.proof("wrong") })).refused(401, "M_FORBIDDEN");
    assert!(wrong["flows"].is_array(), "the client may try again: {wrong}");
    phone.get("/account/whoami").ok();
    for _ in 0..2 {
        alice.delete(&path, json!({ "auth": alice.proof(PASSWORD) })).ok();
        phone.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
        alice.get(&path).refused(404, "M_NOT_FOUND");
    }
    // A request without a body is one without auth.
    alice.client().delete(&format!("/_matrix/client/v3{path}")).status(401);
}

fn many_devices_are_deleted_at_once(server: &Server) {
    let alice = server.registers("alice");
    let others: Vec<User> = (0..3).map(|_| alice.logs_in_again()).collect();
    let devices: Vec<&str> = others.iter().map(|other| other.device_id.as_str()).collect();
    let mut body = json!({ "devices": devices });
    alice.post("/delete_devices", body.clone()).status(401);
    body["auth"] = alice.proof(PASSWORD);
    alice.post("/delete_devices", body).ok();
    for other in &others {
        other.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    }
    assert_eq!(ids(&alice), [alice.device_id.as_str()]);
    let many = vec!["X"; 1001];
    let body = json!({ "devices": many, "auth": alice.proof(PASSWORD) });
    alice.post("/delete_devices", body).refused(400, "M_INVALID_PARAM");
}

fn a_session_is_for_one_operation_of_one_user(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let phone = alice.logs_in_again();
    let body = json!({ "devices": [phone.device_id] });
    let with = |user: &User, session: &Value| {
        let mut proof = user.proof(PASSWORD);
        proof["session"] = session.clone();
        json!({ "auth": proof, "devices": [phone.device_id], "new_password": "x" })
    };
    let session = alice.post("/delete_devices", body).status(401)["session"].clone();
    // For another operation, and for another user, another session is told.
    assert_ne!(alice.post("/account/password", with(&alice, &session)).status(401)["session"], session);
    assert_ne!(bob.post("/delete_devices", with(&bob, &session)).status(401)["session"], session);
    // So it is for other devices.
    let laptop = alice.logs_in_again();
    let other = alice.delete(&format!("/devices/{}", laptop.device_id), with(&alice, &session)).status(401);
    assert_ne!(other["session"], session);
    laptop.get("/account/whoami").ok();
    alice.post("/delete_devices", with(&alice, &session)).ok();
}

/// Somebody's sync that waits, until `end` ends it.
fn waits(device: &User, end: impl FnOnce()) {
    let since = device.syncs().next_batch;
    let waiting = {
        let device = device.clone();
        thread::spawn(move || device.asks_sync(&[("since", &since), ("timeout", "50000")]))
    };
    // So that it does wait. If it does not yet, the story holds all the same.
    thread::sleep(Duration::from_millis(300));
    end();
    waiting.join().expect("the sync answers").refused(401, "M_UNKNOWN_TOKEN");
}

fn a_deleted_device_stops_waiting(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    waits(&phone, || {
        alice.delete(&format!("/devices/{}", phone.device_id), json!({ "auth": alice.proof(PASSWORD) })).ok();
    });
}

fn a_replaced_token_stops_waiting(server: &Server) {
    let alice = server.registers("alice");
    waits(&alice, || {
        let mut login = alice.proof(PASSWORD);
        login["device_id"] = json!(alice.device_id);
        server.anonymous().post("/_matrix/client/v3/login", login).ok();
    });
}
