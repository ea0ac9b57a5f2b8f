use std::collections::BTreeMap;

use domain::{
    Refusal,
    signed_key::{SignedKey, Usage, signing_key_id},
};
use platform::{ActorKind, Tx};
use ruma_common::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{KeySignatures, User, authenticate, own_id, store, store::keys::Kind};
use crate::{Call, Cx, Error};

/// Keys that may be signed at once.
const SIGNED_MAX: usize = 1_000;

/// Publishes signatures: of the user's devices by their self-signing key, of their master key by their devices, of
/// others' master keys by their user-signing key. Each is verified, and one that is refused hinders no other.
///
/// Answers what was refused: `NotFound` for a key that is not known, `InvalidSignature`, `InvalidParam` for what is
/// another key than the one published. Refused as a whole: `UnknownToken`; `InvalidParam` for too many.
/// Spec: "Cross-signing", `/keys/signatures/upload`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UploadSignatures {
    pub token_hash: String,
    /// Signed keys by user and by device id or public key.
    pub signed: Signed,
    /// The master keys of those others whose keys were signed.
    #[serde(default)]
    pub masters: BTreeMap<OwnedUserId, Box<RawValue>>,
}

/// Signed keys by user and by device id or public key.
pub type Signed = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

impl Call for UploadSignatures {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "upload_signatures";
    /// What was refused, in the order of the call.
    type Reply = BTreeMap<OwnedUserId, BTreeMap<String, Refusal>>;
}

impl User {
    pub(super) fn upload_signatures(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: UploadSignatures,
    ) -> Result<<UploadSignatures as Call>::Reply, Error> {
        authenticate(&**tx, cx, &call.token_hash)?;
        if call.signed.values().map(BTreeMap::len).sum::<usize>() > SIGNED_MAX {
            return Err(Refusal::InvalidParam(format!("{SIGNED_MAX} keys may be signed at once")).into());
        }
        let own = own_id(cx)?;
        let mut failures: <UploadSignatures as Call>::Reply = BTreeMap::new();
        for (user_id, keys) in &call.signed {
            for (name, signed) in keys {
                let outcome = if *user_id == own {
                    self.sign_own(tx, cx, &own, name, signed.get())
                } else {
                    self.sign_other(
                        tx,
                        cx,
                        (&own, user_id),
                        name,
                        signed.get(),
                        call.masters.get(user_id).map(|key| &**key),
                    )
                };
                match outcome {
                    Ok(()) => {}
                    Err(Error::Refused(refusal)) => {
                        failures.entry(user_id.clone()).or_default().insert(name.clone(), refusal);
                    }
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(failures)
    }

    /// One of the user's devices, or their master key.
    fn sign_own(&self, tx: &Tx<'_>, cx: &Cx<'_>, own: &UserId, name: &str, signed: &str) -> Result<(), Error> {
        let signed = SignedKey::parse(signed)?;
        let master = store::keys::cross_signing(&**tx, Usage::Master)?;
        let is_master = master.as_ref().and_then(SignedKey::only_public_key) == Some(name);
        let (kind, id) = if is_master { (Kind::CrossSigning, Usage::Master.as_str()) } else { (Kind::Device, name) };
        let known = store::keys::get(&**tx, kind, id)?.ok_or_else(unknown)?;
        let mut known = SignedKey::parse(&known)?;
        must_be_same(&known, &signed)?;
        let self_signing = store::keys::cross_signing(&**tx, Usage::SelfSigning)?;
        let (mut changed, mut has_unknown, mut has_known) = (false, false, false);
        for signer in signed.signers(own.as_str()) {
            let Some(signature) = signed.signature(own.as_str(), signer).map(ToOwned::to_owned) else { continue };
            if known.signature(own.as_str(), signer) == Some(&signature) {
                has_known |= signing_key_id(name) != signer;
                continue;
            }
            let public_key = if is_master {
                let device_id = signer.strip_prefix("ed25519:").unwrap_or_default();
                let device = store::keys::get(&**tx, Kind::Device, device_id)?;
                let device = device.as_deref().map(SignedKey::parse).transpose()?;
                device.and_then(|device| device.public_key(signer).map(ToOwned::to_owned))
            } else {
                let key = self_signing.as_ref().and_then(SignedKey::only_public_key);
                key.filter(|key| signing_key_id(key) == signer).map(ToOwned::to_owned)
            };
            // A client sends what it has of the key, with signatures that were dropped here: of a device whose keys
            // came later, or that is gone.
            let Some(public_key) = public_key else {
                has_unknown = true;
                continue;
            };
            if !signed.is_signed_by(own.as_str(), signer, &public_key) {
                return Err(wrong());
            }
            changed |= known.add_signature(own.as_str(), signer, &signature);
        }
        if has_unknown && !changed && !has_known {
            return Err(wrong());
        }
        if changed {
            let position = self.own_position(&**tx, cx)?;
            store::keys::put(tx, kind, id, Some(&known.to_json()), position)?;
            cx.user.device_list_changed.set(true);
        }
        Ok(())
    }

    /// Another user's master key: only this user's devices learn of it.
    fn sign_other(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        (own, user_id): (&UserId, &UserId),
        name: &str,
        signed: &str,
        master: Option<&RawValue>,
    ) -> Result<(), Error> {
        let signed = SignedKey::parse(signed)?;
        let master = SignedKey::parse(master.ok_or_else(unknown)?.get())?;
        if master.only_public_key() != Some(name) {
            return Err(unknown());
        }
        must_be_same(&master, &signed)?;
        let user_signing = store::keys::cross_signing(&**tx, Usage::UserSigning)?
            .ok_or_else(|| Refusal::NotFound("You have no user-signing key".to_owned()))?;
        let public_key = user_signing.only_public_key().unwrap_or_default();
        let signer = signing_key_id(public_key);
        let signature = signed.signature(own.as_str(), &signer);
        let Some(signature) = signature.filter(|_| signed.is_signed_by(own.as_str(), &signer, public_key)) else {
            return Err(wrong());
        };
        let signatures = BTreeMap::from([(signer.clone(), signature.to_owned())]);
        let kept = serde_json::to_string(&KeySignatures { key: name.to_owned(), signatures })?;
        if store::keys::get(&**tx, Kind::Signature, user_id.as_str())?.as_ref() != Some(&kept) {
            let position = self.own_position(&**tx, cx)?;
            store::keys::put(tx, Kind::Signature, user_id.as_str(), Some(&kept), position)?;
        }
        Ok(())
    }
}

fn must_be_same(known: &SignedKey, signed: &SignedKey) -> Result<(), Error> {
    if known.is_same_key(signed) {
        Ok(())
    } else {
        Err(Refusal::InvalidParam("This is not the key that was published".to_owned()).into())
    }
}

fn unknown() -> Error {
    Refusal::NotFound("There is no such key".to_owned()).into()
}

fn wrong() -> Error {
    Refusal::InvalidSignature("The signature is wrong, or of a key that may not sign this".to_owned()).into()
}
