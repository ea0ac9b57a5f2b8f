//! What `/sync` answers. The rooms' parts come as ready JSON and are written as they are.

use std::collections::{BTreeMap, BTreeSet};

use actors::user::{AccountDataEvent, KeyCounts, StrippedRoom, ToDeviceMessage};
use ruma_common::OwnedRoomId;
use serde::Serialize;
use serde_json::value::RawValue;

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
    /// In every answer, for a device that has uploaded no keys, too. Spec: "End-to-End Encryption", "Extensions to /sync".
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
        Self { device_one_time_keys_count: counts.one_time, device_unused_fallback_key_types: counts.unused_fallback }
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
    /// A JSON object; `None` if nothing happened in the room.
    pub told: Option<Box<RawValue>>,
    pub account_data: Events<AccountDataEvent>,
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

    pub(super) fn into_json(self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec(&self)?;
        let rooms = self.rooms.to_json()?;
        if !rooms.is_empty() {
            extend(&mut json, "rooms", |json| {
                json.extend(rooms);
                Ok(())
            })?;
        }
        Ok(json)
    }

    /// What ends an answer whose joined rooms were written so far, in the object of a section: `{"rooms":{…,"join":{…`.
    pub(super) fn into_end(mut self, is_first: bool) -> serde_json::Result<Vec<u8>> {
        let mut json = entries(&std::mem::take(&mut self.rooms.join), is_first)?;
        json.extend(b"}");
        // The sections that are left, then the rest of the answer: each an object without its opening brace.
        for object in [self.rooms.to_json()?, serde_json::to_vec(&self)?] {
            match object.strip_prefix(b"{") {
                Some(fields) => {
                    json.push(b',');
                    json.extend(fields);
                }
                None => json.push(b'}'),
            }
        }
        Ok(json)
    }
}

impl Rooms {
    fn is_empty(&self) -> bool {
        self.join.is_empty() && self.leave.is_empty() && self.invite.is_empty() && self.knock.is_empty()
    }

    /// Empty if there is no room to show.
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = Vec::new();
        for (section, rooms) in [("join", &self.join), ("leave", &self.leave)] {
            if !rooms.is_empty() {
                let write_each = |json: &mut Vec<u8>, (room_id, room): (&OwnedRoomId, &Room)| {
                    extend(json, room_id.as_str(), |json| room.write(json))
                };
                section_of(&mut json, section, rooms, write_each)?;
            }
        }
        for (section, state, rooms) in [("invite", "invite_state", &self.invite), ("knock", "knock_state", &self.knock)]
        {
            if !rooms.is_empty() {
                let write_each = |json: &mut Vec<u8>, room: &StrippedRoom| {
                    let state = BTreeMap::from([(state, BTreeMap::from([("events", &room.state)]))]);
                    extend(json, &room.room_id, |json| serde_json::to_writer(json, &state))
                };
                section_of(&mut json, section, rooms, write_each)?;
            }
        }
        Ok(json)
    }
}

/// Rooms of a section as they stand in it, without its braces; with a comma before, unless they are the first.
pub(super) fn entries(rooms: &BTreeMap<OwnedRoomId, Room>, is_first: bool) -> serde_json::Result<Vec<u8>> {
    let mut json = b"{}".to_vec();
    rooms.iter().try_for_each(|(room_id, room)| extend(&mut json, room_id.as_str(), |json| room.write(json)))?;
    json.pop();
    if is_first || rooms.is_empty() {
        json.remove(0);
    } else if let Some(brace) = json.first_mut() {
        *brace = b',';
    }
    Ok(json)
}

fn section_of<T>(
    json: &mut Vec<u8>,
    section: &str,
    rooms: impl IntoIterator<Item = T>,
    write_each: impl Fn(&mut Vec<u8>, T) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    if json.is_empty() {
        json.extend(b"{}");
    }
    extend(json, section, |json| {
        json.extend(b"{}");
        rooms.into_iter().try_for_each(|room| write_each(json, room))
    })
}

impl Room {
    pub(super) fn told(told: Box<RawValue>) -> Self {
        Self { told: Some(told), account_data: Events::default() }
    }

    fn write(&self, json: &mut Vec<u8>) -> serde_json::Result<()> {
        match &self.told {
            Some(told) => json.extend(told.get().as_bytes()),
            None => json.extend(b"{}"),
        }
        if self.account_data.is_empty() {
            return Ok(());
        }
        extend(json, "account_data", |json| serde_json::to_writer(json, &self.account_data))
    }
}

/// Adds a field to the JSON object that `json` ends with.
fn extend(
    json: &mut Vec<u8>,
    name: &str,
    write: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    json.pop();
    if json.last() != Some(&b'{') {
        json.push(b',');
    }
    serde_json::to_writer(&mut *json, name)?;
    json.push(b':');
    write(json)?;
    json.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn event(number: u64) -> AccountDataEvent {
        AccountDataEvent { event_type: "a".to_owned(), content: to_raw_value(&json!({ "n": number })).unwrap() }
    }

    fn parsed(answer: Answer) -> Value {
        serde_json::from_slice(&answer.into_json().unwrap()).unwrap()
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
    fn rooms_keep_what_they_say() {
        let mut answer = Answer { next_batch: "s1".to_owned(), ..Answer::default() };
        answer.account_data.events.push(event(1));
        let room = |told: Option<Value>, events: Vec<AccountDataEvent>| Room {
            told: told.map(|told| to_raw_value(&told).unwrap()),
            account_data: Events { events },
        };
        let id = |name: &str| OwnedRoomId::try_from(name).unwrap();
        answer.rooms.join.insert(id("!a:a"), room(Some(json!({ "timeline": { "limited": true } })), vec![]));
        answer.rooms.join.insert(id("!b:\"a"), room(Some(json!({ "t": 1 })), vec![event(2), event(3)]));
        answer.rooms.join.insert(id("!c:a"), room(None, vec![event(4)]));
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
                "!a:a": { "timeline": { "limited": true } },
                "!b:\"a": { "t": 1, "account_data": { "events": [event(2), event(3)] } },
                "!c:a": { "account_data": { "events": [event(4)] } },
            },
            "leave": { "!d:a": { "account_data": { "events": [event(5)] } } },
            "invite": { "!e:a": { "invite_state": { "events": [{ "type": "x" }] } } },
            "knock": { "!f:a": knock, "!g:a": knock },
        });
        assert_eq!(answer["rooms"], rooms);
    }
}
