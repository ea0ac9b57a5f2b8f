use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// The longest name a client gives its device, in characters.
const DEVICE_NAME_CHARS_MAX: usize = 100;

/// Logs a device in. The caller checked the password against `password_hash`; if that is no longer the user's, the
/// login is refused. A device that exists keeps its name and gets this token instead of its old one.
///
/// Refused: `Forbidden`, `UserDeactivated`, `UserLocked`, `InvalidParam` as [`NewDevice::check`]. Spec: "Login".
#[derive(Debug, Serialize, Deserialize)]
pub struct LogIn {
    pub password_hash: String,
    pub device: NewDevice,
}

/// A device and its token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewDevice {
    pub device_id: OwnedDeviceId,
    /// The token's SHA-256 in URL-safe base64.
    pub token_hash: String,
    /// Given to a device that is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// When the token ends, in milliseconds since the Unix epoch; `None` if it does not by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// The SHA-256 of the token that refreshes it in URL-safe base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_hash: Option<String>,
    /// The internet address it logs in from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

impl NewDevice {
    /// A device without a name, whose token does not end by itself.
    pub fn new(device_id: impl Into<OwnedDeviceId>, token_hash: impl Into<String>) -> Self {
        Self {
            device_id: device_id.into(),
            token_hash: token_hash.into(),
            display_name: None,
            expires_ms: None,
            refresh_hash: None,
            ip: None,
        }
    }

    /// The same device with a name of its own, of which it gets as much as a name may have: no login fails for it.
    #[must_use]
    pub fn named(mut self, name: Option<String>) -> Self {
        self.display_name = name.map(|name| name.chars().take(DEVICE_NAME_CHARS_MAX).collect());
        self
    }

    /// Refuses a name that is too long, with `InvalidParam`.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.display_name.as_deref().map_or(Ok(()), check_device_name)
    }
}

/// Refuses the name of a device that is too long, with `InvalidParam`.
pub(super) fn check_device_name(name: &str) -> Result<(), Refusal> {
    if name.chars().count() > DEVICE_NAME_CHARS_MAX {
        return Err(Refusal::InvalidParam(format!(
            "The name of a device can have at most {DEVICE_NAME_CHARS_MAX} characters"
        )));
    }
    Ok(())
}

/// The device is logged in.
#[derive(Debug, Serialize, Deserialize)]
pub struct LoggedIn {}

impl Call for LogIn {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "log_in";
    type Reply = LoggedIn;
}

impl User {
    pub(super) fn log_in(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: LogIn) -> Result<LoggedIn, Error> {
        call.device.check()?;
        check_password_hash(&**tx, &call.password_hash)?;
        self.put_logged_in(tx, cx, &call.device)?;
        Ok(LoggedIn {})
    }

    /// Logs a device in of a user who has proven who they are.
    pub(super) fn put_logged_in(&self, tx: &Tx<'_>, cx: &Cx<'_>, device: &NewDevice) -> Result<(), Error> {
        if store::account::get(&**tx)?.locked {
            return Err(Refusal::UserLocked.into());
        }
        if store::keys::is_cross_signing(&**tx, &device.device_id)? {
            return Err(Refusal::Forbidden("This device id is the name of one of your keys".to_owned()).into());
        }
        if store::device::dehydrated(&**tx)?.is_some_and(|dehydrated| dehydrated.device_id == device.device_id) {
            return Err(Refusal::Forbidden("This device id is your dehydrated device's".to_owned()).into());
        }
        let is_new = store::device::get(&**tx, &device.device_id)?.is_none();
        store::device::put(tx, device, cx.now_ms)?;
        if is_new {
            self.device_came(tx, cx, &device.device_id)?;
        }
        // Whoever waits with the device's old token learns that it is none any more.
        cx.wake();
        Ok(())
    }
}

/// Refuses unless this is what the user's password is checked against: with `UserDeactivated` if none will do any more,
/// with `Forbidden` if it is another one meanwhile.
pub(super) fn check_password_hash(sql: &dyn Sql, password_hash: &str) -> Result<(), Error> {
    let account = store::account::get(sql)?;
    if account.password_hash.as_deref() != Some(password_hash) {
        return Err(Refusal::Forbidden("Invalid username or password".to_owned()).into());
    }
    if account.deactivated {
        return Err(Refusal::UserDeactivated.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domain::Refusal;

    use super::{LogIn, NewDevice};
    use crate::{
        CallError,
        user::{Create, LogOut, PasswordHash, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn device(device_id: &str, token_hash: &str) -> NewDevice {
        NewDevice::new(device_id, token_hash)
    }

    fn log_in(password_hash: &str, device_id: &str, token_hash: &str) -> LogIn {
        LogIn { password_hash: password_hash.to_owned(), device: device(device_id, token_hash) }
    }

    fn device_of(world: &World, token_hash: &str) -> Option<String> {
        match world.call(ALICE, &Verify { token_hash: token_hash.to_owned(), active: false, ignored: false }) {
            Ok(verified) => Some(verified.device_id.to_string()),
            Err(CallError::Refused(Refusal::UnknownToken { soft_logout: false })) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn alice(world: &World) {
        let create = Create { password_hash: Some("old".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &create).unwrap();
    }

    #[test]
    fn a_device_has_one_token_and_it_dies_with_it() {
        let world = World::new(1);
        alice(&world);
        let hash = world.call(ALICE, &PasswordHash {}).unwrap().password_hash.unwrap();
        for (device_id, token_hash) in [("PHONE", "1"), ("LAPTOP", "2"), ("PHONE", "3"), ("PHONE", "3")] {
            world.call(ALICE, &log_in(&hash, device_id, token_hash)).unwrap();
        }
        let devices = ["1", "2", "3"].map(|token_hash| device_of(&world, token_hash));
        assert_eq!(devices, [None, Some("LAPTOP".to_owned()), Some("PHONE".to_owned())]);
        world.call(ALICE, &LogOut { token_hash: "3".to_owned(), all: false }).unwrap();
        assert_eq!(["2", "3"].map(|token_hash| device_of(&world, token_hash).is_some()), [true, false]);
        world.call(ALICE, &log_in(&hash, "TABLET", "4")).unwrap();
        world.call(ALICE, &LogOut { token_hash: "4".to_owned(), all: true }).unwrap();
        assert_eq!(["2", "4"].map(|token_hash| device_of(&world, token_hash)), [None, None]);
    }

    #[test]
    fn a_password_that_has_changed_meanwhile_does_not_do() {
        let world = World::new(1);
        alice(&world);
        let outcome = world.call(ALICE, &log_in("other", "PHONE", "1"));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
        assert_eq!(device_of(&world, "1"), None);
    }

    #[test]
    fn a_device_has_a_name_of_at_most_100_characters() {
        let world = World::new(1);
        alice(&world);
        for (length, allowed) in [(100, true), (101, false)] {
            let mut call = log_in("old", "PHONE", "1");
            call.device.display_name = Some("é".repeat(length));
            let outcome = world.call(ALICE, &call).map(drop);
            let refused = matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_))));
            assert_eq!((outcome.is_ok(), refused), (allowed, !allowed), "{outcome:?}");
        }
    }

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&log_in("h", "PHONE", "t")).unwrap(), @r#"{"password_hash":"h","device":{"device_id":"PHONE","token_hash":"t"}}"#);
        insta::assert_snapshot!(serde_json::to_string(&LogOut { token_hash: "t".to_owned(), all: true }).unwrap(), @r#"{"token_hash":"t","all":true}"#);
        insta::assert_snapshot!(serde_json::to_string(&PasswordHash {}).unwrap(), @"{}");
    }
}
