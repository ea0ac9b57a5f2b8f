//! Spec: client-server API, «Adding Account Administrative Contact Information», on a server that sends no mail.

use harness::{Server, json, on_each_host};

on_each_host![nobody_has_an_address_here];

fn nobody_has_an_address_here(server: &Server) {
    let alice = server.registers("alice");
    assert_eq!(alice.get("/account/3pid").ok(), json!({ "threepids": [] }));
    let email = json!({ "client_secret": "s", "email": "alice@example.org", "send_attempt": 1 });
    let phone = json!({ "client_secret": "s", "country": "GB", "phone_number": "07700900001", "send_attempt": 1 });
    for (path, status, errcode) in [
        ("account/3pid", 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("register", 403, "M_THREEPID_DENIED"),
        ("account/password", 400, "M_THREEPID_NOT_FOUND"),
    ] {
        for (medium, body) in [("email", &email), ("msisdn", &phone)] {
            let path = format!("/_matrix/client/v3/{path}/{medium}/requestToken");
            server.anonymous().post(&path, body.clone()).refused(status, errcode);
            assert_eq!(server.anonymous().post(&path, json!({})).status, 400, "{path}: what is missing is said");
        }
    }
    let session = json!({ "client_secret": "s", "sid": "1" });
    alice.post("/account/3pid/add", session.clone()).refused(403, "M_THREEPID_AUTH_FAILED");
    alice.post("/account/3pid", json!({ "three_pid_creds": session })).refused(403, "M_THREEPID_AUTH_FAILED");
    let bound = json!({ "client_secret": "s", "sid": "1", "id_server": "id.example.org", "id_access_token": "t" });
    alice.post("/account/3pid/bind", bound).refused(403, "M_SERVER_NOT_TRUSTED");
    let address = json!({ "medium": "email", "address": "alice@example.org" });
    for path in ["delete", "unbind"] {
        let answer = alice.post(&format!("/account/3pid/{path}"), address.clone()).ok();
        assert_eq!(answer, json!({ "id_server_unbind_result": "no-support" }));
    }
    alice.post("/account/3pid/delete", json!({})).refused(400, "M_BAD_JSON");
}
