//! Spec: client-server API, «Presence», and `set_presence` of /sync.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Server, Sync, User, json, on_each_host};

on_each_host![
    a_presence_is_set_and_seen,
    a_sync_marks_its_user,
    a_sync_says_how_its_device_is_there,
    others_see_it_without_asking,
    a_first_sync_shows_who_is_there,
    oneself_on_another_device,
    who_joins_and_those_who_are_there_see_each_other,
    who_left_sees_no_more,
    who_leaves_one_of_several_rooms_is_still_there,
    who_logs_out_is_offline,
    strangers_do_not_see_it,
    only_ones_own_is_set,
    what_a_presence_does_not_take,
    a_filter_chooses,
    a_new_name_is_told,
    what_a_person_does_makes_them_active,
    a_deactivated_user_has_none,
    nothing_is_told_where_it_is_switched_off,
];

/// How long something may take to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// Looks again until it is as it should be.
#[track_caller]
fn becomes(what: &str, look: impl Fn() -> Answer) {
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        let presence = look().ok()["presence"].clone();
        if presence == *what {
            return;
        }
        assert!(Instant::now() < deadline, "it stays {presence}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A sync that does not wait, and says how the device is there.
#[track_caller]
fn syncs_as(user: &User, since: &str, set_presence: &str) -> Sync {
    Sync::from(user.asks_sync(&[("since", since), ("timeout", "0"), ("set_presence", set_presence)]))
}

fn a_presence_is_set_and_seen(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    assert_eq!(alice.looks_at(&alice).ok(), json!({ "presence": "offline" }), "who never came");
    assert_eq!(alice.sets_presence(json!({ "presence": "unavailable", "status_msg": "Tea" })).ok(), json!({}));
    for looker in [&alice, &bob] {
        let presence = looker.looks_at(&alice).ok();
        assert_eq!((&presence["presence"], &presence["status_msg"]), (&json!("unavailable"), &json!("Tea")));
        assert_eq!(presence["currently_active"], false);
        assert!(presence["last_active_ago"].as_u64().is_some_and(|ago_ms| ago_ms < 60_000), "{presence}");
    }
    alice.sets_presence(json!({ "presence": "online" })).ok();
    let presence = bob.looks_at(&alice).ok();
    assert_eq!((&presence["presence"], presence.get("status_msg")), (&json!("online"), None));
    assert_eq!(presence["currently_active"], true);
    alice.sets_presence(json!({ "presence": "offline", "status_msg": null })).ok();
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "offline");
}

fn a_sync_marks_its_user(server: &Server) {
    let alice = server.registers("alice");
    assert_eq!(alice.looks_at(&alice).ok()["presence"], "offline");
    let sync = alice.syncs();
    assert!(sync.shows(&alice, "online"), "one sees oneself: {}", sync.body);
    assert_eq!(alice.looks_at(&alice).ok()["presence"], "online");
    let again = alice.syncs_since(&sync.next_batch);
    assert_eq!(again.presence(&alice.id), None, "what did not change is not told again: {}", again.body);
}

fn a_sync_says_how_its_device_is_there(server: &Server) {
    let alice = server.registers("alice");
    let first = Sync::from(alice.asks_sync(&[("set_presence", "offline")]));
    assert_eq!(first.presence(&alice.id), None, "{}", first.body);
    assert_eq!(alice.looks_at(&alice).ok()["presence"], "offline");
    let idle = syncs_as(&alice, &first.next_batch, "unavailable");
    assert_eq!(alice.looks_at(&alice).ok()["presence"], "unavailable");
    let since = alice.syncs_until(&idle.next_batch, |sync| sync.shows(&alice, "online")).next_batch;
    syncs_as(&alice, &since, "offline");
    assert_eq!(alice.looks_at(&alice).ok()["presence"], "offline");
    alice.asks_sync(&[("set_presence", "busy")]).refused(400, "M_INVALID_PARAM");
}

fn others_see_it_without_asking(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    let mut since = bob.syncs().next_batch;
    alice.syncs();
    since = bob.syncs_until(&since, |sync| sync.shows(&alice, "online")).next_batch;
    for (presence, status_msg) in [("unavailable", "Lunch"), ("online", "Back"), ("offline", "Gone")] {
        alice.sets_presence(json!({ "presence": presence, "status_msg": status_msg })).ok();
        let told = bob.syncs_until(&since, |sync| sync.shows(&alice, presence));
        let content = told.presence(&alice.id).expect("it was there");
        assert_eq!(content["status_msg"], status_msg, "{}", told.body);
        assert!(content["last_active_ago"].is_u64(), "{}", told.body);
        since = told.next_batch;
    }
    let told = bob.syncs_since(&since);
    assert_eq!(told.presence(&alice.id), None, "what did not change is not told again: {}", told.body);
}

fn a_first_sync_shows_who_is_there(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob, &carol]);
    alice.syncs();
    alice.sets_presence(json!({ "presence": "unavailable", "status_msg": "Here" })).ok();
    for forgets in [false, true] {
        if forgets {
            for (kind, id) in [("room", &room), ("user", &alice.id), ("user", &bob.id)] {
                server.evicts(kind, id);
            }
        }
        // As well as that goes: on a machine that is busy, not each time.
        let told = (0..5).find_map(|_| {
            let first = bob.logs_in_again().syncs();
            assert_eq!(first.presence(&carol.id), None, "who is not there is not shown: {}", first.body);
            first.presence(&alice.id)
        });
        assert_eq!(told.expect("Alice is there")["status_msg"], "Here");
    }
}

fn oneself_on_another_device(server: &Server) {
    let alice = server.registers("alice");
    let laptop = alice.logs_in_again();
    let since = laptop.syncs().next_batch;
    alice.sets_presence(json!({ "presence": "online", "status_msg": "On the phone" })).ok();
    let told = laptop.syncs_until(&since, |sync| sync.presence(&alice.id).is_some());
    assert_eq!(told.presence(&alice.id).expect("it was there")["status_msg"], "On the phone");
    // Of two devices the one that is more present counts.
    syncs_as(&alice, &alice.syncs().next_batch, "unavailable");
    assert_eq!(laptop.looks_at(&alice).ok()["presence"], "online");
}

fn who_joins_and_those_who_are_there_see_each_other(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let (alices, bobs) = (alice.syncs().next_batch, bob.syncs().next_batch);
    bob.joins(&room).ok();
    alice.syncs_until(&alices, |sync| sync.shows(&bob, "online"));
    bob.syncs_until(&bobs, |sync| sync.shows(&alice, "online"));
}

fn who_left_sees_no_more(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    let room = alice.creates_room_with(&[&bob]);
    bob.creates_room_with(&[&carol]);
    let first = bob.syncs().next_batch;
    alice.sets_presence(json!({ "presence": "online" })).ok();
    let since = bob.syncs_until(&first, |sync| sync.shows(&alice, "online")).next_batch;
    bob.leaves(&room).ok();
    bob.looks_at(&alice).refused(403, "M_FORBIDDEN");
    alice.sets_presence(json!({ "presence": "unavailable" })).ok();
    becomes("unavailable", || alice.looks_at(&alice));
    // What Carol does comes, so what Alice did before would have.
    carol.sets_presence(json!({ "presence": "unavailable" })).ok();
    let mut since = since;
    loop {
        let told = bob.syncs_until(&since, |sync| sync.body["presence"]["events"].is_array());
        assert!(!told.shows(&alice, "unavailable"), "{}", told.body);
        if told.shows(&carol, "unavailable") {
            break;
        }
        since = told.next_batch;
    }
}

fn who_leaves_one_of_several_rooms_is_still_there(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    alice.creates_room_with(&[&bob]);
    let room = carol.creates_room_with(&[&bob, &alice]);
    let first = bob.syncs().next_batch;
    alice.sets_presence(json!({ "presence": "online", "status_msg": "Here" })).ok();
    let mut since = bob.syncs_until(&first, |sync| sync.shows(&alice, "online")).next_batch;
    // Of what Bob's actor remembers anew, only one room tells.
    server.evicts("user", &bob.id);
    since = bob.syncs_since(&since).next_batch;
    alice.leaves(&room).ok();
    carol.invites(&room, &alice).ok();
    alice.joins(&room).ok();
    since = bob.syncs_until(&since, |sync| sync.shows(&alice, "online")).next_batch;
    alice.leaves(&room).ok();
    // What Carol does comes later.
    carol.sets_presence(json!({ "presence": "unavailable" })).ok();
    loop {
        let told = bob.syncs_until(&since, |sync| sync.body["presence"]["events"].is_array());
        assert!(!told.shows(&alice, "offline"), "{}", told.body);
        since.clone_from(&told.next_batch);
        if told.shows(&carol, "unavailable") {
            break;
        }
    }
    alice.sets_presence(json!({ "presence": "unavailable", "status_msg": "Lunch" })).ok();
    bob.syncs_until(&since, |sync| sync.shows(&alice, "unavailable"));
}

fn who_logs_out_is_offline(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.syncs();
    let since = bob.syncs_until(&since, |sync| sync.shows(&alice, "online")).next_batch;
    alice.post("/logout", json!({})).ok();
    bob.syncs_until(&since, |sync| sync.shows(&alice, "offline"));
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "offline");
}

fn strangers_do_not_see_it(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.sets_presence(json!({ "presence": "online" })).ok();
    bob.looks_at(&alice).refused(403, "M_FORBIDDEN");
    bob.get("/presence/@nobody-at-all:myelin.test/status").refused(404, "M_NOT_FOUND");
    bob.get("/presence/@alice:elsewhere.example/status").refused(403, "M_FORBIDDEN");
    server.anonymous().get(&format!("/_matrix/client/v3/presence/{}/status", alice.id)).refused(401, "M_MISSING_TOKEN");
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    bob.looks_at(&alice).refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "online");
}

fn only_ones_own_is_set(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    let path = format!("/presence/{}/status", alice.id);
    bob.put(&path, json!({ "presence": "online" })).refused(403, "M_FORBIDDEN");
    server
        .anonymous()
        .put(&format!("/_matrix/client/v3{path}"), json!({ "presence": "online" }))
        .refused(401, "M_MISSING_TOKEN");
    assert_eq!(alice.looks_at(&alice).ok()["presence"], "offline");
}

fn what_a_presence_does_not_take(server: &Server) {
    let alice = server.registers("alice");
    alice.sets_presence(json!({ "presence": "online", "status_msg": "x".repeat(512) })).ok();
    for (status, errcode) in [
        (json!({}), "M_BAD_JSON"),
        (json!({ "presence": 1 }), "M_BAD_JSON"),
        (json!({ "presence": "sleeping" }), "M_INVALID_PARAM"),
        (json!({ "presence": "offline", "status_msg": 1 }), "M_BAD_JSON"),
        (json!({ "presence": "offline", "status_msg": "x".repeat(513) }), "M_INVALID_PARAM"),
    ] {
        alice.sets_presence(status).refused(400, errcode);
    }
    let presence = alice.looks_at(&alice).ok();
    assert_eq!((&presence["presence"], presence["status_msg"].as_str().map(str::len)), (&json!("online"), Some(512)));
}

fn a_filter_chooses(server: &Server) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.registers(name));
    alice.creates_room_with(&[&bob, &carol]);
    for user in [&alice, &carol] {
        user.sets_presence(json!({ "presence": "online" })).ok();
    }
    bob.sees(|sync| sync.shows(&carol, "online"));
    let stored = json!({ "presence": { "senders": [carol.id] } });
    let stored =
        bob.post(&format!("/user/{}/filter", bob.id), stored).ok()["filter_id"].as_str().unwrap_or_default().to_owned();
    let shown = |filter: &str| {
        let sync = Sync::from(bob.asks_sync(&[("filter", filter)]));
        [&alice, &bob, &carol].map(|user| sync.presence(&user.id).is_some())
    };
    for (filter, expected) in [
        (json!({}), [true, true, true]),
        (json!({ "presence": { "senders": [alice.id] } }), [true, false, false]),
        (json!({ "presence": { "not_senders": [alice.id] } }), [false, true, true]),
        (json!({ "presence": { "types": ["m.presence"] } }), [true, true, true]),
        (json!({ "presence": { "types": [] } }), [false, false, false]),
        (json!({ "presence": { "not_types": ["m.*"] } }), [false, false, false]),
    ] {
        assert_eq!(shown(&filter.to_string()), expected, "{filter}");
    }
    assert_eq!(shown(&stored), [false, false, true]);
    // A limit leaves nobody out: the others come with the next syncs.
    let limited = json!({ "presence": { "limit": 1 } }).to_string();
    let mut sync = Sync::from(bob.asks_sync(&[("filter", &limited)]));
    let mut seen = Vec::new();
    while let Some(events) = sync.body["presence"]["events"].as_array() {
        assert_eq!(events.len(), 1, "{}", sync.body);
        seen.push(events[0]["sender"].as_str().expect("a sender").to_owned());
        sync = Sync::from(bob.asks_sync(&[("filter", &limited), ("since", &sync.next_batch)]));
    }
    seen.sort();
    assert_eq!(seen, [&alice, &bob, &carol].map(|user| user.id.clone()));
}

fn a_new_name_is_told(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    alice.sets_presence(json!({ "presence": "online", "status_msg": "Hello" })).ok();
    let since = bob.syncs().next_batch;
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    let is_told = |sync: &Sync| sync.presence(&alice.id).is_some_and(|content| content["displayname"] == "Alice");
    let told = bob.syncs_until(&since, is_told);
    let content = told.presence(&alice.id).expect("it was there");
    assert_eq!((&content["presence"], &content["status_msg"]), (&json!("online"), &json!("Hello")));
}

fn what_a_person_does_makes_them_active(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = alice.syncs().next_batch;
    syncs_as(&alice, &since, "unavailable");
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "unavailable");
    alice.full_state(&room).ok();
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "unavailable", "reading is not acting");
    alice.sends(&room, "I am back");
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "online");
    syncs_as(&alice, &since, "offline");
    alice.sends(&room, "I hide");
    assert_eq!(bob.looks_at(&alice).ok()["presence"], "offline");
}

fn a_deactivated_user_has_none(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.sets_presence(json!({ "presence": "online" })).ok();
    let since = bob.syncs_until(&since, |sync| sync.shows(&alice, "online")).next_batch;
    let auth = json!({ "type": "m.login.password", "password": harness::PASSWORD, "identifier": { "type": "m.id.user", "user": alice.id } });
    alice.post("/account/deactivate", json!({ "auth": auth })).ok();
    bob.syncs_until(&since, |sync| sync.shows(&alice, "offline"));
    bob.looks_at(&alice).refused(404, "M_NOT_FOUND");
}

fn nothing_is_told_where_it_is_switched_off(server: &Server) {
    let server = Server::with(server.host(), &[("PRESENCE", "off")]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    alice.sets_presence(json!({ "presence": "online" })).ok();
    let sync = bob.syncs();
    assert!(sync.body.get("presence").is_none(), "{}", sync.body);
    assert_eq!(bob.looks_at(&alice).ok(), json!({ "presence": "offline" }));
    alice.sends(&room, "Hello");
    let sync = bob.syncs_until(&sync.next_batch, |sync| sync.has_message(&room, "Hello"));
    assert!(sync.body.get("presence").is_none(), "{}", sync.body);
}
