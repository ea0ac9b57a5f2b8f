//! Texts that a client hands back to us: they carry their own expiry and our seal, so nothing need be stored for
//! strangers who ask for them.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use platform::Fault;
use sha2::Sha256;

use crate::Context;

/// Makes a text for one purpose that is good for `ttl_ms` milliseconds.
pub(crate) fn seal(cx: &Context, purpose: &str, ttl_ms: u64) -> Result<String, Fault> {
    let expires_ms = cx.now_ms().saturating_add(ttl_ms);
    let nonce = BASE64_URL_SAFE_NO_PAD.encode(cx.random::<12>()?);
    let content = format!("{expires_ms:x}.{nonce}");
    let tag = BASE64_URL_SAFE_NO_PAD.encode(mac(cx, purpose, &content)?.finalize().into_bytes());
    Ok(format!("{content}.{tag}"))
}

/// When a text of ours for that purpose expires; `None` for one that has, and for what is not ours.
pub(crate) fn open(cx: &Context, purpose: &str, text: &str) -> Result<Option<u64>, Fault> {
    let Some((content, tag)) = text.rsplit_once('.') else { return Ok(None) };
    let Ok(tag) = BASE64_URL_SAFE_NO_PAD.decode(tag) else { return Ok(None) };
    if mac(cx, purpose, content)?.verify_slice(&tag).is_err() {
        return Ok(None);
    }
    let expires_ms = content.split_once('.').and_then(|(expires_ms, _)| u64::from_str_radix(expires_ms, 16).ok());
    Ok(expires_ms.filter(|expires_ms| *expires_ms > cx.now_ms()))
}

/// The key is the server's one secret, kept apart from its signatures by the purpose.
fn mac(cx: &Context, purpose: &str, content: &str) -> Result<Hmac<Sha256>, Fault> {
    let mut mac = Hmac::<Sha256>::new_from_slice(cx.identity().export().as_bytes())
        .map_err(|error| Fault::new(error.to_string()))?;
    for part in ["myelin sealed text", purpose, content] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    Ok(mac)
}
