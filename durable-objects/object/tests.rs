use std::{collections::BTreeSet, rc::Rc};

use domain::power::Preset;
use platform::{ActorKind, Address, Sql};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, UserId, user_id};
use serde::Serialize;
use serde_json::json;

use crate::{
    Call, CallError, appservice, destination,
    projection::{DirectoryEntry, Projection},
    room::{self, GetEvent, MembershipAction},
    user,
    world::{MemorySql, World},
};

const DAY_MS: u64 = 86_400_000;

fn alice() -> &'static UserId {
    user_id!("@alice:myelin.test")
}

fn bob() -> &'static UserId {
    user_id!("@bob:myelin.test")
}

/// A room, and what it has to do.
struct Busy {
    world: Rc<World>,
    room_id: OwnedRoomId,
    room: Address,
    sql: Rc<MemorySql>,
}

impl Busy {
    fn new(pairs: &[(&str, &str)]) -> Self {
        let world = World::configured(1, pairs);
        let room_id = world.creates_room(alice(), "12", Preset::PrivateChat);
        world.settle();
        let room = Address::new(ActorKind::Room, room_id.as_str());
        let sql = world.sql(&room);
        Self { world, room_id, room, sql }
    }

    fn says(&self, body: &str) -> OwnedEventId {
        self.world.sends(alice(), &self.room_id, "m.room.message", None, &json!({ "body": body })).unwrap()
    }

    fn reads(&self, event_id: &EventId) {
        let call = json!({ "user": alice(), "device": "PHONE", "event_id": event_id });
        let call: GetEvent = serde_json::from_value(call).unwrap();
        self.world.call(self.room_id.as_str(), &call).unwrap();
    }

    /// In how many milliseconds the alarm rings.
    fn rings_in(&self) -> Option<u64> {
        Some(self.world.rings_at(&self.room)?.saturating_sub(self.world.now_ms()))
    }

    fn number(&self, statement: &str) -> Option<u64> {
        self.sql.query(statement, &[]).unwrap().pop().map(|mut row| row.unsigned(0).unwrap())
    }

    /// In how many milliseconds an appointment is due.
    fn due_in(&self, what: &str) -> Option<u64> {
        let at_ms = self.number(&format!("SELECT at_ms FROM due WHERE what = '{what}'"))?;
        Some(at_ms.saturating_sub(self.world.now_ms()))
    }

    fn owed(&self) -> Option<u64> {
        self.number("SELECT count(*) FROM outbox")
    }
}

#[test]
fn what_fails_is_put_off_and_the_rest_happens() {
    let busy = Busy::new(&[("RETENTION", "on"), ("RETENTION_DEFAULT", "1d")]);
    let said = busy.says("a secret");
    busy.world.passes(DAY_MS);
    busy.world.unreachable.borrow_mut().insert(Address::new(ActorKind::User, bob().as_str()));
    busy.world.changes(alice(), &busy.room_id, bob(), MembershipAction::Invite).unwrap();
    busy.world.settle();
    assert_eq!(busy.owed(), Some(1), "the invitation");
    busy.world.unreachable.borrow_mut().clear();
    // An event that nobody understands any more is in the way of all that is old.
    let [id, json] = ["event_id", "json"].map(|column| {
        let statement = format!("SELECT {column} FROM event WHERE event_id = '{said}'");
        busy.sql.query(&statement, &[]).unwrap()[0].text(0).unwrap()
    });
    busy.sql.query("UPDATE event SET json = '{}' WHERE event_id = ?1", &[id.as_str().into()]).unwrap();
    // Owed besides: what nobody understands.
    let broken =
        "INSERT INTO outbox (id, kind, actor, call, body, attempts, due_ms) VALUES (1, 'metadata', '', ?1, '?', 0, 0)";
    busy.sql.query(broken, &[DirectoryEntry::NAME.into()]).unwrap();
    busy.world.passes(DAY_MS / 6);
    assert_eq!((busy.due_in("retention"), busy.owed()), (Some(30_000), Some(1)), "only what is broken is left");
    assert!(busy.due_in("outbox").is_some_and(|ms| ms > 10_000));
    let pauses: Vec<_> = (0..9)
        .map(|_| {
            busy.world.passes(busy.due_in("retention").unwrap());
            busy.due_in("retention").unwrap() / 1_000
        })
        .collect();
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
    busy.sql.query("UPDATE event SET json = ?2 WHERE event_id = ?1", &[id.into(), json.into()]).unwrap();
    busy.world.passes(3_600_000);
    assert_eq!(busy.number("SELECT count(*) FROM event WHERE json LIKE '%a secret%'"), Some(0));
}

#[test]
fn what_a_newer_release_scheduled_stays_for_it() {
    let busy = Busy::new(&[]);
    busy.sql.query("INSERT INTO due (what, at_ms) VALUES ('a newer thing', 1)", &[]).unwrap();
    busy.says("hello");
    busy.world.passes(60_000);
    assert_eq!(busy.due_in("a newer thing"), Some(3_600_000));
    let before = busy.world.alarms_set.get();
    (0..10).for_each(|_| busy.world.passes(60_000));
    assert!(busy.world.alarms_set.get() <= before + 1, "nothing spins");
    busy.world.passes(3_600_000);
    assert_eq!(busy.due_in("a newer thing"), Some(3_600_000));
}

#[test]
fn an_earlier_alarm_stands_whoever_forgot_what_it_was_for() {
    for owes_work in [false, true] {
        let busy = Busy::new(&[("RETENTION", "on"), ("RETENTION_DEFAULT", "1d")]);
        busy.says("hello");
        (0..3).for_each(|_| busy.world.passes(60_000));
        busy.says("hello again");
        if !owes_work {
            busy.sql.query("DELETE FROM due", &[]).unwrap();
        }
        // Whether everybody was told is looked at by an alarm that is on no schedule.
        assert_eq!(busy.rings_in(), Some(5_000));
        busy.world.evict(&busy.room);
        busy.world.sets_clock(busy.world.now_ms() + 4_000);
        busy.says("hello once more");
        assert_eq!(busy.rings_in(), Some(1_000), "work owed: {owes_work}");
    }
}

#[test]
fn who_wakes_sets_no_alarm_that_is_set() {
    let busy = Busy::new(&[("RETENTION", "on"), ("RETENTION_DEFAULT", "1d")]);
    let said = busy.says("hello");
    (0..3).for_each(|_| busy.world.passes(60_000));
    let (rings_in, alarms_set) = (busy.rings_in(), busy.world.alarms_set.get());
    assert!(rings_in.is_some_and(|ms| ms > DAY_MS) && rings_in == busy.due_in("retention"), "{rings_in:?}");
    busy.world.evict(&busy.room);
    busy.reads(&said);
    assert_eq!((busy.rings_in(), busy.world.alarms_set.get()), (rings_in, alarms_set));
    // What became of an alarm that is gone nobody knows: another one rings soon, and looks.
    busy.world.loses_alarm(&busy.room);
    busy.world.evict(&busy.room);
    busy.reads(&said);
    assert_eq!(busy.rings_in(), Some(5_000));
    (0..3).for_each(|_| busy.world.passes(5_000));
    assert_eq!(busy.rings_in(), busy.due_in("retention"));
    // One that is far too late does not come any more.
    busy.world.evict(&busy.room);
    busy.world.sets_clock(busy.world.now_ms() + 2 * DAY_MS);
    busy.reads(&said);
    assert_eq!(busy.rings_in(), Some(0));
}

/// Asks an actor that nobody founded.
fn is_absent<C: Call + Serialize>(id: &str, call: &C) {
    let world = World::new(1);
    assert!(matches!(world.call(id, call), Err(CallError::Absent)), "{}", C::NAME);
    let tables = world.sql(&Address::new(C::ACTOR, id)).query("SELECT name FROM sqlite_master", &[]).unwrap();
    assert!(tables.is_empty(), "{}", C::NAME);
}

#[test]
fn who_only_asks_lays_out_nothing() {
    is_absent("!room:myelin.test", &room::IsPublished {});
    is_absent("@alice:myelin.test", &user::PasswordHash {});
    is_absent("other.test", &destination::IsUp {});
    is_absent("&bridge", &appservice::IsUp {});
}

/// The words between `opens` and `closes`.
fn between<'a>(text: &'a str, opens: &'a str, closes: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(opens).skip(1).filter_map(move |rest| Some(rest.split_once(closes)?.0))
}

/// An actor's doc says what each of its calls is for.
#[test]
fn every_call_is_in_its_actors_table() {
    for source in [
        include_str!("../room/mod.rs"),
        include_str!("../user/mod.rs"),
        include_str!("../destination/mod.rs"),
        include_str!("../appservice/mod.rs"),
    ] {
        let rows = source.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(" | ").next());
        let told: BTreeSet<&str> = rows.flat_map(|calls| between(calls, "[`", "`]")).collect();
        let operations = between(source, "operations! { self, name;", "}").next().expect("it has operations");
        let calls = operations.lines().filter_map(|line| line.split_once(" => ")?.0.split_whitespace().nth(1));
        assert_eq!(told, calls.collect());
    }
}
