use std::collections::HashMap;

use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{User, authenticate, ignored::ignored_users, store};
use crate::{Call, Cx, Error};

/// The most rooms in one reply.
const ROOMS_MAX: u64 = 1_000;

/// A part of the rooms that a search goes through: those the user is in, or left and did not forget, first those where
/// something happened last, as far as the user was told. One where something happens meanwhile is not in a later part.
///
/// Refused: `UnknownToken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetSearchRooms {
    pub token_hash: String,
    /// What happened in the rooms of the part before is from here on: a position.
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
        let limit = usize::try_from(call.limit.clamp(1, ROOMS_MAX)).unwrap_or(usize::MAX);
        let mut moved: HashMap<u64, u64> = HashMap::new();
        for a_move in store::rooms::moves(sql)? {
            let up_to = moved.entry(a_move.room).or_default();
            *up_to = a_move.up_to.max(*up_to);
        }
        let mut rooms: Vec<(u64, String)> = store::rooms::seen(sql, call.only.as_deref())?
            .into_iter()
            .map(|(number, told, room_id)| (moved.get(&number).copied().unwrap_or(0).max(told), room_id))
            .filter(|(moved, _)| call.below.is_none_or(|below| *moved < below))
            .collect();
        rooms.sort_unstable_by(|one, other| other.cmp(one));
        // A position stands for all that have it.
        let last = rooms.get(limit.saturating_sub(1)).map(|(moved, _)| *moved);
        let next_below = last.filter(|last| rooms.last().is_some_and(|(moved, _)| moved < last));
        rooms.retain(|(moved, _)| last.is_none_or(|last| *moved >= last));
        let rooms = rooms.into_iter().filter_map(|(_, room_id)| OwnedRoomId::try_from(room_id).ok()).collect();
        Ok(SearchRooms { device, ignored: ignored_users(sql, cx)?, rooms, next_below })
    }
}
