//! Spec: client-server API, «Refreshing access tokens», «Soft logout».

use std::time::{Duration, Instant};

use harness::{Answer, PASSWORD, Server, User, Value, json, on_each_host};

on_each_host![
    tokens_end_only_for_who_refreshes_them,
    a_refresh_gives_new_tokens_to_the_same_device,
    a_lost_answer_may_be_asked_for_again,
    the_old_refresh_token_ends_with_the_first_use_of_the_new_ones,
    a_token_that_has_ended_is_a_soft_logout,
    a_device_that_is_gone_is_not_refreshed,
    what_is_no_refresh_token_is_refused,
];

fn logs_in_refreshing(server: &Server, user: &User) -> Value {
    let mut login = user.proof(PASSWORD);
    login["refresh_token"] = json!(true);
    server.anonymous().post("/_matrix/client/v3/login", login).ok()
}

fn refreshes(server: &Server, tokens: &Value) -> Answer {
    let body = json!({ "refresh_token": tokens["refresh_token"] });
    server.anonymous().post("/_matrix/client/v3/refresh", body)
}

fn whoami(server: &Server, tokens: &Value) -> Answer {
    let token = tokens["access_token"].as_str().expect("an access token");
    server.anonymous().with_token(token).get("/_matrix/client/v3/account/whoami")
}

fn tokens_end_only_for_who_refreshes_them(server: &Server) {
    let alice = server.registers("alice");
    let plain = server.anonymous().post("/_matrix/client/v3/login", alice.proof(PASSWORD)).ok();
    assert!(plain.get("refresh_token").is_none() && plain.get("expires_in_ms").is_none(), "{plain}");
    let body = json!({
        "username": server.unique("bob"), "password": PASSWORD, "refresh_token": true,
        "auth": { "type": "m.login.dummy" },
    });
    let registered = server.anonymous().post("/_matrix/client/v3/register", body).ok();
    for tokens in [registered, logs_in_refreshing(server, &alice)] {
        assert!(tokens["refresh_token"].is_string(), "{tokens}");
        assert_eq!(tokens["expires_in_ms"], 300_000, "{tokens}");
        refreshes(server, &tokens).ok();
    }
}

fn a_refresh_gives_new_tokens_to_the_same_device(server: &Server) {
    let alice = server.registers("alice");
    let first = logs_in_refreshing(server, &alice);
    let second = refreshes(server, &first).ok();
    assert_eq!(second["expires_in_ms"], 300_000, "{second}");
    for token in ["access_token", "refresh_token"] {
        assert_ne!(second[token], first[token]);
    }
    let me = whoami(server, &second).ok();
    assert_eq!((&me["user_id"], &me["device_id"]), (&json!(alice.id), &first["device_id"]));
    let third = refreshes(server, &second).ok();
    assert_eq!(whoami(server, &third).ok(), me);
}

fn a_lost_answer_may_be_asked_for_again(server: &Server) {
    let first = logs_in_refreshing(server, &server.registers("alice"));
    let lost = refreshes(server, &first).ok();
    let second = refreshes(server, &first).ok();
    whoami(server, &lost).refused(401, "M_UNKNOWN_TOKEN");
    whoami(server, &second).ok();
}

fn the_old_refresh_token_ends_with_the_first_use_of_the_new_ones(server: &Server) {
    let alice = server.registers("alice");
    let first = logs_in_refreshing(server, &alice);
    let second = refreshes(server, &first).ok();
    whoami(server, &second).ok();
    // The device may come back: it was not logged out.
    let refused = refreshes(server, &first).refused(401, "M_UNKNOWN_TOKEN");
    assert_eq!(refused["soft_logout"], true);
    whoami(server, &first).refused(401, "M_UNKNOWN_TOKEN");

    let third = refreshes(server, &second).ok();
    let fourth = refreshes(server, &third).ok();
    refreshes(server, &second).refused(401, "M_UNKNOWN_TOKEN");
    whoami(server, &fourth).ok();
}

fn a_token_that_has_ended_is_a_soft_logout(server: &Server) {
    let server = Server::with(server.host(), &[("ACCESS_TOKEN_LIFETIME", "1")]);
    let alice = server.registers("alice");
    let first = logs_in_refreshing(&server, &alice);
    assert_eq!(first["expires_in_ms"], 1_000);
    let deadline = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        let answer = whoami(&server, &first);
        if answer.status == 401 {
            break answer.refused(401, "M_UNKNOWN_TOKEN");
        }
        assert!(Instant::now() < deadline, "it never ends");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(ended["soft_logout"], true);
    refreshes(&server, &first).ok();
    alice.get("/account/whoami").ok();
    // A soft logout ends with a login on the same device, too.
    let mut login = alice.proof(PASSWORD);
    login["device_id"] = first["device_id"].clone();
    assert_eq!(server.anonymous().post("/_matrix/client/v3/login", login).ok()["device_id"], first["device_id"]);
}

fn a_device_that_is_gone_is_not_refreshed(server: &Server) {
    let alice = server.registers("alice");
    let tokens = logs_in_refreshing(server, &alice);
    let token = tokens["access_token"].as_str().expect("an access token");
    server.anonymous().with_token(token).post("/_matrix/client/v3/logout", json!({})).ok();
    let refused = refreshes(server, &tokens).refused(401, "M_UNKNOWN_TOKEN");
    assert_eq!(refused["soft_logout"], false);
}

fn what_is_no_refresh_token_is_refused(server: &Server) {
    let alice = server.registers("alice");
    for token in ["", "guessed", &alice.token, "myr_bm9ib2R5.WA.x"] {
        refreshes(server, &json!({ "refresh_token": token })).refused(401, "M_UNKNOWN_TOKEN");
    }
    server.anonymous().post("/_matrix/client/v3/refresh", json!({})).refused(400, "M_BAD_JSON");
    // One refreshes with it, and does nothing else.
    let tokens = logs_in_refreshing(server, &alice);
    let mixed_up = json!({ "access_token": tokens["refresh_token"] });
    whoami(server, &mixed_up).refused(401, "M_UNKNOWN_TOKEN");
}
