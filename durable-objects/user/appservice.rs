//! Application services act as users of their namespaces, with no token of the user's own.
//!
//! The request tier knows an application service by its token, and says which one it is where the hash of a user's
//! token would stand: no hash begins with a brace. The User looks for itself whether that one may act as it. Spec:
//! Application Service API, "Identity assertion", "Device management".

use domain::Refusal;
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use super::{NewDevice, RenameDevice, User, authenticate, own_id, store, store::device::Token};
use crate::{Call, Cx, Error};

/// An application service that acts as the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acting {
    /// The id of its registration.
    pub appservice: String,
    /// The device of the user that it acts with; without one, what needs a device is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<OwnedDeviceId>,
}

impl Acting {
    /// What stands where calls have the hash of a token.
    ///
    /// # Errors
    /// None that can be.
    pub fn token_hash(&self) -> Result<String, Fault> {
        Ok(serde_json::to_string(self)?)
    }

    /// Who acts, if this is not the hash of a token.
    fn read(token_hash: &str) -> Result<Option<Self>, Fault> {
        if token_hash.starts_with('{') { Ok(Some(serde_json::from_str(token_hash)?)) } else { Ok(None) }
    }

    /// What the user's own token would stand for. Where no device is named, its id is empty.
    fn token(self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<Token, Error> {
        let user_id = own_id(cx)?;
        let appservice = cx.settings.config.appservice(&self.appservice);
        if !appservice.is_some_and(|appservice| appservice.has_user(&user_id)) {
            return Err(Refusal::UnknownToken { soft_logout: false }.into());
        }
        let account = store::account::get(sql)?;
        if account.deactivated {
            return Err(Refusal::UserDeactivated.into());
        }
        if let Some(device_id) = &self.device_id
            && !store::device::is_logged_in(sql, device_id)?
        {
            return Err(Refusal::UnknownDevice.into());
        }
        let device_id = self.device_id.unwrap_or_else(|| "".into());
        Ok(Token { device_id, expires_ms: None, is_next: false, locked: account.locked })
    }
}

/// The token that an application service needs none of, if it is one.
pub(super) fn token_of(sql: &dyn Sql, cx: &Cx<'_>, token_hash: &str) -> Result<Option<Token>, Error> {
    Acting::read(token_hash)?.map(|acting| acting.token(sql, cx)).transpose()
}

/// Whether an application service makes this call: it proves nothing more. Spec: «MUST NOT require User-Interactive
/// Authentication when used by an application service».
pub(super) fn is_appservice(token_hash: &str) -> bool {
    token_hash.starts_with('{')
}

/// Logs a device in that an application service shall act with by a token.
///
/// Refused: as [`authenticate`], `InvalidParam` as [`NewDevice::check`]. Spec: "Server admin style permissions".
#[derive(Debug, Serialize, Deserialize)]
pub struct LogInOfAppservice {
    pub token_hash: String,
    pub device: NewDevice,
}

impl Call for LogInOfAppservice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "log_in_of_appservice";
    type Reply = ();
}

/// Makes a device, or names the one that is there already. Answers whether it is a new one.
///
/// Refused: `Forbidden` for whoever is no application service; else as [`LogInOfAppservice`].
/// Spec: "Device management", "Creating devices".
#[derive(Debug, Serialize, Deserialize)]
pub struct PutDevice {
    pub token_hash: String,
    /// With the hash of a token that nobody has.
    pub device: NewDevice,
}

impl Call for PutDevice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "put_device";
    type Reply = bool;
}

impl User {
    pub(super) fn log_in_of_appservice(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: LogInOfAppservice) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        check_appservice(&call.token_hash)?;
        call.device.check()?;
        self.put_logged_in(tx, cx, &call.device)
    }

    pub(super) fn put_device(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: PutDevice) -> Result<bool, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        check_appservice(&call.token_hash)?;
        let PutDevice { token_hash, device } = call;
        if store::device::get(&**tx, &device.device_id)?.is_some() {
            let NewDevice { device_id, display_name, .. } = device;
            self.rename_device(tx, cx, RenameDevice { token_hash, device_id, display_name })?;
            return Ok(false);
        }
        device.check()?;
        self.put_logged_in(tx, cx, &device)?;
        Ok(true)
    }
}

fn check_appservice(token_hash: &str) -> Result<(), Refusal> {
    if is_appservice(token_hash) {
        return Ok(());
    }
    Err(Refusal::Forbidden("This is for application services".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;
    use serde_json::json;

    use super::{Acting, LogInOfAppservice, PutDevice};
    use crate::{
        CallError,
        user::{Create, DeleteDevices, GetDevices, NewDevice, UploadKeys, Verify},
        world::World,
    };

    const GHOST: &str = "@_irc_alice:myelin.test";
    const ALICE: &str = "@alice:myelin.test";

    fn acting(appservice: &str, device_id: Option<&str>) -> String {
        let device_id = device_id.map(Into::into);
        Acting { appservice: appservice.to_owned(), device_id }.token_hash().unwrap()
    }

    fn world() -> Rc<World> {
        let registration = r##"{ "id": "irc", "url": null, "as_token": "a", "hs_token": "h", "sender_localpart": "irc",
            "namespaces": { "users": [{ "regex": "@_irc_", "exclusive": true }] } }"##;
        let world = World::configured(1, &[("APPSERVICES", registration)]);
        for user in [GHOST, ALICE] {
            world.call(user, &Create { call_id: "c".to_owned(), ..Create::default() }).unwrap();
        }
        world
    }

    fn verify(world: &World, user: &str, token_hash: String) -> Result<String, CallError> {
        let verified = world.call(user, &Verify { token_hash, active: false, ignored: false })?;
        Ok(verified.device_id.to_string())
    }

    #[test]
    fn it_acts_as_its_own_users_only() {
        let world = world();
        assert_eq!(verify(&world, GHOST, acting("irc", None)).unwrap(), "");
        for (user, appservice) in [(ALICE, "irc"), (GHOST, "xmpp")] {
            let other = verify(&world, user, acting(appservice, None));
            assert!(matches!(other, Err(CallError::Refused(Refusal::UnknownToken { .. }))), "{other:?}");
        }
    }

    #[test]
    fn it_makes_devices_and_acts_with_them() {
        let world = world();
        let unknown = verify(&world, GHOST, acting("irc", Some("BRIDGE")));
        assert!(matches!(unknown, Err(CallError::Refused(Refusal::UnknownDevice))), "{unknown:?}");
        let put = |token_hash: String| {
            let device = NewDevice { display_name: Some("Bridge".to_owned()), ..NewDevice::new("BRIDGE", "nobody's") };
            world.call(GHOST, &PutDevice { token_hash, device })
        };
        assert_eq!([put(acting("irc", None)).unwrap(), put(acting("irc", None)).unwrap()], [true, false]);
        let own = put("nobody's".to_owned());
        assert!(matches!(own, Err(CallError::Refused(Refusal::Forbidden(_)))), "{own:?}");
        assert_eq!(verify(&world, GHOST, acting("irc", Some("BRIDGE"))).unwrap(), "BRIDGE");
        let login = LogInOfAppservice { token_hash: acting("irc", None), device: NewDevice::new("OTHER", "hash") };
        world.call(GHOST, &login).unwrap();
        assert_eq!(verify(&world, GHOST, "hash".to_owned()).unwrap(), "OTHER");
        let delete = DeleteDevices {
            token_hash: acting("irc", None),
            password_hash: String::new(),
            devices: vec!["BRIDGE".into(), "OTHER".into()],
        };
        world.call(GHOST, &delete).unwrap();
        let devices = world.call(GHOST, &GetDevices { token_hash: acting("irc", None), device_id: None }).unwrap();
        assert_eq!(devices, []);
        let keys = UploadKeys { token_hash: acting("irc", None), ..UploadKeys::default() };
        let without = world.call(GHOST, &keys);
        assert!(matches!(without, Err(CallError::Refused(Refusal::MissingParam(_)))), "{without:?}");
    }

    #[test]
    fn the_encodings_stay() {
        assert_eq!(acting("irc", Some("D")), r#"{"appservice":"irc","device_id":"D"}"#);
        assert_eq!(acting("irc", None), r#"{"appservice":"irc"}"#);
        let device = || NewDevice::new("D", "t");
        let encoded = json!({ "token_hash": "a", "device": { "device_id": "D", "token_hash": "t" } });
        let login = LogInOfAppservice { token_hash: "a".to_owned(), device: device() };
        assert_eq!(serde_json::to_value(login).unwrap(), encoded);
        let put = PutDevice { token_hash: "a".to_owned(), device: device() };
        assert_eq!(serde_json::to_value(put).unwrap(), encoded);
    }
}
