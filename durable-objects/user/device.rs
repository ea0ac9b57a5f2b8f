use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId};
use serde::{Deserialize, Serialize};

use super::{User, appservice::is_appservice, authenticate, check_password_hash, log_in::check_device_name, store};
use crate::{Call, Cx, Error};

/// The most devices deleted at once.
const DELETED_MAX: usize = 1_000;

/// A device as its user sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub device_id: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// When it was last seen, give or take ten minutes, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<u64>,
    /// The internet address it was last seen at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ip: Option<String>,
}

/// The user's devices.
///
/// Refused: `UnknownToken`. Spec: "Device Management".
#[derive(Debug, Serialize, Deserialize)]
pub struct GetDevices {
    pub token_hash: String,
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<OwnedDeviceId>,
}

impl Call for GetDevices {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_devices";
    type Reply = Vec<Device>;
}

/// Names a device; without a name nothing changes.
///
/// Refused: `UnknownToken`, `NotFound`, `InvalidParam` for a name that is too long. Spec: "Device Management".
#[derive(Debug, Serialize, Deserialize)]
pub struct RenameDevice {
    pub token_hash: String,
    pub device_id: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

impl Call for RenameDevice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "rename_device";
    type Reply = ();
}

/// Deletes devices, and their tokens with them; those that are gone already are no matter.
///
/// Refused: `UnknownToken`; `Forbidden` if the password is another one meanwhile; `InvalidParam` for too many at once.
/// Spec: "Device Management".
#[derive(Debug, Serialize, Deserialize)]
pub struct DeleteDevices {
    pub token_hash: String,
    /// What the caller checked the user's password against; of an application service nobody asks for one.
    pub password_hash: String,
    pub devices: Vec<OwnedDeviceId>,
}

impl Call for DeleteDevices {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "delete_devices";
    type Reply = ();
}

impl User {
    pub(super) fn devices(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetDevices) -> Result<Vec<Device>, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        Ok(match call.device_id {
            Some(device_id) => store::device::get(sql, &device_id)?.into_iter().collect(),
            None => store::device::all(sql)?,
        })
    }

    pub(super) fn rename_device(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RenameDevice) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let device = store::device::get(&**tx, &call.device_id)?
            .ok_or_else(|| Refusal::NotFound("You have no such device".to_owned()))?;
        if let Some(name) = call.display_name.filter(|name| device.display_name.as_ref() != Some(name)) {
            check_device_name(&name)?;
            store::device::rename(tx, &call.device_id, &name)?;
            self.device_renamed(tx, cx, &call.device_id)?;
        }
        Ok(())
    }

    pub(super) fn delete_devices(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: DeleteDevices) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        if !is_appservice(&call.token_hash) {
            check_password_hash(&**tx, &call.password_hash)?;
        }
        if call.devices.len() > DELETED_MAX {
            return Err(Refusal::InvalidParam(format!("{DELETED_MAX} devices may be deleted at once")).into());
        }
        call.devices.iter().try_for_each(|device_id| remove_device(tx, cx, device_id))
    }
}

/// Removes a device with everything that is its own: its tokens die in this very transaction, and whoever waits with
/// one learns it. One that is gone already is no matter.
pub(super) fn remove_device(tx: &Tx<'_>, cx: &Cx<'_>, device_id: &DeviceId) -> Result<(), Error> {
    if !store::device::delete(tx, device_id)? && !store::keys::has_device(&**tx, device_id)? {
        return Ok(());
    }
    store::to_device::drop_all(tx, device_id)?;
    cx.user.gone.borrow_mut().push(device_id.to_owned());
    cx.wake();
    Ok(())
}

impl User {
    /// What devices that this operation removed had in the user's stream goes with them.
    pub(super) fn forget_removed(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let gone = cx.user.gone.borrow().clone();
        if gone.is_empty() {
            return Ok(());
        }
        self.keys_of_removed(tx, cx, &gone)?;
        for device_id in gone {
            self.forget_connections(tx, &device_id)?;
            self.forget(tx, |tx| store::rooms::forget_spilled(tx, &device_id))?;
            self.forget(tx, |tx| store::pushers::remove_of_device(tx, &device_id))?;
        }
        self.pushers_changed();
        Ok(())
    }
}

/// Removes all of the user's devices but one, or all.
pub(super) fn remove_devices_but(tx: &Tx<'_>, cx: &Cx<'_>, kept: Option<&DeviceId>) -> Result<(), Error> {
    for device in store::device::all(&**tx)? {
        if Some(&*device.device_id) != kept {
            remove_device(tx, cx, &device.device_id)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::Refusal;
    use serde_json::json;

    use super::{DELETED_MAX, DeleteDevices, Device, GetDevices, RenameDevice};
    use crate::{
        CallError,
        user::{Create, LogIn, NewDevice, SyncPlan, Verify, verify::SEEN_AGAIN_MS},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    /// On the phone and the laptop, with the tokens `p` and `l`.
    fn alice() -> Rc<World> {
        let world = World::new(1);
        let phone = NewDevice { ip: Some("192.0.2.1".to_owned()), ..NewDevice::new("PHONE", "p") };
        let create = Create {
            password_hash: Some("h".to_owned()),
            device: Some(phone),
            call_id: "c".to_owned(),
            ..Create::default()
        };
        world.call(ALICE, &create).unwrap();
        let laptop = NewDevice::new("LAPTOP", "l");
        world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device: laptop }).unwrap();
        world
    }

    fn delete(devices: Vec<&str>, password_hash: &str) -> DeleteDevices {
        DeleteDevices {
            token_hash: "p".to_owned(),
            password_hash: password_hash.to_owned(),
            devices: devices.into_iter().map(Into::into).collect(),
        }
    }

    fn phone(world: &World) -> Device {
        let call = GetDevices { token_hash: "p".to_owned(), device_id: Some("PHONE".into()) };
        world.call(ALICE, &call).unwrap().remove(0)
    }

    #[test]
    fn a_token_dies_with_its_device() {
        let world = alice();
        let is_good = |token: &str| {
            world.call(ALICE, &Verify { token_hash: token.to_owned(), active: false, ignored: false }).is_ok()
        };
        let wrong = world.call(ALICE, &delete(vec!["LAPTOP"], "other"));
        assert!(matches!(wrong, Err(CallError::Refused(Refusal::Forbidden(_)))), "{wrong:?}");
        let many = world.call(ALICE, &delete(vec!["LAPTOP"; DELETED_MAX + 1], "h"));
        assert!(matches!(many, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{many:?}");
        assert!(is_good("l"));
        for _ in 0..2 {
            world.call(ALICE, &delete(vec!["LAPTOP", "NONE"], "h")).unwrap();
            assert_eq!([is_good("l"), is_good("p")], [false, true]);
        }
    }

    #[test]
    fn a_device_is_seen_once_in_a_while() {
        let world = alice();
        let logged_in_ms = world.now_ms();
        let sync = SyncPlan { token_hash: "p".to_owned(), ip: Some("192.0.2.2".to_owned()), ..SyncPlan::default() };
        for (pause_ms, seen_ms, ip) in [
            (0, logged_in_ms, "192.0.2.1"),
            (SEEN_AGAIN_MS - 1, logged_in_ms, "192.0.2.1"),
            (1, logged_in_ms + SEEN_AGAIN_MS, "192.0.2.2"),
        ] {
            world.passes(pause_ms);
            world.call(ALICE, &sync).unwrap();
            assert_eq!((phone(&world).last_seen_ms, phone(&world).last_seen_ip.as_deref()), (Some(seen_ms), Some(ip)));
        }
        // A client that waits is seen, too.
        world.passes(SEEN_AGAIN_MS);
        world.asks(ALICE, &SyncPlan { may_wait: true, ..sync });
        assert_eq!(phone(&world).last_seen_ms, Some(logged_in_ms + 2 * SEEN_AGAIN_MS));
    }

    #[test]
    fn the_encodings_stay() {
        let get = GetDevices { token_hash: "t".to_owned(), device_id: None };
        assert_eq!(serde_json::to_value(&get).unwrap(), json!({ "token_hash": "t" }));
        let rename =
            RenameDevice { token_hash: "t".to_owned(), device_id: "D".into(), display_name: Some("n".to_owned()) };
        let encoded = json!({ "token_hash": "t", "device_id": "D", "display_name": "n" });
        assert_eq!(serde_json::to_value(&rename).unwrap(), encoded);
        let encoded = json!({ "token_hash": "p", "password_hash": "h", "devices": ["D"] });
        assert_eq!(serde_json::to_value(delete(vec!["D"], "h")).unwrap(), encoded);
        let device = Device {
            device_id: "D".into(),
            display_name: Some("n".to_owned()),
            last_seen_ms: Some(5),
            last_seen_ip: Some("192.0.2.1".to_owned()),
        };
        let encoded = json!({ "device_id": "D", "display_name": "n", "last_seen_ms": 5, "last_seen_ip": "192.0.2.1" });
        assert_eq!(serde_json::to_value(&device).unwrap(), encoded);
    }
}
