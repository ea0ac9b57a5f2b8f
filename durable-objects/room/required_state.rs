//! Which state of a room a sliding sync wants. Spec: MSC4186, `required_state`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::state::MEMBER;

/// The state that is wanted of a room: what any of the selections selects, and who is needed to show the timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequiredState {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub selections: BTreeSet<Selection>,
    /// Whether members are wanted as far as they had a part in the timeline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lazy_members: bool,
}

/// What the included pattern matches, and none of the excluded ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selection {
    pub include: StatePattern,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exclude: BTreeSet<StatePattern>,
}

/// A key of the state, or many: what is not there may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatePattern {
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
}

/// Where in the state to look for what is wanted; more may be there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places<'a> {
    /// At these keys.
    pub keys: BTreeSet<(&'a str, &'a str)>,
    /// At all of these types.
    pub types: BTreeSet<&'a str>,
    /// At all types but members.
    pub others: bool,
}

impl StatePattern {
    fn matches(&self, event_type: &str, state_key: &str) -> bool {
        self.event_type.as_ref().is_none_or(|wanted| wanted == event_type)
            && self.state_key.as_ref().is_none_or(|wanted| wanted == state_key)
    }
}

impl Selection {
    fn selects(&self, event_type: &str, state_key: &str) -> bool {
        self.include.matches(event_type, state_key)
            && !self.exclude.iter().any(|pattern| pattern.matches(event_type, state_key))
    }

    /// Whether it leaves out all members.
    fn excludes_members(&self) -> bool {
        self.exclude.iter().any(|pattern| pattern.state_key.is_none() && pattern.matches(MEMBER, ""))
    }
}

impl RequiredState {
    pub fn selects(&self, event_type: &str, state_key: &str) -> bool {
        self.selections.iter().any(|selection| selection.selects(event_type, state_key))
    }

    /// What either wants. Spec: "Combining room configs".
    pub fn join(&mut self, other: &Self) {
        self.selections.extend(other.selections.iter().cloned());
        self.lazy_members |= other.lazy_members;
    }

    /// Whether it is sure to want all that the other wants.
    pub fn covers(&self, other: &Self) -> bool {
        other.selections.is_subset(&self.selections) && (self.lazy_members || !other.lazy_members)
    }

    pub(super) fn places(&self) -> Places<'_> {
        let mut places = Places::default();
        for selection in &self.selections {
            let StatePattern { event_type, state_key } = &selection.include;
            match (event_type.as_deref(), state_key.as_deref()) {
                (Some(event_type), Some(state_key)) => drop(places.keys.insert((event_type, state_key))),
                (Some(event_type), None) => drop(places.types.insert(event_type)),
                (None, state_key) => {
                    places.others = true;
                    match state_key {
                        _ if selection.excludes_members() => {}
                        Some(state_key) => drop(places.keys.insert((MEMBER, state_key))),
                        None => drop(places.types.insert(MEMBER)),
                    }
                }
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::RequiredState;

    fn wants(selections: serde_json::Value) -> RequiredState {
        from_value(json!({ "selections": selections })).unwrap()
    }

    #[test]
    fn a_selection_is_what_it_includes_without_what_it_excludes() {
        let topic = ("m.room.topic", "");
        let alice = ("m.room.member", "@alice:a");
        for (selections, has_topic, has_alice) in [
            (json!([]), false, false),
            (json!([{ "include": {} }]), true, true),
            (json!([{ "include": { "type": "m.room.topic" } }]), true, false),
            (json!([{ "include": { "state_key": "@alice:a" } }]), false, true),
            (json!([{ "include": {}, "exclude": [{ "type": "m.room.member" }] }]), true, false),
            (json!([{ "include": {}, "exclude": [{}] }]), false, false),
            (
                json!([
                    { "include": {}, "exclude": [{ "type": "m.room.member" }] },
                    { "include": { "type": "m.room.member", "state_key": "@alice:a" } },
                ]),
                true,
                true,
            ),
        ] {
            let wanted = wants(selections.clone());
            let selects = |(event_type, state_key)| wanted.selects(event_type, state_key);
            assert_eq!((selects(topic), selects(alice)), (has_topic, has_alice), "{selections}");
        }
    }

    #[test]
    fn members_are_gone_through_only_if_they_are_wanted() {
        let without = json!({ "include": {}, "exclude": [{ "type": "m.room.member" }] });
        let own = json!({ "include": { "type": "m.room.member", "state_key": "@a:a" } });
        for (selections, others, members) in [
            (json!([{ "include": {} }]), true, true),
            (json!([without]), true, false),
            (json!([without, own]), true, false),
            (json!([{ "include": { "state_key": "@a:a" } }]), true, false),
            (json!([without, { "include": { "type": "m.room.member" } }]), true, true),
            (json!([{ "include": { "type": "a" } }, own]), false, false),
        ] {
            let wanted = wants(selections.clone());
            let places = wanted.places();
            assert_eq!((places.others, places.types.contains("m.room.member")), (others, members), "{selections}");
        }
    }

    #[test]
    fn more_is_not_covered_by_less() {
        let (less, more) = (wants(json!([{ "include": { "type": "a" } }])), wants(json!([{ "include": {} }])));
        let mut both = less.clone();
        both.join(&more);
        assert!(both.covers(&less) && both.covers(&more) && !less.covers(&both));
        let lazy = RequiredState { lazy_members: true, ..less.clone() };
        assert!(lazy.covers(&less) && !less.covers(&lazy));
    }
}
