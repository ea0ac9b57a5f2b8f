use platform::{ActorKind, Sql};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{Room, store};
use crate::{Call, Cx, Error};

/// Those of some users who are in the room now.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinedAmong {
    pub users: Vec<OwnedUserId>,
}

impl Call for JoinedAmong {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "joined_among";
    type Reply = Vec<OwnedUserId>;
}

impl Room {
    pub(super) fn joined_among(&self, sql: &dyn Sql, _: &Cx<'_>, call: JoinedAmong) -> Result<Vec<OwnedUserId>, Error> {
        let joined = store::members::joined_among(sql, &call.users)?;
        Ok(joined.into_iter().filter_map(|user_id| OwnedUserId::try_from(user_id).ok()).collect())
    }
}
