//! Who may see what, written from the specification's section "Room History Visibility" alone, and from what it says of
//! each endpoint: slow, and with nothing of how the server does it.

use std::collections::BTreeMap;

use ruma_common::{RoomId, UserId};
use serde_json::Value;

use crate::world::World;
use platform::{ActorKind, Address};

/// All that ever happened in a room, as it lies in the database.
pub(super) struct Log(Vec<Entry>);

pub(super) struct Entry {
    pub position: u64,
    pub event_id: String,
    pub event_type: String,
    pub state_key: Option<String>,
    pub json: String,
    /// The content of a state event, and nothing of others.
    content: Value,
}

impl Entry {
    pub(super) fn membership(&self) -> Option<&str> {
        if self.event_type == "m.room.member" { self.content["membership"].as_str() } else { None }
    }
}

/// How much of the room's state a user may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Nothing,
    /// As it was after this entry.
    At(usize),
}

/// What one user may see of a room.
pub(super) struct View {
    /// For each entry, whether it may be read.
    pub reads: Vec<bool>,
    /// For each entry, whether the state after it may be read, and whom it has as members.
    pub reads_state: Vec<bool>,
    pub state: State,
    pub is_joined: bool,
    pub is_world_readable: bool,
}

/// «Depend on the state of the room at that event».
#[derive(Clone)]
struct At {
    setting: String,
    membership: String,
}

impl At {
    fn allows(&self, joins_later: bool) -> bool {
        match (self.setting.as_str(), self.membership.as_str()) {
            // «1. If the history_visibility was set to world_readable, allow.»
            ("world_readable", _) => true,
            // «2. If the user's membership was join, allow.»
            (_, "join") => true,
            // «3. If history_visibility was set to shared, and the user joined the room at any point after the event
            // was sent, allow.»
            ("shared", _) => joins_later,
            // «4. If the user's membership was invite, and the history_visibility was set to invited, allow.»
            ("invited", "invite") => true,
            // «5. Otherwise, deny.»
            _ => false,
        }
    }
}

impl Log {
    pub(super) fn of(world: &World, room_id: &RoomId) -> Self {
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let all = "SELECT position, event_id, type, state_key, json FROM event ORDER BY position";
        let entries = platform::Sql::query(&*sql, all, &[]).unwrap().into_iter().map(|mut row| {
            let (state_key, json) = (row.text_or_null(3).unwrap(), row.text(4).unwrap());
            let event = state_key.as_ref().map(|_| serde_json::from_str::<Value>(&json).unwrap());
            Entry {
                position: row.unsigned(0).unwrap(),
                event_id: row.text(1).unwrap(),
                event_type: row.text(2).unwrap(),
                content: event.map(|mut event| event["content"].take()).unwrap_or_default(),
                state_key,
                json,
            }
        });
        Self(entries.collect())
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The membership that each entry makes of a user, if it is about theirs.
    fn membership_by(&self, index: usize, user: &UserId) -> Option<&str> {
        let entry = &self.0[index];
        entry.membership().filter(|_| entry.state_key.as_deref() == Some(user.as_str()))
    }

    /// Whether an entry is about this user's membership.
    pub(super) fn is_membership_of(&self, index: usize, user: &UserId) -> bool {
        self.membership_by(index, user).is_some()
    }

    /// The state after an entry: the event that makes it, by type and state key.
    pub(super) fn state_after(&self, index: usize) -> BTreeMap<(&str, &str), &Entry> {
        let mut state = BTreeMap::new();
        for entry in &self.0[..=index] {
            if let Some(state_key) = &entry.state_key {
                state.insert((entry.event_type.as_str(), state_key.as_str()), entry);
            }
        }
        state
    }

    /// What a user may see. `forgot_at`: how long the log was when they forgot the room last.
    pub(super) fn view(&self, user: &UserId, forgot_at: Option<usize>) -> View {
        let is_back = |from: usize| {
            (from..self.0.len()).any(|index| !matches!(self.membership_by(index, user), None | Some("leave" | "ban")))
        };
        // «A user will no longer be able to retrieve history for this room»: they are a stranger to it.
        let is_stranger = forgot_at.is_some_and(|from| !is_back(from));
        let membership_by = |index| self.membership_by(index, user).filter(|_| !is_stranger);
        let mut at = At { setting: "shared".to_owned(), membership: "leave".to_owned() };
        let (mut before, mut after, mut joins) = (Vec::new(), Vec::new(), Vec::new());
        let mut left_at = None;
        for (index, entry) in self.0.iter().enumerate() {
            before.push(at.clone());
            if entry.event_type == "m.room.history_visibility" && entry.state_key.as_deref() == Some("") {
                // «If no history_visibility is set, or if the value is not understood, [it] is assumed to be shared.»
                let setting = entry.content["history_visibility"].as_str().unwrap_or_default();
                let known = ["world_readable", "shared", "invited", "joined"].contains(&setting);
                at.setting = if known { setting } else { "shared" }.to_owned();
            }
            let becomes = membership_by(index).unwrap_or(&at.membership).to_owned();
            joins.push(becomes == "join" && at.membership != "join");
            if at.membership == "join" && becomes != "join" {
                left_at = Some(index);
            }
            at.membership = becomes;
            after.push(at.clone());
        }
        let joins_later = |index: usize| joins[index..].contains(&true);
        let from_either_side =
            |index: usize| before[index].allows(joins_later(index)) || after[index].allows(joins_later(index));
        let reads = self.0.iter().enumerate().map(|(index, entry)| {
            // «The history_visibility before *or* after the event»; «their membership before *or* after the event».
            let is_change = entry.event_type == "m.room.history_visibility" || membership_by(index).is_some();
            if is_change { from_either_side(index) } else { after[index].allows(joins_later(index)) }
        });
        let (is_joined, is_world_readable) = (at.membership == "join", at.setting == "world_readable");
        let last = self.0.len() - 1;
        let state = match left_at {
            _ if is_joined || is_world_readable => State::At(last),
            // «If the user has left the room then the state is taken from the state of the room when they left.»
            Some(left_at) => State::At(left_at),
            None => State::Nothing,
        };
        // The state that one came into is told to who came: the `prev_batch` of a first timeline names it, the position
        // before that of the coming.
        let comes_next = |index: usize| {
            let (position, next) = (self.0[index].position, index + 1);
            self.0.get(next).is_some_and(|entry| entry.position == position + 1)
                && membership_by(next).is_some()
                && after[next].allows(joins_later(next))
        };
        let reads_state = (0..self.0.len()).map(|index| from_either_side(index) || comes_next(index));
        View { reads: reads.collect(), reads_state: reads_state.collect(), state, is_joined, is_world_readable }
    }
}
