//! Who sees whom come and go, with actors that forget.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::{Refusal, power::Preset};
use platform::{ActorKind, Address};
use ruma_common::{OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

mod elsewhere;
mod idle;

use crate::{
    CallError,
    presence::PresenceState::{self, Offline, Online, Unavailable},
    room::{self, EventFilter},
    user::{self, SyncPresence, waited_until},
    world::{World, seeds},
};

/// How long the clients' syncs wait.
const TIMEOUT_MS: u64 = 30_000;
/// Longer than anybody counts as there without a sign of life.
const GONE_MS: u64 = 700_000;

fn user_id(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:myelin.test")).unwrap()
}

fn address(user: &UserId) -> Address {
    Address::new(ActorKind::User, user.as_str())
}

/// A device, as its client knows it.
struct Device {
    world: Rc<World>,
    user: OwnedUserId,
    token_hash: String,
    since: Option<String>,
    /// The most presences it takes at once.
    limit: Option<u64>,
    /// Whether its user's actor is evicted between the plan and the close of its next sync.
    forgets_before_closing: bool,
    /// The sync that waits: when it was asked, and how the device is there.
    waiting: Option<(u64, PresenceState)>,
    /// What it shows of others, and of its own user.
    sees: BTreeMap<OwnedUserId, PresenceState>,
    /// How many presences it was told.
    told: usize,
}

impl Device {
    fn of(world: &Rc<World>, name: &str, number: usize) -> Self {
        let (user, token_hash) = (user_id(name), format!("{name}{number}"));
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
            world.call(user.as_str(), &user::LogIn { password_hash: "hash".to_owned(), device }).unwrap();
        }
        let (since, limit, waiting) = (None, None, None);
        let (sees, forgets_before_closing) = (BTreeMap::new(), false);
        Self { world: world.clone(), user, token_hash, since, limit, forgets_before_closing, waiting, sees, told: 0 }
    }

    /// A sync that does not wait.
    fn syncs(&mut self, set: PresenceState) {
        self.world.passes(1);
        let asked_at_ms = self.world.now_ms();
        assert!(self.asks(set, asked_at_ms, 0), "a sync that does not wait is answered");
    }

    /// Syncs until a sync waits for something to come.
    fn waits(&mut self, set: PresenceState) {
        self.stops_waiting();
        for _ in 0..10 {
            self.world.passes(1);
            let asked_at_ms = self.world.now_ms();
            if !self.asks(set, asked_at_ms, TIMEOUT_MS) {
                self.waiting = Some((asked_at_ms, set));
                self.counts_as_waiting(true);
                return;
            }
        }
        panic!("{} is answered again and again", self.token_hash);
    }

    fn stops_waiting(&mut self) {
        if self.waiting.take().is_some() {
            self.counts_as_waiting(false);
        }
    }

    fn counts_as_waiting(&self, waits: bool) {
        let mut waiting = self.world.waiting.borrow_mut();
        let count = waiting.entry(address(&self.user)).or_default();
        *count = if waits { *count + 1 } else { *count - 1 };
    }

    /// The person behind it does something.
    fn acts(&self) {
        let verify = user::Verify { token_hash: self.token_hash.clone(), active: true, ignored: false };
        self.world.call(self.user.as_str(), &verify).unwrap();
        self.world.passes(0);
    }

    /// Asks the sync that waits again, as every wake does; once it is answered, or its time is up, the next one waits.
    fn goes_on(&mut self) {
        let Some((asked_at_ms, set)) = self.waiting else { return };
        let waited_ms = self.world.now_ms() - asked_at_ms;
        if self.asks(set, asked_at_ms, TIMEOUT_MS) {
            self.waits(set);
        } else if waited_ms >= TIMEOUT_MS {
            self.since = waited_until(self.since.as_deref().unwrap(), self.world.now_ms(), asked_at_ms);
            self.waits(set);
        }
    }

    fn asks(&mut self, set: PresenceState, asked_at_ms: u64, timeout_ms: u64) -> bool {
        let filter = EventFilter { limit: self.limit, ..EventFilter::default() };
        let presence = Some(SyncPresence { set, asked_at_ms, timeout_ms, filter });
        let is_first = self.since.is_none();
        let mut plan = user::SyncPlan {
            token_hash: self.token_hash.clone(),
            since: self.since.clone(),
            may_wait: is_first || timeout_ms > 0,
            presence: presence.clone(),
            ..user::SyncPlan::default()
        };
        let mut answer = self.world.asks(self.user.as_str(), &plan);
        if is_first && answer.is_none() {
            // A first sync waits a moment for the rooms.
            self.counts_as_waiting(true);
            self.world.passes(0);
            answer = self.world.asks(self.user.as_str(), &plan);
            self.counts_as_waiting(false);
            plan.may_wait = false;
            answer = answer.or_else(|| self.world.asks(self.user.as_str(), &plan));
        }
        let Some(plan) = answer else { return false };
        if plan.quiet {
            return true;
        }
        let read = plan.rooms.into_iter().map(|room| {
            let delta = json!({ "user": self.user, "device": plan.device, "from": room.from });
            let delta: room::Delta = serde_json::from_value(delta).unwrap();
            let to = self.world.call(room.room_id.as_str(), &delta).unwrap().to;
            user::ReadRoom {
                number: room.number,
                to,
                failed: false,
                anew: false,
                typing: None,
                left: false,
                untold: false,
            }
        });
        let close = user::SyncClose {
            token_hash: self.token_hash.clone(),
            since: self.since.clone(),
            position: plan.position,
            rooms: read.collect(),
            rooms_told: false,
            presence,
            without_messages: false,
        };
        if std::mem::take(&mut self.forgets_before_closing) {
            self.world.evict(&address(&self.user));
        }
        let closed = self.world.call(self.user.as_str(), &close).unwrap();
        self.since = Some(closed.next_batch);
        for event in closed.presence {
            #[derive(Deserialize)]
            struct Event {
                sender: OwnedUserId,
                content: Content,
            }
            #[derive(Deserialize)]
            struct Content {
                presence: PresenceState,
            }
            let event: Event = serde_json::from_str(event.get()).unwrap();
            self.sees.insert(event.sender, event.content.presence);
            self.told += 1;
        }
        true
    }

    fn sees(&self, name: &str) -> PresenceState {
        self.sees.get(&user_id(name)).copied().unwrap_or_default()
    }
}

/// Changes the user's own membership.
fn changes(world: &World, room_id: &OwnedRoomId, name: &str, action: room::MembershipAction) {
    world.changes(&user_id(name), room_id, &user_id(name), action).unwrap();
}

/// Two people in a room, each with a device that has synced and waits.
fn two_who_wait() -> (Rc<World>, OwnedRoomId, Device, Device) {
    let world = World::new(1);
    let (mut alice, mut bob) = (Device::of(&world, "alice", 0), Device::of(&world, "bob", 0));
    let room_id = world.creates_room(&alice.user, "12", Preset::PublicChat);
    changes(&world, &room_id, "bob", room::MembershipAction::Join);
    for device in [&mut alice, &mut bob] {
        device.syncs(Online);
        device.waits(Online);
    }
    world.passes(0);
    for _ in 0..3 {
        alice.goes_on();
        bob.goes_on();
        world.passes(0);
    }
    (world, room_id, alice, bob)
}

fn shown(world: &World, whom: &str, asker: &str, rooms: &[OwnedRoomId]) -> Result<PresenceState, CallError> {
    let call = user::GetPresence { asker: user_id(asker), rooms: rooms.to_vec() };
    Ok(world.call(user_id(whom).as_str(), &call)?.status.state)
}

/// Lets time pass as it does: in small steps, with everyone's syncs going on, and all who are online doing something.
fn passes(world: &World, ms: u64, devices: &mut [&mut Device]) {
    for _ in 0..ms / 10_000 {
        world.passes(10_000);
        let online = devices.iter().filter(|device| device.waiting.is_some_and(|(_, set)| set == Online));
        online.for_each(|device| device.acts());
        devices.iter_mut().for_each(|device| device.goes_on());
        world.passes(0);
        devices.iter_mut().for_each(|device| device.goes_on());
    }
}

#[test]
fn who_comes_and_goes_is_seen() {
    let (world, room_id, mut alice, mut bob) = two_who_wait();
    assert_eq!((alice.sees("bob"), bob.sees("alice"), alice.sees("alice")), (Online, Online, Online));
    alice.stops_waiting();
    passes(&world, GONE_MS, &mut [&mut bob]);
    assert_eq!((bob.sees("alice"), bob.sees("bob")), (Offline, Online));
    assert_eq!(shown(&world, "alice", "bob", std::slice::from_ref(&room_id)).unwrap(), Offline);
    alice.waits(Unavailable);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Unavailable);
    alice.goes_on();
    assert_eq!(alice.sees("bob"), Online, "it never changed");
}

#[test]
fn staying_costs_one_alarm_and_one_row_in_five_minutes() {
    let (world, _, mut alice, mut bob) = two_who_wait();
    // Nobody waits any longer for rooms that were asked.
    passes(&world, 20_000, &mut [&mut alice, &mut bob]);
    let told = (alice.told, bob.told);
    let (rows, alarms) = (world.rows_of(&address(&alice.user)), world.alarms_set.get());
    passes(&world, 570_000, &mut [&mut alice, &mut bob]);
    assert_eq!(world.rows_of(&address(&alice.user)), rows + 1, "what she did last");
    assert_eq!(world.alarms_set.get() - alarms, 2, "once for each of them");
    assert_eq!((alice.told, bob.told), told, "nobody is told what did not change");
}

#[test]
fn a_change_writes_one_row_of_the_users_and_none_of_anybody_elses() {
    let (world, room_id, alice, mut bob) = two_who_wait();
    let written = || {
        let room = Address::new(ActorKind::Room, room_id.as_str());
        [address(&alice.user), address(&bob.user), room].map(|address| world.rows_of(&address))
    };
    let [own, others, room] = written();
    let busy = user::SetPresence {
        token_hash: alice.token_hash.clone(),
        state: Unavailable,
        status_msg: Some("busy".to_owned()),
    };
    world.call(alice.user.as_str(), &busy).unwrap();
    world.passes(0);
    assert_eq!(written(), [own + 1, others, room]);
    world.call(alice.user.as_str(), &busy).unwrap();
    assert_eq!(written(), [own + 1, others, room], "nothing changed");
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Unavailable);
}

#[test]
fn those_who_wait_stay_through_every_loss_of_memory() {
    let (world, room_id, mut alice, mut bob) = two_who_wait();
    let mut rounds = |rounds: usize| {
        let told = (alice.told, bob.told);
        for _ in 0..rounds {
            world.passes(11_000);
            for address in [address(&alice.user), address(&bob.user), Address::new(ActorKind::Room, room_id.as_str())] {
                world.evict(&address);
            }
            for _ in 0..2 {
                alice.goes_on();
                bob.goes_on();
                world.passes(0);
            }
        }
        ((alice.sees("bob"), bob.sees("alice")), (alice.told - told.0, bob.told - told.1))
    };
    assert_eq!(rounds(25), ((Online, Online), (0, 0)), "nobody is told what did not change");
    assert_eq!(rounds(10), ((Unavailable, Unavailable), (2, 2)), "they did nothing for five minutes");
    assert_eq!(rounds(40), ((Unavailable, Unavailable), (0, 0)));
    // And the alarm still finds out who is gone.
    alice.stops_waiting();
    world.evict(&address(&alice.user));
    passes(&world, GONE_MS, &mut [&mut bob]);
    assert_eq!(bob.sees("alice"), Offline);
}

#[test]
fn of_two_devices_the_more_present_counts_whatever_is_forgotten() {
    let (world, _, mut alice, mut bob) = two_who_wait();
    let mut idle = Device::of(&world, "alice", 1);
    idle.syncs(Unavailable);
    let told = bob.told;
    for _ in 0..9 {
        idle.waits(Unavailable);
        world.passes(15_000);
        world.evict(&address(&alice.user));
        alice.waits(Online);
        world.passes(15_000);
        world.evict(&address(&alice.user));
        bob.goes_on();
    }
    assert_eq!((bob.sees("alice"), bob.told), (Online, told), "no flicker");
    alice.stops_waiting();
    passes(&world, GONE_MS, &mut [&mut bob, &mut idle]);
    assert_eq!(bob.sees("alice"), Unavailable);
}

#[test]
fn whoever_returns_sees_who_left_and_came_meanwhile() {
    let (world, room_id, mut alice, mut bob) = two_who_wait();
    let mut carol = Device::of(&world, "carol", 0);
    changes(&world, &room_id, "carol", room::MembershipAction::Join);
    bob.stops_waiting();
    passes(&world, GONE_MS, &mut [&mut alice]);
    alice.stops_waiting();
    passes(&world, GONE_MS, &mut []);
    carol.syncs(Online);
    carol.waits(Online);
    world.passes(0);
    world.crash();
    assert_eq!((bob.sees("alice"), bob.sees("carol")), (Online, Offline), "as it was");
    for set in [Offline, Online] {
        bob.waits(set);
        world.passes(0);
        bob.goes_on();
        world.passes(0);
        bob.goes_on();
        assert_eq!((bob.sees("alice"), bob.sees("carol")), (Offline, Online), "{set:?}");
    }
    assert_eq!(bob.told - bob.sees.len(), 3, "himself twice more, each of the others once: {:?}", bob.sees);
}

#[test]
fn a_first_sync_sees_who_is_there_whatever_is_forgotten() {
    let (world, _, _alice, _bob) = two_who_wait();
    world.crash();
    let mut tablet = Device::of(&world, "bob", 1);
    tablet.syncs(Online);
    assert_eq!((tablet.sees("bob"), tablet.sees("alice")), (Online, Online));
    // A memory that ends between the plan and the close is no reason to miss somebody.
    let mut phone = Device::of(&world, "bob", 2);
    phone.forgets_before_closing = true;
    phone.syncs(Online);
    assert_eq!(phone.sees("bob"), Online, "oneself at once");
    phone.waits(Online);
    world.passes(0);
    phone.goes_on();
    assert_eq!(phone.sees("alice"), Online);
}

#[test]
fn who_leaves_one_of_several_rooms_stays_there_for_those_in_another() {
    let (world, first, mut alice, mut bob) = two_who_wait();
    let second = world.creates_room(&alice.user, "12", Preset::PublicChat);
    changes(&world, &second, "bob", room::MembershipAction::Join);
    world.passes(0);
    bob.goes_on();
    // Of what Bob's actor remembers anew, only one room tells.
    world.evict(&address(&bob.user));
    changes(&world, &first, "alice", room::MembershipAction::Leave);
    changes(&world, &first, "alice", room::MembershipAction::Join);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Online);
    let told = bob.told;
    changes(&world, &first, "alice", room::MembershipAction::Leave);
    world.passes(0);
    bob.goes_on();
    assert_eq!((bob.sees("alice"), bob.told), (Online, told));
    alice.waits(Unavailable);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Unavailable);
    changes(&world, &second, "alice", room::MembershipAction::Leave);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Offline);
}

#[test]
fn who_logs_out_is_gone_at_once() {
    let (world, _, alice, mut bob) = two_who_wait();
    world.call(alice.user.as_str(), &user::LogOut { token_hash: alice.token_hash.clone(), all: false }).unwrap();
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Offline);
}

#[test]
fn only_those_in_the_room_see() {
    let (world, room_id, mut alice, mut bob) = two_who_wait();
    assert_eq!(shown(&world, "alice", "bob", std::slice::from_ref(&room_id)).unwrap(), Online);
    assert_eq!(shown(&world, "alice", "alice", &[]).unwrap(), Online);
    let refused = shown(&world, "alice", "bob", &[]);
    assert!(matches!(refused, Err(CallError::Refused(Refusal::Forbidden(_)))), "{refused:?}");
    changes(&world, &room_id, "bob", room::MembershipAction::Leave);
    world.passes(0);
    bob.goes_on();
    alice.goes_on();
    assert_eq!(alice.sees("bob"), Offline, "he is none of her business any more");
    alice.waits(Unavailable);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Online, "as it was");
    changes(&world, &room_id, "bob", room::MembershipAction::Join);
    world.passes(0);
    bob.goes_on();
    alice.goes_on();
    assert_eq!((bob.sees("alice"), alice.sees("bob")), (Unavailable, Online));
}

#[test]
fn a_new_name_is_told_with_the_presence() {
    let (world, _, alice, bob) = two_who_wait();
    let named = user::SetProfileField {
        token_hash: alice.token_hash.clone(),
        field: "displayname".to_owned(),
        value: Some("Alice".into()),
    };
    world.call(alice.user.as_str(), &named).unwrap();
    world.settle();
    let plan =
        user::SyncPlan { token_hash: bob.token_hash.clone(), since: bob.since.clone(), ..user::SyncPlan::default() };
    let position = world.asks(bob.user.as_str(), &plan).unwrap().position;
    let presence = SyncPresence {
        set: Online,
        asked_at_ms: world.now_ms(),
        timeout_ms: 0,
        filter: EventFilter { types: Some(vec!["m.presence".to_owned()]), limit: Some(1), ..EventFilter::default() },
    };
    let close = user::SyncClose {
        token_hash: bob.token_hash.clone(),
        since: bob.since.clone(),
        position,
        rooms: Vec::new(),
        rooms_told: false,
        presence: Some(presence),
        without_messages: false,
    };
    let closed = world.call(bob.user.as_str(), &close).unwrap();
    let event: Value = serde_json::from_str(closed.presence[0].get()).unwrap();
    assert_eq!((&event["sender"], &event["content"]["displayname"]), (&alice.user.as_str().into(), &"Alice".into()));
}

/// Everyone comes, goes, hides and leaves at random, and actors forget; in the end everyone sees what is so.
#[test]
fn in_the_end_everyone_sees_what_is_so() {
    for seed in 1..=seeds(25) {
        println!("seed {seed}");
        ends_well(seed);
    }
}

fn ends_well(seed: u64) {
    let world = World::new(seed);
    let names = ["alice", "bob", "carol"];
    let mut devices: Vec<Device> =
        names.iter().flat_map(|name| [0, 1].map(|number| Device::of(&world, name, number))).collect();
    for (number, device) in devices.iter_mut().enumerate() {
        // A limit leaves nobody out.
        device.limit = [None, Some(1), Some(2)][number % 3];
    }
    let rooms = [0, 1].map(|number| world.creates_room(&user_id(names[number]), "12", Preset::PublicChat));
    let mut members: BTreeSet<(usize, &str)> = [(0, "alice"), (1, "bob")].into();
    for _ in 0..150 {
        let index = world.dice.roll(devices.len() as u64) as usize;
        let set = [Online, Online, Unavailable, Offline][world.dice.roll(4) as usize];
        match world.dice.roll(10) {
            0..=2 => devices[index].waits(set),
            3 => devices[index].syncs(set),
            4 => devices[index].stops_waiting(),
            5 => {
                let (room, name) = (world.dice.roll(2) as usize, names[world.dice.roll(3) as usize]);
                let is_in = members.remove(&(room, name));
                if !is_in {
                    members.insert((room, name));
                }
                let action = if is_in { room::MembershipAction::Leave } else { room::MembershipAction::Join };
                changes(&world, &rooms[room], name, action);
            }
            6 => {
                // Memory ends where nothing happened for a while, and where that is late enough for all to be told.
                world.settle();
                world.passes(31_000);
                for _ in 0..3 {
                    devices.iter_mut().for_each(Device::goes_on);
                    world.passes(0);
                }
                world.evict_any();
            }
            7 | 8 => world.passes(world.dice.roll(40_000)),
            _ => world.passes(world.dice.roll(400_000)),
        }
        world.passes(0);
        // Whoever waits is woken by what comes.
        devices.iter_mut().for_each(Device::goes_on);
    }
    for device in &mut devices {
        device.waits(Online);
    }
    for _ in 0..6 {
        world.passes(5_000);
        devices.iter_mut().for_each(Device::goes_on);
    }
    for device in &devices {
        for name in names {
            let shares =
                |room: usize| members.contains(&(room, name)) && members.contains(&(room, device.user.localpart()));
            if (0..rooms.len()).any(shares) || device.user.localpart() == name {
                let own: Vec<_> = rooms.to_vec();
                let is = shown(&world, name, name, &own).unwrap();
                assert_eq!(device.sees(name), is, "seed {seed}: {} and {name}", device.token_hash);
            }
        }
    }
}
