//! Spec: server-server API, «Querying for information».

use harness::{Homeserver, Host, Reply, encode, json};

use crate::network::{on_each_host, ours};

on_each_host![profiles_are_asked_for_where_their_users_are];

fn profiles_are_asked_for_where_their_users_are(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    other.answers(|request| match &*request.uri {
        uri if uri.contains("%40bob") && uri.contains("field=displayname") => {
            Some(Reply::json(200, &json!({ "displayname": "Bob" })))
        }
        uri if uri.contains("%40bob") => {
            Some(Reply::json(200, &json!({ "displayname": "Bob", "avatar_url": "mxc://b/c", "org.example.x": [1] })))
        }
        uri if uri.contains("/profile") => {
            Some(Reply::json(404, &json!({ "errcode": "M_NOT_FOUND", "error": "Nobody" })))
        }
        _ => None,
    });
    let path = |name: &str| format!("/_matrix/client/v3/profile/{}", encode(&format!("@{name}:{}", other.name)));
    let bob = server.anonymous().get(&path("bob")).ok();
    assert_eq!(bob, json!({ "displayname": "Bob", "avatar_url": "mxc://b/c", "org.example.x": [1] }));
    let name = server.anonymous().get(&format!("{}/displayname", path("bob"))).ok();
    assert_eq!(name, json!({ "displayname": "Bob" }));
    server.anonymous().get(&path("nobody")).refused(404, "M_NOT_FOUND");
    server.anonymous().get("/_matrix/client/v3/profile/@bob:localhost:1").refused(404, "M_NOT_FOUND");
}
