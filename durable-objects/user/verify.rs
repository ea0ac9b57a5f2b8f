use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{
    User, appservice,
    ignored::ignored_users,
    store::{self, device::Token},
};
use crate::{Call, Cx, Error};

/// How long a device that was seen is not written down again, in milliseconds: ten minutes.
pub(super) const SEEN_AGAIN_MS: u64 = 600_000;

/// Whose device a token belongs to. Only what calls another actor than the caller's own User needs this: a call to
/// that User carries the token and checks it in its own transaction, see [`authenticate`].
///
/// Refused: `UnknownToken`, and `UserLocked` as [`authenticate`]. Spec: "Using access tokens".
#[derive(Debug, Serialize, Deserialize)]
pub struct Verify {
    /// The token's SHA-256 in URL-safe base64.
    pub token_hash: String,
    /// Whether the person behind the device did something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub active: bool,
    /// Whether it matters whom the user ignores.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
}

/// The token is good.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verified {
    pub device_id: OwnedDeviceId,
    /// Whether the user is a server administrator.
    pub admin: bool,
    /// Whether the account is suspended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Whom the user ignores, if that was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
}

impl Call for Verify {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "verify";
    type Reply = Verified;
}

impl User {
    pub(super) fn verify(&self, sql: &dyn Sql, cx: &Cx<'_>, call: Verify) -> Result<Verified, Error> {
        let device_id = authenticate(sql, cx, &call.token_hash)?;
        if call.active && cx.settings.config.presence {
            self.presence_active(sql, cx, &device_id)?;
        }
        let ignored = if call.ignored { ignored_users(sql, cx)? } else { Vec::new() };
        let account = store::account::get(sql)?;
        Ok(Verified { device_id, admin: account.admin, suspended: account.suspended, ignored })
    }

    /// Writes down what an operation, one that only reads perhaps, learned of its caller's device.
    pub(super) fn write_notes(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        if let Some(device_id) = cx.user.first_use.take() {
            store::device::succeed(tx, &device_id)?;
        }
        if let Some((device_id, ip)) = cx.user.seen.take() {
            store::device::seen(tx, &device_id, cx.now_ms, ip.as_deref())?;
        }
        if let Some((device_id, position)) = cx.user.received.take() {
            store::to_device::drop_up_to(tx, &device_id, position)?;
        }
        Ok(())
    }
}

/// The device whose token this is. A token dies with its device, in the same transaction, or when its time is over.
///
/// Refused: `UnknownToken`; `UserLocked` for every token of an account that is.
pub(crate) fn authenticate(sql: &dyn Sql, cx: &Cx<'_>, token_hash: &str) -> Result<OwnedDeviceId, Error> {
    let token = known_token(sql, cx, token_hash)?;
    if token.locked {
        return Err(Refusal::UserLocked.into());
    }
    Ok(token.device_id)
}

/// As [`authenticate`], for what whoever is locked may do, too: to log out.
///
/// The hash of 256 random bits is looked up, not the token: how long that takes tells nothing about other tokens.
pub(super) fn known_token(sql: &dyn Sql, cx: &Cx<'_>, token_hash: &str) -> Result<Token, Error> {
    let unknown = |soft_logout| Refusal::UnknownToken { soft_logout };
    if let Some(token) = appservice::token_of(sql, cx, token_hash)? {
        return Ok(token);
    }
    let token = store::device::of_token(sql, token_hash)?.ok_or_else(|| unknown(false))?;
    if token.expires_ms.is_some_and(|expires_ms| expires_ms <= cx.now_ms) {
        return Err(unknown(true).into());
    }
    if token.is_next {
        // Spec: "The old refresh token remains valid until the new access token or refresh token is used".
        *cx.user.first_use.borrow_mut() = Some(token.device_id.clone());
    }
    Ok(token)
}

/// The device is here now: noted, unless that was done a moment ago. For operations that clients repeat all the time
/// and for whose answer nobody waits: not for sending.
pub(super) fn see(sql: &dyn Sql, cx: &Cx<'_>, device_id: &DeviceId, ip: Option<String>) -> Result<(), Error> {
    if device_id.as_str().is_empty() {
        return Ok(());
    }
    let seen_ms = store::device::get(sql, device_id)?.and_then(|device| device.last_seen_ms);
    if seen_ms.is_none_or(|seen_ms| cx.now_ms.saturating_sub(seen_ms) >= SEEN_AGAIN_MS) {
        *cx.user.seen.borrow_mut() = Some((device_id.to_owned(), ip));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Verified, Verify};

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&Verify { token_hash: "t".to_owned(), active: false, ignored: false }).unwrap(), @r#"{"token_hash":"t"}"#);
        insta::assert_snapshot!(serde_json::to_string(&Verify { token_hash: "t".to_owned(), active: true, ignored: true }).unwrap(), @r#"{"token_hash":"t","active":true,"ignored":true}"#);
        let verified = Verified { device_id: "PHONE".into(), admin: false, suspended: false, ignored: Vec::new() };
        insta::assert_snapshot!(serde_json::to_string(&verified).unwrap(), @r#"{"device_id":"PHONE","admin":false}"#);
    }
}
