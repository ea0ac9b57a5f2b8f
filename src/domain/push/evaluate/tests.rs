use ruma_common::{push::Ruleset, room_id, user_id};
use serde_json::{Value, json};

use super::*;
use crate::push::{changes, effective, for_room};

fn rules(changes: Value) -> Ruleset {
    effective(user_id!("@alice:a"), Some(serde_json::from_value(changes).unwrap()))
}

fn with_condition(condition: &Value) -> Ruleset {
    rules(json!({ "override": [{
        "rule_id": "mine", "default": false, "enabled": true, "conditions": [condition],
        "actions": ["notify", { "set_tweak": "highlight" }],
    }] }))
}

fn told(rules: &Ruleset, event: &Value, change: impl FnOnce(&mut Recipient<'_>)) -> Verdict {
    let levels = NotificationLevels::from([("room".to_owned(), 60), ("low".to_owned(), 1)]);
    let mut recipient = Recipient {
        user_id: user_id!("@alice:a"),
        room_id: room_id!("!room:a"),
        display_name: Some("Alice L."),
        member_count: 3,
        sender_level: 50,
        notification_levels: &levels,
        effort: &Effort::new(1_000_000),
    };
    change(&mut recipient);
    Verdict::of(actions(rules, event, &recipient))
}

const SILENT: Verdict = Verdict { notify: false, highlight: false };
const NOTIFIES: Verdict = Verdict { notify: true, highlight: false };
const HIGHLIGHTS: Verdict = Verdict { notify: true, highlight: true };

fn message(content: Value) -> Value {
    json!({ "type": "m.room.message", "sender": "@bob:a", "room_id": "!room:a", "content": content })
}

/// Spec: "Predefined Rules".
#[test]
fn the_rules_that_everyone_starts_with() {
    let state = |event_type: &str, state_key: &str, content: Value| json!({ "type": event_type, "sender": "@bob:a", "state_key": state_key, "content": content });
    let of_type = |event_type: &str| json!({ "type": event_type, "sender": "@bob:a", "content": {} });
    let mut own = message(json!({ "body": "hello" }));
    own["sender"] = "@alice:a".into();
    let table = [
        (message(json!({ "body": "hello", "msgtype": "m.text" })), NOTIFIES),
        (own, SILENT),
        (message(json!({ "body": "a bot", "msgtype": "m.notice" })), SILENT),
        (state("m.room.member", "@alice:a", json!({ "membership": "invite" })), NOTIFIES),
        (state("m.room.member", "@carol:a", json!({ "membership": "invite" })), SILENT),
        (state("m.room.member", "@bob:a", json!({ "membership": "join" })), SILENT),
        (message(json!({ "body": "hi", "m.mentions": { "user_ids": ["@carol:a", "@alice:a"] } })), HIGHLIGHTS),
        (message(json!({ "body": "hi", "m.mentions": { "user_ids": ["@carol:a"] } })), NOTIFIES),
        (message(json!({ "body": "hi", "m.mentions": { "user_ids": "@alice:a" } })), NOTIFIES),
        // The sender's level is too low to call the room.
        (message(json!({ "body": "hi", "m.mentions": { "room": true } })), NOTIFIES),
        // Since v1.17 a name in the text is no mention.
        (message(json!({ "body": "hi alice, hi Alice L., @room" })), NOTIFIES),
        (state("m.room.tombstone", "", json!({ "body": "moved" })), HIGHLIGHTS),
        (state("m.room.tombstone", "x", json!({ "body": "moved" })), SILENT),
        (of_type("m.room.tombstone"), SILENT),
        (of_type("m.reaction"), SILENT),
        (state("m.room.server_acl", "", json!({})), SILENT),
        (message(json!({ "body": "* hi", "m.relates_to": { "rel_type": "m.replace", "event_id": "$e" } })), SILENT),
        (of_type("m.call.invite"), NOTIFIES),
        (of_type("m.room.encrypted"), NOTIFIES),
        (state("m.room.name", "", json!({ "name": "hello" })), SILENT),
        (of_type("org.example.unknown"), SILENT),
        (json!({}), SILENT),
        (json!([]), SILENT),
    ];
    let rules = effective(user_id!("@alice:a"), None);
    for (event, expected) in table {
        assert_eq!(told(&rules, &event, |_| ()), expected, "{event}");
    }
    let room_mention = message(json!({ "body": "hi", "m.mentions": { "room": true } }));
    assert_eq!(told(&rules, &room_mention, |recipient| recipient.sender_level = 60), HIGHLIGHTS);
    assert_eq!(told(&rules, &room_mention, |recipient| recipient.sender_level = i64::MAX), HIGHLIGHTS);
}

/// Spec: "Conditions", with its examples.
#[test]
fn conditions_hold_or_do_not() {
    let topic = |topic: Value| json!({ "type": "m.room.topic", "sender": "@bob:a", "content": { "topic": topic } });
    let federate = |value: Value| json!({ "type": "x", "sender": "@bob:a", "content": { "m.federate": value } });
    let list = |value: Value| json!({ "type": "x", "sender": "@bob:a", "content": { "list": value } });
    let matching = |key: &str, pattern: &str| json!({ "kind": "event_match", "key": key, "pattern": pattern });
    let being = |key: &str, value: Value| json!({ "kind": "event_property_is", "key": key, "value": value });
    let containing = |value: Value| json!({ "kind": "event_property_contains", "key": "content.list", "value": value });
    let counting = |is: &str| json!({ "kind": "room_member_count", "is": is });
    let permitted = |key: &str| json!({ "kind": "sender_notification_permission", "key": key });
    let any = topic(json!("any"));
    let body = |body: &str| message(json!({ "body": body, "msgtype": "m.notice" }));
    let odd = json!({ "type": "x", "sender": "@bob:a", "content": { "a\\b": { "c.d": "v" }, "e\\f": "w" } });
    let table = [
        (matching("content.topic", "lunc?*"), topic(json!("Lunch plans")), true),
        (matching("content.topic", "lunc?*"), topic(json!(" lunch")), false),
        (matching("content.topic", "*"), topic(Value::Null), false),
        (matching("content.topic", "*"), topic(json!(1)), false),
        (matching("content.topic", "*"), body("hi"), false),
        (matching("content.body", "ex*ple"), body("An exciting triple-whammy"), true),
        (matching("content.body", "ex*ple"), body("An exciting triplet"), false),
        (matching("room_id", "!room:a"), any.clone(), true),
        (matching("room_id", "!other:a"), any.clone(), false),
        (matching("content", "*"), any.clone(), false),
        (matching("content.topic.any", "*"), any.clone(), false),
        (matching(r"content.a\\b.c\.d", "v"), odd.clone(), true),
        (matching(r"content.a\b.c\.d", "v"), odd.clone(), true),
        (matching(r"content.a\b.c.d", "v"), odd.clone(), false),
        (matching(r"content.e\f", "w"), odd, true),
        (being(r"content.m\.federate", json!(true)), federate(json!(true)), true),
        (being(r"content.m\.federate", json!(true)), federate(json!("true")), false),
        (being(r"content.m\.federate", json!(true)), federate(json!(1)), false),
        (being("content.m.federate", json!(true)), federate(json!(true)), false),
        (being(r"content.m\.federate", Value::Null), federate(Value::Null), true),
        (being("content.absent", Value::Null), federate(Value::Null), false),
        (being(r"content.m\.federate", json!(7)), federate(json!(7)), true),
        (being(r"content.m\.federate", json!(7)), federate(json!(7.5)), false),
        (being(r"content.m\.federate", json!("Text")), federate(json!("text")), false),
        (containing(json!("#a:a")), list(json!([1, "#b:a", "#a:a"])), true),
        (containing(json!(":a")), list(json!(["#a:a"])), false),
        (containing(json!("#a:a")), list(json!("#a:a")), false),
        (containing(Value::Null), list(json!([[], {}, null])), true),
        (counting("3"), any.clone(), true),
        (counting("==3"), any.clone(), true),
        (counting("<3"), any.clone(), false),
        (counting("<=3"), any.clone(), true),
        (counting(">2"), any.clone(), true),
        (counting(">=4"), any.clone(), false),
        (permitted("room"), any.clone(), false),
        (permitted("low"), any.clone(), true),
        (permitted("unnamed"), any.clone(), true),
        (json!({ "kind": "contains_display_name" }), body("hi ALICE L.!"), true),
        (json!({ "kind": "contains_display_name" }), body("hi alice"), false),
        (json!({ "kind": "org.example.unknown", "key": "type" }), any, false),
    ];
    for (condition, event, expected) in table {
        let verdict = told(&with_condition(&condition), &event, |_| ());
        assert_eq!(verdict == HIGHLIGHTS, expected, "{condition} {event}");
    }
    let named = with_condition(&json!({ "kind": "contains_display_name" }));
    for name in [None, Some("")] {
        assert_eq!(told(&named, &body("hi Alice L."), |recipient| recipient.display_name = name), SILENT);
    }
}

#[test]
fn the_most_important_rule_that_is_enabled_decides() {
    let rule = |rule_id: &str, enabled: bool, actions: Value| json!({ "rule_id": rule_id, "default": false, "enabled": enabled, "actions": actions });
    let loud = json!(["notify", { "set_tweak": "highlight" }]);
    let mut content = rule("cake", true, loud.clone());
    content["pattern"] = "cake".into();
    let changes = json!({
        "content": [content],
        "room": [rule("!room:a", true, json!([]))],
        "sender": [rule("@bob:a", true, loud.clone()), rule("@carol:a", false, loud)],
    });
    let from = |sender: &str, body: &str| {
        let mut event = message(json!({ "body": body }));
        event["sender"] = sender.into();
        event
    };
    let elsewhere = |recipient: &mut Recipient<'_>| recipient.room_id = room_id!("!other:a");
    assert_eq!(told(&rules(changes.clone()), &from("@bob:a", "some cake"), |_| ()), HIGHLIGHTS);
    assert_eq!(told(&rules(changes.clone()), &from("@bob:a", "some tea"), |_| ()), SILENT);
    assert_eq!(told(&rules(changes.clone()), &from("@bob:a", "some tea"), elsewhere), HIGHLIGHTS);
    assert_eq!(told(&rules(changes.clone()), &from("@carol:a", "some tea"), elsewhere), NOTIFIES);
    // A highlight without a notification is none.
    let only_tweak = json!({ "room": [rule("!room:a", true, json!([{ "set_tweak": "highlight" }]))] });
    assert_eq!(told(&rules(only_tweak), &from("@bob:a", "hi"), |_| ()), SILENT);
    // The master rule goes before everything.
    let mut all = rules(changes);
    all.set_enabled(ruma_common::push::RuleKind::Override, ".m.rule.master", true).unwrap();
    assert_eq!(told(&all, &from("@bob:a", "some cake"), |_| ()), SILENT);
}

/// What is kept of the rules, and what of it goes to a room, says the same as the whole.
#[test]
fn what_is_kept_is_what_was_changed() {
    let alice = user_id!("@alice:a");
    assert!(changes(alice, effective(alice, None)).iter().next().is_none());
    let room = room_id!("!room:a");
    let kept = json!({
        "override": [
            { "rule_id": ".m.rule.suppress_notices", "default": true, "enabled": false, "actions": [], "conditions": [] },
            { "rule_id": "!other:a", "default": false, "enabled": true, "actions": [],
              "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": "!other:a" }] },
            { "rule_id": "off", "default": false, "enabled": false, "actions": [], "conditions": [] },
        ],
        "room": [{ "rule_id": "!other:a", "default": false, "enabled": true, "actions": [] }],
        "underride": [
            { "rule_id": ".m.rule.of_an_old_release", "default": true, "enabled": true, "actions": [], "conditions": [] },
            { "rule_id": ".m.rule.message", "default": true, "enabled": true, "actions": ["notify", { "set_tweak": "highlight" }], "conditions": [] },
        ],
    });
    let all = effective(alice, Some(serde_json::from_value(kept).unwrap()));
    let again = changes(alice, all.clone());
    let ids = |rules: &Ruleset| rules.iter().map(|rule| rule.rule_id().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ["!other:a", "off", ".m.rule.suppress_notices", "!other:a", ".m.rule.message"]);
    assert_eq!(ids(&effective(alice, Some(again.clone()))), ids(&all));
    let here = for_room(again.clone(), room).unwrap();
    assert_eq!(ids(&here), [".m.rule.suppress_notices", ".m.rule.message"]);
    assert_eq!(ids(&for_room(again, room_id!("!other:a")).unwrap()).len(), 4);
    let notice = message(json!({ "body": "hi", "msgtype": "m.notice" }));
    for rules in [all, effective(alice, Some(here))] {
        assert_eq!(told(&rules, &notice, |_| ()), HIGHLIGHTS);
    }
    let elsewhere = json!({ "room": [{ "rule_id": "!other:a", "default": false, "enabled": true, "actions": [] }] });
    assert!(for_room(serde_json::from_value(elsewhere).unwrap(), room).is_none());
}
