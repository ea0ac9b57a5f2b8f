use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{
    User,
    device::{remove_device, remove_devices_but},
    verify::known_token,
};
use crate::{Call, Cx, Error};

/// Removes the device a token belongs to, or all of the user's devices; their tokens die in the same transaction.
///
/// Refused: `UnknownToken`. Spec: "Login", `/logout` and `/logout/all`.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogOut {
    pub token_hash: String,
    /// Whether every device goes.
    pub all: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LoggedOut {}

impl Call for LogOut {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "log_out";
    type Reply = LoggedOut;
}

impl User {
    pub(super) fn log_out(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: LogOut) -> Result<LoggedOut, Error> {
        let device_id = known_token(&**tx, cx, &call.token_hash)?.device_id;
        if call.all {
            remove_devices_but(tx, cx, None)?;
        } else {
            remove_device(tx, cx, &device_id)?;
        }
        Ok(LoggedOut {})
    }
}
