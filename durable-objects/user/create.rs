use domain::Refusal;
use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{NewDevice, User, check_profile_field, store};
use crate::{Call, Cx, Error};

/// Registers the user, and logs in a first device. The User decides who is first: whoever comes later is refused.
///
/// Refused: `UserInUse`; `InvalidParam` for names that are too long. Spec: "Account registration".
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Create {
    /// In PHC string format; `None` for a user who cannot log in with a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// Whether the user is a server administrator.
    #[serde(default)]
    pub admin: bool,
    /// Whether the user is a guest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guest: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<NewDevice>,
    /// Repeated with the same call id, the call answers as the first time.
    pub call_id: String,
}

/// The user exists.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {}

impl Call for Create {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "create";
    type Reply = Created;
}

impl User {
    pub(super) fn create(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Create) -> Result<Created, Error> {
        match store::account::founded_by(&**tx)? {
            Some(call_id) if call_id == call.call_id => return Ok(Created {}),
            Some(_) => return Err(Refusal::UserInUse.into()),
            None => {}
        }
        if let Some(display_name) = &call.display_name {
            check_profile_field("displayname", display_name)?;
        }
        if let Some(device) = &call.device {
            device.check()?;
        }
        store::account::insert(tx, cx.now_ms, &call)?;
        if let Some(display_name) = call.display_name {
            let mut profile = store::profile::Profile::new();
            profile.insert("displayname".to_owned(), display_name.into());
            store::profile::set(tx, &profile)?;
        }
        if let Some(device) = call.device {
            store::device::put(tx, &device, cx.now_ms)?;
        }
        Ok(Created {})
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;
    use platform::{ActorKind, Address};

    use super::Create;
    use crate::{
        CallError,
        user::{GetProfile, NewDevice, PasswordHash, Verify},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn create(call_id: &str) -> Create {
        Create {
            password_hash: Some("$argon2id$x".to_owned()),
            admin: true,
            display_name: Some("Alice".to_owned()),
            device: Some(NewDevice { display_name: Some("My phone".to_owned()), ..NewDevice::new("PHONE", "hash") }),
            guest: false,
            call_id: call_id.to_owned(),
        }
    }

    #[test]
    fn whoever_is_first_is_the_user() {
        let world = World::new(1);
        world.call(ALICE, &create("a")).unwrap();
        world.evict(&Address::new(ActorKind::User, ALICE));
        world.call(ALICE, &create("a")).expect("the same registration, repeated");
        let other = world.call(ALICE, &create("b"));
        assert!(matches!(other, Err(CallError::Refused(Refusal::UserInUse))), "{other:?}");
        let verified =
            world.call(ALICE, &Verify { token_hash: "hash".to_owned(), active: false, ignored: false }).unwrap();
        assert_eq!((verified.device_id.as_str(), verified.admin), ("PHONE", true));
        assert_eq!(world.call(ALICE, &GetProfile {}).unwrap()["displayname"], "Alice");
    }

    #[test]
    fn names_have_their_lengths() {
        let world = World::new(1);
        let long_name = Create { display_name: Some("x".repeat(257)), ..create("a") };
        let mut long_device = create("a");
        long_device.device.as_mut().unwrap().display_name = Some("x".repeat(101));
        for call in [long_name, long_device] {
            let outcome = world.call(ALICE, &call);
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
        }
        world.call(ALICE, &create("a")).expect("nothing of them remains");
    }

    #[test]
    fn who_was_never_registered_is_absent() {
        let world = World::new(1);
        let absent = |outcome: Result<(), CallError>| assert!(matches!(outcome, Err(CallError::Absent)), "{outcome:?}");
        absent(world.call(ALICE, &PasswordHash {}).map(drop));
        absent(world.call(ALICE, &Verify { token_hash: "hash".to_owned(), active: false, ignored: false }).map(drop));
        absent(world.call(ALICE, &GetProfile {}).map(drop));
    }

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&create("a")).unwrap(), @r#"{"password_hash":"$argon2id$x","admin":true,"display_name":"Alice","device":{"device_id":"PHONE","token_hash":"hash","display_name":"My phone"},"call_id":"a"}"#);
        let least: Create = serde_json::from_str(r#"{"call_id":"a"}"#).unwrap();
        insta::assert_snapshot!(serde_json::to_string(&least).unwrap(), @r#"{"admin":false,"call_id":"a"}"#);
    }
}
