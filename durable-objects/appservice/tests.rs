//! What an application service is told of rooms, in which order, and how often.

use std::rc::Rc;

use domain::power::Preset;
use platform::{ActorKind, Address};
use ruma_common::{OwnedRoomId, RoomId, UserId, room_alias_id, user_id};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Acknowledge, Attempt, IsUp, QueueEvent, ReportFailure, SentEvents, StartAttempt, StopCarrying, TakeWork, Work,
    carrying::{LEASE_MS, PAUSE_MS_MIN},
};
use crate::{
    CallError,
    presence::{Presence, PresenceState, PresenceStatus},
    room::{self, ForAppservice, GetForAppservice, MembershipAction, ReceiptKind, WantedEvents},
    user::Create,
    world::World,
};

const REGISTRATION: &str = r##"{ "id": "irc", "url": "http://localhost:1", "as_token": "a", "hs_token": "h",
    "sender_localpart": "irc", "receive_ephemeral": true, "namespaces": { "users": [{ "regex": "@_irc_" }],
    "aliases": [{ "regex": "#irc_" }] } }"##;
const ACTOR: &str = "%irc";

fn alice() -> &'static UserId {
    user_id!("@alice:myelin.test")
}

fn ghost() -> &'static UserId {
    user_id!("@_irc_bob:myelin.test")
}

fn world() -> Rc<World> {
    World::configured(1, &[("APPSERVICES", REGISTRATION)])
}

fn people(world: &World) {
    for user in [alice(), ghost()] {
        world.call(user.as_str(), &Create { call_id: "c".to_owned(), ..Create::default() }).unwrap();
    }
}

fn take(world: &World, carrier: &str) -> Work {
    match world.call(ACTOR, &TakeWork { carrier: carrier.to_owned() }) {
        Err(CallError::Absent) => Work::Nothing,
        work => work.unwrap(),
    }
}

fn read(world: &World, room_id: &RoomId, wanted: WantedEvents) -> ForAppservice {
    world.call(room_id.as_str(), &GetForAppservice { appservice: "irc".to_owned(), wanted }).unwrap()
}

/// What one carrier sends first, and what is in it.
fn sends(world: &World, carrier: &str) -> Option<(Attempt, Vec<Value>)> {
    loop {
        let events = |queued: Vec<_>| -> Vec<Box<serde_json::value::RawValue>> { queued };
        let (attempt, events) = match take(world, carrier) {
            Work::Nothing => return None,
            Work::Passing { transaction_id, ephemeral } => {
                let attempt = Attempt { transaction_id, queued_up_to: 0, rooms: Vec::new(), ephemeral };
                (Some(attempt), Vec::new())
            }
            Work::Repeat { attempt, queued } => {
                let mut events = events(queued);
                for SentEvents { room_id, event_ids, .. } in &attempt.rooms {
                    events.extend(read(world, room_id, WantedEvents::Named(event_ids.clone())).events);
                }
                (Some(attempt), events)
            }
            Work::Owed { queued, queued_up_to, ranges } => {
                let (mut events, mut rooms, mut ephemeral) = (events(queued), Vec::new(), Vec::new());
                for range in ranges {
                    let wanted = WantedEvents::Between { after: range.after, up_to: range.up_to, limit: 100 };
                    let page = read(world, &range.room_id, wanted);
                    let (up_to, event_ids) = (page.up_to, page.event_ids);
                    events.extend(page.events);
                    ephemeral.extend(page.ephemeral);
                    rooms.push(SentEvents { room_id: range.room_id, up_to, event_ids });
                }
                let call = StartAttempt { carrier: carrier.to_owned(), queued_up_to, rooms, ephemeral };
                (world.call(ACTOR, &call).unwrap(), events)
            }
        };
        // Nothing in it: there may be more.
        let Some(attempt) = attempt else { continue };
        let events = events.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
        return Some((attempt, events));
    }
}

fn acknowledges(world: &World, attempt: &Attempt) {
    let transaction_id = attempt.transaction_id.clone();
    world.call(ACTOR, &Acknowledge { carrier: "one".to_owned(), transaction_id }).unwrap();
}

fn fails(world: &World) {
    world.call(ACTOR, &ReportFailure { carrier: "one".to_owned() }).unwrap();
}

/// All that there is for the service: each event in a few words.
fn told(world: &World) -> Vec<String> {
    world.settle();
    let mut told = Vec::new();
    while let Some((attempt, events)) = sends(world, "one") {
        told.extend(events.iter().map(in_words));
        acknowledges(world, &attempt);
    }
    told
}

/// What it hears that is no event of a log.
fn heard(world: &World) -> Vec<Value> {
    world.settle();
    let mut heard = Vec::new();
    while let Some((attempt, _)) = sends(world, "one") {
        heard.extend(attempt.ephemeral.iter().map(|event| serde_json::from_str::<Value>(event.get()).unwrap()));
        acknowledges(world, &attempt);
    }
    heard
}

fn in_words(event: &Value) -> String {
    let said = event["content"]["body"].as_str().or(event["content"]["membership"].as_str());
    let name = |field: &str| event[field].as_str().unwrap_or_default().split(':').next().unwrap_or_default().to_owned();
    match said {
        Some(said) if event["state_key"].is_string() => format!("{} {said} {}", name("sender"), name("state_key")),
        Some(said) => format!("{} {said}", name("sender")),
        None => event["type"].as_str().unwrap_or_default().to_owned(),
    }
}

fn says(world: &World, room: &RoomId, sender: &UserId, body: &str) {
    world.sends(sender, room, "m.room.message", None, &json!({ "msgtype": "m.text", "body": body })).unwrap();
}

fn moves(world: &World, sender: &UserId, room: &RoomId, target: &UserId, action: MembershipAction) {
    world.changes(sender, room, target, action).unwrap();
}

fn is_called(world: &World) -> bool {
    world.settle();
    world.carriers.take().iter().any(|actor| actor == ACTOR)
}

/// A room of alice's in which the ghost is.
fn bridged(world: &World) -> OwnedRoomId {
    people(world);
    let room = world.creates_room(alice(), "11", Preset::PublicChat);
    moves(world, ghost(), &room, ghost(), MembershipAction::Join);
    told(world);
    world.carriers.take();
    room
}

#[test]
fn it_is_told_what_happens_where_its_users_are_and_when_they_come_and_go() {
    let world = world();
    people(&world);
    let room = world.creates_room(alice(), "11", Preset::PrivateChat);
    says(&world, &room, alice(), "nobody's");
    assert_eq!(told(&world), [""; 0]);
    // An invitation is all of the room until it is accepted.
    moves(&world, alice(), &room, ghost(), MembershipAction::Invite);
    says(&world, &room, alice(), "not yet");
    assert!(is_called(&world));
    let (attempt, events) = sends(&world, "one").unwrap();
    assert_eq!(events.iter().map(in_words).collect::<Vec<_>>(), ["@alice invite @_irc_bob"]);
    assert_eq!(events[0]["room_id"], room.as_str());
    let shown = events[0]["unsigned"]["invite_room_state"].as_array().unwrap();
    assert!(shown.iter().any(|event| event["type"] == "m.room.create"), "{shown:?}");
    acknowledges(&world, &attempt);
    moves(&world, ghost(), &room, ghost(), MembershipAction::Join);
    says(&world, &room, alice(), "hello");
    says(&world, &room, ghost(), "hi");
    moves(&world, alice(), &room, ghost(), MembershipAction::Kick);
    says(&world, &room, alice(), "alone");
    moves(&world, alice(), &room, ghost(), MembershipAction::Ban);
    let expected =
        ["@_irc_bob join @_irc_bob", "@alice hello", "@_irc_bob hi", "@alice leave @_irc_bob", "@alice ban @_irc_bob"];
    assert_eq!(told(&world), expected);
    world.passes(10 * LEASE_MS);
    assert!(!is_called(&world), "it is quiet in the end");
}

#[test]
fn a_room_that_it_makes_is_its_own_from_the_first_event() {
    let world = world();
    people(&world);
    let room = world.creates_room(ghost(), "11", Preset::PublicChat);
    let told = told(&world);
    assert_eq!(told[..2], ["m.room.create", "@_irc_bob join @_irc_bob"]);
    says(&world, &room, ghost(), "hi");
    assert_eq!(self::told(&world), ["@_irc_bob hi"]);
}

#[test]
fn a_room_with_an_alias_of_its_own_is_of_interest() {
    let world = world();
    people(&world);
    let room = world.creates_room(alice(), "11", Preset::PublicChat);
    says(&world, &room, alice(), "before");
    let lists = |content: Value| {
        world.sends(alice(), &room, "m.room.canonical_alias", Some(""), &content).unwrap();
    };
    lists(json!({ "alias": "#irc_a:myelin.test" }));
    says(&world, &room, alice(), "listed");
    lists(json!({}));
    says(&world, &room, alice(), "between");
    let alias = room_alias_id!("#irc_b:myelin.test").to_owned();
    let points =
        |points_here| world.call(room.as_str(), &room::SetAlias { alias: alias.clone(), points_here }).unwrap();
    points(true);
    says(&world, &room, alice(), "in the directory");
    points(false);
    says(&world, &room, alice(), "after");
    let expected = ["m.room.canonical_alias", "@alice listed", "m.room.canonical_alias", "@alice in the directory"];
    assert_eq!(told(&world), expected);
}

#[test]
fn one_that_comes_later_is_told_from_then_on() {
    let world = World::new(1);
    people(&world);
    let room = world.creates_room(alice(), "11", Preset::PublicChat);
    moves(&world, ghost(), &room, ghost(), MembershipAction::Join);
    says(&world, &room, alice(), "before");
    world.restarts_with(&[("APPSERVICES", REGISTRATION)]);
    says(&world, &room, alice(), "from now on");
    assert_eq!(told(&world), ["@alice from now on"]);
    // Its users leave while it is not registered: nobody counts them.
    world.restarts_with(&[]);
    moves(&world, ghost(), &room, ghost(), MembershipAction::Leave);
    world.restarts_with(&[("APPSERVICES", REGISTRATION)]);
    says(&world, &room, alice(), "alone");
    assert_eq!(told(&world), [""; 0]);
    // One without a URL is told nothing.
    moves(&world, ghost(), &room, ghost(), MembershipAction::Join);
    told(&world);
    world.restarts_with(&[("APPSERVICES", &REGISTRATION.replace(r#""http://localhost:1""#, "null"))]);
    is_called(&world);
    says(&world, &room, alice(), "unheard");
    assert!(!is_called(&world));
}

#[test]
fn what_was_sent_is_sent_again_until_it_is_acknowledged() {
    let world = world();
    let room = bridged(&world);
    says(&world, &room, alice(), "one");
    assert!(is_called(&world));
    let (attempt, events) = sends(&world, "one").unwrap();
    says(&world, &room, alice(), "two");
    world.settle();
    // Nobody else sends meanwhile, and what comes meanwhile waits.
    assert!(sends(&world, "two").is_none());
    let again = |carrier: &str| {
        let (repeated, same) = sends(&world, carrier).unwrap();
        assert_eq!(repeated.transaction_id, attempt.transaction_id);
        assert_eq!(same.iter().map(in_words).collect::<Vec<_>>(), events.iter().map(in_words).collect::<Vec<_>>());
    };
    again("one");
    // The carrier dies, and everybody's memory with it: another one is called when the lease is over.
    world.crash();
    assert!(sends(&world, "two").is_none());
    world.passes(LEASE_MS + 1);
    assert!(!is_called(&world), "the service may be what it died of");
    world.passes(PAUSE_MS_MIN);
    assert!(is_called(&world));
    again("two");
    acknowledges(&world, &attempt);
    acknowledges(&world, &attempt);
    let (next, events) = sends(&world, "two").unwrap();
    assert_eq!(events.iter().map(in_words).collect::<Vec<_>>(), ["@alice two"]);
    assert_ne!(next.transaction_id, attempt.transaction_id);
}

/// A host may end carriers that wait too long, and then nobody says that the service did not answer.
#[test]
fn a_service_that_carriers_die_of_is_left_alone_for_longer_each_time() {
    let world = world();
    people(&world);
    world.creates_room(ghost(), "11", Preset::PublicChat);
    world.settle();
    let mut pauses = Vec::new();
    for carrier in 0..6 {
        assert!(sends(&world, &carrier.to_string()).is_some());
        is_called(&world);
        world.passes(LEASE_MS + 1);
        let before_ms = world.now_ms();
        while !is_called(&world) {
            assert!(sends(&world, "early").is_none());
            world.passes(500);
        }
        pauses.push(world.now_ms() - before_ms);
    }
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
}

#[test]
fn a_service_that_does_not_answer_is_left_alone_until_it_is_heard_of() {
    let world = world();
    let room = bridged(&world);
    says(&world, &room, alice(), "one");
    let mut pauses = Vec::new();
    for _ in 0..6 {
        is_called(&world);
        sends(&world, "one").unwrap();
        fails(&world);
        let before_ms = world.now_ms();
        // The pause outlasts a crash.
        world.crash();
        while !is_called(&world) {
            assert!(sends(&world, "one").is_none());
            world.passes(500);
        }
        pauses.push(world.now_ms() - before_ms);
    }
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    sends(&world, "one").unwrap();
    fails(&world);
    is_called(&world);
    world.call(ACTOR, &IsUp {}).unwrap();
    assert!(is_called(&world));
    assert_eq!(told(&world), ["@alice one"]);
}

#[test]
fn a_carrier_that_stops_leaves_the_rest_to_the_next_one_at_once() {
    let world = world();
    let room = bridged(&world);
    says(&world, &room, alice(), "one");
    is_called(&world);
    sends(&world, "one").unwrap();
    let stops = |carrier: &str| {
        world.call(ACTOR, &StopCarrying { carrier: carrier.to_owned() }).unwrap();
        assert!(!is_called(&world), "whoever calls a carrier was not called by one");
        world.passes(0);
    };
    stops("two");
    assert!(!is_called(&world), "who does not carry has nothing to leave");
    stops("one");
    assert!(is_called(&world));
    assert!(sends(&world, "two").is_some() && sends(&world, "one").is_none(), "it is the other one's now");
}

#[test]
fn a_room_tells_again_after_a_crash() {
    let world = world();
    let room = bridged(&world);
    says(&world, &room, alice(), "one");
    world.crash();
    world.passes(10_000);
    assert_eq!(told(&world), ["@alice one"]);
    // Also of a membership aside from all others.
    moves(&world, ghost(), &room, ghost(), MembershipAction::Leave);
    told(&world);
    moves(&world, alice(), &room, ghost(), MembershipAction::Invite);
    world.crash();
    world.passes(10_000);
    assert_eq!(told(&world), ["@alice invite @_irc_bob"]);
}

#[test]
fn a_message_costs_the_room_no_row_for_it() {
    let rows = |pairs: &[(&str, &str)], with_ghost: bool| {
        let world = World::configured(1, pairs);
        people(&world);
        let room = world.creates_room(alice(), "11", Preset::PublicChat);
        if with_ghost {
            moves(&world, ghost(), &room, ghost(), MembershipAction::Join);
        }
        says(&world, &room, alice(), "one");
        world.settle();
        let address = Address::new(ActorKind::Room, room.as_str());
        let before = world.rows_of(&address);
        let statements = world.sql(&address).statements.get();
        says(&world, &room, alice(), "two");
        (world.rows_of(&address) - before, world.sql(&address).statements.get() - statements)
    };
    let registered = [("APPSERVICES", REGISTRATION)];
    assert_eq!(rows(&[], false), rows(&registered, false));
    assert_eq!(rows(&[], true), rows(&registered, true));
}

#[test]
fn invitations_to_rooms_elsewhere_wait_in_line() {
    let world = world();
    people(&world);
    let queue = |event_id: &str| {
        let event = to_raw_value(&json!({ "type": event_id })).unwrap();
        world.call(ACTOR, &QueueEvent { event_id: event_id.try_into().unwrap(), event }).unwrap();
    };
    ["$a", "$b", "$a"].into_iter().for_each(queue);
    assert!(is_called(&world));
    let (attempt, events) = sends(&world, "one").unwrap();
    queue("$c");
    assert_eq!(events.iter().map(in_words).collect::<Vec<_>>(), ["$a", "$b"]);
    let (repeated, same) = sends(&world, "one").unwrap();
    assert_eq!((repeated.transaction_id, same), (attempt.transaction_id.clone(), events));
    acknowledges(&world, &attempt);
    assert_eq!(told(&world), ["$c"]);
}

/// A carrier that is late has old numbers, and these are never those of what was queued since.
#[test]
fn what_a_late_carrier_took_is_not_what_was_queued_since() {
    let world = world();
    people(&world);
    let queue = |event_id: &str| {
        let event = to_raw_value(&json!({ "type": event_id })).unwrap();
        world.call(ACTOR, &QueueEvent { event_id: event_id.try_into().unwrap(), event }).unwrap();
    };
    ["$a", "$b", "$c"].into_iter().for_each(queue);
    let Work::Owed { queued_up_to, .. } = take(&world, "late") else { panic!("there is something") };
    world.evict(&Address::new(ActorKind::Appservice, ACTOR));
    assert_eq!(told(&world), ["$a", "$b", "$c"]);
    ["$d", "$e"].into_iter().for_each(queue);
    world.evict(&Address::new(ActorKind::Appservice, ACTOR));
    let (carrier, rooms, ephemeral) = ("late".to_owned(), Vec::new(), Vec::new());
    let late = world.call(ACTOR, &StartAttempt { carrier, queued_up_to, rooms, ephemeral }).unwrap();
    assert!(late.is_none(), "the service has that: {late:?}");
    assert_eq!(told(&world), ["$d", "$e"]);
}

#[test]
fn it_hears_who_read_who_types_and_who_is_there() {
    let world = world();
    let room = bridged(&world);
    let event = world.sends(alice(), &room, "m.room.message", None, &json!({ "body": "one" })).unwrap();
    let reads = |user: &UserId, kind| {
        let receipt = room::NewReceipt { kind, event_id: event.clone(), thread: None, at_ms: Some(5) };
        let (device, receipts) = ("PHONE".into(), vec![receipt]);
        let call = room::MarkRead { user: user.to_owned(), device, receipts, fully_read: None, marker: None };
        world.call(room.as_str(), &call).unwrap();
    };
    reads(alice(), ReceiptKind::Private);
    reads(ghost(), ReceiptKind::Private);
    reads(alice(), ReceiptKind::Public);
    let receipts =
        json!({ "m.read": { alice().as_str(): { "ts": 5 } }, "m.read.private": { ghost().as_str(): { "ts": 5 } } });
    let expected = json!({ "type": "m.receipt", "room_id": room, "content": { event.as_str(): receipts } });
    assert_eq!(heard(&world), [expected], "others' private receipts are nobody's business");

    let types = |timeout_ms| {
        world.call(room.as_str(), &room::SetTyping { user: alice().to_owned(), timeout_ms }).unwrap();
    };
    let typing =
        |users: &[&UserId]| vec![json!({ "type": "m.typing", "room_id": room, "content": { "user_ids": users } })];
    types(Some(30_000));
    assert_eq!(heard(&world), typing(&[alice()]));
    types(Some(30_000));
    assert!(heard(&world).is_empty(), "they type on");
    // Nobody says that they stopped.
    world.passes(60_000);
    assert_eq!(heard(&world), typing(&[]));

    let is = |state, since_ms| {
        let status = PresenceStatus { state, since_ms, ..PresenceStatus::default() };
        let presence = Presence { status, ..Presence::absent(alice().to_owned()) };
        world.call(room.as_str(), &room::TellPresence { presence, is_news: true, asks: false }).unwrap();
    };
    is(PresenceState::Online, 1);
    is(PresenceState::Unavailable, 2);
    let heard = heard(&world);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!((&heard[0]["sender"], &heard[0]["content"]["presence"]), (&json!(alice()), &json!("unavailable")));
}

#[test]
fn a_redaction_tells_what_it_redacts_and_a_state_what_it_replaces() {
    let world = world();
    let room = bridged(&world);
    let event = world.sends(alice(), &room, "m.room.message", None, &json!({ "body": "one" })).unwrap();
    world.redacts(alice(), &room, &event).unwrap();
    for topic in ["one", "two"] {
        world.sends(alice(), &room, "m.room.topic", Some(""), &json!({ "topic": topic })).unwrap();
    }
    world.settle();
    let (_, events) = sends(&world, "one").unwrap();
    assert_eq!((&events[0]["content"], &events[1]["redacts"]), (&json!({}), &json!(event)));
    assert_eq!(events[0]["unsigned"]["redacted_because"]["event_id"], events[1]["event_id"]);
    assert_eq!(events[3]["unsigned"]["prev_content"], json!({ "topic": "one" }));
}
