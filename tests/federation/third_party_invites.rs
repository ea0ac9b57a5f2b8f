//! Spec: server-server API, «Third-party invites»: two servers of ours, the host under test and a native one, and an
//! identity server that the test plays.

use harness::{Answer, Host, Keys, User, Value, encode, json};

use crate::{
    guest::Guest,
    network::{Federated, on_each_host},
};

on_each_host![
    who_was_invited_by_address_is_invited_once_it_is_known_who_that_is,
    invitations_that_no_identity_server_signed_are_void,
];

/// Knows who is behind an address.
struct IdentityServer(Keys);

impl IdentityServer {
    fn starts() -> Self {
        Self(Keys::of(253))
    }

    /// Has somebody's invitation kept, as the inviter's server does.
    fn keeps(&self, inviter: &User, room: &str, token: &str) {
        let key = self.0.public();
        let content = json!({
            // It says nowhere that its key may be taken back.
            "display_name": "b...@e...", "key_validity_url": "", "public_key": key,
            "public_keys": [{ "public_key": key }],
        });
        inviter.sets_state(room, "m.room.third_party_invite", token, content).ok();
    }

    fn signs(&self, who: &str, token: &str) -> Value {
        self.0.signs_as(json!({ "mxid": who, "token": token }), "id.test", "ed25519:0")
    }
}

/// The notification that somebody is behind an address, with one invitation.
fn tells(to: &Federated, who: &str, inviter: &User, room: &str, signed: &Value) -> Answer {
    let invite = json!({
        "medium": "email", "address": "bob@example.org", "mxid": who, "room_id": room, "sender": inviter.id,
        "signed": signed,
    });
    let body = json!({ "medium": "email", "address": "bob@example.org", "mxid": who, "invites": [invite] });
    to.server.anonymous().send("PUT", "/_matrix/federation/v1/3pid/onbind", Some(body.to_string()))
}

fn who_was_invited_by_address_is_invited_once_it_is_known_who_that_is(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    let identity = IdentityServer::starts();
    for (at, from) in [(&here, &there), (&there, &here)] {
        for version in ["12", "6"] {
            let alice = at.server.registers("alice");
            let [bob, carol] = ["bob", "carol"].map(|name| from.server.registers(name));
            let room = alice.creates_room(json!({ "preset": "private_chat", "name": "Den", "room_version": version }));
            let since = alice.syncs().next_batch;
            // Their server is not in the room: it asks that of the inviter.
            identity.keeps(&alice, &room, "one");
            tells(from, &bob.id, &alice, &room, &identity.signs(&bob.id, "one")).ok();
            let shown = bob.sees(|sync| !sync.invite_state(&room).is_empty()).invite_state(&room);
            assert!(shown.iter().any(|event| event["content"]["name"] == "Den"), "{shown:?}");
            let invited = |user: &User| {
                alice.syncs_until(&since, |sync| {
                    sync.timeline(&room).iter().any(|event| {
                        event["state_key"] == user.id.as_str() && event["content"]["membership"] == "invite"
                    })
                });
                let content = alice.state(&room, "m.room.member", &user.id).ok();
                assert_eq!(content["third_party_invite"]["display_name"], "b...@e...", "{content}");
            };
            invited(&bob);
            bob.joins(&room).ok();
            bob.sends(&room, "it is me");
            alice.syncs_until(&since, |sync| sync.has_message(&room, "it is me"));
            // Now it is, and needs nobody.
            identity.keeps(&alice, &room, "two");
            alice.sends(&room, "kept");
            bob.sees(|sync| sync.has_message(&room, "kept"));
            tells(from, &carol.id, &alice, &room, &identity.signs(&carol.id, "two")).ok();
            carol.sees(|sync| !sync.invite_state(&room).is_empty());
            invited(&carol);
            carol.joins(&room).ok();
        }
    }
}

fn invitations_that_no_identity_server_signed_are_void(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "private_chat" }));
    let identity = IdentityServer::starts();
    identity.keeps(&alice, &room, "token");
    let eve = Guest::starts(&here, "eve");
    let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", encode(&room));
    let asks = |path: &str, who: &str, signed: &Value| {
        let content =
            json!({ "membership": "invite", "third_party_invite": { "display_name": "x", "signed": signed } });
        let partial = json!({
            "type": "m.room.member", "room_id": room, "sender": alice.id, "state_key": who, "content": content,
        });
        eve.asks("PUT", path, Some(partial))
    };
    let good = identity.signs(&eve.id, "token");
    let forged = Keys::of(254).signs_as(json!({ "mxid": eve.id, "token": "token" }), "id.test", "ed25519:0");
    asks(&path, &bob.id, &identity.signs(&bob.id, "token")).refused(403, "M_FORBIDDEN");
    asks(&path, &eve.id, &identity.signs(&bob.id, "token")).refused(400, "M_INVALID_PARAM");
    asks(&path, &eve.id, &identity.signs(&eve.id, "other")).refused(403, "M_FORBIDDEN");
    asks(&path, &eve.id, &forged).refused(403, "M_FORBIDDEN");
    asks(&path, &eve.id, &json!({ "mxid": eve.id, "token": "token" })).refused(403, "M_FORBIDDEN");
    // The path names another room than the body.
    let elsewhere = "/_matrix/federation/v1/exchange_third_party_invite/!nowhere:x";
    asks(elsewhere, &eve.id, &good).refused(400, "M_INVALID_PARAM");
    for (who, signed) in
        [(&bob.id, &forged), (&bob.id, &identity.signs(&eve.id, "token")), (&bob.id, &identity.signs(&bob.id, "other"))]
    {
        tells(&there, who, &alice, &room, signed).ok();
    }
    tells(&there, &alice.id, &alice, &room, &good).refused(404, "M_NOT_FOUND");
    for who in [&bob.id, &eve.id] {
        alice.state(&room, "m.room.member", who).refused(404, "M_NOT_FOUND");
    }
    assert!(bob.syncs().invite_state(&room).is_empty());
    tells(&there, &bob.id, &alice, &room, &identity.signs(&bob.id, "token")).ok();
    bob.sees(|sync| !sync.invite_state(&room).is_empty());
}
