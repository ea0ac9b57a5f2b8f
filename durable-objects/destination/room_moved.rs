use platform::{ActorKind, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::Destination;
use crate::{Call, Cx, Error, told_rooms::Has};

/// There is something for the server in a room, up to a position. Told again, it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomMoved {
    pub room_id: OwnedRoomId,
    /// The position with which the server came: it has what was before.
    pub since: u64,
    pub to: u64,
    /// Whether it left again, or never came: nobody gave it what was before, of which it may be owed something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

impl Call for RoomMoved {
    const ACTOR: ActorKind = ActorKind::Destination;
    const NAME: &'static str = "room_moved";
    type Reply = ();
}

impl Destination {
    pub(super) fn room_moved(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RoomMoved) -> Result<(), Error> {
        let has = if call.left { Has::WhatItWasTold(call.since) } else { Has::Everything(call.since) };
        if self.rooms.owe(tx, call.room_id.as_str(), has, call.to)? {
            self.look_for_a_carrier(tx, cx)?;
        }
        Ok(())
    }
}
