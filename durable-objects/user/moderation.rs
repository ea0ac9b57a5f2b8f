//! What administrators do to an account, and look up of it. Spec: "Server Administration", "Account locking", "Account
//! suspension".

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use serde::{Deserialize, Serialize};

use super::{Device, User, store};
use crate::{Call, Cx, Error};

/// What the account is kept from. The caller has found the asker to be an administrator.
///
/// Refused: `NotFound` if the account is deactivated.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetModeration {}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Moderation {
    /// Whether the account can be used at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// Whether the account can be used, but not to do what others notice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Whether the account is an administrator's, which no other moderates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
}

impl Call for GetModeration {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_moderation";
    type Reply = Moderation;
}

/// Locks or suspends the account, or no longer; tokens stay good. The caller has found the asker to be an
/// administrator.
///
/// Refused: `NotFound` if the account is deactivated; `Forbidden` if it is an administrator's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moderate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
}

impl Call for Moderate {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "moderate";
    type Reply = ();
}

/// Where the user is logged in. The caller has found the asker to be an administrator, or the user.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetSessions {}

impl Call for GetSessions {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_sessions";
    type Reply = Vec<Device>;
}

impl User {
    pub(super) fn moderation(&self, sql: &dyn Sql, _cx: &Cx<'_>, _: GetModeration) -> Result<Moderation, Error> {
        let account = store::account::get(sql)?;
        if account.deactivated {
            return Err(Refusal::NotFound("This account is deactivated".to_owned()).into());
        }
        Ok(Moderation { locked: account.locked, suspended: account.suspended, admin: account.admin })
    }

    pub(super) fn moderate(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Moderate) -> Result<(), Error> {
        let now = self.moderation(&**tx, cx, GetModeration {})?;
        if now.admin {
            return Err(Refusal::Forbidden("This is an administrator's account".to_owned()).into());
        }
        let locked = call.locked.unwrap_or(now.locked);
        let suspended = call.suspended.unwrap_or(now.suspended);
        if (locked, suspended) != (now.locked, now.suspended) {
            store::account::moderate(tx, locked, suspended)?;
            // Whoever waits learns of it.
            cx.wake();
        }
        Ok(())
    }

    pub(super) fn sessions(&self, sql: &dyn Sql, _cx: &Cx<'_>, _: GetSessions) -> Result<Vec<Device>, Error> {
        Ok(store::device::all(sql)?)
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;

    use super::{GetModeration, Moderate, Moderation};
    use crate::{
        CallError,
        user::{Create, LogOut, NewDevice, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn verify(world: &World, token: &str) -> Result<bool, CallError> {
        let call = Verify { token_hash: token.to_owned(), active: false, ignored: false };
        world.call(ALICE, &call).map(|verified| verified.suspended)
    }

    fn registers(world: &World, admin: bool) {
        let device = Some(NewDevice::new("PHONE", "t"));
        world.call(ALICE, &Create { device, admin, call_id: "c".to_owned(), ..Create::default() }).unwrap();
    }

    #[test]
    fn a_locked_account_can_log_out_and_nothing_else() {
        let world = World::new(1);
        registers(&world, false);
        world.call(ALICE, &Moderate { locked: Some(true), suspended: None }).unwrap();
        assert!(matches!(verify(&world, "t"), Err(CallError::Refused(Refusal::UserLocked))));
        assert!(matches!(verify(&world, "other"), Err(CallError::Refused(Refusal::UnknownToken { .. }))));
        let moderation = world.call(ALICE, &GetModeration {}).unwrap();
        assert_eq!(moderation, Moderation { locked: true, suspended: false, admin: false });
        world.call(ALICE, &Moderate { locked: Some(false), suspended: Some(true) }).unwrap();
        assert!(verify(&world, "t").unwrap(), "they are suspended now");
        world.call(ALICE, &Moderate { locked: Some(true), suspended: None }).unwrap();
        world.call(ALICE, &LogOut { token_hash: "t".to_owned(), all: false }).unwrap();
        assert!(matches!(verify(&world, "t"), Err(CallError::Refused(Refusal::UnknownToken { .. }))));
    }

    #[test]
    fn nobody_moderates_an_administrator() {
        let world = World::new(1);
        registers(&world, true);
        let refused = world.call(ALICE, &Moderate { locked: Some(true), suspended: None });
        assert!(matches!(refused, Err(CallError::Refused(Refusal::Forbidden(_)))));
        assert!(!verify(&world, "t").unwrap());
    }
}
