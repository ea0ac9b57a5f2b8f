use std::{collections::BTreeSet, rc::Rc};

use domain::power::Preset;
use platform::{ActorKind, Address, Sql, Value};
use ruma_common::{OwnedRoomId, UserId, user_id};
use serde_json::json;

use super::{NUDGE_CHECK_MS, NUDGES_AT_ONCE, NUDGES_PER_INVOCATION_MAX, SILENCE_MS_MAX};
use crate::{
    room::MembershipAction,
    user,
    world::{World, seeds},
};

/// More than are told at once, and not a multiple.
const LISTENERS: usize = NUDGES_AT_ONCE * 2 + 30;

fn alice() -> &'static UserId {
    user_id!("@alice:myelin.test")
}

/// A room in which many listen.
struct Crowd {
    world: Rc<World>,
    room_id: OwnedRoomId,
    listeners: Vec<String>,
}

impl Crowd {
    fn gathers(seed: u64) -> Self {
        let world = World::new(seed);
        let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
        let mut listeners = Vec::new();
        for number in 0..LISTENERS {
            let user = UserId::parse(format!("@user{number}:myelin.test")).unwrap();
            world.call(user.as_str(), &user::Create { call_id: "new".to_owned(), ..user::Create::default() }).unwrap();
            world.changes(&user, &room_id, &user, MembershipAction::Join).unwrap();
            world.settle();
            world.waiting.borrow_mut().insert(Address::new(ActorKind::User, user.as_str()), 1);
            listeners.push(user.to_string());
        }
        let crowd = Self { world, room_id, listeners };
        // As if each had read.
        crowd.sql("DELETE FROM meta WHERE key = 'silent'", &[]);
        crowd.world.passes(NUDGE_CHECK_MS);
        crowd.world.spawned_at_once.set(0);
        crowd.world.nudges.borrow_mut().clear();
        crowd
    }

    fn room(&self) -> Address {
        Address::new(ActorKind::Room, self.room_id.as_str())
    }

    /// Changes the room's database behind its back.
    fn sql(&self, statement: &str, params: &[Value]) {
        self.world.evict(&self.room());
        self.world.sql(&self.room()).query(statement, params).unwrap();
    }

    /// A message; answers its position.
    fn hears(&self) -> u64 {
        self.world.sends(alice(), &self.room_id, "m.room.message", None, &json!({ "body": "hello" })).unwrap();
        let head = self.world.sql(&self.room()).query("SELECT max(position) FROM event", &[]);
        head.unwrap()[0].unsigned(0).unwrap()
    }

    /// Who was told of a position, and nothing older after it.
    fn told(&self, position: u64) -> BTreeSet<String> {
        let nudges = self.world.nudges.borrow();
        let told = nudges.iter().filter(|(_, nudges)| nudges.last() == Some(&position));
        told.map(|(user, _)| user.clone()).filter(|user| self.listeners.contains(user)).collect()
    }

    fn everybody(&self) -> BTreeSet<String> {
        self.listeners.iter().cloned().collect()
    }

    fn nudges(&self) -> usize {
        self.world.nudges.borrow().values().map(Vec::len).sum()
    }
}

#[test]
fn however_many_listen_few_are_told_at_once() {
    let crowd = Crowd::gathers(1);
    for _ in 0..2 {
        let position = crowd.hears();
        assert_eq!(crowd.told(position), BTreeSet::new(), "the sender does not wait for that");
        crowd.world.settle();
        assert_eq!(crowd.told(position), crowd.everybody());
        assert_eq!(crowd.world.spawned_at_once.get(), NUDGES_AT_ONCE);
    }
    let others = crowd.nudges() - LISTENERS * 2;
    assert!(others <= 2, "each once for each message: {others} more");
}

#[test]
fn who_cannot_be_reached_holds_up_nobody() {
    let crowd = Crowd::gathers(2);
    // Some of the first in the order, some of the last, more than are told at once.
    let lost: BTreeSet<String> = crowd.everybody().into_iter().step_by(2).collect();
    assert!(lost.len() > NUDGES_AT_ONCE);
    *crowd.world.unreachable.borrow_mut() = lost.iter().map(|user| Address::new(ActorKind::User, user)).collect();
    let position = crowd.hears();
    crowd.world.settle();
    assert_eq!(crowd.told(position), &crowd.everybody() - &lost);
    crowd.world.unreachable.borrow_mut().clear();
    let position = crowd.hears();
    crowd.world.settle();
    assert_eq!(crowd.told(position), &crowd.everybody() - &lost, "they are left alone for a while");
    crowd.world.passes(NUDGE_CHECK_MS);
    assert_eq!(crowd.told(position), crowd.everybody());
    assert!(crowd.world.spawned_at_once.get() <= NUDGES_AT_ONCE);
}

#[test]
fn what_happens_during_a_round_reaches_everybody() {
    let crowd = Crowd::gathers(3);
    crowd.hears();
    (0..NUDGES_AT_ONCE + 20).for_each(|_| assert!(crowd.world.works()));
    let position = crowd.hears();
    assert_eq!(crowd.told(position), BTreeSet::new());
    crowd.world.settle();
    assert_eq!(crowd.told(position), crowd.everybody());
    assert!(crowd.world.spawned_at_once.get() <= NUDGES_AT_ONCE);
    // Those who were not told of the first yet learn of both at once.
    assert!(crowd.nudges() < LISTENERS * 2, "{} nudges", crowd.nudges());
}

#[test]
fn a_round_that_was_cut_off_begins_anew() {
    let crowd = Crowd::gathers(4);
    let position = crowd.hears();
    (0..NUDGES_AT_ONCE + 20).for_each(|_| assert!(crowd.world.works()));
    crowd.world.evict(&crowd.room());
    crowd.world.settle();
    assert!(crowd.told(position).len() < LISTENERS);
    crowd.world.passes(NUDGE_CHECK_MS);
    assert_eq!(crowd.told(position), crowd.everybody());
    assert!(crowd.world.spawned_at_once.get() <= NUDGES_AT_ONCE);
}

#[test]
fn everybody_is_told_whatever_is_lost() {
    for seed in 1..=seeds(2) {
        println!("seed {seed}");
        let crowd = Crowd::gathers(seed);
        let dice = &crowd.world.dice;
        crowd.world.lost_calls.set(6);
        crowd.world.broken_statements.set(if seed % 2 == 0 { 300 } else { 0 });
        let mut position = 0;
        for _ in 0..200 {
            match dice.roll(20) {
                0..=1 => position = crowd.hears(),
                2 if dice.roll(3) == 0 => crowd.world.evict(&crowd.room()),
                3 => crowd.world.evict_any(),
                4 => crowd.world.passes(dice.roll(2 * NUDGE_CHECK_MS)),
                _ => {
                    let works = dice.roll(50);
                    (0..works).all(|_| crowd.world.works());
                }
            }
        }
        crowd.world.lost_calls.set(0);
        crowd.world.broken_statements.set(0);
        (0..20).for_each(|_| crowd.world.passes(60_000));
        assert_eq!(crowd.told(position), crowd.everybody());
    }
}

#[test]
fn a_long_round_goes_on_with_the_alarm() {
    let world = World::new(5);
    let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
    let (crowd, many) = (Crowd { world, room_id, listeners: Vec::new() }, NUDGES_PER_INVOCATION_MAX as u64 + 500);
    crowd.world.crowds(&crowd.room_id, many);
    crowd.sql("UPDATE member SET follower = CAST(substr(user_id, 6) AS INTEGER) + 8 WHERE user_id LIKE '@user%'", &[]);
    crowd.sql("UPDATE meta SET value = ?1 WHERE key = 'followers'", &[(many + 9).into()]);
    crowd.hears();
    crowd.world.settle();
    assert_eq!(crowd.nudges(), NUDGES_PER_INVOCATION_MAX);
    // Without letting time go by.
    crowd.world.passes(0);
    assert!(crowd.nudges() as u64 >= many, "{} of {many} nudges", crowd.nudges());
    assert_eq!(crowd.world.spawned_at_once.get(), NUDGES_AT_ONCE);
}

#[test]
fn silence_ends_after_a_while_whoever_asked_for_it() {
    let world = World::new(6);
    let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
    let bob = user_id!("@bob:myelin.test");
    world.call(bob.as_str(), &user::Create { call_id: "new".to_owned(), ..user::Create::default() }).unwrap();
    world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
    world.settle();
    let crowd = Crowd { world, room_id, listeners: vec![bob.to_string()] };
    let is_told = || {
        crowd.world.nudges.borrow_mut().clear();
        crowd.hears();
        crowd.world.settle();
        crowd.world.nudges.borrow().contains_key(bob.as_str())
    };
    // Bob is nowhere: told once, he is silent.
    crowd.world.passes(NUDGE_CHECK_MS);
    is_told();
    assert!(!is_told());
    // A room that is woken in time goes by what is stored, …
    crowd.world.evict(&crowd.room());
    crowd.world.passes(SILENCE_MS_MAX - 2 * NUDGE_CHECK_MS);
    assert!(!is_told());
    // … and in the end he is told again, be it awake or not, and silent again.
    for is_woken in [false, true] {
        if is_woken {
            crowd.world.evict(&crowd.room());
        }
        crowd.world.now_ms.set(crowd.world.now_ms.get() + SILENCE_MS_MAX);
        assert!(is_told(), "{is_woken}");
        assert!(!is_told(), "{is_woken}");
    }
}
