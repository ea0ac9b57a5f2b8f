//! Spec: client-server API, «Third-party Networks», on a server that is connected to none.

use harness::{Server, json, on_each_host};

on_each_host![there_are_no_other_networks];

fn there_are_no_other_networks(server: &Server) {
    let alice = server.registers("alice");
    assert_eq!(alice.get("/thirdparty/protocols").ok(), json!({}));
    for path in [
        "protocol/irc",
        "location/irc?channel=%23matrix",
        "user/irc?nick=alice",
        "location?alias=%23matrix%3Amyelin.test",
        "user?userid=%40alice%3Amyelin.test",
    ] {
        alice.get(&format!("/thirdparty/{path}")).refused(404, "M_NOT_FOUND");
    }
    server.anonymous().get("/_matrix/client/v3/thirdparty/protocols").refused(401, "M_MISSING_TOKEN");
}
