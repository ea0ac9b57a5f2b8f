use domain::{
    Refusal, readable,
    signed_key::{SignedKey, Usage, signing_key_id},
};
use platform::{ActorKind, Sql, Tx};
use ruma_common::{DeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{User, appservice::is_appservice, authenticate, check_password_hash, own_id, store, store::keys::Kind};
use crate::{Call, Cx, Error};

/// Bytes of a cross-signing key.
const KEY_BYTES_MAX: usize = 16 * 1024;

/// Publishes the user's cross-signing keys. The first ones, and the same ones again, need no proof of who asks; others
/// need the password, unless an application service brings them. A new master key takes the keys along that the last
/// one signed, unless it brings new ones.
///
/// Refused: `UnknownToken`; `InvalidParam` or `BadJson` for what is no such key; `MissingParam` without any master key;
/// `InvalidSignature` for a key that the master key did not sign; `Forbidden` for a key that is named like a device,
/// and if the password is another one meanwhile. Spec: "Cross-signing", `/keys/device_signing/upload`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UploadCrossSigning {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signing_key: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_signing_key: Option<Box<RawValue>>,
    /// What the caller checked the user's password against, if it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossSigningUploaded {
    /// Nothing was done: this needs the password.
    pub needs_password: bool,
}

impl Call for UploadCrossSigning {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "upload_cross_signing";
    type Reply = CrossSigningUploaded;
}

impl User {
    pub(super) fn upload_cross_signing(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: UploadCrossSigning,
    ) -> Result<CrossSigningUploaded, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        let given = [
            (Usage::Master, &call.master_key),
            (Usage::SelfSigning, &call.self_signing_key),
            (Usage::UserSigning, &call.user_signing_key),
        ];
        let upload = Upload::check(&**tx, own_id(cx)?, given)?;
        if upload.new.is_empty() {
            return Ok(CrossSigningUploaded { needs_password: false });
        }
        if upload.replaces && !is_appservice(&call.token_hash) {
            let Some(password_hash) = &call.password_hash else {
                return Ok(CrossSigningUploaded { needs_password: true });
            };
            check_password_hash(&**tx, password_hash)?;
        }
        let position = self.own_position(&**tx, cx)?;
        let is_new = |usage| upload.new.iter().any(|(new, _)| *new == usage);
        if is_new(Usage::Master) {
            // What the last master key signed is nobody's any more.
            self.forget(tx, |tx| store::keys::clear(tx, Kind::CrossSigning))?;
        }
        if is_new(Usage::Master) || is_new(Usage::UserSigning) {
            self.forget(tx, |tx| store::keys::clear(tx, Kind::Signature))?;
        }
        for (usage, key) in &upload.new {
            store::keys::put(tx, Kind::CrossSigning, usage.as_str(), Some(&key.to_json()), position)?;
        }
        cx.user.device_list_changed.set(true);
        Ok(CrossSigningUploaded { needs_password: false })
    }
}

/// What an upload changes.
struct Upload {
    new: Vec<(Usage, SignedKey)>,
    /// Whether there was a master key before.
    replaces: bool,
}

impl Upload {
    fn check(sql: &dyn Sql, user_id: OwnedUserId, given: [(Usage, &Option<Box<RawValue>>); 3]) -> Result<Self, Error> {
        let old_master = store::keys::cross_signing(sql, Usage::Master)?;
        let mut master = old_master.as_ref().and_then(SignedKey::only_public_key).map(ToOwned::to_owned);
        let mut new: Vec<(Usage, SignedKey)> = Vec::new();
        for (usage, key) in given {
            let Some(key) = key else { continue };
            if key.get().len() > KEY_BYTES_MAX {
                return Err(Refusal::InvalidParam(format!("A key can have at most {KEY_BYTES_MAX} bytes")).into());
            }
            readable::check(key.get().as_bytes())?;
            let key = SignedKey::parse(key.get())?;
            let public_key = key.check_cross_signing(user_id.as_str(), usage)?.to_owned();
            if store::device::get(sql, <&DeviceId>::from(public_key.as_str()))?.is_some() {
                return Err(Refusal::Forbidden("One of your devices is named like this key".to_owned()).into());
            }
            let key = if usage == Usage::Master {
                master = Some(public_key);
                signed_by_devices(sql, user_id.as_str(), key)?
            } else {
                let Some(master) = &master else {
                    return Err(Refusal::MissingParam("There is no master key".to_owned()).into());
                };
                let signer = signing_key_id(master);
                if !key.is_signed_by(user_id.as_str(), &signer, master) {
                    let what = format!("The {} key is not signed by the master key", usage.as_str());
                    return Err(Refusal::InvalidSignature(what).into());
                }
                key.with_signatures(|user, key_id| user == user_id && key_id == signer)
            };
            let new_master = new.iter().any(|(usage, _)| *usage == Usage::Master);
            let known = store::keys::cross_signing(sql, usage)?;
            if new_master || known.is_none_or(|known| !known.is_same_key(&key)) {
                new.push((usage, key));
            }
        }
        Ok(Self { new, replaces: old_master.is_some() })
    }
}

/// A master key with those of its signatures that the user's devices made.
///
/// Refused: `InvalidSignature` for one that claims to be a device's and is not.
fn signed_by_devices(sql: &dyn Sql, user_id: &str, key: SignedKey) -> Result<SignedKey, Error> {
    let mut kept = Vec::new();
    for signer in key.signers(user_id) {
        let device_id = signer.strip_prefix("ed25519:").unwrap_or_default();
        let Some(device) = store::keys::get(sql, Kind::Device, device_id)? else { continue };
        let device = SignedKey::parse(&device)?;
        if !device.public_key(signer).is_some_and(|public_key| key.is_signed_by(user_id, signer, public_key)) {
            return Err(Refusal::InvalidSignature("A device's signature of the master key is wrong".to_owned()).into());
        }
        kept.push(signer.to_owned());
    }
    Ok(key.with_signatures(|user, key_id| user == user_id && kept.iter().any(|kept| kept == key_id)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, rc::Rc};

    use domain::{
        Refusal,
        signed_key::{Usage, signing_key_id, testing::Signer},
    };
    use ruma_common::{OwnedUserId, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{CrossSigningUploaded, UploadCrossSigning};
    use crate::{
        CallError,
        user::{Create, GetKeys, GetSignatures, LogIn, NewDevice, UploadKeys, UploadSignatures, UserKeys},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";
    const BOB: &str = "@bob:myelin.test";

    fn alice() -> Rc<World> {
        let world = World::new(3);
        let device = Some(NewDevice::new("PHONE", "t"));
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &Create { device, ..create }).unwrap();
        let device_keys = Some(to_raw_value(&Signer::new(1).device(ALICE, "PHONE")).unwrap());
        world.call(ALICE, &UploadKeys { token_hash: "t".to_owned(), device_keys, ..UploadKeys::default() }).unwrap();
        world
    }

    fn set(master: &Signer, others: [&Signer; 2]) -> UploadCrossSigning {
        let [self_signing, user_signing] = others;
        let json = |key: Value| Some(to_raw_value(&key).unwrap());
        UploadCrossSigning {
            token_hash: "t".to_owned(),
            master_key: json(master.cross_signing(ALICE, Usage::Master, None)),
            self_signing_key: json(self_signing.cross_signing(ALICE, Usage::SelfSigning, Some(master))),
            user_signing_key: json(user_signing.cross_signing(ALICE, Usage::UserSigning, Some(master))),
            password_hash: None,
        }
    }

    fn shown(world: &World, viewer: &str) -> UserKeys {
        let viewer = Some(OwnedUserId::try_from(viewer).unwrap());
        world.call(ALICE, &GetKeys { viewer, devices: Vec::new() }).unwrap()
    }

    fn parsed(json: &serde_json::value::RawValue) -> Value {
        serde_json::from_str(json.get()).unwrap()
    }

    #[test]
    fn the_first_keys_and_the_same_ones_are_free_others_are_not() {
        let world = alice();
        let (master, one, two, three) = (Signer::new(2), Signer::new(3), Signer::new(4), Signer::new(5));
        let first = set(&master, [&one, &two]);
        let done = CrossSigningUploaded { needs_password: false };
        let mut alone = set(&master, [&one, &two]);
        alone.master_key = None;
        let outcome = world.call(ALICE, &alone);
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::MissingParam(_)))), "{outcome:?}");
        for _ in 0..2 {
            assert_eq!(world.call(ALICE, &first).unwrap(), done);
        }
        for mut other in [set(&master, [&one, &three]), set(&three, [&one, &two])] {
            assert_eq!(world.call(ALICE, &other).unwrap(), CrossSigningUploaded { needs_password: true });
            other.password_hash = Some("wrong".to_owned());
            let outcome = world.call(ALICE, &other);
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
        }
        assert_eq!(world.call(ALICE, &first).unwrap(), done, "nothing changed");
        let keys = shown(&world, BOB);
        assert_eq!(parsed(&keys.master.unwrap()), master.cross_signing(ALICE, Usage::Master, None));
        assert!(keys.self_signing.is_some() && keys.user_signing.is_none());
        assert!(shown(&world, ALICE).user_signing.is_some());
        // A new master key alone takes the others along.
        let mut reset = set(&three, [&one, &two]);
        (reset.self_signing_key, reset.user_signing_key) = (None, None);
        reset.password_hash = Some("h".to_owned());
        assert_eq!(world.call(ALICE, &reset).unwrap(), done);
        let keys = shown(&world, ALICE);
        assert!(keys.self_signing.is_none() && keys.user_signing.is_none());
    }

    #[test]
    fn keys_are_signed_by_the_master_key_and_not_named_like_devices() {
        let world = alice();
        let (master, one, two) = (Signer::new(2), Signer::new(3), Signer::new(4));
        let mut unsigned = set(&master, [&one, &two]);
        let by_another = one.cross_signing(ALICE, Usage::SelfSigning, Some(&two));
        unsigned.self_signing_key = Some(to_raw_value(&by_another).unwrap());
        let outcome = world.call(ALICE, &unsigned);
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::InvalidSignature(_)))), "{outcome:?}");
        assert!(shown(&world, ALICE).master.is_none());
        let log_in = |device_id: &str| {
            let device = NewDevice::new(device_id, "t2");
            world.call(ALICE, &LogIn { password_hash: "h".to_owned(), device })
        };
        log_in(&one.public()).unwrap();
        let outcome = world.call(ALICE, &set(&master, [&one, &two]));
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
        world.call(ALICE, &set(&master, [&two, &two])).unwrap();
        let outcome = log_in(&master.public());
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_)))), "{outcome:?}");
    }

    #[test]
    fn signatures_are_verified_one_by_one() {
        let world = alice();
        let (device, master, one, two) = (Signer::new(1), Signer::new(2), Signer::new(3), Signer::new(4));
        world.call(ALICE, &set(&master, [&one, &two])).unwrap();
        let (alice, bob) = (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"));
        let bobs = Signer::new(9).cross_signing(BOB, Usage::Master, None);
        let signed = |key: &Value, by: &Signer, id: &str| {
            let mut key = key.clone();
            by.sign(&mut key, ALICE, &signing_key_id(id));
            to_raw_value(&key).unwrap()
        };
        let own_device = device.device(ALICE, "PHONE");
        let own_master = master.cross_signing(ALICE, Usage::Master, None);
        let masters: BTreeMap<_, _> = [(bob.to_owned(), to_raw_value(&bobs).unwrap())].into();
        let call = |signed: Vec<(&ruma_common::UserId, String, Box<serde_json::value::RawValue>)>| {
            let mut call = UploadSignatures { token_hash: "t".to_owned(), ..UploadSignatures::default() };
            call.masters = masters.clone();
            for (user_id, name, key) in signed {
                call.signed.entry(user_id.to_owned()).or_default().insert(name, key);
            }
            world.call(ALICE, &call).unwrap()
        };
        let bobs_name = Signer::new(9).public();
        let good = || {
            vec![
                (alice, "PHONE".to_owned(), signed(&own_device, &one, &one.public())),
                (alice, master.public(), signed(&own_master, &device, "PHONE")),
                (bob, bobs_name.clone(), signed(&bobs, &two, &two.public())),
            ]
        };
        let mut changed = own_device.clone();
        changed["algorithms"] = json!([]);
        // A client sends along what it has, be it a signature that is not known here.
        let both =
            signed(&serde_json::from_str(signed(&own_device, &two, &two.public()).get()).unwrap(), &one, &one.public());
        for repeated in [false, true] {
            assert_eq!(call(vec![(alice, "PHONE".to_owned(), both.clone())]), BTreeMap::new(), "{repeated}");
        }
        let bad = [
            (alice, "PHONE".to_owned(), signed(&own_device, &two, &two.public()), "M_INVALID_SIGNATURE"),
            (alice, "PHONE".to_owned(), signed(&own_device, &two, &one.public()), "M_INVALID_SIGNATURE"),
            (alice, "PHONE".to_owned(), signed(&changed, &one, &one.public()), "M_INVALID_PARAM"),
            (alice, "LAPTOP".to_owned(), signed(&own_device, &one, &one.public()), "M_NOT_FOUND"),
            (alice, master.public(), signed(&own_master, &one, "PHONE"), "M_INVALID_SIGNATURE"),
            (bob, bobs_name.clone(), signed(&bobs, &one, &two.public()), "M_INVALID_SIGNATURE"),
            (bob, "other".to_owned(), signed(&bobs, &two, &two.public()), "M_NOT_FOUND"),
        ];
        for (user_id, name, key, errcode) in bad {
            let mut failures = call(vec![(user_id, name.clone(), key)]);
            assert_eq!(failures.remove(user_id).unwrap().remove(&name).unwrap().errcode(), errcode, "{name}");
        }
        for _ in 0..2 {
            assert!(call(good()).is_empty());
        }
        let keys = shown(&world, BOB);
        let phone = parsed(&keys.devices[<&ruma_common::DeviceId>::from("PHONE")]);
        assert!(phone["signatures"][ALICE][signing_key_id(&one.public())].is_string(), "{phone}");
        assert!(parsed(&keys.master.unwrap())["signatures"][ALICE]["ed25519:PHONE"].is_string());
        let signatures = || {
            let call = GetSignatures { token_hash: "t".to_owned(), of: vec![bob.to_owned()] };
            world.call(ALICE, &call).unwrap().remove(bob)
        };
        assert_eq!(signatures().unwrap().key, bobs_name);
        let mut reset = set(&Signer::new(7), [&one, &two]);
        reset.password_hash = Some("h".to_owned());
        world.call(ALICE, &reset).unwrap();
        assert!(signatures().is_none(), "what the last user-signing key signed is worth nothing");
    }
}
