use std::{collections::HashSet, rc::Rc};

use domain::{power::Preset, push::PusherKind};
use platform::Address;
use ruma_common::{OwnedEventId, RoomId, UserId, user_id};
use ruma_events::room::member::MembershipState;
use serde_json::{from_value, json, value::to_raw_value};

use super::*;
use crate::{
    room::{MarkRead, MembershipAction, NewReceipt, ReadNotifications, ReceiptKind},
    user::{Create, Elsewhere, MembershipChanged, NewDevice, SetAccountData, SetPusher, store::pushers},
    world::{World, seeds},
};

fn alice() -> &'static UserId {
    user_id!("@alice:myelin.test")
}

fn bob() -> &'static UserId {
    user_id!("@bob:myelin.test")
}

fn bobs() -> Address {
    Address::new(ActorKind::User, bob().as_str())
}

fn sets_pusher(world: &World, pushkey: &str) {
    let pusher = from_value(json!({
        "app_id": "a", "pushkey": pushkey, "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
        "data": { "url": "https://push.test/_matrix/push/v1/notify" },
    }));
    world.call(bob().as_str(), &SetPusher { token_hash: "t".to_owned(), pusher: pusher.unwrap() }).unwrap();
}

/// Alice and Bob, who has a device, in a room.
fn two(seed: u64) -> (Rc<World>, ruma_common::OwnedRoomId) {
    let world = World::new(seed);
    for (user, token) in [(alice(), "a"), (bob(), "t")] {
        let device = Some(NewDevice::new("PHONE", token));
        world.call(user.as_str(), &Create { device, call_id: "c".to_owned(), ..Create::default() }).unwrap();
    }
    let room_id = world.creates_room(alice(), "12", Preset::PublicChat);
    world.changes(bob(), &room_id, bob(), MembershipAction::Join).unwrap();
    world.settle();
    (world, room_id)
}

fn speaks(world: &World, room_id: &RoomId) -> OwnedEventId {
    let content = json!({ "msgtype": "m.text", "body": "hello" });
    world.sends(alice(), room_id, "m.room.message", None, &content).unwrap()
}

fn takes(world: &World, carrier: &str) -> Pushes {
    world.call(bob().as_str(), &TakePushes { carrier: carrier.to_owned() }).unwrap()
}

fn reads(world: &World, room: &OwedRoom) -> Notifications {
    let call = ReadNotifications { user: bob().to_owned(), ignored: Vec::new(), after: room.after, push_rules: None };
    world.call(room.room_id.as_str(), &call).unwrap()
}

fn acknowledges(world: &World, carrier: &str, owed: &OwedPusher, rooms: Vec<ToldRoom>) {
    let call = AcknowledgePushes {
        carrier: carrier.to_owned(),
        pusher: owed.id,
        rooms,
        asked_to: owed.asks_to,
        asked_all: owed.asks_all,
        mailed: owed.pusher.kind == PusherKind::Email,
    };
    world.call(bob().as_str(), &call).unwrap();
}

/// Carries everything there is, and answers which events each pusher was told of.
fn carries(world: &World, carrier: &str) -> Vec<(String, OwnedEventId)> {
    let mut told = Vec::new();
    loop {
        let pushes = takes(world, carrier);
        if pushes.pushers.is_empty() {
            return told;
        }
        for owed in &pushes.pushers {
            let mut rooms = Vec::new();
            for room in &owed.rooms {
                let found = reads(world, room);
                let badge = Unread { unread: found.unread, missed_calls: found.missed_calls };
                let ids = found.notifications.iter().filter_map(|notification| notification.event_id.clone());
                told.extend(ids.map(|event_id| (owed.pusher.pushkey.clone(), event_id)));
                rooms.push(ToldRoom { number: room.number, to: found.to, badge });
            }
            acknowledges(world, carrier, owed, rooms);
        }
    }
}

const MINUTE_MS: u64 = 60_000;

fn wants_mail(world: &World) {
    world.restarts_with(&[("SMTP_HOST", "mail.test"), ("EMAIL_FROM", "a@myelin.test")]);
    let pusher = from_value(json!({
        "kind": "email", "app_id": "m.email", "pushkey": "bob@example.org", "app_display_name": "Email",
        "device_display_name": "bob@example.org", "lang": "en", "data": {},
    }));
    world.call(bob().as_str(), &SetPusher { token_hash: "t".to_owned(), pusher: pusher.unwrap() }).unwrap();
    world.settle();
}

/// The mail server may have it, and nobody says so.
#[test]
fn mail_that_a_carrier_died_over_is_not_sent_again_soon() {
    let (world, room_id) = two(1);
    wants_mail(&world);
    speaks(&world, &room_id);
    world.settle();
    world.passes(10 * MINUTE_MS);
    let owed = takes(&world, "one").pushers.remove(0);
    let starts = |carrier: &str| {
        let call = StartMail { carrier: carrier.to_owned(), pusher: owed.id };
        world.call(bob().as_str(), &call).unwrap()
    };
    assert!(starts("one"));
    assert!(!starts("two"), "it is the other one's");
    world.evict(&bobs());
    for minute in 1..60 {
        world.passes(MINUTE_MS);
        assert!(takes(&world, "two").pushers.is_empty(), "minute {minute}");
    }
    world.passes(MINUTE_MS);
    assert!(starts("two"), "then once more");
    // One that was refused is tried sooner.
    world.call(bob().as_str(), &ReportPushFailure { carrier: "two".to_owned(), pusher: owed.id }).unwrap();
    world.passes(MINUTE_MS);
    assert!(!takes(&world, "two").pushers.is_empty());
}

#[test]
fn mail_waits_for_what_comes_with_it_and_is_not_sent_of_what_is_read() {
    let (world, room_id) = two(1);
    wants_mail(&world);
    assert!(!is_called(&world), "it waits");
    let comes_after = |minutes: u64| {
        for minute in 1..=minutes {
            world.passes(MINUTE_MS);
            let is_due = !takes(&world, "one").pushers.is_empty();
            assert_eq!(is_due, minute == minutes, "minute {minute} of {minutes}");
        }
        carries(&world, "one").into_iter().map(|(_, event_id)| event_id).collect::<Vec<_>>()
    };
    let first = speaks(&world, &room_id);
    world.settle();
    world.passes(9 * MINUTE_MS);
    assert!(!is_called(&world));
    let second = speaks(&world, &room_id);
    world.settle();
    assert_eq!(comes_after(1), [first, second]);
    // What comes at once waits for an hour.
    let third = speaks(&world, &room_id);
    world.settle();
    assert_eq!(comes_after(60), [third]);
    // What is read meanwhile is not told of.
    world.passes(60 * MINUTE_MS);
    let event_id = speaks(&world, &room_id);
    let receipt = NewReceipt { kind: ReceiptKind::Private, event_id, thread: None, at_ms: None };
    let call = MarkRead {
        user: bob().to_owned(),
        device: "PHONE".into(),
        receipts: vec![receipt],
        fully_read: None,
        marker: None,
    };
    world.call(room_id.as_str(), &call).unwrap();
    world.settle();
    assert!(comes_after(10).is_empty());
}

/// Who had no pushers was told once, and the room waits for them to read.
#[test]
fn mail_tells_of_a_room_that_was_silent() {
    let (world, room_id) = two(1);
    speaks(&world, &room_id);
    world.settle();
    world.passes(2 * MINUTE_MS);
    wants_mail(&world);
    let event_id = speaks(&world, &room_id);
    world.settle();
    world.passes(10 * MINUTE_MS);
    assert!(is_called(&world));
    assert_eq!(carries(&world, "one"), [("bob@example.org".to_owned(), event_id)]);
    is_called(&world);
    world.passes(120 * MINUTE_MS);
    assert!(!is_called(&world), "once");
}

/// Who invites shows what they like of the room, also an invitation by somebody else.
#[test]
fn no_forged_invitation_hides_who_invites() {
    let (world, _) = two(1);
    sets_pusher(&world, "p");
    carries(&world, "one");
    let ignored = to_raw_value(&json!({ "ignored_users": { "@eve:evil.test": {} } })).unwrap();
    let event_type = "m.ignored_user_list".to_owned();
    let call = SetAccountData { token_hash: "t".to_owned(), room_id: None, event_type, content: ignored };
    world.call(bob().as_str(), &call).unwrap();
    let invited_by = |senders: [&str; 2], number: u64| {
        let member = |sender: &str| {
            let content = json!({ "membership": "invite" });
            let event = json!({ "type": "m.room.member", "state_key": bob(), "sender": sender, "content": content });
            to_raw_value(&event).unwrap()
        };
        let call = MembershipChanged {
            room_id: format!("!{number}:evil.test").try_into().unwrap(),
            position: world.now_ms() + number,
            membership: MembershipState::Invite,
            event_id: Some(format!("${number}").try_into().unwrap()),
            profile: None,
            stripped_state: senders.map(member).into(),
            predecessor: None,
            elsewhere: Some(Elsewhere::default()),
        };
        world.call(bob().as_str(), &call).unwrap();
        world.settle();
        let pushes = takes(&world, "one");
        let rooms = &pushes.pushers[0].rooms;
        let room = rooms.iter().find(|room| room.room_id == format!("!{number}:evil.test")).unwrap();
        let invitation = room.invitation.as_ref().unwrap();
        let told: Vec<_> = invitation.notifications.iter().map(|told| told.sender.clone()).collect();
        let told_rooms = vec![ToldRoom { number: room.number, to: invitation.to, badge: Unread::default() }];
        acknowledges(&world, "one", &pushes.pushers[0], told_rooms);
        told
    };
    assert_eq!(invited_by(["@friend:evil.test", "@eve:evil.test"], 1), Vec::<ruma_common::OwnedUserId>::new());
    assert_eq!(invited_by(["@eve:evil.test", "@friend:evil.test"], 2), ["@friend:evil.test"]);
}

fn is_called(world: &World) -> bool {
    world.carriers.take().iter().any(|id| id == bob().as_str())
}

#[test]
fn a_push_costs_two_rows_and_nothing_without_pushers() {
    let (world, room_id) = two(1);
    let cost = |acts: &dyn Fn()| {
        let (before, room_before) = (world.rows_of(&bobs()), world.rows_written());
        acts();
        (world.rows_of(&bobs()) - before, world.rows_written() - room_before)
    };
    speaks(&world, &room_id);
    world.settle();
    let (without, _) = cost(&|| {
        speaks(&world, &room_id);
        world.settle();
    });
    assert_eq!((without, is_called(&world)), (0, false), "a silent user costs nothing");
    sets_pusher(&world, "k");
    assert!(is_called(&world));
    carries(&world, "one");
    world.passes(60_000);
    is_called(&world);
    for _ in 0..3 {
        let (with, _) = cost(&|| {
            let event_id = speaks(&world, &room_id);
            world.settle();
            assert!(is_called(&world));
            assert_eq!(carries(&world, "one"), [("k".to_owned(), event_id)]);
        });
        assert_eq!(with, 2, "what is owed, and what was told");
    }
    // What others read, and who types, is nothing to be pushed.
    let event_id = speaks(&world, &room_id);
    world.settle();
    carries(&world, "one");
    is_called(&world);
    let receipt = |kind| vec![NewReceipt { kind, event_id: event_id.clone(), thread: None, at_ms: None }];
    let mark = |user: &UserId, kind| {
        let call = MarkRead {
            user: user.to_owned(),
            device: "PHONE".into(),
            receipts: receipt(kind),
            fully_read: None,
            marker: None,
        };
        world.call(room_id.as_str(), &call).unwrap();
        world.settle();
        is_called(&world)
    };
    assert!(!mark(alice(), ReceiptKind::Public));
    // Also in a room that remembers nothing.
    world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
    assert!(mark(bob(), ReceiptKind::Public), "the badge falls");
    let pushes = takes(&world, "one");
    assert_eq!(pushes.pushers[0].badge.unread, 6);
    assert_eq!(reads(&world, &pushes.pushers[0].rooms[0]).unread, 0);
}

#[test]
fn what_a_room_says_before_its_membership_arrives_is_pushed() {
    let (world, _) = two(1);
    sets_pusher(&world, "k");
    carries(&world, "one");
    let room_id = world.creates_room(alice(), "12", Preset::PublicChat);
    world.unreachable.borrow_mut().insert(bobs());
    world.changes(bob(), &room_id, bob(), MembershipAction::Join).unwrap();
    world.settle();
    world.unreachable.borrow_mut().clear();
    world.passes(6_000);
    let event_id = speaks(&world, &room_id);
    world.settle();
    assert_eq!(carries(&world, "one"), [("k".to_owned(), event_id)]);
}

#[test]
fn one_carrier_at_a_time_until_it_is_done_or_dead() {
    let (world, room_id) = two(1);
    sets_pusher(&world, "k");
    carries(&world, "one");
    let event_id = speaks(&world, &room_id);
    world.settle();
    assert!(is_called(&world));
    assert_eq!(takes(&world, "one").pushers.len(), 1);
    assert!(takes(&world, "two").pushers.is_empty());
    // The first dies: the alarm finds another one.
    world.passes(LEASE_MS + 1);
    world.passes(COMES_WITHIN_MS);
    assert!(is_called(&world));
    assert_eq!(carries(&world, "two"), [("k".to_owned(), event_id.clone())]);
    world.passes(LEASE_MS);
    world.passes(LEASE_MS);
    assert!(!is_called(&world), "it is quiet in the end");
    // What the first says late changes nothing.
    let owed = takes(&world, "one");
    assert!(owed.pushers.is_empty());
    assert_eq!(carries(&world, "three"), []);
}

#[test]
fn a_gateway_that_fails_is_left_alone_and_another_is_not() {
    let (world, room_id) = two(1);
    sets_pusher(&world, "fails");
    world.passes(1);
    sets_pusher(&world, "works");
    carries(&world, "one");
    let event_id = speaks(&world, &room_id);
    world.settle();
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let pusher = takes(&world, "one").pushers[0].id;
        world.call(bob().as_str(), &ReportPushFailure { carrier: "one".to_owned(), pusher }).unwrap();
        let told = carries(&world, "one");
        assert!(told.iter().all(|(pushkey, _)| pushkey == "works"), "{told:?}");
        is_called(&world);
        let before_ms = world.now_ms();
        world.evict(&bobs());
        while !is_called(&world) {
            world.passes(500);
        }
        pauses.push(world.now_ms() - before_ms);
    }
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    assert_eq!(carries(&world, "one"), [("fails".to_owned(), event_id)]);
    let sql = world.sql(&bobs());
    assert!(pushers::all(&*sql).unwrap().iter().all(|stored| stored.failures == 0));
}

#[test]
fn what_is_older_than_a_day_or_too_much_is_not_pushed() {
    let (world, room_id) = two(1);
    sets_pusher(&world, "k");
    carries(&world, "one");
    speaks(&world, &room_id);
    world.settle();
    world.passes(25 * 3_600_000);
    assert_eq!(carries(&world, "one"), []);
    let events: Vec<_> = (0..60).map(|_| ("k".to_owned(), speaks(&world, &room_id))).collect();
    world.settle();
    assert_eq!(carries(&world, "one"), events[10..], "the newest, the oldest first");
}

#[test]
fn a_pusher_too_many_takes_the_place_of_the_oldest() {
    let (world, _) = two(1);
    for number in 0..20 {
        sets_pusher(&world, &number.to_string());
        world.passes(1);
    }
    sets_pusher(&world, "7");
    let pusher = pushers::all(&*world.sql(&bobs())).unwrap().remove(0).pusher;
    let call = SetPusher { token_hash: "t".to_owned(), pusher: Pusher { pushkey: "one more".to_owned(), ..pusher } };
    world.call(bob().as_str(), &call).unwrap();
    let left: Vec<_> =
        pushers::all(&*world.sql(&bobs())).unwrap().into_iter().map(|kept| kept.pusher.pushkey).collect();
    assert_eq!(left.len(), 20);
    assert!(!left.contains(&"0".to_owned()) && left.contains(&"7".to_owned()), "{left:?}");
    assert!(left.contains(&"one more".to_owned()), "{left:?}");
}

/// Calls are lost, actors are evicted, everything crashes, carriers die half way: every event is pushed to everyone.
#[test]
fn whatever_crashes_every_event_is_pushed() {
    for seed in 1..=seeds(10) {
        let (world, room_id) = two(seed);
        let other = world.creates_room(alice(), "11", Preset::PublicChat);
        world.changes(bob(), &other, bob(), MembershipAction::Join).unwrap();
        world.settle();
        // Away, and told the rooms so.
        speaks(&world, &room_id);
        world.settle();
        world.passes(1_000);
        sets_pusher(&world, "one");
        world.passes(1);
        sets_pusher(&world, "two");
        let (mut said, mut told) = (HashSet::new(), HashSet::new());
        world.lost_calls.set(8);
        for step in 0..120 {
            match world.dice.roll(10) {
                0..=3 => {
                    let room = if world.dice.roll(2) == 0 { &room_id } else { &other };
                    said.insert(speaks(&world, room));
                }
                4 => world.evict_any(),
                5 => {
                    if world.dice.roll(4) == 0 {
                        world.crash();
                    }
                }
                6 => world.passes(world.dice.roll(8_000)),
                7 => drop(world.works()),
                _ => {
                    // A carrier that may stop at any place.
                    let carrier = format!("carrier {step}");
                    let pushes = takes(&world, &carrier);
                    for owed in &pushes.pushers {
                        for room in &owed.rooms {
                            let found = reads(&world, room);
                            if world.dice.roll(4) == 0 {
                                world.evict_any();
                            }
                            while world.dice.roll(3) == 0 {
                                said.insert(speaks(&world, &room.room_id));
                                world.works();
                            }
                            let ids = found.notifications.iter().filter_map(|it| it.event_id.clone());
                            told.extend(ids.map(|event_id| (owed.pusher.pushkey.clone(), event_id)));
                            if world.dice.roll(3) == 0 {
                                break;
                            }
                            let badge = Unread { unread: found.unread, missed_calls: 0 };
                            let rooms = vec![ToldRoom { number: room.number, to: found.to, badge }];
                            let half = OwedPusher { asks_to: None, asks_all: false, ..owed.clone() };
                            acknowledges(&world, &carrier, &half, rooms);
                        }
                    }
                }
            }
        }
        world.lost_calls.set(0);
        // Alarms ring until nobody asks for a carrier any more.
        for round in 0..200 {
            world.passes(10_000);
            if is_called(&world) {
                told.extend(carries(&world, &format!("last {round}")));
            }
        }
        for event_id in &said {
            for pushkey in ["one", "two"] {
                assert!(told.contains(&(pushkey.to_owned(), event_id.clone())), "seed {seed}: {event_id} {pushkey}");
            }
        }
    }
}

fn switches(world: &World, pushkey: &str, enabled: bool) {
    let pusher = from_value(json!({
        "app_id": "a", "pushkey": pushkey, "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
        "data": { "url": "https://push.test/_matrix/push/v1/notify" }, "enabled": enabled,
    }));
    world.call(bob().as_str(), &SetPusher { token_hash: "t".to_owned(), pusher: pusher.unwrap() }).unwrap();
}

#[test]
fn a_pusher_that_is_switched_off_is_told_nothing_and_costs_nothing() {
    let (world, room_id) = two(1);
    sets_pusher(&world, "k");
    sets_pusher(&world, "other");
    world.settle();
    carries(&world, "one");
    switches(&world, "k", false);
    world.evict(&bobs());
    let first = speaks(&world, &room_id);
    world.settle();
    assert_eq!(carries(&world, "one"), [("other".to_owned(), first)]);
    switches(&world, "other", false);
    world.passes(MINUTE_MS);
    let before = world.rows_of(&bobs());
    for _ in 0..5 {
        speaks(&world, &room_id);
        world.passes(MINUTE_MS);
    }
    assert_eq!(carries(&world, "one"), []);
    assert!(world.rows_of(&bobs()) - before <= 2, "no row for each event");
    world.evict(&bobs());
    switches(&world, "k", true);
    world.evict(&bobs());
    let heard = speaks(&world, &room_id);
    world.settle();
    assert_eq!(carries(&world, "one"), [("k".to_owned(), heard)], "what was before is not for it");
}
