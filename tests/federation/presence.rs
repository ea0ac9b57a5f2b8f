//! Spec: server-server API, «Presence»: users of two servers of ours, the host under test and a native one, and what a
//! server that the test plays is told and may tell.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Host, User, encode, json};

use crate::{
    guest::{Guest, VERSION},
    network::{Federated, on_each_host},
};

on_each_host![who_is_there_is_seen_across, only_ones_own_users_are_believed, nothing_is_told_where_it_is_switched_off,];

/// How long something may take to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

#[track_caller]
fn becomes(what: &str, look: impl Fn() -> Answer) {
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        // Who shares a room is known a moment after the join.
        let presence = look().body["presence"].clone();
        if presence == *what {
            return;
        }
        assert!(Instant::now() < deadline, "it stays {presence}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn joins_by(user: &User, room: &str, via: &Federated) -> harness::Answer {
    user.post(&format!("/join/{}?via={}", encode(room), encode(&via.name)), json!({}))
}

fn who_is_there_is_seen_across(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    bob.looks_at(&alice).refused(403, "M_FORBIDDEN");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    alice.sets_presence(json!({ "presence": "online", "status_msg": "Tea" })).ok();
    joins_by(&bob, &room, &here).ok();
    // Whoever comes learns who is there, and the others of them.
    becomes("online", || bob.looks_at(&alice));
    assert_eq!(bob.looks_at(&alice).ok()["status_msg"], "Tea");
    bob.sets_presence(json!({ "presence": "unavailable", "status_msg": "Coffee" })).ok();
    becomes("unavailable", || alice.looks_at(&bob));
    let seen = alice.sees(|sync| sync.shows(&bob, "unavailable"));
    assert_eq!(seen.presence(&bob.id).unwrap()["status_msg"], "Coffee");
    for (looker, whom) in [(&alice, &bob), (&bob, &alice)] {
        let since = looker.syncs().next_batch;
        for state in ["online", "offline"] {
            whom.sets_presence(json!({ "presence": state })).ok();
            looker.syncs_until(&since, |sync| sync.shows(whom, state));
            becomes(state, || looker.looks_at(whom));
        }
    }
    bob.leaves(&room).ok();
    alice.sees(|_| alice.looks_at(&bob).status == 403);
    alice.looks_at(&bob).refused(403, "M_FORBIDDEN");
}

fn only_ones_own_users_are_believed(host: Host) {
    let (here, there) = (Federated::starts(host), Federated::starts(Host::Native));
    let (alice, bob) = (here.server.registers("alice"), there.server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    joins_by(&bob, &room, &here).ok();
    let zoe = Guest::joins(&here, &room, "zoe");
    let stranger = format!("@stranger:{}", zoe.homeserver.name);
    let tells = |pushes: harness::Value| {
        zoe.sends(&json!({ "edus": [{ "edu_type": "m.presence", "content": { "push": pushes } }] })).ok();
    };
    let push = |user: &str, presence: &str| json!({ "user_id": user, "presence": presence, "last_active_ago": 5 });
    let since = alice.syncs().next_batch;
    tells(json!([
        push(&bob.id, "online"),
        push(&alice.id, "unavailable"),
        push(&stranger, "online"),
        "nonsense",
        { "user_id": zoe.id, "presence": "busy", "last_active_ago": 5 },
        { "user_id": zoe.id, "presence": "online", "last_active_ago": -5 },
        { "user_id": zoe.id, "presence": "online", "last_active_ago": 5, "currently_active": false, "status_msg": "Hi" },
    ]));
    let seen = alice.syncs_until(&since, |sync| sync.presence(&zoe.id).is_some());
    let shown = seen.presence(&zoe.id).unwrap();
    assert_eq!((&shown["presence"], &shown["status_msg"]), (&json!("online"), &json!("Hi")));
    assert_eq!(shown["currently_active"], false);
    for untrue in [&bob.id, &stranger] {
        assert_eq!(seen.presence(untrue), None);
    }
    assert_eq!(alice.looks_at(&bob).ok()["presence"], "offline");
    assert_ne!(alice.looks_at(&alice).ok()["presence"], "unavailable");
    let path = |user: &str| format!("/presence/{}/status", encode(user));
    alice.get(&path(&stranger)).refused(403, "M_FORBIDDEN");
    assert_eq!(alice.get(&path(&zoe.id)).ok()["presence"], "online");
    // And it is told how ours are, in the words of the specification.
    zoe.homeserver.https.takes_received();
    alice.sets_presence(json!({ "presence": "unavailable", "status_msg": "Lunch" })).ok();
    let told = zoe.hears(|edu| {
        edu["edu_type"] == "m.presence"
            && edu["content"]["push"].as_array().is_some_and(|push| push.iter().any(|p| p["status_msg"] == "Lunch"))
    });
    let push = told["content"]["push"].as_array().unwrap().iter().find(|push| push["status_msg"] == "Lunch").unwrap();
    assert_eq!((&push["user_id"], &push["presence"]), (&json!(alice.id), &json!("unavailable")));
    assert_eq!(push["currently_active"], false);
    assert!(push["last_active_ago"].is_u64(), "{push}");
}

fn nothing_is_told_where_it_is_switched_off(host: Host) {
    let here = Federated::starts_with(host, &[("PRESENCE", "off")]);
    let alice = here.server.registers("alice");
    let room = alice.creates_room(json!({ "preset": "public_chat", "room_version": VERSION }));
    let zoe = Guest::joins(&here, &room, "zoe");
    alice.sets_presence(json!({ "presence": "online" })).ok();
    let push = json!([{ "user_id": zoe.id, "presence": "online", "last_active_ago": 5 }]);
    zoe.sends(&json!({ "edus": [{ "edu_type": "m.presence", "content": { "push": push } }] })).ok();
    assert_eq!(alice.get(&format!("/presence/{}/status", encode(&zoe.id))).ok()["presence"], "offline");
    // Who types goes the same way, and after it: when it is there, so is what came before it.
    alice.types(&room, json!({ "typing": true, "timeout": 20_000 })).ok();
    let told = zoe.hears_until(|edu| edu["edu_type"] == "m.typing");
    assert!(told.iter().all(|edu| edu["edu_type"] != "m.presence"), "{told:?}");
}
