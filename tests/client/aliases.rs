//! Spec: client-server API, «Room aliases», `m.room.canonical_alias`; appendices, «Room Aliases».

use harness::{SERVER_NAME, SHARED_SECRET, Server, User, Value, encode, json, on_each_host};

on_each_host![
    an_alias_leads_to_its_room,
    an_alias_is_taken_once,
    only_members_make_aliases,
    an_alias_has_a_form,
    aliases_of_other_servers_are_not_ours,
    a_rooms_aliases_are_listed_for_who_may_read_it,
    who_may_delete_an_alias,
    an_administrator_may_delete_any_alias,
    a_deleted_alias_is_listed_no_longer,
    an_alias_is_deleted_even_if_the_room_goes_on_listing_it,
    a_canonical_alias_points_to_its_room,
    what_a_room_lists_already_is_not_checked_again,
    malformed_canonical_aliases_are_refused,
    a_room_is_joined_and_knocked_on_by_its_alias,
    a_room_is_created_with_an_alias,
    a_taken_alias_makes_no_room,
    a_failed_creation_frees_the_alias,
    a_new_room_lists_no_alias_of_others,
    an_upgrade_takes_the_aliases_along,
];

/// An alias of this server that nobody else's story uses.
fn alias(user: &User, name: &str) -> String {
    format!("#{}-{name}:{SERVER_NAME}", user.localpart())
}

fn adds(user: &User, alias: &str, room: &str) -> harness::Answer {
    user.put(&format!("/directory/room/{}", encode(alias)), json!({ "room_id": room }))
}

fn deletes(user: &User, alias: &str) -> harness::Answer {
    user.client().delete(&format!("/_matrix/client/v3/directory/room/{}", encode(alias)))
}

fn finds(server: &Server, alias: &str) -> harness::Answer {
    server.anonymous().get(&format!("/_matrix/client/v3/directory/room/{}", encode(alias)))
}

fn lists(user: &User, room: &str) -> harness::Answer {
    user.get(&format!("/rooms/{}/aliases", encode(room)))
}

fn sets_canonical(user: &User, room: &str, content: Value) -> harness::Answer {
    user.sets_state(room, "m.room.canonical_alias", "", content)
}

fn canonical(user: &User, room: &str) -> Value {
    user.state(room, "m.room.canonical_alias", "").ok()
}

fn an_alias_leads_to_its_room(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for name in ["tea", "mit Leerzeichen", "ü🫖/?%#"] {
        let alias = alias(&alice, name);
        finds(server, &alias).refused(404, "M_NOT_FOUND");
        assert_eq!(adds(&alice, &alias, &room).ok(), json!({}));
        assert_eq!(finds(server, &alias).ok(), json!({ "room_id": room, "servers": [SERVER_NAME] }), "{alias}");
    }
}

fn an_alias_is_taken_once(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (hers, his) = (alice.creates_room(json!({})), bob.creates_room(json!({})));
    let tea = alias(&alice, "tea");
    adds(&alice, &tea, &hers).ok();
    adds(&alice, &tea, &hers).refused(409, "M_UNKNOWN");
    adds(&bob, &tea, &his).refused(409, "M_UNKNOWN");
    let another = alice.creates_room(json!({}));
    adds(&alice, &tea, &another).refused(409, "M_UNKNOWN");
    assert_eq!(finds(server, &tea).ok()["room_id"], hers);
}

fn only_members_make_aliases(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "invite": [bob.id] }));
    let tea = alias(&bob, "tea");
    adds(&bob, &tea, &room).refused(403, "M_FORBIDDEN");
    adds(&bob, &tea, "!nowhere:myelin.test").refused(403, "M_FORBIDDEN");
    let path = format!("/_matrix/client/v3/directory/room/{}", encode(&tea));
    server.anonymous().put(&path, json!({ "room_id": room })).refused(401, "M_MISSING_TOKEN");
    bob.joins(&room).ok();
    adds(&bob, &tea, &room).ok();
}

fn an_alias_has_a_form(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let long = format!("#{}:{SERVER_NAME}", "x".repeat(254 - SERVER_NAME.len()));
    for wrong in
        ["tea", "#tea", "tea:myelin.test", "!tea:myelin.test", "#tea:", "#:myelin.test", "#a\0:myelin.test", &long]
    {
        adds(&alice, wrong, &room).refused(400, "M_INVALID_PARAM");
    }
    finds(server, "tea").refused(400, "M_INVALID_PARAM");
    let path = format!("/directory/room/{}", encode(&alias(&alice, "tea")));
    alice.put(&path, json!({})).refused(400, "M_BAD_JSON");
    alice.put(&path, json!({ "room_id": "room" })).refused(400, "M_BAD_JSON");
}

fn aliases_of_other_servers_are_not_ours(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    adds(&alice, "#tea:elsewhere.test", &room).refused(400, "M_INVALID_PARAM");
    finds(server, "#tea:elsewhere.test").refused(502, "M_UNKNOWN");
    deletes(&alice, "#tea:elsewhere.test").refused(404, "M_NOT_FOUND");
    alice.post("/join/%23tea%3Aelsewhere.test", json!({})).refused(502, "M_UNKNOWN");
}

fn a_rooms_aliases_are_listed_for_who_may_read_it(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    assert_eq!(lists(&alice, &room).ok(), json!({ "aliases": [] }));
    let (one, two) = (alias(&alice, "a"), alias(&alice, "b"));
    adds(&alice, &two, &room).ok();
    adds(&alice, &one, &room).ok();
    assert_eq!(lists(&alice, &room).ok(), json!({ "aliases": [one, two] }));
    lists(&bob, &room).refused(403, "M_FORBIDDEN");
    lists(&bob, "!nowhere:myelin.test").refused(403, "M_FORBIDDEN");
    bob.joins(&room).ok();
    lists(&bob, &room).ok();
    bob.leaves(&room).ok();
    lists(&bob, &room).refused(403, "M_FORBIDDEN");
    let open = json!({ "history_visibility": "world_readable" });
    alice.sets_state(&room, "m.room.history_visibility", "", open).ok();
    assert_eq!(lists(&bob, &room).ok(), json!({ "aliases": [one, two] }));
}

fn who_may_delete_an_alias(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room_with(&[&bob, &carol]);
    let (hers, his) = (alias(&alice, "hers"), alias(&bob, "his"));
    adds(&alice, &hers, &room).ok();
    adds(&bob, &his, &room).ok();
    for alias in [&hers, &his] {
        deletes(&carol, alias).refused(403, "M_FORBIDDEN");
    }
    deletes(&bob, &hers).refused(403, "M_FORBIDDEN");
    deletes(&bob, &his).ok();
    deletes(&bob, &his).refused(404, "M_NOT_FOUND");
    adds(&bob, &his, &room).ok();
    bob.leaves(&room).ok();
    assert_eq!(deletes(&alice, &his).ok(), json!({}), "who may set the canonical alias may delete any");
    finds(server, &his).refused(404, "M_NOT_FOUND");
    adds(&carol, &alias(&carol, "left"), &room).ok();
    carol.leaves(&room).ok();
    deletes(&carol, &alias(&carol, "left")).ok();
}

fn an_administrator_may_delete_any_alias(server: &Server) {
    let alice = server.registers("alice");
    let account = server.registers_by_secret(&server.unique("operator"), SHARED_SECRET, true).ok();
    let admin = User::from_login(&server.anonymous(), &account);
    let room = alice.creates_room(json!({}));
    let tea = alias(&alice, "tea");
    adds(&admin, &tea, &room).ok();
    assert_eq!(lists(&admin, &room).ok(), json!({ "aliases": [tea] }));
    deletes(&alice, &tea).ok();
    adds(&alice, &tea, &room).ok();
    deletes(&admin, &tea).ok();
    finds(server, &tea).refused(404, "M_NOT_FOUND");
}

fn a_deleted_alias_is_listed_no_longer(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let (one, two) = (alias(&alice, "one"), alias(&alice, "two"));
    for alias in [&one, &two] {
        adds(&alice, alias, &room).ok();
    }
    sets_canonical(&alice, &room, json!({ "alias": one, "alt_aliases": [two, one], "org.example": 1 })).ok();
    deletes(&alice, &one).ok();
    assert_eq!(canonical(&alice, &room), json!({ "alt_aliases": [two], "org.example": 1 }));
    deletes(&alice, &two).ok();
    assert_eq!(canonical(&alice, &room), json!({ "alt_aliases": [], "org.example": 1 }));
}

fn an_alias_is_deleted_even_if_the_room_goes_on_listing_it(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let tea = alias(&bob, "tea");
    adds(&bob, &tea, &room).ok();
    sets_canonical(&alice, &room, json!({ "alias": tea })).ok();
    deletes(&bob, &tea).ok();
    finds(server, &tea).refused(404, "M_NOT_FOUND");
    assert_eq!(canonical(&alice, &room), json!({ "alias": tea }));
}

fn a_canonical_alias_points_to_its_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (room, other) = (alice.creates_room_with(&[&bob]), alice.creates_room(json!({})));
    let (here, there) = (alias(&alice, "here"), alias(&alice, "there"));
    adds(&alice, &here, &room).ok();
    adds(&alice, &there, &other).ok();
    let nowhere = alias(&alice, "nowhere");
    for bad in [&there, &nowhere, &"#tea:elsewhere.test".to_owned()] {
        sets_canonical(&alice, &room, json!({ "alias": bad })).refused(400, "M_BAD_ALIAS");
        sets_canonical(&alice, &room, json!({ "alias": here, "alt_aliases": [bad] })).refused(400, "M_BAD_ALIAS");
        // Whoever may not set it learns nothing of where it points.
        sets_canonical(&bob, &room, json!({ "alias": bad })).refused(403, "M_FORBIDDEN");
    }
    alice.state(&room, "m.room.canonical_alias", "").refused(404, "M_NOT_FOUND");
    for content in
        [json!({ "alias": here, "alt_aliases": [here] }), json!({ "alias": "" }), json!({ "alias": null }), json!({})]
    {
        sets_canonical(&alice, &room, content.clone()).ok();
        assert_eq!(canonical(&alice, &room), content);
    }
    // With another state key it is nobody's canonical alias.
    alice.sets_state(&room, "m.room.canonical_alias", "key", json!({ "alias": nowhere })).ok();
}

/// «Servers do not validate aliases which are being removed or are already present in the state event.»
fn what_a_room_lists_already_is_not_checked_again(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (gone, new) = (alias(&bob, "gone"), alias(&alice, "new"));
    adds(&bob, &gone, &room).ok();
    sets_canonical(&alice, &room, json!({ "alias": gone })).ok();
    deletes(&bob, &gone).ok();
    adds(&alice, &new, &room).ok();
    sets_canonical(&alice, &room, json!({ "alias": new, "alt_aliases": [gone] })).ok();
    sets_canonical(&alice, &room, json!({ "alias": gone, "alt_aliases": [gone] })).ok();
    sets_canonical(&alice, &room, json!({ "alias": new })).ok();
    sets_canonical(&alice, &room, json!({ "alias": new, "alt_aliases": [gone] })).refused(400, "M_BAD_ALIAS");
}

fn malformed_canonical_aliases_are_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    for content in [
        json!({ "alias": "tea" }),
        json!({ "alias": "#tea" }),
        json!({ "alias": 1 }),
        json!({ "alt_aliases": ["tea"] }),
        json!({ "alt_aliases": [1] }),
        json!({ "alt_aliases": "#tea:myelin.test" }),
        json!({ "alias": format!("#{}:{SERVER_NAME}", "x".repeat(255)) }),
    ] {
        sets_canonical(&alice, &room, content).refused(400, "M_INVALID_PARAM");
    }
}

fn a_room_is_joined_and_knocked_on_by_its_alias(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let tea = alias(&alice, "tea /?");
    let path = format!("/join/{}", encode(&tea));
    bob.post(&path, json!({})).refused(404, "M_NOT_FOUND");
    adds(&alice, &tea, &room).ok();
    assert_eq!(bob.post(&path, json!({})).ok(), json!({ "room_id": room }));
    assert_eq!(bob.post(&format!("/join/{}", encode(&room)), json!({})).ok(), json!({ "room_id": room }));
    bob.state(&room, "m.room.create", "").ok();
    let carol = server.registers("carol");
    alice.sets_state(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).ok();
    assert_eq!(carol.post(&format!("/knock/{}", encode(&tea)), json!({})).ok(), json!({ "room_id": room }));
}

fn a_room_is_created_with_an_alias(server: &Server) {
    let alice = server.registers("alice");
    for version in ["1", "10", "12"] {
        let name = format!("{} tea {version}", alice.localpart());
        let tea = format!("#{name}:{SERVER_NAME}");
        let room = alice.creates_room(json!({ "room_alias_name": name, "room_version": version }));
        assert_eq!(finds(server, &tea).ok()["room_id"], room);
        assert_eq!(canonical(&alice, &room), json!({ "alias": tea }));
        assert_eq!(lists(&alice, &room).ok(), json!({ "aliases": [tea] }));
        let mut kinds: Vec<_> = alice.pages_back(&room, None, 50).iter().map(|event| event["type"].clone()).collect();
        kinds.reverse();
        assert_eq!(kinds[2..4], ["m.room.power_levels", "m.room.canonical_alias"], "{kinds:?}");
        deletes(&alice, &tea).ok();
    }
}

fn a_taken_alias_makes_no_room(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "room_alias_name": alice.localpart() }));
    for user in [&alice, &bob] {
        user.post("/createRoom", json!({ "room_alias_name": alice.localpart() })).refused(400, "M_ROOM_IN_USE");
    }
    assert_eq!(bob.get("/joined_rooms").ok()["joined_rooms"], json!([]));
    assert_eq!(alice.get("/joined_rooms").ok()["joined_rooms"], json!([room]));
    for wrong in ["", "tea:myelin.test", "a\0", &"x".repeat(255)] {
        alice.post("/createRoom", json!({ "room_alias_name": wrong })).refused(400, "M_INVALID_PARAM");
    }
}

fn a_failed_creation_frees_the_alias(server: &Server) {
    let alice = server.registers("alice");
    let impossible = json!({
        "room_alias_name": alice.localpart(), "name": "Nobody may name it", "room_version": "11",
        "power_level_content_override": { "users": { (alice.id.as_str()): 0 } },
    });
    alice.post("/createRoom", impossible).refused(400, "M_INVALID_ROOM_STATE");
    finds(server, &format!("#{}:{SERVER_NAME}", alice.localpart())).refused(404, "M_NOT_FOUND");
    alice.creates_room(json!({ "room_alias_name": alice.localpart() }));
}

fn a_new_room_lists_no_alias_of_others(server: &Server) {
    let alice = server.registers("alice");
    let tea = alias(&alice, "tea");
    adds(&alice, &tea, &alice.creates_room(json!({}))).ok();
    let with = |content: Value| json!({ "initial_state": [{ "type": "m.room.canonical_alias", "content": content }] });
    alice.post("/createRoom", with(json!({ "alias": tea }))).refused(400, "M_BAD_ALIAS");
    alice.post("/createRoom", with(json!({ "alias": "tea" }))).refused(400, "M_INVALID_PARAM");
    let mut own = with(json!({ "alt_aliases": [format!("#{}:{SERVER_NAME}", alice.localpart())] }));
    own["room_alias_name"] = alice.localpart().into();
    let room = alice.creates_room(own.clone());
    assert_eq!(canonical(&alice, &room), own["initial_state"][0]["content"], "it takes precedence");
}

/// «Moves any local aliases to the new room.»
fn an_upgrade_takes_the_aliases_along(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let name = alice.localpart();
    let old = alice.creates_room(json!({ "room_alias_name": name, "room_version": "10", "invite": [bob.id] }));
    bob.joins(&old).ok();
    let (tea, his, gone) = (format!("#{name}:{SERVER_NAME}"), alias(&bob, "his"), alias(&bob, "gone"));
    adds(&bob, &his, &old).ok();
    adds(&bob, &gone, &old).ok();
    sets_canonical(&alice, &old, json!({ "alias": tea, "alt_aliases": [his, gone] })).ok();
    deletes(&bob, &gone).ok();
    let upgrade = || alice.post(&format!("/rooms/{}/upgrade", encode(&old)), json!({ "new_version": "12" })).ok();
    let new = upgrade()["replacement_room"].as_str().expect("a room").to_owned();
    for alias in [&tea, &his] {
        assert_eq!(finds(server, alias).ok()["room_id"], new);
    }
    let mut both = [tea.clone(), his.clone()];
    both.sort();
    assert_eq!(lists(&alice, &new).ok()["aliases"], json!(both));
    assert_eq!(lists(&alice, &old).ok(), json!({ "aliases": [] }));
    let content = json!({ "alias": tea, "alt_aliases": [his] });
    assert_eq!(canonical(&alice, &new), content);
    assert_eq!(canonical(&alice, &old), json!({}));
    assert_eq!(upgrade()["replacement_room"], new, "asked again");
    assert_eq!(canonical(&alice, &new), content);
    deletes(&bob, &his).ok();
}
