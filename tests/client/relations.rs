//! Spec: client-server API, «Forming relationships between events», «Event replacements», «Event annotations and
//! reactions», «Reference relations», «Threading».

use harness::{Answer, Server, User, Value, encode, event_ids, json, on_each_host, query};

on_each_host![
    an_edit_comes_with_what_it_edits_wherever_that_is_served,
    an_edit_that_is_redacted_is_undone,
    a_thread_comes_with_its_root,
    references_are_listed,
    relations_come_in_pages,
    tokens_are_the_same_for_messages_and_relations,
    relations_of_relations_are_found_on_request,
    the_same_reaction_is_refused_twice,
    a_thread_of_a_thread_is_refused,
    what_is_hidden_is_not_found,
    nonsense_in_a_request_is_refused,
    whom_one_ignores_is_left_out,
];

/// `GET …/relations/{path}`, where `path` begins with the event's id.
fn relations(user: &User, room: &str, event_id: &str, narrowed: &str, pairs: &[(&str, &str)]) -> Answer {
    let (room, event_id) = (encode(room), encode(event_id));
    user.client().get(&format!("/_matrix/client/v1/rooms/{room}/relations/{event_id}{narrowed}{}", query(pairs)))
}

fn ids(page: &Value) -> Vec<String> {
    event_ids(page["chunk"].as_array().unwrap_or_else(|| panic!("no chunk in {page}")))
}

fn related(rel_type: &str, to: &str, text: &str) -> Value {
    let relation = json!({ "rel_type": rel_type, "event_id": to });
    json!({ "msgtype": "m.text", "body": text, "m.new_content": { "msgtype": "m.text", "body": text }, "m.relates_to": relation })
}

fn reacts(user: &User, room: &str, to: &str, key: &str, txn_id: &str) -> Answer {
    let relation = json!({ "rel_type": "m.annotation", "event_id": to, "key": key });
    user.sends_event(room, "m.reaction", txn_id, json!({ "m.relates_to": relation }))
}

fn bundled(event: &Value) -> &Value {
    &event["unsigned"]["m.relations"]
}

fn find<'a>(events: &'a Value, event_id: &str) -> &'a Value {
    let events = events.as_array().unwrap_or_else(|| panic!("no list: {events}"));
    events.iter().find(|event| event["event_id"] == event_id).unwrap_or_else(|| panic!("{event_id} in {events:?}"))
}

fn an_edit_comes_with_what_it_edits_wherever_that_is_served(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let root = alice.sends(&room, "root");
    let original = alice.sends_in_thread(&room, &root, "one");
    let edit = alice.sends_content(&room, related("m.replace", &original, "two"));
    bob.sends_content(&room, related("m.replace", &original, "not his to edit"));
    let is_edited = |event: &Value| {
        assert_eq!(event["content"]["body"], "one", "what is edited stays as it is");
        let replacement = &bundled(event)["m.replace"];
        assert_eq!(
            (&replacement["event_id"], &replacement["type"]),
            (&json!(edit), &json!("m.room.message")),
            "{event}"
        );
        assert_eq!(replacement["content"]["m.new_content"]["body"], "two");
        assert_eq!(replacement["sender"], json!(alice.id));
    };
    is_edited(&bob.event(&room, &original).ok());
    is_edited(find(&bob.messages(&room, &[("dir", "b")]).ok()["chunk"], &original));
    is_edited(&bob.context(&room, &original, &[]).ok()["event"]);
    is_edited(find(&bob.context(&room, &root, &[]).ok()["events_after"], &original));
    is_edited(find(&relations(&bob, &room, &root, "", &[]).ok()["chunk"], &original));
    // A sync of part of the room tells it, too.
    let filter = json!({ "room": { "timeline": { "limit": 3 } } }).to_string();
    let sync = bob.asks_sync(&[("filter", &filter)]).ok();
    let timeline = &sync["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["limited"], true, "{timeline}");
    is_edited(find(&timeline["events"], &original));
    is_edited(&bundled(&bob.event(&room, &root).ok())["m.thread"]["latest_event"]);
}

fn an_edit_that_is_redacted_is_undone(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let original = alice.sends(&room, "one");
    let edits = ["two", "three"].map(|text| alice.sends_content(&room, related("m.replace", &original, text)));
    let newest = || bundled(&alice.event(&room, &original).ok())["m.replace"]["event_id"].clone();
    assert_eq!(newest(), edits[1]);
    alice.redacts(&room, &edits[1], "r1").ok();
    assert_eq!(newest(), edits[0]);
    alice.redacts(&room, &original, "r2").ok();
    assert_eq!(newest(), Value::Null);
    assert_eq!(ids(&relations(&alice, &room, &original, "/m.replace", &[]).ok()), [&*edits[0]]);
}

fn a_thread_comes_with_its_root(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let root = alice.sends(&room, "root");
    let thread = |user: &User| bundled(&user.event(&room, &root).ok())["m.thread"].clone();
    assert_eq!(thread(&alice), Value::Null);
    alice.sends_in_thread(&room, &root, "one");
    assert_eq!((&thread(&bob)["count"], &thread(&bob)["current_user_participated"]), (&json!(1), &json!(false)));
    let last = bob.sends_in_thread(&room, &root, "two");
    for user in [&alice, &bob] {
        let thread = thread(user);
        assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(true)));
        assert_eq!(thread["latest_event"]["event_id"], last);
        assert_eq!(thread["latest_event"]["content"]["body"], "two");
    }
    // The one who sent it learns it by its transaction, inside of the root as well.
    assert!(thread(&bob)["latest_event"]["unsigned"]["transaction_id"].is_string());
    assert!(thread(&alice)["latest_event"]["unsigned"]["transaction_id"].is_null());
    alice.redacts(&room, &last, "r").ok();
    assert_eq!((&thread(&bob)["count"], &thread(&bob)["current_user_participated"]), (&json!(1), &json!(false)));
}

fn references_are_listed(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let poll = alice.sends(&room, "a poll");
    let votes = ["yes", "no"].map(|text| alice.sends_content(&room, related("m.reference", &poll, text)));
    let chunk = json!([{ "event_id": votes[0] }, { "event_id": votes[1] }]);
    assert_eq!(*bundled(&alice.event(&room, &poll).ok()), json!({ "m.reference": { "chunk": chunk } }));
    reacts(&alice, &room, &votes[0], "👍", "t").ok();
    assert!(bundled(&alice.event(&room, &votes[0]).ok()).is_null(), "annotations are for clients to count");
}

fn relations_come_in_pages(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    let thread: Vec<String> = (1..=5).map(|n| alice.sends_in_thread(&room, &root, &n.to_string())).collect();
    let reaction = reacts(&alice, &room, &root, "👍", "t").ok()["event_id"].as_str().expect("an id").to_owned();
    assert_eq!(ids(&relations(&alice, &room, &root, "/m.annotation", &[]).ok()), [&*reaction]);
    assert_eq!(ids(&relations(&alice, &room, &root, "/m.thread/m.reaction", &[]).ok()), [""; 0]);
    assert_eq!(ids(&relations(&alice, &room, &root, "", &[("limit", "1")]).ok()), [&*reaction]);
    let unstable = format!("/_matrix/client/unstable/rooms/{}/relations/{}/m.annotation", encode(&room), encode(&root));
    assert_eq!(ids(&alice.client().get(&unstable).ok()), [&*reaction]);
    for dir in ["b", "f"] {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let mut pairs = vec![("dir", dir), ("limit", "2")];
            pairs.extend(from.as_deref().map(|from| ("from", from)));
            let page = relations(&alice, &room, &root, "/m.thread/m.room.message", &pairs).ok();
            assert_eq!(page["prev_batch"].as_str(), from.as_deref(), "{page}");
            found.extend(ids(&page));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = Some(next.to_owned());
        }
        if dir == "b" {
            found.reverse();
        }
        assert_eq!(found, thread, "{dir}");
    }
}

fn tokens_are_the_same_for_messages_and_relations(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    let early = alice.sends_in_thread(&room, &root, "early");
    let since = alice.syncs().next_batch;
    let late = alice.sends_in_thread(&room, &root, "late");
    let thread = |pairs: &[(&str, &str)]| ids(&relations(&alice, &room, &root, "/m.thread", pairs).ok());
    assert_eq!(thread(&[("from", &since)]), [&*early]);
    assert_eq!(thread(&[("to", &since)]), [&*late]);
    assert_eq!(thread(&[("from", &since), ("dir", "f")]), [&*late]);
    let end = alice.messages(&room, &[("dir", "b"), ("limit", "1")]).ok()["end"].as_str().expect("an end").to_owned();
    assert_eq!(thread(&[("from", &end)]), [&*early]);
    let page = relations(&alice, &room, &root, "/m.thread", &[("limit", "1")]).ok();
    let next = page["next_batch"].as_str().expect("a next page");
    let messages = alice.messages(&room, &[("dir", "b"), ("limit", "1"), ("from", next)]).ok();
    assert_eq!(ids(&messages), [&*early]);
}

fn relations_of_relations_are_found_on_request(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    let threaded = alice.sends_in_thread(&room, &root, "one");
    let edit = alice.sends_content(&room, related("m.replace", &threaded, "two"));
    let page = relations(&alice, &room, &root, "", &[]).ok();
    assert_eq!((ids(&page), &page["recursion_depth"]), (vec![threaded.clone()], &Value::Null));
    let page = relations(&alice, &room, &root, "", &[("recurse", "true")]).ok();
    assert_eq!(ids(&page), [&*edit, &threaded]);
    assert!(page["recursion_depth"].as_u64().is_some_and(|depth| depth >= 3), "{page}");
    let by_its_old_name = relations(&alice, &room, &root, "", &[("org.matrix.msc3981.recurse", "true")]).ok();
    assert_eq!(ids(&by_its_old_name), ids(&page));
    let page = relations(&alice, &room, &root, "/m.thread", &[("recurse", "true")]).ok();
    assert_eq!(ids(&page), [&*threaded]);
    let page = relations(&alice, &room, &root, "", &[("recurse", "false")]).ok();
    assert_eq!((ids(&page), page["recursion_depth"].is_u64()), (vec![threaded], true));
}

fn the_same_reaction_is_refused_twice(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let message = alice.sends(&room, "hello");
    let first = reacts(&alice, &room, &message, "👍", "t1").ok();
    reacts(&alice, &room, &message, "👍", "t2").refused(400, "M_DUPLICATE_ANNOTATION");
    assert_eq!(reacts(&alice, &room, &message, "👍", "t1").ok(), first, "the same transaction is the same event");
    reacts(&bob, &room, &message, "👍", "t1").ok();
    reacts(&alice, &room, &message, "🎉", "t3").ok();
    alice.redacts(&room, first["event_id"].as_str().expect("an id"), "r").ok();
    reacts(&alice, &room, &message, "👍", "t4").ok();
}

fn a_thread_of_a_thread_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    let threaded = alice.sends_in_thread(&room, &root, "one");
    let edit = alice.sends_content(&room, related("m.replace", &root, "edited"));
    for related_itself in [&threaded, &edit] {
        let content = related("m.thread", related_itself, "nested");
        alice.sends_event(&room, "m.room.message", related_itself, content).refused(400, "M_UNKNOWN");
    }
    let reply =
        json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": { "m.in_reply_to": { "event_id": root } } });
    let reply = alice.sends_content(&room, reply);
    alice.sends_in_thread(&room, &reply, "a reply may begin a thread");
    // What nobody here knows yet may come.
    alice.sends_in_thread(&room, "$unknown", "early");
}

fn what_is_hidden_is_not_found(server: &Server) {
    let (alice, bob, carol) = (server.registers("alice"), server.registers("bob"), server.registers("carol"));
    let room = alice.creates_room(json!({ "preset": "public_chat" }));
    let early = alice.sends(&room, "early");
    let setting = json!({ "history_visibility": "joined" });
    alice.sets_state(&room, "m.room.history_visibility", "", setting).ok();
    let hidden = alice.sends(&room, "hidden");
    alice.sends_in_thread(&room, &early, "hidden, too");
    bob.joins(&room).ok();
    alice.sends_in_thread(&room, &hidden, "seen");
    let seen = alice.sends_in_thread(&room, &early, "seen");
    relations(&bob, &room, &hidden, "", &[]).refused(404, "M_NOT_FOUND");
    assert_eq!(ids(&relations(&bob, &room, &early, "", &[]).ok()), [&*seen]);
    assert_eq!(bundled(&bob.event(&room, &early).ok())["m.thread"]["count"], 1);
    assert_eq!(bundled(&alice.event(&room, &early).ok())["m.thread"]["count"], 2);
    relations(&carol, &room, &early, "", &[]).refused(404, "M_NOT_FOUND");
    relations(&alice, &room, "$nothing", "", &[]).refused(404, "M_NOT_FOUND");
    relations(&alice, "!nowhere:localhost", &early, "", &[]).refused(404, "M_NOT_FOUND");
}

fn nonsense_in_a_request_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let root = alice.sends(&room, "root");
    for (name, value) in [
        ("from", "nonsense"),
        ("to", "x1"),
        ("dir", "sideways"),
        ("limit", "-1"),
        ("limit", "many"),
        ("recurse", "perhaps"),
    ] {
        relations(&alice, &room, &root, "", &[(name, value)]).refused(400, "M_INVALID_PARAM");
    }
    let path = format!("/_matrix/client/v1/rooms/{}/relations/{}", encode(&room), encode(&root));
    alice.client().post(&path, json!({})).refused(405, "M_UNRECOGNIZED");
    server.anonymous().get(&path).refused(401, "M_MISSING_TOKEN");
}

fn whom_one_ignores_is_left_out(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let root = alice.sends(&room, "root");
    let hers = alice.sends_in_thread(&room, &root, "hers");
    let his = bob.sends_in_thread(&room, &root, "his");
    let since = alice.syncs().next_batch;
    let ignores = |users: Value| {
        let path = format!("/user/{}/account_data/m.ignored_user_list", encode(&alice.id));
        alice.put(&path, json!({ "ignored_users": users })).ok();
    };
    alice.ignores(&bob);
    let root_of = |user: &User| bundled(&user.event(&room, &root).ok())["m.thread"].clone();
    assert_eq!((&root_of(&alice)["count"], &root_of(&bob)["count"]), (&json!(1), &json!(2)));
    assert_eq!(root_of(&alice)["latest_event"]["event_id"], hers);
    assert_eq!(ids(&relations(&alice, &room, &root, "", &[]).ok()), [&*hers]);
    // Nor is anything else of what they say shown, but what they make of the room.
    bob.sends(&room, "noise");
    alice.sets_state(&room, "m.room.power_levels", "", json!({ "users": {}, "state_default": 0 })).ok();
    bob.sets_state(&room, "m.room.topic", "", json!({ "topic": "his" })).ok();
    let sync =
        alice.syncs_until(&since, |sync| sync.timeline(&room).iter().any(|event| event["type"] == "m.room.topic"));
    assert!(!sync.has_message(&room, "noise"));
    assert_eq!(sync.joined(&room)["unread_notifications"]["notification_count"], 0);
    let page = alice.messages(&room, &[("dir", "b"), ("limit", "50")]).ok();
    assert!(!ids(&page).contains(&his) && ids(&page).contains(&hers), "{page}");
    ignores(json!({}));
    assert_eq!(root_of(&alice)["latest_event"]["event_id"], his);
    assert!(alice.syncs().has_message(&room, "noise"), "a new sync brings it");
}
