use platform::{ActorKind, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, store};
use crate::{Call, Cx, Error};

/// A user of this server is gone and wants what they said to be forgotten: whoever comes later, of this server or
/// another, gets redacted copies. Nothing is redacted, and who was there keeps what they saw. Repeated, it changes
/// nothing.
///
/// Spec: `POST /account/deactivate`, `erase`.
#[derive(Debug, Serialize, Deserialize)]
pub struct EraseSender {
    pub user: OwnedUserId,
}

impl Call for EraseSender {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "erase_sender";
    type Reply = ();
}

impl Room {
    pub(super) fn erase_sender(&self, tx: &Tx<'_>, _cx: &Cx<'_>, call: EraseSender) -> Result<(), Error> {
        let head = self.head(&**tx)?;
        Ok(store::erased::put(tx, &call.user, head)?)
    }
}
