use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, EventFilter, Room, RoomToken,
    messages::{Page, page},
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Events in one reply.
const EVENTS_MAX: u64 = 100;

/// What happened since a place, in its order, for one who may see the room and need not be in it. Waits while there is
/// nothing, if it may. It follows nothing: whoever watches asks again. Spec: "Room Previews".
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub since: WatchedSince,
    /// No further than this position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_wait: bool,
}

/// Where one begins to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchedSince {
    /// From here on: the reply has no event, and is not waited for.
    Now,
    /// Where the user's present time in the room began, if they are in it.
    Joined,
    After(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Watched {
    pub events: Vec<Box<RawValue>>,
    pub start: String,
    /// Behind the last of the events, and what is hidden there.
    pub end: String,
    /// Where that is in the log.
    pub reached: u64,
    /// Whether more of what was asked for comes behind it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl Call for Watch {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "watch";
    type Reply = Watched;
}

impl Room {
    pub(super) fn watch(&self, sql: &dyn Sql, cx: &Cx<'_>, call: Watch) -> Result<Option<Watched>, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        viewer.sight()?;
        let head = self.head(sql)?;
        let joined_at = viewer.joined_at().map_or(head, |joined| joined.saturating_sub(1));
        let after = match call.since {
            WatchedSince::Now => head,
            WatchedSince::Joined => joined_at,
            WatchedSince::After(position) => position,
        };
        let up_to = call.up_to.unwrap_or(head).max(after);
        let filter = EventFilter { limit: Some(EVENTS_MAX), ..EventFilter::default() };
        let Page { events, place, is_last, .. } = page(sql, &viewer, &filter, Direction::Forwards, (after, up_to))?;
        if call.may_wait && is_last && events.is_empty() && call.since != WatchedSince::Now {
            return Ok(None);
        }
        let reached = if is_last { up_to } else { place };
        Ok(Some(Watched {
            events: viewer.sees_all(sql, cx, &events.iter().collect::<Vec<_>>(), true)?,
            start: RoomToken(after).to_string(),
            end: RoomToken(reached).to_string(),
            reached,
            more: !is_last,
        }))
    }
}
