//! Random conversations, with everything that can go wrong between actors going wrong.
//!
//! The model is small: what a device must have seen in the end is the room's log since its user joined, in order and
//! each event once, however often actors were evicted, calls and answers were lost, or the host died.

use std::{collections::BTreeMap, rc::Rc};

use domain::{Refusal, power::Preset};
use platform::{ActorKind, Address};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    CallError,
    room::{self, MembershipAction},
    user::{self, PlannedRoom, ReadRoom, SyncClose, SyncPlan},
    world::World,
};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const DEVICES_EACH: usize = 2;

#[derive(Deserialize)]
struct Synced {
    timeline: SyncedTimeline,
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
}

/// A device as a client keeps it.
#[derive(Clone)]
struct Device {
    user: OwnedUserId,
    token_hash: String,
    since: Option<String>,
    /// What it knows of each joined room, in the order it was told.
    rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    account_data: AccountData,
}

/// Contents by room, `None` for the account, and type.
type AccountData = BTreeMap<(Option<OwnedRoomId>, String), String>;

struct Story {
    world: Rc<World>,
    rooms: Vec<OwnedRoomId>,
    devices: Vec<Device>,
    /// What each user's clients have kept.
    account_data: BTreeMap<OwnedUserId, AccountData>,
    sent: u64,
}

fn user_id(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:myelin.test")).unwrap()
}

impl Device {
    fn forgets_data(&mut self, room_id: &OwnedRoomId) {
        self.account_data.retain(|(of, _), _| of.as_ref() != Some(room_id));
    }
}

impl Story {
    fn begin(seed: u64) -> Self {
        let world = World::new(seed);
        let mut devices = Vec::new();
        for name in USERS {
            let user = user_id(name);
            for number in 0..DEVICES_EACH {
                let token_hash = format!("{name}{number}");
                let device = user::NewDevice::new(token_hash.to_uppercase(), token_hash.clone());
                if number == 0 {
                    let create = user::Create {
                        password_hash: Some("hash".to_owned()),
                        device: Some(device),
                        call_id: name.to_owned(),
                        ..user::Create::default()
                    };
                    world.call(user.as_str(), &create).unwrap();
                } else {
                    let log_in = user::LogIn { password_hash: "hash".to_owned(), device };
                    world.call(user.as_str(), &log_in).unwrap();
                }
                let (rooms, account_data) = (BTreeMap::new(), BTreeMap::new());
                devices.push(Device { user: user.clone(), token_hash, since: None, rooms, account_data });
            }
        }
        Self { world, rooms: Vec::new(), devices, account_data: BTreeMap::new(), sent: 0 }
    }

    fn creates_room(&mut self, creator: &UserId, version: &str) -> OwnedRoomId {
        let room_id = self.world.creates_room(creator, version, Preset::PublicChat);
        self.rooms.push(room_id.clone());
        room_id
    }

    fn sends(&mut self, sender: &UserId, room_id: &RoomId) -> Result<OwnedEventId, CallError> {
        self.sent += 1;
        let call = room::SendEvent {
            sender: sender.to_owned(),
            device: "PHONE".into(),
            transaction_id: Some(format!("t{}", self.sent).into()),
            call_id: None,
            event_type: "m.room.message".into(),
            content: to_raw_value(&serde_json::json!({ "body": self.sent, "msgtype": "m.text" })).unwrap(),
            state_key: None,
        };
        let first = self.world.call(room_id.as_str(), &call);
        if self.world.dice.roll(4) == 0 {
            // The answer was lost: the client repeats, perhaps to a room that was evicted meanwhile.
            if self.world.dice.roll(2) == 0 {
                self.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
            }
            let again = self.world.call(room_id.as_str(), &call);
            assert_eq!(first.as_ref().ok(), again.as_ref().ok(), "a repeated transaction made another event");
        }
        first
    }

    fn changes(&mut self, user: &UserId, room_id: &RoomId, action: MembershipAction) -> Result<(), CallError> {
        self.sent += 1;
        let call = room::ChangeMembership {
            call_id: format!("c{}", self.sent),
            sender: user.to_owned(),
            target: user.to_owned(),
            action,
            reason: None,
            profile: room::MemberProfile::default(),
        };
        self.world.call(room_id.as_str(), &call)
    }

    fn invites(&mut self, user: &UserId, target: &UserId, room_id: &RoomId) {
        self.sent += 1;
        let call = room::ChangeMembership {
            call_id: format!("c{}", self.sent),
            sender: user.to_owned(),
            target: target.to_owned(),
            action: MembershipAction::Invite,
            reason: None,
            profile: room::MemberProfile::default(),
        };
        self.world.call(room_id.as_str(), &call).unwrap();
    }

    fn renames(&mut self, user: &UserId) {
        self.sent += 1;
        let call = user::SetProfileField {
            token_hash: format!("{}0", user.localpart()),
            field: "displayname".to_owned(),
            value: Some(format!("{} {}", user.localpart(), self.sent).into()),
        };
        self.world.call(user.as_str(), &call).unwrap();
    }

    fn keeps(&mut self, user: &UserId, room_id: Option<OwnedRoomId>) {
        self.sent += 1;
        let event_type = format!("type{}", self.world.dice.roll(2));
        let content = format!(r#"{{"number":{}}}"#, self.sent);
        let call = user::SetAccountData {
            token_hash: format!("{}0", user.localpart()),
            room_id: room_id.clone(),
            event_type: event_type.clone(),
            content: RawValue::from_string(content.clone()).unwrap(),
        };
        self.world.call(user.as_str(), &call).unwrap();
        self.account_data.entry(user.to_owned()).or_default().insert((room_id, event_type), content);
    }

    /// One sync of a device, as the request tier does it; answers whether it brought anything.
    fn syncs(&mut self, index: usize, answer_is_lost: bool) -> bool {
        let mut device = self.devices[index].clone();
        let plan = SyncPlan {
            token_hash: device.token_hash.clone(),
            since: device.since.clone(),
            may_wait: true,
            ..SyncPlan::default()
        };
        let Some(plan) = self.world.asks(device.user.as_str(), &plan) else { return false };
        let (mut read, mut out) = (Vec::new(), Vec::new());
        for PlannedRoom { number, room_id, from } in plan.rooms {
            // A room that fails now and then is owed to the device.
            if self.world.lost_calls.get() > 0 && self.world.dice.roll(8) == 0 {
                read.push(ReadRoom { number, to: from.unwrap_or(0), failed: true, anew: false });
                continue;
            }
            let delta = room::Delta {
                user: device.user.clone(),
                device: plan.device.clone(),
                from,
                full_state: false,
                state_after: false,
                timeline: room::EventFilter { limit: Some(3), ..room::EventFilter::default() },
                state: room::EventFilter::default(),
                format: room::EventFormat::default(),
            };
            let reply = self.world.call(room_id.as_str(), &delta).unwrap();
            read.push(ReadRoom { number, to: reply.to, failed: false, anew: reply.anew });
            match reply.section {
                room::Section::Join => {
                    if reply.anew {
                        device.forgets_data(&room_id);
                    }
                    let synced: Synced = serde_json::from_str(reply.room.get()).unwrap();
                    self.takes(&mut device, &room_id, synced, from);
                }
                room::Section::Leave => {
                    device.rooms.remove(&room_id);
                    device.forgets_data(&room_id);
                    out.push(room_id);
                }
                room::Section::None => out.push(room_id),
            }
        }
        let close = SyncClose {
            token_hash: device.token_hash.clone(),
            since: device.since.clone(),
            position: plan.position,
            rooms: read,
        };
        let closed = self.world.call(device.user.as_str(), &close).unwrap();
        device.since = Some(closed.next_batch);
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
            self.devices[index] = device;
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
                from: Some(from.parse::<room::RoomToken>().unwrap().0),
                to: None,
                direction: room::Direction::Backwards,
                filter: room::EventFilter { limit: Some(2), ..room::EventFilter::default() },
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
        for event in synced.timeline.events {
            // A room joined anew since the token starts afresh, which only the server knows.
            assert!(!known.contains(&event.event_id), "{} saw {} twice", device.token_hash, event.event_id);
            known.push(event.event_id);
        }
    }

    fn anyone(&self) -> OwnedUserId {
        user_id(USERS[self.world.dice.roll(USERS.len() as u64) as usize])
    }

    fn any_room(&self) -> OwnedRoomId {
        self.rooms[self.world.dice.roll(self.rooms.len() as u64) as usize].clone()
    }

    fn something_happens(&mut self) {
        let (who, room_id) = (self.anyone(), self.any_room());
        match self.world.dice.roll(23) {
            0..=7 => drop(self.sends(&who, &room_id)),
            8 => drop(self.changes(&who, &room_id, MembershipAction::Join)),
            9 if self.world.dice.roll(3) == 0 => drop(self.changes(&who, &room_id, MembershipAction::Leave)),
            10..=14 => {
                let index = self.world.dice.roll(self.devices.len() as u64) as usize;
                let lost = self.world.dice.roll(5) == 0;
                self.syncs(index, lost);
            }
            15 => self.world.evict_any(),
            16 => self.world.passes(self.world.dice.roll(20_000)),
            17 => {
                let waiting = self.world.dice.roll(2) as usize;
                self.world.waiting.borrow_mut().insert(Address::new(ActorKind::User, who.as_str()), waiting);
            }
            18 if self.world.dice.roll(4) == 0 => self.world.crash(),
            19 => self.renames(&who),
            20 => self.keeps(&who, None),
            21 => self.keeps(&who, Some(room_id)),
            _ => self.world.settle(),
        }
    }

    /// Faults end, alarms ring, everyone syncs until nothing comes: then every device has seen everything.
    fn ends_well(&mut self, seed: u64) {
        self.world.lost_calls.set(0);
        self.world.broken_statements.set(0);
        for _ in 0..10 {
            self.world.passes(60_000);
        }
        for index in 0..self.devices.len() {
            let mut rounds = 0;
            while self.syncs(index, false) {
                rounds += 1;
                assert!(rounds < 20, "seed {seed}: a device syncs for ever");
                self.world.settle();
            }
        }
        for device in &self.devices {
            let joined = self
                .world
                .call(device.user.as_str(), &user::JoinedRooms { token_hash: device.token_hash.clone() })
                .unwrap();
            let mut kept = self.account_data.get(&device.user).cloned().unwrap_or_default();
            kept.retain(|(room_id, _), _| room_id.as_ref().is_none_or(|room_id| joined.contains(room_id)));
            assert_eq!(device.account_data, kept, "seed {seed}: {} lacks account data", device.token_hash);
            for room_id in &self.rooms {
                let since_join = self.since_join(room_id, &device.user);
                assert_eq!(
                    joined.contains(room_id),
                    since_join.is_some(),
                    "seed {seed}: {} and {room_id} disagree on membership",
                    device.user
                );
                if since_join.is_some() {
                    assert_eq!(self.name_in(room_id, &device.user), self.name_of(&device.user), "seed {seed}");
                }
                let Some(expected) = since_join else {
                    assert!(
                        !device.rooms.contains_key(room_id),
                        "seed {seed}: {} still shows a left room",
                        device.user
                    );
                    continue;
                };
                let known = device.rooms.get(room_id).map_or(&[][..], Vec::as_slice);
                let seen: Vec<_> = known.iter().filter(|event| expected.contains(event)).collect();
                assert_eq!(
                    seen,
                    expected.iter().collect::<Vec<_>>(),
                    "seed {seed}: {} has not seen all of {room_id} in order",
                    device.token_hash
                );
            }
        }
    }

    fn name_of(&self, user: &UserId) -> serde_json::Value {
        self.world.call(user.as_str(), &user::GetProfile {}).unwrap().remove("displayname").unwrap_or_default()
    }

    fn name_in(&self, room_id: &RoomId, user: &UserId) -> serde_json::Value {
        let call = room::GetStateEvent {
            user: self.rooms_creator(),
            device: "ANY".into(),
            event_type: "m.room.member".into(),
            state_key: user.to_string(),
        };
        let member = self.world.call(room_id.as_str(), &call).unwrap();
        let content: serde_json::Value = serde_json::from_str(member.content.get()).unwrap();
        content["displayname"].clone()
    }

    /// The room's log from the user's last join on; `None` if they are not in it.
    fn since_join(&self, room_id: &RoomId, user: &UserId) -> Option<Vec<OwnedEventId>> {
        #[derive(Deserialize)]
        struct Event {
            event_id: OwnedEventId,
            state_key: Option<String>,
            content: serde_json::Value,
        }
        let call = room::Messages {
            user: self.rooms_creator(),
            device: "ANY".into(),
            from: None,
            to: None,
            direction: room::Direction::Forwards,
            filter: room::EventFilter { limit: Some(1_000), ..room::EventFilter::default() },
        };
        let page = self.world.call(room_id.as_str(), &call).unwrap();
        assert!(page.end.is_none());
        let mut since = None;
        for event in page.chunk {
            let event: Event = serde_json::from_str(event.get()).unwrap();
            if event.state_key.as_deref() == Some(user.as_str()) {
                let joined = event.content["membership"] == "join";
                since = if joined { since.or_else(|| Some(Vec::new())) } else { None };
            }
            if let Some(since) = &mut since {
                since.push(event.event_id);
            }
        }
        since
    }

    /// Somebody who never leaves, and so sees everything.
    fn rooms_creator(&self) -> OwnedUserId {
        user_id("watcher")
    }
}

#[test]
fn who_goes_for_good_leaves_every_room_whatever_is_lost() {
    for seed in 1..=20 {
        println!("seed {seed}");
        let mut story = Story::begin(seed);
        let [host, goer] = [user_id(USERS[0]), user_id(USERS[1])];
        let rooms: Vec<_> = (0..4).map(|_| story.creates_room(&host, "12")).collect();
        for room in &rooms[..3] {
            story.invites(&host, &goer, room);
        }
        for room in &rooms[..2] {
            story.changes(&goer, room, MembershipAction::Join).unwrap();
        }
        story.world.settle();
        story.world.lost_calls.set(2);
        let call = user::Deactivate {
            token_hash: format!("{}0", goer.localpart()),
            password_hash: "hash".to_owned(),
            erase: false,
        };
        story.world.call(goer.as_str(), &call).unwrap();
        // Crashed before anything left, perhaps; and somebody invites who does not know yet.
        if seed % 2 == 0 {
            story.world.evict(&Address::new(ActorKind::User, goer.as_str()));
        }
        story.invites(&host, &goer, &rooms[3]);
        story.world.settle();
        story.world.lost_calls.set(0);
        for _ in 0..4 {
            story.world.call(goer.as_str(), &user::GetProfile {}).unwrap();
            story.world.passes(3_600_000);
        }
        for room in &rooms {
            let call = room::GetStateEvent {
                user: host.clone(),
                device: "D".into(),
                event_type: "m.room.member".into(),
                state_key: goer.to_string(),
            };
            let member = story.world.call(room.as_str(), &call).unwrap();
            assert_eq!(member.content.get(), r#"{"membership":"leave"}"#, "{room}");
        }
        let log_in = user::LogIn { password_hash: "hash".to_owned(), device: user::NewDevice::new("NEW", "new") };
        let outcome = story.world.call(goer.as_str(), &log_in);
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::UserDeactivated))), "{outcome:?}");
    }
}

fn tell(seed: u64, steps: usize, lost_calls: u64, broken_statements: u64) {
    // Shown when the story fails.
    println!("seed {seed}");
    let mut story = Story::begin(seed);
    let watcher = user_id("watcher");
    let create = user::Create { call_id: "watcher".to_owned(), ..user::Create::default() };
    story.world.call(watcher.as_str(), &create).unwrap();
    for version in ["12", "10", "11"] {
        story.creates_room(&watcher, version);
    }
    story.world.lost_calls.set(lost_calls);
    story.world.broken_statements.set(broken_statements);
    for _ in 0..steps {
        story.something_happens();
    }
    story.ends_well(seed);
}

/// How many stories are told: `MYELIN_SEEDS` for more than the usual.
fn seeds(usual: u64) -> u64 {
    std::env::var("MYELIN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual)
}

#[test]
fn every_device_sees_everything_once_and_in_order() {
    for seed in 1..=40 {
        tell(seed, 150, 0, 0);
    }
}

#[test]
fn lost_calls_evictions_and_crashes_lose_nothing() {
    for seed in 1_000..1_000 + seeds(60) {
        tell(seed, 200, 6, 0);
    }
}

#[test]
fn a_failing_disk_loses_nothing() {
    for seed in 2_000..2_000 + seeds(40) {
        tell(seed, 200, 10, 150);
    }
}
