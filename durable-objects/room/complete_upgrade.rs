use domain::{Refusal, upgrade};
use platform::{ActorKind, Tx};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{Room, directory, prepare_upgrade::Reserved, store, transactions};
use crate::{Call, Cx, Error};

/// The successor stands: a tombstone says so, and as far as the user may do that, the room is closed. It leaves the
/// directory. Repeated, it changes nothing.
///
/// Refused: `Forbidden` by the room's rules; `BadState` where another upgrade was begun meanwhile.
/// Spec: "Room Upgrades", "Server behaviour".
#[derive(Debug, Serialize, Deserialize)]
pub struct CompleteUpgrade {
    pub user: OwnedUserId,
    pub successor: OwnedRoomId,
}

impl Call for CompleteUpgrade {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "complete_upgrade";
    type Reply = ();
}

impl Room {
    pub(super) fn complete_upgrade(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: CompleteUpgrade) -> Result<(), Error> {
        let is_it = |reserved: &Reserved| reserved.user == call.user && reserved.room_id == call.successor;
        let Some(mut reserved) = Reserved::load(&**tx)?.filter(is_it) else {
            return Err(Refusal::BadState("Another upgrade of this room was begun meanwhile".to_owned()).into());
        };
        if reserved.completed {
            return Ok(());
        }
        let tombstone = self.authorised(&**tx, cx, &upgrade::tombstone(&call.user, &call.successor)?)?;
        self.insert(tx, cx, &self.signed(&**tx, cx, tombstone)?, None)?;
        // «If possible, the power levels in the old room should also be modified».
        if let Some(levels) = store::state::current(&**tx, "m.room.power_levels", "")? {
            match self.authorised(&**tx, cx, &upgrade::closing_power_levels(&call.user, &levels.pdu)?) {
                Ok(closing) => self.insert(tx, cx, &self.signed(&**tx, cx, closing)?, Some(transactions::CLOSING))?,
                Err(Error::Refused(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        directory::publish(tx, cx, false)?;
        reserved.completed = true;
        reserved.save(tx)
    }
}
