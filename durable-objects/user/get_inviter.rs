use platform::{ActorKind, Sql};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// Who invited the user to a room, as far as that still stands: their server is in it.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetInviter {
    pub room_id: OwnedRoomId,
}

impl Call for GetInviter {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_inviter";
    type Reply = Option<OwnedUserId>;
}

/// Whether the user is invited to a room, or knocked on it.
#[derive(Debug, Serialize, Deserialize)]
pub struct IsAsked {
    pub room_id: OwnedRoomId,
}

impl Call for IsAsked {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "is_asked";
    type Reply = bool;
}

impl User {
    pub(super) fn is_asked(&self, sql: &dyn Sql, _cx: &Cx<'_>, call: IsAsked) -> Result<bool, Error> {
        let room = store::rooms::by_id(sql, call.room_id.as_str())?;
        Ok(room.is_some_and(|room| matches!(room.membership.as_str(), "invite" | "knock")))
    }

    pub(super) fn get_inviter(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetInviter,
    ) -> Result<Option<OwnedUserId>, Error> {
        let stripped = store::rooms::stripped_state(sql, call.room_id.as_str(), "invite")?;
        Ok(stripped.and_then(|stripped| inviter(&stripped, cx.id)))
    }
}

/// Who invited a user, by the stripped state of the invitation.
pub(super) fn inviter(stripped: &str, invited: &str) -> Option<OwnedUserId> {
    #[derive(Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
        sender: OwnedUserId,
    }
    let stripped: Vec<Stripped> = serde_json::from_str(stripped).unwrap_or_default();
    let own = |event: &Stripped| event.event_type == "m.room.member" && event.state_key == invited;
    stripped.into_iter().find(own).map(|event| event.sender)
}
