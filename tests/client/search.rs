//! Spec: client-server API, «Server Side Search».

use harness::{Answer, Server, User, Value, bodies, encode, json, on_each_host};

on_each_host![
    words_are_found_in_all_ones_rooms,
    the_keys_say_where_to_look,
    pages_lead_through_all_results,
    groups_have_pages_of_their_own,
    what_is_around_a_result_comes_with_it,
    the_state_of_the_rooms_comes_on_request,
    a_filter_narrows_a_search,
    what_may_not_be_seen_is_not_found,
    what_was_redacted_is_not_found,
    encrypted_rooms_are_not_searched,
    an_edited_result_comes_with_its_edit,
    nonsense_is_refused,
];

fn asks(user: &User, next_batch: Option<&str>, criteria: Value) -> Answer {
    let query = next_batch.map(|token| format!("?next_batch={}", encode(token))).unwrap_or_default();
    user.post(&format!("/search{query}"), json!({ "search_categories": { "room_events": criteria } }))
}

#[track_caller]
fn searches(user: &User, criteria: Value) -> Value {
    asks(user, None, criteria).ok()["search_categories"]["room_events"].clone()
}

fn texts(found: &Value) -> Vec<String> {
    let results = found["results"].as_array().unwrap_or_else(|| panic!("no results: {found}"));
    bodies(&results.iter().map(|result| result["result"].clone()).collect::<Vec<_>>())
}

/// All pages from a token on.
#[track_caller]
fn pages(user: &User, mut next: Option<String>, criteria: &Value) -> (Vec<String>, usize) {
    let (mut found, mut count) = (Vec::new(), 0);
    loop {
        let page = asks(user, next.as_deref(), criteria.clone()).ok()["search_categories"]["room_events"].clone();
        found.extend(texts(&page));
        count += 1;
        next = page["next_batch"].as_str().map(str::to_owned);
        if next.is_none() {
            return (found, count);
        }
    }
}

fn words_are_found_in_all_ones_rooms(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (one, two) = (alice.creates_room_with(&[&bob]), alice.creates_room(json!({})));
    alice.sends_apart(&one, "the martians are here");
    bob.sends_apart(&one, "men and Martians");
    alice.sends_apart(&two, "no men, only martians and martians");
    alice.sends(&two, "nothing of note");
    let found = searches(&alice, json!({ "search_term": "martians", "order_by": "recent" }));
    assert_eq!(texts(&found), ["no men, only martians and martians", "men and Martians", "the martians are here"]);
    assert_eq!((&found["count"], &found["highlights"]), (&json!(3), &json!(["martians"])));
    for result in found["results"].as_array().expect("results") {
        assert!(result["rank"].is_number() && result["context"].is_null(), "{result}");
        assert!(result["result"]["room_id"].is_string() && result["result"]["event_id"].is_string());
    }
    let found = searches(&alice, json!({ "search_term": "MARTIANS men" }));
    assert_eq!((texts(&found).len(), &found["highlights"]), (2, &json!(["martians", "men"])));
    let ranks: Vec<f64> =
        found["results"].as_array().expect("results").iter().filter_map(|it| it["rank"].as_f64()).collect();
    assert!(ranks.is_sorted_by(|one, other| one >= other), "{ranks:?}");
    assert_eq!(texts(&searches(&bob, json!({ "search_term": "martians" }))).len(), 2, "of his room");
    // What is said after a search is found by the next one.
    alice.sends(&two, "martians again");
    assert_eq!(texts(&searches(&alice, json!({ "search_term": "again" }))), ["martians again"]);
    let nothing = searches(&alice, json!({ "search_term": "venusians" }));
    assert_eq!((&nothing["results"], &nothing["count"], &nothing["next_batch"]), (&json!([]), &json!(0), &Value::Null));
}

fn the_keys_say_where_to_look(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({ "name": "orchard", "topic": "apples of the orchard" }));
    alice.sends(&room, "the orchard is green");
    let kinds = |keys: Value| {
        let mut criteria = json!({ "search_term": "orchard", "order_by": "recent" });
        if !keys.is_null() {
            criteria["keys"] = keys;
        }
        let found = searches(&alice, criteria);
        let results = found["results"].as_array().expect("results").clone();
        results.iter().map(|it| it["result"]["type"].as_str().expect("a type").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(Value::Null).len(), 3);
    assert_eq!(kinds(json!(["content.body"])), ["m.room.message"]);
    assert_eq!(kinds(json!(["content.name"])), ["m.room.name"]);
    assert_eq!(kinds(json!(["content.topic", "content.body"])), ["m.room.message", "m.room.topic"]);
}

fn pages_lead_through_all_results(server: &Server) {
    let alice = server.registers("alice");
    let rooms = [(); 3].map(|()| alice.creates_room(json!({})));
    let mut expected: Vec<String> = (0..14)
        .map(|number| {
            let text = format!("apple {number}");
            alice.sends_apart(&rooms[number % 3], &text);
            text
        })
        .collect();
    expected.reverse();
    for limit in [1, 4, 14, 20] {
        let criteria = json!({ "search_term": "apple", "order_by": "recent", "filter": { "limit": limit } });
        assert_eq!(pages(&alice, None, &criteria), (expected.clone(), 14_usize.div_ceil(limit)), "by {limit}");
        let (mut ranked, _) = pages(&alice, None, &json!({ "search_term": "apple", "filter": { "limit": limit } }));
        ranked.sort();
        let mut sorted = expected.clone();
        sorted.sort();
        assert_eq!(ranked, sorted, "by {limit}, each once");
    }
}

fn groups_have_pages_of_their_own(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (one, two) = (alice.creates_room_with(&[&bob]), alice.creates_room_with(&[&bob]));
    for number in 0..3 {
        alice.sends_apart(&one, &format!("pear one {number}"));
        bob.sends_apart(&two, &format!("pear two {number}"));
    }
    let criteria = json!({
        "search_term": "pear", "order_by": "recent", "filter": { "limit": 3 },
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
    });
    let found = searches(&alice, criteria.clone());
    assert_eq!(texts(&found), ["pear two 2", "pear one 2", "pear two 1"]);
    let of = |kind: &str, value: &str| found["groups"][kind][value].clone();
    assert_eq!(of("room_id", &two)["results"].as_array().map(Vec::len), Some(2));
    assert_eq!((&of("room_id", &two)["order"], &of("room_id", &one)["order"]), (&json!(1), &json!(2)));
    assert_eq!(of("sender", &alice.id)["results"][0], found["results"][1]["result"]["event_id"]);
    let next = |group: &Value| Some(group["next_batch"].as_str().unwrap_or_else(|| panic!("{group}")).to_owned());
    assert_eq!(pages(&alice, next(&of("room_id", &one)), &criteria).0, ["pear one 1", "pear one 0"]);
    assert_eq!(pages(&alice, next(&of("sender", &bob.id)), &criteria).0, ["pear two 0"]);
    assert_eq!(pages(&alice, next(&found), &criteria).0, ["pear one 1", "pear two 0", "pear one 0"]);
    let all = searches(&alice, json!({ "search_term": "pear", "groupings": { "group_by": [{ "key": "sender" }] } }));
    assert!(all["groups"]["sender"][&bob.id]["next_batch"].is_null() && all["groups"]["room_id"].is_null(), "{all}");
}

fn what_is_around_a_result_comes_with_it(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    bob.put(&format!("/profile/{}/displayname", encode(&bob.id)), json!({ "displayname": "Bob" })).ok();
    let room = alice.creates_room_with(&[&bob]);
    for text in ["one", "two"] {
        bob.sends(&room, text);
    }
    alice.sends(&room, "needle");
    for text in ["three", "four"] {
        bob.sends(&room, text);
    }
    let with = |context: Value| {
        let found = searches(&alice, json!({ "search_term": "needle", "event_context": context }));
        found["results"][0]["context"].clone()
    };
    let around = |context: &Value, part: &str| bodies(context[part].as_array().unwrap_or_else(|| panic!("{context}")));
    let context = with(json!({ "before_limit": 1, "after_limit": 1, "include_profile": true }));
    assert_eq!(
        (around(&context, "events_before"), around(&context, "events_after")),
        (vec!["two".to_owned()], vec!["three".to_owned()])
    );
    let profiles = &context["profile_info"];
    assert_eq!(profiles[&bob.id]["displayname"], "Bob", "{profiles}");
    assert!(profiles[&alice.id].is_object());
    for (dir, token, expected) in [("b", "start", "one"), ("f", "end", "four")] {
        let from = context[token].as_str().expect("a token");
        let page = alice.messages(&room, &[("dir", dir), ("from", from), ("limit", "1")]).ok();
        assert_eq!(page["chunk"][0]["content"]["body"], expected);
    }
    let context = with(json!({}));
    assert_eq!(around(&context, "events_after"), ["three", "four"]);
    assert_eq!((context["events_before"].as_array().map(Vec::len), &context["profile_info"]), (Some(5), &Value::Null));
}

fn the_state_of_the_rooms_comes_on_request(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (one, two) = (alice.creates_room_with(&[&bob]), alice.creates_room(json!({ "name": "second" })));
    alice.sends(&one, "plum");
    alice.sends(&two, "plum");
    let found = searches(&alice, json!({ "search_term": "plum", "include_state": true }));
    let state = found["state"].as_object().unwrap_or_else(|| panic!("{found}"));
    assert_eq!(state.len(), 2);
    for room in [&one, &two] {
        let expected = alice.full_state(room).ok();
        assert_eq!(state[room].as_array().map(Vec::len), expected.as_array().map(Vec::len));
    }
    assert!(state[&two].as_array().is_some_and(|events| events.iter().any(|it| it["content"]["name"] == "second")));
    assert_eq!(texts(&found).len(), 2);
    let found = searches(&alice, json!({ "search_term": "nothing at all", "include_state": true }));
    assert_eq!(found["state"], json!({}));
    assert!(searches(&alice, json!({ "search_term": "plum" }))["state"].is_null());
}

fn a_filter_narrows_a_search(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (one, two) = (alice.creates_room_with(&[&bob]), alice.creates_room(json!({})));
    alice.sends(&one, "fig one");
    bob.sends(&one, "fig his");
    alice.sends(&two, "fig two");
    let by = |filter: Value| {
        texts(&searches(&alice, json!({ "search_term": "fig", "order_by": "recent", "filter": filter })))
    };
    assert_eq!(by(json!({ "rooms": [one] })), ["fig his", "fig one"]);
    assert_eq!(by(json!({ "not_rooms": [one] })), ["fig two"]);
    assert_eq!(by(json!({ "senders": [bob.id] })), ["fig his"]);
    assert_eq!(by(json!({ "not_types": ["m.room.*"] })), [""; 0]);
    assert_eq!(by(json!({ "rooms": [one], "not_senders": [bob.id] })), ["fig one"]);
}

fn what_may_not_be_seen_is_not_found(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    alice.sets_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).ok();
    alice.sends(&room, "kiwi before");
    let his = || {
        let found = searches(&bob, json!({ "search_term": "kiwi" }));
        (texts(&found), found["count"].clone())
    };
    assert_eq!(his(), (Vec::new(), json!(0)), "a stranger");
    bob.joins(&room).ok();
    assert_eq!(his(), (Vec::new(), json!(0)), "from before his time");
    alice.sends(&room, "kiwi during");
    bob.leaves(&room).ok();
    alice.sends(&room, "kiwi after");
    assert_eq!(his(), (vec!["kiwi during".to_owned()], json!(1)), "rooms one left are searched, too");
    assert_eq!(texts(&searches(&alice, json!({ "search_term": "kiwi" }))).len(), 3);
    bob.forgets(&room).ok();
    assert_eq!(his(), (Vec::new(), json!(0)), "what is forgotten is not");
}

fn what_was_redacted_is_not_found(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let (early, late) = (alice.sends(&room, "lychee early"), alice.sends(&room, "lychee late"));
    let found = || texts(&searches(&alice, json!({ "search_term": "lychee", "order_by": "recent" })));
    assert_eq!(found(), ["lychee late", "lychee early"]);
    alice.redacts(&room, &early, "r1").ok();
    assert_eq!(found(), ["lychee late"]);
    alice.redacts(&room, &late, "r2").ok();
    assert_eq!(found(), [""; 0]);
}

fn encrypted_rooms_are_not_searched(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    alice.sends(&room, "papaya");
    let found = || texts(&searches(&alice, json!({ "search_term": "papaya" })));
    assert_eq!(found(), ["papaya"]);
    alice.sets_state(&room, "m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).ok();
    assert_eq!(found(), [""; 0]);
}

fn an_edited_result_comes_with_its_edit(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let original = alice.sends(&room, "guava");
    let relation = json!({ "rel_type": "m.replace", "event_id": original });
    let edit = json!({ "msgtype": "m.text", "body": "* mango", "m.new_content": { "body": "mango" }, "m.relates_to": relation });
    let edit = alice.sends_content(&room, edit);
    let found = searches(&alice, json!({ "search_term": "guava" }));
    let result = &found["results"][0]["result"];
    assert_eq!(result["unsigned"]["m.relations"]["m.replace"]["event_id"], edit, "{found}");
    assert_eq!(texts(&searches(&alice, json!({ "search_term": "mango" }))), ["* mango"]);
}

fn nonsense_is_refused(server: &Server) {
    let alice = server.registers("alice");
    for (criteria, errcode) in [
        (json!({}), "M_BAD_JSON"),
        (json!({ "search_term": 5 }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "order_by": "size" }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "keys": ["content.url"] }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "groupings": { "group_by": [{ "key": "type" }] } }), "M_BAD_JSON"),
        (json!({ "search_term": "a".repeat(5_000) }), "M_INVALID_PARAM"),
    ] {
        asks(&alice, None, criteria).refused(400, errcode);
    }
    asks(&alice, Some("nonsense"), json!({ "search_term": "a" })).refused(400, "M_INVALID_PARAM");
    alice.post("/search", json!({})).refused(400, "M_BAD_JSON");
    assert_eq!(alice.post("/search", json!({ "search_categories": {} })).ok(), json!({ "search_categories": {} }));
    let quotes = searches(&alice, json!({ "search_term": "\" OR * NEAR( ' --" }));
    assert_eq!(quotes["results"], json!([]), "whatever it looks like, it is words");
    let body = json!({ "search_categories": {} });
    server.anonymous().post("/_matrix/client/v3/search", body.clone()).refused(401, "M_MISSING_TOKEN");
    alice.post("/logout", json!({})).ok();
    alice.post("/search", body).refused(401, "M_UNKNOWN_TOKEN");
}
