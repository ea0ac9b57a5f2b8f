//! What a sliding sync answers. What rooms say comes as ready JSON and is written as it is.

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    room::{GetRequiredState, StatePage},
    user::{AccountDataEvent, AskedRoom, KeyCounts, SlidingMessages},
};
use platform::Pieces;
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::super::json::Json;
use crate::{
    Context, Failure,
    client::{
        device_lists::DeviceLists,
        rooms::pages::{Page, Rest, joined},
    },
};

/// The whole answer.
pub(super) struct Answer {
    pub pos: String,
    pub txn_id: Option<String>,
    /// How many rooms each list has.
    pub lists: BTreeMap<String, u64>,
    pub rooms: BTreeMap<OwnedRoomId, Room>,
    pub extensions: Extensions,
}

/// One room.
pub(super) struct Room {
    /// What the room says: a JSON object without its state.
    pub told: Box<RawValue>,
    pub required_state: Vec<Box<RawValue>>,
    /// State that comes after this.
    pub more: Option<Pieces>,
    pub is_dm: Option<bool>,
    pub lists: Vec<String>,
}

#[derive(Default, Serialize)]
pub(super) struct Extensions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<SlidingMessages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2ee: Option<E2ee>,
    #[serde(skip_serializing_if = "AccountData::is_empty")]
    pub account_data: AccountData,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub receipts: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub typing: Events,
}

#[derive(Serialize)]
struct E2ee {
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    device_lists: DeviceLists,
    device_one_time_keys_count: BTreeMap<String, u64>,
    device_unused_fallback_key_types: Vec<String>,
}

#[derive(Default, Serialize)]
pub(super) struct AccountData {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub global: Vec<AccountDataEvent>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<OwnedRoomId, Vec<AccountDataEvent>>,
}

impl AccountData {
    fn is_empty(&self) -> bool {
        self.global.is_empty() && self.rooms.is_empty()
    }
}

/// One event of each room.
#[derive(Default, Serialize)]
pub(super) struct Events {
    pub rooms: BTreeMap<OwnedRoomId, Box<RawValue>>,
}

impl Events {
    fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }
}

impl Extensions {
    /// What is told with encryption, to who wants it. MSC3884.
    pub(super) fn has_keys(&mut self, keys: Option<KeyCounts>, lists: DeviceLists, own_changed: Vec<OwnedUserId>) {
        let Some(keys) = keys else { return };
        let mut device_lists = lists;
        device_lists.changed.extend(own_changed);
        let device_unused_fallback_key_types = keys.unused_fallback.clone();
        let device_one_time_keys_count = keys.told();
        self.e2ee = Some(E2ee { device_lists, device_one_time_keys_count, device_unused_fallback_key_types });
    }
}

impl Answer {
    pub(super) fn into_json(self) -> serde_json::Result<Json> {
        let mut json = Json::default();
        json.open();
        json.field("pos", &self.pos)?;
        if let Some(txn_id) = &self.txn_id {
            json.field("txn_id", txn_id)?;
        }
        json.name("lists")?;
        json.open();
        for (name, count) in &self.lists {
            json.field(name, &json!({ "count": count }))?;
        }
        json.close();
        json.name("rooms")?;
        json.open();
        self.rooms.into_iter().try_for_each(|(room_id, room)| room.write(&mut json, &room_id))?;
        json.close();
        json.field("extensions", &self.extensions)?;
        json.close();
        Ok(json)
    }
}

impl Room {
    /// A room that the user is invited to, or knocked on.
    pub(super) fn asked(asked: AskedRoom) -> Self {
        #[derive(Serialize)]
        struct Asked<'a> {
            initial: bool,
            membership: &'a str,
            bump_stamp: u64,
            /// Knocks have it, too, as clients look for it.
            invite_state: &'a RawValue,
        }
        let AskedRoom { room_id: _, membership, bump_stamp, state, is_dm } = asked;
        let told = Asked { initial: true, membership: &membership, bump_stamp, invite_state: &state };
        let told = to_raw_value(&told).unwrap_or(state);
        Self { told, required_state: Vec::new(), more: None, is_dm: is_dm.then_some(true), lists: Vec::new() }
    }

    fn write(self, json: &mut Json, room_id: &RoomId) -> serde_json::Result<()> {
        json.name(room_id.as_str())?;
        json.open();
        json.fields(self.told.get());
        if let Some(is_dm) = self.is_dm {
            json.field("is_dm", &is_dm)?;
        }
        if !self.lists.is_empty() {
            json.field("lists", &self.lists.iter().collect::<BTreeSet<_>>())?;
        }
        match self.more {
            Some(pages) => {
                let begin = format!("\"required_state\":[{}", joined(&self.required_state));
                json.fields_in_pages(&begin, pages);
            }
            None if self.required_state.is_empty() => {}
            None => json.field("required_state", &self.required_state)?,
        }
        json.close();
        Ok(())
    }
}

/// A room of which no more is known here than what ended an invitation, or a knock.
pub(super) fn ended(event: &RawValue) -> serde_json::Result<Room> {
    let told = to_raw_value(&json!({ "membership": "leave", "timeline": [event], "num_live": 1 }))?;
    Ok(Room { told, required_state: vec![event.to_owned()], more: None, is_dm: None, lists: Vec::new() })
}

/// The rest of a room's state, each page asked for when its turn comes, and what closes it.
pub(super) fn pages(cx: &Context, room_id: &RoomId, next: GetRequiredState, has_items: bool) -> Pieces {
    let rest = Rest {
        cx: cx.clone(),
        room_id: room_id.to_owned(),
        next: Some(next),
        has_items,
        turn: of_state,
        end: Some((String::new(), "]")),
    };
    Box::pin(rest.pieces())
}

fn of_state(call: GetRequiredState, page: StatePage) -> Result<Page<GetRequiredState>, Failure> {
    let items = joined(&page.events);
    Ok(Page { items, next: page.next.map(|after| GetRequiredState { at: page.at, after, ..call }) })
}
