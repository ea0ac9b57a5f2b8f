use std::rc::Rc;

use domain::power::Preset;
use platform::{ActorKind, Address, Sql};
use ruma_common::{OwnedRoomId, UserId, user_id};
use serde_json::json;

use crate::{
    projection::{DirectoryEntry, Projection},
    room::MembershipAction,
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
    sql: Rc<MemorySql>,
}

impl Busy {
    fn new(pairs: &[(&str, &str)]) -> Self {
        let world = World::configured(1, pairs);
        let room_id = world.creates_room(alice(), "12", Preset::PrivateChat);
        world.settle();
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        Self { world, room_id, sql }
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
    let say = || busy.world.sends(alice(), &busy.room_id, "m.room.message", None, &json!({ "body": "a secret" }));
    let said = say().unwrap();
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
    busy.world.sends(alice(), &busy.room_id, "m.room.message", None, &json!({ "body": "hello" })).unwrap();
    busy.world.passes(60_000);
    assert_eq!(busy.due_in("a newer thing"), Some(3_600_000));
    let before = busy.world.alarms_set.get();
    (0..10).for_each(|_| busy.world.passes(60_000));
    assert!(busy.world.alarms_set.get() <= before + 1, "nothing spins");
    busy.world.passes(3_600_000);
    assert_eq!(busy.due_in("a newer thing"), Some(3_600_000));
}
