//! Spec: client-server API, «Account registration», «User-Interactive Authentication API».

use harness::{PASSWORD, SERVER_NAME, SHARED_SECRET, Server, User, json, on_each_host, query};

on_each_host![
    the_flows_are_told_first,
    a_session_completes_a_registration,
    a_registered_user_is_logged_in,
    a_device_may_be_named,
    a_login_may_be_inhibited,
    a_name_is_made_up_where_none_is_given,
    a_taken_name_is_refused_before_the_flows,
    names_outside_the_grammar_are_refused,
    availability_is_told,
    the_shared_secret_registers,
    a_wrong_secret_does_not_register,
    a_closed_server_registers_nobody,
    a_token_server_asks_for_a_token,
];

const REGISTER: &str = "/_matrix/client/v3/register";

fn the_flows_are_told_first(server: &Server) {
    let body = json!({ "username": server.unique("alice"), "password": PASSWORD });
    let told = server.anonymous().post(REGISTER, body).status(401);
    assert!(told["session"].is_string(), "{told}");
    let flows = told["flows"].as_array().expect("flows");
    assert!(flows.contains(&json!({ "stages": ["m.login.dummy"] })), "{told}");
}

fn a_session_completes_a_registration(server: &Server) {
    let username = server.unique("alice");
    let nobody = server.anonymous();
    let told = nobody.post(REGISTER, json!({ "username": username, "password": PASSWORD })).status(401);
    let auth = json!({ "type": "m.login.dummy", "session": told["session"] });
    let body = json!({ "username": username, "password": PASSWORD, "auth": auth });
    let account = nobody.post(REGISTER, body).ok();
    assert_eq!(account["user_id"], format!("@{username}:{SERVER_NAME}"));
}

fn a_registered_user_is_logged_in(server: &Server) {
    let alice = server.registers("alice");
    let whoami = alice.get("/account/whoami").ok();
    assert_eq!(whoami["user_id"], alice.id);
    assert_eq!(whoami["device_id"], alice.device_id);
    assert_ne!(whoami["is_guest"], true);
}

fn a_device_may_be_named(server: &Server) {
    let body = json!({
        "username": server.unique("alice"), "password": PASSWORD, "device_id": "KITCHEN",
        "initial_device_display_name": "In the kitchen", "auth": { "type": "m.login.dummy" },
    });
    assert_eq!(server.anonymous().post(REGISTER, body).ok()["device_id"], "KITCHEN");
}

fn a_login_may_be_inhibited(server: &Server) {
    let body = json!({
        "username": server.unique("alice"), "password": PASSWORD, "inhibit_login": true,
        "auth": { "type": "m.login.dummy" },
    });
    let account = server.anonymous().post(REGISTER, body).ok();
    assert!(account["user_id"].is_string());
    assert!(account["access_token"].is_null() && account["device_id"].is_null(), "{account}");
}

fn a_name_is_made_up_where_none_is_given(server: &Server) {
    let body = json!({ "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    let nobody = server.anonymous();
    let one = User::from_login(&nobody, &nobody.post(REGISTER, body.clone()).ok());
    let other = User::from_login(&nobody, &nobody.post(REGISTER, body).ok());
    assert_ne!(one.id, other.id);
    assert!(one.id.ends_with(&format!(":{SERVER_NAME}")));
}

fn a_taken_name_is_refused_before_the_flows(server: &Server) {
    let alice = server.registers("alice");
    let body = json!({ "username": alice.localpart(), "password": PASSWORD });
    server.anonymous().post(REGISTER, body).refused(400, "M_USER_IN_USE");
    let body = json!({
        "username": alice.localpart(), "password": PASSWORD, "auth": { "type": "m.login.dummy" },
    });
    server.anonymous().post(REGISTER, body).refused(400, "M_USER_IN_USE");
}

fn names_outside_the_grammar_are_refused(server: &Server) {
    let long = "a".repeat(256);
    for username in ["with space", "ümlaut", "a:b", "@at", long.as_str(), "semi;colon"] {
        let body = json!({ "username": username, "password": PASSWORD });
        server.anonymous().post(REGISTER, body).refused(400, "M_INVALID_USERNAME");
    }
    let odd = server.unique("a.b_c=d-e/f+1");
    let body = json!({ "username": odd, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    assert_eq!(server.anonymous().post(REGISTER, body).ok()["user_id"], format!("@{odd}:{SERVER_NAME}"));
}

fn availability_is_told(server: &Server) {
    let alice = server.registers("alice");
    let ask = |name: &str| server.anonymous().get(&format!("{REGISTER}/available{}", query(&[("username", name)])));
    ask(alice.localpart()).refused(400, "M_USER_IN_USE");
    ask("with space").refused(400, "M_INVALID_USERNAME");
    assert_eq!(ask(&server.unique("nobody")).ok()["available"], true);
}

fn the_shared_secret_registers(server: &Server) {
    let username = server.unique("operator");
    let account = server.registers_by_secret(&username, SHARED_SECRET, true).ok();
    let operator = User::from_login(&server.anonymous(), &account);
    assert_eq!(operator.id, format!("@{username}:{SERVER_NAME}"));
    assert_eq!(operator.logs_in_again().id, operator.id);
    let again = server.registers_by_secret(&username, SHARED_SECRET, false);
    again.refused(400, "M_USER_IN_USE");
}

fn a_wrong_secret_does_not_register(server: &Server) {
    let username = server.unique("impostor");
    server.registers_by_secret(&username, "guessed", true).refused(403, "M_FORBIDDEN");
    let body = json!({ "username": username, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    server.anonymous().post(REGISTER, body).ok();
}

fn a_closed_server_registers_nobody(server: &Server) {
    let closed = Server::with(server.host(), &[("REGISTRATION", "closed")]);
    let body = json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    closed.anonymous().post(REGISTER, body).refused(403, "M_FORBIDDEN");
    closed.registers_by_secret("operator", SHARED_SECRET, true).ok();
}

fn a_token_server_asks_for_a_token(server: &Server) {
    let by_token = Server::with(server.host(), &[("REGISTRATION", "token")]);
    let nobody = by_token.anonymous();
    let account = json!({ "username": "alice", "password": PASSWORD });
    let told = nobody.post(REGISTER, account.clone()).status(401);
    let flows = told["flows"].as_array().expect("flows");
    let asks =
        |stage: &str| flows.iter().all(|flow| flow["stages"].as_array().is_some_and(|s| s.contains(&json!(stage))));
    assert!(asks("m.login.registration_token"), "{told}");

    let attempt = |auth: harness::Value| {
        let mut body = account.clone();
        body["auth"] = auth;
        nobody.post(REGISTER, body)
    };
    attempt(json!({ "type": "m.login.dummy", "session": told["session"] })).status(401);
    let guess = json!({ "type": "m.login.registration_token", "token": "guessed", "session": told["session"] });
    let refused = attempt(guess).status(401);
    assert!(refused["errcode"].is_string(), "a failed stage says why: {refused}");
    assert!(refused["completed"].as_array().is_none_or(Vec::is_empty), "{refused}");

    let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=guessed";
    assert_eq!(nobody.get(validity).ok()["valid"], false);
}
