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

/// Those of some rooms that the user is in.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetSharedWith {
    pub rooms: Vec<OwnedRoomId>,
}

impl Call for GetSharedWith {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_shared_with";
    type Reply = Vec<OwnedRoomId>;
}

impl User {
    pub(super) fn get_shared_with(
        &self,
        sql: &dyn Sql,
        _: &Cx<'_>,
        call: GetSharedWith,
    ) -> Result<Vec<OwnedRoomId>, Error> {
        let rooms = store::rooms::joined_among(sql, &call.rooms)?;
        Ok(rooms.into_iter().filter_map(|room_id| OwnedRoomId::try_from(room_id).ok()).collect())
    }

    pub(super) fn shares_room(&self, sql: &dyn Sql, _: &Cx<'_>, call: SharesRoom) -> Result<bool, Error> {
        Ok(store::rooms::is_in_any(sql, &call.rooms)?)
    }
}
