//! Every way to read a room, tried by somebody: it shows what the specification lets them see, all of it and no more,
//! and of what was redacted nothing.

use std::collections::BTreeSet;

use domain::Refusal;
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, value::RawValue};

use super::{
    Story,
    visibility::{Entry, Log, State, View},
};
use crate::{
    CallError,
    room::{self, Direction, EventFilter},
};

/// The most events that a context has.
const CONTEXT_EVENTS: u64 = 5;

/// Somebody who reads a room, and what they should find.
struct Reader<'a> {
    story: &'a Story,
    user: OwnedUserId,
    room_id: OwnedRoomId,
    log: Log,
    view: View,
}

impl Story {
    /// Whoever reads a room finds what they should.
    pub(super) fn is_read_truly(&self, user: &UserId, room_id: &RoomId) {
        let reader = self.reader(user, room_id);
        reader.pages_through();
        reader.looks_at_state();
        reader.looks_at_members();
        for entry in reader.log.entries() {
            reader.looks_at(entry);
        }
        for _ in 0..3 {
            let index = self.world.dice.roll(reader.log.entries().len() as u64) as usize;
            reader.looks_around(index);
            reader.looks_at_members_then(index);
            reader.looks_for_time(index);
        }
        for entry in reader.log.entries() {
            reader.is_without_redacted(&entry.json);
        }
    }

    /// What a sync shows somebody of a room is theirs to see.
    pub(super) fn is_synced_truly(&self, user: &UserId, room_id: &RoomId, room: &RawValue) {
        let reader = self.reader(user, room_id);
        reader.is_without_redacted(room.get());
        let room: Value = serde_json::from_str(room.get()).unwrap();
        for event in room["timeline"]["events"].as_array().unwrap() {
            let index = reader.index_of(event);
            let entry = &reader.log.entries()[index];
            // That they are out they are told in any case.
            let is_own = entry.event_type == "m.room.member" && entry.state_key.as_deref() == Some(user.as_str());
            assert!(reader.view.reads[index] || is_own, "{user} is synced {}", entry.json);
            reader.is_shown_truly(event);
        }
        for event in room["state"]["events"].as_array().unwrap() {
            let is_seen = matches!(reader.view.state, State::At(last) if reader.index_of(event) <= last);
            assert!(is_seen, "{user} is synced the state {event}");
            reader.is_shown_truly(event);
        }
    }

    /// Nothing that was redacted in the room is in what somebody is shown.
    pub(super) fn is_without_redacted(&self, room_id: &RoomId, shown: &str) {
        let redacted = self.redacted.get(room_id).map_or(&[][..], Vec::as_slice);
        let found = redacted.iter().find(|secret| shown.contains(*secret));
        assert_eq!(found, None, "redacted and still there: {shown}");
    }

    fn reader(&self, user: &UserId, room_id: &RoomId) -> Reader<'_> {
        let log = Log::of(&self.world, room_id);
        let forgot_at = self.forgotten.get(&(room_id.to_owned(), user.to_owned())).copied();
        let view = log.view(user, forgot_at);
        Reader { story: self, user: user.to_owned(), room_id: room_id.to_owned(), log, view }
    }
}

fn is_forbidden<T>(outcome: &Result<T, CallError>) -> bool {
    matches!(outcome, Err(CallError::Refused(Refusal::Forbidden(_))))
}

fn is_not_found<T>(outcome: &Result<T, CallError>) -> bool {
    matches!(outcome, Err(CallError::Refused(Refusal::NotFound(_))))
}

fn parsed(events: &[Box<RawValue>]) -> Vec<Value> {
    events.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect()
}

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

fn time(entry: &Entry) -> u64 {
    serde_json::from_str::<Value>(&entry.json).unwrap()["origin_server_ts"].as_u64().unwrap()
}

impl Reader<'_> {
    fn calls<C: crate::Call>(&self, call: &C) -> Result<C::Reply, CallError> {
        self.story.world.call(self.room_id.as_str(), call)
    }

    fn index_of(&self, event: &Value) -> usize {
        self.index_of_id(event["event_id"].as_str().unwrap())
    }

    fn index_of_id(&self, event_id: &str) -> usize {
        self.log.entries().iter().position(|entry| entry.event_id == event_id).unwrap()
    }

    fn readable(&self) -> Vec<&str> {
        let entries = self.log.entries().iter().zip(&self.view.reads);
        entries.filter(|(_, reads)| **reads).map(|(entry, _)| entry.event_id.as_str()).collect()
    }

    fn is_without_redacted(&self, shown: &str) {
        self.story.is_without_redacted(&self.room_id, shown);
    }

    /// What stands inside an event is theirs to see, too.
    fn is_shown_truly(&self, event: &Value) {
        self.is_without_redacted(&event.to_string());
        let unsigned = &event["unsigned"];
        if !unsigned["prev_content"].is_null() {
            let replaced = self.index_of_id(unsigned["replaces_state"].as_str().unwrap());
            let is_seen = self.view.reads[replaced] || self.reads_state_before(self.index_of(event));
            assert!(is_seen, "{} sees what was replaced in {event}", self.user);
        }
        let because = &unsigned["redacted_because"];
        if !because["content"]["reason"].is_null() {
            assert!(self.view.reads[self.index_of(because)], "{} sees why in {event}", self.user);
        }
    }

    /// Whether the state that an event changed is theirs to see, as the one before it left it.
    fn reads_state_before(&self, index: usize) -> bool {
        // Of their own coming, too: receipts may have taken the positions between.
        let comes = self.log.is_membership_of(index, &self.user) && self.view.reads[index];
        comes || index.checked_sub(1).is_some_and(|before| self.view.reads_state[before])
    }

    fn are_shown_truly(&self, events: &[Value]) {
        events.iter().for_each(|event| self.is_shown_truly(event));
    }

    /// `GET …/messages`.
    fn pages_through(&self) {
        for direction in [Direction::Forwards, Direction::Backwards] {
            let limit = 1 + self.story.world.dice.roll(20);
            let mut call = room::Messages {
                user: self.user.clone(),
                device: "ANY".into(),
                ignored: Vec::new(),
                from: None,
                to: None,
                direction,
                filter: EventFilter { limit: Some(limit), ..EventFilter::default() },
                past_gaps: false,
            };
            let mut found = Vec::new();
            loop {
                let page = self.calls(&call);
                if self.view.state == State::Nothing {
                    assert!(is_forbidden(&page), "{} pages through the room", self.user);
                    return;
                }
                let page = page.unwrap();
                found.extend(parsed(&page.chunk));
                let Some(end) = page.end else { break };
                call.from = Some(end.parse::<room::RoomToken>().unwrap().0);
            }
            self.are_shown_truly(&found);
            if direction == Direction::Backwards {
                found.reverse();
            }
            assert_eq!(ids(&found), self.readable(), "{} pages {direction:?}", self.user);
        }
    }

    /// `GET …/event/{eventId}`.
    fn looks_at(&self, entry: &Entry) {
        let event_id = OwnedEventId::try_from(entry.event_id.as_str()).unwrap();
        let found = self.calls(&room::GetEvent {
            user: self.user.clone(),
            device: "ANY".into(),
            ignored: Vec::new(),
            event_id,
        });
        if self.view.reads[self.index_of_id(&entry.event_id)] {
            self.are_shown_truly(&parsed(&[found.unwrap()]));
        } else {
            assert!(is_not_found(&found), "{} sees {}", self.user, entry.json);
        }
    }

    /// `GET …/context/{eventId}`.
    fn looks_around(&self, index: usize) {
        let entry = &self.log.entries()[index];
        let context = self.calls(&room::GetContext {
            user: self.user.clone(),
            device: "ANY".into(),
            ignored: Vec::new(),
            event_id: entry.event_id.as_str().try_into().unwrap(),
            limit: CONTEXT_EVENTS,
            filter: EventFilter::default(),
            past_gaps: false,
        });
        if self.view.state == State::Nothing {
            return assert!(is_forbidden(&context), "{} looks around", self.user);
        }
        if !self.view.reads[index] {
            return assert!(is_not_found(&context), "{} sees {}", self.user, entry.json);
        }
        let context = context.unwrap();
        let mut events = parsed(&context.events_before);
        events.reverse();
        events.extend(parsed(&[context.event]));
        events.extend(parsed(&context.events_after));
        let readable = self.readable();
        let place = readable.iter().position(|id| *id == entry.event_id).unwrap();
        let (before, after) = (CONTEXT_EVENTS as usize / 2, CONTEXT_EVENTS as usize - CONTEXT_EVENTS as usize / 2);
        let expected = &readable[place.saturating_sub(before)..(place + after + 1).min(readable.len())];
        assert_eq!(ids(&events), expected, "{} around {}", self.user, entry.json);
        let state = parsed(&context.state.events);
        self.is_state_after(&state, self.index_of(events.last().unwrap()), |_| true);
        self.are_shown_truly(&events);
        self.are_shown_truly(&state);
    }

    fn is_state_after(&self, state: &[Value], index: usize, wanted: impl Fn(&Entry) -> bool) {
        let shown: BTreeSet<_> = ids(state).into_iter().collect();
        let state = self.log.state_after(index).into_values().filter(|entry| wanted(entry));
        let is: BTreeSet<_> = state.map(|entry| entry.event_id.as_str()).collect();
        assert_eq!(shown, is, "{} sees the state after {}", self.user, self.log.entries()[index].json);
    }

    /// `GET …/state`, and one event of it.
    fn looks_at_state(&self) {
        let state = self.calls(&room::GetState {
            user: self.user.clone(),
            device: "ANY".into(),
            at: None,
            after: None,
            filter: EventFilter::default(),
            synced: None,
        });
        let name = self.calls(&room::GetStateEvent {
            user: self.user.clone(),
            device: "ANY".into(),
            event_type: "m.room.name".into(),
            state_key: String::new(),
        });
        let access = self.calls(&room::GetAccess { user: self.user.clone() }).unwrap();
        assert_eq!((access.joined, access.world_readable), (self.view.is_joined, self.view.is_world_readable));
        let State::At(index) = self.view.state else {
            assert!(is_forbidden(&state) && is_forbidden(&name), "{} sees the state", self.user);
            return;
        };
        let state = parsed(&state.unwrap().events);
        self.is_state_after(&state, index, |_| true);
        self.are_shown_truly(&state);
        match self.log.state_after(index).get(&("m.room.name", "")) {
            Some(entry) => {
                let name = name.unwrap();
                self.is_without_redacted(name.content.get());
                assert_eq!(self.index_of(&parsed(&[name.event])[0]), self.index_of_id(&entry.event_id));
            }
            None => assert!(is_not_found(&name)),
        }
    }

    /// `GET …/joined_members`, and `GET …/members` now.
    fn looks_at_members(&self) {
        self.looks_at_members_at(None, self.log.entries().len() - 1);
        let joined = self.calls(&room::GetJoinedMembers { user: self.user.clone(), appservice: None, after: None });
        if !self.view.is_joined {
            return assert!(is_forbidden(&joined), "{} sees who is joined", self.user);
        }
        let joined = joined.unwrap().joined;
        let state = self.log.state_after(self.log.entries().len() - 1);
        let members = state.values().filter(|entry| entry.membership() == Some("join"));
        let members: Vec<_> = members.map(|entry| entry.state_key.clone().unwrap()).collect();
        assert_eq!(joined.into_keys().collect::<Vec<_>>(), members);
    }

    /// `GET …/members` with `at`.
    fn looks_at_members_then(&self, index: usize) {
        self.looks_at_members_at(Some(self.log.entries()[index].position), index);
    }

    fn looks_at_members_at(&self, at: Option<u64>, index: usize) {
        let members = self.calls(&room::GetMembers {
            user: self.user.clone(),
            device: "ANY".into(),
            at,
            after: None,
            membership: None,
            not_membership: None,
        });
        // Nobody sees later members than those of the state that is theirs to see.
        let index = match self.view.state {
            State::At(last) if index >= last => last,
            State::At(_) if self.view.reads_state[index] => index,
            _ => return assert!(is_forbidden(&members), "{} sees members", self.user),
        };
        let members = parsed(&members.unwrap().events);
        self.is_state_after(&members, index, |entry| entry.event_type == "m.room.member");
        self.are_shown_truly(&members);
    }

    /// `GET …/timestamp_to_event`.
    fn looks_for_time(&self, index: usize) {
        let ts_ms = time(&self.log.entries()[index]);
        for direction in [Direction::Forwards, Direction::Backwards] {
            let call = room::EventByTimestamp {
                user: self.user.clone(),
                device: "ANY".into(),
                ts_ms,
                direction,
                ignored: Vec::new(),
            };
            let found = self.calls(&call);
            if self.view.state == State::Nothing {
                assert!(is_forbidden(&found), "{} looks for a time", self.user);
                continue;
            }
            let entries = self.log.entries().iter().zip(&self.view.reads);
            let times = entries.filter(|(_, reads)| **reads).map(|(entry, _)| time(entry));
            let closest = match direction {
                Direction::Forwards => times.filter(|time| *time >= ts_ms).min(),
                Direction::Backwards => times.filter(|time| *time <= ts_ms).max(),
            };
            let Some(closest) = closest else {
                assert!(found.unwrap().event.is_none(), "{} finds something", self.user);
                continue;
            };
            let found = found.unwrap().event.unwrap();
            assert!(self.view.reads[self.index_of_id(found.event_id.as_str())], "{} finds it", self.user);
            assert_eq!(u64::from(MilliSecondsSinceUnixEpoch::get(&found.origin_server_ts)), closest);
        }
    }
}
