use platform::{ActorKind, Sql};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// Whether the user is in one of some rooms: whoever is in those shares it with them.
#[derive(Debug, Serialize, Deserialize)]
pub struct SharesRoom {
    pub rooms: Vec<OwnedRoomId>,
}

impl Call for SharesRoom {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "shares_room";
    type Reply = bool;
}

impl User {
    pub(super) fn shares_room(&self, sql: &dyn Sql, _: &Cx<'_>, call: SharesRoom) -> Result<bool, Error> {
        Ok(store::rooms::is_in_any(sql, &call.rooms)?)
    }
}
