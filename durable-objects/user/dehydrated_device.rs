//! A device that nobody is logged in on. It is sent room keys while its user is away, and a later login reads them with
//! what only the user's secrets decrypt.
//!
//! To everybody else it is a device like others: it has identity keys and keys to be given out, stands in lists, and is
//! deleted with the rest. Its messages stay until it goes: who reads them may be gone before they are through.
//! Spec: MSC3814, "Dehydrated Devices with SSSS".

use std::collections::BTreeMap;

use domain::{Refusal, readable, signed_key::SignedKey};
use platform::{ActorKind, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    ToDeviceMessage, User, authenticate,
    device::remove_device,
    log_in::check_device_name,
    store::{self, keys::Kind},
    sync_token,
};
use crate::{Call, Cx, Error};

/// Bytes of what the device is brought back from: with a hundred one-time keys it has about ten thousand.
const DATA_BYTES_MAX: usize = 64 * 1024;

/// Puts a dehydrated device in the place of the last one, which goes with its keys and messages. Repeated, it changes
/// nothing.
///
/// Refused: `UnknownToken`; `Forbidden` for the id of a device that is logged in, or the name of a cross-signing key;
/// `BadJson` for `data` without an algorithm, or that not everybody can read; `TooLarge`; and what
/// [`UploadKeys`](super::UploadKeys) refuses.
#[derive(Debug, Serialize, Deserialize)]
pub struct PutDehydratedDevice {
    pub token_hash: String,
    pub device_id: OwnedDeviceId,
    /// A JSON object with an `algorithm`.
    pub data: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    pub device_keys: Box<RawValue>,
    /// By `<algorithm>:<key id>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub one_time_keys: BTreeMap<String, Box<RawValue>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallback_keys: BTreeMap<String, Box<RawValue>>,
}

impl Call for PutDehydratedDevice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "put_dehydrated_device";
    type Reply = ();
}

/// The dehydrated device.
///
/// Refused: `UnknownToken`; `NotFound` if there is none.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetDehydratedDevice {
    pub token_hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DehydratedDevice {
    pub device_id: OwnedDeviceId,
    /// As it was put.
    pub data: Box<RawValue>,
}

impl Call for GetDehydratedDevice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_dehydrated_device";
    type Reply = DehydratedDevice;
}

/// Deletes the dehydrated device, if it still is this one.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeleteDehydratedDevice {
    pub token_hash: String,
    pub device_id: OwnedDeviceId,
}

impl Call for DeleteDehydratedDevice {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "delete_dehydrated_device";
    type Reply = ();
}

/// A page of the messages to the dehydrated device: from the first on, or after those of the page before.
///
/// Refused: `UnknownToken`; `Forbidden` unless this is the dehydrated device; `InvalidParam` for what is no such token.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetDehydratedEvents {
    pub token_hash: String,
    pub device_id: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DehydratedEvents {
    pub events: Vec<ToDeviceMessage>,
    /// What the next page comes after; there may be one some day, if there is none now.
    pub next_batch: String,
    /// Whether there are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl Call for GetDehydratedEvents {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_dehydrated_events";
    type Reply = DehydratedEvents;
}

impl User {
    pub(super) fn put_dehydrated_device(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: PutDehydratedDevice,
    ) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        check_data(&call.data)?;
        call.display_name.as_deref().map_or(Ok(()), check_device_name)?;
        let device_id = &*call.device_id;
        if store::keys::is_cross_signing(&**tx, device_id)? {
            return Err(Refusal::Forbidden("This device id is the name of one of your keys".to_owned()).into());
        }
        let last = store::device::dehydrated(&**tx)?.map(|last| last.device_id);
        if last.as_deref() == Some(device_id) {
            if !has_keys(&**tx, device_id, &call.device_keys)? {
                // Another device by the same name.
                store::to_device::drop_all(tx, device_id)?;
            }
        } else if store::device::get(&**tx, device_id)?.is_some() {
            return Err(Refusal::Forbidden("One of your devices has this id".to_owned()).into());
        } else if let Some(last) = last {
            remove_device(tx, cx, &last)?;
        }
        store::device::put_dehydrated(tx, device_id, call.display_name.as_deref(), call.data.get(), cx.now_ms)?;
        self.put_device_keys(tx, cx, device_id, call.device_keys.get())?;
        self.add_one_time_keys(tx, cx, device_id, &call.one_time_keys)?;
        self.put_fallback_keys(tx, cx, device_id, &call.fallback_keys)
    }

    pub(super) fn dehydrated_device(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetDehydratedDevice,
    ) -> Result<DehydratedDevice, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        let none = || Refusal::NotFound("You have no dehydrated device".to_owned());
        Ok(store::device::dehydrated(sql)?.ok_or_else(none)?)
    }

    pub(super) fn delete_dehydrated_device(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: DeleteDehydratedDevice,
    ) -> Result<(), Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        match store::device::dehydrated(&**tx)? {
            Some(device) if device.device_id == call.device_id => remove_device(tx, cx, &device.device_id),
            _ => Ok(()),
        }
    }

    pub(super) fn dehydrated_events(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetDehydratedEvents,
    ) -> Result<DehydratedEvents, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        if store::device::dehydrated(sql)?.is_none_or(|device| device.device_id != call.device_id) {
            return Err(Refusal::Forbidden("This is not your dehydrated device".to_owned()).into());
        }
        let after = call.next_batch.as_deref().map(position).transpose()?.unwrap_or(0);
        // One from beyond the stream is of a stream that was lost: it says nothing of these messages.
        let head = self.with_moves(sql, |moves| Ok(moves.head))?;
        let page = self.to_device_page(sql, &call.device_id, if after <= head { after } else { 0 }, None)?;
        Ok(DehydratedEvents { events: page.messages, next_batch: format!("e{}", page.reached), more: page.more })
    }
}

fn check_data(data: &RawValue) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "algorithm")]
        _algorithm: String,
    }
    if data.get().len() > DATA_BYTES_MAX {
        return Err(Refusal::TooLarge(format!("`device_data` can have at most {DATA_BYTES_MAX} bytes")));
    }
    readable::check(data.get().as_bytes())?;
    match serde_json::from_str::<Data>(data.get()) {
        Ok(_) if data.get().starts_with('{') => Ok(()),
        _ => Err(Refusal::BadJson("`device_data` is an object with an `algorithm`".to_owned())),
    }
}

/// Whether a device has these identity keys already.
fn has_keys(sql: &dyn Sql, device_id: &DeviceId, keys: &RawValue) -> Result<bool, Error> {
    let Some(known) = store::keys::get(sql, Kind::Device, device_id.as_str())? else { return Ok(false) };
    Ok(SignedKey::parse(&known)?.is_same_key(&SignedKey::parse(keys.get())?))
}

/// The position in a token of a page.
fn position(token: &str) -> Result<u64, Refusal> {
    let position = token.strip_prefix('e').and_then(sync_token::number);
    position.ok_or_else(|| Refusal::InvalidParam("`next_batch` is not a token of this server".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, rc::Rc};

    use domain::{Refusal, signed_key::testing::Signer};
    use platform::{ActorKind, Address};
    use ruma_common::{OwnedDeviceId, user_id};
    use serde_json::{
        Value, json,
        value::{RawValue, to_raw_value},
    };

    use super::{
        DATA_BYTES_MAX, DehydratedEvents, DeleteDehydratedDevice, GetDehydratedDevice, GetDehydratedEvents,
        PutDehydratedDevice,
    };
    use crate::{
        CallError,
        user::{
            ChangePassword, ClaimKeys, Create, DeleteDevices, GetDevices, GetKeys, LogIn, NewDevice, ReceiveToDevice,
        },
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    fn alice() -> Rc<World> {
        let world = World::new(3);
        let device = Some(NewDevice::new("PHONE", "t"));
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &Create { device, ..create }).unwrap();
        world
    }

    fn dehydrated(device_id: &str, seed: u8) -> PutDehydratedDevice {
        let one_time_keys = BTreeMap::from([("a:1".to_owned(), to_raw_value("one").unwrap())]);
        PutDehydratedDevice {
            token_hash: "t".to_owned(),
            device_id: device_id.into(),
            data: to_raw_value(&json!({ "algorithm": "a", "seed": seed })).unwrap(),
            display_name: Some("dry".to_owned()),
            device_keys: to_raw_value(&Signer::new(seed).device(ALICE, device_id)).unwrap(),
            one_time_keys,
            fallback_keys: BTreeMap::from([("a:f".to_owned(), to_raw_value("last").unwrap())]),
        }
    }

    fn there(world: &World) -> Option<(String, String)> {
        match world.call(ALICE, &GetDehydratedDevice { token_hash: "t".to_owned() }) {
            Ok(device) => Some((device.device_id.to_string(), device.data.get().to_owned())),
            Err(CallError::Refused(Refusal::NotFound(_))) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn sends(world: &World, txn_id: &str, to: &str) {
        let call = ReceiveToDevice {
            sender: "@bob:myelin.test".try_into().unwrap(),
            sender_device: "BOB".into(),
            txn_id: txn_id.to_owned(),
            event_type: "m.test".to_owned(),
            messages: BTreeMap::from([(to.to_owned(), to_raw_value(&json!({ "txn": txn_id })).unwrap())]),
        };
        world.call(ALICE, &call).unwrap();
    }

    fn page(world: &World, device_id: &str, next_batch: Option<String>) -> Result<DehydratedEvents, CallError> {
        let (token_hash, device_id) = ("t".to_owned(), device_id.into());
        world.call(ALICE, &GetDehydratedEvents { token_hash, device_id, next_batch })
    }

    /// Everything that the device was sent.
    fn told(world: &World, device_id: &str) -> Vec<String> {
        let (mut all, mut next_batch) = (Vec::new(), None);
        loop {
            let page = page(world, device_id, next_batch).unwrap();
            if page.events.is_empty() {
                assert!(!page.more);
                return all;
            }
            let txn =
                |content: &str| serde_json::from_str::<Value>(content).unwrap()["txn"].as_str().unwrap().to_owned();
            all.extend(page.events.iter().map(|event| txn(event.content.get())));
            next_batch = Some(page.next_batch);
        }
    }

    fn devices(world: &World) -> Vec<OwnedDeviceId> {
        let call = GetDevices { token_hash: "t".to_owned(), device_id: None };
        world.call(ALICE, &call).unwrap().into_iter().map(|device| device.device_id).collect()
    }

    fn with_keys(world: &World) -> Vec<OwnedDeviceId> {
        let call = GetKeys { viewer: Some(user_id!("@bob:myelin.test").to_owned()), devices: Vec::new() };
        world.call(ALICE, &call).unwrap().devices.into_keys().collect()
    }

    fn claims(world: &World, device_id: &str) -> Option<String> {
        let devices = BTreeMap::from([(device_id.into(), "a".to_owned())]);
        Some(world.call(ALICE, &ClaimKeys { call_id: None, devices }).unwrap().pop_first()?.1.pop_first()?.0)
    }

    fn is_forbidden<T: std::fmt::Debug>(outcome: Result<T, CallError>) {
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
    }

    #[test]
    fn there_is_one_and_the_next_takes_its_place() {
        let world = alice();
        assert_eq!(there(&world), None);
        is_forbidden(page(&world, "DRY", None));
        let first = dehydrated("DRY", 1);
        world.call(ALICE, &first).unwrap();
        sends(&world, "1", "DRY");
        assert_eq!(claims(&world, "DRY").as_deref(), Some("a:1"));
        // The answer was lost: nothing is lost with it.
        world.call(ALICE, &first).unwrap();
        assert_eq!(there(&world), Some(("DRY".to_owned(), first.data.get().to_owned())));
        assert_eq!(told(&world, "DRY"), ["1"]);
        assert_eq!(claims(&world, "DRY").as_deref(), Some("a:f"), "no key is given out twice");
        for (device_id, seed) in [("DRIER", 2), ("DRIER", 3)] {
            sends(&world, &seed.to_string(), "*");
            let next = dehydrated(device_id, seed);
            world.call(ALICE, &next).unwrap();
            assert_eq!(there(&world), Some(("DRIER".to_owned(), next.data.get().to_owned())));
            assert_eq!(devices(&world), ["DRIER", "PHONE"]);
            assert_eq!(with_keys(&world), ["DRIER"]);
            assert_eq!(told(&world, "DRIER"), [""; 0], "those were for another device");
            assert_eq!(claims(&world, "DRIER").as_deref(), Some("a:1"));
            is_forbidden(page(&world, "DRY", None));
        }
        for _ in 0..2 {
            let call = |id: &str| DeleteDehydratedDevice { token_hash: "t".to_owned(), device_id: id.into() };
            world.call(ALICE, &call("DRY")).unwrap();
            assert!(devices(&world).contains(&"DRIER".into()) == there(&world).is_some());
            world.call(ALICE, &call("DRIER")).unwrap();
            assert_eq!((there(&world), with_keys(&world), claims(&world, "DRIER")), (None, Vec::new(), None));
        }
    }

    #[test]
    fn messages_stay_while_they_are_read() {
        let world = alice();
        world.call(ALICE, &dehydrated("DRY", 1)).unwrap();
        let sent: Vec<String> = (0..230).map(|number| number.to_string()).collect();
        sent.iter().for_each(|txn_id| sends(&world, txn_id, "DRY"));
        for _ in 0..2 {
            assert_eq!(told(&world, "DRY"), sent);
            world.evict(&Address::new(ActorKind::User, ALICE));
        }
        let first = page(&world, "DRY", None).unwrap();
        assert_eq!((first.events.len(), first.more), (100, true));
        let second = page(&world, "DRY", Some(first.next_batch)).unwrap();
        let last = page(&world, "DRY", Some(second.next_batch)).unwrap();
        assert_eq!((second.more, last.events.len(), last.more), (true, 30, false));
        let beyond = Some(format!("e{}", 1_u64 << 52));
        assert_eq!(page(&world, "DRY", beyond).unwrap().events.len(), 100, "of a stream that was lost");
        let outcome = page(&world, "DRY", Some("s1_2".to_owned()));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
        is_forbidden(page(&world, "PHONE", None));
    }

    #[test]
    fn its_id_is_nobody_elses() {
        let world = alice();
        is_forbidden(world.call(ALICE, &dehydrated("PHONE", 1)));
        world.call(ALICE, &dehydrated("DRY", 1)).unwrap();
        let log_in = |device| world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device });
        is_forbidden(log_in(NewDevice::new("DRY", "dry")));
        log_in(NewDevice::new("LAPTOP", "l")).unwrap();
        is_forbidden(world.call(ALICE, &dehydrated("LAPTOP", 1)));
        assert!(there(&world).is_some(), "what is refused changes nothing");
        let delete = DeleteDevices {
            token_hash: "t".to_owned(),
            password_hash: "h".to_owned(),
            devices: vec!["DRY".into(), "LAPTOP".into()],
        };
        world.call(ALICE, &delete).unwrap();
        assert_eq!((there(&world), devices(&world)), (None, vec!["PHONE".into()]));
        world.call(ALICE, &dehydrated("LAPTOP", 1)).unwrap();
        let change = ChangePassword {
            token_hash: "t".to_owned(),
            old_password_hash: "h".to_owned(),
            password_hash: "n".to_owned(),
            logout_devices: true,
        };
        world.call(ALICE, &change).unwrap();
        assert_eq!(there(&world), None, "a new password for all of them");
    }

    #[test]
    fn it_needs_data_and_keys_of_its_own() {
        let world = alice();
        for data in [r"{}", "[]", r#""a""#, r#"{"algorithm":1}"#, r#"{"algorithm":"a","y":"\ud800"}"#] {
            let data = RawValue::from_string(data.to_owned()).unwrap();
            let outcome = world.call(ALICE, &PutDehydratedDevice { data, ..dehydrated("DRY", 1) });
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::BadJson(_)))), "{outcome:?}");
        }
        let data = to_raw_value(&json!({ "algorithm": "a", "more": "x".repeat(DATA_BYTES_MAX) })).unwrap();
        let outcome = world.call(ALICE, &PutDehydratedDevice { data, ..dehydrated("DRY", 1) });
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::TooLarge(_)))), "{outcome:?}");
        let device_keys = to_raw_value(&Signer::new(1).device(ALICE, "PHONE")).unwrap();
        let outcome = world.call(ALICE, &PutDehydratedDevice { device_keys, ..dehydrated("DRY", 1) });
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidParam(_)))), "{outcome:?}");
        assert_eq!((there(&world), devices(&world).len()), (None, 1), "nothing changed");
    }
}
