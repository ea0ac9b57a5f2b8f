use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// Whose device a token belongs to. Only what calls another actor than the caller's own User needs this: a call to
/// that User carries the token and checks it in its own transaction, see [`authenticate`].
///
/// Refused: `UnknownToken`. Spec: "Using access tokens".
#[derive(Debug, Serialize, Deserialize)]
pub struct Verify {
    /// The token's SHA-256 in URL-safe base64.
    pub token_hash: String,
}

/// The token is good.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verified {
    pub device_id: OwnedDeviceId,
    /// Whether the user is a server administrator.
    pub admin: bool,
}

impl Call for Verify {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "verify";
    type Reply = Verified;
}

impl User {
    pub(super) fn verify(&self, sql: &dyn Sql, cx: &Cx<'_>, call: Verify) -> Result<Verified, Error> {
        let device_id = authenticate(sql, cx, &call.token_hash)?;
        Ok(Verified { device_id, admin: store::account::get(sql)?.admin })
    }
}

/// The device whose token this is. A token dies with its device, in the same transaction, or when its time is over.
///
/// The hash of 256 random bits is looked up, not the token: how long that takes tells nothing about other tokens.
pub(crate) fn authenticate(sql: &dyn Sql, cx: &Cx<'_>, token_hash: &str) -> Result<OwnedDeviceId, Error> {
    let unknown = |soft_logout| Refusal::UnknownToken { soft_logout };
    let token = store::device::of_token(sql, token_hash)?.ok_or_else(|| unknown(false))?;
    if token.expires_ms.is_some_and(|expires_ms| expires_ms <= cx.now_ms) {
        return Err(unknown(true).into());
    }
    Ok(token.device_id)
}

#[cfg(test)]
mod tests {
    use super::{Verified, Verify};

    #[test]
    fn the_encoding_stays() {
        insta::assert_snapshot!(serde_json::to_string(&Verify { token_hash: "t".to_owned() }).unwrap(), @r#"{"token_hash":"t"}"#);
        let verified = Verified { device_id: "PHONE".into(), admin: false };
        insta::assert_snapshot!(serde_json::to_string(&verified).unwrap(), @r#"{"device_id":"PHONE","admin":false}"#);
    }
}
