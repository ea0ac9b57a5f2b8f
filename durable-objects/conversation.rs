//! Random conversations, with everything that can go wrong between actors going wrong.
//!
//! The model is small: what a device must have seen in the end is the room's log since its user joined, in order and
//! each event once, with the members it needs, every receipt that is its to see, what is unread as a room counts it that
//! remembers nothing, and nobody typing for ever, however often actors were evicted, calls and answers were lost, the host
//! died, people were kicked and banned, or a client went back to an older copy of all it knew, its sync token with it.

mod account_data;
mod device;
mod directory;

use std::{collections::BTreeMap, rc::Rc};

use domain::{Refusal, power::Preset};
use platform::{ActorKind, Address};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::to_raw_value;

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
        let copies = vec![Vec::new(); devices.len()];
        Self { world, rooms: Vec::new(), devices, copies, account_data, sent: 0, messages, receipts }
    }

    fn creates_room(&mut self, creator: &UserId, version: &str) -> OwnedRoomId {
        let room_id = self.world.creates_room(creator, version, Preset::PublicChat);
        self.rooms.push(room_id.clone());
        room_id
    }

    fn message(&mut self, sender: &UserId) -> room::SendEvent {
        self.sent += 1;
        room::SendEvent {
            sender: sender.to_owned(),
            device: "PHONE".into(),
            transaction_id: Some(format!("t{}", self.sent).into()),
            call_id: None,
            event_type: "m.room.message".into(),
            content: to_raw_value(&serde_json::json!({ "body": self.sent, "msgtype": "m.text" })).unwrap(),
            state_key: None,
            member_of: Vec::new(),
        }
    }

    fn sends(&mut self, sender: &UserId, room_id: &RoomId) -> Result<OwnedEventId, CallError> {
        let call = self.message(sender);
        let first = self.world.call(room_id.as_str(), &call);
        if self.world.dice.roll(4) == 0 {
            // The answer was lost: the client repeats, perhaps to a room that was evicted meanwhile.
            if self.world.dice.roll(2) == 0 {
                self.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
            }
            let again = self.world.call(room_id.as_str(), &call);
            assert_eq!(first.as_ref().ok(), again.as_ref().ok(), "a repeated transaction made another event");
        }
        if let Ok(event_id) = &first {
            self.messages.entry(room_id.to_owned()).or_default().push(event_id.clone());
        }
        first
    }

    fn reads(&mut self, user: &UserId, room_id: &RoomId) {
        let Some(messages) = self.messages.get(room_id) else { return };
        let (index, kind) = (self.world.dice.roll(messages.len() as u64) as usize, self.world.dice.roll(2));
        let kind = if kind == 0 { room::ReceiptKind::Public } else { room::ReceiptKind::Private };
        let thread = (self.world.dice.roll(3) == 0).then(|| "main".to_owned());
        let event_id = messages[index].clone();
        let call = room::MarkRead {
            user: user.to_owned(),
            device: "PHONE".into(),
            receipts: vec![room::NewReceipt { kind, event_id: event_id.clone(), thread: thread.clone() }],
            fully_read: None,
        };
        if self.world.call(room_id.as_str(), &call).is_err() {
            return;
        }
        let kind = serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned();
        let receipts = self.receipts.entry(room_id.to_owned()).or_default();
        let read = receipts.entry((user.to_owned(), kind, thread.unwrap_or_default())).or_insert(event_id.clone());
        if messages.iter().position(|message| message == read) < Some(index) {
            *read = event_id;
        }
    }

    fn types(&self, user: &UserId, room_id: &RoomId) {
        let timeout_ms = (self.world.dice.roll(3) > 0).then_some(30_000);
        // Whoever is not in the room is refused.
        drop(self.world.call(room_id.as_str(), &room::SetTyping { user: user.to_owned(), timeout_ms }));
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
            member_of: Vec::new(),
            guest: false,
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
            member_of: Vec::new(),
            guest: false,
        };
        self.world.call(room_id.as_str(), &call).unwrap();
    }

    /// Whoever may do everything does something to somebody. What makes no sense just then is refused.
    fn moderates(&self, target: &UserId, room_id: &RoomId) {
        use MembershipAction::{Ban, Invite, Kick, Unban};
        let action = [Kick, Ban, Unban, Unban, Invite][self.world.dice.roll(5) as usize];
        drop(self.world.changes(&self.rooms_creator(), room_id, target, action));
    }

    /// A client is restored from an older copy of all it knew, and syncs on from there.
    fn goes_back(&mut self) {
        let index = self.world.dice.roll(self.devices.len() as u64) as usize;
        let copies = &self.copies[index];
        if !copies.is_empty() {
            self.devices[index] = copies[self.world.dice.roll(copies.len() as u64) as usize].clone();
        }
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

    fn anyone(&self) -> OwnedUserId {
        user_id(USERS[self.world.dice.roll(USERS.len() as u64) as usize])
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
        for room_id in &self.rooms {
            self.is_shown_truly(room_id, seed);
        }
        for device in &self.devices {
            let joined = self
                .world
                .call(device.user.as_str(), &user::JoinedRooms { token_hash: device.token_hash.clone() })
                .unwrap();
            let mut kept = self.account_data.get(&device.user).cloned().unwrap_or_default();
            kept.retain(|(room_id, _), _| room_id.as_ref().is_none_or(|room_id| joined.contains(room_id)));
            kept.insert((None, "m.push_rules".to_owned()), self.kept(device, "m.push_rules"));
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
                let mut receipts = self.receipts.get(room_id).cloned().unwrap_or_default();
                receipts.retain(|(user, kind, _), _| kind == "m.read" || *user == device.user);
                let known = device.receipts.get(room_id).cloned().unwrap_or_default();
                assert_eq!(known, receipts, "seed {seed}: the receipts of {room_id} at {}", device.token_hash);
                for (user, member) in &device.members[room_id] {
                    assert_eq!(*member, self.member_in(room_id, user), "seed {seed}: at {}", device.token_hash);
                }
                let unread = self.unread(device, room_id);
                assert_eq!(device.unread.get(room_id), Some(&unread), "seed {seed}: {}", device.token_hash);
                let typing = device.typing.get(room_id).map_or(&[][..], Vec::as_slice);
                assert!(typing.is_empty(), "seed {seed}: {} shows {typing:?} typing for ever", device.token_hash);
            }
        }
    }

    fn name_of(&self, user: &UserId) -> serde_json::Value {
        self.world.call(user.as_str(), &user::GetProfile {}).unwrap().remove("displayname").unwrap_or_default()
    }

    fn name_in(&self, room_id: &RoomId, user: &UserId) -> serde_json::Value {
        self.member_in(room_id, user.as_str())["displayname"].clone()
    }

    fn member_in(&self, room_id: &RoomId, user: &str) -> serde_json::Value {
        let call = room::GetStateEvent {
            user: self.rooms_creator(),
            device: "ANY".into(),
            event_type: "m.room.member".into(),
            state_key: user.to_owned(),
        };
        let member = self.world.call(room_id.as_str(), &call).unwrap();
        serde_json::from_str(member.content.get()).unwrap()
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

/// A room with a message, where both are joined and have seen everything.
fn quiet_room(story: &mut Story) -> (OwnedUserId, OwnedUserId, OwnedRoomId) {
    let (alice, bob) = (user_id("alice"), user_id("bob"));
    story.has_a_watcher();
    let room_id = story.creates_room(&story.rooms_creator(), "12");
    for user in [&alice, &bob] {
        story.changes(user, &room_id, room::MembershipAction::Join).unwrap();
    }
    story.sends(&alice, &room_id).unwrap();
    story.world.settle();
    for index in 0..4 {
        while story.syncs(index, false) {}
    }
    (alice, bob, room_id)
}

#[test]
fn a_private_receipt_wakes_nobody_else() {
    let mut story = Story::begin(1);
    let (_, bob, room_id) = quiet_room(&mut story);
    let event_id = story.messages[&room_id][0].clone();
    let receipts =
        vec![room::NewReceipt { kind: room::ReceiptKind::Private, event_id: event_id.clone(), thread: None }];
    let call = room::MarkRead { user: bob.clone(), device: "PHONE".into(), receipts, fully_read: None };
    story.world.call(room_id.as_str(), &call).unwrap();
    let receipt = ((bob, "m.read.private".to_owned(), String::new()), event_id);
    story.receipts.insert(room_id.clone(), Receipts::from([receipt]));
    for evicted in [false, true] {
        if evicted {
            // Nor does the alarm that looks whether everyone was told, in a room that remembers nothing.
            story.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
        }
        story.world.settle();
        story.world.passes(60_000);
        for alices in 0..2 {
            assert!(!story.syncs(alices, false), "evicted: {evicted}");
        }
    }
    for bobs in 2..4 {
        assert!(story.syncs(bobs, false));
        assert!(!story.syncs(bobs, false));
    }
    // The room woken anew uses no position twice: what comes next is seen.
    story.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
    story.sends(&user_id("alice"), &room_id).unwrap();
    story.ends_well(1);
}

#[test]
fn typing_costs_no_row() {
    let mut story = Story::begin(2);
    let (alice, _, room_id) = quiet_room(&mut story);
    let before = story.world.rows_written();
    for timeout_ms in [Some(30_000), Some(30_000), None] {
        story.world.call(room_id.as_str(), &room::SetTyping { user: alice.clone(), timeout_ms }).unwrap();
        story.world.settle();
        for index in 0..4 {
            while story.syncs(index, false) {}
        }
    }
    assert_eq!(story.world.rows_written(), before);
    for device in &story.devices[..4] {
        assert_eq!(device.typing[&room_id], [] as [OwnedUserId; 0]);
    }
}

#[test]
fn a_message_and_a_receipt_cost_a_row_for_each_who_follows() {
    let mut story = Story::begin(3);
    let (alice, bob, room_id) = quiet_room(&mut story);
    let everyone_syncs = |story: &mut Story| {
        story.world.settle();
        for index in 0..4 {
            while story.syncs(index, false) {}
        }
    };
    let before = story.world.rows_written();
    story.sends(&alice, &room_id).unwrap();
    everyone_syncs(&mut story);
    // The event, the move of the room for the two who follow; an alarm stands already.
    assert_eq!(story.world.rows_written() - before, 3);
    let before = story.world.rows_written();
    let receipts = vec![room::NewReceipt {
        kind: room::ReceiptKind::Public,
        event_id: story.messages[&room_id][1].clone(),
        thread: None,
    }];
    let call = room::MarkRead { user: bob, device: "PHONE".into(), receipts, fully_read: None };
    story.world.call(room_id.as_str(), &call).unwrap();
    everyone_syncs(&mut story);
    assert_eq!(story.world.rows_written() - before, 3);
}

#[test]
fn a_count_that_is_forgotten_ends_somewhere() {
    let mut story = Story::begin(4);
    let (alice, _, room_id) = quiet_room(&mut story);
    let messages_max = room::UNREAD_SCAN_MAX;
    for _ in 0..messages_max / 10 + 1 {
        for _ in 0..10 {
            let message = story.message(&alice);
            story.world.call(room_id.as_str(), &message).unwrap();
        }
        story.world.settle();
        while story.syncs(2, false) {}
    }
    let bob = &story.devices[2];
    assert_eq!(bob.unread[&room_id]["notification_count"], messages_max + 11, "remembered, it goes on");
    assert_eq!(story.unread(bob, &room_id)["notification_count"], messages_max);
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
