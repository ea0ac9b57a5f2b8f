use platform::{ActorKind, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// The user forgot a room: it is on no list any more. Only a device that still takes the user for a member learns,
/// once, that they left. Repeats, and what a later membership overtook, change nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct RoomForgotten {
    pub room_id: OwnedRoomId,
    /// The room's position of the membership it was forgotten with.
    pub position: u64,
}

impl Call for RoomForgotten {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "room_forgotten";
    type Reply = ();
}

impl User {
    pub(super) fn room_forgotten(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: RoomForgotten) -> Result<(), Error> {
        let room_id = call.room_id.as_str();
        let known = store::rooms::by_id(&**tx, room_id)?;
        match known {
            Some(known) if known.effect > call.position => return Ok(()),
            // The row stays: its number means this room in moves and tokens.
            Some(known) if known.is_gone() => {
                if known.membership != store::rooms::FORGOTTEN {
                    let became = (store::rooms::FORGOTTEN, known.effect, known.changed);
                    self.put_room(tx, room_id, became, None)?;
                }
                return Ok(());
            }
            // The leave itself is still on its way: this tells it too.
            _ => {}
        }
        self.with_moves(&**tx, |moves| {
            let changed = moves.next_position(cx.now_ms);
            let number = self.put_room(tx, room_id, (store::rooms::FORGOTTEN, call.position, changed), None)?;
            moves.uncommitted = true;
            moves.own_head = changed;
            Ok(moves.push(tx, changed, number, call.position)?)
        })?;
        cx.wake();
        Ok(())
    }
}
