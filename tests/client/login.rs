//! Spec: client-server API, «Legacy API: Login», «Relationship between access tokens and devices».

use harness::{PASSWORD, Server, User, Value, json, on_each_host};

on_each_host![
    password_login_is_offered,
    every_form_of_the_identifier_works,
    a_wrong_password_is_forbidden,
    an_unknown_user_looks_like_a_wrong_password,
    an_unknown_kind_of_login_is_refused,
    a_login_makes_a_device,
    a_login_on_a_known_device_replaces_its_token,
    logout_ends_one_device,
    logout_all_ends_every_device,
    whoami_names_user_and_device,
    a_page_logs_in_for_clients_that_cannot,
];

const LOGIN: &str = "/_matrix/client/v3/login";

fn password_login_is_offered(server: &Server) {
    let flows = server.anonymous().get(LOGIN).ok();
    let password = |flow: &Value| flow["type"] == "m.login.password";
    assert!(flows["flows"].as_array().is_some_and(|flows| flows.iter().any(password)), "{flows}");
}

fn every_form_of_the_identifier_works(server: &Server) {
    let alice = server.registers("alice");
    let forms = [
        json!({ "identifier": { "type": "m.id.user", "user": alice.id } }),
        json!({ "identifier": { "type": "m.id.user", "user": alice.localpart() } }),
        json!({ "user": alice.id }),
        json!({ "user": alice.localpart() }),
    ];
    for mut form in forms {
        form["type"] = json!("m.login.password");
        form["password"] = json!(PASSWORD);
        let login = server.anonymous().post(LOGIN, form.clone()).ok();
        assert_eq!(login["user_id"], alice.id, "{form}");
        let device = User::from_login(&server.anonymous(), &login);
        assert_ne!(device.device_id, alice.device_id);
    }
}

fn a_wrong_password_is_forbidden(server: &Server) {
    let alice = server.registers("alice");
    let identifier = json!({ "type": "m.id.user", "user": alice.id });
    for password in ["wrong", "", "correct horse battery staple "] {
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        server.anonymous().post(LOGIN, body).refused(403, "M_FORBIDDEN");
    }
    alice.get("/account/whoami").ok();
}

fn an_unknown_user_looks_like_a_wrong_password(server: &Server) {
    let alice = server.registers("alice");
    let attempt = |user: &str| {
        let identifier = json!({ "type": "m.id.user", "user": user });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "wrong" });
        server.anonymous().post(LOGIN, body).refused(403, "M_FORBIDDEN")
    };
    assert_eq!(attempt("never-registered"), attempt(&alice.id));
    attempt("@alice:elsewhere.test");
}

fn an_unknown_kind_of_login_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let body = json!({ "type": "org.example.telepathy", "user": alice.id });
    let refused = server.anonymous().post(LOGIN, body).status(400);
    assert!(refused["errcode"].is_string(), "{refused}");
    let body = json!({ "type": "m.login.dummy", "user": alice.id });
    server.anonymous().post(LOGIN, body).status(400);
    server.anonymous().post(LOGIN, json!({})).status(400);
}

fn a_login_makes_a_device(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    assert_ne!(phone.device_id, alice.device_id);
    assert_ne!(phone.token, alice.token);
    assert_eq!(alice.get("/account/whoami").ok()["device_id"], alice.device_id);
    assert_eq!(phone.get("/account/whoami").ok()["device_id"], phone.device_id);
}

fn a_login_on_a_known_device_replaces_its_token(server: &Server) {
    let alice = server.registers("alice");
    let body = json!({
        "type": "m.login.password", "password": PASSWORD, "device_id": alice.device_id,
        "identifier": { "type": "m.id.user", "user": alice.id },
    });
    let again = User::from_login(&server.anonymous(), &server.anonymous().post(LOGIN, body).ok());
    assert_eq!(again.device_id, alice.device_id);
    again.get("/account/whoami").ok();
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
}

fn logout_ends_one_device(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    phone.post("/logout", json!({})).ok();
    phone.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    phone.asks_sync(&[("timeout", "0")]).refused(401, "M_UNKNOWN_TOKEN");
    phone.post("/createRoom", json!({})).refused(401, "M_UNKNOWN_TOKEN");
    alice.get("/account/whoami").ok();
}

fn logout_all_ends_every_device(server: &Server) {
    let alice = server.registers("alice");
    let phone = alice.logs_in_again();
    phone.post("/logout/all", json!({})).ok();
    phone.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    let body = json!({
        "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": alice.id },
    });
    server.anonymous().post(LOGIN, body).ok();
}

fn whoami_names_user_and_device(server: &Server) {
    let alice = server.registers("alice");
    let whoami = alice.get("/account/whoami").ok();
    assert_eq!((&whoami["user_id"], &whoami["device_id"]), (&json!(alice.id), &json!(alice.device_id)));
}

fn a_page_logs_in_for_clients_that_cannot(server: &Server) {
    let page = server.anonymous().get("/_matrix/static/client/login/?device_id=KITCHEN");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text.contains("window.matrixLogin.onLogin(response)"), "{}", page.text);
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("frame-ancestors 'none'")));
}
