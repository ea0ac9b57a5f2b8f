//! Spec: client-server API, «Login»: `m.login.token`, `POST /login/get_token`.

use harness::{Answer, PASSWORD, Server, User, Value, json, on_each_host};

on_each_host![
    another_client_logs_in_with_a_token,
    a_token_asks_for_the_password_each_time,
    a_token_that_is_none_is_forbidden,
    a_token_ends_with_its_account,
    tokens_are_made_only_where_they_may,
];

const GET_TOKEN: &str = "/_matrix/client/v1/login/get_token";
const LOGIN: &str = "/_matrix/client/v3/login";

fn asks_token(user: &User, auth: &Value) -> Answer {
    user.client().post(GET_TOKEN, json!({ "auth": auth }))
}

#[track_caller]
fn gets_token(user: &User) -> String {
    let told = asks_token(user, &user.proof(PASSWORD)).ok();
    let lifetime_ms = told["expires_in_ms"].as_u64().expect("how long it is good");
    assert!((1..=120_000).contains(&lifetime_ms), "{told}");
    told["login_token"].as_str().expect("a token").to_owned()
}

fn logs_in(server: &Server, token: &str, more: Value) -> Answer {
    let mut body = json!({ "type": "m.login.token", "token": token });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    server.anonymous().post(LOGIN, body)
}

fn another_client_logs_in_with_a_token(server: &Server) {
    let flows = server.anonymous().get(LOGIN).ok();
    assert!(flows["flows"].as_array().unwrap().contains(&json!({ "type": "m.login.token", "get_login_token": true })));
    let alice = server.registers("alice");
    assert_eq!(alice.get("/capabilities").ok()["capabilities"]["m.get_login_token"]["enabled"], true);
    let token = gets_token(&alice);
    let wanted = json!({ "device_id": "TABLET", "initial_device_display_name": "on the sofa", "refresh_token": true });
    let login = logs_in(server, &token, wanted).ok();
    assert!(login["refresh_token"].is_string(), "{login}");
    let tablet = User::from_login(&server.anonymous(), &login);
    assert_eq!((tablet.id.as_str(), tablet.device_id.as_str()), (alice.id.as_str(), "TABLET"));
    assert_eq!(tablet.get("/devices/TABLET").ok()["display_name"], "on the sofa");
    // Once, and the device that made it stays.
    logs_in(server, &token, json!({})).refused(403, "M_FORBIDDEN");
    alice.get("/account/whoami").ok();
    tablet.get("/account/whoami").ok();
}

fn a_token_asks_for_the_password_each_time(server: &Server) {
    let alice = server.registers("alice");
    let asked = alice.client().post(GET_TOKEN, json!({})).status(401);
    assert_eq!(asked["flows"], json!([{ "stages": ["m.login.password"] }]), "{asked}");
    asks_token(&alice, &alice.proof("wrong")).status(401);
    let mut proof = alice.proof(PASSWORD);
    proof["session"] = asked["session"].clone();
    let one = asks_token(&alice, &proof).ok()["login_token"].clone();
    // A session that was completed once is no proof for another token.
    asks_token(&alice, &json!({ "session": asked["session"] })).status(401);
    assert_ne!(one, gets_token(&alice));
    let bob = server.registers("bob");
    asks_token(&bob, &alice.proof(PASSWORD)).refused(401, "M_FORBIDDEN");
    server.anonymous().post(GET_TOKEN, json!({})).refused(401, "M_MISSING_TOKEN");
    server.registers_guest().client().post(GET_TOKEN, json!({})).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
}

fn a_token_that_is_none_is_forbidden(server: &Server) {
    let alice = server.registers("alice");
    let token = gets_token(&alice);
    for none in ["", "nonsense", "myl_YQ.x", &alice.token, &token.replace("myl_", "mye_")] {
        logs_in(server, none, json!({})).refused(403, "M_FORBIDDEN");
    }
    server.anonymous().post(LOGIN, json!({ "type": "m.login.token" })).refused(400, "M_BAD_JSON");
    // Nor is it an access token.
    server.anonymous().with_token(&token).get("/_matrix/client/v3/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    logs_in(server, &token, json!({})).ok();
}

fn a_token_ends_with_its_account(server: &Server) {
    let alice = server.registers("alice");
    let token = gets_token(&alice);
    alice.post("/account/deactivate", json!({ "auth": alice.proof(PASSWORD) })).ok();
    logs_in(server, &token, json!({})).refused(403, "M_FORBIDDEN");
}

fn tokens_are_made_only_where_they_may(server: &Server) {
    let without = Server::with(server.host(), &[("LOGIN_TOKENS", "off")]);
    let alice = without.registers("alice");
    assert_eq!(alice.get("/capabilities").ok()["capabilities"]["m.get_login_token"]["enabled"], false);
    assert_eq!(without.anonymous().get(LOGIN).ok()["flows"], json!([{ "type": "m.login.password" }]));
    asks_token(&alice, &alice.proof(PASSWORD)).refused(404, "M_UNRECOGNIZED");
    logs_in(&without, "myl_YQ.x", json!({})).refused(400, "M_UNKNOWN");
}
