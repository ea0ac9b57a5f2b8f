use std::rc::Rc;

use domain::power::Preset;
use ruma_common::{OwnedRoomId, OwnedUserId, room_id, user_id};
use serde_json::value::to_raw_value;

use super::{
    AWAY_FAILURES, Acknowledge, Attempt, IsUp, LEASE_MS, PAUSE_MS_MAX, PAUSE_MS_MIN, Range, ReportFailure,
    STRANGER_FAILURES_MAX, StartAttempt, StopCarrying, TakeWork, Work,
};
use crate::{
    CallError,
    destination::{GetEdus, QueueEdu, RoomMoved},
    world::World,
};

const THERE: &str = "there.test";

fn moves(world: &World, to: u64) {
    world
        .call(THERE, &RoomMoved { room_id: room_id!("!r:myelin.test").to_owned(), since: 10, to, left: false })
        .unwrap();
}

fn take(world: &World, carrier: &str) -> Work {
    world.call(THERE, &TakeWork { carrier: carrier.to_owned() }).unwrap()
}

fn start(world: &World, carrier: &str, up_to: u64) -> Option<Attempt> {
    let Work::Owed(owed) = take(world, carrier) else { return None };
    let ranges = owed.into_iter().map(|range| Range { up_to, ..range }).collect();
    world.call(THERE, &StartAttempt { carrier: carrier.to_owned(), ranges, edus_up_to: None }).unwrap()
}

fn acknowledges(world: &World, attempt: &Attempt) {
    let transaction_id = attempt.transaction_id.clone();
    world
        .call(THERE, &Acknowledge { carrier: "one".to_owned(), transaction_id, edus_up_to: None, was_empty: false })
        .unwrap();
}

fn is_called(world: &World) -> bool {
    !world.carriers.take().is_empty()
}

fn world() -> Rc<World> {
    World::new(1)
}

/// A carrier has read an EDU, and another one takes its place before the attempt is stored: what was read must not
/// count as what is there now.
#[test]
fn an_edu_in_the_place_of_one_that_was_read_is_told_too() {
    let world = world();
    let queues = |text: &str| {
        let edu = to_raw_value(text).unwrap();
        world.call(THERE, &QueueEdu { key: "same".to_owned(), edu }).unwrap();
    };
    let mut last = None;
    for replaced in ["1", "2", "3"] {
        queues(replaced);
        take(&world, "one");
        let read = world.call(THERE, &GetEdus { up_to: None }).unwrap();
        assert!(read.up_to > last, "{:?} after {last:?}", read.up_to);
        queues("new");
        let call = StartAttempt { carrier: "one".to_owned(), ranges: Vec::new(), edus_up_to: read.up_to };
        acknowledges(&world, &world.call(THERE, &call).unwrap().unwrap());
        let left = world.call(THERE, &GetEdus { up_to: None }).unwrap();
        assert_eq!(left.edus.iter().map(|edu| edu.get()).collect::<Vec<_>>(), ["\"new\""]);
        take(&world, "one");
        let call = StartAttempt { carrier: "one".to_owned(), ranges: Vec::new(), edus_up_to: left.up_to };
        acknowledges(&world, &world.call(THERE, &call).unwrap().unwrap());
        last = left.up_to;
    }
}

#[test]
fn a_server_that_was_away_for_long_gets_the_newest_until_it_has_all() {
    let world = world();
    moves(&world, 30);
    let fails = |times: u32| {
        for _ in 0..times {
            while !matches!(take(&world, "one"), Work::Owed(_) | Work::Missed(_)) {
                world.passes(10_000);
            }
            world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None, answered: None }).unwrap();
        }
    };
    fails(AWAY_FAILURES - 1);
    world.call(THERE, &IsUp {}).unwrap();
    assert!(matches!(take(&world, "one"), Work::Owed(_)), "it was down for a moment");
    fails(1);
    world.call(THERE, &IsUp {}).unwrap();
    let Work::Missed(missed) = take(&world, "one") else { panic!("it was away") };
    // What is left out counts as sent once the rest is.
    let ranges = vec![Range { after: 25, ..missed[0].clone() }];
    let call = StartAttempt { carrier: "one".to_owned(), ranges, edus_up_to: None };
    let attempt = world.call(THERE, &call).unwrap().unwrap();
    assert_eq!(take(&world, "one"), Work::Repeat(attempt.clone()));
    acknowledges(&world, &attempt);
    // What came meanwhile, too.
    moves(&world, 40);
    let Work::Missed(missed) = take(&world, "one") else { panic!("it has not got all yet") };
    assert_eq!((missed[0].after, missed[0].up_to), (30, 40));
    let call = StartAttempt { carrier: "one".to_owned(), ranges: missed, edus_up_to: None };
    acknowledges(&world, &world.call(THERE, &call).unwrap().unwrap());
    assert_eq!(take(&world, "one"), Work::Nothing);
    moves(&world, 50);
    assert!(matches!(take(&world, "one"), Work::Owed(_)), "from now on everything");
}

#[test]
fn what_was_sent_is_sent_again_until_it_is_acknowledged() {
    let world = world();
    assert!(matches!(world.call(THERE, &IsUp {}), Err(CallError::Absent)), "strangers make no storage");
    moves(&world, 30);
    assert!(is_called(&world));
    let attempt = start(&world, "one", 20).unwrap();
    assert_eq!(attempt.ranges[0].after, 10);
    // Nobody else sends meanwhile, and what comes meanwhile waits.
    assert_eq!(take(&world, "two"), Work::Nothing);
    moves(&world, 40);
    assert_eq!(take(&world, "one"), Work::Repeat(attempt.clone()));
    // The carrier dies: another one is called, and repeats the same.
    is_called(&world);
    world.evict(&platform::Address::new(platform::ActorKind::Destination, THERE));
    world.passes(LEASE_MS + 1);
    assert!(!is_called(&world), "the server may be what it died of");
    world.passes(2 * PAUSE_MS_MIN);
    assert!(is_called(&world));
    assert_eq!(take(&world, "two"), Work::Repeat(attempt.clone()));
    acknowledges(&world, &attempt);
    acknowledges(&world, &attempt);
    let next = start(&world, "two", 40).unwrap();
    assert_eq!((next.ranges[0].after, next.ranges[0].up_to), (20, 40));
    assert!(next.transaction_id.parse::<u64>().unwrap() > attempt.transaction_id.parse().unwrap());
    acknowledges(&world, &next);
    assert_eq!(take(&world, "two"), Work::Nothing);
    moves(&world, 40);
    world.passes(10 * LEASE_MS);
    assert!(!is_called(&world), "it is quiet in the end");
}

#[test]
fn a_carrier_that_stops_leaves_the_rest_to_the_next_one_at_once() {
    let world = world();
    moves(&world, 30);
    let attempt = start(&world, "one", 20).unwrap();
    acknowledges(&world, &attempt);
    is_called(&world);
    let stops = |carrier: &str| {
        world.call(THERE, &StopCarrying { carrier: carrier.to_owned() }).unwrap();
        assert!(!is_called(&world), "whoever calls a carrier was not called by one");
        world.passes(0);
    };
    stops("two");
    assert!(!is_called(&world), "who does not carry has nothing to leave");
    assert_eq!(take(&world, "two"), Work::Nothing);
    stops("one");
    assert!(is_called(&world));
    assert_eq!(start(&world, "two", 30).unwrap().ranges[0].after, 20);
    stops("one");
    assert_eq!(take(&world, "one"), Work::Nothing, "it is the other one's now");
}

/// A host may end carriers that wait too long, and then nobody says that the server did not answer.
#[test]
fn a_server_that_carriers_die_of_is_left_alone_for_longer_each_time() {
    let world = world();
    moves(&world, 30);
    let attempt = start(&world, "0", 30).unwrap();
    let mut pauses = Vec::new();
    for carrier in 1..=6 {
        world.passes(LEASE_MS + 1);
        assert_eq!(take(&world, &carrier.to_string()), Work::Nothing);
        is_called(&world);
        let before_ms = world.now_ms();
        while !is_called(&world) {
            world.passes(500);
        }
        pauses.push(world.now_ms() - before_ms);
        assert_eq!(take(&world, &carrier.to_string()), Work::Repeat(attempt.clone()));
    }
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    // One that had nothing on its way is no bad sign.
    acknowledges(&world, &attempt);
    moves(&world, 40);
    assert!(matches!(take(&world, "6"), Work::Owed(_)));
    world.passes(LEASE_MS + 1);
    assert!(matches!(take(&world, "7"), Work::Owed(_)));
}

#[test]
fn who_does_not_answer_is_left_alone_until_they_are_heard_of() {
    let world = world();
    moves(&world, 30);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        start(&world, "one", 30);
        world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None, answered: None }).unwrap();
        is_called(&world);
        let before_ms = world.now_ms();
        while !is_called(&world) {
            assert_eq!(take(&world, "one"), Work::Nothing);
            world.passes(1_000);
        }
        pauses.push(world.now_ms() - before_ms);
    }
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    start(&world, "one", 30);
    world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None, answered: None }).unwrap();
    is_called(&world);
    world.call(THERE, &IsUp {}).unwrap();
    assert!(is_called(&world));
    assert!(matches!(take(&world, "one"), Work::Repeat(_)));
}

#[test]
fn a_server_that_shares_no_room_and_never_answers_is_given_up() {
    let fails = |world: &World| {
        let mut times = 0;
        while times < 2 * STRANGER_FAILURES_MAX && is_called(world) {
            assert!(matches!(take(world, "one"), Work::Owed(_) | Work::Missed(_)), "it is called for something");
            world.call(THERE, &ReportFailure { carrier: "one".to_owned(), refused: None, answered: None }).unwrap();
            is_called(world);
            world.passes(2 * PAUSE_MS_MAX);
            times += 1;
        }
        times
    };
    let world = world();
    let writes = |number: u32| {
        let edu = serde_json::value::to_raw_value("x").unwrap();
        world.call(THERE, &QueueEdu { key: number.to_string(), edu }).unwrap();
    };
    writes(0);
    writes(1);
    assert_eq!(fails(&world), STRANGER_FAILURES_MAX);
    assert!(world.call(THERE, &GetEdus { up_to: None }).unwrap().edus.is_empty());
    // What is new is tried once.
    writes(2);
    assert_eq!(fails(&world), 1);
    // Who shares a room is never given up.
    writes(3);
    moves(&world, 30);
    assert_eq!(fails(&world), 2 * STRANGER_FAILURES_MAX);
}

#[test]
fn a_room_tells_every_server_that_is_in_it_and_tells_again_after_a_crash() {
    let world = world();
    let alice = user_id!("@alice:myelin.test");
    let room = world.creates_room(alice, "11", Preset::PublicChat);
    for number in 0..40 {
        world.joins_from_elsewhere(&room, &OwnedUserId::try_from(format!("@u:s{number}.test")).unwrap());
    }
    world.settle();
    world.carriers.take();
    world.sends(alice, &room, "m.room.message", None, &serde_json::json!({})).unwrap();
    world.crash();
    world.passes(10_000);
    world.settle();
    let called: std::collections::BTreeSet<String> = world.carriers.take().into_iter().collect();
    assert_eq!(called.len(), 40);
    for server in called {
        let Work::Owed(owed) = world.call(&server, &TakeWork { carrier: "one".to_owned() }).unwrap() else {
            panic!("{server} is owed something")
        };
        assert_eq!(owed.iter().map(|range| &range.room_id).collect::<Vec<&OwnedRoomId>>(), [&room]);
    }
}
