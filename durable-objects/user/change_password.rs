use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{User, authenticate, check_password_hash, device::remove_devices_but, store};
use crate::{Call, Cx, Error};

/// Gives the user another password, and logs their other devices out, those too that a token was to log in, if that is
/// wished. Repeated, it changes nothing.
///
/// Refused: `UnknownToken`; `Forbidden` if the password is another one meanwhile. Spec: "Password management".
#[derive(Debug, Serialize, Deserialize)]
pub struct ChangePassword {
    pub token_hash: String,
    /// What the caller checked the old password against.
    pub old_password_hash: String,
    /// The new one, in PHC string format.
    pub password_hash: String,
    /// Whether every device but the caller's goes.
    pub logout_devices: bool,
}

impl Call for ChangePassword {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "change_password";
    type Reply = ();
}

impl User {
    pub(super) fn change_password(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ChangePassword) -> Result<(), Error> {
        let device_id = authenticate(&**tx, cx, &call.token_hash)?;
        // A hash has its own salt: where this one is, this very call put it.
        if store::account::get(&**tx)?.password_hash.as_ref() == Some(&call.password_hash) {
            return Ok(());
        }
        check_password_hash(&**tx, &call.old_password_hash)?;
        store::account::set_password_hash(tx, &call.password_hash)?;
        if call.logout_devices {
            remove_devices_but(tx, cx, Some(&device_id))?;
            // Nor does one come that was about to.
            store::login_token::clear(tx, cx.now_ms, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;

    use super::ChangePassword;
    use crate::{
        CallError,
        user::{AddLoginToken, Create, GetDevices, LogIn, LogInByToken, NewDevice, PasswordHash},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn change(old: &str, new: &str, logout_devices: bool) -> ChangePassword {
        ChangePassword {
            token_hash: "0".to_owned(),
            old_password_hash: old.to_owned(),
            password_hash: new.to_owned(),
            logout_devices,
        }
    }

    #[test]
    fn other_devices_go_if_that_is_wished() {
        let world = World::new(1);
        let device = |number: u8| NewDevice::new(number.to_string(), number.to_string());
        let create = Create {
            password_hash: Some("a".to_owned()),
            device: Some(device(0)),
            call_id: "c".to_owned(),
            ..Create::default()
        };
        world.call(ALICE, &create).unwrap();
        world.call(ALICE, &LogIn { password_hash: "a".to_owned(), device: device(1) }).unwrap();
        let devices = || world.call(ALICE, &GetDevices { token_hash: "0".to_owned(), device_id: None }).unwrap().len();
        let token = |hash: &str, password: &str| {
            let (token_hash, login_hash) = ("0".to_owned(), hash.to_owned());
            let call = AddLoginToken {
                token_hash,
                password_hash: password.to_owned(),
                login_hash,
                expires_ms: u64::MAX >> 12,
            };
            world.call(ALICE, &call).unwrap();
        };
        let logs_in = |hash: &str| world.call(ALICE, &LogInByToken { login_hash: hash.to_owned(), device: device(2) });
        token("l", "a");
        world.call(ALICE, &change("a", "b", false)).unwrap();
        assert_eq!(devices(), 2);
        logs_in("l").unwrap();
        token("m", "b");
        for old in ["b", "b"] {
            world.call(ALICE, &change(old, "c", true)).expect("the same again");
            assert_eq!(devices(), 1);
            assert!(logs_in("m").is_err());
        }
        let outcome = world.call(ALICE, &change("b", "d", true));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
        assert_eq!(world.call(ALICE, &PasswordHash {}).unwrap().password_hash.as_deref(), Some("c"));
    }

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&change("a", "b", true)).unwrap(), @r#"{"token_hash":"0","old_password_hash":"a","password_hash":"b","logout_devices":true}"#);
    }
}
