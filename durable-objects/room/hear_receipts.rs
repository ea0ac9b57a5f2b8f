use platform::{ActorKind, Tx};
use ruma_common::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{MarkRead, NewReceipt, Room, resident::check_acl};
use crate::{Call, Cx, Error};

/// Another server tells what its users have read. What makes no sense of it, or is of somebody else's users, is left
/// out.
///
/// Refused: `Forbidden` for a server that the room's ACL keeps out; `NotFound` where nobody of this server is in the
/// room.
/// Spec: Server-Server API, "Receipts".
#[derive(Debug, Serialize, Deserialize)]
pub struct HearReceipts {
    pub server: OwnedServerName,
    /// In the order in which they were told.
    pub receipts: Vec<(OwnedUserId, NewReceipt)>,
}

impl Call for HearReceipts {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "hear_receipts";
    type Reply = ();
}

impl Room {
    pub(super) fn hear_receipts(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: HearReceipts) -> Result<(), Error> {
        check_acl(&**tx, &call.server)?;
        self.check_resident(&**tx)?;
        for (user, receipt) in call.receipts {
            if user.server_name() != call.server {
                continue;
            }
            let read = MarkRead { user, device: "".into(), receipts: vec![receipt], fully_read: None, marker: None };
            match self.mark_read(tx, cx, read) {
                Ok(_) | Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
