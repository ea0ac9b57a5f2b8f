use domain::Refusal;
use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{User, authenticate};
use crate::{Call, Cx, Error, presence::PresenceState};

/// The longest status message, in bytes: it goes to everyone the user shares a room with.
const STATUS_MSG_BYTES_MAX: usize = 512;

/// A device says how it is there, until its next sync says otherwise. Without a `status_msg` there is none from now on.
///
/// Refused: `UnknownToken`, `InvalidParam` for a `status_msg` that is too long. Spec: `PUT /presence/{userId}/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetPresence {
    pub token_hash: String,
    pub state: PresenceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_msg: Option<String>,
}

impl Call for SetPresence {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "set_presence";
    type Reply = ();
}

impl User {
    pub(super) fn set_presence(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SetPresence) -> Result<(), Error> {
        let device = authenticate(&**tx, cx, &call.token_hash)?;
        if call.status_msg.as_ref().is_some_and(|text| text.len() > STATUS_MSG_BYTES_MAX) {
            return Err(
                Refusal::InvalidParam(format!("A status_msg can have at most {STATUS_MSG_BYTES_MAX} bytes")).into()
            );
        }
        if !cx.settings.config.presence {
            return Ok(());
        }
        let status_msg = call.status_msg.filter(|text| !text.is_empty());
        self.presence_set(tx, cx, &device, (call.state, status_msg))
    }
}
