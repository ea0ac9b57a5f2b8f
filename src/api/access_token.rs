//! Access tokens: `mye_<localpart>.<secret>`, both parts in URL-safe base64.
//!
//! A token names its user, so whoever gets it can ask the right actor. Actors keep only its hash.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use platform::Fault;
use ruma_common::{OwnedUserId, ServerName, UserId};
use sha2::{Digest, Sha256};

use crate::Context;

const PREFIX: &str = "mye_";

/// The longest token looked at, in bytes: a user id has at most 255.
const TOKEN_BYTES_MAX: usize = 512;

/// Makes a token for the user: 32 random bytes.
pub(crate) fn make(cx: &Context, user_id: &UserId) -> Result<String, Fault> {
    Ok(encode(user_id, cx.random()?))
}

fn encode(user_id: &UserId, secret: [u8; 32]) -> String {
    let localpart = BASE64_URL_SAFE_NO_PAD.encode(user_id.localpart());
    // A dot is no letter of this alphabet, an underscore is.
    format!("{PREFIX}{localpart}.{}", BASE64_URL_SAFE_NO_PAD.encode(secret))
}

/// The user a token names; `None` if it is none of ours. Says nothing about whether the token is good.
pub(crate) fn user(token: &str, server_name: &ServerName) -> Option<OwnedUserId> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (localpart, _secret) = token.strip_prefix(PREFIX)?.split_once('.')?;
    let localpart = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(localpart).ok()?).ok()?;
    let user_id = OwnedUserId::try_from(format!("@{localpart}:{server_name}")).ok()?;
    (user_id.server_name() == server_name).then_some(user_id)
}

/// What actors keep of a token: its SHA-256 in URL-safe base64. The secret's 256 bits need no salt.
pub(crate) fn hash(token: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use ruma_common::{server_name, user_id};

    #[test]
    fn a_token_names_its_user() {
        let name = server_name!("localhost:8448");
        let alice = user_id!("@alice_b/c=d:localhost:8448");
        let token = super::encode(alice, [255; 32]);
        insta::assert_snapshot!(token, @"mye_YWxpY2VfYi9jPWQ.__________________________________________8");
        assert_eq!(super::user(&token, name).unwrap(), alice);
        insta::assert_snapshot!(super::hash(&token), @"lhD17c4fgSTD3nCL_lFRF_9rpRPg-Y3gjt48MeM5JwA");
    }

    #[test]
    fn what_is_no_token_names_nobody() {
        let name = server_name!("localhost");
        let long = format!("mye_{}.x", "YQ".repeat(400));
        for token in ["", "mye_", "mye_YQ", "syt_YQ.x", "mye_!.x", "mye_/w.x", "mye_Og.", &long] {
            assert_eq!(super::user(token, name), None, "{token}");
        }
    }
}
