//! Spec: server-server API, «Retrieving server keys».

use harness::{Homeserver, Host, SERVER_NAME, encode, json};

use crate::network::{on_each_host, ours};

on_each_host![our_keys_are_published, we_vouch_for_the_keys_of_others, the_version_is_told];

fn our_keys_are_published(host: Host) {
    let server = ours(host);
    let keys = server.anonymous().get("/_matrix/key/v2/server").ok();
    assert_eq!(keys["server_name"], SERVER_NAME);
    let verify_keys = keys["verify_keys"].as_object().expect("keys");
    for (key_id, key) in verify_keys {
        assert!(key["key"].is_string() && keys["signatures"][SERVER_NAME][key_id].is_string(), "{keys}");
    }
    assert_eq!(verify_keys.len(), 1);
    for path in ["/_matrix/key/v2/server/".to_owned(), format!("/_matrix/key/v2/server/{}", encode("ed25519:x"))] {
        assert_eq!(server.anonymous().get(&path).ok()["verify_keys"], keys["verify_keys"]);
    }
}

fn we_vouch_for_the_keys_of_others(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    let path = format!("/_matrix/key/v2/query/{}", encode(&other.name));
    let told = server.anonymous().get(&path).ok();
    let document = &told["server_keys"][0];
    assert_eq!(document["server_name"], other.name);
    assert!(
        document["signatures"][&other.name].is_object() && document["signatures"][SERVER_NAME].is_object(),
        "{told}"
    );
    let body = json!({ "server_keys": { (other.name.clone()): { "ed25519:1": {} }, "localhost:1": {} } });
    let told = server.anonymous().post("/_matrix/key/v2/query", body).ok();
    assert_eq!(told["server_keys"].as_array().map(Vec::len), Some(1), "who is not there is left out");
    assert_eq!(other.https.takes_received().len(), 1, "what is fresh is not asked for again");
}

fn the_version_is_told(host: Host) {
    let version = ours(host).anonymous().get("/_matrix/federation/v1/version").ok();
    assert!(version["server"]["name"].is_string() && version["server"]["version"].is_string(), "{version}");
}
