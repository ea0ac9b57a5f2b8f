//! Tokens that another client logs in with, once. Spec: "Login", `m.login.token`, and `POST /login/get_token`.

use domain::Refusal;
use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{NewDevice, User, authenticate, check_password_hash, store};
use crate::{Call, Cx, Error};

/// The most tokens that wait to be used: the oldest give way.
const WAITING_MAX: u64 = 10;

/// Makes a token good for one login.
///
/// Refused: `UnknownToken`; `Forbidden` if the password is another one meanwhile.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddLoginToken {
    pub token_hash: String,
    /// What the caller checked the user's password against.
    pub password_hash: String,
    /// The SHA-256 of the token for the login, in URL-safe base64.
    pub login_hash: String,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

impl Call for AddLoginToken {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "add_login_token";
    type Reply = ();
}

/// Logs a device in with such a token, which is used up. As [`super::LogIn`] otherwise.
///
/// Refused: `Forbidden` for a token that is none, was used, or is too old; `UserDeactivated`, `UserLocked`,
/// `InvalidParam` as [`NewDevice::check`].
#[derive(Debug, Serialize, Deserialize)]
pub struct LogInByToken {
    pub login_hash: String,
    pub device: NewDevice,
}

impl Call for LogInByToken {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "log_in_by_token";
    type Reply = ();
}

impl User {
    pub(super) fn add_login_token(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: AddLoginToken) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        check_password_hash(&**tx, &call.password_hash)?;
        store::login_token::clear(tx, cx.now_ms, WAITING_MAX.saturating_sub(1))?;
        Ok(store::login_token::put(tx, &call.login_hash, call.expires_ms)?)
    }

    pub(super) fn log_in_by_token(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: LogInByToken) -> Result<(), Error> {
        call.device.check()?;
        if !store::login_token::take(tx, &call.login_hash, cx.now_ms)? {
            return Err(Refusal::Forbidden("This login token is invalid or has expired".to_owned()).into());
        }
        if store::account::get(&**tx)?.deactivated {
            return Err(Refusal::UserDeactivated.into());
        }
        self.put_logged_in(tx, cx, &call.device)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;

    use super::{AddLoginToken, LogInByToken, WAITING_MAX};
    use crate::{
        CallError,
        user::{Create, NewDevice, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";
    const LIFETIME_MS: u64 = 120_000;

    fn alice() -> Rc<World> {
        let world = World::new(1);
        let device = Some(NewDevice::new("PHONE", "t"));
        let password_hash = Some("h".to_owned());
        let create = Create { device, password_hash, call_id: "c".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
        world
    }

    fn adds(world: &World, login: &str, password_hash: &str) -> Result<(), CallError> {
        let expires_ms = world.now_ms() + LIFETIME_MS;
        let (token_hash, password_hash, login_hash) = ("t".to_owned(), password_hash.to_owned(), login.to_owned());
        world.call(ALICE, &AddLoginToken { token_hash, password_hash, login_hash, expires_ms })
    }

    fn logs_in(world: &World, login: &str, token: &str) -> Result<(), CallError> {
        let device = NewDevice::new("TABLET", token);
        world.call(ALICE, &LogInByToken { login_hash: login.to_owned(), device })
    }

    fn is_forbidden(result: &Result<(), CallError>) -> bool {
        matches!(result, Err(CallError::Refused(Refusal::Forbidden(_))))
    }

    #[test]
    fn a_token_is_good_once() {
        let world = alice();
        adds(&world, "l", "h").unwrap();
        assert!(is_forbidden(&logs_in(&world, "other", "x")));
        logs_in(&world, "l", "u").unwrap();
        let verify = Verify { token_hash: "u".to_owned(), active: false, ignored: false };
        assert_eq!(world.call(ALICE, &verify).unwrap().device_id, "TABLET");
        assert!(is_forbidden(&logs_in(&world, "l", "v")));
    }

    #[test]
    fn a_token_ends_with_its_time_or_gives_way() {
        let world = alice();
        adds(&world, "l", "h").unwrap();
        world.passes(LIFETIME_MS);
        assert!(is_forbidden(&logs_in(&world, "l", "u")));
        for number in 0..=WAITING_MAX {
            adds(&world, &format!("l{number}"), "h").unwrap();
            world.passes(1);
        }
        assert!(is_forbidden(&logs_in(&world, "l0", "u")), "the oldest gave way");
        logs_in(&world, "l1", "u").unwrap();
        assert!(is_forbidden(&adds(&world, "l", "another password")));
    }
}
