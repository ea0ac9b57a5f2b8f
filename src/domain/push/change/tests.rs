use ruma_common::{push::Ruleset, user_id};
use serde_json::{Value, json};

use super::*;
use crate::push::{effective, shown};

fn alice() -> Ruleset {
    effective(user_id!("@alice:a"), None)
}

fn put(rules: &mut Ruleset, rule: Value) -> Result<(), Refusal> {
    let mut whole = json!({ "kind": "content", "actions": ["notify"], "pattern": "p" });
    whole.as_object_mut().unwrap().extend(rule.as_object().cloned().unwrap());
    Change::Put(serde_json::from_value(whole).unwrap()).apply(rules)
}

fn ids(rules: &Ruleset, kind: &str) -> Vec<String> {
    let shown = serde_json::to_value(shown(rules)).unwrap();
    shown[kind].as_array().unwrap().iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn rules_stand_where_they_are_put() {
    // What is there, what is put, and what is there then.
    let table = [
        ("", json!({ "rule_id": "a" }), "a"),
        ("a b c", json!({ "rule_id": "d" }), "d a b c"),
        ("a b c", json!({ "rule_id": "b" }), "a b c"),
        ("a b c", json!({ "rule_id": "d", "before": "a" }), "d a b c"),
        ("a b c", json!({ "rule_id": "d", "before": "c" }), "a b d c"),
        ("a b c", json!({ "rule_id": "d", "after": "a" }), "a d b c"),
        ("a b c", json!({ "rule_id": "d", "after": "c" }), "a b c d"),
        ("a b c", json!({ "rule_id": "a", "after": "c" }), "b c a"),
        ("a b c", json!({ "rule_id": "a", "before": "c" }), "b a c"),
        ("a b c", json!({ "rule_id": "c", "before": "a" }), "c a b"),
        ("a b c", json!({ "rule_id": "c", "after": "a" }), "a c b"),
        ("a b c", json!({ "rule_id": "d", "before": "b", "after": "a" }), "a d b c"),
        ("a b c", json!({ "rule_id": "d", "before": "c", "after": "a" }), "a b d c"),
    ];
    for (before, rule, after) in table {
        for kind in ["content", "override", "underride"] {
            let mut rules = alice();
            for rule_id in before.split(' ').rev().filter(|rule_id| !rule_id.is_empty()) {
                put(&mut rules, json!({ "rule_id": rule_id, "kind": kind })).unwrap();
            }
            let mut rule = rule.clone();
            rule["kind"] = kind.into();
            put(&mut rules, rule.clone()).unwrap();
            let own: Vec<_> = ids(&rules, kind).into_iter().filter(|rule_id| !rule_id.starts_with('.')).collect();
            assert_eq!(own.join(" "), after, "{before}: {rule}");
        }
    }
}

#[test]
fn own_rules_stand_between_the_master_and_the_servers() {
    let mut rules = alice();
    put(&mut rules, json!({ "kind": "override", "rule_id": "mine" })).unwrap();
    put(&mut rules, json!({ "kind": "underride", "rule_id": "mine" })).unwrap();
    assert_eq!(ids(&rules, "override")[..3], [".m.rule.master", "mine", ".m.rule.suppress_notices"]);
    assert_eq!(ids(&rules, "underride")[..2], ["mine", ".m.rule.call"]);
}

#[test]
fn a_rule_that_is_changed_stays_as_it_was_switched() {
    let mut rules = alice();
    put(&mut rules, json!({ "rule_id": "a" })).unwrap();
    Change::Enable { kind: Kind::Content, rule_id: "a".to_owned(), enabled: false }.apply(&mut rules).unwrap();
    put(&mut rules, json!({ "rule_id": "a", "pattern": "q" })).unwrap();
    let rule = rules.get(RuleKind::Content, "a").unwrap();
    assert!(!rule.enabled());
    assert_eq!(serde_json::to_value(rules.content.get("a").unwrap()).unwrap()["pattern"], "q");
}

#[test]
fn actions_of_old_are_stripped() {
    let mut rules = alice();
    put(&mut rules, json!({ "rule_id": "a", "actions": ["dont_notify"] })).unwrap();
    assert!(rules.get(RuleKind::Content, "a").unwrap().actions().is_empty());
    let actions =
        serde_json::from_value(json!(["coalesce", "notify", { "set_tweak": "sound", "value": "x" }])).unwrap();
    Change::SetActions { kind: Kind::Content, rule_id: "a".to_owned(), actions }.apply(&mut rules).unwrap();
    let actions = serde_json::to_value(rules.get(RuleKind::Content, "a").unwrap().actions()).unwrap();
    assert_eq!(actions, json!(["notify", { "set_tweak": "sound", "value": "x" }]));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut rules = alice();
    put(&mut rules, json!({ "rule_id": "a" })).unwrap();
    let before = serde_json::to_value(shown(&rules)).unwrap();
    let long = "x".repeat(256);
    let table = [
        (json!({ "rule_id": ".m.rule.mine" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": ".m.rule.master", "kind": "override" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": "a/b" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": "a\\b" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": "" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": long }), "M_INVALID_PARAM"),
        (json!({ "rule_id": "b", "pattern": null }), "M_MISSING_PARAM"),
        (json!({ "rule_id": "b", "pattern": format!("{long}x") }), "M_INVALID_PARAM"),
        (
            json!({ "rule_id": "b", "kind": "override", "conditions": [
                { "kind": "event_match", "key": "type", "pattern": format!("{long}x") },
            ] }),
            "M_INVALID_PARAM",
        ),
        (json!({ "rule_id": "b", "before": "c" }), "M_UNKNOWN"),
        (json!({ "rule_id": "b", "after": "c" }), "M_UNKNOWN"),
        (json!({ "rule_id": "b", "before": "a", "after": "c" }), "M_UNKNOWN"),
        (json!({ "rule_id": "a", "after": "a" }), "M_UNKNOWN"),
        (json!({ "rule_id": "b", "kind": "override", "after": ".m.rule.master" }), "M_UNKNOWN"),
        (json!({ "rule_id": "b", "kind": "room" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": "b", "kind": "sender" }), "M_INVALID_PARAM"),
        (json!({ "rule_id": "b", "actions": vec!["notify"; 1_000] }), "M_TOO_LARGE"),
    ];
    for (rule, errcode) in table {
        let refusal = put(&mut rules, rule.clone()).unwrap_err();
        assert_eq!(refusal.errcode(), errcode, "{rule}: {refusal}");
    }
    let (kind, missing) = (Kind::Override, || "a".to_owned());
    for change in [
        Change::Remove { kind, rule_id: missing() },
        Change::Enable { kind, rule_id: missing(), enabled: true },
        Change::SetActions { kind, rule_id: missing(), actions: Vec::new() },
    ] {
        assert_eq!(change.apply(&mut rules).unwrap_err().errcode(), "M_NOT_FOUND");
    }
    let remove = Change::Remove { kind, rule_id: ".m.rule.master".to_owned() };
    assert_eq!(remove.apply(&mut rules).unwrap_err().errcode(), "M_NOT_FOUND");
    assert_eq!(serde_json::to_value(shown(&rules)).unwrap(), before);
}

#[test]
fn there_are_so_many_rules_and_no_more() {
    let mut rules = alice();
    for number in 0..RULES_WITH_CONDITIONS_MAX {
        put(&mut rules, json!({ "rule_id": number.to_string() })).unwrap();
    }
    assert_eq!(put(&mut rules, json!({ "rule_id": "more" })).unwrap_err().errcode(), "M_TOO_LARGE");
    put(&mut rules, json!({ "rule_id": "7", "before": "1" })).unwrap();
    Change::Remove { kind: Kind::Content, rule_id: "7".to_owned() }.apply(&mut rules).unwrap();
    put(&mut rules, json!({ "rule_id": "more" })).unwrap();
}

#[test]
fn actions_that_nobody_knows_are_refused() {
    let checked = |actions: Value| {
        let rule = json!({ "kind": "content", "rule_id": "r", "pattern": "p", "actions": actions });
        let put = Change::Put(serde_json::from_value(rule).unwrap()).check_actions();
        let actions = serde_json::from_value(actions).unwrap();
        let set = Change::SetActions { kind: Kind::Content, rule_id: "r".to_owned(), actions }.check_actions();
        assert_eq!(put, set);
        put
    };
    let sound = json!({ "set_tweak": "sound", "value": "default" });
    for actions in
        [json!([]), json!(["notify", sound, { "set_tweak": "highlight" }, { "set_tweak": "a.b", "value": 1 }])]
    {
        assert_eq!(checked(actions), Ok(()));
    }
    assert_eq!(checked(json!(["dont_notify", "coalesce"])), Ok(()), "historical ones mean nothing");
    for actions in [json!(["stir_it_up"]), json!(["notify", "Notify"]), json!([{ "a": 1 }]), json!([{}])] {
        assert!(matches!(checked(actions.clone()), Err(Refusal::InvalidParam(_))), "{actions}");
    }
}
