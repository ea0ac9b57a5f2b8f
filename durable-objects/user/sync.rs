//! The two ends of a sync: which rooms to read from where, and the token once they were read.
//!
//! Rooms first, own stream last: the close reads everything that is the user's own in one go, so that a message never
//! overtakes what was sent to the user before it.

use std::collections::HashSet;

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedRoomId, OwnedUserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    AccountDataEvent, KeyCounts, RoomAccountData, SyncPresence, ToDeviceMessage, User, account_data,
    exceptions::Exceptions,
    get_asked::inviter,
    ignored::ignored_users,
    moves::Moves,
    own_device_lists::own_changed,
    push_rules,
    store::{self, rooms::KnownRoom},
    sync_token::{Reached, SyncToken, mark},
    typing::{PlannedTyping, ReadTyping, see},
};
use crate::{Call, Cx, Error, room::Direction};

/// Which rooms a device's next sync reads, and from where. Waits while there is nothing new, if it may.
///
/// Refused: `UnknownToken`, `InvalidParam` for a `since` that is none, or an unknown filter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SyncPlan {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Whether every joined room is wanted, moved or not.
    #[serde(default)]
    pub full_state: bool,
    /// Whether a first sync shows the rooms the user has left, too; a stored filter may say so itself.
    #[serde(default)]
    pub include_leave: bool,
    /// The id of a filter to answer along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_id: Option<String>,
    /// The internet address the device is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Whether to wait for news, or, with a first sync, until it is known who else is there. Without it the plan is
    /// answered at once, empty or not.
    #[serde(default)]
    pub may_wait: bool,
    /// Whether nothing but the rooms is wanted: this is no sync, and the device has not received what came before
    /// `since`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub looks_only: bool,
    /// What the sync says and wants of presence; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<SyncPresence>,
    /// Whether the device's messages are left where they are: they are no news to who does not take them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_messages: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    pub device: OwnedDeviceId,
    /// The user's position the plan is made at.
    pub position: u64,
    pub rooms: Vec<PlannedRoom>,
    /// Nothing happened since the token: it still says where the device is, and there is nothing to close.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Box<RawValue>>,
    /// What the user has changed of the push rules that everyone starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
    /// Whom the user ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
}

/// A room to be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedRoom {
    /// The user's number for it.
    pub number: u64,
    pub room_id: OwnedRoomId,
    /// The position read to before; `None`: never, or not since a join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Who types there, as the device saw it and as it is known.
    #[serde(default)]
    pub typing: PlannedTyping,
    /// Whether the user is in it no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// The event that ended an invitation or a knock, as clients see it, where the room itself may not know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Box<RawValue>>,
    /// Whether there is account data of it: then the device is told what is unread, too, though nothing happened there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_account_data: bool,
}

impl Call for SyncPlan {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "sync_plan";
    type Reply = Plan;
}

/// Ends a sync: takes how far each planned room was read, answers the token for the next one and what is the user's
/// own.
#[derive(Debug, Serialize, Deserialize)]
pub struct SyncClose {
    pub token_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The position of the plan.
    pub position: u64,
    pub rooms: Vec<ReadRoom>,
    /// Whether rooms read were told already, with their account data (see [`super::RoomsAccountData`]): the token then
    /// stands where the plan did, and what became the user's own since is told again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rooms_told: bool,
    /// As in the plan, with the filter that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<SyncPresence>,
    /// As in the plan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_messages: bool,
}

/// How far a planned room was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadRoom {
    pub number: u64,
    /// The position read to; the one before if the room could not be read this time.
    pub to: u64,
    /// Whether it could not be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Whether the room told all of itself, as to a device that knows nothing of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// Whether the room told the device that the user left, at the position read to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
    /// Whether nothing of it was told, where all others were already (see [`SyncClose::rooms_told`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
    /// Who types there; `None` where that was not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<ReadTyping>,
}

impl ReadRoom {
    /// A planned room that could not be read: it is owed to the device.
    pub fn failed(room: &PlannedRoom) -> Self {
        let to = room.from.unwrap_or(0);
        Self { number: room.number, to, failed: true, anew: false, left: false, untold: false, typing: None }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Closed {
    pub next_batch: String,
    /// Rooms the user is invited to since, with their stripped state.
    #[serde(default)]
    pub invited: Vec<StrippedRoom>,
    /// Rooms the user knocked on since.
    #[serde(default)]
    pub knocked: Vec<StrippedRoom>,
    /// The account's data that changed since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub account_data: Vec<AccountDataEvent>,
    /// The same for rooms; whole for those that are told anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub room_account_data: Vec<RoomAccountData>,
    /// The presence of others, and the user's own, as far as they are news.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub presence: Vec<Box<RawValue>>,
    /// The device's messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_device: Vec<ToDeviceMessage>,
    /// The keys that the device has left to be given out.
    #[serde(default, skip_serializing_if = "KeyCounts::is_empty")]
    pub keys: KeyCounts,
    /// Whose keys changed, or look different to this user, as far as that is of the user's own stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_lists: Vec<OwnedUserId>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct StrippedRoom {
    pub room_id: String,
    /// A JSON array of stripped state events.
    pub state: Box<RawValue>,
}

impl Call for SyncClose {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "sync_close";
    type Reply = Closed;
}

/// Where in a room's log a sync token stands: a `next_batch` is accepted for paging, too.
#[derive(Debug, Serialize, Deserialize)]
pub struct PositionIn {
    pub room_id: OwnedRoomId,
    pub token: String,
    /// Which way is read from there, as far as the place is not known for sure: there is more rather than less to read
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Direction>,
}

impl Call for PositionIn {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "position_in";
    type Reply = u64;
}

impl User {
    pub(super) fn sync_plan(&self, sql: &dyn Sql, cx: &Cx<'_>, call: SyncPlan) -> Result<Option<Plan>, Error> {
        let device = super::authenticate(sql, cx, &call.token_hash)?;
        let since = call.since.as_deref().map(|since| SyncToken::of(cx.id, since)).transpose()?;
        if !call.looks_only {
            super::verify::see(sql, cx, &device, call.ip)?;
            self.received(sql, cx, &device, since.as_ref())?;
            self.planned_at_ms.set(Some(cx.now_ms));
        }
        let filter = match &call.filter_id {
            Some(id) => Some(super::filter::stored(sql, id).map_err(unknown_filter)?),
            None => None,
        };
        let known = since.as_ref().map(|since| self.exceptions(sql, since)).transpose()?.flatten();
        let presence = call.presence.map(|asked| asked.filtered(filter.as_deref()));
        let presence_is_new = match &presence {
            Some(asked) => {
                let seen = since.as_ref().and_then(|since| since.presence);
                let stays = since.is_none() || call.may_wait;
                self.presence_is_new(sql, cx, (&device, asked), seen, stays)?
            }
            None => false,
        };
        let is_awaited = presence.as_ref().is_some_and(|asked| self.presence_is_awaited(cx, asked));
        let plan = self.with_moves(sql, |moves| {
            let mut rooms = match &since {
                None => first_rooms(sql, call.include_leave || filter.as_deref().is_some_and(includes_leave))?,
                Some(since) => {
                    let typing = self.typing.borrow().moved(&since.typing, cx.now_ms);
                    moved_rooms(sql, moves, since, known.as_ref(), &typing, call.full_state)?
                }
            };
            for room in &mut rooms {
                let seen = since.as_ref().and_then(|since| since.typing.get(&room.number)).copied().unwrap_or(0);
                room.typing = PlannedTyping { seen, known: self.typing.borrow().version(room.number, cx.now_ms) };
            }
            let news = since.as_ref().is_none_or(|since| {
                moves.own_head > since.own
                    || !moves.remembers(since.moves)
                    || since.keys.is_none()
                    || since.to_device.is_some() && !call.without_messages
            });
            let quiet = rooms.is_empty() && !news && !presence_is_new;
            let awaits_presence = since.is_none() && is_awaited && !rooms.is_empty();
            if call.may_wait && (quiet || awaits_presence) {
                return Ok(None);
            }
            if !quiet {
                moves.planned = moves.head;
            }
            Ok(Some((moves.head, rooms, quiet)))
        })?;
        if presence.is_some() {
            self.presence_planned(sql, cx, &device, plan.as_ref().map(|(_, _, quiet)| *quiet))?;
        }
        let Some((position, rooms, quiet)) = plan else { return Ok(None) };
        let (push_rules, ignored) = match &*rooms {
            [] => (None, Vec::new()),
            _ => (push_rules::changes(sql)?, ignored_users(sql, cx)?),
        };
        Ok(Some(Plan { device, position, rooms, quiet, filter, push_rules, ignored }))
    }

    pub(super) fn sync_close(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: SyncClose) -> Result<Closed, Error> {
        let device = super::authenticate(&**tx, cx, &call.token_hash)?;
        let since = call.since.as_deref().map(|since| SyncToken::of(cx.id, since)).transpose()?;
        let mut typing = since.as_ref().map(|since| since.typing.clone()).unwrap_or_default();
        for room in &call.rooms {
            match room.typing {
                Some(read) => {
                    self.typing.borrow_mut().was_read(room.number, read, cx.now_ms);
                    see(&mut typing, room.number, read.now);
                }
                None if room.failed => {}
                // It is theirs to know no longer.
                None => drop(typing.remove(&room.number)),
            }
        }
        for room in call.rooms.iter().filter(|room| room.left) {
            self.left_meanwhile(tx, cx, room.number, room.to)?;
        }
        let known = since.as_ref().map(|since| self.exceptions(&**tx, since)).transpose()?.flatten();
        let (mut next, own_head, data_head, remembered) = self.with_moves(&**tx, |moves| {
            let known = known.filter(|_| since.as_ref().is_some_and(|since| moves.remembers(since.moves)));
            let remembered = known.is_some();
            let mut exceptions = known.unwrap_or_default();
            let since_plan = moves.since(call.position);
            let told = |room| since_plan.get(&room).copied().unwrap_or_else(|| moves.told(room));
            for read in &call.rooms {
                let told = told(read.number);
                // A room that went back, restored from an older copy, has read no less: its next news come after this.
                let position = if read.failed { read.to } else { read.to.max(told) };
                exceptions.read(read.number, Reached { position, owed: read.failed }, told);
            }
            let new_row = moves.next_position(cx.now_ms);
            let (spilled, rooms) = exceptions.settle(tx, &device, new_row, told)?;
            if spilled == Some(new_row) {
                moves.number(cx.now_ms);
            }
            let own = if call.rooms_told { call.position } else { moves.head };
            let presence = since.as_ref().and_then(|since| since.presence);
            let next = SyncToken {
                moves: call.position,
                own,
                user: Some(mark(cx.id)),
                presence,
                spilled,
                rooms,
                typing_until: self.typing.borrow().until_ms(&typing, cx.now_ms),
                typing,
                to_device: None,
                keys: None,
            };
            Ok((next, moves.own_head, moves.all_data_head, remembered))
        })?;
        // A token that is too old, or not of this stream, has its rooms told anew, and so everything else.
        let known_since = since.clone();
        let own = since.filter(|since| remembered && since.own <= next.own).map_or(0, |since| since.own);
        let (mut invited, mut knocked) = (Vec::new(), Vec::new());
        if own_head > own {
            invited = stripped(&**tx, "invite", own)?;
            // «Invite events for this user already in the database MUST NOT be served».
            if !invited.is_empty() && super::ask_invite::blocks_invites(&**tx)? {
                invited.clear();
            }
            if !invited.is_empty() {
                // «Servers must not send room invites from ignored users to clients».
                let ignored = ignored_users(&**tx, cx)?;
                invited.retain(|room| inviter(room.state.get(), cx.id).is_none_or(|user| !ignored.contains(&user)));
            }
            knocked = stripped(&**tx, "knock", own)?;
        }
        let news = own == 0 || own_head > own || call.rooms.iter().any(|read| read.anew);
        let (account_data, room_account_data) =
            if news { account_data::news(&**tx, cx, (own, data_head), &call)? } else { (Vec::new(), Vec::new()) };
        let mut presence = Vec::new();
        if let Some(asked) = &call.presence {
            (presence, next.presence) = self.presence_news(tx, cx, asked, next.presence)?;
        }
        let mut to_device = Vec::new();
        if call.without_messages {
            let had = self.had(&**tx, known_since.as_ref())?;
            next.to_device = (had != next.own).then_some(had);
        } else {
            (to_device, next.to_device) = self.to_device_news(&**tx, &device, known_since.as_ref(), next.own)?;
        }
        let keys = store::keys::counts(&**tx, &device)?;
        next.keys = Some(keys.clone());
        // A device that begins anew asks for everything by itself.
        let device_lists = match call.since {
            Some(_) if own_head > own => own_changed(&**tx, cx, own)?,
            _ => Vec::new(),
        };
        Ok(Closed {
            next_batch: next.to_string(),
            invited,
            knocked,
            account_data,
            room_account_data,
            presence,
            to_device,
            keys,
            device_lists,
        })
    }

    pub(super) fn position_in(&self, sql: &dyn Sql, cx: &Cx<'_>, call: PositionIn) -> Result<u64, Error> {
        let Some(room) = store::rooms::by_id(sql, call.room_id.as_str())? else {
            // A room that is read from outside, if there is one: both streams count the milliseconds, whosever it is.
            return Ok(call.token.parse::<SyncToken>()?.moves);
        };
        let token = SyncToken::of(cx.id, &call.token)?;
        let exceptions = self.exceptions(sql, &token)?;
        if let Some(reached) = exceptions.as_ref().and_then(|rooms| rooms.get(room.number)) {
            return Ok(reached.position);
        }
        self.with_moves(sql, |moves| {
            if exceptions.is_none() || !moves.remembers(token.moves) {
                // What was read of the room is not known any more; how far the stream had come, is.
                return Ok(token.moves);
            }
            let told = moves.told_at(room.number, token.moves);
            let followed = (room.membership == "join") == (room.changed <= token.moves);
            if followed && told > 0 {
                return Ok(told);
            }
            // Who was not in the room read nothing of it. The token is from after the user's last news, and from before
            // the room's next: a page that begins there has all that it should, and perhaps more.
            let earliest = told.max(token.moves);
            let latest = moves.next_up_to(room.number, token.moves).map(|up_to| up_to.saturating_sub(1));
            Ok(match (latest, call.reading) {
                (Some(latest), Some(Direction::Backwards)) => latest,
                (latest, _) => earliest.min(latest.unwrap_or(earliest)),
            })
        })
    }
}

/// The number of keys that a device had left when it got a sync token: what changed since would have been news.
pub fn keys_left(token: &str) -> KeyCounts {
    token.parse::<SyncToken>().ok().and_then(|token| token.keys).unwrap_or_default()
}

/// Until when at most those type whom a device saw typing with its last sync, in milliseconds since the Unix epoch: who
/// no longer does is news that nobody tells. `None`: it saw nobody.
pub fn typing_until(token: &str) -> Option<u64> {
    token.parse::<SyncToken>().ok().and_then(|token| token.typing_until)
}

/// A filter that is not there is a wrong parameter of a sync: that nothing was found would say that there is no sync.
fn unknown_filter(error: Error) -> Error {
    match error {
        Error::Refused(Refusal::NotFound(message)) => Refusal::InvalidParam(message).into(),
        error => error,
    }
}

/// The rooms of a first sync.
fn first_rooms(sql: &dyn Sql, include_leave: bool) -> Result<Vec<PlannedRoom>, Error> {
    let mut rooms = store::rooms::with_membership(sql, "join")?;
    if include_leave {
        rooms.extend(store::rooms::with_membership(sql, "leave")?);
        rooms.extend(store::rooms::with_membership(sql, "ban")?);
    }
    Ok(rooms.into_iter().filter_map(|room| planned(room, None)).collect())
}

/// Whether a stored filter asks for the rooms left. It was valid when it was stored.
fn includes_leave(filter: &RawValue) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Filter {
        room: RoomFilter,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct RoomFilter {
        include_leave: bool,
    }
    serde_json::from_str::<Filter>(filter.get()).is_ok_and(|filter| filter.room.include_leave)
}

fn planned(room: KnownRoom, from: Option<u64>) -> Option<PlannedRoom> {
    Some(PlannedRoom {
        number: room.number,
        gone: room.is_gone(),
        room_id: OwnedRoomId::try_from(room.room_id).ok()?,
        from,
        typing: PlannedTyping::default(),
        end: None,
        has_account_data: false,
    })
}

/// A room that the user is in no longer, with what ended an invitation to it, or a knock on it.
fn planned_end(sql: &dyn Sql, room: KnownRoom, from: Option<u64>) -> Result<Option<PlannedRoom>, Error> {
    let end = store::rooms::stripped_state(sql, &room.room_id, &room.membership)?;
    let end = end.map(RawValue::from_string).transpose()?;
    Ok(planned(room, from).map(|planned| PlannedRoom { end, ..planned }))
}

/// The rooms of an incremental sync: moved since the token, owed from before it, left since, with others typing, or
/// with account data: a client takes a room for read that is told without what is unread.
fn moved_rooms(
    sql: &dyn Sql,
    moves: &Moves,
    since: &SyncToken,
    exceptions: Option<&Exceptions>,
    typing: &[u64],
    full_state: bool,
) -> Result<Vec<PlannedRoom>, Error> {
    let Some(exceptions) = exceptions.filter(|_| moves.remembers(since.moves)) else {
        // Too old, or not of this stream: everything again, with whole state. What was left meanwhile is told as left.
        let mut again = Vec::new();
        for room in store::rooms::all(sql)? {
            let changed = room.changed > since.moves;
            again.extend(match room.membership.as_str() {
                // From before the first event: what the device knows of the room has a gap.
                "join" => planned(room, (!changed).then_some(0)),
                // Left before the first event, so that the leave is news.
                store::rooms::FORGOTTEN if changed => planned(room, Some(0)),
                _ if room.is_gone() && changed => planned_end(sql, room, None)?,
                _ => None,
            });
        }
        return Ok(again);
    };
    let moved = moves.since(since.moves);
    let with_data =
        if moves.data_head > since.own { store::account_data::rooms_since(sql, since.own)? } else { HashSet::new() };
    let wanted: HashSet<u64> = moved
        .keys()
        .copied()
        .chain(exceptions.owed())
        .chain(typing.iter().copied())
        .chain(with_data.iter().copied())
        .collect();
    if wanted.is_empty() && !full_state {
        return Ok(Vec::new());
    }
    let mut plan = Vec::new();
    let rooms = if full_state { store::rooms::all(sql)? } else { store::rooms::numbered(sql, &wanted)? };
    for room in rooms {
        let joined = room.membership == "join";
        if !(wanted.contains(&room.number) || joined) {
            continue;
        }
        let read = exceptions
            .get(room.number)
            .map(|reached| reached.position)
            .or_else(|| moved.get(&room.number).copied())
            .unwrap_or_else(|| moves.told(room.number));
        if joined {
            // Joined since: the device starts afresh.
            let from = (room.changed <= since.moves).then_some(read);
            let has_account_data = with_data.contains(&room.number);
            plan.extend(planned(room, from).map(|planned| PlannedRoom { has_account_data, ..planned }));
        } else if room.is_gone() && (room.changed > since.moves || exceptions.get(room.number).is_some()) {
            plan.extend(planned_end(sql, room, Some(read))?);
        }
    }
    Ok(plan)
}

fn stripped(sql: &dyn Sql, membership: &str, since: u64) -> Result<Vec<StrippedRoom>, Error> {
    store::rooms::stripped_since(sql, membership, since)?
        .into_iter()
        .map(|(room_id, state)| Ok(StrippedRoom { room_id, state: RawValue::from_string(state)? }))
        .collect()
}
