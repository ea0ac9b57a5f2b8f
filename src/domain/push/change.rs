//! How a user changes their rules. Spec: "Push Rules: API".

use std::str::FromStr;

use ruma_common::{
    OwnedRoomId, OwnedUserId,
    push::{
        Action, AnyPushRuleRef, ConditionalPushRule, ConditionalPushRuleInit, PatternedPushRuleInit, PushCondition,
        RuleKind, Ruleset, SimplePushRuleInit,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Refusal;

/// The longest id of a rule, in bytes: that of a room.
const RULE_ID_BYTES_MAX: usize = 255;
/// The longest pattern, in characters: every message is held against it.
const PATTERN_CHARS_MAX: usize = 256;
/// The largest rule, in bytes of JSON.
const RULE_BYTES_MAX: usize = 8_192;
/// The most rules of one kind.
const RULES_OF_KIND_MAX: usize = 2_000;
/// The most of a kind that has patterns or conditions: every message is held against each.
const RULES_WITH_CONDITIONS_MAX: usize = 500;

/// Actions that clients may send, and that mean nothing any more. Spec: "Push Rules", "Historical Actions".
const HISTORICAL: [&str; 2] = ["dont_notify", "coalesce"];

/// The kinds of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Override,
    Content,
    Room,
    Sender,
    Underride,
}

impl FromStr for Kind {
    type Err = Refusal;

    fn from_str(kind: &str) -> Result<Self, Refusal> {
        Ok(match kind {
            "override" => Kind::Override,
            "content" => Kind::Content,
            "room" => Kind::Room,
            "sender" => Kind::Sender,
            "underride" => Kind::Underride,
            _ => return Err(Refusal::InvalidParam("There is no such kind of push rules".to_owned())),
        })
    }
}

impl From<Kind> for RuleKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Override => RuleKind::Override,
            Kind::Content => RuleKind::Content,
            Kind::Room => RuleKind::Room,
            Kind::Sender => RuleKind::Sender,
            Kind::Underride => RuleKind::Underride,
        }
    }
}

/// One change of a user's rules.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Adds a rule of the user's own, or changes one.
    Put(NewRule),
    /// Removes a rule of the user's own.
    Remove {
        kind: Kind,
        rule_id: String,
    },
    Enable {
        kind: Kind,
        rule_id: String,
        enabled: bool,
    },
    SetActions {
        kind: Kind,
        rule_id: String,
        actions: Vec<Action>,
    },
}

/// A rule of the user's own, and its place among others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewRule {
    pub kind: Kind,
    pub rule_id: String,
    pub actions: Vec<Action>,
    /// For `override` and `underride`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PushCondition>,
    /// For `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The rule shall be the next more important one than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The rule shall be the next less important one than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl Change {
    /// Applies the change to a user's effective rules.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for a rule that is not there; [`Refusal::InvalidParam`] for an id or a pattern that cannot
    /// be, and for a server-default rule that the user cannot remove or make; [`Refusal::MissingParam`] for a content
    /// rule without a pattern; [`Refusal::Unknown`] for a place beside a rule that is not there; [`Refusal::TooLarge`].
    pub fn apply(self, rules: &mut Ruleset) -> Result<(), Refusal> {
        let not_found = || Refusal::NotFound("There is no such push rule".to_owned());
        match self {
            Change::Put(rule) => rule.put(rules),
            Change::Remove { kind, rule_id } => {
                let rule = rules.get(kind.into(), &rule_id).ok_or_else(not_found)?;
                if rule.is_server_default() {
                    return Err(Refusal::NotFound("This rule is the server's own, and cannot be deleted".to_owned()));
                }
                rules.remove(kind.into(), &rule_id).map_err(|_| not_found())
            }
            Change::Enable { kind, rule_id, enabled } => {
                rules.set_enabled(kind.into(), &rule_id, enabled).map_err(|_| not_found())
            }
            Change::SetActions { kind, rule_id, actions } => {
                let actions = without_historical(actions);
                is_small_enough(&actions)?;
                rules.set_actions(kind.into(), &rule_id, actions).map_err(|_| not_found())
            }
        }
    }
}

impl Change {
    /// Refuses actions that no server knows: `InvalidParam`. Rules that were made before have them perhaps, and keep
    /// them.
    pub fn check_actions(&self) -> Result<(), Refusal> {
        let actions = match self {
            Change::Put(NewRule { actions, .. }) | Change::SetActions { actions, .. } => actions,
            Change::Remove { .. } | Change::Enable { .. } => return Ok(()),
        };
        if actions.iter().all(is_known) {
            return Ok(());
        }
        Err(Refusal::InvalidParam("An action is `notify`, or an object with `set_tweak`".to_owned()))
    }
}

/// Spec: "Push Rules", "Actions", with the historical ones.
fn is_known(action: &Action) -> bool {
    match serde_json::to_value(action) {
        Ok(Value::String(name)) => name == "notify" || HISTORICAL.contains(&&*name),
        Ok(Value::Object(fields)) => fields.get("set_tweak").is_some_and(Value::is_string),
        _ => false,
    }
}

impl NewRule {
    fn put(mut self, rules: &mut Ruleset) -> Result<(), Refusal> {
        self.check()?;
        self.actions = without_historical(std::mem::take(&mut self.actions));
        let known = rules.get(self.kind.into(), &self.rule_id);
        // «When creating push rules, they MUST be enabled by default.»
        let enabled = known.is_none_or(AnyPushRuleRef::enabled);
        let most = match self.kind {
            Kind::Override | Kind::Content | Kind::Underride => RULES_WITH_CONDITIONS_MAX,
            Kind::Room | Kind::Sender => RULES_OF_KIND_MAX,
        };
        let place = Place { rule_id: self.rule_id.clone(), before: self.before.take(), after: self.after.take(), most };
        let Self { rule_id, actions, conditions, .. } = self;
        let default = false;
        let conditional = |rule_id, actions, conditions| {
            ConditionalPushRule::from(ConditionalPushRuleInit { actions, default, enabled, rule_id, conditions })
        };
        match self.kind {
            Kind::Override => {
                let rule = conditional(rule_id, actions, conditions);
                // «.m.rule.master … has always a higher priority than any other rule.»
                let masters = rules.override_.iter().take_while(|rule| rule.default).count().min(1);
                rules.override_ = place
                    .take(rule, masters, &rules.override_, |rule| (&rule.rule_id, rule.default))?
                    .into_iter()
                    .collect();
            }
            Kind::Underride => {
                let rule = conditional(rule_id, actions, conditions);
                rules.underride =
                    place.take(rule, 0, &rules.underride, |rule| (&rule.rule_id, rule.default))?.into_iter().collect();
            }
            Kind::Content => {
                let pattern = self.pattern.unwrap_or_default();
                let rule = PatternedPushRuleInit { actions, default, enabled, rule_id, pattern }.into();
                rules.content =
                    place.take(rule, 0, &rules.content, |rule| (&rule.rule_id, rule.default))?.into_iter().collect();
            }
            Kind::Room => {
                let rule_id =
                    OwnedRoomId::try_from(rule_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
                let rule = SimplePushRuleInit { actions, default, enabled, rule_id }.into();
                rules.room = place
                    .take(rule, 0, &rules.room, |rule| (rule.rule_id.as_str(), rule.default))?
                    .into_iter()
                    .collect();
            }
            Kind::Sender => {
                let rule_id =
                    OwnedUserId::try_from(rule_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
                let rule = SimplePushRuleInit { actions, default, enabled, rule_id }.into();
                rules.sender = place
                    .take(rule, 0, &rules.sender, |rule| (rule.rule_id.as_str(), rule.default))?
                    .into_iter()
                    .collect();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Refusal> {
        let invalid = |sentence: &str| Err(Refusal::InvalidParam(sentence.to_owned()));
        // «If the string starts with a dot, the request MUST be rejected as this is reserved for server-default rules.
        // Slashes and backslashes are also not allowed.»
        if self.rule_id.starts_with('.') {
            return invalid("A rule id that begins with a dot belongs to a server-default rule");
        }
        if self.rule_id.is_empty() || self.rule_id.contains(['/', '\\']) {
            return invalid("A rule id is not empty and has no slashes or backslashes");
        }
        if self.rule_id.len() > RULE_ID_BYTES_MAX {
            return Err(Refusal::InvalidParam(format!("A rule id can have at most {RULE_ID_BYTES_MAX} bytes")));
        }
        if self.kind == Kind::Content && self.pattern.is_none() {
            return Err(Refusal::MissingParam("A content rule has a `pattern`".to_owned()));
        }
        let of_conditions = self.conditions.iter().filter_map(|condition| match condition {
            PushCondition::EventMatch(data) => Some(&data.pattern),
            _ => None,
        });
        if self.pattern.iter().chain(of_conditions).any(|pattern| pattern.chars().count() > PATTERN_CHARS_MAX) {
            return Err(Refusal::InvalidParam(format!("A pattern can have at most {PATTERN_CHARS_MAX} characters")));
        }
        is_small_enough(self)
    }
}

fn is_small_enough(rule: &impl Serialize) -> Result<(), Refusal> {
    let bytes = serde_json::to_string(rule).map_err(|error| Refusal::BadJson(error.to_string()))?.len();
    if bytes > RULE_BYTES_MAX {
        return Err(Refusal::TooLarge(format!("A push rule can have at most {RULE_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// «Clients and homeservers MUST ignore these actions, for instance, by stripping them from actions arrays they
/// encounter.»
fn without_historical(mut actions: Vec<Action>) -> Vec<Action> {
    let is_historical = |action: &Action| {
        serde_json::to_value(action).is_ok_and(|action| action.as_str().is_some_and(|name| HISTORICAL.contains(&name)))
    };
    actions.retain(|action| !is_historical(action));
    actions
}

/// Where a rule goes among those of its kind.
struct Place {
    rule_id: String,
    before: Option<String>,
    after: Option<String>,
    /// The most rules of the kind.
    most: usize,
}

impl Place {
    /// The rules with this one among them: beside the rule that was named, else where it was, else at `first`.
    ///
    /// «If both `after` and `before` are provided, the new or updated rule must be the next most important rule with
    /// respect to the rule identified by `before`.»
    fn take<'a, T: Clone + 'a>(
        &self,
        rule: T,
        first: usize,
        rules: impl IntoIterator<Item = &'a T>,
        describe: impl for<'b> Fn(&'b T) -> (&'b str, bool),
    ) -> Result<Vec<T>, Refusal> {
        let mut rules: Vec<T> = rules.into_iter().cloned().collect();
        let was_at = rules.iter().position(|rule| describe(rule).0 == self.rule_id);
        if let Some(was_at) = was_at {
            rules.remove(was_at);
        } else if rules.len() >= self.most {
            return Err(Refusal::TooLarge(format!("There may be {} push rules of this kind", self.most)));
        }
        // «It is not possible to add a rule relative to a predefined server rule.»
        let find = |rule_id: &Option<String>| match rule_id {
            Some(rule_id) => match rules.iter().position(|rule| describe(rule) == (rule_id, false)) {
                Some(place) => Ok(Some(place)),
                None => Err(Refusal::Unknown(format!("before/after rule not found: {rule_id}"))),
            },
            None => Ok(None),
        };
        let (before, after) = (find(&self.before)?, find(&self.after)?);
        let place = before.or(after.map(|after| after.saturating_add(1))).or(was_at).unwrap_or(first);
        rules.insert(place.min(rules.len()), rule);
        Ok(rules)
    }
}

#[cfg(test)]
mod tests;
