//! A room in memory for the tests: it builds, checks and authorises as a server does, one event after the other.

use std::collections::BTreeMap;

use ruma_common::{OwnedEventId, OwnedUserId, UserId, server_name};
use ruma_events::{StateEventType, TimelineEventType};
use ruma_state_res::StateMap;
use serde_json::{Value, value::to_raw_value};

use crate::{
    Identity, Pdu, Refusal, RoomVersion, auth,
    event::{self, Draft, EventRef, Place},
    power::{NewRoom, create_draft},
};

pub(crate) fn identity() -> Identity {
    Identity::new(server_name!("example.org").to_owned(), "a_test", [1; 32]).unwrap()
}

pub(crate) fn user(localpart: &str) -> OwnedUserId {
    UserId::parse(format!("@{localpart}:example.org")).unwrap()
}

pub(crate) fn versions() -> impl Iterator<Item = RoomVersion> {
    RoomVersion::ALL.into_iter().map(|id| RoomVersion::parse(id).unwrap())
}

pub(crate) fn version(id: &str) -> RoomVersion {
    RoomVersion::parse(id).unwrap()
}

pub(crate) fn message(sender: &str, content: Value) -> Draft {
    Draft {
        event_type: TimelineEventType::RoomMessage,
        content: to_raw_value(&content).unwrap(),
        state_key: None,
        sender: user(sender),
        redacts: None,
    }
}

pub(crate) fn state(sender: &str, event_type: &str, state_key: &str, content: Value) -> Draft {
    Draft { event_type: event_type.into(), state_key: Some(state_key.to_owned()), ..message(sender, content) }
}

pub(crate) fn member(sender: &str, target: &str, membership: &str) -> Draft {
    state(sender, "m.room.member", user(target).as_str(), serde_json::json!({ "membership": membership }))
}

pub(crate) fn redaction(sender: &str, redacts: &Pdu) -> Draft {
    Draft {
        event_type: TimelineEventType::RoomRedaction,
        redacts: Some(redacts.event_id().to_owned()),
        ..message(sender, serde_json::json!({ "reason": "spam" }))
    }
}

#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) version: RoomVersion,
    pub(crate) create: Pdu,
    pub(crate) events: BTreeMap<OwnedEventId, Pdu>,
    state: BTreeMap<(StateEventType, String), Pdu>,
    last: Pdu,
    /// Names events of versions 1 and 2; forks start from different ones.
    seed: u8,
    count: u8,
}

impl Room {
    /// The create event alone.
    pub(crate) fn created(request: &NewRoom, version: RoomVersion) -> Result<Self, Refusal> {
        let draft = create_draft(request, &version)?;
        let room_id = ruma_common::room_id!("!room:example.org");
        let room_id = (!version.room_id_is_create_event()).then_some(room_id);
        let place = Place { room_id, prev_events: &[], auth_events: &[], depth: 1, origin_server_ts: 1_000 };
        let create = event::build(&draft, &place, &version, &identity(), [0; 18])?;
        auth::check_create(&create, &version)?;
        let events = BTreeMap::from([(create.event_id().to_owned(), create.clone())]);
        let state = BTreeMap::from([((StateEventType::RoomCreate, String::new()), create.clone())]);
        Ok(Self { version, last: create.clone(), create, events, state, seed: 0, count: 1 })
    }

    /// A room of alice's with these further state events by her.
    pub(crate) fn of_alice(version: RoomVersion, drafts: impl IntoIterator<Item = Draft>) -> Self {
        let request = NewRoom::new(user("alice"), crate::power::Preset::PrivateChat);
        let mut room = Self::created(&request, version).unwrap();
        for draft in crate::power::initial_events(&request, &room.version).unwrap().into_iter().chain(drafts) {
            room.send(draft).unwrap();
        }
        room
    }

    pub(crate) fn get(&self, event_type: &StateEventType, state_key: &str) -> Option<Pdu> {
        self.state.get(&(event_type.clone(), state_key.to_owned())).cloned()
    }

    pub(crate) fn auth_events(&self, draft: &Draft) -> Result<Vec<Pdu>, Refusal> {
        let needed = auth::needed_for(draft, &self.version)?;
        Ok(needed.into_iter().filter_map(|key| self.state.get(&key).cloned()).collect())
    }

    /// The same room on another server, unaware of what happens here from now on.
    pub(crate) fn fork(&self, seed: u8) -> Self {
        Self { seed, ..self.clone() }
    }

    /// Builds the event where it would stand, without asking whether it may.
    pub(crate) fn build(&self, draft: &Draft) -> Result<Pdu, Refusal> {
        let name = |pdu: &Pdu| event::reference(pdu, &self.version).unwrap();
        let auth_events: Vec<EventRef> = self.auth_events(draft)?.iter().map(name).collect();
        let place = Place {
            room_id: Some(self.create.room_id()),
            prev_events: &[name(&self.last)],
            auth_events: &auth_events,
            depth: self.last.depth() + 1,
            origin_server_ts: 1_000 * (self.last.depth() + 1) + u64::from(self.seed),
        };
        let mut random = [self.seed; 18];
        random[0] = self.count;
        event::build(draft, &place, &self.version, &identity(), random)
    }

    /// Whether the event may happen.
    pub(crate) fn attempt(&self, draft: &Draft) -> Result<Pdu, Refusal> {
        let pdu = self.build(draft)?;
        auth::check(&pdu, &self.version, &self.auth_events(draft)?, &|event_type, state_key| {
            self.get(event_type, state_key)
        })?;
        Ok(pdu)
    }

    /// Builds, authorises and appends.
    pub(crate) fn send(&mut self, draft: Draft) -> Result<Pdu, Refusal> {
        let pdu = self.attempt(&draft)?;
        self.append(pdu.clone());
        Ok(pdu)
    }

    /// Appends whatever the rules say: to set a scene.
    pub(crate) fn force(&mut self, draft: &Draft) -> Pdu {
        let pdu = self.build(draft).unwrap();
        self.append(pdu.clone());
        pdu
    }

    fn append(&mut self, pdu: Pdu) {
        if let Some(state_key) = pdu.state_key() {
            let event_type = StateEventType::from(pdu.event_type().to_string());
            self.state.insert((event_type, state_key.to_owned()), pdu.clone());
        }
        self.events.insert(pdu.event_id().to_owned(), pdu.clone());
        self.last = pdu;
        self.count += 1;
    }

    /// The room once two of its forks have met in this state.
    pub(crate) fn met(&self, other: &Self, state: &StateMap<OwnedEventId>) -> Self {
        let mut room = self.clone();
        room.events.extend(other.events.clone());
        room.state = state.iter().map(|(key, id)| (key.clone(), room.events[id].clone())).collect();
        if other.last.depth() > room.last.depth() {
            room.last = other.last.clone();
        }
        room.count = self.count.max(other.count);
        room
    }

    /// The state as resolution takes it.
    pub(crate) fn state_map(&self) -> StateMap<OwnedEventId> {
        self.state.iter().map(|(key, pdu)| (key.clone(), pdu.event_id().to_owned())).collect()
    }
}
