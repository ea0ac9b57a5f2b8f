//! A device as a client keeps it, and how it syncs.

use std::collections::BTreeMap;

use platform::{ActorKind, Address};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;

use super::Story;
use crate::{
    room,
    user::{self, PlannedRoom, ReadRoom, SyncClose, SyncPlan},
};

#[derive(Deserialize)]
struct Synced {
    timeline: SyncedTimeline,
    state: SyncedState,
    #[serde(default)]
    ephemeral: SyncedEphemeral,
    unread_notifications: serde_json::Value,
}

#[derive(Default, Deserialize)]
struct SyncedEphemeral {
    events: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct SyncedState {
    events: Vec<SeenEvent>,
}

#[derive(Deserialize)]
struct SyncedTimeline {
    events: Vec<SeenEvent>,
    limited: bool,
    prev_batch: String,
}

#[derive(Deserialize)]
struct SeenEvent {
    event_id: OwnedEventId,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    state_key: Option<String>,
    content: serde_json::Value,
}

/// A device as a client keeps it.
#[derive(Clone)]
pub(super) struct Device {
    pub user: OwnedUserId,
    pub token_hash: String,
    pub since: Option<String>,
    /// What it knows of each joined room, in the order it was told.
    pub rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    pub account_data: AccountData,
    pub receipts: BTreeMap<OwnedRoomId, Receipts>,
    pub typing: BTreeMap<OwnedRoomId, Vec<OwnedUserId>>,
    pub unread: BTreeMap<OwnedRoomId, serde_json::Value>,
    /// Contents of membership events, loaded lazily.
    pub members: BTreeMap<OwnedRoomId, BTreeMap<String, serde_json::Value>>,
}

/// Contents by room, `None` for the account, and type.
pub(super) type AccountData = BTreeMap<(Option<OwnedRoomId>, String), String>;

/// The event that was read, by user, type and thread.
pub(super) type Receipts = BTreeMap<(OwnedUserId, String, String), OwnedEventId>;

impl Device {
    fn delta(&self, from: Option<u64>) -> room::Delta {
        room::Delta {
            user: self.user.clone(),
            device: self.token_hash.to_uppercase().into(),
            from,
            full_state: false,
            state_after: false,
            unstable_state_after: false,
            timeline: room::EventFilter { limit: Some(3), ..room::EventFilter::default() },
            state: room::EventFilter { lazy_load_members: true, ..room::EventFilter::default() },
            format: room::EventFormat::default(),
            ephemeral: room::EventFilter::default(),
            typing: None,
            device_lists: true,
            push_rules: None,
            ignored: Vec::new(),
            unread: false,
        }
    }

    fn is_out_of(&mut self, room_id: &OwnedRoomId) {
        self.rooms.remove(room_id);
        self.forgets_data(room_id);
        self.receipts.remove(room_id);
        self.typing.remove(room_id);
        self.unread.remove(room_id);
        self.members.remove(room_id);
    }

    fn forgets_data(&mut self, room_id: &OwnedRoomId) {
        self.account_data.retain(|(of, _), _| of.as_ref() != Some(room_id));
    }
}

impl Story {
    /// What is unread to the device's user, counted by a room that remembers nothing.
    pub(super) fn unread(&self, device: &Device, room_id: &OwnedRoomId) -> serde_json::Value {
        self.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
        let reply = self.world.call(room_id.as_str(), &device.delta(None)).unwrap();
        serde_json::from_str::<Synced>(reply.room.get()).unwrap().unread_notifications
    }

    /// One sync of a device, as the request tier does it; answers whether it brought anything.
    pub(super) fn syncs(&mut self, index: usize, answer_is_lost: bool) -> bool {
        let mut device = self.devices[index].clone();
        let plan = SyncPlan {
            token_hash: device.token_hash.clone(),
            since: device.since.clone(),
            may_wait: true,
            ..SyncPlan::default()
        };
        let Some(plan) = self.world.asks(device.user.as_str(), &plan) else { return false };
        let (mut read, mut out) = (Vec::new(), Vec::new());
        for PlannedRoom { number, room_id, from, typing, gone: _, end: _, has_account_data } in plan.rooms {
            // A room that fails now and then is owed to the device.
            if self.world.lost_calls.get() > 0 && self.world.dice.roll(8) == 0 {
                read.push(ReadRoom {
                    number,
                    to: from.unwrap_or(0),
                    failed: true,
                    anew: false,
                    left: false,
                    untold: false,
                    typing: None,
                });
                continue;
            }
            let delta = room::Delta { typing: Some(typing.seen), unread: has_account_data, ..device.delta(from) };
            let reply = self.world.call(room_id.as_str(), &delta).unwrap();
            let typing = reply.typing.map(|now| user::ReadTyping { known: typing.known, now });
            let left = matches!(reply.section, room::Section::Leave);
            read.push(ReadRoom { number, to: reply.to, failed: false, anew: reply.anew, left, untold: false, typing });
            if matches!(reply.section, room::Section::Join | room::Section::Leave) {
                self.is_synced_truly(&device.user, &room_id, &reply.room);
            }
            match reply.section {
                room::Section::Join => {
                    if reply.anew {
                        device.forgets_data(&room_id);
                        device.members.remove(&room_id);
                    }
                    let synced: Synced = serde_json::from_str(reply.room.get()).unwrap();
                    self.takes(&mut device, &room_id, synced, from);
                }
                room::Section::Leave => {
                    device.is_out_of(&room_id);
                    out.push(room_id);
                }
                room::Section::Quiet => {}
                room::Section::None => out.push(room_id),
            }
        }
        let close = SyncClose {
            token_hash: device.token_hash.clone(),
            since: device.since.clone(),
            position: plan.position,
            rooms: read,
            rooms_told: false,
            presence: None,
            without_messages: false,
        };
        let closed = self.world.call(device.user.as_str(), &close).unwrap();
        device.since = Some(closed.next_batch);
        // Who was put out and invited back is told of the invitation only: a room is in one section of an answer.
        for room in closed.invited {
            let room_id = OwnedRoomId::try_from(room.room_id).unwrap();
            self.is_without_redacted(&room_id, room.state.get());
            device.is_out_of(&room_id);
        }
        let of_account = closed.account_data.into_iter().map(|event| (None, event));
        let of_rooms = closed.room_account_data.into_iter().filter(|room| room.joined && !out.contains(&room.room_id));
        let of_rooms = of_rooms.flat_map(|room| {
            let room_id = room.room_id;
            room.events.into_iter().map(move |event| (Some(room_id.clone()), event))
        });
        for (room_id, event) in of_account.chain(of_rooms) {
            device.account_data.insert((room_id, event.event_type), event.content.get().to_owned());
        }
        if !answer_is_lost {
            self.copies[index].push(std::mem::replace(&mut self.devices[index], device));
        }
        true
    }

    /// The client takes in a joined room: it fills gaps by paging back to what it knows.
    fn takes(&self, device: &mut Device, room_id: &OwnedRoomId, synced: Synced, from: Option<u64>) {
        let known = device.rooms.entry(room_id.clone()).or_default();
        if from.is_none() || (from == Some(0) && synced.timeline.limited) {
            known.clear();
        }
        let mut missed = Vec::new();
        let mut token = synced.timeline.limited.then_some(synced.timeline.prev_batch);
        'paging: while let Some(from) = token {
            let call = room::Messages {
                user: device.user.clone(),
                device: "ANY".into(),
                ignored: Vec::new(),
                from: Some(from.parse::<room::RoomToken>().unwrap().0),
                to: None,
                direction: room::Direction::Backwards,
                filter: room::EventFilter { limit: Some(2), ..room::EventFilter::default() },
                past_gaps: false,
            };
            let page = self.world.call(room_id.as_str(), &call).unwrap();
            for event in &page.chunk {
                let event: SeenEvent = serde_json::from_str(event.get()).unwrap();
                if known.contains(&event.event_id) {
                    break 'paging;
                }
                missed.push(event.event_id);
            }
            token = page.end;
        }
        known.extend(missed.into_iter().rev());
        let members = device.members.entry(room_id.clone()).or_default();
        for event in &synced.state.events {
            take_member(members, event);
        }
        for event in synced.timeline.events {
            // A room joined anew since the token starts afresh, which only the server knows.
            assert!(!known.contains(&event.event_id), "{} saw {} twice", device.token_hash, event.event_id);
            take_member(members, &event);
            // What a lazily loading client needs to show it is there.
            assert!(members.contains_key(event.sender.as_str()), "{} lacks {}", device.token_hash, event.sender);
            known.push(event.event_id);
        }
        device.unread.insert(room_id.clone(), synced.unread_notifications);
        for event in synced.ephemeral.events {
            take_ephemeral(device, room_id, &event);
        }
    }
}

fn take_member(members: &mut BTreeMap<String, serde_json::Value>, event: &SeenEvent) {
    if event.event_type == "m.room.member" {
        members.insert(event.state_key.clone().unwrap(), event.content.clone());
    }
}

/// The client takes in what is beside the timeline.
fn take_ephemeral(device: &mut Device, room_id: &OwnedRoomId, event: &serde_json::Value) {
    if event["type"] == "m.typing" {
        let users = serde_json::from_value(event["content"]["user_ids"].clone()).unwrap();
        device.typing.insert(room_id.clone(), users);
        return;
    }
    let receipts = device.receipts.entry(room_id.clone()).or_default();
    for (event_id, kinds) in event["content"].as_object().unwrap() {
        for (kind, users) in kinds.as_object().unwrap() {
            for (user, receipt) in users.as_object().unwrap() {
                let user: OwnedUserId = user.as_str().try_into().unwrap();
                assert!(kind == "m.read" || user == device.user, "{} sees {kind} of {user}", device.token_hash);
                let thread = receipt["thread_id"].as_str().unwrap_or_default().to_owned();
                receipts.insert((user, kind.clone(), thread), event_id.as_str().try_into().unwrap());
            }
        }
    }
}
