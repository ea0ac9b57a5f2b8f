//! Where in a search a page ended.

use std::str::FromStr;

use actors::room::{Reached, SearchOrder};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::Refusal;
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};

/// A `next_batch`. Whoever changes one sees nothing but what they may see anyway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    /// The part of the rooms: since when nothing has happened in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
    /// The last match of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
    /// What is wanted alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// A group of results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Group {
    Room(OwnedRoomId),
    Sender(OwnedUserId),
}

/// A place in the order of all matches, the greatest first. A position is a time in all rooms alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    /// Nothing, if the time alone decides.
    pub score: u64,
    pub position: u64,
    pub room_id: OwnedRoomId,
}

impl Place {
    pub(super) fn of(order: SearchOrder, score: u64, position: u64, room_id: &RoomId) -> Self {
        let score = match order {
            SearchOrder::Rank => score,
            SearchOrder::Recent => 0,
        };
        Self { score, position, room_id: room_id.to_owned() }
    }

    /// What comes behind it in one room.
    pub(super) fn in_room(&self, room_id: &RoomId) -> Reached {
        Reached { score: self.score, position: self.position, inclusive: *room_id < *self.room_id }
    }
}

impl Token {
    /// As clients get it.
    pub(super) fn encoded(&self) -> serde_json::Result<String> {
        Ok(BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self)?))
    }
}

impl FromStr for Token {
    type Err = Refusal;

    fn from_str(token: &str) -> Result<Self, Refusal> {
        let json = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        let token = json.and_then(|json| serde_json::from_slice(&json).ok());
        token.ok_or_else(|| Refusal::InvalidParam("`next_batch` is not a token of a search".to_owned()))
    }
}
