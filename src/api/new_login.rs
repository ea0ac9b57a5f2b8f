//! A device is logged in: what its client wishes, what the User is told, and the tokens, which only the client may
//! know.

use std::time::Duration;

use actors::user::{NewDevice, NewToken};
use domain::Refusal;
use platform::Fault;
use ruma_common::{DeviceId, OwnedDeviceId, UserId};
use serde::{Deserialize, Serialize};

use crate::{Context, Failure, access_token};

/// The longest device id taken from a client, in bytes.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// What a client says of the device it logs in.
#[derive(Default, Deserialize)]
pub(crate) struct Wanted {
    pub device_id: Option<OwnedDeviceId>,
    pub initial_device_display_name: Option<String>,
    /// Whether the client refreshes its tokens. Only the tokens of those that do end by themselves.
    pub refresh_token: Option<bool>,
}

/// A device to be logged in, with its tokens.
pub(crate) struct NewLogin {
    pub device: NewDevice,
    pub tokens: Tokens,
}

/// Tokens as a client gets them.
#[derive(Serialize)]
pub(crate) struct Tokens {
    pub access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", with = "ruma_common::serde::duration::opt_ms")]
    pub expires_in_ms: Option<Duration>,
}

impl NewLogin {
    /// Makes tokens for a device, which is a new one unless the client names it.
    ///
    /// # Errors
    /// `M_INVALID_PARAM` for a device id that is empty or too long.
    pub(crate) fn of_user(cx: &Context, user_id: &UserId, wanted: Wanted) -> Result<Self, Failure> {
        let device_id = match wanted.device_id {
            Some(device_id) if device_id.as_str().is_empty() || device_id.as_str().len() > DEVICE_ID_BYTES_MAX => {
                return Err(Refusal::InvalidParam(format!("A device id has 1 to {DEVICE_ID_BYTES_MAX} bytes")).into());
            }
            Some(device_id) => device_id,
            None => new_device_id(cx)?,
        };
        let device = |token_hash: String| {
            let device = NewDevice { ip: ip(cx), ..NewDevice::new(device_id.clone(), token_hash) };
            device.named(wanted.initial_device_display_name)
        };
        if wanted.refresh_token == Some(true) {
            let (next, tokens) = refreshed(cx, user_id, &device_id)?;
            let device = NewDevice {
                expires_ms: Some(next.expires_ms),
                refresh_hash: Some(next.refresh_hash),
                ..device(next.token_hash)
            };
            return Ok(Self { device, tokens });
        }
        let access_token = access_token::make(cx, user_id, false)?;
        let device = device(access_token::hash(&access_token));
        Ok(Self { device, tokens: Tokens { access_token, refresh_token: None, expires_in_ms: None } })
    }

    /// As [`NewLogin::of_user`], for a guest: of what the client says only the name counts.
    pub(crate) fn of_guest(cx: &Context, user_id: &UserId, display_name: Option<String>) -> Result<Self, Failure> {
        let access_token = access_token::make(cx, user_id, true)?;
        let token_hash = access_token::hash(&access_token);
        let device = NewDevice { ip: ip(cx), ..NewDevice::new(new_device_id(cx)?, token_hash) }.named(display_name);
        Ok(Self { device, tokens: Tokens { access_token, refresh_token: None, expires_in_ms: None } })
    }
}

/// New tokens for a device that refreshes, and what its User is told of them.
pub(crate) fn refreshed(cx: &Context, user_id: &UserId, device_id: &DeviceId) -> Result<(NewToken, Tokens), Fault> {
    let access_token = access_token::make(cx, user_id, false)?;
    let refresh_token = access_token::make_refresh(cx, user_id, device_id)?;
    let lifetime_ms = cx.config().access_token_lifetime_ms;
    let next = NewToken {
        token_hash: access_token::hash(&access_token),
        expires_ms: cx.now_ms().saturating_add(lifetime_ms),
        refresh_hash: access_token::hash(&refresh_token),
    };
    let expires_in_ms = Some(Duration::from_millis(lifetime_ms));
    Ok((next, Tokens { access_token, refresh_token: Some(refresh_token), expires_in_ms }))
}

/// The internet address of the request's client, if the host knows it.
pub(crate) fn ip(cx: &Context) -> Option<String> {
    cx.client_address().map(|address| address.0.to_string())
}

fn new_device_id(cx: &Context) -> Result<OwnedDeviceId, Fault> {
    Ok(letters(&cx.random::<10>()?, b'A').into())
}

/// One letter for each random byte, from `first` on.
pub(crate) fn letters(random: &[u8], first: u8) -> String {
    random.iter().map(|byte| char::from(first + byte % 26)).collect()
}
