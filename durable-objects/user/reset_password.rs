use domain::Refusal;
use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{User, device::remove_devices_but, store};
use crate::{Call, Cx, Error};

/// Gives a user another password who proved otherwise who they are, and logs all of their devices out if that is
/// wished. Repeated, it changes nothing.
///
/// Refused: `UserDeactivated`; `UserLocked`. Spec: "Password management"; "Account locking".
#[derive(Debug, Serialize, Deserialize)]
pub struct ResetPassword {
    /// The new one, in PHC string format.
    pub password_hash: String,
    pub logout_devices: bool,
}

impl Call for ResetPassword {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "reset_password";
    type Reply = ();
}

impl User {
    pub(super) fn reset_password(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ResetPassword) -> Result<(), Error> {
        let account = store::account::get(&**tx)?;
        if account.deactivated {
            return Err(Refusal::UserDeactivated.into());
        }
        // Whoever has the mailbox may be who it was locked for.
        if account.locked {
            return Err(Refusal::UserLocked.into());
        }
        // A hash has its own salt: where this one is, this very call put it.
        if account.password_hash.as_ref() == Some(&call.password_hash) {
            return Ok(());
        }
        store::account::set_password_hash(tx, &call.password_hash)?;
        // Whoever made one may have been somebody else.
        store::login_token::clear(tx, cx.now_ms, 0)?;
        if call.logout_devices {
            remove_devices_but(tx, cx, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;
    use serde_json::json;

    use super::ResetPassword;
    use crate::{
        CallError,
        user::{Create, Deactivate, GetDevices, Moderate, NewDevice, PasswordHash, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn reset(password: &str, logout_devices: bool) -> ResetPassword {
        ResetPassword { password_hash: password.to_owned(), logout_devices }
    }

    #[test]
    fn all_devices_go_if_that_is_wished() {
        let world = World::new(1);
        let device = || Some(NewDevice::new("PHONE", "t"));
        let create = Create {
            password_hash: Some("a".to_owned()),
            device: device(),
            call_id: "c".to_owned(),
            ..Create::default()
        };
        world.call(ALICE, &create).unwrap();
        world.call(ALICE, &reset("b", false)).unwrap();
        assert_eq!(world.call(ALICE, &GetDevices { token_hash: "t".to_owned(), device_id: None }).unwrap().len(), 1);
        for _ in 0..2 {
            world.call(ALICE, &reset("c", true)).expect("the same again");
        }
        let verify = world.call(ALICE, &Verify { token_hash: "t".to_owned(), active: false, ignored: false });
        assert!(matches!(verify, Err(CallError::Refused(Refusal::UnknownToken { .. }))), "{verify:?}");
        assert_eq!(world.call(ALICE, &PasswordHash {}).unwrap().password_hash.as_deref(), Some("c"));
        let encoded = json!({ "password_hash": "c", "logout_devices": true });
        assert_eq!(serde_json::to_value(reset("c", true)).unwrap(), encoded);
    }

    #[test]
    fn who_is_locked_or_gone_stays_so() {
        let world = World::new(1);
        let create = Create {
            password_hash: Some("a".to_owned()),
            device: Some(NewDevice::new("PHONE", "t")),
            call_id: "c".to_owned(),
            ..Create::default()
        };
        world.call(ALICE, &create).unwrap();
        let locks = |locked: bool| {
            world.call(ALICE, &Moderate { locked: Some(locked), suspended: None }).unwrap();
            world.call(ALICE, &reset("b", false))
        };
        assert!(matches!(locks(true), Err(CallError::Refused(Refusal::UserLocked))));
        locks(false).unwrap();
        world.call(ALICE, &reset("a", false)).unwrap();
        let gone = Deactivate { token_hash: "t".to_owned(), password_hash: "a".to_owned(), erase: false };
        world.call(ALICE, &gone).unwrap();
        let refused = world.call(ALICE, &reset("b", true));
        assert!(matches!(refused, Err(CallError::Refused(Refusal::UserDeactivated))), "{refused:?}");
    }
}
