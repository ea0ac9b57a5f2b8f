//! Spec: client-server API, «Content repository»: quotas of uploaded content.

use std::thread;

use harness::{Answer, Database, Server, User, json, on_each_host};

use crate::media::uploads;

on_each_host![
    a_user_has_a_quota,
    a_day_has_a_quota,
    uploads_at_once_have_one_quota,
    uploads_at_once_have_one_quota_in_postgres,
];

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

fn uploads_at_once_have_one_quota(server: &Server) {
    three_of_many_are_taken(&Server::with(server.host(), &AT_ONCE));
}

fn uploads_at_once_have_one_quota_in_postgres(server: &Server) {
    let Some(database) = Database::create() else { return };
    three_of_many_are_taken(&Server::on_postgres(server.host(), &database, &AT_ONCE));
}

const AT_ONCE: [(&str, &str); 2] = [("MEDIA_QUOTA", "1M"), ("MEDIA_QUOTA_DAILY", "1M")];

/// Several times, for what happens at once does not always.
fn three_of_many_are_taken(server: &Server) {
    for _ in 0..5 {
        let alice = server.registers(&server.unique("alice"));
        let statuses: Vec<u16> = thread::scope(|scope| {
            let uploads: Vec<_> = (0..8).map(|_| scope.spawn(|| sends(&alice, 300_000).status)).collect();
            uploads.into_iter().map(|upload| upload.join().expect("it is answered")).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
        let created = alice.client().post("/_matrix/media/v1/create", json!({})).ok();
        let mxc = created["content_uri"].as_str().expect("a URI").trim_start_matches("mxc://");
        let fill = alice.client().send_bytes("PUT", &format!("{UPLOAD}/{mxc}"), &[], Some(vec![b'x'; 300_000]));
        fill.refused(403, "M_FORBIDDEN");
    }
}
