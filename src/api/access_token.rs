//! Tokens: what a client shows to act as a user's device.
//!
//! | | |
//! |---|---|
//! | `mye_<localpart>.<secret>` | an access token |
//! | `myg_<localpart>.<secret>` | a guest's |
//! | `myr_<localpart>.<device id>.<secret>` | a token that refreshes a device |
//! | `myl_<localpart>.<secret>` | a token for one login |
//!
//! Each part is URL-safe base64. A token names its user, so whoever gets it can ask the right actor; actors keep only
//! its hash. It says besides whether the user is a guest, so that who is can be refused without asking anyone: another
//! prefix would make another hash.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use platform::Fault;
use ruma_common::{DeviceId, OwnedDeviceId, OwnedUserId, ServerName, UserId};
use sha2::{Digest, Sha256};

use crate::Context;

const USER_PREFIX: &str = "mye_";
const GUEST_PREFIX: &str = "myg_";
const REFRESH_PREFIX: &str = "myr_";
const LOGIN_PREFIX: &str = "myl_";

/// The longest token looked at, in bytes: user and device ids have at most 255 each.
const TOKEN_BYTES_MAX: usize = 1024;

/// Whom an access token names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub user_id: OwnedUserId,
    pub is_guest: bool,
}

/// Makes an access token for the user: 32 random bytes.
pub(crate) fn make(cx: &Context, user_id: &UserId, is_guest: bool) -> Result<String, Fault> {
    Ok(encode(if is_guest { GUEST_PREFIX } else { USER_PREFIX }, &[user_id.localpart()], cx.random()?))
}

/// Makes a token that refreshes the device.
pub(crate) fn make_refresh(cx: &Context, user_id: &UserId, device_id: &DeviceId) -> Result<String, Fault> {
    Ok(encode(REFRESH_PREFIX, &[user_id.localpart(), device_id.as_str()], cx.random()?))
}

/// Makes a token for one login of the user.
pub(crate) fn make_login(cx: &Context, user_id: &UserId) -> Result<String, Fault> {
    Ok(encode(LOGIN_PREFIX, &[user_id.localpart()], cx.random()?))
}

fn encode(prefix: &str, names: &[&str], secret: [u8; 32]) -> String {
    // A dot is no letter of this alphabet, an underscore is.
    let names: String = names.iter().map(|name| BASE64_URL_SAFE_NO_PAD.encode(name) + ".").collect();
    format!("{prefix}{names}{}", BASE64_URL_SAFE_NO_PAD.encode(secret))
}

/// Whom an access token names; `None` if it is none of ours. Says nothing about whether the token is good.
pub(crate) fn named(token: &str, server_name: &ServerName) -> Option<Named> {
    let (rest, is_guest) = match token.strip_prefix(USER_PREFIX) {
        Some(rest) => (rest, false),
        None => (token.strip_prefix(GUEST_PREFIX)?, true),
    };
    let [localpart] = names(token, rest)?;
    Some(Named { user_id: local_user(&localpart, server_name)?, is_guest })
}

/// The user and the device that a token refreshes; `None` if it is none of ours. Says nothing about whether it is good.
pub(crate) fn refreshed(token: &str, server_name: &ServerName) -> Option<(OwnedUserId, OwnedDeviceId)> {
    let [localpart, device_id] = names(token, token.strip_prefix(REFRESH_PREFIX)?)?;
    Some((local_user(&localpart, server_name)?, device_id.into()))
}

/// Who logs in with a token; `None` if it is none of ours. Says nothing about whether it is good.
pub(crate) fn logs_in(token: &str, server_name: &ServerName) -> Option<OwnedUserId> {
    let [localpart] = names(token, token.strip_prefix(LOGIN_PREFIX)?)?;
    local_user(&localpart, server_name)
}

/// The names before the secret.
fn names<const N: usize>(token: &str, rest: &str) -> Option<[String; N]> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (names, _secret) = rest.rsplit_once('.')?;
    let names: Option<Vec<String>> =
        names.split('.').map(|name| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(name).ok()?).ok()).collect();
    names?.try_into().ok()
}

fn local_user(localpart: &str, server_name: &ServerName) -> Option<OwnedUserId> {
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

    use super::{GUEST_PREFIX, Named, REFRESH_PREFIX, USER_PREFIX};

    #[test]
    fn a_token_names_its_user() {
        let name = server_name!("localhost:8448");
        let alice = user_id!("@alice_b/c=d:localhost:8448");
        let token = super::encode(USER_PREFIX, &[alice.localpart()], [255; 32]);
        insta::assert_snapshot!(token, @"mye_YWxpY2VfYi9jPWQ.__________________________________________8");
        assert_eq!(super::named(&token, name).unwrap(), Named { user_id: alice.to_owned(), is_guest: false });
        insta::assert_snapshot!(super::hash(&token), @"lhD17c4fgSTD3nCL_lFRF_9rpRPg-Y3gjt48MeM5JwA");
        let guest = super::encode(GUEST_PREFIX, &[alice.localpart()], [255; 32]);
        assert_eq!(super::named(&guest, name).unwrap(), Named { user_id: alice.to_owned(), is_guest: true });
    }

    #[test]
    fn a_refresh_token_names_its_device() {
        let name = server_name!("localhost");
        let alice = user_id!("@alice:localhost");
        let token = super::encode(REFRESH_PREFIX, &["alice", "MY.PHONE"], [0; 32]);
        insta::assert_snapshot!(token, @"myr_YWxpY2U.TVkuUEhPTkU.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(super::refreshed(&token, name).unwrap(), (alice.to_owned(), "MY.PHONE".into()));
        assert_eq!(super::named(&token, name), None);
        let access = super::encode(USER_PREFIX, &["alice"], [0; 32]);
        assert_eq!(super::refreshed(&access, name), None);
    }

    #[test]
    fn what_is_no_token_names_nobody() {
        let name = server_name!("localhost");
        let long = format!("mye_{}.x", "YQ".repeat(600));
        for token in ["", "mye_", "mye_YQ", "syt_YQ.x", "mye_!.x", "mye_/w.x", "mye_Og.", "mye_YQ.YQ.x", &long] {
            assert_eq!(super::named(token, name), None, "{token}");
        }
        for token in ["", "myr_", "myr_YQ.x", "myr_YQ.YQ.YQ.x", "myr_YQ./w.x"] {
            assert_eq!(super::refreshed(token, name), None, "{token}");
        }
    }
}
