use domain::push::{Change, Kind, NewRule};
use platform::{ActorKind, Tx};
use ruma_common::{
    OwnedRoomId,
    push::{ConditionalPushRule, PushCondition, Ruleset},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    User, own_id, push_rules,
    store::{self, account_data::GLOBAL},
};
use crate::{Call, Cx, Error};

/// Which rooms are direct chats, and with whom. Spec: "Direct Messaging".
pub(super) const DIRECT: &str = "m.direct";

/// The user joined the room `to`, and the room `from` says that it takes its place. «The server should automatically
/// transfer/replicate some of the user's personalized settings such as notifications, tags, etc.» Said again, it
/// changes nothing. Spec: "Room Upgrades".
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransferSettings {
    pub from: OwnedRoomId,
    pub to: OwnedRoomId,
}

impl Call for TransferSettings {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "transfer_settings";
    type Reply = ();
}

impl User {
    pub(super) fn transfer_settings(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TransferSettings) -> Result<(), Error> {
        let (from, to) = (call.from.as_str(), call.to.as_str());
        if_it_fits(self.copy_tags(tx, cx, from, to))?;
        if_it_fits(self.copy_push_rules(tx, cx, from, to))?;
        if_it_fits(self.copy_direct(tx, cx, from, to))?;
        cx.wake();
        Ok(())
    }

    /// Rules that are about the old room say the same of the new one.
    fn copy_push_rules(&self, tx: &Tx<'_>, cx: &Cx<'_>, from: &str, to: &str) -> Result<(), Error> {
        let mut rules = push_rules::effective(&**tx, &own_id(cx)?)?;
        let copies = copies(&rules, from, to);
        for (rule, enabled) in copies {
            let (kind, rule_id) = (rule.kind, rule.rule_id.clone());
            Change::Put(rule).apply(&mut rules)?;
            if !enabled {
                Change::Enable { kind, rule_id, enabled }.apply(&mut rules)?;
            }
        }
        self.keep_push_rules(tx, cx, rules)
    }

    fn copy_direct(&self, tx: &Tx<'_>, cx: &Cx<'_>, from: &str, to: &str) -> Result<(), Error> {
        let Some(content) = store::account_data::get(&**tx, GLOBAL, DIRECT)? else { return Ok(()) };
        // It is the clients' to write: what cannot be read stays as it is.
        let Ok(mut content) = serde_json::from_str::<Map<String, Value>>(&content) else { return Ok(()) };
        let mut changed = false;
        for rooms in content.values_mut().filter_map(Value::as_array_mut) {
            if rooms.iter().any(|room| room == from) && !rooms.iter().any(|room| room == to) {
                rooms.push(to.into());
                changed = true;
            }
        }
        if changed {
            self.put_account_data(tx, cx, GLOBAL, DIRECT, &serde_json::to_string(&content)?)?;
        }
        Ok(())
    }
}

/// A join does not fail for settings that find no room.
fn if_it_fits(copied: Result<(), Error>) -> Result<(), Error> {
    match copied {
        Err(Error::Refused(_)) => Ok(()),
        copied => copied,
    }
}

/// The rules about one room as rules about another, each with whether it is enabled, where there is none yet.
fn copies(rules: &Ruleset, from: &str, to: &str) -> Vec<(NewRule, bool)> {
    let mut copies = Vec::new();
    if let Some(rule) = rules.room.get(from)
        && !rules.room.contains(to)
    {
        let copy = NewRule {
            kind: Kind::Room,
            rule_id: to.to_owned(),
            actions: rule.actions.clone(),
            conditions: Vec::new(),
            pattern: None,
            before: Some(from.to_owned()),
            after: None,
        };
        copies.push((copy, rule.enabled));
    }
    for (kind, rules) in [(Kind::Override, &rules.override_), (Kind::Underride, &rules.underride)] {
        for rule in rules.iter().filter(|rule| !rule.default && rule.rule_id.contains(from)) {
            let rule_id = rule.rule_id.replace(from, to);
            let Some(conditions) = about(rule, from, to).filter(|_| !rules.contains(&*rule_id)) else { continue };
            let copy = NewRule {
                kind,
                rule_id,
                actions: rule.actions.clone(),
                conditions,
                pattern: None,
                before: Some(rule.rule_id.clone()),
                after: None,
            };
            copies.push((copy, rule.enabled));
        }
    }
    copies
}

/// The conditions of a rule about one room, for another; `None` if the rule is about something else.
fn about(rule: &ConditionalPushRule, from: &str, to: &str) -> Option<Vec<PushCondition>> {
    let mut conditions = rule.conditions.clone();
    let mut is_about = false;
    for condition in &mut conditions {
        if let PushCondition::EventMatch(data) = condition
            && data.key == "room_id"
            && data.pattern == from
        {
            to.clone_into(&mut data.pattern);
            is_about = true;
        }
    }
    is_about.then_some(conditions)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{power::Preset, push::shown};
    use ruma_common::user_id;
    use serde_json::{json, value::to_raw_value};

    use ruma_events::room::member::MembershipState;

    use super::*;
    use crate::{
        user::{
            ChangePushRules, Create, GetAccountData, GetPushRules, GetTags, MembershipChanged, NewDevice,
            SetAccountData, SetTag,
        },
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    /// The old room is there, and says that the new one takes its place.
    fn room(name: &str) -> OwnedRoomId {
        let name = if name == "old" { "room0" } else { name };
        format!("!{name}:myelin.test").try_into().unwrap()
    }

    fn alice() -> Rc<World> {
        let world = World::new(1);
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(ALICE, &Create { device, call_id: "a".to_owned(), ..Create::default() }).unwrap();
        let alice = user_id!("@alice:myelin.test");
        assert_eq!(world.creates_room(alice, "11", Preset::PrivateChat), room("old"));
        let tombstone = json!({ "body": "It moved", "replacement_room": room("new") });
        world.sends(alice, &room("old"), "m.room.tombstone", Some(""), &tombstone).unwrap();
        world
    }

    /// Alice joins, or joins again, the room of which the old one says, too, that it takes its place.
    fn upgrades(world: &World) {
        comes_to(world, "new");
    }

    /// Alice joins a room that says it takes the place of the old one.
    fn comes_to(world: &World, name: &str) {
        for membership in [MembershipState::Leave, MembershipState::Join] {
            world.passes(1);
            let changed = MembershipChanged {
                room_id: room(name),
                position: world.now_ms(),
                membership,
                event_id: None,
                profile: None,
                stripped_state: Vec::new(),
                predecessor: Some(room("old")),
                elsewhere: None,
            };
            world.call(ALICE, &changed).unwrap();
        }
    }

    fn tags(world: &World, name: &str) -> Value {
        world.call(ALICE, &GetTags { token_hash: "t".to_owned(), room_id: room(name) }).unwrap().into()
    }

    fn rules(world: &World) -> Value {
        serde_json::to_value(shown(&world.call(ALICE, &GetPushRules { token_hash: "t".to_owned() }).unwrap())).unwrap()
    }

    #[test]
    fn the_new_room_is_sorted_and_heard_as_the_old_one_was() {
        let world = alice();
        for (name, tag) in [("u.work", json!({ "order": 0.5 })), ("m.favourite", json!({}))] {
            let (name, tag) = (name.to_owned(), tag.as_object().cloned().unwrap());
            world.call(ALICE, &SetTag { token_hash: "t".to_owned(), room_id: room("old"), name, tag }).unwrap();
        }
        let (name, tag) = ("u.work".to_owned(), Map::new());
        world.call(ALICE, &SetTag { token_hash: "t".to_owned(), room_id: room("new"), name, tag }).unwrap();
        let old = room("old").to_string();
        let put = |rule: Value| Change::Put(serde_json::from_value(rule).unwrap());
        let muted = json!([{ "kind": "event_match", "key": "room_id", "pattern": old }]);
        for change in [
            put(json!({ "kind": "override", "rule_id": old, "actions": [], "conditions": muted })),
            put(json!({ "kind": "override", "rule_id": "other", "actions": [], "conditions": muted })),
            put(json!({ "kind": "room", "rule_id": old, "actions": ["notify"] })),
            Change::Enable { kind: Kind::Room, rule_id: old.clone(), enabled: false },
        ] {
            world.call(ALICE, &ChangePushRules { token_hash: "t".to_owned(), change }).unwrap();
        }
        let direct = to_raw_value(&json!({ "@bob:a": [old], "@carol:a": ["!other:a"], "odd": 1 })).unwrap();
        let (token_hash, event_type) = ("t".to_owned(), DIRECT.to_owned());
        world.call(ALICE, &SetAccountData { token_hash, room_id: None, event_type, content: direct }).unwrap();

        for _again in 0..2 {
            upgrades(&world);
            assert_eq!(tags(&world, "new"), json!({ "u.work": {}, "m.favourite": {} }));
            assert_eq!(tags(&world, "old"), json!({ "u.work": { "order": 0.5 }, "m.favourite": {} }));
            let rules = rules(&world);
            let new = room("new").to_string();
            let expected = json!({ "rule_id": new, "default": false, "enabled": false, "actions": ["notify"] });
            assert_eq!(rules["room"][0], expected);
            let ids: Vec<_> = rules["override"].as_array().unwrap()[..4].iter().map(|rule| &rule["rule_id"]).collect();
            assert_eq!(ids, [".m.rule.master", "other", &*new, &*old]);
            assert_eq!(rules["override"][2]["conditions"][0]["pattern"], new);
            let (token_hash, event_type) = ("t".to_owned(), DIRECT.to_owned());
            let direct = world.call(ALICE, &GetAccountData { token_hash, room_id: None, event_type }).unwrap();
            let direct: Value = serde_json::from_str(direct.get()).unwrap();
            assert_eq!(direct, json!({ "@bob:a": [old, new], "@carol:a": ["!other:a"], "odd": 1 }));
        }
    }

    #[test]
    fn a_room_that_only_says_so_itself_gets_nothing() {
        let world = alice();
        let (name, tag) = ("m.favourite".to_owned(), Map::new());
        world.call(ALICE, &SetTag { token_hash: "t".to_owned(), room_id: room("old"), name, tag }).unwrap();
        comes_to(&world, "trap");
        assert_eq!(tags(&world, "trap"), json!({}));
        comes_to(&world, "new");
        assert_eq!(tags(&world, "new"), json!({ "m.favourite": {} }));
    }

    #[test]
    fn who_set_nothing_has_nothing_to_transfer() {
        let world = alice();
        let before = rules(&world);
        upgrades(&world);
        assert_eq!((tags(&world, "new"), rules(&world)), (json!({}), before));
    }
}
