//! What a client asks of a sliding sync. It is taken in both forms that there are: the one of today's clients, and
//! that of the proposal as it stands. Every part has a bound.

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    room::{RequiredState, Selection, StatePattern},
    user::{
        ListFilters, Passed, RoomConfig, Scope, SlidingExtensions, SlidingList, SlidingPlan, SyncPresence,
        WantedMessages,
    },
};
use bytes::Bytes;
use domain::Refusal;
use http::Request;
use js_int::UInt;
use ruma_common::{OwnedRoomId, UserId, directory::RoomTypeFilter, presence::PresenceState};
use serde::Deserialize;

use super::super::TIMEOUT_MAX;
use crate::{
    Bearer,
    router::{json_or_default, null_or, query},
};

/// «Max lists: 100.»
const LISTS_MAX: usize = 100;
const RANGES_MAX: usize = 100;
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Patterns of state in one place.
const PATTERNS_MAX: usize = 200;
/// What all patterns of state of a request may have together, in bytes; those that several places have in common count
/// once. A room may be in many lists, and then has the patterns of all of them.
const STATES_BYTES_MAX: usize = 64 * 1024;
/// What a pattern has besides its texts.
const PATTERN_BYTES: usize = 32;
/// Values in a filter, or a scope.
const VALUES_MAX: usize = 1_000;
/// The longest name, in bytes: of a list, an event type, a tag.
const NAME_BYTES_MAX: usize = 255;
/// The longest `conn_id` and `txn_id`, in bytes.
const CONN_ID_BYTES_MAX: usize = 64;
const TXN_ID_BYTES_MAX: usize = 255;

const MEMBER: &str = "m.room.member";

/// A request.
pub(super) struct Asked {
    pub pos: Option<String>,
    pub timeout_ms: u64,
    pub set_presence: PresenceState,
    pub txn_id: Option<String>,
    body: AskedBody,
}

/// These stand in the query, or in the body.
#[derive(Default, Deserialize)]
struct Position {
    pos: Option<String>,
    timeout: Option<UInt>,
    set_presence: Option<PresenceState>,
}

#[derive(Default, Deserialize)]
struct AskedBody {
    #[serde(flatten)]
    position: Position,
    conn_id: Option<String>,
    txn_id: Option<String>,
    #[serde(default, deserialize_with = "null_or")]
    lists: BTreeMap<String, AskedList>,
    #[serde(default, deserialize_with = "null_or")]
    room_subscriptions: BTreeMap<OwnedRoomId, AskedRoom>,
    #[serde(default, deserialize_with = "null_or")]
    extensions: AskedExtensions,
}

#[derive(Deserialize)]
struct AskedList {
    #[serde(flatten)]
    room: AskedRoom,
    ranges: Option<Vec<(UInt, UInt)>>,
    range: Option<(UInt, UInt)>,
    #[serde(default, deserialize_with = "null_or")]
    filters: AskedFilters,
}

#[derive(Deserialize)]
struct AskedRoom {
    timeline_limit: UInt,
    #[serde(default, deserialize_with = "null_or")]
    required_state: AskedState,
}

/// Pairs of a type and a state key with signs for some, or what is included and what is not.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
enum AskedState {
    Pairs(Vec<(String, String)>),
    Patterns {
        #[serde(default, deserialize_with = "null_or")]
        include: Vec<StatePattern>,
        #[serde(default, deserialize_with = "null_or")]
        exclude: Vec<StatePattern>,
        #[serde(default, deserialize_with = "null_or")]
        lazy_members: bool,
    },
}

impl Default for AskedState {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

#[derive(Default, Deserialize)]
struct AskedFilters {
    is_dm: Option<bool>,
    is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    is_invite: Option<bool>,
    room_types: Option<Vec<RoomTypeFilter>>,
    #[serde(default, deserialize_with = "null_or")]
    not_room_types: Vec<RoomTypeFilter>,
    spaces: Option<Vec<OwnedRoomId>>,
    tags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_or")]
    not_tags: Vec<String>,
}

#[derive(Default, Deserialize)]
struct AskedExtensions {
    #[serde(default, deserialize_with = "null_or")]
    to_device: AskedExtension,
    #[serde(default, deserialize_with = "null_or")]
    e2ee: AskedExtension,
    #[serde(default, deserialize_with = "null_or")]
    account_data: AskedExtension,
    #[serde(default, deserialize_with = "null_or")]
    receipts: AskedExtension,
    #[serde(default, deserialize_with = "null_or")]
    typing: AskedExtension,
}

/// Each extension looks at its own fields.
#[derive(Default, Deserialize)]
struct AskedExtension {
    #[serde(default, deserialize_with = "null_or")]
    enabled: bool,
    since: Option<String>,
    limit: Option<UInt>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl Asked {
    /// Refused: `BadJson`, `InvalidParam` for what is too much.
    pub(super) fn of(request: &Request<Bytes>) -> Result<Self, Refusal> {
        let asked: Position = query(request)?;
        let mut body: AskedBody = json_or_default(request.body())?;
        let in_body = std::mem::take(&mut body.position);
        let timeout = asked.timeout.or(in_body.timeout).map_or(0, u64::from);
        let timeout_max = u64::try_from(TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
        body.check()?;
        Ok(Self {
            pos: asked.pos.or(in_body.pos),
            timeout_ms: timeout.min(timeout_max),
            set_presence: asked.set_presence.or(in_body.set_presence).unwrap_or_default(),
            txn_id: body.txn_id.take(),
            body,
        })
    }

    pub(super) fn plan(self, bearer: &Bearer, ip: Option<String>, presence: Option<SyncPresence>) -> SlidingPlan {
        let AskedBody { conn_id, lists, room_subscriptions, extensions, .. } = self.body;
        let user_id = &bearer.user_id;
        SlidingPlan {
            token_hash: bearer.token_hash.clone(),
            conn_id: conn_id.unwrap_or_default(),
            pos: self.pos,
            lists: lists.into_iter().map(|(name, list)| list.named(name, user_id)).collect(),
            subscriptions: room_subscriptions.into_iter().map(|(id, room)| (id, room.config(user_id))).collect(),
            extensions: extensions.wanted(),
            ip,
            presence,
            passed: Passed::default(),
            request: String::new(),
            goes_on: false,
        }
    }
}

impl AskedBody {
    fn check(&self) -> Result<(), Refusal> {
        at_most("bytes of `conn_id`", self.conn_id.as_ref().map_or(0, String::len), CONN_ID_BYTES_MAX)?;
        at_most("bytes of `txn_id`", self.txn_id.as_ref().map_or(0, String::len), TXN_ID_BYTES_MAX)?;
        at_most("lists", self.lists.len(), LISTS_MAX)?;
        at_most("subscriptions", self.room_subscriptions.len(), SUBSCRIPTIONS_MAX)?;
        for (name, list) in &self.lists {
            at_most("bytes of a list's name", name.len(), NAME_BYTES_MAX)?;
            at_most("ranges", list.ranges.as_ref().map_or(0, Vec::len), RANGES_MAX)?;
            list.filters.check()?;
            list.room.check()?;
        }
        self.room_subscriptions.values().try_for_each(AskedRoom::check)?;
        let rooms = self.lists.values().map(|list| &list.room).chain(self.room_subscriptions.values());
        let states: BTreeSet<&AskedState> = rooms.map(|room| &room.required_state).collect();
        let bytes = states.into_iter().fold(0_usize, |bytes, state| bytes.saturating_add(state.bytes()));
        at_most("bytes of entries in different `required_state`s", bytes, STATES_BYTES_MAX)?;
        let spaces: BTreeSet<&OwnedRoomId> =
            self.lists.values().filter_map(|list| list.filters.spaces.as_ref()).flatten().collect();
        at_most("spaces in all lists", spaces.len(), super::SPACES_MAX)?;
        let AskedExtensions { to_device, e2ee, account_data, receipts, typing } = &self.extensions;
        for AskedExtension { since, lists, rooms, .. } in [to_device, e2ee, account_data, receipts, typing] {
            at_most("bytes of `since`", since.as_ref().map_or(0, String::len), NAME_BYTES_MAX)?;
            let values = [lists, rooms];
            values.into_iter().flatten().try_for_each(|values| names("values", values))?;
        }
        Ok(())
    }
}

impl AskedRoom {
    fn check(&self) -> Result<(), Refusal> {
        let long = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let longest = match &self.required_state {
            AskedState::Pairs(pairs) => {
                at_most("entries of `required_state`", pairs.len(), PATTERNS_MAX)?;
                pairs.iter().map(|(event_type, state_key)| event_type.len().max(state_key.len())).max()
            }
            AskedState::Patterns { include, exclude, .. } => {
                // Each of the former is held together with all of the latter.
                at_most(
                    "entries of `required_state`",
                    include.len().max(1).saturating_mul(exclude.len().max(1)),
                    PATTERNS_MAX,
                )?;
                let patterns = include.iter().chain(exclude);
                patterns.map(|pattern| long(&pattern.event_type).max(long(&pattern.state_key))).max()
            }
        };
        at_most("bytes of an entry of `required_state`", longest.unwrap_or(0), NAME_BYTES_MAX)
    }

    fn config(self, user_id: &UserId) -> RoomConfig {
        RoomConfig { timeline_limit: self.timeline_limit.into(), required: self.required_state.required(user_id) }
    }
}

impl AskedState {
    /// How much it asks for.
    fn bytes(&self) -> usize {
        let sum = |bytes: usize, more: usize| bytes.saturating_add(more).saturating_add(PATTERN_BYTES);
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let of = |pattern: &StatePattern| length(&pattern.event_type).saturating_add(length(&pattern.state_key));
        match self {
            Self::Pairs(pairs) => {
                let pairs =
                    pairs.iter().map(|(event_type, state_key)| event_type.len().saturating_add(state_key.len()));
                pairs.fold(0, sum)
            }
            Self::Patterns { include, exclude, .. } => {
                // Each of the former is held together with all of the latter.
                let excluded = exclude.iter().map(of).fold(0, sum);
                include.iter().map(|pattern| of(pattern).saturating_add(excluded)).fold(0, sum)
            }
        }
    }

    fn required(self, user_id: &UserId) -> RequiredState {
        let (include, exclude, lazy_members) = match self {
            Self::Patterns { include, exclude, lazy_members } => (include, exclude, lazy_members),
            Self::Pairs(pairs) => {
                let is_lazy = |(event_type, state_key): &(String, String)| event_type == MEMBER && state_key == "$LAZY";
                let lazy_members = pairs.iter().any(is_lazy);
                let any = |text: String| match &*text {
                    "*" => None,
                    "$ME" => Some(user_id.to_string()),
                    _ => Some(text),
                };
                let include = pairs.into_iter().filter(|pair| !is_lazy(pair));
                let include = include.map(|(event_type, state_key)| StatePattern {
                    event_type: any(event_type),
                    state_key: any(state_key),
                });
                (include.collect(), Vec::new(), lazy_members)
            }
        };
        let exclude: BTreeSet<StatePattern> = exclude.into_iter().collect();
        let selection = |include: StatePattern| {
            let mut exclude = exclude.clone();
            // Members that are loaded lazily are not wanted because everything is.
            if lazy_members && include.event_type.is_none() {
                exclude.insert(StatePattern { event_type: Some(MEMBER.to_owned()), state_key: None });
            }
            Selection { include, exclude }
        };
        RequiredState { selections: include.into_iter().map(selection).collect(), lazy_members }
    }
}

impl AskedList {
    fn named(self, name: String, user_id: &UserId) -> SlidingList {
        let ranges = match (self.ranges, self.range) {
            (None, None) => None,
            (ranges, range) => Some(ranges.into_iter().flatten().chain(range)),
        };
        let ranges = ranges.map(|ranges| ranges.map(|(from, to)| (from.into(), to.into())).collect());
        SlidingList { name, ranges, filters: self.filters.wanted(), config: self.room.config(user_id) }
    }
}

impl AskedFilters {
    fn check(&self) -> Result<(), Refusal> {
        let Self { room_types, not_room_types, spaces, tags, not_tags, .. } = self;
        at_most("types of rooms", room_types.as_ref().map_or(0, Vec::len).max(not_room_types.len()), VALUES_MAX)?;
        at_most("spaces", spaces.as_ref().map_or(0, Vec::len), super::SPACES_MAX)?;
        names("tags", tags.as_deref().unwrap_or_default())?;
        names("tags", not_tags)
    }

    fn wanted(self) -> ListFilters {
        let types = |types: Vec<RoomTypeFilter>| {
            let of = |wanted: RoomTypeFilter| match wanted {
                RoomTypeFilter::Default => None,
                wanted => wanted.as_str().map(ToOwned::to_owned),
            };
            types.into_iter().map(of).collect::<Vec<_>>()
        };
        ListFilters {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invite: self.is_invite,
            // Clients that want no type in particular send an empty list.
            room_types: self.room_types.filter(|types| !types.is_empty()).map(types),
            not_room_types: types(self.not_room_types),
            within: self.spaces,
            tags: self.tags,
            not_tags: self.not_tags,
        }
    }
}

impl AskedExtensions {
    fn wanted(self) -> SlidingExtensions {
        let scope = |asked: AskedExtension| asked.enabled.then_some(Scope { lists: asked.lists, rooms: asked.rooms });
        let AskedExtension { enabled, since, limit, .. } = self.to_device;
        SlidingExtensions {
            to_device: enabled.then(|| WantedMessages { since, limit: limit.map(u64::from) }),
            e2ee: self.e2ee.enabled,
            account_data: scope(self.account_data),
            receipts: scope(self.receipts),
            typing: scope(self.typing),
        }
    }
}

fn names(what: &str, names: &[String]) -> Result<(), Refusal> {
    at_most(what, names.len(), VALUES_MAX)?;
    at_most("bytes of a value", names.iter().map(String::len).max().unwrap_or(0), NAME_BYTES_MAX)
}

fn at_most(what: &str, count: usize, max: usize) -> Result<(), Refusal> {
    if count > max {
        return Err(Refusal::InvalidParam(format!("There are {count} {what}, where there may be {max}")));
    }
    Ok(())
}
