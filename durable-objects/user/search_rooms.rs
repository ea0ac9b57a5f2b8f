use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{User, authenticate, ignored::ignored_users, store};
use crate::{Call, Cx, Error};

/// The most rooms in one reply.
const ROOMS_MAX: u64 = 500;

/// A part of the rooms that a search goes through: those the user is in, or left and did not forget, the newest first.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetSearchRooms {
    pub token_hash: String,
    /// The user's number for the last room of the part before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
    /// Of these alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<OwnedRoomId>>,
    pub limit: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SearchRooms {
    pub device: OwnedDeviceId,
    /// Whom the user ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub rooms: Vec<OwnedRoomId>,
    /// Where the next part begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_below: Option<u64>,
}

impl Call for GetSearchRooms {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "search_rooms";
    type Reply = SearchRooms;
}

impl User {
    pub(super) fn search_rooms(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetSearchRooms) -> Result<SearchRooms, Error> {
        let device = authenticate(sql, cx, &call.token_hash)?;
        let limit = call.limit.min(ROOMS_MAX);
        let below = call.below.unwrap_or(u64::MAX >> 11);
        let mut rooms = store::rooms::seen_below(sql, below, call.only.as_deref(), limit.saturating_add(1))?;
        let has_more = rooms.len() as u64 > limit;
        rooms.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next_below = rooms.last().filter(|_| has_more).map(|(number, _)| *number);
        let rooms = rooms.into_iter().filter_map(|(_, room_id)| OwnedRoomId::try_from(room_id).ok()).collect();
        Ok(SearchRooms { device, ignored: ignored_users(sql)?, rooms, next_below })
    }
}
