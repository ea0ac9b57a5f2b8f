//! What administrators do with media, with the endpoints of Synapse's admin API.

use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Answer, SERVER_NAME, SHARED_SECRET, Server, User, encode, json, on_each_host};

use crate::media::uploads;

on_each_host![
    only_administrators_do_this,
    media_is_deleted,
    the_same_content_of_others_stays,
    all_media_of_a_user_is_deleted,
    unused_media_is_deleted_by_time_and_size,
    quarantined_media_is_hidden_whatever_its_name,
    protected_media_is_not_quarantined,
    media_of_a_user_is_listed,
    what_is_done_from_time_to_time_deletes_nothing_in_use,
];

fn administrator(server: &Server) -> User {
    let name = server.unique("admin");
    User::from_login(&server.anonymous(), &server.registers_by_secret(&name, SHARED_SECRET, true).ok())
}

fn admin(user: &User, method: &str, path: &str) -> Answer {
    let body = (method == "POST").then(|| "{}".to_owned());
    user.client().send(method, &format!("/_synapse/admin/v1/{path}"), body)
}

fn downloads(user: &User, mxc: &str) -> Answer {
    user.client().get(&format!("/_matrix/client/v1/media/download/{mxc}"))
}

fn id(mxc: &str) -> &str {
    mxc.split_once('/').expect("a server and an id").1
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis()
}

fn only_administrators_do_this(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "text/plain", None, "mine");
    let user = encode(&alice.id);
    for (method, path) in [
        ("GET", format!("media/{mxc}")),
        ("DELETE", format!("media/{mxc}")),
        ("POST", "media/delete?before_ts=1&keep_profiles=false".to_owned()),
        ("GET", format!("users/{user}/media")),
        ("DELETE", format!("users/{user}/media")),
        ("POST", format!("media/quarantine/{mxc}")),
        ("POST", format!("media/unquarantine/{mxc}")),
        ("POST", format!("user/{user}/media/quarantine")),
        ("POST", format!("media/protect/{}", id(&mxc))),
        ("POST", format!("media/unprotect/{}", id(&mxc))),
        ("POST", "purge_media_cache?before_ts=1".to_owned()),
    ] {
        admin(&alice, method, &path).refused(403, "M_FORBIDDEN");
    }
    assert_eq!(downloads(&alice, &mxc).text, "mine");
}

fn media_is_deleted(server: &Server) {
    let (root, alice) = (administrator(server), server.registers("alice"));
    let mxc = uploads(&alice, "text/plain", Some("a.txt"), "to be deleted");
    let told = admin(&root, "GET", &format!("media/{mxc}")).ok()["media_info"].clone();
    assert_eq!(
        (&told["user_id"], &told["media_length"], &told["upload_name"]),
        (&json!(alice.id), &json!(13), &json!("a.txt"))
    );
    let deleted = admin(&root, "DELETE", &format!("media/{mxc}")).ok();
    assert_eq!(deleted, json!({ "deleted_media": [id(&mxc)], "total": 1 }));
    downloads(&alice, &mxc).refused(404, "M_NOT_FOUND");
    admin(&root, "DELETE", &format!("media/{mxc}")).refused(404, "M_NOT_FOUND");
    admin(&root, "GET", &format!("media/{SERVER_NAME}/nothing")).refused(404, "M_NOT_FOUND");
    // The same content may come again.
    let again = uploads(&alice, "text/plain", None, "to be deleted");
    assert_eq!(downloads(&alice, &again).text, "to be deleted");
}

fn the_same_content_of_others_stays(server: &Server) {
    let (root, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let [hers, his] = [&alice, &bob].map(|user| uploads(user, "text/plain", None, "shared by two"));
    admin(&root, "DELETE", &format!("media/{hers}")).ok();
    downloads(&bob, &hers).refused(404, "M_NOT_FOUND");
    assert_eq!(downloads(&bob, &his).text, "shared by two");
    admin(&root, "DELETE", &format!("media/{his}")).ok();
    downloads(&bob, &his).refused(404, "M_NOT_FOUND");
}

fn all_media_of_a_user_is_deleted(server: &Server) {
    let (root, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let hers: Vec<String> = (0..3).map(|number| uploads(&alice, "a/b", None, format!("hers {number}"))).collect();
    let his = uploads(&bob, "a/b", None, "his");
    let path = format!("users/{}/media", encode(&alice.id));
    assert_eq!(admin(&root, "DELETE", &format!("{path}?limit=2")).ok()["total"], 2);
    assert_eq!(admin(&root, "DELETE", &path).ok()["total"], 1);
    assert_eq!(admin(&root, "DELETE", &path).ok(), json!({ "deleted_media": [], "total": 0 }));
    for mxc in &hers {
        downloads(&alice, mxc).refused(404, "M_NOT_FOUND");
    }
    assert_eq!(downloads(&alice, &his).text, "his");
    admin(&root, "DELETE", "users/@a:elsewhere.test/media").refused(400, "M_INVALID_PARAM");
}

fn unused_media_is_deleted_by_time_and_size(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let (root, alice) = (administrator(&server), server.registers("alice"));
    let small = uploads(&alice, "a/b", None, "small");
    let large = uploads(&alice, "a/b", None, "large".repeat(100));
    let kept = uploads(&alice, "a/b", None, "kept".repeat(100));
    admin(&root, "POST", &format!("media/protect/{}", id(&kept))).ok();
    let later = now_ms() + 60_000;
    let delete = |query: String| {
        admin(&root, "POST", &format!("media/delete?{query}&keep_profiles=false")).ok()["total"].clone()
    };
    assert_eq!(delete(format!("before_ts={}", now_ms() - 3_600_000)), 0);
    assert_eq!(delete(format!("before_ts={later}&size_gt=100")), 1);
    assert_eq!(delete(format!("before_ts={later}")), 1);
    for mxc in [&small, &large] {
        downloads(&alice, mxc).refused(404, "M_NOT_FOUND");
    }
    assert_eq!(downloads(&alice, &kept).status, 200);
    admin(&root, "POST", &format!("media/delete?before_ts={later}")).refused(400, "M_INVALID_PARAM");
    admin(&root, "POST", "media/delete?keep_profiles=false").refused(400, "M_INVALID_PARAM");
    admin(&root, "POST", &format!("media/elsewhere.test/delete?before_ts={later}")).refused(400, "M_INVALID_PARAM");
}

fn quarantined_media_is_hidden_whatever_its_name(server: &Server) {
    let (root, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let [hers, his] = [&alice, &bob].map(|user| uploads(user, "text/plain", None, "not for anybody"));
    assert_eq!(admin(&root, "POST", &format!("media/quarantine/{hers}")).ok(), json!({}));
    let later = uploads(&bob, "text/plain", None, "not for anybody");
    for mxc in [&hers, &his, &later] {
        for user in [&alice, &bob, &root] {
            downloads(user, mxc).refused(404, "M_NOT_FOUND");
        }
    }
    let told = admin(&root, "GET", &format!("media/{hers}")).ok();
    assert_eq!(told["media_info"]["quarantined_by"], root.id);
    admin(&root, "POST", &format!("media/unquarantine/{hers}")).ok();
    for mxc in [&hers, &his, &later] {
        assert_eq!(downloads(&alice, mxc).text, "not for anybody");
    }
    let all = admin(&root, "POST", &format!("user/{}/media/quarantine", encode(&alice.id))).ok();
    assert_eq!(all["num_quarantined"], 3, "hers, and the same of others");
    downloads(&alice, &hers).refused(404, "M_NOT_FOUND");
}

fn protected_media_is_not_quarantined(server: &Server) {
    let (root, alice) = (administrator(server), server.registers("alice"));
    let mxc = uploads(&alice, "text/plain", None, "a sticker");
    admin(&root, "POST", &format!("media/protect/{}", id(&mxc))).ok();
    admin(&root, "POST", &format!("media/quarantine/{mxc}")).ok();
    assert_eq!(downloads(&alice, &mxc).text, "a sticker");
    admin(&root, "POST", &format!("media/unprotect/{}", id(&mxc))).ok();
    admin(&root, "POST", &format!("media/quarantine/{mxc}")).ok();
    downloads(&alice, &mxc).refused(404, "M_NOT_FOUND");
    admin(&root, "POST", "media/protect/nothing").refused(404, "M_NOT_FOUND");
}

fn media_of_a_user_is_listed(server: &Server) {
    let (root, alice) = (administrator(server), server.registers("alice"));
    let path = format!("users/{}/media", encode(&alice.id));
    assert_eq!(admin(&root, "GET", &path).ok(), json!({ "media": [], "total": 0 }));
    for number in 0..3 {
        uploads(&alice, "a/b", Some(&format!("{number}.txt")), format!("number {number}"));
    }
    let page = admin(&root, "GET", &format!("{path}?limit=2")).ok();
    assert_eq!(
        (&page["total"], &page["next_token"], page["media"].as_array().map(Vec::len)),
        (&json!(3), &json!(2), Some(2))
    );
    let rest = admin(&root, "GET", &format!("{path}?from=2")).ok();
    assert_eq!((rest["media"].as_array().map(Vec::len), rest["next_token"].is_null()), (Some(1), true));
    let media = &rest["media"][0];
    assert_eq!((&media["media_type"], &media["safe_from_quarantine"]), (&json!("a/b"), &json!(false)));
}

fn what_is_done_from_time_to_time_deletes_nothing_in_use(server: &Server) {
    let server = Server::with(server.host(), &[("MEDIA_RETENTION", "1")]);
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "text/plain", None, "in use");
    let path = "/_myelin/test/tend";
    server.anonymous().post(path, json!({})).refused(404, "M_UNRECOGNIZED");
    for _ in 0..2 {
        server.operator().post(path, json!({})).ok();
    }
    assert_eq!(downloads(&alice, &mxc).text, "in use");
}
