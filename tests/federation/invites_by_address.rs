//! Spec: client-server API, «Third-party invites»; Identity Service API: inviting whoever is behind an address, with an
//! identity server that the test plays.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use harness::{Answer, Authority, Host, Https, Keys, Received, Reply, Server, User, Value, encode, json};

use crate::network::{on_each_host, ours};

on_each_host![
    whoever_is_known_by_an_address_is_invited,
    who_is_not_known_yet_is_invited_once_they_are,
    a_new_room_invites_by_address,
    nobody_is_written_to_in_vain,
    an_identity_server_is_at_no_private_address,
];

/// Alice's address, as it is asked about: of the pepper that it has now.
const HASHED: &str = "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc";

/// Where the identity server says whether its key holds.
fn validity_url(host: Option<&str>) -> String {
    format!("https://{}/_matrix/identity/v2/pubkey/isvalid", host.expect("a host"))
}

/// Knows who is behind an address.
struct IdentityServer {
    https: Https,
    keys: Keys,
    /// Who is behind `alice@example.com`.
    known: Arc<Mutex<Option<String>>>,
    is_peppered: Arc<AtomicBool>,
}

impl IdentityServer {
    fn starts() -> Self {
        let keys = Keys::of(252);
        let (known, is_peppered): (Arc<Mutex<Option<String>>>, Arc<AtomicBool>) = Default::default();
        let (knows, peppered, key) = (known.clone(), is_peppered.clone(), keys.public());
        let https = Https::serves(Authority::shared().vouches_for(&["localhost"]), move |request| {
            if request.uri.starts_with("/_matrix/identity/v2/pubkey/isvalid?public_key=") {
                return Reply::json(200, &json!({ "valid": true }));
            }
            if request.header("authorization") != Some("Bearer id-token") {
                return Reply::json(401, &json!({ "errcode": "M_UNAUTHORIZED", "error": "Who are you?" }));
            }
            match &*request.uri {
                "/_matrix/identity/v2/hash_details" => {
                    let pepper = if peppered.load(Ordering::SeqCst) { "matrixrocks" } else { "old" };
                    Reply::json(200, &json!({ "lookup_pepper": pepper, "algorithms": ["none", "sha256"] }))
                }
                "/_matrix/identity/v2/lookup" => {
                    let asked: Value = serde_json::from_str(&request.body).expect("JSON");
                    assert_eq!(asked["algorithm"], "sha256");
                    // Several may ask at once.
                    if !peppered.swap(true, Ordering::SeqCst) || asked["pepper"] != "matrixrocks" {
                        let before = json!({ "errcode": "M_INVALID_PEPPER", "error": "That was before." });
                        return Reply::json(400, &before);
                    }
                    let known = knows.lock().expect("no holder panics").clone();
                    let found = known.filter(|_| asked["addresses"] == json!([HASHED]));
                    let mappings = found.map_or_else(|| json!({}), |found| json!({ HASHED: found }));
                    Reply::json(200, &json!({ "mappings": mappings }))
                }
                "/_matrix/identity/v2/store-invite" => {
                    let keys = [
                        json!({ "public_key": key, "key_validity_url": validity_url(request.header("host")) }),
                        json!({ "public_key": Keys::of(251).public(), "key_validity_url": "https://id.test/ephemeral" }),
                    ];
                    Reply::json(200, &json!({ "token": "t0k3n", "public_keys": keys, "display_name": "a...@e..." }))
                }
                _ => Reply::json(404, &json!({ "errcode": "M_UNRECOGNIZED" })),
            }
        });
        Self { https, keys, known, is_peppered }
    }

    fn knows(&self, who: &str) {
        *self.known.lock().expect("no holder panics") = Some(who.to_owned());
    }

    fn address(&self, address: &str) -> Value {
        json!({
            "id_server": format!("localhost:{}", self.https.port), "id_access_token": "id-token", "medium": "email",
            "address": address,
        })
    }

    /// What it was to keep since the last time.
    fn takes_kept(&self) -> Vec<Value> {
        let is_kept = |request: &Received| request.uri.ends_with("/store-invite");
        let kept = self.https.takes_received().into_iter().filter(is_kept);
        kept.map(|request| serde_json::from_str(&request.body).expect("JSON")).collect()
    }
}

fn invites(user: &User, room: &str, whom: Value) -> Answer {
    user.post(&format!("/rooms/{}/invite", encode(room)), whom)
}

fn whoever_is_known_by_an_address_is_invited(host: Host) {
    let (server, identity) = (ours(host), IdentityServer::starts());
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    identity.knows(&alice.id);
    let room = bob.creates_room(json!({ "preset": "private_chat" }));
    // In one spelling, and with the pepper of now.
    assert_eq!(invites(&bob, &room, identity.address("Alice@Example.com")).ok(), json!({}));
    assert!(identity.is_peppered.load(Ordering::SeqCst));
    alice.sees(|sync| !sync.invite_state(&room).is_empty());
    assert!(identity.takes_kept().is_empty());
}

fn who_is_not_known_yet_is_invited_once_they_are(host: Host) {
    let (server, identity) = (ours(host), IdentityServer::starts());
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    bob.put(&format!("/profile/{}/displayname", encode(&bob.id)), json!({ "displayname": "Bob" })).ok();
    let room = bob.creates_room(json!({ "preset": "private_chat", "name": "Tea" }));
    invites(&bob, &room, identity.address("alice@example.com")).ok();
    let expected = json!({
        "medium": "email", "address": "alice@example.com", "room_id": room, "sender": bob.id, "room_name": "Tea",
        "room_join_rules": "invite", "sender_display_name": "Bob",
    });
    assert_eq!(identity.takes_kept(), [expected]);
    let kept = bob.state(&room, "m.room.third_party_invite", "t0k3n").ok();
    let key = identity.keys.public();
    assert_eq!((&kept["display_name"], &kept["public_key"]), (&json!("a...@e..."), &json!(key)));
    let validity_url = validity_url(Some(&format!("localhost:{}", identity.https.port)));
    assert_eq!(kept["key_validity_url"], validity_url);
    assert_eq!(
        (&kept["public_keys"][0]["public_key"], kept["public_keys"].as_array().map(Vec::len)),
        (&json!(key), Some(2))
    );
    // Now it is known who that is.
    let signed = identity.keys.signs_as(json!({ "mxid": alice.id, "token": "t0k3n" }), "id.test", "ed25519:0");
    let invite = json!({
        "medium": "email", "address": "alice@example.com", "mxid": alice.id, "room_id": room, "sender": bob.id,
        "signed": signed,
    });
    let body = json!({ "medium": "email", "address": "alice@example.com", "mxid": alice.id, "invites": [invite] });
    server.anonymous().send("PUT", "/_matrix/federation/v1/3pid/onbind", Some(body.to_string())).ok();
    alice.sees(|sync| !sync.invite_state(&room).is_empty());
    let asks = |request: &Received| request.uri.starts_with("/_matrix/identity/v2/pubkey/isvalid?public_key=");
    assert!(identity.https.takes_received().iter().any(asks), "whether the key still holds");
    alice.joins(&room).ok();
}

fn a_new_room_invites_by_address(host: Host) {
    let (server, identity) = (ours(host), IdentityServer::starts());
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    identity.knows(&alice.id);
    let by_address = [identity.address("alice@example.com"), identity.address("carol@example.com")];
    let room = bob.creates_room(json!({ "preset": "private_chat", "invite_3pid": by_address }));
    alice.sees(|sync| !sync.invite_state(&room).is_empty());
    bob.state(&room, "m.room.third_party_invite", "t0k3n").ok();
    assert_eq!(identity.takes_kept().len(), 1);
}

fn nobody_is_written_to_in_vain(host: Host) {
    let (server, identity) = (ours(host), IdentityServer::starts());
    let (eve, bob) = (server.registers("eve"), server.registers("bob"));
    let levels = json!({ "invite": 50 });
    let room = bob.creates_room(json!({ "preset": "public_chat", "power_level_content_override": levels }));
    eve.joins(&room).ok();
    invites(&eve, &room, identity.address("alice@example.com")).refused(403, "M_FORBIDDEN");
    invites(&server.registers("mallory"), &room, identity.address("alice@example.com")).refused(403, "M_FORBIDDEN");
    assert!(identity.https.takes_received().is_empty());
    let mut unknown = identity.address("alice@example.com");
    unknown["id_access_token"] = "guessed".into();
    invites(&bob, &room, unknown).refused(403, "M_FORBIDDEN");
    let mut away = identity.address("alice@example.com");
    away["id_server"] = "localhost:1".into();
    assert_eq!(invites(&bob, &room, away).status, 502);
    invites(&bob, &room, identity.address("alice")).refused(400, "M_INVALID_PARAM");
}

fn an_identity_server_is_at_no_private_address(host: Host) {
    let (server, identity) = (Server::with(host, &[]), IdentityServer::starts());
    let bob = server.registers("bob");
    let room = bob.creates_room(json!({}));
    let answer = invites(&bob, &room, identity.address("alice@example.com"));
    assert_eq!(answer.status, 502, "{}", answer.text);
    assert!(identity.https.takes_received().is_empty());
}
