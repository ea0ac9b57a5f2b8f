//! What the service is told as well as that goes: who types, and how users are. In memory only, and by current value.
//!
//! It is told in a transaction of its own, once, when nothing is owed that may not get lost: it costs no written row.
//! What does not get there is told when it changes. Spec: Application Service API, "Pushing ephemeral data".

use std::collections::{BTreeMap, BTreeSet};

use platform::{ActorKind, Tx};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::Appservice;
use crate::{Call, Cx, Error, presence::Presence};

/// The most users whose presence waits, and the most rooms in which somebody types: of more, those that come last are
/// not told of.
const WAITING_MAX: usize = 1_000;
/// The most in one transaction.
const EVENTS_MAX: usize = 100;

/// Who types in a room, if anybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TypingChanged {
    pub room_id: OwnedRoomId,
    pub users: Vec<TypingUser>,
}

/// One who types.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TypingUser {
    pub user: OwnedUserId,
    /// In milliseconds since the Unix epoch: then they stopped, if nothing else is told.
    pub until_ms: u64,
}

/// How users are: the newest takes the place of what waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PresenceChanged {
    pub presences: Vec<Presence>,
}

impl Call for TypingChanged {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "typing_changed";
    type Reply = ();
}

impl Call for PresenceChanged {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "presence_changed";
    type Reply = ();
}

#[derive(Default)]
pub(super) struct Passing {
    typing: BTreeMap<OwnedRoomId, Typing>,
    presences: BTreeMap<OwnedUserId, Waiting>,
}

/// Who types in a room, and who does as the service was told.
#[derive(Default)]
struct Typing {
    users: BTreeMap<OwnedUserId, u64>,
    told: BTreeSet<OwnedUserId>,
}

impl Typing {
    fn is_untold(&self) -> bool {
        !self.users.keys().eq(self.told.iter())
    }
}

/// How somebody is, and whether the service was told: rooms say the same one after the other.
struct Waiting {
    presence: Presence,
    is_told: bool,
}

impl Passing {
    pub(super) fn waits(&self) -> bool {
        self.typing.values().any(Typing::is_untold) || self.presences.values().any(|waiting| !waiting.is_told)
    }

    /// Those whose time is over no longer type. Answers when that is so of the next one.
    fn expire(&mut self, now_ms: u64) -> Option<u64> {
        for typing in self.typing.values_mut() {
            typing.users.retain(|_, until_ms| *until_ms > now_ms);
        }
        self.typing.retain(|_, typing| !typing.users.is_empty() || typing.is_untold());
        self.typing.values().flat_map(|typing| typing.users.values().copied()).min()
    }

    fn types(&mut self, call: TypingChanged) {
        if self.typing.len() < WAITING_MAX || self.typing.contains_key(&call.room_id) {
            let users = call.users.into_iter().map(|typing| (typing.user, typing.until_ms)).collect();
            self.typing.entry(call.room_id).or_default().users = users;
        }
    }

    fn is(&mut self, presence: Presence) {
        if self.presences.len() >= WAITING_MAX && !self.presences.contains_key(&presence.user) {
            self.presences.retain(|_, waiting| !waiting.is_told);
        }
        let is_news = match self.presences.get(&presence.user) {
            Some(known) => presence.is_newer_than(&known.presence),
            None => self.presences.len() < WAITING_MAX,
        };
        if is_news {
            self.presences.insert(presence.user.clone(), Waiting { presence, is_told: false });
        }
    }

    /// Some of what waits, as events: from now on it counts as told.
    pub(super) fn take(&mut self, now_ms: u64) -> serde_json::Result<Vec<Box<RawValue>>> {
        #[derive(Serialize)]
        struct Event<'a> {
            #[serde(rename = "type")]
            event_type: &'static str,
            room_id: &'a OwnedRoomId,
            content: Content<'a>,
        }
        #[derive(Serialize)]
        struct Content<'a> {
            user_ids: Vec<&'a OwnedUserId>,
        }
        let mut events = Vec::new();
        for (room_id, typing) in self.typing.iter_mut().filter(|(_, typing)| typing.is_untold()).take(EVENTS_MAX) {
            let content = Content { user_ids: typing.users.keys().collect() };
            events.push(to_raw_value(&Event { event_type: "m.typing", room_id, content })?);
            typing.told = typing.users.keys().cloned().collect();
        }
        let left = EVENTS_MAX.saturating_sub(events.len());
        for waiting in self.presences.values_mut().filter(|waiting| !waiting.is_told).take(left) {
            events.push(waiting.presence.to_event(now_ms)?);
            waiting.is_told = true;
        }
        Ok(events)
    }
}

impl Appservice {
    pub(super) fn typing_changed(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: TypingChanged) -> Result<(), Error> {
        self.passing.borrow_mut().types(call);
        self.look_who_types(tx, cx)
    }

    pub(super) fn presence_changed(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: PresenceChanged) -> Result<(), Error> {
        let mut passing = self.passing.borrow_mut();
        call.presences.into_iter().for_each(|presence| passing.is(presence));
        let waits = passing.waits();
        drop(passing);
        if waits { self.find_a_carrier(tx, cx, false) } else { Ok(()) }
    }

    /// Tells of those who came or whose time is over, and looks again when the next one's is.
    pub(super) fn look_who_types(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let mut passing = self.passing.borrow_mut();
        let next_ms = passing.expire(cx.now_ms);
        let waits = passing.waits();
        drop(passing);
        if let Some(next_ms) = next_ms {
            cx.set_alarm(next_ms)?;
        }
        if waits { self.find_a_carrier(tx, cx, false) } else { Ok(()) }
    }
}
