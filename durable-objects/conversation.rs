//! Random conversations, with everything that can go wrong between actors going wrong.
//!
//! The model is small: what a device must have seen in the end is the room's log since its user joined, in order and
//! each event once, with the members it needs, every receipt that is its to see, what is unread as a room counts it
//! that remembers nothing, and nobody typing for ever, however often actors were evicted, calls and answers were lost,
//! the host died, people were kicked and banned, or a client went back to an older copy of all it knew, its sync token
//! with it. And whoever reads, at any time and in any way, finds what the rules of history visibility let them see, all
//! of it and no more, and nothing of what was redacted; rooms are opened and closed, forgotten and upgraded meanwhile.

mod account_data;
mod costs;
mod device;
mod directory;
mod ending;
mod past;
mod people;
mod reading;
mod visibility;

use std::{collections::BTreeMap, rc::Rc};

use domain::{Refusal, power::Preset};
use platform::{ActorKind, Address};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};

use crate::{
    CallError,
    room::{self, MembershipAction},
    user,
    world::{World, seeds},
};
use device::{AccountData, Device, Receipts};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const DEVICES_EACH: usize = 2;
/// Members who have no device here: more than describe a room.
const OTHERS: u64 = 6;

struct Story {
    world: Rc<World>,
    rooms: Vec<OwnedRoomId>,
    devices: Vec<Device>,
    /// Copies of each device from before: what its client may be restored from.
    copies: Vec<Vec<Device>>,
    /// What each user's clients have kept.
    account_data: BTreeMap<OwnedUserId, AccountData>,
    sent: u64,
    /// The messages of each room, in their order, and how far they were read.
    messages: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    receipts: BTreeMap<OwnedRoomId, Receipts>,
    /// What was redacted in each room, and may be found nowhere.
    redacted: BTreeMap<OwnedRoomId, Vec<String>>,
    /// How long the log of a room was when somebody forgot it.
    forgotten: BTreeMap<(OwnedRoomId, OwnedUserId), usize>,
}

fn user_id(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:myelin.test")).unwrap()
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
                devices.push(Device {
                    user: user.clone(),
                    token_hash,
                    since: None,
                    rooms: BTreeMap::new(),
                    account_data: BTreeMap::new(),
                    receipts: BTreeMap::new(),
                    typing: BTreeMap::new(),
                    unread: BTreeMap::new(),
                    members: BTreeMap::new(),
                });
            }
        }
        let (account_data, messages, receipts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (rooms, redacted, forgotten) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let copies = vec![Vec::new(); devices.len()];
        Self { world, rooms, devices, copies, account_data, sent: 0, messages, receipts, redacted, forgotten }
    }

    fn creates_room(&mut self, creator: &UserId, version: &str) -> OwnedRoomId {
        let room_id = self.world.creates_room(creator, version, Preset::PublicChat);
        self.rooms.push(room_id.clone());
        room_id
    }

    fn anyone(&self) -> OwnedUserId {
        user_id(USERS[self.world.dice.roll(USERS.len() as u64) as usize])
    }

    /// Anyone, or a member who has no device, or a stranger.
    fn somebody(&self) -> OwnedUserId {
        match self.world.dice.roll(5) {
            0 => user_id("stranger"),
            1 => user_id("other0"),
            _ => self.anyone(),
        }
    }

    fn any_room(&self) -> OwnedRoomId {
        self.rooms[self.world.dice.roll(self.rooms.len() as u64) as usize].clone()
    }

    fn something_happens(&mut self) {
        let (who, room_id) = (self.anyone(), self.any_room());
        if self.world.dice.roll(16) == 0 {
            return self.moves_in_directory(&room_id);
        }
        match self.world.dice.roll(60) {
            0..=1 => return self.moderates(&who, &room_id),
            2..=3 => return self.goes_back(),
            4..=9 => return self.something_becomes_of(&who, &room_id),
            10 => return self.is_read_truly(&self.somebody(), &room_id),
            _ => {}
        }
        match self.world.dice.roll(30) {
            0..=4 => drop(self.sends(&who, &room_id)),
            5..=7 => {
                let other = user_id(&format!("other{}", self.world.dice.roll(OTHERS)));
                drop(self.sends(&other, &room_id));
            }
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
            29 => self.rules(&who),
            21 => self.keeps(&who, Some(room_id)),
            22..=25 => self.reads(&who, &room_id),
            26..=27 => self.types(&who, &room_id),
            _ => self.world.settle(),
        }
    }

    fn has_a_watcher(&self) {
        let create = user::Create { call_id: "watcher".to_owned(), ..user::Create::default() };
        self.world.call(self.rooms_creator().as_str(), &create).unwrap();
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
    story.has_a_watcher();
    let watcher = story.rooms_creator();
    for version in ["12", "10", "11"] {
        let room_id = story.creates_room(&watcher, version);
        for number in 0..OTHERS {
            let other = user_id(&format!("other{number}"));
            story.changes(&other, &room_id, MembershipAction::Join).unwrap();
        }
        story.publishes(&room_id, true);
    }
    story.world.lost_calls.set(lost_calls);
    story.world.broken_statements.set(broken_statements);
    for _ in 0..steps {
        story.something_happens();
    }
    story.ends_well(seed);
}

#[test]
fn every_device_sees_everything_once_and_in_order() {
    for seed in 1..=seeds(20) {
        tell(seed, 150, 0, 0);
    }
}

#[test]
fn lost_calls_evictions_and_crashes_lose_nothing() {
    for seed in 1_000..1_000 + seeds(30) {
        tell(seed, 200, 6, 0);
    }
}

#[test]
fn a_failing_disk_loses_nothing() {
    for seed in 4_000..4_000 + seeds(20) {
        tell(seed, 200, 10, 150);
    }
}
