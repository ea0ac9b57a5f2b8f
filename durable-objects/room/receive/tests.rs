use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

use domain::{
    Identity, Pdu, RoomVersion,
    event::{Draft, complete},
    power::Preset,
};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, UserId, user_id};
use serde_json::{Value, json, value::to_raw_value};

use super::{CheckedEvent, GAP_POSITIONS_MIN, HoldEvents, LEAD_MAX, Needs, ReceiveEvent, Received, ToldState};
use crate::{
    room::{
        BeginJoin, CompleteJoin, Direction, EventFilter, GetEvent, GetEventsForServer, GetMissing, GetStateIds,
        JudgeStaged, MembershipAction, Messages, StageEvents, Wanted, current_state,
        history::EDGES_MAX,
        redactions::EARLY_REDACTIONS_MAX,
        store::{self, history::Edge},
    },
    world::World,
};
use platform::{ActorKind, Address, Sql};

fn draft(sender: &UserId, event_type: &str, content: &serde_json::Value) -> Draft {
    Draft {
        event_type: event_type.into(),
        content: to_raw_value(content).unwrap(),
        state_key: None,
        sender: sender.to_owned(),
        redacts: None,
    }
}

fn redacts(world: &World, room_id: &OwnedRoomId, sender: &UserId, event_id: &EventId, reason: u64) -> CheckedEvent {
    let draft = draft(sender, "m.room.redaction", &json!({ "redacts": event_id, "reason": reason.to_string() }));
    world.says_elsewhere(room_id, &draft, &world.newest(room_id, "m.room.power_levels", ""))
}

/// How many redactions a user is shown from a position on.
fn redactions_shown(world: &World, room_id: &OwnedRoomId, user: &UserId, from: Option<u64>) -> usize {
    let call = Messages {
        user: user.to_owned(),
        device: "PHONE".into(),
        ignored: Vec::new(),
        from,
        to: None,
        direction: Direction::Forwards,
        filter: EventFilter { limit: Some(1_000), ..EventFilter::default() },
        past_gaps: true,
    };
    let page = world.call(room_id.as_str(), &call).unwrap();
    let events = page.chunk.iter().map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
    events.filter(|event| event["type"] == "m.room.redaction").count()
}

/// Nobody hides what somebody else said by saying that they do.
#[test]
fn a_redaction_without_effect_is_not_shown() {
    let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
    let world = World::new(1);
    let room_id = world.creates_room(alice, "11", Preset::PublicChat);
    world.joins_from_elsewhere(&room_id, zoe);
    let said = world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "x" })).unwrap();
    let relation = json!({ "rel_type": "m.thread", "event_id": said });
    let content = json!({ "redacts": said, "m.relates_to": relation });
    let prev = world.newest(&room_id, "m.room.message", "");
    let refused = world.says_elsewhere(&room_id, &draft(zoe, "m.room.redaction", &content), &prev);
    comes(&world, &room_id, &refused);
    assert_eq!(redactions_shown(&world, &room_id, alice, None), 0);
    let event = |event_id: &EventId| {
        let (user, device) = (alice.to_owned(), "PHONE".into());
        let call = GetEvent { user, device, ignored: Vec::new(), event_id: event_id.to_owned() };
        world.call(room_id.as_str(), &call).map(|event| event.get().to_owned())
    };
    assert!(event(&refused.event_id).is_err());
    assert!(!event(&said).unwrap().contains("m.thread"));
    // Others are served it, as what comes after it needs it.
    let call = GetStateIds {
        server: None,
        event_id: refused.event_id,
        auth_chain_only: false,
        omit_members: false,
        after: None,
    };
    assert!(world.call(room_id.as_str(), &call).is_ok());
}

fn comes(world: &World, room_id: &OwnedRoomId, event: &CheckedEvent) {
    let call = ReceiveEvent::of(event.clone());
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
}

/// More than goes into one statement, or into one row.
#[test]
fn a_state_of_very_many_events_is_told_and_believed() {
    const MEMBERS: usize = 45_000;
    let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
    let world = World::new(1);
    let room_id = world.creates_room(alice, "11", Preset::PublicChat);
    world.joins_from_elsewhere(&room_id, zoe);
    world.crowds(&room_id, MEMBERS as u64);
    world.sends(alice, &room_id, "m.room.message", None, &json!({})).unwrap();
    let newest = world.newest(&room_id, "m.room.message", "");
    let call = GetStateIds {
        server: None,
        event_id: newest.event_id().to_owned(),
        auth_chain_only: false,
        omit_members: false,
        after: None,
    };
    let mut state = world.call(room_id.as_str(), &call).unwrap().state;
    assert!(state.len() > MEMBERS);
    assert!(world.call(room_id.as_str(), &GetMissing { event_ids: state.clone() }).unwrap().is_empty());
    // It comes after something that is not here, in a state without some of the members.
    let between = world.says_elsewhere(&room_id, &draft(zoe, "m.room.message", &json!({ "n": 1 })), &newest);
    let between = Pdu::from_stored(between.event_id, between.json, false).unwrap();
    let event = world.says_elsewhere(&room_id, &draft(zoe, "m.room.message", &json!({ "n": 2 })), &between);
    let is_one = |event_id: &OwnedEventId| event_id.as_str().starts_with("$crowd1111");
    state.retain(|event_id| !is_one(event_id));
    let call = ReceiveEvent { state_before: Some(state.clone()), ..ReceiveEvent::of(event.clone()) };
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    let call = GetStateIds {
        server: None,
        event_id: event.event_id,
        auth_chain_only: false,
        omit_members: false,
        after: None,
    };
    let mut told = world.call(room_id.as_str(), &call).unwrap().state;
    told.sort();
    state.sort();
    assert_eq!(told, state);
}

/// However the state before an event differs from the log's.
#[test]
fn a_state_is_the_same_page_by_page() {
    let (alice, zoe) = (user_id!("@alice:myelin.test"), user_id!("@zoe:there.test"));
    let world = World::new(1);
    let room_id = world.creates_room(alice, "11", Preset::PublicChat);
    world.joins_from_elsewhere(&room_id, zoe);
    for key in ["a", "c", "e", "g"] {
        world.sends(alice, &room_id, "m.x", Some(key), &json!({})).unwrap();
    }
    let (first, last) = (world.newest(&room_id, "m.x", "a"), world.newest(&room_id, "m.x", "g"));
    world.sends(alice, &room_id, "m.room.message", None, &json!({})).unwrap();
    let newest = world.newest(&room_id, "m.room.message", "");
    let ids = |event_id: &EventId, after| {
        let call = GetStateIds {
            server: None,
            event_id: event_id.to_owned(),
            auth_chain_only: false,
            omit_members: false,
            after,
        };
        world.call(room_id.as_str(), &call).unwrap()
    };
    // One comes elsewhere, in a state with another key, and without two.
    let other = world.says_elsewhere(&room_id, &draft(zoe, "m.room.message", &json!({ "n": 1 })), &newest);
    let other = Pdu::from_stored(other.event_id, other.json, false).unwrap();
    let event = world.says_elsewhere(&room_id, &draft(zoe, "m.room.message", &json!({ "n": 2 })), &other);
    let mut state = ids(newest.event_id(), None).state;
    state.retain(|id| id != first.event_id() && id != last.event_id());
    let call = ReceiveEvent { state_before: Some(state), ..ReceiveEvent::of(event.clone()) };
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    for event_id in [&*event.event_id, newest.event_id()] {
        let whole = ids(event_id, None);
        let (mut state, mut chain, mut after, mut pages) = (Vec::new(), Vec::new(), Some(Default::default()), 0);
        while after.is_some() {
            let page = ids(event_id, after);
            state.extend(page.state);
            chain.extend(page.auth_chain);
            after = page.next;
            pages += 1;
        }
        assert!(pages > 2, "{pages}");
        assert_eq!(state, whole.state);
        chain.sort();
        chain.dedup();
        assert_eq!(chain, whole.auth_chain);
    }
}

/// Whoever has no power redacts first, as often as they like: what is to redact the event does.
#[test]
fn of_redactions_that_come_before_their_event_those_count_that_may_redact_it() {
    let (zoe, max, yan) = (user_id!("@zoe:there.test"), user_id!("@max:mods.test"), user_id!("@yan:other.test"));
    let own = user_id!("@yves:other.test");
    for (floods, redactors, is_redacted) in [
        (false, vec![zoe], false),
        (false, vec![zoe, max], true),
        (false, vec![max, zoe], true),
        (true, vec![max], true),
        // A user of the event's own server.
        (false, vec![zoe, own], true),
    ] {
        let world = World::new(1);
        let alice = user_id!("@alice:myelin.test");
        let room_id = world.creates_room(alice, "11", Preset::PublicChat);
        for user in [zoe, max, yan, own] {
            world.joins_from_elsewhere(&room_id, user);
        }
        let levels = json!({ "users": { (alice.as_str()): 100, (max.as_str()): 50 } });
        world.sends(alice, &room_id, "m.room.power_levels", Some(""), &levels).unwrap();
        let prev = world.newest(&room_id, "m.room.power_levels", "");
        let said = world.says_elsewhere(&room_id, &draft(yan, "m.room.message", &json!({ "body": "x" })), &prev);
        for number in 0..if floods { EARLY_REDACTIONS_MAX + 5 } else { 0 } {
            comes(&world, &room_id, &redacts(&world, &room_id, zoe, &said.event_id, number));
        }
        for redactor in &redactors {
            comes(&world, &room_id, &redacts(&world, &room_id, redactor, &said.event_id, 1_000));
        }
        assert_eq!(redactions_shown(&world, &room_id, alice, None), 0, "{redactors:?}");
        comes(&world, &room_id, &said);
        // What became of it is told with it; and the room goes on.
        assert_eq!(redactions_shown(&world, &room_id, alice, None), 0, "{redactors:?}");
        let (user, device) = (alice.to_owned(), "PHONE".into());
        let call = GetEvent { user, device, ignored: Vec::new(), event_id: said.event_id.clone() };
        let shown = world.call(room_id.as_str(), &call).unwrap();
        assert_eq!(shown.get().contains("redacted_because"), is_redacted, "{redactors:?}");
        let follows = world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "y" })).unwrap();
        let call =
            GetStateIds { server: None, event_id: follows, auth_chain_only: false, omit_members: false, after: None };
        assert!(world.call(room_id.as_str(), &call).is_ok());
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let event = store::log::by_id(&*sql, said.event_id.as_str()).unwrap().unwrap();
        assert_eq!(event.redacted_by.is_some(), is_redacted, "{redactors:?}");
        assert_eq!(event.pdu.content().get() == "{}", is_redacted);
    }
}

/// What somebody elsewhere says after these events.
fn said_after(world: &World, room_id: &OwnedRoomId, sender: &UserId, prev: &[&EventId], body: &str) -> CheckedEvent {
    let newest = world.newest(room_id, "m.room.message", "");
    let event = world.says_elsewhere(room_id, &draft(sender, "m.room.message", &json!({ "body": body })), &newest);
    with_prev(world, room_id, event, sender, prev)
}

/// The same event, after others than those it was made on.
fn with_prev(
    world: &World,
    room_id: &OwnedRoomId,
    event: CheckedEvent,
    sender: &UserId,
    prev: &[&EventId],
) -> CheckedEvent {
    let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
    let version = RoomVersion::parse(&store::meta::text(&*sql, "version").unwrap().unwrap()).unwrap();
    let mut template: Value = serde_json::from_str(&event.json).unwrap();
    let names_hashes = template["prev_events"][0].is_array();
    let name = |id: &&EventId| if names_hashes { json!([id, { "sha256": "x" }]) } else { json!(id) };
    template["prev_events"] = prev.iter().map(name).collect();
    if version.room_id_is_create_event() {
        // Nobody names it.
        let create = room_id.as_str().replacen('!', "$", 1);
        template["auth_events"].as_array_mut().unwrap().retain(|named| *named != create.as_str());
    }
    let identity = Identity::new(sender.server_name().to_owned(), "a", [3; 32]).unwrap();
    let content = to_raw_value(&template["content"]).unwrap();
    let now_ms = world.now_ms();
    // In the first versions it is what the id is made of.
    let mut random = [0; 18];
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    random[..8].copy_from_slice(&hasher.finish().to_be_bytes());
    let pdu = complete(&to_raw_value(&template).unwrap(), &content, &version, &identity, now_ms, random).unwrap();
    CheckedEvent::of(&pdu)
}

/// The same event under the id of another, as only the first versions have it.
fn named(event: &CheckedEvent, event_id: &EventId) -> CheckedEvent {
    let json = event.json.replace(event.event_id.as_str(), event_id.as_str());
    CheckedEvent { event_id: event_id.to_owned(), json }
}

/// In the first versions whoever makes an event names it, and may name two the same: what came first stays what it is.
#[test]
fn of_two_events_with_one_id_the_first_counts() {
    let eve = user_id!("@eve:evil.test");
    for version in ["1", "2"] {
        let (world, room_id) = room_with_eve(version);
        let address = Address::new(ActorKind::Room, room_id.as_str());
        let before = current(&world, &room_id);
        let ends = extremities(&world, &room_id);
        let first = said_after(&world, &room_id, eve, &[&ends[0]], "first");
        let after = said_after(&world, &room_id, eve, &[&first.event_id], "after");
        let levels = world.newest(&room_id, "m.room.power_levels", "");
        assert_eq!(world.call(room_id.as_str(), &ReceiveEvent::of(first.clone())).unwrap(), Received::Accepted);
        for (event, id) in [(&after, &*first.event_id), (&after, levels.event_id())] {
            let copy = named(event, id);
            let text = || {
                let rows =
                    world.sql(&address).query("SELECT json FROM event WHERE event_id = ?1", &[id.as_str().into()]);
                rows.unwrap().remove(0).text(0).unwrap()
            };
            let kept = text();
            assert_ne!(kept, copy.json, "{version}");
            world.call(room_id.as_str(), &HoldEvents { events: vec![copy.clone()] }).unwrap();
            let received = world.call(room_id.as_str(), &ReceiveEvent::of(copy)).unwrap();
            assert_eq!((received, text()), (Received::Accepted, kept), "{version}");
        }
        assert_eq!((current(&world, &room_id), extremities(&world, &room_id)), (before, vec![first.event_id]));
        assert_eq!(world.call(room_id.as_str(), &ReceiveEvent::of(after)).unwrap(), Received::Accepted);
    }
}

/// In the first versions two events can each come after the other. That leads nobody in circles.
#[test]
fn events_that_come_after_each_other_are_walked_through_once() {
    let eve = user_id!("@eve:evil.test");
    for version in ["1", "2"] {
        let (world, room_id) = room_with_eve(version);
        let before = current(&world, &room_id);
        let ends = extremities(&world, &room_id);
        let second = said_after(&world, &room_id, eve, &[&ends[0]], "second");
        let first = said_after(&world, &room_id, eve, &[&second.event_id], "first");
        let second = named(&said_after(&world, &room_id, eve, &[&first.event_id], "second"), &second.event_id);
        let received = world.call(room_id.as_str(), &ReceiveEvent::of(first.clone())).unwrap();
        assert!(matches!(received, Received::Needs(_)), "{version}: {received:?}");
        let told = before.iter().map(|(_, id)| id.clone()).collect();
        let told = ToldState { event_id: second.event_id.clone(), state_before: told };
        let call = ReceiveEvent { told: vec![told], ..ReceiveEvent::of(first.clone()) };
        assert_eq!(tells(&world, &room_id, &call, &second), Received::Accepted, "{version}");
        assert_eq!(world.call(room_id.as_str(), &ReceiveEvent::of(second.clone())).unwrap(), Received::Accepted);
        assert_eq!(current(&world, &room_id), before, "{version}");
        for wanted in [
            Wanted::Backfill { from: vec![first.event_id.clone(), second.event_id.clone()], limit: 100 },
            Wanted::Missing {
                earliest: Vec::new(),
                latest: vec![first.event_id.clone(), second.event_id.clone()],
                limit: 100,
                min_depth: 0,
            },
        ] {
            let call = GetEventsForServer { server: eve.server_name().to_owned(), wanted };
            let events = world.call(room_id.as_str(), &call).unwrap();
            let texts: BTreeSet<&str> = events.iter().map(|event| event.get()).collect();
            assert!(texts.len() == events.len() && events.len() <= 100, "{version}: {}", events.len());
        }
        let next = said_after(&world, &room_id, eve, &[&first.event_id, &second.event_id], "next");
        assert_eq!(world.call(room_id.as_str(), &ReceiveEvent::of(next)).unwrap(), Received::Accepted, "{version}");
        world.settle();
        world
            .sends(user_id!("@alice:myelin.test"), &room_id, "m.room.topic", Some(""), &json!({ "topic": "x" }))
            .unwrap();
    }
}

fn current(world: &World, room_id: &OwnedRoomId) -> Vec<(store::graph::Key, OwnedEventId)> {
    current_state(&*world.sql(&Address::new(ActorKind::Room, room_id.as_str())))
}

fn extremities(world: &World, room_id: &OwnedRoomId) -> Vec<OwnedEventId> {
    store::graph::extremities(&*world.sql(&Address::new(ActorKind::Room, room_id.as_str()))).unwrap().ids
}

/// A room of alice's with bob, and of other servers' users eve, mallory and zoe; max is banned.
fn room_with_eve(version: &str) -> (Rc<World>, OwnedRoomId) {
    let (alice, bob) = (user_id!("@alice:myelin.test"), user_id!("@bob:myelin.test"));
    let world = World::new(1);
    let room_id = world.creates_room(alice, version, Preset::PublicChat);
    for user in ["@eve:evil.test", "@mallory:evil.test", "@zoe:there.test"] {
        world.joins_from_elsewhere(&room_id, <&UserId>::try_from(user).unwrap());
    }
    world.changes(bob, &room_id, bob, MembershipAction::Join).unwrap();
    world.changes(alice, &room_id, user_id!("@max:other.test"), MembershipAction::Ban).unwrap();
    world.sends(alice, &room_id, "m.room.server_acl", Some(""), &json!({ "allow": ["*"] })).unwrap();
    world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "x" })).unwrap();
    (world, room_id)
}

/// The ids of what is the state for these keys.
fn ids(world: &World, room_id: &OwnedRoomId, keys: &[(&str, &str)]) -> Vec<OwnedEventId> {
    keys.iter().map(|(event_type, key)| world.newest(room_id, event_type, key).event_id().to_owned()).collect()
}

/// Tells of states; what it takes is held first.
fn tells(world: &World, room_id: &OwnedRoomId, call: &ReceiveEvent, held: &CheckedEvent) -> Received {
    match world.call(room_id.as_str(), call).unwrap() {
        Received::Needs(Needs { state, .. }) if !state.is_empty() => {
            assert_eq!(state, std::slice::from_ref(&held.event_id), "what is before it is not held yet");
            let held = HoldEvents { events: vec![held.clone()] };
            assert!(world.call(room_id.as_str(), &held).unwrap().is_empty());
            world.call(room_id.as_str(), call).unwrap()
        }
        received => received,
    }
}

/// Eve has no power. What she says comes after all that is here, and after something that is nowhere: of the state
/// there her server tells what it likes.
#[test]
fn whoever_lies_about_a_state_takes_nothing_out_of_the_room() {
    let eve = user_id!("@eve:evil.test");
    for version in ["1", "2", "5", "6", "9", "10", "11", "12"] {
        for (lie, names_all) in [(0, true), (0, false), (1, true), (1, false), (2, true), (2, false), (3, true)] {
            let case = format!("version {version}, lie {lie}, {names_all}");
            let (world, room_id) = room_with_eve(version);
            let before = current(&world, &room_id);
            let [create, join, levels] = ["m.room.create", "m.room.member", "m.room.power_levels"]
                .map(|kind| ids(&world, &room_id, &[(kind, if kind == "m.room.member" { eve.as_str() } else { "" })]))
                .map(|mut ids| ids.remove(0));
            // Enough for her to speak, and all but what decides.
            let told = match lie {
                0 => vec![create, join],
                1 => vec![create, join, levels],
                2 => before.iter().map(|(_, id)| id.clone()).filter(|id| *id != levels).collect(),
                _ => Vec::new(),
            };
            let ends = extremities(&world, &room_id);
            let ends: Vec<&EventId> = ends.iter().map(|id| &**id).collect();
            let nowhere = said_after(&world, &room_id, eve, &ends, "nowhere");
            let named: Vec<&EventId> = ends.iter().copied().filter(|_| names_all).chain([&*nowhere.event_id]).collect();
            let event = said_after(&world, &room_id, eve, &named, "evil");
            let told_of_all = ReceiveEvent { state_before: Some(told.clone()), ..ReceiveEvent::of(event.clone()) };
            let told = ToldState { event_id: nowhere.event_id.clone(), state_before: told };
            let told_of_one = ReceiveEvent { told: vec![told], ..ReceiveEvent::of(event.clone()) };
            let call = if lie % 2 == 0 { &told_of_one } else { &told_of_all };
            assert_eq!(tells(&world, &room_id, call, &nowhere), Received::Accepted, "{case}");
            assert_eq!(current(&world, &room_id), before, "{case}");
            // What comes after that brings nothing else.
            let next = said_after(&world, &room_id, eve, &[&event.event_id, ends[0]], "more");
            assert_eq!(world.call(room_id.as_str(), &ReceiveEvent::of(next)).unwrap(), Received::Accepted);
            assert_eq!(current(&world, &room_id), before, "{case}");
        }
    }
}

/// Eve is banned: what she says gets no place, and what comes after it comes after nothing that is here, whatever else
/// is found before it later.
#[test]
fn what_was_judged_on_a_lie_leads_to_nothing_that_was_known() {
    let (alice, eve, mallory) =
        (user_id!("@alice:myelin.test"), user_id!("@eve:evil.test"), user_id!("@mallory:evil.test"));
    let (world, room_id) = room_with_eve("11");
    let member = |user: &'static str| ("m.room.member", user);
    let lie = ids(&world, &room_id, &[("m.room.create", ""), member(eve.as_str()), member(mallory.as_str())]);
    let was_member = said_after(&world, &room_id, eve, &[], "as a member");
    world.changes(alice, &room_id, eve, MembershipAction::Ban).unwrap();
    let before = current(&world, &room_id);
    let ends = extremities(&world, &room_id);
    let late = with_prev(&world, &room_id, was_member.clone(), eve, &[&ends[0]]);
    let hidden = with_prev(&world, &room_id, was_member, eve, &[&late.event_id]);
    let call = ReceiveEvent { state_before: Some(lie), ..ReceiveEvent::of(hidden.clone()) };
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::SoftFailed);
    let refused = world.call(room_id.as_str(), &ReceiveEvent::of(late)).unwrap();
    assert!(matches!(refused, Received::Rejected(_)), "{refused:?}");
    let event = said_after(&world, &room_id, mallory, &[&hidden.event_id], "evil");
    comes(&world, &room_id, &event);
    assert_eq!(current(&world, &room_id), before);
    assert!(extremities(&world, &room_id).contains(&ends[0]));
}

/// Whoever passes on what zoe said tells that she is not in the room.
#[test]
fn what_a_lie_forbids_is_not_refused_for_good() {
    let zoe = user_id!("@zoe:there.test");
    let (world, room_id) = room_with_eve("11");
    let ends = extremities(&world, &room_id);
    let nowhere = said_after(&world, &room_id, zoe, &[&ends[0]], "nowhere");
    let event = said_after(&world, &room_id, zoe, &[&nowhere.event_id], "hello");
    let truth: Vec<_> = current(&world, &room_id).into_iter().map(|(_, id)| id).collect();
    let lie: Vec<_> = truth
        .iter()
        .filter(|id| **id != ids(&world, &room_id, &[("m.room.member", zoe.as_str())])[0])
        .cloned()
        .collect();
    let tells_that = |state: &[OwnedEventId]| {
        let told = ToldState { event_id: nowhere.event_id.clone(), state_before: state.to_vec() };
        tells(&world, &room_id, &ReceiveEvent { told: vec![told], ..ReceiveEvent::of(event.clone()) }, &nowhere)
    };
    for _ in 0..2 {
        let Received::Needs(needs) = tells_that(&lie) else { panic!("judged for good") };
        assert_eq!(needs.prev_events, std::slice::from_ref(&nowhere.event_id));
        assert!(needs.refused.is_some_and(|rule| rule.contains("not allow")));
    }
    assert_eq!(tells_that(&truth), Received::Accepted);
}

/// Carol joins through Eve's server, which says of the room what it likes: alice and bob are in it, and know better.
#[test]
fn a_join_through_whoever_lies_resets_no_room_that_is_here() {
    let (eve, carol) = (user_id!("@eve:evil.test"), user_id!("@carol:myelin.test"));
    let (world, room_id) = room_with_eve("11");
    let mut before = current(&world, &room_id);
    let ends = extremities(&world, &room_id);
    let nowhere = said_after(&world, &room_id, eve, &[&ends[0]], "nowhere");
    let named = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")];
    let template = json!({
        "type": "m.room.member", "room_id": room_id, "sender": carol, "state_key": carol, "depth": 50,
        "prev_events": [ends[0], nowhere.event_id], "auth_events": ids(&world, &room_id, &named),
    });
    let identity = Identity::new(carol.server_name().to_owned(), "a", [3; 32]).unwrap();
    let (template, content) =
        (to_raw_value(&template).unwrap(), to_raw_value(&json!({ "membership": "join" })).unwrap());
    let version = RoomVersion::parse("11").unwrap();
    let join = complete(&template, &content, &version, &identity, world.now_ms(), [0; 18]).unwrap();
    let call = |events: &[(&str, &str)], name: &str| {
        let begin = BeginJoin { room_version: "11".into(), join: name.to_owned() };
        world.call(room_id.as_str(), &begin).unwrap();
        let lie = events.iter().map(|(kind, key)| CheckedEvent::of(&world.newest(&room_id, kind, key))).collect();
        let stage = StageEvents { join: name.to_owned(), first: 0, are_state: true, events: lie };
        world.call(room_id.as_str(), &stage).unwrap();
        while world.call(room_id.as_str(), &JudgeStaged { join: name.to_owned(), after: 0 }).unwrap().next.is_some() {}
        let (call_id, event) = (name.to_owned(), CheckedEvent::of(&join));
        world.call(room_id.as_str(), &CompleteJoin { call_id, event, join: name.to_owned(), omitted: None }).unwrap()
    };
    before.push((("m.room.member".to_owned(), carol.to_string()), join.event_id().to_owned()));
    before.sort();
    assert_eq!(call(&[named[0], ("m.room.member", eve.as_str()), named[2]], "lie"), Received::Accepted);
    assert_eq!(current(&world, &room_id), before);
    assert_eq!(call(&[named[0]], "again"), Received::Accepted, "repeated");
}

/// Eve says something after an event that is nowhere. Answers the edge that this makes.
fn leaves_a_gap(world: &World, room_id: &OwnedRoomId, number: usize) -> Edge {
    let told = current(world, room_id).into_iter().map(|(_, event_id)| event_id).collect();
    let nowhere = OwnedEventId::try_from(format!("$nowhere{number}")).unwrap();
    let event = said_after(world, room_id, user_id!("@eve:evil.test"), &[&nowhere], &number.to_string());
    let call = ReceiveEvent { state_before: Some(told), ..ReceiveEvent::of(event) };
    assert_eq!(world.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
    let edge = store::history::newest(&*sql, 0, store::graph::POSITION_MAX).unwrap().unwrap();
    assert_eq!(edge.position, world.head_of(room_id));
    edge
}

/// What leaves numbers free for history leaves positions close to the clock, which they are compared with.
#[test]
fn however_many_gaps_there_are_positions_stay_close_to_the_clock() {
    let (world, room_id) = room_with_eve("11");
    let free = |edge: Edge| edge.position - edge.floor;
    let mut last = world.head_of(&room_id);
    for number in 0..200 {
        let edge = leaves_a_gap(&world, &room_id, number);
        assert_eq!(edge.floor, last + 1, "after all that there was");
        assert!(free(edge) >= GAP_POSITIONS_MIN);
        if number < 8 {
            assert!(free(edge) >= LEAD_MAX >> (number + 2), "{} at once, the {number}th", free(edge));
        }
        last = edge.position;
        let lead = last.saturating_sub(world.now_ms());
        assert!(lead <= LEAD_MAX + number as u64 * (GAP_POSITIONS_MIN + 1), "{lead} ms after {number}");
    }
    // The clock gives them back.
    world.passes(LEAD_MAX);
    assert!(free(leaves_a_gap(&world, &room_id, 200)) > LEAD_MAX / 4);
    // While nothing comes, all numbers are free.
    world.passes(3_600_000);
    let edge = leaves_a_gap(&world, &room_id, 201);
    assert_eq!(edge.position, world.now_ms());
    assert!(free(edge) > 3_500_000);
}

/// Of all that somebody makes others miss, the room asks for the newest, and for what was before the first of all.
#[test]
fn edges_have_a_bound() {
    let (world, room_id) = room_with_eve("11");
    let edges: Vec<Edge> = (0..50).map(|number| leaves_a_gap(&world, &room_id, number)).collect();
    let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
    let positions = |table: &str| {
        let rows = sql.query(&format!("SELECT position FROM {table} ORDER BY position"), &[]).unwrap();
        rows.into_iter().map(|mut row| row.unsigned(0).unwrap()).collect::<Vec<_>>()
    };
    let kept = edges[..1].iter().chain(&edges[51 - EDGES_MAX as usize..]);
    let kept: Vec<u64> = kept.map(|edge| edge.position).collect();
    assert_eq!(kept.len() as u64, EDGES_MAX);
    assert_eq!((positions("edge"), positions("gap")), (kept.clone(), kept));
}

#[test]
fn where_a_page_ends_costs_no_more_where_much_is_missing() {
    let costs = |missing: u64| {
        let (world, room_id) = room_with_eve("11");
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let first = leaves_a_gap(&world, &room_id, 0);
        for number in 1..EDGES_MAX as usize {
            leaves_a_gap(&world, &room_id, number);
        }
        for statement in [
            "DELETE FROM gap WHERE position > ?1",
            "INSERT INTO gap (event_id, position) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?2)
             SELECT printf('$missing%d', n), ?1 FROM n WHERE ?1 <> ?2",
        ] {
            sql.query(statement, &[first.position.into(), missing.into()][..1 + usize::from(statement.contains("?2"))])
                .unwrap();
        }
        let before = sql.steps.get();
        let open = store::history::open_below(&*sql, store::graph::POSITION_MAX).unwrap();
        assert_eq!(open.map(|edge| edge.position), Some(first.position));
        sql.steps.get() - before
    };
    let (few, many) = (costs(10), costs(5_000));
    assert!(many <= few * 3 / 2, "{few} steps became {many}");
}
