//! The user's push rules. Kept is what the user has changed of the rules that everyone starts with, as account data of
//! which clients see the effective rules. Spec: "Push Rules".

use domain::push::{self, Change};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{UserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{
    User,
    account_data::PUSH_RULES,
    authenticate, own_id,
    store::{self, account_data::GLOBAL},
};
use crate::{Call, Cx, Error};

/// All rules of the user, by priority.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetPushRules {
    pub token_hash: String,
}

impl Call for GetPushRules {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_push_rules";
    type Reply = Ruleset;
}

/// Changes the user's rules.
///
/// Refused: `UnknownToken`, and as [`Change::apply`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ChangePushRules {
    pub token_hash: String,
    pub change: Change,
}

impl Call for ChangePushRules {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "change_push_rules";
    type Reply = ();
}

impl User {
    pub(super) fn push_rules(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetPushRules) -> Result<Ruleset, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        Ok(effective(sql, &own_id(cx)?)?)
    }

    pub(super) fn change_push_rules(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ChangePushRules) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let mut rules = effective(&**tx, &own_id(cx)?)?;
        call.change.check_actions()?;
        call.change.apply(&mut rules)?;
        self.keep_push_rules(tx, cx, rules)
    }

    /// Keeps what the user has changed, if that is anything else than before.
    pub(super) fn keep_push_rules(&self, tx: &Tx<'_>, cx: &Cx<'_>, effective: Ruleset) -> Result<(), Error> {
        let changes = push::changes(&own_id(cx)?, effective);
        let is_known = store::account_data::get(&**tx, GLOBAL, PUSH_RULES)?.is_some();
        if !is_known && changes.iter().next().is_none() {
            return Ok(());
        }
        self.put_account_data(tx, cx, GLOBAL, PUSH_RULES, &serde_json::to_string(&changes)?)
    }
}

/// What the user has changed of the rules that everyone starts with.
pub(super) fn changes(sql: &dyn Sql) -> Result<Option<Ruleset>, Fault> {
    let Some(kept) = store::account_data::get(sql, GLOBAL, PUSH_RULES)? else { return Ok(None) };
    let changes: Ruleset = serde_json::from_str(&kept)?;
    Ok(changes.iter().next().is_some().then_some(changes))
}

pub(super) fn effective(sql: &dyn Sql, user_id: &UserId) -> Result<Ruleset, Fault> {
    Ok(push::effective(user_id, changes(sql)?))
}

/// The content of `m.push_rules`.
pub(super) fn content(sql: &dyn Sql, user_id: &UserId) -> Result<Box<RawValue>, Fault> {
    let rules = effective(sql, user_id)?;
    Ok(to_raw_value(&json!({ "global": serde_json::to_value(push::shown(&rules))? }))?)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::push::Kind;
    use platform::Address;
    use serde_json::Value;

    use super::*;
    use crate::{
        user::{Closed, Create, GetAccountData, NewDevice, SyncClose, SyncPlan},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> Rc<World> {
        let world = World::new(1);
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(ALICE, &Create { device, call_id: "a".to_owned(), ..Create::default() }).unwrap();
        world
    }

    fn changes(world: &World, rule_id: &str, enabled: bool) {
        let change = Change::Enable { kind: Kind::Override, rule_id: rule_id.to_owned(), enabled };
        world.call(ALICE, &ChangePushRules { token_hash: "t".to_owned(), change }).unwrap();
    }

    fn syncs(world: &World, since: Option<&str>) -> Option<Closed> {
        let (token_hash, since) = ("t".to_owned(), since.map(ToOwned::to_owned));
        let plan =
            SyncPlan { token_hash: token_hash.clone(), since: since.clone(), may_wait: true, ..SyncPlan::default() };
        let position = world.asks(ALICE, &plan)?.position;
        let close = SyncClose {
            token_hash,
            since,
            position,
            rooms: Vec::new(),
            rooms_told: false,
            presence: None,
            without_messages: false,
        };
        Some(world.call(ALICE, &close).unwrap())
    }

    /// Whether the notices of bots are silent, by each event that tells of the rules.
    fn told(closed: &Closed) -> Vec<bool> {
        let is_enabled = |content: &RawValue| {
            let content: Value = serde_json::from_str(content.get()).unwrap();
            let rules = content["global"]["override"].as_array().unwrap();
            let rule = rules.iter().find(|rule| rule["rule_id"] == ".m.rule.suppress_notices").unwrap();
            rule["enabled"].as_bool().unwrap()
        };
        let events = closed.account_data.iter().filter(|event| event.event_type == PUSH_RULES);
        events.map(|event| is_enabled(&event.content)).collect()
    }

    #[test]
    fn a_sync_tells_the_rules_first_and_whenever_they_change() {
        let world = alice();
        let first = syncs(&world, None).unwrap();
        assert_eq!(told(&first), [true]);
        changes(&world, ".m.rule.suppress_notices", true);
        assert!(syncs(&world, Some(&first.next_batch)).is_none(), "as it is already");
        changes(&world, ".m.rule.suppress_notices", false);
        world.evict(&Address::new(ActorKind::User, ALICE));
        let next = syncs(&world, Some(&first.next_batch)).unwrap();
        assert_eq!(told(&next), [false]);
        let (token_hash, event_type) = ("t".to_owned(), PUSH_RULES.to_owned());
        let content = world.call(ALICE, &GetAccountData { token_hash, room_id: None, event_type }).unwrap();
        assert_eq!(content.get(), next.account_data[0].content.get());
        changes(&world, ".m.rule.suppress_notices", true);
        let last = syncs(&world, Some(&next.next_batch)).unwrap();
        assert_eq!(told(&last), [true], "back to how it was is a change, too");
        assert_eq!(told(&syncs(&world, None).unwrap()), [true]);
        assert!(syncs(&world, Some(&last.next_batch)).is_none());
    }
}
