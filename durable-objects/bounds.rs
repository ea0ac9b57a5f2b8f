//! What one operation takes in memory has a bound, however many and however large the events are that others wrote.

use std::rc::Rc;

use domain::power::Preset;
use platform::{ActorKind, Address, Sql};
use ruma_common::{OwnedRoomId, OwnedServerName, UserId, user_id};
use serde_json::json;

use crate::{
    room::{
        Direction, EventByTimestampForServer, GetForAppservice, GetNewestOutgoing, GetOutgoing, GetRelations,
        RoomToken, WantedEvents,
    },
    world::{MemorySql, World},
};

/// Events of a room whose people say a lot.
const EVENTS: u64 = 300;
const EVENT_BYTES: usize = 60_000;
/// What an operation may read at once: a page, and what is read to find its end.
const AT_ONCE_MAX: usize = 2 * 1024 * 1024;

const REGISTRATION: &str = r#"{ "id": "all", "url": "http://localhost:1", "as_token": "a", "hs_token": "h",
    "sender_localpart": "all", "namespaces": { "users": [{ "regex": "@alice:" }] } }"#;

fn alice() -> &'static UserId {
    user_id!("@alice:myelin.test")
}

fn there() -> OwnedServerName {
    "there.test".try_into().unwrap()
}

/// A room in which somebody says large things.
struct Loud {
    world: Rc<World>,
    room_id: OwnedRoomId,
    sql: Rc<MemorySql>,
    /// The last position before what is said.
    before: u64,
    root: String,
}

impl Loud {
    fn of(sender: &UserId) -> Self {
        let world = World::configured(1, &[("APPSERVICES", REGISTRATION)]);
        let room_id = world.creates_room(alice(), "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, user_id!("@zoe:there.test"));
        let root =
            world.sends(alice(), &room_id, "m.room.message", None, &json!({ "body": "root" })).unwrap().to_string();
        let before = world.head_of(&room_id);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let relation = json!({ "rel_type": "org.example", "event_id": root });
        let content = json!({ "body": "x".repeat(EVENT_BYTES), "m.relates_to": relation }).to_string();
        sql.query(
            "INSERT INTO event (position, event_id, type, sender, json)
             WITH RECURSIVE said (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM said WHERE n < ?1)
             SELECT ?2 + n, printf('$said%d', n), 'm.room.message', ?3,
             json_replace(json, '$.content', json(?4), '$.sender', ?3) FROM said, event WHERE position = ?2",
            &[EVENTS.into(), before.into(), sender.as_str().into(), content.into()],
        )
        .unwrap();
        world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
        Self { world, room_id, sql, before, root }
    }

    fn head(&self) -> u64 {
        self.before + EVENTS
    }

    /// What one call reads at most by one statement, and in all.
    fn reads<T>(&self, run: impl FnOnce() -> T) -> (usize, usize, T) {
        self.sql.bytes_at_once.set(0);
        let before = self.sql.bytes_read.get();
        let outcome = run();
        (self.sql.bytes_at_once.get(), self.sql.bytes_read.get() - before, outcome)
    }

    /// Calls that ask for page after page until `run` says that there is none behind it.
    #[track_caller]
    fn pages(&self, mut run: impl FnMut() -> (usize, bool)) {
        let mut all = 0;
        loop {
            let (at_once, in_all, (events, is_last)) = self.reads(&mut run);
            assert!(at_once < AT_ONCE_MAX && in_all < 2 * AT_ONCE_MAX, "{at_once} bytes at once, {in_all} in all");
            all += events;
            if is_last {
                break;
            }
            assert!(events > 0);
        }
        assert_eq!(all as u64, EVENTS);
    }
}

#[test]
fn what_goes_out_is_read_page_by_page() {
    let loud = Loud::of(alice());
    let mut after = loud.before;
    loud.pages(|| {
        let call = GetOutgoing { server: there(), after, up_to: loud.head(), limit: 1_000 };
        let page = loud.world.call(loud.room_id.as_str(), &call).unwrap();
        after = page.up_to;
        (page.events.len(), after == loud.head())
    });
    let call = GetNewestOutgoing { server: there(), after: loud.before, up_to: loud.head(), limit: 1_000 };
    let (at_once, _, page) = loud.reads(|| loud.world.call(loud.room_id.as_str(), &call).unwrap());
    assert!(at_once < AT_ONCE_MAX, "{at_once}");
    assert_eq!(page.up_to, loud.head());
    assert_eq!(page.events.len() as u64, loud.head() - page.after, "all from there on");
}

#[test]
fn of_what_others_say_nothing_is_read_for_others() {
    let loud = Loud::of(user_id!("@zoe:there.test"));
    let call = GetOutgoing { server: there(), after: loud.before, up_to: loud.head(), limit: 1_000 };
    let newest = GetNewestOutgoing { server: there(), after: loud.before, up_to: loud.head(), limit: 1_000 };
    let (_, bytes, ()) = loud.reads(|| {
        let page = loud.world.call(loud.room_id.as_str(), &call).unwrap();
        assert_eq!((page.events.len(), page.up_to), (0, loud.head()));
        assert!(loud.world.call(loud.room_id.as_str(), &newest).unwrap().events.is_empty());
    });
    assert!(bytes < EVENT_BYTES, "{bytes}");
}

#[test]
fn what_an_application_service_is_told_is_read_page_by_page() {
    let loud = Loud::of(alice());
    let mut after = loud.before;
    loud.pages(|| {
        let wanted = WantedEvents::Between { after, up_to: loud.head(), limit: 1_000 };
        let call = GetForAppservice { appservice: "all".to_owned(), wanted };
        let page = loud.world.call(loud.room_id.as_str(), &call).unwrap();
        after = page.up_to;
        (page.events.len(), after == loud.head())
    });
}

#[test]
fn relations_are_read_page_by_page() {
    let loud = Loud::of(alice());
    let mut from: Option<u64> = None;
    loud.pages(|| {
        let call: GetRelations = serde_json::from_value(json!({
            "user": alice(), "device": "PHONE", "event_id": loud.root, "direction": "backwards", "limit": 100,
            "from": from,
        }))
        .unwrap();
        let page = loud.world.call(loud.room_id.as_str(), &call).unwrap();
        from = page.next_batch.map(|token| token.parse::<RoomToken>().unwrap().0);
        (page.chunk.len(), from.is_none())
    });
}

#[test]
fn a_time_is_looked_for_in_small_steps() {
    let loud = Loud::of(alice());
    for direction in [Direction::Forwards, Direction::Backwards] {
        for ts_ms in [0, loud.world.now_ms(), u64::MAX >> 12] {
            let call = EventByTimestampForServer { server: there(), ts_ms, direction };
            let (at_once, ..) = loud.reads(|| loud.world.call(loud.room_id.as_str(), &call).unwrap());
            assert!(at_once < AT_ONCE_MAX, "{at_once}");
        }
    }
}
