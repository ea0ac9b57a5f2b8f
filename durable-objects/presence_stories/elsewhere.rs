//! Those who come and go on other servers.

use ruma_common::{OwnedRoomId, OwnedUserId};

use super::{
    Device,
    PresenceState::{self, Offline, Online, Unavailable},
    address, passes, two_who_wait, user_id,
};
use crate::{
    destination::{Acknowledge, GetPresences, HearPresence, TakeWork, Work},
    presence::{Presence, PresenceStatus},
    room,
    user::SetPresence,
    world::World,
};
use platform::{ActorKind, Address, Sql};

const THERE: &str = "there.test";

fn zoe() -> OwnedUserId {
    "@zoe:there.test".try_into().unwrap()
}

fn hears(world: &World, user: &OwnedUserId, state: PresenceState) {
    let status = PresenceStatus { state, ..PresenceStatus::default() };
    let presences = vec![Presence { status, ..Presence::absent(user.clone()) }];
    world.call(THERE, &HearPresence { presences }).unwrap();
    world.passes(0);
}

fn kept(world: &World, user: &OwnedUserId) -> Option<PresenceState> {
    let call = GetPresences { room_id: None, users: vec![user.clone()] };
    world.call(THERE, &call).unwrap().pop().map(|presence| presence.status.state)
}

/// Takes all that is to be told to the server.
fn told(world: &World) -> Vec<(OwnedUserId, PresenceState)> {
    let carrier = || "one".to_owned();
    let mut told = Vec::new();
    loop {
        let transaction_id = match world.call(THERE, &TakeWork { carrier: carrier() }).unwrap() {
            Work::Nothing => return told,
            Work::Passing { transaction_id, presences, .. } => {
                told.extend(presences.into_iter().map(|presence| (presence.user, presence.status.state)));
                transaction_id
            }
            Work::Owed(ranges) | Work::Missed(ranges) => {
                let call = crate::destination::StartAttempt { carrier: carrier(), ranges, edus_up_to: None };
                world.call(THERE, &call).unwrap().unwrap().transaction_id
            }
            Work::Repeat(attempt) => attempt.transaction_id,
        };
        world
            .call(THERE, &Acknowledge { carrier: carrier(), transaction_id, edus_up_to: None, was_empty: false })
            .unwrap();
    }
}

fn with_zoe() -> (std::rc::Rc<World>, OwnedRoomId, Device, Device) {
    let (world, room_id, alice, bob) = two_who_wait();
    world.joins_from_elsewhere(&room_id, &zoe());
    world.passes(0);
    (world, room_id, alice, bob)
}

fn sees(device: &Device) -> PresenceState {
    device.sees.get(&zoe()).copied().unwrap_or_default()
}

#[test]
fn what_another_server_tells_of_those_in_our_rooms_is_seen_and_kept() {
    let (world, room_id, mut alice, mut bob) = with_zoe();
    hears(&world, &zoe(), Online);
    let stranger = "@stranger:there.test".try_into().unwrap();
    hears(&world, &stranger, Online);
    alice.goes_on();
    bob.goes_on();
    assert_eq!((sees(&alice), sees(&bob), kept(&world, &zoe())), (Online, Online, Some(Online)));
    assert_eq!(kept(&world, &stranger), None, "nobody shares a room with them");
    // What is repeated costs no row, and nobody is told again.
    let (rows, alices) = (world.rows_written(), alice.told);
    for _ in 0..10 {
        hears(&world, &zoe(), Online);
        hears(&world, &stranger, Online);
        alice.goes_on();
    }
    assert_eq!((world.rows_written(), alice.told), (rows, alices));
    // Whoever comes when everything is forgotten is told as well.
    world.crash();
    let mut late = Device::of(&world, "alice", 1);
    late.waits(Online);
    assert_eq!(sees(&late), Online);
    hears(&world, &zoe(), Unavailable);
    late.goes_on();
    assert_eq!(sees(&late), Unavailable);
    // Who leaves is nobody's business.
    world.changes(&user_id("alice"), &room_id, &zoe(), room::MembershipAction::Kick).unwrap();
    world.passes(0);
    late.goes_on();
    assert_eq!(sees(&late), Offline);
    hears(&world, &zoe(), Online);
    late.goes_on();
    assert_eq!(sees(&late), Offline);
}

#[test]
fn of_a_server_that_falls_silent_nobody_is_there() {
    let (world, _, mut alice, _) = with_zoe();
    hears(&world, &zoe(), Online);
    for _ in 0..3 {
        passes(&world, 25 * 60_000, &mut [&mut alice]);
        assert_eq!(sees(&alice), Online);
        hears(&world, &zoe(), Online);
    }
    passes(&world, 45 * 60_000, &mut [&mut alice]);
    assert_eq!((sees(&alice), kept(&world, &zoe())), (Offline, Some(Offline)));
    hears(&world, &zoe(), Online);
    alice.goes_on();
    assert_eq!(sees(&alice), Online);
}

/// The room heard that they are there, and the Destination not that it did: it tells what comes next all the same.
#[test]
fn a_reply_that_is_lost_leaves_nobody_there() {
    for forgets in [false, true] {
        for falls_silent in [false, true] {
            let (world, room_id, mut alice, _) = with_zoe();
            let there = Address::new(ActorKind::Destination, THERE);
            let status = PresenceStatus { state: Online, ..PresenceStatus::default() };
            let presences = vec![Presence { status, ..Presence::absent(zoe()) }];
            world.call(THERE, &HearPresence { presences }).unwrap();
            // The call arrives, and nobody waits for its answer any more.
            world.silenced.borrow_mut().insert(Address::new(ActorKind::Room, room_id.as_str()));
            world.passes(0);
            world.silenced.take();
            alice.goes_on();
            assert_eq!((sees(&alice), kept(&world, &zoe())), (Online, None), "it was heard, and is not kept");
            if forgets && !falls_silent {
                world.evict(&there);
            }
            if falls_silent {
                passes(&world, 45 * 60_000, &mut [&mut alice]);
            } else {
                hears(&world, &zoe(), Offline);
                alice.goes_on();
            }
            assert_eq!(sees(&alice), Offline);
        }
    }
}

#[test]
fn of_a_server_that_is_gone_nothing_is_kept_for_ever() {
    let (world, _, mut alice, _) = with_zoe();
    hears(&world, &zoe(), Online);
    passes(&world, 45 * 60_000, &mut [&mut alice]);
    assert_eq!(kept(&world, &zoe()), Some(Offline));
    world.passes(25 * 3_600_000);
    assert_eq!(kept(&world, &zoe()), None);
    let sql = world.sql(&Address::new(ActorKind::Destination, THERE));
    let due = sql.query("SELECT what FROM due WHERE what = 'silence'", &[]).unwrap();
    assert!(due.is_empty(), "it is quiet in the end");
}

#[test]
fn ours_are_told_to_servers_in_their_rooms_once_for_all_rooms() {
    let (world, room_id, alice, bob) = with_zoe();
    world.passes(6_000);
    let mut at_first = told(&world);
    at_first.sort();
    let both = [(alice.user.clone(), Online), (bob.user.clone(), Online)];
    assert_eq!(at_first, both, "whoever comes is told who is there");
    let other = world.creates_room(&alice.user, "12", domain::power::Preset::PublicChat);
    world.joins_from_elsewhere(&other, &zoe());
    world.passes(6_000);
    told(&world);
    let rows = world.rows_of(&Address::new(ActorKind::Destination, THERE));
    let busy = SetPresence { token_hash: alice.token_hash.clone(), state: Unavailable, status_msg: None };
    world.call(alice.user.as_str(), &busy).unwrap();
    world.passes(0);
    assert!(world.carriers.take().contains(&THERE.to_owned()));
    assert_eq!(told(&world), [(alice.user.clone(), Unavailable)]);
    assert_eq!(world.rows_of(&Address::new(ActorKind::Destination, THERE)), rows, "no row is written for it");
    // One who is gone hears nothing more.
    for room in [&room_id, &other] {
        world.changes(&alice.user, room, &zoe(), room::MembershipAction::Kick).unwrap_or_default();
    }
    world.passes(0);
    told(&world);
    let hidden = SetPresence { state: Offline, ..busy };
    world.call(alice.user.as_str(), &hidden).unwrap();
    world.passes(0);
    assert_eq!(told(&world), []);
}

#[test]
fn whoever_stays_is_told_again_now_and_then_whatever_is_forgotten() {
    let (world, _, mut alice, mut bob) = with_zoe();
    world.passes(6_000);
    told(&world);
    let mut times = 0;
    for _ in 0..60 {
        passes(&world, 60_000, &mut [&mut alice, &mut bob]);
        times += told(&world).iter().filter(|(user, _)| *user == alice.user).count();
        world.evict(&address(&alice.user));
        alice.goes_on();
    }
    assert!((2..=3).contains(&times), "told {times} times in an hour");
}

#[test]
fn an_alarm_for_something_else_tells_nobody_again() {
    let (world, room_id, mut alice, mut bob) = with_zoe();
    world.passes(6_000);
    passes(&world, 24 * 60_000, &mut [&mut alice, &mut bob]);
    told(&world);
    let mut times = 0;
    for number in 0..40 {
        let newcomer = OwnedUserId::try_from(format!("@yan:server{number}.test")).unwrap();
        world.joins_from_elsewhere(&room_id, &newcomer);
        passes(&world, 10_000, &mut [&mut alice, &mut bob]);
        times += told(&world).iter().filter(|(user, _)| *user == alice.user).count();
    }
    assert_eq!(times, 1, "for the twenty-five minutes that are over");
}
