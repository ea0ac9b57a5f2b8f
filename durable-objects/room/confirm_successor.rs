use platform::{ActorKind, Tx};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{Room, append::room_id, prepare_upgrade::Reserved};
use crate::{Call, Cx, Error, outbox, user::TransferSettings};

/// A user joined a room that says it takes the place of this one: their settings follow them there if this one says so,
/// too. Whoever makes a room writes into it what they like. Said again, it changes nothing. Spec: "Room Upgrades".
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfirmSuccessor {
    pub user: OwnedUserId,
    pub successor: OwnedRoomId,
}

impl Call for ConfirmSuccessor {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "confirm_successor";
    type Reply = ();
}

impl Room {
    pub(super) fn confirm_successor(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ConfirmSuccessor) -> Result<(), Error> {
        let is_named = self.replacement(&**tx)?.is_some_and(|named| named == call.successor);
        // Who upgrades a room is in the new one before the tombstone is set.
        if !is_named && Reserved::load(&**tx)?.is_none_or(|reserved| reserved.room_id != call.successor) {
            return Ok(());
        }
        let transfer = TransferSettings { from: room_id(cx)?, to: call.successor };
        outbox::owe(tx, cx, call.user.as_str(), &transfer, true)
    }
}
