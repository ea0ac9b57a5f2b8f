use domain::Refusal;
use platform::{ActorKind, Tx};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, append::room_id, store};
use crate::{Call, Cx, Error, outbox, user::RoomForgotten};

/// A user who left wants to hear and see no more of the room, until they are in it again, invited or knock. Repeated,
/// it changes nothing; so it does for who never was in the room.
///
/// Refused: `Unknown` for who has not left. Spec: `POST /rooms/{roomId}/forget`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forget {
    pub user: OwnedUserId,
}

impl Call for Forget {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "forget";
    type Reply = ();
}

impl Room {
    pub(super) fn forget(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Forget) -> Result<(), Error> {
        match store::members::membership(&**tx, call.user.as_str())?.as_deref() {
            None => return Ok(()),
            Some("leave" | "ban") => {}
            Some(_) => return Err(Refusal::Unknown(format!("{} has not left this room", call.user)).into()),
        }
        let position = store::members::forget(tx, call.user.as_str())?;
        // Also when it is repeated: their list may not have heard of it.
        outbox::owe(tx, cx, call.user.as_str(), &RoomForgotten { room_id: room_id(cx)?, position }, true)
    }
}
