use platform::{ActorKind, Sql};
use ruma_common::{OwnedUserId, UserId};
use ruma_events::{TimelineEventType, room::history_visibility::HistoryVisibility};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, store};
use crate::{Call, Cx, Error};

/// What access a user has to the room: what the tier asks before it does something outside the room, in its name.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetAccess {
    pub user: OwnedUserId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub joined: bool,
    /// Whether everyone may read the room.
    pub world_readable: bool,
}

impl Call for GetAccess {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "access";
    type Reply = Access;
}

impl Room {
    pub(super) fn access(&self, sql: &dyn Sql, _cx: &Cx<'_>, call: GetAccess) -> Result<Access, Error> {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: HistoryVisibility,
        }
        let visibility = store::state::current(sql, "m.room.history_visibility", "")?
            .and_then(|event| event.pdu.content_as::<Content>().ok());
        Ok(Access {
            joined: store::members::membership(sql, call.user.as_str())?.as_deref() == Some("join"),
            world_readable: visibility
                .is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable),
        })
    }

    /// Whether the user may set the room's canonical alias. Who may speak for the room to the outside is asked here: it
    /// decides over its aliases and its place in the directory.
    pub(super) fn may_set_alias(&self, sql: &dyn Sql, cx: &Cx<'_>, user: &UserId) -> Result<bool, Error> {
        let nothing = RawValue::from_string("{}".to_owned())?;
        match self.authorised(sql, cx, &canonical_alias(user, nothing)) {
            Ok(_) => Ok(true),
            Err(Error::Refused(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// An `m.room.canonical_alias` with this content.
pub(super) fn canonical_alias(sender: &UserId, content: Box<RawValue>) -> domain::event::Draft {
    domain::event::Draft {
        event_type: TimelineEventType::RoomCanonicalAlias,
        content,
        state_key: Some(String::new()),
        sender: sender.to_owned(),
        redacts: None,
    }
}
