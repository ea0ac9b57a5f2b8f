//! Spec: client-server API, «Threading», «Querying threads in a room».

use harness::{Answer, Server, User, Value, encode, event_ids, json, on_each_host, query};

on_each_host![
    threads_are_listed_by_who_spoke_last,
    pages_lead_through_all_threads,
    one_may_ask_for_those_one_takes_part_in,
    strangers_learn_nothing_of_threads,
    a_thread_that_is_redacted_is_gone,
    an_ignored_root_is_shown_without_what_it_said,
];

fn threads(user: &User, room: &str, pairs: &[(&str, &str)]) -> Answer {
    user.client().get(&format!("/_matrix/client/v1/rooms/{}/threads{}", encode(room), query(pairs)))
}

fn ids(page: &Value) -> Vec<String> {
    event_ids(page["chunk"].as_array().unwrap_or_else(|| panic!("no chunk in {page}")))
}

fn threads_are_listed_by_who_spoke_last(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    assert_eq!(threads(&alice, &room, &[]).ok(), json!({ "chunk": [] }));
    let roots = ["one", "two", "three"].map(|text| alice.sends(&room, text));
    for root in &roots {
        bob.sends_in_thread(&room, root, "first");
    }
    let last = alice.sends_in_thread(&room, &roots[1], "last");
    let page = threads(&bob, &room, &[]).ok();
    assert_eq!(ids(&page), [&*roots[1], &roots[2], &roots[0]]);
    let thread = &page["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!((&thread["latest_event"]["event_id"], &thread["count"]), (&json!(last), &json!(2)), "{page}");
    assert_eq!((&page["chunk"][0]["content"]["body"], &page["next_batch"]), (&json!("two"), &Value::Null));
}

fn pages_lead_through_all_threads(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let mut roots: Vec<String> = (0..5).map(|number| alice.sends(&room, &number.to_string())).collect();
    for root in &roots {
        alice.sends_in_thread(&room, root, "in it");
    }
    roots.reverse();
    for limit in ["1", "2", "5", "6"] {
        let (mut found, mut from): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let mut pairs = vec![("limit", limit)];
            pairs.extend(from.as_deref().map(|from| ("from", from)));
            let page = threads(&alice, &room, &pairs).ok();
            assert!(!ids(&page).is_empty() && ids(&page).len() <= limit.parse().expect("a number"), "{page}");
            found.extend(ids(&page));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = Some(next.to_owned());
        }
        assert_eq!(found, roots, "by {limit}");
    }
    for (name, value) in [("from", "nonsense"), ("limit", "0"), ("limit", "many"), ("include", "some")] {
        threads(&alice, &room, &[(name, value)]).refused(400, "M_INVALID_PARAM");
    }
}

fn one_may_ask_for_those_one_takes_part_in(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (his, hers, both) = (bob.sends(&room, "his"), alice.sends(&room, "hers"), alice.sends(&room, "both"));
    alice.sends_in_thread(&room, &his, "in his");
    alice.sends_in_thread(&room, &hers, "in hers");
    bob.sends_in_thread(&room, &both, "in both");
    let participated = |user: &User| ids(&threads(user, &room, &[("include", "participated")]).ok());
    assert_eq!(participated(&alice), [&*both, &hers, &his]);
    assert_eq!(participated(&bob), [&*both, &his], "one's own root, or what one said in it");
    assert_eq!(ids(&threads(&bob, &room, &[("include", "all")]).ok()).len(), 3);
}

fn strangers_learn_nothing_of_threads(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    alice.sends_in_thread(&room, &root, "in it");
    let refused = threads(&bob, &room, &[]).refused(403, "M_FORBIDDEN");
    assert_eq!(threads(&bob, "!nowhere:localhost", &[]).refused(403, "M_FORBIDDEN"), refused);
    alice.sets_state(&room, "m.room.history_visibility", "", json!({ "history_visibility": "world_readable" })).ok();
    assert_eq!(ids(&threads(&bob, &room, &[]).ok()), [""; 0], "what was said before is hidden still");
    let (root, _) = (alice.sends(&room, "another"), ());
    alice.sends_in_thread(&room, &root, "in it");
    assert_eq!(ids(&threads(&bob, &room, &[]).ok()), [&*root]);
}

fn a_thread_that_is_redacted_is_gone(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    let only = alice.sends_in_thread(&room, &root, "only");
    assert_eq!(ids(&threads(&alice, &room, &[]).ok()), [&*root]);
    alice.redacts(&room, &root, "r1").ok();
    let page = threads(&alice, &room, &[]).ok();
    assert_eq!((&page["chunk"][0]["content"], ids(&page)), (&json!({}), vec![root]), "a thread outlives its root");
    alice.redacts(&room, &only, "r2").ok();
    assert_eq!(threads(&alice, &room, &[]).ok(), json!({ "chunk": [] }));
}

fn an_ignored_root_is_shown_without_what_it_said(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let (his, hers) = (bob.sends(&room, "his"), alice.sends(&room, "hers"));
    alice.sends_in_thread(&room, &his, "in his");
    bob.sends_in_thread(&room, &hers, "in hers");
    alice.ignores(&bob);
    let page = threads(&alice, &room, &[]).ok();
    assert_eq!((ids(&page), &page["chunk"][0]["content"]), (vec![his], &json!({})), "{page}");
}
