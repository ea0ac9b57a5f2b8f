//! Where a user's notifications are sent. Spec: "Push Notifications", `POST /pushers/set`.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Refusal, contact::Email};

/// Spec: «Max length, 64 chars.»
const APP_ID_CHARS_MAX: usize = 64;
/// Spec: «Max length, 512 bytes.»
const PUSHKEY_BYTES_MAX: usize = 512;
/// The largest pusher, in bytes of JSON: it goes along with every notification.
const PUSHER_BYTES_MAX: usize = 16 * 1024;
/// Spec: «MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`.»
const PATH: &str = "/_matrix/push/v1/notify";
const HTTPS: &str = "https://";

/// Spec: «If the `kind` is `"email"`, this is `"m.email"`.»
const EMAIL_APP_ID: &str = "m.email";

/// How notifications get to the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PusherKind {
    /// Through a gateway.
    #[default]
    Http,
    /// As mail.
    Email,
}

impl PusherKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Email => "email",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
    fn is_http(&self) -> bool {
        *self == Self::Http
    }
}

/// A pusher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pusher {
    #[serde(default, skip_serializing_if = "PusherKind::is_http")]
    pub kind: PusherKind,
    pub app_id: String,
    pub pushkey: String,
    pub app_display_name: String,
    pub device_display_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_tag: Option<String>,
    pub lang: String,
    /// With its `url`, and whatever else the client has to say to its gateway.
    pub data: Map<String, Value>,
    /// Whether anything is sent. MSC3881.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_yes(enabled: &bool) -> bool {
    *enabled
}

/// Where a push gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// A name, or an IP literal: one of IPv6 in brackets.
    pub host: String,
    pub port: Option<u16>,
    pub path_and_query: String,
}

impl Pusher {
    /// # Errors
    /// [`Refusal::MissingParam`] without a URL; [`Refusal::InvalidParam`] for one that no gateway has, for an address
    /// that is none, and for what is too long; [`Refusal::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        check_key(&self.app_id, &self.pushkey)?;
        match self.kind {
            PusherKind::Http => self.gateway().map(drop)?,
            PusherKind::Email => self.email().map(drop)?,
        }
        if self.data.get("format").is_some_and(|format| !format.is_string()) {
            return Err(Refusal::InvalidParam("The `format` of a pusher is a string".to_owned()));
        }
        let bytes = serde_json::to_string(self).map_err(|error| Refusal::BadJson(error.to_string()))?.len();
        if bytes > PUSHER_BYTES_MAX {
            return Err(Refusal::TooLarge(format!("A pusher can have at most {PUSHER_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    /// Where its gateway is.
    ///
    /// # Errors
    /// As [`Pusher::check`], of the URL.
    pub fn gateway(&self) -> Result<Gateway, Refusal> {
        let url = self.data.get("url").ok_or_else(|| Refusal::MissingParam("`data` has no `url`".to_owned()))?;
        url.as_str()
            .and_then(gateway)
            .ok_or_else(|| Refusal::InvalidParam(format!("The `url` of a pusher is an HTTPS URL with the path {PATH}")))
    }

    /// Where its mail goes.
    ///
    /// # Errors
    /// [`Refusal::InvalidParam`].
    pub fn email(&self) -> Result<Email, Refusal> {
        if self.app_id != EMAIL_APP_ID {
            return Err(Refusal::InvalidParam(format!("The `app_id` of a pusher of kind `email` is `{EMAIL_APP_ID}`")));
        }
        Email::parse(&self.pushkey)
    }

    /// What the gateway is told of it: «the entire content including `format` and any custom keys but excluding `url`».
    pub fn forwarded_data(&self) -> Map<String, Value> {
        self.data.iter().filter(|(key, _)| *key != "url").map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Whether its gateway is told of events by their ids alone.
    pub fn is_event_id_only(&self) -> bool {
        self.data.get("format").is_some_and(|format| format == "event_id_only")
    }
}

/// # Errors
/// [`Refusal::InvalidParam`] for what cannot name a pusher.
pub fn check_key(app_id: &str, pushkey: &str) -> Result<(), Refusal> {
    if app_id.is_empty() || app_id.chars().count() > APP_ID_CHARS_MAX {
        return Err(Refusal::InvalidParam(format!("An `app_id` has 1 to {APP_ID_CHARS_MAX} characters")));
    }
    if pushkey.is_empty() || pushkey.len() > PUSHKEY_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A `pushkey` has 1 to {PUSHKEY_BYTES_MAX} bytes")));
    }
    if app_id.contains('\0') || pushkey.contains('\0') {
        return Err(Refusal::InvalidParam("An `app_id` and a `pushkey` have no NUL".to_owned()));
    }
    Ok(())
}

fn gateway(url: &str) -> Option<Gateway> {
    let scheme = url.get(..HTTPS.len()).filter(|scheme| scheme.eq_ignore_ascii_case(HTTPS))?;
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'"' | b'<' | b'>')) {
        return None;
    }
    let rest = url.get(scheme.len()..)?;
    let (authority, _) = rest.split_once('/')?;
    let path_and_query = rest.get(authority.len()..)?;
    let after = path_and_query.strip_prefix(PATH)?;
    if !(after.is_empty() || after.starts_with('?')) {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            let host = authority.strip_suffix(port)?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => {
            let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            (Some(host).filter(|host| !host.is_empty() && host.bytes().all(is_name))?, port)
        }
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    Some(Gateway { host: host.to_ascii_lowercase(), port, path_and_query: path_and_query.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pusher(data: Value) -> Pusher {
        serde_json::from_value(json!({
            "app_id": "org.example", "pushkey": "k", "app_display_name": "App", "device_display_name": "Phone",
            "lang": "en", "data": data,
        }))
        .unwrap()
    }

    #[test]
    fn a_gateway_is_reached_by_https_at_its_one_path() {
        for (url, place) in [
            ("https://push.example/_matrix/push/v1/notify", Some(("push.example", None))),
            ("HTTPS://Push.example:8443/_matrix/push/v1/notify", Some(("push.example", Some(8443)))),
            ("https://push.example/_matrix/push/v1/notify?a=b", Some(("push.example", None))),
            ("https://[2001:db8::1]:1/_matrix/push/v1/notify", Some(("[2001:db8::1]", Some(1)))),
            ("https://192.0.2.1/_matrix/push/v1/notify", Some(("192.0.2.1", None))),
            ("http://push.example/_matrix/push/v1/notify", None),
            ("https://push.example/_matrix/push/v1/notify/", None),
            ("https://push.example/_matrix/push/v1/notifyall", None),
            ("https://push.example/other/../_matrix/push/v1/notify", None),
            ("https://push.example", None),
            ("https:///_matrix/push/v1/notify", None),
            ("https://user@push.example/_matrix/push/v1/notify", None),
            ("https://push.example:0/_matrix/push/v1/notify", None),
            ("https://push.example:99999/_matrix/push/v1/notify", None),
            ("https://push.example:/_matrix/push/v1/notify", None),
            ("https://[push.example]/_matrix/push/v1/notify", None),
            ("https://push.example/_matrix/push/v1/notify#a", None),
            ("https://push example/_matrix/push/v1/notify", None),
            ("https://push.example\r\nx:/_matrix/push/v1/notify", None),
            ("", None),
        ] {
            let gateway = pusher(json!({ "url": url })).gateway().ok();
            let found = gateway.as_ref().map(|it| (it.host.as_str(), it.port));
            assert_eq!(found, place, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = json!({ "url": "https://push.example/_matrix/push/v1/notify" });
        assert_eq!(pusher(good.clone()).check(), Ok(()));
        assert!(matches!(pusher(json!({})).check(), Err(Refusal::MissingParam(_))));
        for (app_id, pushkey) in [("", "k"), ("a", ""), (&*"é".repeat(65), "k"), ("a", &*"k".repeat(513))] {
            let pusher = Pusher { app_id: app_id.to_owned(), pushkey: pushkey.to_owned(), ..pusher(good.clone()) };
            assert!(matches!(pusher.check(), Err(Refusal::InvalidParam(_))), "{app_id} {pushkey}");
        }
        let mut odd = good.clone();
        odd["format"] = 1.into();
        assert!(matches!(pusher(odd).check(), Err(Refusal::InvalidParam(_))));
        let large = Pusher { lang: "x".repeat(PUSHER_BYTES_MAX), ..pusher(good) };
        assert!(matches!(large.check(), Err(Refusal::TooLarge(_))));
    }

    #[test]
    fn mail_goes_to_an_address() {
        let mail = |app_id: &str, pushkey: &str| Pusher {
            kind: PusherKind::Email,
            app_id: app_id.to_owned(),
            pushkey: pushkey.to_owned(),
            ..pusher(json!({}))
        };
        assert_eq!(mail("m.email", "Alice@example.org").check(), Ok(()));
        for (app_id, pushkey) in [("org.example", "alice@example.org"), ("m.email", "alice")] {
            assert!(matches!(mail(app_id, pushkey).check(), Err(Refusal::InvalidParam(_))), "{app_id} {pushkey}");
        }
    }

    #[test]
    fn the_gateway_gets_the_data_without_its_own_address() {
        let url = "https://push.example/_matrix/push/v1/notify";
        let pusher = pusher(json!({ "url": url, "format": "event_id_only", "org.example": { "a": 1 } }));
        assert_eq!(json!(pusher.forwarded_data()), json!({ "format": "event_id_only", "org.example": { "a": 1 } }));
        assert!(pusher.is_event_id_only());
    }
}
