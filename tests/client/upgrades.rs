//! Spec: client-server API, «Room Upgrades».

use harness::{Answer, Server, User, Value, encode, json, on_each_host};

on_each_host![
    a_room_is_replaced,
    what_is_recommended_is_transferred,
    an_upgrade_is_repeatable,
    who_may_not_bury_the_room_may_not_upgrade_it,
    versions_are_those_of_the_server,
    additional_creators_are_who_is_named,
    power_is_carried_over_into_version_12,
    bans_are_carried_over,
    the_old_room_is_closed,
    a_moderator_upgrades_without_gaining_power,
    a_space_keeps_its_children,
    a_room_is_upgraded_twice,
    a_successor_is_upgraded_in_turn,
    the_upgrader_is_in_both,
    settings_follow_into_the_successor,
];

fn upgrades(user: &User, room: &str, version: &str) -> Answer {
    user.post(&format!("/rooms/{}/upgrade", encode(room)), json!({ "new_version": version }))
}

#[track_caller]
fn upgraded(user: &User, room: &str, version: &str) -> String {
    let answer = upgrades(user, room, version).ok();
    answer["replacement_room"].as_str().expect("a room").to_owned()
}

fn content(user: &User, room: &str, kind: &str) -> Value {
    user.state(room, kind, "").ok()
}

fn a_room_is_replaced(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    for (from, to) in [("1", "9"), ("9", "10"), ("10", "11"), ("11", "12"), ("12", "12"), ("12", "11")] {
        let old = alice.creates_room(json!({
            "room_version": from, "invite": [bob.id], "creation_content": { "m.federate": false },
        }));
        bob.joins(&old).ok();
        let since = bob.syncs().next_batch;
        let last = alice.sends(&old, "the last word");
        let new = upgraded(&alice, &old, to);
        assert_ne!(old, new);
        let create = content(&alice, &new, "m.room.create");
        assert_eq!(create["room_version"], to);
        assert_eq!(create["predecessor"], json!({ "room_id": old, "event_id": last }));
        assert_eq!((&create["m.federate"], create.get("type")), (&json!(false), None));
        let tombstone = content(&alice, &old, "m.room.tombstone");
        assert_eq!(tombstone["replacement_room"], new);
        assert!(tombstone["body"].is_string(), "{tombstone}");
        // Members hear of it.
        let sync =
            bob.syncs_until(&since, |sync| sync.timeline(&old).iter().any(|event| event["type"] == "m.room.tombstone"));
        assert!(sync.joined(&new).is_null(), "nobody is moved");
    }
}

fn what_is_recommended_is_transferred(server: &Server) {
    let alice = server.registers("alice");
    let state = [
        ("m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.example"] })),
        ("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
        ("m.room.name", json!({ "name": "Tea" })),
        ("m.room.avatar", json!({ "url": "mxc://a/b" })),
        ("m.room.topic", json!({ "topic": "Leaves", "m.topic": { "m.text": [{ "body": "Leaves" }] } })),
        ("m.room.guest_access", json!({ "guest_access": "forbidden" })),
        ("m.room.history_visibility", json!({ "history_visibility": "joined" })),
        ("m.room.join_rules", json!({ "join_rule": "knock" })),
    ];
    let initial = state.iter().map(|(kind, content)| json!({ "type": kind, "content": content }));
    let mut initial: Vec<Value> = initial.collect();
    initial.push(json!({ "type": "org.example.widget", "content": { "trusted": alice.id } }));
    let old = alice.creates_room(json!({ "room_version": "10", "initial_state": initial }));
    let new = upgraded(&alice, &old, "11");
    for (kind, expected) in state {
        assert_eq!(content(&alice, &new, kind), expected, "{kind}");
    }
    assert_eq!(content(&alice, &new, "m.room.power_levels")["users"], json!({ (alice.id.as_str()): 100 }));
    alice.state(&new, "org.example.widget", "").refused(404, "M_NOT_FOUND");
    alice.state(&new, "m.room.tombstone", "").refused(404, "M_NOT_FOUND");
}

fn an_upgrade_is_repeatable(server: &Server) {
    let alice = server.registers("alice");
    let old = alice.creates_room(json!({ "room_version": "11" }));
    let new = upgraded(&alice, &old, "12");
    for _ in 0..2 {
        assert_eq!(upgraded(&alice, &old, "12"), new, "a lost answer makes no second successor");
    }
    let tombstones = alice.pages_back(&old, None, 50).iter().filter(|it| it["type"] == "m.room.tombstone").count();
    assert_eq!(tombstones, 1);
    assert_eq!(alice.get("/joined_rooms").ok()["joined_rooms"].as_array().map(Vec::len), Some(2));
}

fn who_may_not_bury_the_room_may_not_upgrade_it(server: &Server) {
    let (alice, bob, mallory) = (server.registers("alice"), server.registers("bob"), server.registers("mallory"));
    let old = alice.creates_room(json!({ "invite": [bob.id], "room_version": "11" }));
    bob.joins(&old).ok();
    for stranger in [&bob, &mallory] {
        upgrades(stranger, &old, "12").refused(403, "M_FORBIDDEN");
    }
    upgrades(&mallory, "!never:myelin.test", "12").refused(403, "M_FORBIDDEN");
    let new = upgraded(&alice, &old, "12");
    let refused = upgrades(&bob, &old, "12").refused(403, "M_FORBIDDEN");
    assert!(!refused.to_string().contains(&new), "{refused}");
}

fn versions_are_those_of_the_server(server: &Server) {
    let alice = server.registers("alice");
    let old = alice.creates_room(json!({}));
    for version in ["13", "", "1 2", "org.example.none"] {
        upgrades(&alice, &old, version).refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    }
    let path = format!("/rooms/{}/upgrade", encode(&old));
    alice.post(&path, json!({ "new_version": 12 })).refused(400, "M_BAD_JSON");
    alice.post(&path, json!({})).refused(400, "M_BAD_JSON");
    alice.post(&path, json!({ "new_version": "12", "additional_creators": ["bob"] })).refused(400, "M_BAD_JSON");
    alice.state(&old, "m.room.tombstone", "").refused(404, "M_NOT_FOUND");
}

fn additional_creators_are_who_is_named(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let old = alice.creates_room(json!({ "creation_content": { "additional_creators": [bob.id] } }));
    let create = content(&alice, &upgraded(&alice, &old, "12"), "m.room.create");
    assert_eq!(create.get("additional_creators"), None, "not carried over by themselves: {create}");
    let old = alice.creates_room(json!({}));
    let path = format!("/rooms/{}/upgrade", encode(&old));
    let named = json!({ "new_version": "12", "additional_creators": [bob.id] });
    let new = alice.post(&path, named).ok()["replacement_room"].as_str().expect("a room").to_owned();
    assert_eq!(content(&alice, &new, "m.room.create")["additional_creators"], json!([bob.id]));
    let old = alice.creates_room(json!({}));
    let path = format!("/rooms/{}/upgrade", encode(&old));
    let named = json!({ "new_version": "11", "additional_creators": ["nobody"] });
    let new = alice.post(&path, named).ok()["replacement_room"].as_str().expect("a room").to_owned();
    assert_eq!(content(&alice, &new, "m.room.create").get("additional_creators"), None, "ignored");
}

fn power_is_carried_over_into_version_12(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let old = alice.creates_room(json!({
        "room_version": "11",
        "power_level_content_override": {
            "users": { (alice.id.as_str()): 100, (bob.id.as_str()): 100, (carol.id.as_str()): 50 }, "ban": 60,
        },
    }));
    let new = upgraded(&alice, &old, "12");
    let levels = content(&alice, &new, "m.room.power_levels");
    assert_eq!(levels["users"], json!({ (bob.id.as_str()): 100, (carol.id.as_str()): 50 }), "{levels}");
    assert_eq!(levels["ban"], 60);
    assert_eq!((&levels["events_default"], &levels["invite"]), (&json!(0), &json!(0)), "not those of a closed room");
    alice.invites(&new, &bob).ok();
    bob.joins(&new).ok();
    bob.sets_state(&new, "m.room.name", "", json!({ "name": "Bob's" })).ok();
    bob.kicks(&new, &alice).refused(403, "M_FORBIDDEN");
}

fn bans_are_carried_over(server: &Server) {
    let (alice, mallory, bob) = (server.registers("alice"), server.registers("mallory"), server.registers("bob"));
    for version in ["11", "12"] {
        let old = alice.creates_room(json!({ "preset": "public_chat", "room_version": "10" }));
        bob.joins(&old).ok();
        alice.bans(&old, &mallory).ok();
        alice.bans(&old, &bob).ok();
        alice.unbans(&old, &bob).ok();
        let new = upgraded(&alice, &old, version);
        assert_eq!(
            alice.state(&new, "m.room.member", &mallory.id).ok(),
            json!({ "membership": "ban", "reason": "banned" })
        );
        mallory.joins(&new).refused(403, "M_FORBIDDEN");
        alice.state(&new, "m.room.member", &bob.id).refused(404, "M_NOT_FOUND");
        bob.joins(&new).ok();
    }
}

fn the_old_room_is_closed(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let old = alice.creates_room_with(&[&bob]);
    upgraded(&alice, &old, "12");
    let levels = content(&alice, &old, "m.room.power_levels");
    assert_eq!((&levels["events_default"], &levels["invite"]), (&json!(50), &json!(50)), "{levels}");
    bob.says(&old, "anyone?").refused(403, "M_FORBIDDEN");
    bob.invites(&old, &carol).refused(403, "M_FORBIDDEN");
    assert!(!bob.pages_back(&old, None, 50).is_empty(), "it can be read");
    bob.leaves(&old).ok();
}

fn a_moderator_upgrades_without_gaining_power(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let old = alice.creates_room(json!({
        "room_version": "10", "invite": [bob.id],
        "power_level_content_override": {
            "events": { "m.room.tombstone": 50, "m.room.server_acl": 100, "m.room.power_levels": 100 },
            "users": { (alice.id.as_str()): 100, (bob.id.as_str()): 50 },
        },
        "initial_state": [{ "type": "m.room.server_acl", "content": { "allow": ["*"] } }],
    }));
    bob.joins(&old).ok();
    let before = content(&bob, &old, "m.room.power_levels");
    let new = upgraded(&bob, &old, "11");
    assert_eq!(content(&bob, &new, "m.room.power_levels"), before);
    assert_eq!(content(&bob, &new, "m.room.server_acl"), json!({ "allow": ["*"] }));
    bob.sets_state(&new, "m.room.server_acl", "", json!({})).refused(403, "M_FORBIDDEN");
    // Closing the old room takes more than bob has: he has buried it all the same.
    assert_eq!(content(&alice, &old, "m.room.tombstone")["replacement_room"], new);
    assert_eq!(content(&alice, &old, "m.room.power_levels"), before);
}

fn a_space_keeps_its_children(server: &Server) {
    let alice = server.registers("alice");
    let space = alice.creates_room(json!({ "room_version": "11", "creation_content": { "type": "m.space" } }));
    let via = json!({ "via": ["myelin.test"], "suggested": true });
    alice.sets_state(&space, "m.space.child", "!child:myelin.test", via.clone()).ok();
    alice.sets_state(&space, "m.space.child", "!gone:myelin.test", json!({})).ok();
    let new = upgraded(&alice, &space, "12");
    assert_eq!(content(&alice, &new, "m.room.create")["type"], "m.space");
    assert_eq!(alice.state(&new, "m.space.child", "!child:myelin.test").ok(), via);
    alice.state(&new, "m.space.child", "!gone:myelin.test").refused(404, "M_NOT_FOUND");
}

fn a_room_is_upgraded_twice(server: &Server) {
    let alice = server.registers("alice");
    let old = alice.creates_room(json!({ "room_version": "6" }));
    let (mistaken, meant) = (upgraded(&alice, &old, "7"), upgraded(&alice, &old, "12"));
    assert_ne!(mistaken, meant);
    assert_eq!(content(&alice, &old, "m.room.tombstone")["replacement_room"], meant);
    assert_eq!(content(&alice, &meant, "m.room.power_levels")["events_default"], 0, "as it was before it was closed");
    // With other creators it is another room.
    let path = format!("/rooms/{}/upgrade", encode(&old));
    let named = json!({ "new_version": "12", "additional_creators": ["@bob:myelin.test"] });
    let shared = alice.post(&path, named).ok()["replacement_room"].as_str().expect("a room").to_owned();
    assert_ne!(shared, meant);
    let create = content(&alice, &shared, "m.room.create");
    assert_eq!(create["additional_creators"], json!(["@bob:myelin.test"]));
}

fn a_successor_is_upgraded_in_turn(server: &Server) {
    let alice = server.registers("alice");
    let first = alice.creates_room(json!({ "room_version": "10", "name": "Three lives" }));
    let second = upgraded(&alice, &first, "11");
    let third = upgraded(&alice, &second, "12");
    assert_eq!(content(&alice, &third, "m.room.create")["predecessor"]["room_id"], second);
    assert_eq!(content(&alice, &third, "m.room.name")["name"], "Three lives");
}

fn the_upgrader_is_in_both(server: &Server) {
    let alice = server.registers("alice");
    alice.put(&format!("/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    let old = alice.creates_room(json!({}));
    let since = alice.syncs().next_batch;
    let new = upgraded(&alice, &old, "12");
    let member = alice.state(&new, "m.room.member", &alice.id).ok();
    assert_eq!(member, json!({ "membership": "join", "displayname": "Alice" }));
    let sync = alice.syncs_since(&since);
    assert!(sync.joined(&new).is_object() && sync.joined(&old).is_object(), "{}", sync.body);
}

fn settings_follow_into_the_successor(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let old = alice.creates_room(json!({ "preset": "public_chat", "room_version": "11" }));
    bob.joins(&old).ok();
    for user in [&alice, &bob] {
        let tag = format!("/user/{}/rooms/{}/tags/m.favourite", encode(&user.id), encode(&old));
        user.put(&tag, json!({ "order": 0.5 })).ok();
    }
    let direct = format!("/user/{}/account_data/m.direct", encode(&bob.id));
    bob.put(&direct, json!({ (alice.id.as_str()): [old] })).ok();
    let rule = |room: &str| format!("/pushrules/global/room/{}", encode(room));
    bob.put(&rule(&old), json!({ "actions": [] })).ok();
    let new = upgraded(&alice, &old, "12");
    bob.joins(&new).ok();
    for user in [&alice, &bob] {
        let tags = user.get(&format!("/user/{}/rooms/{}/tags", encode(&user.id), encode(&new))).ok();
        assert_eq!(tags["tags"], json!({ "m.favourite": { "order": 0.5 } }), "of {}", user.id);
    }
    assert_eq!(bob.get(&direct).ok(), json!({ (alice.id.as_str()): [old, new] }));
    assert_eq!(bob.get(&rule(&new)).ok()["actions"], json!([]));
}
