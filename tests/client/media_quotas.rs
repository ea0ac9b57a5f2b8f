//! Spec: client-server API, «Content repository»: quotas of uploaded content.

use harness::{Answer, Server, User, json, on_each_host};

use crate::media::uploads;

on_each_host![a_user_has_a_quota, a_day_has_a_quota];

const UPLOAD: &str = "/_matrix/media/v3/upload";

fn sends(user: &User, length: usize) -> Answer {
    user.client().send_bytes("POST", UPLOAD, &[], Some(vec![b'x'; length]))
}

fn a_user_has_a_quota(server: &Server) {
    let info = "https://myelin.test/quota";
    let server = Server::with(server.host(), &[("MEDIA_QUOTA", "1M"), ("MEDIA_QUOTA_INFO_URL", info)]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let mxc = uploads(&alice, "text/plain", None, vec![b'a'; 1_000_000]);
    let refused = sends(&alice, 100_000).refused(403, "M_USER_LIMIT_EXCEEDED");
    assert_eq!(refused["info_uri"], info);
    // However it is sent.
    let unsaid = alice.client().send_chunks("POST", UPLOAD, &[], &*vec![b'x'; 100_000]);
    unsaid.refused(403, "M_USER_LIMIT_EXCEEDED");
    sends(&alice, 40_000).ok();
    sends(&bob, 1_000_000).ok();
    let admin = server.registers_by_secret(&server.unique("admin"), harness::SHARED_SECRET, true).ok();
    let admin = server.anonymous().with_token(admin["access_token"].as_str().expect("a token"));
    admin.delete(&format!("/_synapse/admin/v1/media/{mxc}")).ok();
    sends(&alice, 900_000).ok();
}

fn a_day_has_a_quota(server: &Server) {
    let server = Server::with(server.host(), &[("MEDIA_QUOTA_DAILY", "1M")]);
    let alice = server.registers("alice");
    sends(&alice, 1 << 20).ok();
    let refused = sends(&alice, 1);
    let seconds: u64 = refused.header("Retry-After").and_then(|seconds| seconds.parse().ok()).expect("the header");
    assert!((86_000..=86_400).contains(&seconds), "{seconds}");
    refused.refused(429, "M_LIMIT_EXCEEDED");
    alice.client().post("/_matrix/media/v1/create", json!({})).refused(429, "M_LIMIT_EXCEEDED");
    assert_eq!(sends(&alice, (1 << 20) + 1).status, 429);
}
