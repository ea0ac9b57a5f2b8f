//! Spec: client-server API, «Profiles».

use harness::{Server, json, on_each_host};

on_each_host![
    a_display_name_is_set_and_read,
    an_avatar_is_set_and_read,
    a_profile_holds_both,
    anothers_profile_is_not_ours_to_set,
    an_unknown_profile_is_not_found,
    rooms_learn_of_a_new_name,
    a_joiner_brings_the_profile,
];

fn a_display_name_is_set_and_read(server: &Server) {
    let alice = server.registers("alice");
    let path = format!("/profile/{}/displayname", alice.id);
    alice.put(&path, json!({ "displayname": "Alice 👋" })).ok();
    assert_eq!(server.registers("bob").get(&path).ok(), json!({ "displayname": "Alice 👋" }));
    alice.put(&path, json!({ "displayname": "Alice again" })).ok();
    assert_eq!(alice.get(&path).ok()["displayname"], "Alice again");
}

fn an_avatar_is_set_and_read(server: &Server) {
    let alice = server.registers("alice");
    let path = format!("/profile/{}/avatar_url", alice.id);
    alice.put(&path, json!({ "avatar_url": "mxc://myelin.test/alice" })).ok();
    assert_eq!(alice.get(&path).ok(), json!({ "avatar_url": "mxc://myelin.test/alice" }));
}

fn a_profile_holds_both(server: &Server) {
    let alice = server.registers("alice");
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    alice.put(&format!("/profile/{}/avatar_url", alice.id), json!({ "avatar_url": "mxc://myelin.test/a" })).ok();
    let profile = server.registers("bob").get(&format!("/profile/{}", alice.id)).ok();
    assert_eq!(profile["displayname"], "Alice");
    assert_eq!(profile["avatar_url"], "mxc://myelin.test/a");
}

fn anothers_profile_is_not_ours_to_set(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let path = format!("/profile/{}/displayname", alice.id);
    bob.put(&path, json!({ "displayname": "Mallory" })).refused(403, "M_FORBIDDEN");
}

fn an_unknown_profile_is_not_found(server: &Server) {
    let alice = server.registers("alice");
    alice.get("/profile/@nobody-at-all:myelin.test").refused(404, "M_NOT_FOUND");
    alice.get("/profile/@nobody-at-all:myelin.test/displayname").refused(404, "M_NOT_FOUND");
}

fn rooms_learn_of_a_new_name(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Renamed" })).ok();
    bob.syncs_until(&since, |sync| {
        sync.timeline(&room).iter().any(|event| {
            event["type"] == "m.room.member"
                && event["state_key"] == *alice.id
                && event["content"]["displayname"] == "Renamed"
                && event["content"]["membership"] == "join"
        })
    });
}

fn a_joiner_brings_the_profile(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    bob.put(&format!("/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).ok();
    let room = alice.creates_room_with(&[&bob]);
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).ok()["displayname"], "Bob");
    let joined = alice.get(&format!("/rooms/{room}/joined_members")).ok();
    assert_eq!(joined["joined"][&bob.id]["display_name"], "Bob");
}
