//! A user's rules: those that everyone starts with, and what the user has changed.

use ruma_common::{
    RoomId, UserId,
    push::{Action, AnyPushRuleRef, ConditionalPushRule, PushCondition, Ruleset},
};
use serde::Serialize;
use serde_json::Value;

/// All rules of a user, by priority, from what they have changed. Rules that a later release starts with are there, and
/// those it no longer has are not.
pub fn effective(user_id: &UserId, changes: Option<Ruleset>) -> Ruleset {
    let mut rules = changes.unwrap_or_default();
    rules.update_with_server_default(Ruleset::server_default(user_id));
    rules
}

/// What is to be kept of a user's effective rules: their own ones, and those of the server that they have changed.
pub fn changes(user_id: &UserId, mut effective: Ruleset) -> Ruleset {
    let default = Ruleset::server_default(user_id);
    let is_changed = |rule: AnyPushRuleRef<'_>, known: Option<AnyPushRuleRef<'_>>| {
        !rule.is_server_default()
            || known.is_none_or(|known| {
                known.enabled() != rule.enabled() || encoded(known.actions()) != encoded(rule.actions())
            })
    };
    effective.override_.retain(|rule| {
        is_changed(AnyPushRuleRef::Override(rule), default.override_.get(&*rule.rule_id).map(AnyPushRuleRef::Override))
    });
    effective.underride.retain(|rule| {
        let known = default.underride.get(&*rule.rule_id).map(AnyPushRuleRef::Underride);
        is_changed(AnyPushRuleRef::Underride(rule), known)
    });
    effective.content.retain(|rule| !rule.default);
    effective.room.retain(|rule| !rule.default);
    effective.sender.retain(|rule| !rule.default);
    effective
}

fn encoded(actions: &[Action]) -> Option<Value> {
    serde_json::to_value(actions).ok()
}

/// Of what a user has changed, all that can matter in a room; `None` if the rules that everyone starts with hold there.
pub fn for_room(mut changes: Ruleset, room_id: &RoomId) -> Option<Ruleset> {
    changes.override_.retain(|rule| rule.default || may_match_in(rule, room_id));
    changes.underride.retain(|rule| rule.default || may_match_in(rule, room_id));
    changes.room.retain(|rule| rule.rule_id == room_id);
    (changes.iter().next().is_some()).then_some(changes)
}

/// Whether the rule is not about another room.
fn may_match_in(rule: &ConditionalPushRule, room_id: &RoomId) -> bool {
    rule.enabled
        && rule.conditions.iter().all(|condition| match condition {
            PushCondition::EventMatch(data) if data.key == "room_id" && !data.pattern.contains(['*', '?']) => {
                data.pattern.eq_ignore_ascii_case(room_id.as_str())
            }
            _ => true,
        })
}

/// A ruleset as clients are shown it: every kind has its list, be it empty.
pub fn shown(rules: &Ruleset) -> impl Serialize + '_ {
    #[derive(Serialize)]
    struct Shown<O, C, R, S, U> {
        #[serde(rename = "override")]
        override_: O,
        content: C,
        room: R,
        sender: S,
        underride: U,
    }
    Shown {
        override_: &rules.override_,
        content: &rules.content,
        room: &rules.room,
        sender: &rules.sender,
        underride: &rules.underride,
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::user_id;
    use serde_json::{Value, json};

    use super::{effective, shown};

    /// Spec: "Predefined Rules", as they stand there.
    #[test]
    fn everyone_starts_with_the_rules_of_the_specification() {
        let user_id = user_id!("@alice:example.org");
        let written = include_str!("predefined.json").replace("[the user's Matrix ID]", user_id.as_str());
        let mut expected: Value = serde_json::from_str(&written).unwrap();
        for kind in ["content", "room", "sender"] {
            expected[kind] = json!([]);
        }
        assert_eq!(serde_json::to_value(shown(&effective(user_id, None))).unwrap(), expected);
    }
}
