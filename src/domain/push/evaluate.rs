//! Which rule matches an event, and what it says.

use std::{borrow::Cow, cell::OnceCell, collections::BTreeMap, ops::RangeBounds};

use js_int::UInt;
use ruma_common::{
    RoomId, UserId,
    push::{Action, AnyPushRuleRef, PushCondition, Ruleset, ScalarJsonValue},
};
use serde_json::Value;

use crate::glob::{Effort, Text};

/// The level that triggers notifications for everyone in a room, if the room names none. Spec: `m.room.power_levels`.
const NOTIFICATION_LEVEL_DEFAULT: i64 = 50;

/// Whom an event may notify, and the room as it was then.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    pub user_id: &'a UserId,
    pub room_id: &'a RoomId,
    /// What the user is called in the room.
    pub display_name: Option<&'a str>,
    /// How many users were in the room.
    pub member_count: u64,
    /// The power level of the event's sender, `i64::MAX` for a creator whose power has no level.
    pub sender_level: i64,
    /// The levels that kinds of notifications take.
    pub notification_levels: &'a NotificationLevels,
    /// What may be spent on patterns: beyond it none matches.
    pub effort: &'a Effort,
}

/// The `notifications` of a room's power levels.
pub type NotificationLevels = BTreeMap<String, i64>;

/// What a rule says of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the user is notified.
    pub notify: bool,
    /// Whether that notification stands out.
    pub highlight: bool,
}

impl Verdict {
    /// What a rule with these actions says.
    pub fn of(actions: &[Action]) -> Self {
        let notify = actions.iter().any(Action::should_notify);
        Self { notify, highlight: notify && actions.iter().any(Action::is_highlight) }
    }
}

/// The actions of the rule with the highest priority that matches; none if no rule does, and for the user's own events.
pub fn actions<'r>(rules: &'r Ruleset, event: &Value, recipient: &Recipient<'_>) -> &'r [Action] {
    // «Homeservers MUST NOT notify the Push Gateway for events that the user has sent themselves.»
    if event.get("sender").and_then(Value::as_str) == Some(recipient.user_id.as_str()) {
        return &[];
    }
    let held = Held { event, recipient, body: OnceCell::new() };
    let matching = rules.iter().find(|rule| rule.enabled() && held.matches(*rule));
    matching.map_or(&[], AnyPushRuleRef::actions)
}

/// An event that rules are held against.
struct Held<'a> {
    event: &'a Value,
    recipient: &'a Recipient<'a>,
    /// Its body, once a rule asked for it.
    body: OnceCell<Option<Text>>,
}

impl Held<'_> {
    fn matches(&self, rule: AnyPushRuleRef<'_>) -> bool {
        match rule {
            AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => {
                rule.conditions.iter().all(|condition| self.meets(condition))
            }
            AnyPushRuleRef::Content(rule) => {
                self.body().is_some_and(|body| body.has_words_of(&rule.pattern, self.recipient.effort))
            }
            AnyPushRuleRef::Room(rule) => rule.rule_id == self.recipient.room_id,
            AnyPushRuleRef::Sender(rule) => {
                self.event.get("sender").and_then(Value::as_str) == Some(rule.rule_id.as_str())
            }
            // Kinds that no stable specification has.
            _ => false,
        }
    }

    fn body(&self) -> Option<&Text> {
        let made = || {
            let body = text(self.event, "content.body", self.recipient)?;
            Some(Text::new(body, self.recipient.effort))
        };
        self.body.get_or_init(made).as_ref()
    }

    fn meets(&self, condition: &PushCondition) -> bool {
        let Self { event, recipient, .. } = self;
        match condition {
            PushCondition::EventMatch(data) if data.key == "content.body" => {
                self.body().is_some_and(|body| body.has_words_of(&data.pattern, recipient.effort))
            }
            PushCondition::EventMatch(data) => text(event, &data.key, recipient)
                .is_some_and(|value| Text::new(value, recipient.effort).is_of(&data.pattern, recipient.effort)),
            PushCondition::EventPropertyIs(data) => {
                property(event, &data.key).is_some_and(|value| is_scalar(value, &data.value))
            }
            PushCondition::EventPropertyContains(data) => property(event, &data.key)
                .and_then(Value::as_array)
                .is_some_and(|values| values.iter().any(|value| is_scalar(value, &data.value))),
            #[expect(deprecated, reason = "«should not be used in new push rules», but old ones may")]
            PushCondition::ContainsDisplayName => match (recipient.display_name, self.body()) {
                (Some(name), Some(body)) => !name.is_empty() && body.has_words(name, recipient.effort),
                _ => false,
            },
            PushCondition::RoomMemberCount(data) => {
                UInt::try_from(recipient.member_count).is_ok_and(|count| data.is.contains(&count))
            }
            PushCondition::SenderNotificationPermission(data) => {
                let levels = recipient.notification_levels;
                recipient.sender_level >= levels.get(data.key.as_str()).copied().unwrap_or(NOTIFICATION_LEVEL_DEFAULT)
            }
            // «Unrecognised conditions MUST NOT match any events.»
            _ => false,
        }
    }
}

/// A property of the event that is a string.
fn text<'a>(event: &'a Value, path: &str, recipient: &'a Recipient<'_>) -> Option<&'a str> {
    match path {
        // The event that creates a room may not name it.
        "room_id" => Some(recipient.room_id.as_str()),
        path => property(event, path)?.as_str(),
    }
}

/// A property of the event. Spec: "Dot-separated property paths".
fn property<'a>(event: &'a Value, path: &str) -> Option<&'a Value> {
    names(path).iter().try_fold(event, |value, name| value.as_object()?.get(&**name))
}

/// The names of a path. A backslash makes a dot or a backslash after it part of the name, and is one itself before
/// anything else.
fn names(path: &str) -> Vec<Cow<'_, str>> {
    if !path.contains('\\') {
        return path.split('.').map(Cow::Borrowed).collect();
    }
    let (mut names, mut name) = (Vec::new(), String::new());
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '.' => names.push(Cow::Owned(std::mem::take(&mut name))),
            '\\' => name.push(chars.next_if(|next| matches!(next, '.' | '\\')).unwrap_or(c)),
            c => name.push(c),
        }
    }
    names.push(Cow::Owned(name));
    names
}

fn is_scalar(value: &Value, wanted: &ScalarJsonValue) -> bool {
    match wanted {
        ScalarJsonValue::Null => value.is_null(),
        ScalarJsonValue::Bool(wanted) => value.as_bool() == Some(*wanted),
        ScalarJsonValue::Integer(wanted) => value.as_i64() == Some((*wanted).into()),
        ScalarJsonValue::String(wanted) => value.as_str() == Some(wanted),
    }
}

#[cfg(test)]
mod tests;
