//! Spec: client-server API, «Push Rules».

use harness::{Answer, Server, Sync, User, Value, encode, json, on_each_host, query};

on_each_host![
    everyone_starts_with_the_servers_rules,
    a_rule_comes_and_goes,
    a_rule_is_found_by_its_kind_and_id,
    rules_are_switched_off_and_on,
    actions_are_changed,
    the_servers_rules_are_switched_and_changed_but_stay,
    a_new_rule_is_the_most_important_one,
    rules_stand_where_they_are_put,
    historical_actions_are_none,
    what_cannot_be_is_refused,
    rules_are_for_their_user_only,
    a_sync_tells_the_rules_and_every_change,
    a_change_ends_the_wait_of_another_device,
];

const KINDS: [(&str, &str); 5] = [
    ("override", "mine"),
    ("underride", "mine"),
    ("content", "mine"),
    ("room", "!room:myelin.test"),
    ("sender", "@bob:myelin.test"),
];

fn path(kind: &str, rule_id: &str) -> String {
    format!("/pushrules/global/{kind}/{}", encode(rule_id))
}

fn body(kind: &str) -> Value {
    let mut body = json!({ "actions": ["notify", { "set_tweak": "sound", "value": "bing" }] });
    if kind == "content" {
        body["pattern"] = "cake*lie".into();
    }
    body
}

fn puts(user: &User, kind: &str, rule_id: &str) -> Answer {
    user.put(&path(kind, rule_id), body(kind))
}

fn removes(user: &User, kind: &str, rule_id: &str) -> Answer {
    user.client().delete(&format!("/_matrix/client/v3{}", path(kind, rule_id)))
}

/// The ids of a kind's rules, the most important first.
fn ids(user: &User, kind: &str) -> Vec<String> {
    let rules = user.get("/pushrules/global/").ok();
    let rules = rules[kind].as_array().unwrap_or_else(|| panic!("no {kind} in {rules}")).clone();
    rules.iter().map(|rule| rule["rule_id"].as_str().expect("a rule id").to_owned()).collect()
}

fn own_ids(user: &User, kind: &str) -> String {
    let own: Vec<_> = ids(user, kind).into_iter().filter(|rule_id| !rule_id.starts_with('.')).collect();
    own.join(" ")
}

/// The rules that a sync tells, each time it does.
fn told(sync: &Sync) -> Vec<Value> {
    let events = sync.body["account_data"]["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["type"] == "m.push_rules").map(|event| event["content"].clone()).collect()
}

fn everyone_starts_with_the_servers_rules(server: &Server) {
    let alice = server.registers("alice");
    let all = alice.get("/pushrules/").ok();
    assert_eq!(all["global"], alice.get("/pushrules/global/").ok());
    assert_eq!(
        ids(&alice, "override"),
        [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits",
        ]
    );
    assert_eq!(
        ids(&alice, "underride"),
        [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted",
        ]
    );
    for kind in ["content", "room", "sender"] {
        assert!(ids(&alice, kind).is_empty(), "{kind}");
    }
    let master = alice.get(&path("override", ".m.rule.master")).ok();
    let expected =
        json!({ "rule_id": ".m.rule.master", "default": true, "enabled": false, "conditions": [], "actions": [] });
    assert_eq!(master, expected);
    let invited = alice.get(&path("override", ".m.rule.invite_for_me")).ok();
    assert_eq!(invited["conditions"][2]["pattern"], alice.id);
}

fn a_rule_comes_and_goes(server: &Server) {
    let alice = server.registers("alice");
    for (kind, rule_id) in KINDS {
        alice.get(&path(kind, rule_id)).refused(404, "M_NOT_FOUND");
        assert_eq!(puts(&alice, kind, rule_id).ok(), json!({}));
        let mut expected = body(kind);
        expected["rule_id"] = rule_id.into();
        expected["default"] = false.into();
        expected["enabled"] = true.into();
        if kind.ends_with("ride") {
            expected["conditions"] = json!([]);
        }
        assert_eq!(alice.get(&path(kind, rule_id)).ok(), expected);
        assert_eq!(removes(&alice, kind, rule_id).ok(), json!({}));
        alice.get(&path(kind, rule_id)).refused(404, "M_NOT_FOUND");
        removes(&alice, kind, rule_id).refused(404, "M_NOT_FOUND");
        assert_eq!(own_ids(&alice, kind), "");
    }
}

fn a_rule_is_found_by_its_kind_and_id(server: &Server) {
    let alice = server.registers("alice");
    let conditions = json!([
        { "kind": "event_match", "key": "content.body", "pattern": "beer" },
        { "kind": "room_member_count", "is": "<=10" },
        { "kind": "event_property_is", "key": "content.a", "value": null },
        { "kind": "event_property_contains", "key": "content.b", "value": 1 },
        { "kind": "sender_notification_permission", "key": "room" },
        { "kind": "contains_display_name" },
        { "kind": "org.example.unknown", "anything": [1] },
    ]);
    let rule_id = "U2VlIHlvdSBpbiBUaGUgRHVrZQ==, that is: ?#";
    alice.put(&path("override", rule_id), json!({ "actions": [], "conditions": conditions })).ok();
    assert_eq!(alice.get(&path("override", rule_id)).ok()["conditions"], conditions);
    alice.get(&path("underride", rule_id)).refused(404, "M_NOT_FOUND");
    // The same id is another rule in another kind.
    puts(&alice, "underride", rule_id).ok();
    removes(&alice, "override", rule_id).ok();
    assert_eq!(alice.get(&path("underride", rule_id)).ok()["actions"][0], "notify");
}

fn rules_are_switched_off_and_on(server: &Server) {
    let alice = server.registers("alice");
    for (kind, rule_id) in KINDS {
        let enabled = format!("{}/enabled", path(kind, rule_id));
        alice.get(&enabled).refused(404, "M_NOT_FOUND");
        alice.put(&enabled, json!({ "enabled": false })).refused(404, "M_NOT_FOUND");
        puts(&alice, kind, rule_id).ok();
        assert_eq!(alice.get(&enabled).ok(), json!({ "enabled": true }));
        assert_eq!(alice.put(&enabled, json!({ "enabled": false })).ok(), json!({}));
        assert_eq!(alice.get(&enabled).ok(), json!({ "enabled": false }));
        assert_eq!(alice.get(&path(kind, rule_id)).ok()["enabled"], false);
        // Changing a rule does not switch it on; making it anew does.
        puts(&alice, kind, rule_id).ok();
        assert_eq!(alice.get(&enabled).ok(), json!({ "enabled": false }));
        removes(&alice, kind, rule_id).ok();
        puts(&alice, kind, rule_id).ok();
        assert_eq!(alice.get(&enabled).ok(), json!({ "enabled": true }));
    }
}

fn actions_are_changed(server: &Server) {
    let alice = server.registers("alice");
    let tweaks = json!(["notify", { "set_tweak": "highlight" }, { "set_tweak": "org.example", "value": { "a": 1 } }]);
    for (kind, rule_id) in KINDS {
        let actions = format!("{}/actions", path(kind, rule_id));
        alice.get(&actions).refused(404, "M_NOT_FOUND");
        alice.put(&actions, json!({ "actions": [] })).refused(404, "M_NOT_FOUND");
        puts(&alice, kind, rule_id).ok();
        assert_eq!(alice.get(&actions).ok(), json!({ "actions": body(kind)["actions"] }));
        assert_eq!(alice.put(&actions, json!({ "actions": tweaks })).ok(), json!({}));
        assert_eq!(alice.get(&actions).ok(), json!({ "actions": tweaks }));
        assert_eq!(alice.get(&path(kind, rule_id)).ok()["actions"], tweaks);
    }
}

/// «This can be used to change the actions of builtin rules.»
fn the_servers_rules_are_switched_and_changed_but_stay(server: &Server) {
    let alice = server.registers("alice");
    let before = alice.get("/pushrules/").ok();
    let notices = path("override", ".m.rule.suppress_notices");
    alice.put(&format!("{notices}/enabled"), json!({ "enabled": false })).ok();
    alice.put(&format!("{notices}/actions"), json!({ "actions": ["notify"] })).ok();
    let changed = alice.get(&notices).ok();
    assert_eq!((&changed["enabled"], &changed["actions"]), (&json!(false), &json!(["notify"])));
    assert_eq!(changed["default"], true);
    for rule_id in [".m.rule.suppress_notices", ".m.rule.master"] {
        removes(&alice, "override", rule_id).refused(404, "M_NOT_FOUND");
        puts(&alice, "override", rule_id).refused(400, "M_INVALID_PARAM");
    }
    assert_eq!(alice.get(&notices).ok(), changed);
    alice.put(&format!("{notices}/enabled"), json!({ "enabled": true })).ok();
    alice.put(&format!("{notices}/actions"), json!({ "actions": [] })).ok();
    assert_eq!(alice.get("/pushrules/").ok(), before);
}

fn a_new_rule_is_the_most_important_one(server: &Server) {
    let alice = server.registers("alice");
    for (kind, first) in [("override", 1), ("underride", 0), ("content", 0)] {
        for rule_id in ["one", "two"] {
            puts(&alice, kind, rule_id).ok();
        }
        assert_eq!(ids(&alice, kind)[first..first + 2], ["two", "one"], "{kind}");
    }
    assert_eq!(ids(&alice, "override")[0], ".m.rule.master");
}

fn rules_stand_where_they_are_put(server: &Server) {
    let alice = server.registers("alice");
    for rule_id in ["c", "b", "a"] {
        puts(&alice, "content", rule_id).ok();
    }
    let table = [
        ("d", vec![("after", "a")], "a d b c"),
        ("d", vec![("before", "c")], "a b d c"),
        ("d", vec![("after", "c")], "a b c d"),
        ("a", vec![("after", "d")], "b c d a"),
        ("a", vec![("before", "b")], "a b c d"),
        ("d", vec![("before", "b"), ("after", "a")], "a d b c"),
        ("d", vec![], "a d b c"),
    ];
    for (rule_id, place, expected) in table {
        alice.put(&format!("{}{}", path("content", rule_id), query(&place)), body("content")).ok();
        assert_eq!(own_ids(&alice, "content"), expected, "{rule_id} {place:?}");
    }
    for name in ["before", "after"] {
        for other in ["nobody", ".m.rule.contains_user_name", "e"] {
            let path = format!("{}{}", path("content", "e"), query(&[(name, other)]));
            alice.put(&path, body("content")).refused(400, "M_UNKNOWN");
        }
    }
    assert_eq!(own_ids(&alice, "content"), "a d b c", "nothing of that was done");
}

/// «A rule with `["dont_notify"]` actions MUST be equivalent to a rule with an empty actions array.»
fn historical_actions_are_none(server: &Server) {
    let alice = server.registers("alice");
    let rule = path("room", "!room:myelin.test");
    alice.put(&rule, json!({ "actions": ["dont_notify"] })).ok();
    assert_eq!(alice.get(&format!("{rule}/actions")).ok(), json!({ "actions": [] }));
    alice.put(&format!("{rule}/actions"), json!({ "actions": ["coalesce", "notify"] })).ok();
    assert_eq!(alice.get(&format!("{rule}/actions")).ok(), json!({ "actions": ["notify"] }));
}

fn what_cannot_be_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let before = alice.get("/pushrules/").ok();
    let fine = || json!({ "actions": [], "pattern": "p" });
    let table = [
        (path("content", ".mine"), fine(), "M_INVALID_PARAM"),
        (path("content", "a/b"), fine(), "M_INVALID_PARAM"),
        (path("content", "a\\b"), fine(), "M_INVALID_PARAM"),
        (path("content", &"x".repeat(256)), fine(), "M_INVALID_PARAM"),
        (path("nothing", "mine"), fine(), "M_INVALID_PARAM"),
        (path("room", "mine"), fine(), "M_INVALID_PARAM"),
        (path("sender", "mine"), fine(), "M_INVALID_PARAM"),
        (path("content", "mine"), json!({ "actions": [] }), "M_MISSING_PARAM"),
        (path("content", "mine"), json!({ "pattern": "p" }), "M_MISSING_PARAM"),
        (path("content", "mine"), json!({ "actions": [], "pattern": 1 }), "M_BAD_JSON"),
        (path("content", "mine"), json!({ "actions": "notify", "pattern": "p" }), "M_BAD_JSON"),
        (path("content", "mine"), json!({ "actions": [1], "pattern": "p" }), "M_BAD_JSON"),
        (path("content", "mine"), json!([]), "M_BAD_JSON"),
        (path("content", "mine"), json!({ "actions": [], "pattern": "p".repeat(257) }), "M_INVALID_PARAM"),
        (path("override", "mine"), json!({ "actions": [], "conditions": [{}] }), "M_BAD_JSON"),
        (
            path("override", "mine"),
            json!({ "actions": [], "conditions": [{ "kind": "room_member_count", "is": "many" }] }),
            "M_BAD_JSON",
        ),
        (format!("{}/enabled", path("override", ".m.rule.master")), json!({}), "M_MISSING_PARAM"),
        (format!("{}/enabled", path("override", ".m.rule.master")), json!({ "enabled": 1 }), "M_BAD_JSON"),
        (format!("{}/enabled", path("nothing", ".m.rule.master")), json!({ "enabled": true }), "M_INVALID_PARAM"),
        (format!("{}/actions", path("override", ".m.rule.master")), json!({}), "M_MISSING_PARAM"),
        (format!("{}/actions", path("nothing", ".m.rule.master")), json!({ "actions": [] }), "M_INVALID_PARAM"),
    ];
    for (path, body, errcode) in table {
        alice.put(&path, body).refused(400, errcode);
    }
    let not_json = format!("/_matrix/client/v3{}", path("content", "mine"));
    alice.client().send("PUT", &not_json, Some("{".to_owned())).refused(400, "M_NOT_JSON");
    for path in [path("nothing", "mine"), format!("{}/enabled", path("nothing", "mine"))] {
        alice.get(&path).refused(400, "M_INVALID_PARAM");
    }
    removes(&alice, "nothing", "mine").refused(400, "M_INVALID_PARAM");
    assert_eq!(alice.get("/pushrules/").ok(), before);
}

fn rules_are_for_their_user_only(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    puts(&alice, "content", "mine").ok();
    bob.get(&path("content", "mine")).refused(404, "M_NOT_FOUND");
    for path in ["/pushrules/", "/pushrules/global/", "/pushrules/global/content/mine"] {
        server.anonymous().get(&format!("/_matrix/client/v3{path}")).refused(401, "M_MISSING_TOKEN");
    }
    let put = format!("/_matrix/client/v3{}", path("content", "mine"));
    server.anonymous().put(&put, body("content")).refused(401, "M_MISSING_TOKEN");
}

/// «When a user changes their push rules a `m.push_rules` event is sent to all clients in the `account_data` section of
/// their next `/sync` request.»
fn a_sync_tells_the_rules_and_every_change(server: &Server) {
    let desk = server.registers("alice");
    let phone = desk.logs_in_again();
    let mut since = [&desk, &phone].map(|device| {
        let sync = device.syncs();
        assert_eq!(told(&sync), [desk.get("/pushrules/").ok()]);
        sync.next_batch
    });
    let content = format!("/user/{}/account_data/m.push_rules", encode(&desk.id));
    assert_eq!(desk.get(&content).ok(), desk.get("/pushrules/").ok());
    let enabled = format!("{}/enabled", path("override", ".m.rule.reaction"));
    let changes: [&dyn Fn() -> Answer; 4] = [
        &|| puts(&desk, "content", "mine"),
        &|| phone.put(&enabled, json!({ "enabled": false })),
        &|| removes(&phone, "content", "mine"),
        &|| desk.put(&enabled, json!({ "enabled": true })),
    ];
    for change in changes {
        change().ok();
        let now = desk.get("/pushrules/").ok();
        for (device, since) in [&desk, &phone].into_iter().zip(&mut since) {
            let sync = device.hears_since(since);
            assert_eq!(told(&sync), std::slice::from_ref(&now));
            *since = sync.next_batch;
        }
        // Once more is no change: the next news are others.
        desk.put(&enabled, desk.get(&enabled).ok()).ok();
        desk.put(&format!("/user/{}/account_data/a.b", encode(&desk.id)), now).ok();
        for (device, since) in [&desk, &phone].into_iter().zip(&mut since) {
            let sync = device.hears_since(since);
            assert!(told(&sync).is_empty() && sync.body["account_data"].is_object(), "{}", sync.body);
            *since = sync.next_batch;
        }
    }
    let filter = json!({ "account_data": { "not_types": ["m.push_rules"] } }).to_string();
    assert!(told(&Sync::from(desk.asks_sync(&[("filter", &filter), ("timeout", "0")]))).is_empty());
}

fn a_change_ends_the_wait_of_another_device(server: &Server) {
    let desk = server.registers("alice");
    let phone = desk.logs_in_again();
    let since = phone.syncs().next_batch;
    let waiter = std::thread::spawn(move || phone.syncs_until(&since, |sync| !told(sync).is_empty()));
    puts(&desk, "room", "!room:myelin.test").ok();
    let sync = waiter.join().expect("the waiter is answered");
    assert_eq!(told(&sync)[0]["global"]["room"][0]["rule_id"], "!room:myelin.test");
}
