//! Spec: client-server API, «Spaces», «GET /room_summary/{roomIdOrAlias}».

use harness::{Answer, Server, User, Value, encode, json, on_each_host, query};

on_each_host![
    a_space_is_walked_through_depth_first,
    children_come_in_their_order_and_pages_continue,
    a_token_is_bound_to_what_was_asked,
    who_may_know_of_a_room_is_shown_it,
    a_space_that_is_nobodys_business_is_forbidden,
    loops_end_and_depth_has_a_limit,
    suggested_rooms_only,
    a_room_in_a_few_words,
    a_summary_is_for_who_may_come_in,
];

fn space(user: &User, name: &str) -> String {
    room_with(user, json!({ "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" } }))
}

fn room_with(user: &User, request: Value) -> String {
    user.creates_room(request)
}

fn public(user: &User, name: &str) -> String {
    room_with(user, json!({ "preset": "public_chat", "name": name }))
}

#[track_caller]
fn adds(user: &User, space: &str, child: &str, more: Value) {
    let mut content = json!({ "via": ["myelin.test"] });
    content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    user.sets_state(space, "m.space.child", child, content).ok();
}

fn hierarchy(user: &User, space: &str, pairs: &[(&str, &str)]) -> Answer {
    user.client().get(&format!("/_matrix/client/v1/rooms/{}/hierarchy{}", encode(space), query(pairs)))
}

fn names(page: &Value) -> Vec<&str> {
    page["rooms"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap_or("?")).collect()
}

#[track_caller]
fn shown(user: &User, space: &str) -> Vec<String> {
    let page = hierarchy(user, space, &[]).ok();
    assert_eq!(page.get("next_batch"), None, "{page}");
    names(&page).into_iter().map(ToOwned::to_owned).collect()
}

fn a_space_is_walked_through_depth_first(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let root = space(&alice, "Root");
    let (one, sub, two) = (public(&alice, "One"), space(&alice, "Sub"), public(&alice, "Two"));
    let (deep, ghost) = (public(&alice, "Deep"), "!ghost:myelin.test");
    for (child, order) in [(&one, "a"), (&sub, "b"), (&two, "c")] {
        adds(&alice, &root, child, json!({ "order": order }));
    }
    adds(&alice, &sub, &deep, json!({}));
    adds(&alice, &root, ghost, json!({ "order": "0" }));
    alice.sets_state(&root, "m.space.child", "!removed:myelin.test", json!({})).ok();
    let page = hierarchy(&bob, &root, &[]).ok();
    assert_eq!(names(&page), ["Root", "One", "Sub", "Deep", "Two"]);
    assert_eq!(page.get("next_batch"), None);
    let rooms = page["rooms"].as_array().unwrap();
    let children = rooms[0]["children_state"].as_array().unwrap();
    let ids: Vec<&str> = children.iter().map(|event| event["state_key"].as_str().unwrap()).collect();
    assert_eq!(ids, [ghost, &one, &sub, &two]);
    assert_eq!((&children[1]["type"], &children[1]["sender"]), (&json!("m.space.child"), &json!(alice.id)));
    assert!(children[1]["origin_server_ts"].is_u64() && children[1].get("event_id").is_none(), "{}", children[1]);
    assert_eq!(children[1]["content"], json!({ "via": ["myelin.test"], "order": "a" }));
    assert_eq!((&rooms[0]["room_type"], &rooms[1].get("room_type")), (&json!("m.space"), &None));
    assert_eq!((&rooms[1]["children_state"], &rooms[1]["join_rule"]), (&json!([]), &json!("public")));
    assert_eq!((&rooms[1]["room_version"], &rooms[1]["num_joined_members"]), (&json!("12"), &json!(1)));
    // What is known as unstable to older clients is the same.
    let path = format!("/_matrix/client/unstable/org.matrix.msc2946/rooms/{}/hierarchy", encode(&root));
    assert_eq!(bob.client().get(&path).ok(), page);
}

fn children_come_in_their_order_and_pages_continue(server: &Server) {
    let alice = server.registers("alice");
    let (root, sub) = (space(&alice, "0"), space(&alice, "1"));
    adds(&alice, &root, &sub, json!({ "order": "a" }));
    let mut expected = vec!["0".to_owned(), "1".to_owned()];
    for (parent, numbers) in [(&sub, 2..6), (&root, 6..11)] {
        for number in numbers {
            let name = number.to_string();
            adds(&alice, parent, &public(&alice, &name), json!({}));
            expected.push(name);
        }
    }
    assert_eq!(shown(&alice, &root), expected);
    for limit in ["1", "2", "3", "10", "11"] {
        let (mut seen, mut from) = (Vec::new(), None::<String>);
        loop {
            let mut pairs = vec![("limit", limit)];
            pairs.extend(from.as_deref().map(|from| ("from", from)));
            let page = hierarchy(&alice, &root, &pairs).ok();
            assert!(names(&page).len() <= limit.parse().unwrap());
            seen.extend(names(&page).into_iter().map(ToOwned::to_owned));
            match page.get("next_batch") {
                Some(next) => from = Some(next.as_str().unwrap().to_owned()),
                None => break,
            }
        }
        assert_eq!(seen, expected, "by {limit}");
    }
    hierarchy(&alice, &root, &[("limit", "0")]).refused(400, "M_INVALID_PARAM");
    hierarchy(&alice, &root, &[("limit", "many")]).refused(400, "M_INVALID_PARAM");
}

fn a_token_is_bound_to_what_was_asked(server: &Server) {
    let alice = server.registers("alice");
    let (root, other) = (space(&alice, "Root"), space(&alice, "Other"));
    for name in ["One", "Two"] {
        adds(&alice, &root, &public(&alice, name), json!({ "suggested": true }));
    }
    let page = hierarchy(&alice, &root, &[("limit", "1"), ("max_depth", "2")]).ok();
    let from = page["next_batch"].as_str().unwrap();
    let ask = |space: &str, pairs: &[(&str, &str)]| hierarchy(&alice, space, &[&[("from", from)], pairs].concat());
    assert_eq!(names(&ask(&root, &[("max_depth", "2")]).ok()), ["One", "Two"]);
    ask(&root, &[("max_depth", "1")]).refused(400, "M_INVALID_PARAM");
    ask(&root, &[]).refused(400, "M_INVALID_PARAM");
    ask(&root, &[("max_depth", "2"), ("suggested_only", "true")]).refused(400, "M_INVALID_PARAM");
    ask(&other, &[("max_depth", "2")]).refused(400, "M_INVALID_PARAM");
    hierarchy(&alice, &root, &[("from", "nonsense")]).refused(400, "M_INVALID_PARAM");
    // Another user gets no further with it than they may see.
    let bob = server.registers("bob");
    alice.sets_state(&root, "m.room.join_rules", "", json!({ "join_rule": "invite" })).ok();
    hierarchy(&bob, &root, &[("from", from), ("max_depth", "2")]).refused(403, "M_FORBIDDEN");
}

fn who_may_know_of_a_room_is_shown_it(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let root = space(&alice, "Root");
    let rule = |rule: Value| json!([{ "type": "m.room.join_rules", "content": rule }]);
    let of_root = json!([{ "type": "m.room_membership", "room_id": root }]);
    let readable =
        json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } }]);
    let rooms = [
        ("Public", rule(json!({ "join_rule": "public" })), "12"),
        ("Knock", rule(json!({ "join_rule": "knock" })), "12"),
        ("Knock restricted", rule(json!({ "join_rule": "knock_restricted", "allow": of_root })), "12"),
        ("Restricted", rule(json!({ "join_rule": "restricted", "allow": of_root })), "12"),
        ("Private", json!([]), "12"),
        ("Readable", readable, "12"),
        ("Old knock", rule(json!({ "join_rule": "knock" })), "6"),
        ("Old restricted", rule(json!({ "join_rule": "restricted", "allow": of_root })), "7"),
    ];
    let mut ids = Vec::new();
    for (name, initial_state, version) in rooms {
        let request = json!({
            "preset": "private_chat", "name": name, "initial_state": initial_state, "room_version": version,
        });
        let room = room_with(&alice, request);
        adds(&alice, &root, &room, json!({}));
        ids.push(room);
    }
    let open = ["Root", "Public", "Knock", "Knock restricted", "Readable"];
    assert_eq!(shown(&bob, &root), open);
    bob.joins(&root).ok();
    let as_member = ["Root", "Public", "Knock", "Knock restricted", "Restricted", "Readable"];
    assert_eq!(shown(&bob, &root), as_member);
    let page = hierarchy(&bob, &root, &[]).ok();
    assert_eq!(page["rooms"][4]["allowed_room_ids"], json!([root]));
    alice.invites(&ids[4], &bob).ok();
    alice.bans(&ids[0], &bob).ok();
    alice.bans(&ids[5], &bob).ok();
    let now = ["Root", "Knock", "Knock restricted", "Restricted", "Private", "Readable"];
    assert_eq!(shown(&bob, &root), now, "who is invited may come in, who is banned may at most read");
    bob.joins(&ids[4]).ok();
    assert_eq!(shown(&bob, &root), now);
    assert_eq!(shown(&carol, &root), open);
    assert_eq!(shown(&alice, &root).len(), 9, "who is in all of them");
}

fn a_space_that_is_nobodys_business_is_forbidden(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let hidden = room_with(&alice, json!({ "preset": "private_chat", "creation_content": { "type": "m.space" } }));
    let forbidden = hierarchy(&bob, &hidden, &[]).refused(403, "M_FORBIDDEN");
    assert_eq!(hierarchy(&bob, "!nowhere:myelin.test", &[]).refused(403, "M_FORBIDDEN"), forbidden);
    let public = space(&alice, "Public");
    alice.bans(&public, &bob).ok();
    hierarchy(&bob, &public, &[]).refused(403, "M_FORBIDDEN");
    server
        .anonymous()
        .get(&format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&public)))
        .refused(401, "M_MISSING_TOKEN");
}

fn loops_end_and_depth_has_a_limit(server: &Server) {
    let alice = server.registers("alice");
    let (root, middle, leaf) = (space(&alice, "Root"), space(&alice, "Middle"), space(&alice, "Leaf"));
    for (parent, child) in [(&root, &middle), (&middle, &leaf), (&leaf, &root), (&leaf, &leaf), (&root, &root)] {
        adds(&alice, parent, child, json!({}));
    }
    assert_eq!(shown(&alice, &root), ["Root", "Middle", "Leaf"]);
    for (depth, expected) in [("0", 1), ("1", 2), ("2", 3), ("1000000", 3)] {
        let page = hierarchy(&alice, &root, &[("max_depth", depth)]).ok();
        assert_eq!(names(&page).len(), expected, "depth {depth}");
        assert_eq!(page["rooms"][0]["children_state"].as_array().unwrap().len(), 2);
    }
    let page = hierarchy(&alice, &root, &[("max_depth", "1"), ("limit", "2")]).ok();
    assert_eq!((names(&page).len(), page.get("next_batch")), (2, None), "nothing comes after the last page");
}

fn suggested_rooms_only(server: &Server) {
    let alice = server.registers("alice");
    let (root, sub) = (space(&alice, "Root"), space(&alice, "Sub"));
    adds(&alice, &root, &public(&alice, "Plain"), json!({}));
    adds(&alice, &root, &public(&alice, "Odd"), json!({ "suggested": "yes" }));
    adds(&alice, &root, &public(&alice, "Good"), json!({ "suggested": true }));
    adds(&alice, &root, &sub, json!({ "suggested": true }));
    adds(&alice, &sub, &public(&alice, "Deep"), json!({}));
    let page = hierarchy(&alice, &root, &[("suggested_only", "true")]).ok();
    assert_eq!(names(&page), ["Root", "Good", "Sub"]);
    assert_eq!(page["rooms"][0]["children_state"].as_array().unwrap().len(), 2);
    assert_eq!(shown(&alice, &root).len(), 6);
}

fn summary(client: &harness::Client, room: &str) -> Answer {
    client.get(&format!("/_matrix/client/v1/room_summary/{}", encode(room)))
}

fn a_room_in_a_few_words(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let name = server.unique("cheese");
    let room = room_with(
        &alice,
        json!({
            "preset": "public_chat", "name": "CHEESE", "topic": "Tasty", "room_alias_name": name, "room_version": "11",
            "initial_state": [
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "m.room.avatar", "content": { "url": "mxc://a/b" } },
            ],
        }),
    );
    let alias = format!("#{name}:myelin.test");
    let expected = json!({
        "room_id": room, "name": "CHEESE", "topic": "Tasty", "num_joined_members": 1, "world_readable": false,
        "guest_can_join": false, "join_rule": "public", "encryption": "m.megolm.v1.aes-sha2", "room_version": "11",
        "avatar_url": "mxc://a/b", "canonical_alias": alias,
    });
    let with = |membership: &str| {
        let mut expected = expected.clone();
        expected["membership"] = json!(membership);
        expected
    };
    assert_eq!(summary(alice.client(), &room).ok(), with("join"));
    let older = format!("/_matrix/client/unstable/im.nheko.summary/summary/{}", encode(&room));
    assert_eq!(alice.client().get(&older).ok(), with("join"));
    for named in [&room, &alias] {
        assert_eq!(summary(bob.client(), named).ok(), with("leave"));
        assert_eq!(summary(&server.anonymous(), named).ok(), expected, "for everybody, as anybody may join");
    }
    let path = format!("/_matrix/client/unstable/im.nheko.summary/rooms/{}/summary", encode(&room));
    assert_eq!(bob.client().get(&path).ok(), with("leave"));
    alice.invites(&room, &bob).ok();
    assert_eq!(summary(bob.client(), &room).ok(), with("invite"));
}

fn a_summary_is_for_who_may_come_in(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let club = alice.creates_room(json!({}));
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    let restricted = alice.creates_room(json!({ "initial_state": [{ "type": "m.room.join_rules", "content": rule }] }));
    let private = alice.creates_room(json!({}));
    for room in [restricted.as_str(), &private, "!nowhere:myelin.test", "#nowhere:myelin.test"] {
        summary(bob.client(), room).refused(404, "M_NOT_FOUND");
        summary(&server.anonymous(), room).refused(404, "M_NOT_FOUND");
    }
    summary(bob.client(), "nonsense").refused(400, "M_INVALID_PARAM");
    alice.invites(&club, &bob).ok();
    bob.joins(&club).ok();
    assert_eq!(summary(bob.client(), &restricted).ok()["allowed_room_ids"], json!([club]));
    summary(&server.anonymous(), "#somewhere:else.example").refused(401, "M_MISSING_TOKEN");
    alice.invites(&private, &bob).ok();
    assert_eq!(summary(bob.client(), &private).ok()["membership"], "invite");
    alice.bans(&restricted, &bob).ok();
    summary(bob.client(), &restricted).refused(404, "M_NOT_FOUND");
}
