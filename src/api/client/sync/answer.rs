//! What `/sync` answers. The rooms' parts come as ready JSON and are written as they are; the pages of a large room are
//! asked for when their turn comes.

use std::collections::{BTreeMap, BTreeSet};

use actors::user::{AccountDataEvent, KeyCounts, StrippedRoom, ToDeviceMessage};
use platform::Pieces;
use ruma_common::{OwnedRoomId, RoomId};
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::json::Json;
use crate::client::device_lists::DeviceLists;

/// The whole answer, but for the rooms.
#[derive(Default, Serialize)]
pub(super) struct Answer {
    pub next_batch: String,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub presence: Events<Box<RawValue>>,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events<AccountDataEvent>,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub to_device: Events<ToDeviceMessage>,
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub device_lists: DeviceLists,
    /// In every answer, for a device that has uploaded no keys, too. Spec: "End-to-End Encryption", "Extensions to
    /// /sync".
    #[serde(flatten)]
    pub keys: Keys,
    #[serde(skip)]
    pub rooms: Rooms,
}

#[derive(Serialize)]
pub(super) struct Events<T> {
    pub events: Vec<T>,
}

impl<T> Default for Events<T> {
    fn default() -> Self {
        Self { events: Vec::new() }
    }
}

impl<T> Events<T> {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// How many keys the device has left to be given out.
#[derive(Default, Serialize)]
pub(super) struct Keys {
    device_one_time_keys_count: BTreeMap<String, u64>,
    device_unused_fallback_key_types: Vec<String>,
}

impl From<KeyCounts> for Keys {
    fn from(counts: KeyCounts) -> Self {
        let device_unused_fallback_key_types = counts.unused_fallback.clone();
        Self { device_one_time_keys_count: counts.told(), device_unused_fallback_key_types }
    }
}

#[derive(Default)]
pub(super) struct Rooms {
    pub join: BTreeMap<OwnedRoomId, Room>,
    pub leave: BTreeMap<OwnedRoomId, Room>,
    pub invite: Vec<StrippedRoom>,
    pub knock: Vec<StrippedRoom>,
    /// What the rooms say of devices.
    pub device_lists: DeviceLists,
    /// Rooms that were read and have nothing to show.
    pub nothing: BTreeSet<OwnedRoomId>,
}

/// One room: what the room itself says, and what is the user's own.
#[derive(Default)]
pub(super) struct Room {
    /// `None` if nothing happened in the room.
    pub told: Option<Told>,
    pub account_data: Events<AccountDataEvent>,
}

/// Which state of a room a sync tells, and by which name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateName {
    /// That at the start of the timeline.
    State,
    /// That at its end.
    StateAfter,
    /// The same, by the name it had before v1.16.
    UnstableStateAfter,
}

impl StateName {
    pub(super) const ALL: [Self; 3] = [Self::State, Self::StateAfter, Self::UnstableStateAfter];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::StateAfter => "state_after",
            Self::UnstableStateAfter => "org.matrix.msc4222.state_after",
        }
    }

    /// The name of what has to be there even if it is empty: `state_after` is «required if `use_state_after` was set to
    /// `true` in the request».
    fn required(self) -> Option<&'static str> {
        (self != Self::State).then(|| self.as_str())
    }
}

/// A room of which no more is known here than what ended an invitation, or a knock.
pub(super) fn ended(event: Option<&RawValue>, name: StateName) -> serde_json::Result<Box<RawValue>> {
    #[derive(Serialize)]
    struct Ended<'a> {
        timeline: Timeline<'a>,
        #[serde(flatten)]
        state: BTreeMap<&'static str, Events<&'a RawValue>>,
    }
    #[derive(Serialize)]
    struct Timeline<'a> {
        events: Vec<&'a RawValue>,
        limited: bool,
    }
    let events: Vec<_> = event.into_iter().collect();
    let state = name.required().map(|name| (name, Events { events: events.clone() })).into_iter().collect();
    to_raw_value(&Ended { timeline: Timeline { events, limited: false }, state })
}

/// What a room says: a JSON object.
pub(super) enum Told {
    Whole(Box<RawValue>),
    /// The fields begin so, and end with the pages of the last one.
    InPages(String, Pieces),
}

impl Told {
    /// What it holds in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Told::Whole(room) => room.get().len(),
            Told::InPages(begin, _) => begin.len(),
        }
    }
}

impl Answer {
    /// Whether it tells the device nothing.
    pub(super) fn is_empty(&self) -> bool {
        // Each part by its name, so that a new one is not forgotten here. Counts of keys are no news by themselves.
        let Self { next_batch: _, presence, account_data, rooms, device_lists, to_device, keys: _ } = self;
        to_device.is_empty()
            && device_lists.is_empty()
            && presence.is_empty()
            && account_data.is_empty()
            && rooms.is_empty()
    }

    pub(super) fn into_json(mut self) -> serde_json::Result<Json> {
        let rooms = std::mem::take(&mut self.rooms);
        let mut json = Json::default();
        json.open();
        json.fields(&serde_json::to_string(&self)?);
        if !rooms.is_empty() {
            json.name("rooms")?;
            json.open();
            rooms.write(&mut json)?;
            json.close();
        }
        json.close();
        Ok(json)
    }

    /// What ends an answer whose joined rooms were written so far, in the object of a section: `{"rooms":{…,"join":{…`.
    pub(super) fn into_end(mut self, is_first: bool) -> serde_json::Result<Json> {
        let mut rooms = std::mem::take(&mut self.rooms);
        let mut json = entries(std::mem::take(&mut rooms.join), is_first)?;
        json.close();
        rooms.write(&mut json)?;
        json.close();
        json.fields(&serde_json::to_string(&self)?);
        json.close();
        Ok(json)
    }
}

impl Rooms {
    fn is_empty(&self) -> bool {
        self.join.is_empty() && self.leave.is_empty() && self.invite.is_empty() && self.knock.is_empty()
    }

    /// The sections that have rooms.
    fn write(self, json: &mut Json) -> serde_json::Result<()> {
        for (section, rooms) in [("join", self.join), ("leave", self.leave)] {
            if !rooms.is_empty() {
                json.name(section)?;
                json.open();
                rooms.into_iter().try_for_each(|(room_id, room)| room.write(json, &room_id))?;
                json.close();
            }
        }
        for (section, state, rooms) in [("invite", "invite_state", &self.invite), ("knock", "knock_state", &self.knock)]
        {
            if !rooms.is_empty() {
                json.name(section)?;
                json.open();
                for room in rooms {
                    let events = BTreeMap::from([("events", &room.state)]);
                    json.field(&room.room_id, &BTreeMap::from([(state, events)]))?;
                }
                json.close();
            }
        }
        Ok(())
    }
}

/// Rooms of a section as they stand in it, without its braces; `is_first`: no other stands there before.
pub(super) fn entries(rooms: BTreeMap<OwnedRoomId, Room>, is_first: bool) -> serde_json::Result<Json> {
    let mut json = Json::within(is_first);
    rooms.into_iter().try_for_each(|(room_id, room)| room.write(&mut json, &room_id))?;
    Ok(json)
}

impl Room {
    pub(super) fn told(told: Told) -> Self {
        Self { told: Some(told), account_data: Events::default() }
    }

    /// A room of which nothing was read: what came of it came since.
    pub(super) fn at_rest(name: StateName) -> serde_json::Result<Self> {
        let nothing = || json!({ "events": [] });
        let timeline = json!({ "events": [], "limited": false });
        let told = json!({ "timeline": timeline, name.as_str(): nothing(), "ephemeral": nothing() });
        Ok(Self::told(Told::Whole(to_raw_value(&told)?)))
    }

    fn write(self, json: &mut Json, room_id: &RoomId) -> serde_json::Result<()> {
        json.name(room_id.as_str())?;
        json.open();
        match self.told {
            Some(Told::Whole(told)) => json.fields(told.get()),
            Some(Told::InPages(begin, pages)) => json.fields_in_pages(&begin, pages),
            None => {}
        }
        json.field("account_data", &self.account_data)?;
        json.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use serde_json::Value;

    use super::*;
    use crate::testing::block_on;

    fn event(number: u64) -> AccountDataEvent {
        AccountDataEvent { event_type: "a".to_owned(), content: to_raw_value(&json!({ "n": number })).unwrap() }
    }

    fn text(json: Json) -> String {
        let pieces: Vec<_> = block_on(json.pieces().collect());
        String::from_utf8(pieces.into_iter().flat_map(Result::unwrap).collect()).unwrap()
    }

    fn parsed(answer: Answer) -> Value {
        serde_json::from_str(&text(answer.into_json().unwrap())).unwrap()
    }

    #[test]
    fn an_empty_answer_has_what_is_required() {
        let answer = Answer { next_batch: "s1".to_owned(), ..Answer::default() };
        let empty = json!({
            "next_batch": "s1", "device_one_time_keys_count": {}, "device_unused_fallback_key_types": [],
        });
        assert_eq!(parsed(answer), empty);
    }

    #[test]
    fn sections_that_are_told_one_after_the_other_make_one_answer() {
        let id = |name: &str| OwnedRoomId::try_from(name).unwrap();
        let rooms = |names: &[&str]| names.iter().map(|name| (id(name), Room::default())).collect();
        let invite = StrippedRoom { room_id: "!i:a".to_owned(), state: to_raw_value(&json!([])).unwrap() };
        let mut answer = Answer { next_batch: "s1".to_owned(), ..Answer::default() };
        answer.rooms.join = rooms(&["!d:a"]);
        answer.rooms.invite.push(invite);
        let parts = [
            entries(rooms(&[]), true).unwrap(),
            entries(rooms(&["!a:a", "!b:a"]), true).unwrap(),
            entries(rooms(&["!c:a"]), false).unwrap(),
            answer.into_end(false).unwrap(),
        ];
        let told = parts.into_iter().map(text).collect::<String>();
        let told: Value = serde_json::from_str(&format!("{{\"rooms\":{{\"join\":{{{told}")).unwrap();
        let nothing = json!({ "account_data": { "events": [] } });
        let rooms = json!({
            "join": { "!a:a": nothing, "!b:a": nothing, "!c:a": nothing, "!d:a": nothing },
            "invite": { "!i:a": { "invite_state": { "events": [] } } },
        });
        assert_eq!((&told["rooms"], &told["next_batch"]), (&rooms, &json!("s1")));
    }

    #[test]
    fn rooms_keep_what_they_say() {
        let mut answer = Answer { next_batch: "s1".to_owned(), ..Answer::default() };
        answer.account_data.events.push(event(1));
        let room = |told: Option<Value>, events: Vec<AccountDataEvent>| Room {
            told: told.map(|told| Told::Whole(to_raw_value(&told).unwrap())),
            account_data: Events { events },
        };
        let id = |name: &str| OwnedRoomId::try_from(name).unwrap();
        answer.rooms.join.insert(id("!a:a"), room(Some(json!({ "timeline": { "limited": true } })), vec![]));
        answer.rooms.join.insert(id("!b:\"a"), room(Some(json!({ "t": 1 })), vec![event(2), event(3)]));
        answer.rooms.join.insert(id("!c:a"), room(None, vec![event(4)]));
        let pages = stream::iter([Ok("1,2".into()), Ok(",3]}".into())]);
        let told = Told::InPages("\"timeline\":{},\"state\":{\"events\":[".to_owned(), Box::pin(pages));
        answer
            .rooms
            .join
            .insert(id("!h:a"), Room { told: Some(told), account_data: Events { events: vec![event(6)] } });
        answer.rooms.leave.insert(id("!d:a"), room(Some(json!({})), vec![event(5)]));
        let stripped = |room_id: &str| StrippedRoom {
            room_id: room_id.to_owned(),
            state: to_raw_value(&json!([{ "type": "x" }])).unwrap(),
        };
        answer.rooms.invite.push(stripped("!e:a"));
        answer.rooms.knock.push(stripped("!f:a"));
        answer.rooms.knock.push(stripped("!g:a"));
        let answer = parsed(answer);
        let event = |number: u64| json!({ "type": "a", "content": { "n": number } });
        assert_eq!(answer["account_data"], json!({ "events": [event(1)] }));
        let knock = json!({ "knock_state": { "events": [{ "type": "x" }] } });
        let rooms = json!({
            "join": {
                "!a:a": { "timeline": { "limited": true }, "account_data": { "events": [] } },
                "!b:\"a": { "t": 1, "account_data": { "events": [event(2), event(3)] } },
                "!c:a": { "account_data": { "events": [event(4)] } },
                "!h:a": {
                    "timeline": {}, "state": { "events": [1, 2, 3] }, "account_data": { "events": [event(6)] },
                },
            },
            "leave": { "!d:a": { "account_data": { "events": [event(5)] } } },
            "invite": { "!e:a": { "invite_state": { "events": [{ "type": "x" }] } } },
            "knock": { "!f:a": knock, "!g:a": knock },
        });
        assert_eq!(answer["rooms"], rooms);
    }
}
