//! Spec: client-server API, «Server Administration», «Account locking», «Account suspension».

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, PASSWORD, SHARED_SECRET, Server, User, Value, encode, json, on_each_host};

on_each_host![
    administrators_may_moderate_and_say_so,
    a_locked_account_can_only_log_out,
    a_lock_ends_a_wait,
    an_unlocked_account_goes_on,
    a_locked_account_gets_no_new_token,
    a_suspended_user_reads_and_leaves,
    a_suspended_user_does_not_speak,
    a_suspended_user_redacts_what_is_theirs,
    nobody_moderates_themselves_or_another_administrator,
    only_administrators_moderate,
    who_somebody_is_administrators_see,
];

fn administrator(server: &Server) -> User {
    let name = server.unique("admin");
    let account = server.registers_by_secret(&name, SHARED_SECRET, true).ok();
    User::from_login(&server.anonymous(), &account)
}

fn path(what: &str, whom: &str) -> String {
    format!("/_matrix/client/v1/admin/{what}/{}", encode(whom))
}

fn sets(by: &User, what: &str, whom: &str, value: bool) -> Answer {
    let field = if what == "lock" { "locked" } else { "suspended" };
    by.client().put(&path(what, whom), json!({ field: value }))
}

#[track_caller]
fn locks(by: &User, whom: &User, locked: bool) {
    assert_eq!(sets(by, "lock", &whom.id, locked).ok(), json!({ "locked": locked }));
}

#[track_caller]
fn suspends(by: &User, whom: &User, suspended: bool) {
    assert_eq!(sets(by, "suspend", &whom.id, suspended).ok(), json!({ "suspended": suspended }));
}

#[track_caller]
fn is_locked_out(answer: Answer) {
    let body = answer.refused(401, "M_USER_LOCKED");
    assert_eq!(body["soft_logout"], true, "{body}");
}

fn logs_in(server: &Server, user: &User) -> Answer {
    server.anonymous().post("/_matrix/client/v3/login", user.proof(PASSWORD))
}

fn administrators_may_moderate_and_say_so(server: &Server) {
    let (admin, alice) = (administrator(server), server.registers("alice"));
    let moderation = |user: &User| user.get("/capabilities").ok()["capabilities"]["m.account_moderation"].clone();
    assert_eq!(moderation(&admin), json!({ "lock": true, "suspend": true }));
    assert_eq!(moderation(&alice), Value::Null);
    let state = |what: &str| admin.client().get(&path(what, &alice.id)).ok();
    assert_eq!((state("lock"), state("suspend")), (json!({ "locked": false }), json!({ "suspended": false })));
    suspends(&admin, &alice, true);
    assert_eq!((state("lock"), state("suspend")), (json!({ "locked": false }), json!({ "suspended": true })));
    locks(&admin, &alice, true);
    suspends(&admin, &alice, false);
    assert_eq!((state("lock"), state("suspend")), (json!({ "locked": true }), json!({ "suspended": false })));
    // Both survive the actor.
    server.evicts("user", &alice.id);
    assert_eq!(state("lock"), json!({ "locked": true }));
}

fn a_locked_account_can_only_log_out(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let tablet = alice.logs_in_again();
    locks(&admin, &alice, true);
    is_locked_out(alice.get("/account/whoami"));
    is_locked_out(alice.asks_sync(&[]));
    is_locked_out(alice.says(&room, "hello"));
    is_locked_out(alice.put(&format!("/profile/{}/displayname", encode(&alice.id)), json!({ "displayname": "A" })));
    is_locked_out(alice.get("/devices"));
    is_locked_out(alice.post("/keys/query", json!({ "device_keys": {} })));
    is_locked_out(alice.downloads("myelin.test/unknown"));
    is_locked_out(tablet.get("/account/whoami"));
    // Others notice nothing.
    bob.sends(&room, "where are you?");
    assert_eq!(alice.post("/logout", json!({})).ok(), json!({}));
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    is_locked_out(tablet.get("/account/whoami"));
    assert_eq!(tablet.post("/logout/all", json!({})).ok(), json!({}));
    tablet.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
}

fn a_lock_ends_a_wait(server: &Server) {
    let (admin, alice) = (administrator(server), server.registers("alice"));
    let since = alice.syncs().next_batch;
    let since = alice.syncs_since(&since).next_batch;
    let started = Instant::now();
    let waiter = {
        let alice = alice.clone();
        thread::spawn(move || alice.asks_sync(&[("since", &since), ("timeout", "30000")]))
    };
    locks(&admin, &alice, true);
    is_locked_out(waiter.join().expect("it is answered"));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

fn an_unlocked_account_goes_on(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = alice.syncs().next_batch;
    locks(&admin, &alice, true);
    bob.sends(&room, "meanwhile");
    is_locked_out(alice.asks_sync(&[("since", &since)]));
    locks(&admin, &alice, false);
    // The same token, on the same device.
    alice.syncs_until(&since, |sync| sync.has_message(&room, "meanwhile"));
    alice.sends(&room, "back again");
}

fn a_locked_account_gets_no_new_token(server: &Server) {
    let admin = administrator(server);
    let username = server.unique("alice");
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": username, "password": PASSWORD, "auth": auth, "refresh_token": true });
    let account = server.anonymous().post("/_matrix/client/v3/register", body).ok();
    let alice = User::from_login(&server.anonymous(), &account);
    locks(&admin, &alice, true);
    is_locked_out(logs_in(server, &alice));
    let refresh = json!({ "refresh_token": account["refresh_token"] });
    is_locked_out(server.anonymous().post("/_matrix/client/v3/refresh", refresh.clone()));
    // Whose password it is not learns nothing.
    let wrong = server.anonymous().post("/_matrix/client/v3/login", alice.proof("wrong"));
    wrong.refused(403, "M_FORBIDDEN");
    locks(&admin, &alice, false);
    server.anonymous().post("/_matrix/client/v3/refresh", refresh).ok();
    logs_in(server, &alice).ok();
}

fn a_suspended_user_reads_and_leaves(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let (room, other) = (bob.creates_room_with(&[&alice]), bob.creates_room_with(&[&alice]));
    let asked = bob.creates_room(json!({ "invite": [alice.id] }));
    suspends(&admin, &alice, true);
    bob.sends(&room, "can you hear me?");
    alice.sees(|sync| sync.has_message(&room, "can you hear me?") && !sync.invite_state(&asked).is_empty());
    alice.messages(&room, &[("dir", "b")]).ok();
    alice.leaves(&other).ok();
    alice.leaves(&asked).ok();
    let tablet = alice.logs_in_again();
    tablet.says(&room, "from here?").refused(403, "M_USER_SUSPENDED");
    tablet.post("/keys/upload", json!({})).ok();
    let message = json!({ "messages": { (&alice.id): { "*": { "verify": 1 } } } });
    tablet.put("/sendToDevice/m.key.verification.request/1", message).ok();
    tablet.post("/logout", json!({})).ok();
    alice.post("/account/deactivate", json!({ "auth": alice.proof(PASSWORD) })).ok();
}

fn a_suspended_user_does_not_speak(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let open = bob.creates_room(json!({ "preset": "public_chat" }));
    let asked = bob.creates_room(json!({ "invite": [alice.id] }));
    suspends(&admin, &alice, true);
    let suspended = |answer: Answer| drop(answer.refused(403, "M_USER_SUSPENDED"));
    suspended(alice.says(&room, "hello"));
    suspended(alice.sets_state(&room, "m.room.name", "", json!({ "name": "mine" })));
    suspended(alice.joins(&open));
    suspended(alice.post(&format!("/join/{}", encode(&open)), json!({})));
    suspended(alice.joins(&asked));
    suspended(alice.knocks(&open));
    suspended(alice.invites(&room, &server.registers("carol")));
    suspended(alice.kicks(&room, &bob));
    suspended(alice.post("/createRoom", json!({})));
    for field in ["displayname", "avatar_url", "org.test"] {
        let path = format!("/profile/{}/{field}", encode(&alice.id));
        suspended(alice.put(&path, json!({ field: "mxc://a/b" })));
        suspended(alice.delete(&path, json!({})));
    }
    let unstable = "/_matrix/client/unstable/uk.tcpip.msc4133/profile";
    let by_its_old_name = format!("{unstable}/{}/displayname", encode(&alice.id));
    suspended(alice.client().send("DELETE", &by_its_old_name, Some("{}".to_owned())));
    suspends(&admin, &alice, false);
    alice.sends(&room, "hello");
    alice.joins(&asked).ok();
}

fn a_suspended_user_redacts_what_is_theirs(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (own, others) = (alice.sends(&room, "mine"), bob.sends(&room, "his"));
    suspends(&admin, &alice, true);
    alice.redacts(&room, &others, "1").refused(403, "M_USER_SUSPENDED");
    assert_eq!(bob.event(&room, &others).ok()["content"]["body"], "his");
    alice.redacts(&room, &own, "2").ok();
    assert_eq!(bob.event(&room, &own).ok()["content"], json!({}));
    // Whoever is not suspended has that power here.
    suspends(&admin, &alice, false);
    alice.redacts(&room, &others, "3").ok();
}

fn nobody_moderates_themselves_or_another_administrator(server: &Server) {
    let (admin, other) = (administrator(server), administrator(server));
    for what in ["lock", "suspend"] {
        for whom in [&admin, &other] {
            sets(&admin, what, &whom.id, true).refused(403, "M_FORBIDDEN");
        }
        admin.client().get(&path(what, &other.id)).refused(403, "M_FORBIDDEN");
        admin.client().get(&path(what, &admin.id)).ok();
    }
    other.get("/account/whoami").ok();
}

fn only_administrators_moderate(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    let unknown = format!("@{}:myelin.test", server.unique("nobody"));
    for what in ["lock", "suspend"] {
        for whom in [bob.id.as_str(), &unknown, "@bob:elsewhere.test"] {
            // Who exists is not told.
            sets(&alice, what, whom, true).refused(403, "M_FORBIDDEN");
            alice.client().get(&path(what, whom)).refused(403, "M_FORBIDDEN");
        }
        sets(&admin, what, &unknown, true).refused(404, "M_NOT_FOUND");
        admin.client().get(&path(what, &unknown)).refused(404, "M_NOT_FOUND");
        sets(&admin, what, "@bob:elsewhere.test", true).refused(400, "M_INVALID_PARAM");
        admin.client().get(&path(what, "@bob:elsewhere.test")).refused(400, "M_INVALID_PARAM");
        admin.client().put(&path(what, &bob.id), json!({})).refused(400, "M_BAD_JSON");
    }
    bob.post("/account/deactivate", json!({ "auth": bob.proof(PASSWORD) })).ok();
    sets(&admin, "lock", &bob.id, true).refused(404, "M_NOT_FOUND");
}

fn who_somebody_is_administrators_see(server: &Server) {
    let (admin, alice, bob) = (administrator(server), server.registers("alice"), server.registers("bob"));
    alice.syncs();
    let tablet = alice.logs_in_again();
    let whois = format!("/admin/whois/{}", encode(&alice.id));
    for asker in [&admin, &alice] {
        let told = asker.get(&whois).ok();
        assert_eq!(told["user_id"], alice.id);
        assert_eq!(told["devices"].as_object().map(|devices| devices.len()), Some(2), "{told}");
        let connection = &told["devices"][&tablet.device_id]["sessions"][0]["connections"][0];
        assert!(connection["last_seen"].is_u64(), "{told}");
    }
    bob.get(&whois).refused(403, "M_FORBIDDEN");
    let nobody = format!("/admin/whois/{}", encode("@nobody-at-all:myelin.test"));
    bob.get(&nobody).refused(403, "M_FORBIDDEN");
    admin.get(&nobody).refused(404, "M_NOT_FOUND");
    admin.get("/admin/whois/%40bob%3Aelsewhere.test").refused(400, "M_INVALID_PARAM");
}
