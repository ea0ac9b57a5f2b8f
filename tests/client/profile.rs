//! Spec: client-server API, «Profiles».

use harness::{Server, User, json, on_each_host};

on_each_host![
    a_display_name_is_set_and_read,
    an_avatar_is_set_and_read,
    a_profile_holds_both,
    anothers_profile_is_not_ours_to_set,
    an_unknown_profile_is_not_found,
    fields_of_any_kind_are_set_and_deleted,
    a_profile_takes_only_what_it_should,
    a_deleted_name_leaves_the_rooms,
    a_field_is_set_by_its_old_path,
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

fn fields_of_any_kind_are_set_and_deleted(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for (field, value) in [
        ("displayname", json!("Alice")),
        ("avatar_url", json!("mxc://myelin.test/a")),
        ("m.tz", json!("Europe/Zurich")),
        ("org.example.likes", json!({ "tea": [1, null, true] })),
        ("org.example.nothing", json!(null)),
    ] {
        let path = format!("/profile/{}/{field}", alice.id);
        bob.get(&path).refused(404, "M_NOT_FOUND");
        assert_eq!(alice.put(&path, json!({ field: value })).ok(), json!({}));
        assert_eq!(bob.get(&path).ok(), json!({ field: value }));
        assert_eq!(bob.get(&format!("/profile/{}", alice.id)).ok()[field], value);
        let deleted = format!("/_matrix/client/v3{path}");
        bob.client().delete(&deleted).refused(403, "M_FORBIDDEN");
        // «The profile field was deleted or it doesn't exist.»
        for _again in 0..2 {
            assert_eq!(alice.client().delete(&deleted).ok(), json!({}));
            bob.get(&path).refused(404, "M_NOT_FOUND");
        }
        assert!(bob.get(&format!("/profile/{}", alice.id)).ok().get(field).is_none());
    }
}

/// Clients that know MSC4133 from before v1.16.
fn a_field_is_set_by_its_old_path(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let field = "org.example.likes";
    let path = format!("/_matrix/client/unstable/uk.tcpip.msc4133/profile/{}/{field}", alice.id);
    let set = |user: &User| user.client().send("PUT", &path, Some(json!({ field: "tea" }).to_string()));
    set(&bob).refused(403, "M_FORBIDDEN");
    assert_eq!(set(&alice).ok(), json!({}));
    assert_eq!(bob.client().get(&path).ok(), json!({ field: "tea" }));
    assert_eq!(bob.get(&format!("/profile/{}", alice.id)).ok()[field], "tea");
    alice.client().delete(&path).ok();
    bob.client().get(&path).refused(404, "M_NOT_FOUND");
}

fn a_profile_takes_only_what_it_should(server: &Server) {
    let alice = server.registers("alice");
    let put = |field: &str, body: harness::Value| alice.put(&format!("/profile/{}/{field}", alice.id), body);
    for (field, value, errcode) in [
        ("displayname", json!(1), "M_BAD_JSON"),
        ("displayname", json!(null), "M_BAD_JSON"),
        ("avatar_url", json!(["mxc://myelin.test/a"]), "M_BAD_JSON"),
        ("avatar_url", json!("https://example.org/a.png"), "M_INVALID_PARAM"),
        ("m.tz", json!({}), "M_BAD_JSON"),
        ("nickname", json!("A"), "M_INVALID_PARAM"),
        ("Org.Example.key", json!("A"), "M_INVALID_PARAM"),
        ("org.example.key", json!("x".repeat(65_536)), "M_PROFILE_TOO_LARGE"),
        (&format!("org.{}", "x".repeat(252)), json!("A"), "M_KEY_TOO_LARGE"),
    ] {
        put(field, json!({ field: value })).refused(400, errcode);
    }
    put("org.example.key", json!({})).refused(400, "M_MISSING_PARAM");
    let path = format!("/_matrix/client/v3/profile/{}/org.example.key", alice.id);
    alice.client().send("PUT", &path, Some("{".to_owned())).refused(400, "M_BAD_JSON");
    alice.client().delete(&format!("/_matrix/client/v3/profile/{}/nickname", alice.id)).refused(400, "M_INVALID_PARAM");
    put(&format!("org.{}", "x".repeat(251)), json!({ format!("org.{}", "x".repeat(251)): 1 })).ok();
    // The bound is on all fields together.
    put("org.example.one", json!({ "org.example.one": "x".repeat(40_000) })).ok();
    put("org.example.two", json!({ "org.example.two": "x".repeat(40_000) })).refused(400, "M_PROFILE_TOO_LARGE");
}

fn a_deleted_name_leaves_the_rooms(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let path = format!("/profile/{}/displayname", alice.id);
    alice.put(&path, json!({ "displayname": "Alice" })).ok();
    let room = alice.creates_room_with(&[&bob]);
    let since = bob.syncs().next_batch;
    alice.client().delete(&format!("/_matrix/client/v3{path}")).ok();
    bob.syncs_until(&since, |sync| {
        sync.timeline(&room).iter().any(|event| {
            event["type"] == "m.room.member"
                && event["state_key"] == *alice.id
                && event["content"].get("displayname").is_none()
                && event["content"]["membership"] == "join"
        })
    });
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
