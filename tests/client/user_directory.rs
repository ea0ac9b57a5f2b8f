//! Spec: client-server API, «User Directory», «Mutual Rooms».

use harness::{Answer, Server, User, Value, json, on_each_host, query};

on_each_host![
    who_shares_a_room_is_found,
    who_is_in_a_room_open_to_everybody_is_found,
    case_and_accents_do_not_matter,
    the_best_come_first_and_not_all_of_them,
    a_search_is_well_formed,
    the_rooms_that_two_share,
];

fn asks(user: &User, term: &str, limit: Option<u64>) -> Answer {
    let mut body = json!({ "search_term": term });
    if let Some(limit) = limit {
        body["limit"] = json!(limit);
    }
    user.post("/user_directory/search", body)
}

/// The ids of who is found.
#[track_caller]
fn finds(user: &User, term: &str) -> Vec<String> {
    let answer = asks(user, term, None).ok();
    ids(&answer)
}

fn ids(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|found| found["user_id"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn is_called(user: &User, name: &str) {
    let path = format!("/profile/{}/displayname", harness::encode(&user.id));
    user.put(&path, json!({ "displayname": name })).ok();
}

fn who_shares_a_room_is_found(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let name = server.unique("Winifred ");
    is_called(&bob, &name);
    bob.put(&format!("/profile/{}/avatar_url", harness::encode(&bob.id)), json!({ "avatar_url": "mxc://a/b" })).ok();
    assert!(finds(&alice, &name).is_empty() && finds(&alice, &bob.id).is_empty());
    let room = alice.creates_room(json!({ "preset": "private_chat", "invite": [bob.id] }));
    assert!(finds(&alice, &bob.id).is_empty(), "who is invited is not in the room");
    bob.joins(&room).ok();
    for term in [&name, &bob.id, bob.localpart(), "winif"] {
        let answer = asks(&alice, term, Some(10)).ok();
        let found = answer["results"].as_array().unwrap().iter().find(|found| found["user_id"] == bob.id.as_str());
        let expected = json!({ "user_id": bob.id, "display_name": name, "avatar_url": "mxc://a/b" });
        assert_eq!(found, Some(&expected), "{term}");
    }
    assert_eq!(finds(&bob, &alice.id), std::slice::from_ref(&alice.id));
    assert!(finds(&bob, &bob.id).is_empty(), "nobody looks for themselves");
    bob.leaves(&room).ok();
    assert!(finds(&alice, &name).is_empty());
}

/// A server without the rooms of other stories: of those that are open, a search asks so many and no more.
fn alone(server: &Server) -> Server {
    Server::with(server.host(), &[])
}

fn who_is_in_a_room_open_to_everybody_is_found(server: &Server) {
    let server = alone(server);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = bob.creates_room(json!({ "preset": "private_chat" }));
    let sets = |kind: &str, content: Value| drop(bob.sets_state(&room, kind, "", content).ok());
    assert!(finds(&alice, &bob.id).is_empty());
    for (kind, open, closed) in [
        ("m.room.join_rules", json!({ "join_rule": "public" }), json!({ "join_rule": "invite" })),
        (
            "m.room.history_visibility",
            json!({ "history_visibility": "world_readable" }),
            json!({ "history_visibility": "shared" }),
        ),
    ] {
        sets(kind, open);
        assert_eq!(finds(&alice, &bob.id), std::slice::from_ref(&bob.id), "{kind}");
        sets(kind, closed);
        assert!(finds(&alice, &bob.id).is_empty(), "{kind}");
    }
}

fn case_and_accents_do_not_matter(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let unique = server.unique("Zoë ÅNGSTRÖM ");
    is_called(&bob, &unique);
    alice.creates_room_with(&[&bob]);
    for term in ["zoe ang", "ZOË", "ngstrom zo", "A\u{30a}ngstrom"] {
        assert!(finds(&alice, term).contains(&bob.id), "{term}");
    }
    assert!(!finds(&alice, "zoe nobody").contains(&bob.id));
}

fn the_best_come_first_and_not_all_of_them(server: &Server) {
    let server = alone(server);
    let alice = server.registers("alice");
    let stem = server.unique("quill").replace('-', "");
    let people: Vec<User> = (0..4).map(|_| server.registers("person")).collect();
    for (person, name) in
        people.iter().zip([format!("an {stem}ian"), format!("x{stem}"), stem.clone(), format!("{stem}er")])
    {
        is_called(person, &name);
    }
    alice.creates_room_with(&people.iter().collect::<Vec<_>>());
    let all = asks(&alice, &stem, None).ok();
    assert_eq!(all["limited"], json!(false));
    let found = ids(&all);
    let position = |person: &User| found.iter().position(|id| *id == person.id).unwrap();
    assert_eq!((found.len(), position(&people[2]), position(&people[1])), (4, 0, 3));
    let some = asks(&alice, &stem, Some(2)).ok();
    assert_eq!((ids(&some), &some["limited"]), (found[..2].to_vec(), &json!(true)));
    let exactly = asks(&alice, &stem, Some(4)).ok();
    assert_eq!(exactly["limited"], json!(false));
    // Twice in a room together is once in the answer.
    alice.creates_room_with(&[&people[0]]);
    assert_eq!(ids(&asks(&alice, &stem, None).ok()), found);
}

fn a_search_is_well_formed(server: &Server) {
    let alice = server.registers("alice");
    asks(&alice, &"x".repeat(1_000), None).refused(400, "M_INVALID_PARAM");
    alice.post("/user_directory/search", json!({})).refused(400, "M_BAD_JSON");
    alice.post("/user_directory/search", json!({ "search_term": 5 })).refused(400, "M_BAD_JSON");
    let body = json!({ "search_term": "a" });
    server.anonymous().post("/_matrix/client/v3/user_directory/search", body).refused(401, "M_MISSING_TOKEN");
}

fn mutual(user: &User, pairs: &[(&str, &str)]) -> Answer {
    user.client().get(&format!("/_matrix/client/v1/mutual_rooms{}", query(pairs)))
}

fn the_rooms_that_two_share(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let mut shared = vec![alice.creates_room_with(&[&bob]), bob.creates_room_with(&[&alice, &carol])];
    shared.sort();
    alice.creates_room_with(&[&carol]);
    let invited = alice.creates_room(json!({ "invite": [bob.id] }));
    let with = |user: &User, other: &str| mutual(user, &[("user_id", other)]);
    assert_eq!(with(&alice, &bob.id).ok(), json!({ "joined": shared, "count": 2 }));
    assert_eq!(with(&bob, &alice.id).ok(), json!({ "joined": shared, "count": 2 }));
    bob.joins(&invited).ok();
    assert_eq!(with(&alice, &bob.id).ok()["count"], json!(3));
    for nobody in ["@nobody:myelin.test", "@nobody:elsewhere.test"] {
        assert_eq!(with(&alice, nobody).ok(), json!({ "joined": [], "count": 0 }));
    }
    with(&alice, &alice.id).refused(400, "M_INVALID_PARAM");
    with(&alice, "bob").refused(400, "M_INVALID_PARAM");
    with(&alice, "@Bob:myelin.test").refused(400, "M_INVALID_PARAM");
    // By the path from before v1.19, which clients know.
    let by_old_path = |user: &User, pairs: &[(&str, &str)]| {
        let path = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms";
        user.client().get(&format!("{path}{}", query(pairs)))
    };
    let all = with(&alice, &bob.id).ok()["joined"].clone();
    assert_eq!(by_old_path(&alice, &[("user_id", &bob.id)]).ok()["joined"], all);
    for name in ["from", "batch_token"] {
        let after_first = [("user_id", &*bob.id), (name, all[0].as_str().expect("a room"))];
        assert_eq!(by_old_path(&alice, &after_first).ok()["joined"], json!([all[1], all[2]]));
    }
    mutual(&alice, &[]).refused(400, "M_MISSING_PARAM");
    mutual(&alice, &[("user_id", &bob.id), ("from", "nonsense")]).refused(400, "M_INVALID_PARAM");
}
