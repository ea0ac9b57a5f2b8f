use platform::{ActorKind, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::Appservice;
use crate::{Call, Cx, Error, told_rooms::Has};

/// There is something of interest in a room, up to a position. Told again, it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomMoved {
    pub room_id: OwnedRoomId,
    /// The position after which the service follows the room.
    pub since: u64,
    pub to: u64,
}

impl Call for RoomMoved {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "room_moved";
    type Reply = ();
}

impl Appservice {
    pub(super) fn room_moved(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RoomMoved) -> Result<(), Error> {
        if self.rooms.owe(tx, call.room_id.as_str(), Has::Everything(call.since), call.to)? {
            self.find_a_carrier(tx, cx, true)?;
        }
        Ok(())
    }
}
