//! A device as its client keeps it, and how it syncs.

use std::collections::{BTreeMap, BTreeSet};

use ruma_common::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;

use super::{ROOMS, Story, USERS, keys::Device, user_id};
use crate::{
    room,
    user::{self, PlannedRoom, ReadRoom, SyncClose, SyncPlan, keys_left},
};

/// Messages in one answer.
const MESSAGES_AT_ONCE: usize = 100;

#[derive(Clone)]
pub(super) struct Client {
    pub user: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub token_hash: String,
    pub since: Option<String>,
    /// Whether it has published identity keys.
    pub has_keys: bool,
    /// How many of its messages it was told.
    pub told: usize,
    /// Whose keys it asked for, and what it was answered last.
    pub known: BTreeMap<OwnedUserId, String>,
    /// Whose devices changed, as the last answer said.
    pub told_of: BTreeSet<OwnedUserId>,
    /// How often it may still be told of somebody's changes.
    pub may_be_told: BTreeMap<OwnedUserId, usize>,
}

impl Client {
    pub(super) fn new(user: &UserId, device_id: &str) -> Self {
        Self {
            user: user.to_owned(),
            device_id: device_id.into(),
            token_hash: device_id.to_lowercase(),
            since: None,
            has_keys: false,
            told: 0,
            known: BTreeMap::new(),
            told_of: BTreeSet::new(),
            // What became so just before may be told late.
            may_be_told: USERS.into_iter().map(|name| (user_id(name), 2 * (ROOMS + 1))).collect(),
        }
    }

    pub(super) fn device(&self) -> Device {
        (self.user.clone(), self.device_id.clone())
    }

    fn delta(&self, from: Option<u64>) -> room::Delta {
        room::Delta {
            user: self.user.clone(),
            device: self.device_id.clone(),
            from,
            full_state: false,
            state_after: false,
            unstable_state_after: false,
            timeline: room::EventFilter { limit: Some(1), ..room::EventFilter::default() },
            state: room::EventFilter::default(),
            format: room::EventFormat::default(),
            ephemeral: room::EventFilter::default(),
            typing: None,
            device_lists: self.since.is_some(),
            push_rules: None,
            ignored: Vec::new(),
            unread: false,
        }
    }
}

impl Story {
    /// A user's keys as a client sees them: with what its own user signed.
    pub(super) fn asks_keys(&self, client: &Client, whom: &UserId) -> String {
        let call = user::GetKeys { viewer: Some(client.user.clone()), devices: Vec::new() };
        let mut keys = self.world.call(whom.as_str(), &call).unwrap();
        // A number for servers: devices without keys come and go in it.
        keys.stream_id = 0;
        let call = user::GetSignatures { token_hash: client.token_hash.clone(), of: vec![whom.to_owned()] };
        let signed = self.world.call(client.user.as_str(), &call).unwrap();
        serde_json::to_string(&(keys, signed)).unwrap()
    }

    /// One sync of a device, as the request tier does it; answers whether it brought anything.
    pub(super) fn syncs(&mut self, index: usize, answer_is_lost: bool) -> bool {
        let mut client = self.clients[index].clone();
        client.told_of.clear();
        let (token_hash, since) = (client.token_hash.clone(), client.since.clone());
        let plan = SyncPlan { token_hash: token_hash.clone(), since, may_wait: true, ..SyncPlan::default() };
        let plan = self.world.asks(client.user.as_str(), &plan);
        let Some(plan) = plan.filter(|plan| !plan.quiet) else {
            self.holds_nothing_back(&client);
            self.clients[index].told_of.clear();
            return false;
        };
        let (read, lists, is_anew) = self.reads(&client, plan.rooms);
        let close = SyncClose {
            token_hash,
            since: client.since.clone(),
            position: plan.position,
            rooms: read,
            rooms_told: false,
            presence: None,
            without_messages: false,
        };
        let closed = self.world.call(client.user.as_str(), &close).unwrap();
        let device = &self.devices[&client.device()];
        assert_eq!(closed.keys, device.counts(), "{} counts its keys", client.device_id);
        assert_eq!(keys_left(&closed.next_batch), device.counts(), "{} counts them in its token", client.device_id);
        let told: Vec<u64> = closed.to_device.iter().map(|message| number(message.content.get())).collect();
        let waiting = &device.inbox[client.told..];
        assert_eq!(told, waiting[..waiting.len().min(MESSAGES_AT_ONCE)], "{} is told", client.device_id);
        client.told += told.len();
        let (mut changed, mut left) = (lists.changed, lists.left);
        self.settles_left(&client, &mut changed, &mut left);
        changed.extend(closed.device_lists);
        if client.since.is_none() {
            // It asks for everything by itself.
            changed = self.sharers(&client.user).into_iter().collect();
        } else if !is_anew && !answer_is_lost {
            for user in &changed {
                let times = client.may_be_told.entry(user.clone()).or_default();
                assert!(*times > 0, "{} is told of {user} again and again", client.device_id);
                *times -= 1;
            }
        }
        for user in left {
            client.known.remove(&user);
        }
        for user in changed.iter().filter(|user| self.is_somebody(user)) {
            client.known.insert(user.clone(), self.asks_keys(&client, user));
        }
        client.told_of = changed;
        client.since = Some(closed.next_batch);
        if !answer_is_lost {
            self.clients[index] = client;
        }
        true
    }

    /// A device that is told nothing misses nothing of its own.
    fn holds_nothing_back(&self, client: &Client) {
        let device = &self.devices[&client.device()];
        assert_eq!(client.told, device.inbox.len(), "{} waits for its messages", client.device_id);
        let counts = keys_left(client.since.as_deref().unwrap());
        assert_eq!(counts, device.counts(), "{} has counts in its token", client.device_id);
    }

    fn reads(&self, client: &Client, rooms: Vec<PlannedRoom>) -> (Vec<ReadRoom>, Lists, bool) {
        let (mut read, mut lists, mut is_anew) = (Vec::new(), Lists::default(), false);
        for planned in rooms {
            // A room that fails now and then is owed to the device.
            if self.world.lost_calls.get() > 0 && self.roll(8) == 0 {
                read.push(ReadRoom::failed(&planned));
                continue;
            }
            let reply = self.world.call(planned.room_id.as_str(), &client.delta(planned.from)).unwrap();
            lists.changed.extend(reply.device_lists.changed);
            lists.left.extend(reply.device_lists.left);
            is_anew |= reply.anew || planned.from.is_none_or(|from| from == 0);
            let left = matches!(reply.section, room::Section::Leave);
            read.push(ReadRoom {
                number: planned.number,
                to: reply.to,
                failed: false,
                anew: reply.anew,
                left,
                untold: false,
                typing: None,
            });
        }
        (read, lists, is_anew)
    }

    /// Who left one room may share another, as the request tier finds out.
    fn settles_left(&self, client: &Client, changed: &mut BTreeSet<OwnedUserId>, left: &mut BTreeSet<OwnedUserId>) {
        let call = user::JoinedRooms { token_hash: client.token_hash.clone() };
        let call = user::SharesRoom { rooms: self.world.call(client.user.as_str(), &call).unwrap() };
        left.retain(|user| self.is_somebody(user) && !self.world.call(user.as_str(), &call).unwrap());
        changed.retain(|user| !left.contains(user));
    }

    /// Whether it is one of those who have devices.
    fn is_somebody(&self, user: &UserId) -> bool {
        USERS.into_iter().any(|name| user_id(name) == user)
    }
}

#[derive(Default)]
struct Lists {
    changed: BTreeSet<OwnedUserId>,
    left: BTreeSet<OwnedUserId>,
}

#[derive(Deserialize)]
struct Content {
    number: u64,
}

/// Which message it is.
pub(super) fn number(content: &str) -> u64 {
    serde_json::from_str::<Content>(content).unwrap().number
}
