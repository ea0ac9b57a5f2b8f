use domain::Refusal;
use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{NewDevice, ROOMS_BEFORE_ANSWER_MAX, User, authenticate, device::remove_devices_but, own_id, store};
use crate::{Call, Cx, Error, outbox, room::GuestUpgraded};

/// Makes a guest a user like any other, with a password. The tokens of the guest end; a device may be logged in at
/// once. Repeated, it answers as the first time.
///
/// Refused: `UnknownToken`; `Forbidden` for a user who is no guest; `InvalidParam` as [`NewDevice::check`].
/// Spec: "Guest Access".
#[derive(Debug, Serialize, Deserialize)]
pub struct UpgradeGuest {
    pub token_hash: String,
    /// In PHC string format.
    pub password_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<NewDevice>,
}

impl Call for UpgradeGuest {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "upgrade_guest";
    type Reply = ();
}

impl User {
    pub(super) fn upgrade_guest(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: UpgradeGuest) -> Result<(), Error> {
        let account = store::account::get(&**tx)?;
        // A hash has its own salt: where this one is, this very call put it.
        if account.password_hash.as_ref() == Some(&call.password_hash) {
            return Ok(());
        }
        authenticate(&**tx, cx, &call.token_hash)?;
        if !account.guest {
            return Err(Refusal::Forbidden("You are not a guest".to_owned()).into());
        }
        store::account::upgrade(tx, &call.password_hash)?;
        remove_devices_but(tx, cx, None)?;
        if let Some(device) = call.device {
            device.check()?;
            store::device::put(tx, &device, cx.now_ms)?;
        }
        let upgraded = GuestUpgraded { user: own_id(cx)? };
        let rooms = store::rooms::with_membership(&**tx, "join")?;
        let before_answer = rooms.len() <= ROOMS_BEFORE_ANSWER_MAX;
        rooms.into_iter().try_for_each(|room| outbox::owe(tx, cx, room.room_id, &upgraded, before_answer))
    }
}

#[cfg(test)]
mod tests {
    use domain::Refusal;

    use super::UpgradeGuest;
    use crate::{
        CallError,
        user::{Create, NewDevice, Verify},
        world::World,
    };

    const GUEST: &str = "@guest:myelin.test";

    fn upgrade(token_hash: &str, password_hash: &str) -> UpgradeGuest {
        UpgradeGuest {
            token_hash: token_hash.to_owned(),
            password_hash: password_hash.to_owned(),
            device: Some(NewDevice::new("PHONE", "user")),
        }
    }

    #[test]
    fn a_guest_becomes_a_user_once() {
        let world = World::new(1);
        let device = Some(NewDevice::new("WEB", "guest"));
        let create = Create { guest: true, device, call_id: "c".to_owned(), ..Create::default() };
        world.call(GUEST, &create).unwrap();
        for _ in 0..2 {
            world.call(GUEST, &upgrade("guest", "h")).expect("the same again");
        }
        let is_good = |token: &str| {
            world.call(GUEST, &Verify { token_hash: token.to_owned(), active: false, ignored: false }).is_ok()
        };
        assert_eq!(["guest", "user"].map(is_good), [false, true]);
        let again = world.call(GUEST, &upgrade("user", "i"));
        assert!(matches!(again, Err(CallError::Refused(Refusal::Forbidden(_)))), "{again:?}");
    }

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&upgrade("t", "h")).unwrap(), @r#"{"token_hash":"t","password_hash":"h","device":{"device_id":"PHONE","token_hash":"user"}}"#);
    }
}
