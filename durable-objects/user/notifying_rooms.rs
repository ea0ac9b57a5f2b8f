use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId, push::Ruleset};
use serde::{Deserialize, Serialize};

use super::{User, authenticate, ignored::ignored_users, push_rules, store};
use crate::{Call, Cx, Error};

/// The rooms that may notify the user, and by which rules.
///
/// Refused: `UnknownToken`. Spec: "Listing Notifications".
#[derive(Debug, Serialize, Deserialize)]
pub struct GetNotifyingRooms {
    pub token_hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NotifyingRooms {
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<OwnedRoomId>,
    /// Whose messages notify the user of nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// What the user has changed of the push rules that everyone starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
}

impl Call for GetNotifyingRooms {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_notifying_rooms";
    type Reply = NotifyingRooms;
}

impl User {
    pub(super) fn notifying_rooms(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetNotifyingRooms,
    ) -> Result<NotifyingRooms, Error> {
        let device = authenticate(sql, cx, &call.token_hash)?;
        let rooms = store::rooms::with_membership(sql, "join")?;
        let rooms = rooms.into_iter().filter_map(|room| OwnedRoomId::try_from(room.room_id).ok()).collect();
        Ok(NotifyingRooms { device, rooms, ignored: ignored_users(sql)?, push_rules: push_rules::changes(sql)? })
    }
}
