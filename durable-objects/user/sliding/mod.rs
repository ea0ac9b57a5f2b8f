//! Sliding sync: a window on the list of rooms that moves with what the client asks. Spec: MSC4186.
//!
//! Its two ends are those of a sync ([`SlidingPlan`], [`SlidingClose`]), and rooms are read between them. Where a
//! device stands is kept here, not in its token: a *connection* has what was sent of each room, and how far the user's
//! own stream was told. A `pos` names a connection and one of its answers.
//!
//! What holds:
//! - A connection remembers itself as of its last two answers. A client that comes with the last `pos` has received
//!   that answer, and what was before is forgotten; one that comes with the one before has not, and what the lost
//!   answer sent is sent again. Any other `pos` is `UnknownPos`, and the client begins anew.
//! - The last request of a connection is the one that counts: one that its client gave up, and that waits on all the
//!   same, gives no answer that would take the place of those that the client has.
//! - A room is read from where it was read to for this connection, as long as the user is in it. One in no window stays
//!   where it is, and is read on from there when it comes into one.
//! - Nothing is written for a look that finds nothing to tell: the request waits on, and says what it looked at
//!   ([`Passed`]), so that it does not look at the same again. At its end that is kept, under the same `pos`.
//! - Messages to the device are dropped by their own token alone, whatever became of the rest.
//! - A room that is in no window still comes into one when something happens there: while a connection is in use, no
//!   room is asked for silence, and those that were before are asked to speak, some with each request ([`RoomsHeard`]).
//!
//! The order of the rooms is that of their last news known here. The clients sort by what rooms say of themselves
//! (`bump_stamp`).
//!
//! Cost: a plan, each room with news in a window, and a close, which writes a row for the connection and one for each
//! room that is told; with encryption also each room with news, wherever it is, for whose devices changed. At most
//! [`ROOMS_AT_A_TIME`] rooms are read for one answer, and as many for devices; the next answer, which does not wait,
//! has more. A look at a connection goes through all rooms of the account, in memory. Whoever waits for news waits as
//! `GET /sync` does ([`super::SyncPlan`]), and then looks again.

mod close;
mod connection;
mod lists;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use platform::ActorKind;
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub(super) use connection::Connections;

use super::{AccountDataEvent, KeyCounts, PlannedTyping, ReadTyping, SyncPresence, ToDeviceMessage};
use crate::{
    Call,
    room::{Facts, RequiredState, Section, SlidingReply},
};

/// The most rooms that are read for one answer.
const ROOMS_AT_A_TIME: usize = if cfg!(test) { 5 } else { 100 };

/// Which rooms a connection's next answer reads, and from where.
///
/// Refused: `UnknownToken`, `UnknownPos`; `Unknown` where another request took over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SlidingPlan {
    pub token_hash: String,
    /// Empty for the one connection without a name.
    pub conn_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<SlidingList>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    #[serde(default)]
    pub extensions: SlidingExtensions,
    /// The internet address the device is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// What the sync says of presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<SyncPresence>,
    #[serde(default)]
    pub passed: Passed,
    /// Which request this is for, and whether that has asked before: a new one of a connection takes over from the one
    /// before, which its client does not listen to any more.
    #[serde(default)]
    pub request: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_on: bool,
}

/// What this request has looked at already, and found nothing to tell of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Passed {
    /// Up to where in the user's own stream, and in that of moves.
    pub position: u64,
    /// How far rooms were read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<u64, u64>,
}

/// A list of rooms, as the client wants it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SlidingList {
    pub name: String,
    /// Places in the list, first and last; `None`: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    pub filters: ListFilters,
    pub config: RoomConfig,
}

/// What is wanted of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomConfig {
    pub timeline_limit: u64,
    #[serde(default)]
    pub required: RequiredState,
}

/// Which rooms are in a list; what is not said is no matter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListFilters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_invite: Option<bool>,
    /// Types of rooms; `None` among them: rooms without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_types: Option<Vec<Option<String>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_room_types: Vec<Option<String>>,
    /// The rooms of the spaces that were named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Vec<OwnedRoomId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_tags: Vec<String>,
}

/// What is wanted besides rooms.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SlidingExtensions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_device: Option<WantedMessages>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub e2ee: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_data: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<Scope>,
}

/// Messages to the device: it has those up to `since`. MSC3885.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WantedMessages {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Of which rooms something is wanted: those of these lists, and these among the subscribed ones. `None`: all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Scope {
    /// Names of lists, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<Vec<String>>,
    /// Room ids, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SlidingPlanned {
    pub device: OwnedDeviceId,
    /// The user's position the plan is made at.
    pub position: u64,
    /// There is nothing to tell: whoever waits on does so from this sync token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
    pub wait_since: String,
    /// How many rooms each list has.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<PlannedSliding>,
    /// What is wanted of the rooms' states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<RequiredState>,
    /// Invitations and knocks to be told, by the user's numbers of the rooms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<u64>,
    /// Rooms to be asked whose devices changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_rooms: Vec<DeviceRoom>,
    /// Further such rooms, which wait for their turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_rooms_later: Vec<DeviceRoom>,
    /// Rooms that may be silent, and are in no window: the next few to be asked to speak.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<DeviceRoom>,
    /// Rooms of which a filter has to know more: the newest few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<OwnedRoomId>,
    /// Rooms whose account data is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_rooms: Vec<u64>,
    /// What the user has changed of the push rules that everyone starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
    /// Whom the user ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// The keys that the device has left, if it wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyCounts>,
}

/// A room to be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedSliding {
    pub number: u64,
    pub room_id: OwnedRoomId,
    /// When the user's membership became what it is.
    pub changed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// How far the room said it has news when the plan was made: one that is read has read that far. What it says
    /// later is news, even where the request goes on and ends with a later plan.
    #[serde(default)]
    pub told: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_after: Option<u64>,
    pub timeline_limit: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expanded: bool,
    /// Which of the plan's states is wanted.
    pub state: usize,
    /// What of it is known, if that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<RequiredState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<PlannedTyping>,
    /// Whether the user is in it no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// The event that ended an invitation or a knock, where the room itself may not know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Box<RawValue>>,
    /// Whether it is read for more than its news: what comes of it is remembered in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settles: bool,
    /// Whether it is a direct chat; `None`: it is none, and was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    /// The lists that it is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
}

/// A room to be asked whose devices changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRoom {
    pub number: u64,
    pub room_id: OwnedRoomId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

impl Call for SlidingPlan {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "sliding_plan";
    type Reply = SlidingPlanned;
}

/// Ends an answer of a sliding sync: takes what was read and told, answers the next `pos` and what is the user's own.
///
/// Refused: as [`SlidingPlan`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlidingClose {
    pub token_hash: String,
    pub conn_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<String>,
    /// The position of the plan.
    pub position: u64,
    pub extensions: SlidingExtensions,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<ReadSliding>,
    /// As in the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<RequiredState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_rooms: Vec<u64>,
    /// Rooms that are still to be asked whose devices changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_rooms_left: Vec<DeviceRoom>,
    /// How far rooms were asked that were, by number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices_read: BTreeMap<u64, u64>,
    /// Whether the rooms have something to tell. If they have not, and the user's own has not, there is no answer.
    pub news: bool,
    /// Whether the request ends here, whether or not there is anything to tell: what it looked at is not looked at
    /// again by the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps: bool,
    /// As in the plan.
    #[serde(default)]
    pub request: String,
}

/// A planned room that was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadSliding {
    pub number: u64,
    pub changed: u64,
    pub to: u64,
    pub timeline_limit: u64,
    /// Whether it was told from its newest events on: anew, or with a gap before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub afresh: bool,
    /// Which of the plan's states was read.
    pub state: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub receipts: bool,
    /// Whether the user is in it no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Whether the room itself said so: then the list of rooms has to follow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<ReadTyping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

impl ReadSliding {
    /// What the close has to know of a room that replied this.
    pub fn of(room: &PlannedSliding, reply: &SlidingReply) -> Self {
        let left = matches!(reply.section, Section::Leave);
        // Who was out of the room when the plan was made may be in it again when it is read.
        let gone = left || room.gone && matches!(reply.section, Section::None);
        Self {
            number: room.number,
            changed: room.changed,
            // A room that went back, restored from an older copy, has read no less: its next news come after this.
            to: if gone { reply.to } else { reply.to.max(room.told) },
            timeline_limit: room.timeline_limit,
            afresh: reply.anew || reply.limited,
            state: room.state,
            receipts: room.receipts.is_some(),
            gone,
            left,
            is_dm: room.is_dm,
            typing: room.typing.zip(reply.typing).map(|(typing, now)| ReadTyping { known: typing.known, now }),
            facts: reply.facts.clone(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SlidingClosed {
    /// `None`: there was nothing to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<AskedRoom>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub account_data: Vec<AccountDataEvent>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub room_account_data: BTreeMap<OwnedRoomId, Vec<AccountDataEvent>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_device: Option<SlidingMessages>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyCounts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_lists: Vec<OwnedUserId>,
}

/// A room that the user is invited to, or knocked on.
#[derive(Debug, Serialize, Deserialize)]
pub struct AskedRoom {
    pub room_id: OwnedRoomId,
    pub membership: String,
    pub bump_stamp: u64,
    /// A JSON array of stripped state events.
    pub state: Box<RawValue>,
    pub is_dm: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SlidingMessages {
    pub next_batch: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ToDeviceMessage>,
}

impl Call for SlidingClose {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "sliding_close";
    type Reply = SlidingClosed;
}

/// Rooms were asked to speak, up to that number, and said how far they have news.
///
/// Refused: as [`SlidingPlan`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RoomsHeard {
    pub token_hash: String,
    pub conn_id: String,
    pub pos: String,
    pub up_to: u64,
    pub heads: BTreeMap<u64, u64>,
}

impl Call for RoomsHeard {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "rooms_heard";
    type Reply = ();
}

/// What rooms said of themselves, for lists that are filtered by it.
#[derive(Debug, Serialize, Deserialize)]
pub struct LearnFacts {
    pub token_hash: String,
    pub rooms: BTreeMap<OwnedRoomId, Facts>,
}

impl Call for LearnFacts {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "learn_facts";
    type Reply = ();
}
