use std::collections::HashSet;

use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error, presence::Presence};

/// This user's presence, for somebody who shares a room with them.
///
/// Refused: `Forbidden` for whoever does not; `NotFound` if the account is deactivated.
/// Spec: `GET /presence/{userId}/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetPresence {
    /// Who wants to know.
    pub asker: OwnedUserId,
    /// The rooms they are in.
    pub rooms: Vec<OwnedRoomId>,
}

impl Call for GetPresence {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_presence";
    type Reply = Presence;
}

impl User {
    pub(super) fn presence(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetPresence) -> Result<Presence, Error> {
        if store::account::get(sql)?.deactivated {
            return Err(Refusal::NotFound("This user has no presence".to_owned()).into());
        }
        if call.asker.as_str() != cx.id {
            let theirs: HashSet<&str> = call.rooms.iter().map(|room| room.as_str()).collect();
            let shares = |room: &store::rooms::KnownRoom| theirs.contains(room.room_id.as_str());
            if !store::rooms::with_membership(sql, "join")?.iter().any(shares) {
                return Err(Refusal::Forbidden("You share no room with this user".to_owned()).into());
            }
        }
        self.with_own_presence(sql, cx, |own| Ok(own.shown(cx)))
    }
}
