//! A room lives on one server; another joins it late and gets its history page by page.

use std::{collections::BTreeSet, rc::Rc};

use domain::power::Preset;
use platform::{ActorKind, Address, Sql};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, user_id};
use serde_json::{Value, json};

use super::{Gap, HISTORY_EVENTS_MAX, PlaceHistory, Placed};
use crate::{
    room::{
        BeginJoin, CheckedEvent, CompleteJoin, Delta, Direction, EventByTimestamp, EventByTimestampForServer,
        EventFilter, GetContext, GetEventsForServer, GetStateIds, HoldEvents, JudgeStaged, MembershipAction, Messages,
        MessagesPage, Received, StageEvents, Wanted,
    },
    world::{World, seeds},
};

/// Members elsewhere, the creator first, and ours, who comes last.
fn people() -> [OwnedUserId; 4] {
    [user_id!("@alice:one.test"), user_id!("@carol:one.test"), user_id!("@dora:two.test"), user_id!("@bob:myelin.test")]
        .map(UserId::to_owned)
}

fn bob() -> OwnedUserId {
    let [.., bob] = people();
    bob
}

/// A room that something happened in. What the rules refuse makes no event.
fn lives(far: &World, version: &str, steps: usize) -> OwnedRoomId {
    let [alice, carol, dora, bob] = people();
    let room_id = far.creates_room(&alice, version, Preset::PublicChat);
    let mut said: Vec<OwnedEventId> = Vec::new();
    for step in 0..steps {
        let others = [&carol, &dora, &bob];
        let who = others[far.dice.roll(3) as usize];
        let _ = match far.dice.roll(12) {
            0 => far.changes(who, &room_id, who, MembershipAction::Join),
            1 => far.changes(who, &room_id, who, MembershipAction::Leave),
            2 => far.changes(&alice, &room_id, who, MembershipAction::Invite),
            3 => {
                let setting = ["joined", "invited", "shared", "world_readable"][far.dice.roll(4) as usize];
                let content = json!({ "history_visibility": setting });
                far.sends(&alice, &room_id, "m.room.history_visibility", Some(""), &content).map(drop)
            }
            4 => far.sends(&alice, &room_id, "m.room.topic", Some(""), &json!({ "topic": step })).map(drop),
            5 if !said.is_empty() => {
                let redacts: OwnedEventId = said[far.dice.roll(said.len() as u64) as usize].clone();
                far.redacts(&alice, &room_id, &redacts)
            }
            _ => {
                let sent = far.sends(&alice, &room_id, "m.room.message", None, &json!({ "body": step }));
                sent.map(|event_id| said.push(event_id))
            }
        };
        far.settle();
    }
    room_id
}

fn checked(far: &World, room_id: &RoomId, event_ids: Vec<OwnedEventId>) -> Vec<CheckedEvent> {
    let mut all = Vec::new();
    for event_id in event_ids {
        let sql = far.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let mut row = sql.query("SELECT json FROM event WHERE event_id = ?1", &[event_id.as_str().into()]).unwrap();
        all.push(CheckedEvent { event_id, json: row[0].text(0).unwrap() });
    }
    all
}

/// The state before an event, brought to where it is needed; its ids.
fn tells_state(far: &World, near: &World, room_id: &RoomId, event_id: &EventId) -> Vec<OwnedEventId> {
    let call = GetStateIds {
        server: None,
        event_id: event_id.to_owned(),
        auth_chain_only: false,
        omit_members: false,
        after: None,
    };
    let ids = far.call(room_id.as_str(), &call).unwrap();
    let mut ahead = checked(far, room_id, ids.auth_chain.iter().chain(&ids.state).cloned().collect());
    let number = |event: &CheckedEvent| {
        let json: Value = serde_json::from_str(&event.json).unwrap();
        json["depth"].as_u64().unwrap()
    };
    ahead.sort_by_key(number);
    assert_eq!(near.call(room_id.as_str(), &HoldEvents { events: ahead }).unwrap(), Vec::<OwnedEventId>::new());
    ids.state
}

/// Bob joins there, and his server takes it in here.
fn joins(far: &World, near: &World, room_id: &RoomId, version: &str) {
    let _ = far.changes(&people()[0], room_id, &bob(), MembershipAction::Invite);
    let _ = far.changes(&bob(), room_id, &bob(), MembershipAction::Leave);
    let _ = far.changes(&people()[0], room_id, &bob(), MembershipAction::Invite);
    far.changes(&bob(), room_id, &bob(), MembershipAction::Join).unwrap();
    let sql = far.sql(&Address::new(ActorKind::Room, room_id.as_str()));
    let rows = sql.query("SELECT event_id FROM event ORDER BY position DESC LIMIT 1", &[]).unwrap();
    let join: OwnedEventId = rows.into_iter().next().unwrap().text(0).unwrap().try_into().unwrap();
    let begin = BeginJoin { room_version: version.to_owned(), join: "join".into() };
    near.call(room_id.as_str(), &begin).unwrap();
    let call =
        GetStateIds { server: None, event_id: join.clone(), auth_chain_only: false, omit_members: false, after: None };
    let ids = far.call(room_id.as_str(), &call).unwrap();
    let mut first = 0;
    for (are_state, ids) in [(true, ids.state), (false, ids.auth_chain)] {
        let events = checked(far, room_id, ids);
        let count = events.len() as u64;
        near.call(room_id.as_str(), &StageEvents { join: "join".into(), first, are_state, events }).unwrap();
        first += count;
    }
    let judged = near.call(room_id.as_str(), &JudgeStaged { join: "join".into(), after: 0 }).unwrap();
    assert_eq!((judged.next, judged.waiting), (None, 0));
    let [event] = <[_; 1]>::try_from(checked(far, room_id, vec![join])).unwrap();
    let call = CompleteJoin { call_id: "join".into(), event, join: "join".into(), omitted: None };
    assert_eq!(near.call(room_id.as_str(), &call).unwrap(), Received::Accepted);
    near.settle();
}

fn asks(far: &World, room_id: &RoomId, gap: &Gap, limit: u64) -> Vec<CheckedEvent> {
    let wanted = Wanted::Backfill { from: gap.missing.clone(), limit };
    let call = GetEventsForServer { server: "one.test".try_into().unwrap(), wanted };
    let events = far.call(room_id.as_str(), &call).unwrap();
    let version = domain::RoomVersion::parse(&gap.room_version).unwrap();
    let id = |json: &str| domain::event::id_of(&serde_json::from_str(json).unwrap(), &version).unwrap();
    events.iter().map(|json| CheckedEvent { event_id: id(json.get()), json: json.get().to_owned() }).collect()
}

/// As the request tier does it.
fn fills(far: &World, near: &World, room_id: &RoomId, gap: &Gap, limit: u64) -> usize {
    let mut call = PlaceHistory {
        edge: gap.edge,
        missing: gap.missing.clone(),
        events: asks(far, room_id, gap, limit),
        states: vec![],
        is_apart: false,
        is_final: false,
    };
    for _ in 0..4 {
        match near.call(room_id.as_str(), &call).unwrap() {
            Placed::Placed(count) => return count,
            Placed::Moved => panic!("nobody else fills"),
            Placed::Needs { states, auth_events } => {
                let mut held = checked(far, room_id, auth_events);
                held.reverse();
                near.call(room_id.as_str(), &HoldEvents { events: held }).unwrap();
                for event_id in states {
                    let state = tells_state(far, near, room_id, &event_id);
                    call.states.push((event_id, state));
                }
            }
        }
    }
    panic!("it needs and needs");
}

fn page(world: &World, room_id: &RoomId, from: Option<u64>, limit: u64) -> MessagesPage {
    let call = Messages {
        user: bob(),
        device: "ANY".into(),
        ignored: Vec::new(),
        from,
        to: None,
        direction: Direction::Backwards,
        filter: EventFilter { limit: Some(limit), ..EventFilter::default() },
        past_gaps: false,
    };
    world.call(room_id.as_str(), &call).unwrap()
}

fn place(token: &str) -> u64 {
    token.parse::<crate::room::RoomToken>().unwrap().0
}

/// What a client sees of an event, but for what each server says for itself.
fn shown(json: &str) -> Value {
    let mut event: Value = serde_json::from_str(json).unwrap();
    let unsigned = event["unsigned"].as_object_mut().unwrap();
    unsigned.remove("age");
    unsigned.remove("transaction_id");
    if let Some(because) = unsigned.get_mut("redacted_because") {
        *because = because["event_id"].take();
    }
    event
}

/// All that Bob can page back to, with whatever his server has to ask for.
fn pages_back(far: &World, near: &World, room_id: &RoomId, asked: u64) -> Vec<Value> {
    let (mut events, mut from) = (Vec::new(), None);
    for _ in 0..1_000 {
        let limit = 1 + near.dice.roll(15);
        let page = page(near, room_id, from, limit);
        if let Some(gap) = &page.gap {
            assert!((page.chunk.len() as u64) < limit);
            assert!(page.end.is_some());
            assert!(fills(far, near, room_id, gap, asked) > 0, "nothing came: {gap:?}");
            continue;
        }
        events.extend(page.chunk.iter().map(|event| shown(event.get())));
        match page.end {
            Some(end) => from = Some(place(&end)),
            None => return events,
        }
    }
    panic!("it never ends");
}

#[test]
fn history_that_is_fetched_is_the_history_that_was_lived() {
    for seed in 1..=seeds(4) {
        let version = ["6", "10", "11", "12"][(seed % 4) as usize];
        let (far, near) = (World::new(seed), World::new(seed));
        let room_id = lives(&far, version, 100);
        joins(&far, &near, &room_id, version);
        let lived = pages_back(&far, &far, &room_id, 0);
        let fetched = pages_back(&far, &near, &room_id, 2 + far.dice.roll(30));
        let ids = |events: &[Value]| events.iter().map(|event| event["event_id"].clone()).collect::<Vec<_>>();
        // Redactions come into sight with what they redact, which may be further back.
        let (first, all) = (ids(&fetched), ids(&lived));
        let known: Vec<_> = lived.iter().filter(|event| first.contains(&event["event_id"])).collect();
        assert_eq!(first, known.iter().map(|event| event["event_id"].clone()).collect::<Vec<_>>());
        let later = lived.iter().filter(|event| !first.contains(&event["event_id"]));
        assert!(later.clone().all(|event| event["type"] == "m.room.redaction"), "MYELIN_SEED: {seed}");
        // Of a state event one may see what it replaced, once that is here, too.
        let fetched = pages_back(&far, &near, &room_id, 0);
        assert_eq!(ids(&fetched), all, "MYELIN_SEED: {seed}");
        for (fetched, lived) in fetched.iter().zip(&lived) {
            assert_eq!(fetched, lived, "MYELIN_SEED: {seed}");
        }
        the_state_is_the_same(&far, &near, &room_id, &lived);
        nothing_of_it_is_synced(&near, &room_id);
    }
}

/// What `/context` says of the state at each event.
fn the_state_is_the_same(far: &World, near: &World, room_id: &RoomId, events: &[Value]) {
    for event in events.iter().step_by(5) {
        let state = |world: &World| {
            let call = GetContext {
                user: bob(),
                device: "ANY".into(),
                ignored: Vec::new(),
                event_id: event["event_id"].as_str().unwrap().try_into().unwrap(),
                limit: 0,
                filter: EventFilter::default(),
                past_gaps: false,
            };
            let state = world.call(room_id.as_str(), &call).unwrap().state.events;
            let ids = state.iter().map(|event| shown(event.get())["event_id"].as_str().unwrap().to_owned());
            ids.collect::<BTreeSet<_>>()
        };
        assert_eq!(state(near), state(far), "at {event}");
    }
}

fn nothing_of_it_is_synced(near: &World, room_id: &RoomId) {
    let sync = near.call(room_id.as_str(), &first_look()).unwrap();
    let room: Value = serde_json::from_str(sync.room.get()).unwrap();
    assert_eq!(room["timeline"]["events"].as_array().unwrap().len(), 1, "{room}");
    assert_eq!(room["timeline"]["limited"], true);
}

fn first_look() -> Delta {
    Delta {
        user: bob(),
        device: "ANY".into(),
        from: None,
        full_state: false,
        state_after: false,
        unstable_state_after: false,
        timeline: EventFilter::default(),
        state: EventFilter::default(),
        format: Default::default(),
        ephemeral: EventFilter::default(),
        typing: None,
        device_lists: false,
        push_rules: None,
        ignored: Vec::new(),
        unread: false,
    }
}

/// A room with a few messages, joined, and the first gap.
fn joined(version: &str) -> (Rc<World>, Rc<World>, OwnedRoomId, Gap) {
    let (far, near) = (World::new(3), World::new(3));
    let [alice, ..] = people();
    let room_id = far.creates_room(&alice, version, Preset::PublicChat);
    for number in 0..6 {
        far.sends(&alice, &room_id, "m.room.message", None, &json!({ "body": number })).unwrap();
    }
    joins(&far, &near, &room_id, version);
    let gap = page(&near, &room_id, None, 50).gap.unwrap();
    (far, near, room_id, gap)
}

/// The events of a gap, changed.
fn changed(events: &[CheckedEvent], change: impl Fn(usize, &mut Value)) -> Vec<CheckedEvent> {
    let changed = |(index, event): (usize, &CheckedEvent)| {
        let mut json: Value = serde_json::from_str(&event.json).unwrap();
        change(index, &mut json);
        CheckedEvent { event_id: event.event_id.clone(), json: json.to_string() }
    };
    events.iter().enumerate().map(changed).collect()
}

fn placed(near: &World, room_id: &RoomId, gap: &Gap, events: Vec<CheckedEvent>) -> usize {
    let call = PlaceHistory {
        edge: gap.edge,
        missing: gap.missing.clone(),
        events,
        states: vec![],
        is_apart: false,
        is_final: true,
    };
    match near.call(room_id.as_str(), &call).unwrap() {
        Placed::Placed(count) => count,
        Placed::Moved => 0,
        needs => panic!("{needs:?}"),
    }
}

#[test]
fn an_open_room_that_was_joined_elsewhere_is_known_to_be_open() {
    let (_, near, _, _) = joined("11");
    assert_eq!(near.shows("SELECT open FROM open_room", &[])[0].unsigned(0).unwrap(), 1);
}

#[test]
fn nobody_answers_and_the_page_says_where_to_go_on() {
    let (_, near, room_id, gap) = joined("11");
    assert_eq!(gap.servers, ["one.test"]);
    let call = Messages {
        user: bob(),
        device: "ANY".into(),
        ignored: Vec::new(),
        from: None,
        to: None,
        direction: Direction::Backwards,
        filter: EventFilter::default(),
        past_gaps: true,
    };
    let page = near.call(room_id.as_str(), &call).unwrap();
    assert_eq!((page.chunk.len(), page.gap), (1, None));
    let end = place(page.end.as_deref().unwrap());
    let next = near.call(room_id.as_str(), &Messages { from: Some(end), ..call }).unwrap();
    assert_eq!((next.chunk.len(), next.end.map(|end| place(&end))), (0, Some(end)), "it is not the beginning");
    assert_eq!(
        near.call(room_id.as_str(), &Messages { from: Some(end), past_gaps: false, ..messages() }).unwrap().gap,
        Some(gap)
    );
}

#[test]
fn below_the_beginning_there_is_nothing_to_ask_for() {
    let (_, near, room_id, _) = joined("11");
    let page = page(&near, &room_id, Some(0), 50);
    assert_eq!((page.chunk.len(), page.end, page.gap), (0, None, None));
}

fn messages() -> Messages {
    Messages {
        user: bob(),
        device: "ANY".into(),
        ignored: Vec::new(),
        from: None,
        to: None,
        direction: Direction::Backwards,
        filter: EventFilter::default(),
        past_gaps: false,
    }
}

#[test]
fn only_what_is_before_the_gap_is_placed() {
    let (far, near, room_id, gap) = joined("11");
    let mut events = asks(&far, &room_id, &gap, 4);
    // What the missing ones do not lead to: the newest is not among them.
    let without = events.split_off(1);
    assert_eq!(placed(&near, &room_id, &gap, without.clone()), 0);
    // Of another room.
    let foreign = changed(&events, |_, event| event["room_id"] = "!other:one.test".into());
    let call = PlaceHistory {
        edge: gap.edge,
        missing: gap.missing.clone(),
        events: foreign,
        states: vec![],
        is_apart: false,
        is_final: true,
    };
    assert!(near.call(room_id.as_str(), &call).is_err());
    // At an edge that is none.
    let nowhere = Gap { edge: 7, ..gap.clone() };
    assert_eq!(placed(&near, &room_id, &nowhere, events.clone()), 0);
    events.extend(without);
    assert_eq!(fills(&far, &near, &room_id, &gap, 4), 4);
    assert_eq!(placed(&near, &room_id, &gap, events), 0, "the same, repeated");
}

/// Two readers are at one gap, and the slower one comes with what the faster one had placed, or with what is before it.
#[test]
fn the_slower_of_two_readers_learns_that_the_gap_is_another_one() {
    let (far, near, room_id, gap) = joined("11");
    let slower = asks(&far, &room_id, &gap, 8);
    assert_eq!(fills(&far, &near, &room_id, &gap, 4), 4);
    let rows = near.rows_written();
    let place = |gap: &Gap| {
        let (missing, events) = (gap.missing.clone(), slower.clone());
        let call = PlaceHistory { edge: gap.edge, missing, events, states: vec![], is_apart: false, is_final: true };
        near.call(room_id.as_str(), &call).unwrap()
    };
    assert_eq!(place(&gap), Placed::Moved);
    assert_eq!(near.rows_written(), rows, "nothing changed");
    let gap = page(&near, &room_id, None, 50).gap.unwrap();
    assert!(!matches!(place(&gap), Placed::Moved | Placed::Placed(0)), "what is next is placed");
}

#[test]
fn depths_and_floods_decide_nothing() {
    let (far, near, room_id, gap) = joined("11");
    let events = changed(&asks(&far, &room_id, &gap, 5), |index, event| event["depth"] = (100 + index).into());
    // Bob's invitation is among them.
    let earliest = events.last().unwrap().event_id.clone();
    let states = vec![(earliest.clone(), tells_state(&far, &near, &room_id, &earliest))];
    let call = PlaceHistory {
        edge: gap.edge,
        missing: gap.missing.clone(),
        events: events.clone(),
        states,
        is_apart: false,
        is_final: false,
    };
    assert_eq!(near.call(room_id.as_str(), &call).unwrap(), Placed::Placed(5));
    let page = page(&near, &room_id, None, 6);
    let ids: Vec<_> = page.chunk.iter().skip(1).map(|event| shown(event.get())["event_id"].clone()).collect();
    assert_eq!(ids, events.iter().map(|event| json!(event.event_id)).collect::<Vec<_>>());

    let gap = self::page(&near, &room_id, None, 50).gap.unwrap();
    let event = asks(&far, &room_id, &gap, 1).remove(0);
    let flood: Vec<_> = (0..=HISTORY_EVENTS_MAX)
        .map(|number| CheckedEvent { event_id: format!("$flood{number}").try_into().unwrap(), ..event.clone() })
        .chain([event.clone()])
        .collect();
    assert_eq!(placed(&near, &room_id, &gap, flood), 0, "too far behind");
    assert_eq!(placed(&near, &room_id, &gap, vec![event]), 1);
}

#[test]
fn events_before_themselves_have_no_place() {
    let (far, near, room_id, gap) = joined("2");
    let events = asks(&far, &room_id, &gap, 3);
    let newest = json!([[events[0].event_id, { "sha256": "x" }]]);
    let cycle = changed(&events, |index, event| {
        if index == 2 {
            event["prev_events"] = newest.clone();
        }
    });
    assert_eq!(placed(&near, &room_id, &gap, cycle), 0);
    assert_eq!(fills(&far, &near, &room_id, &gap, 3), 3);
}

#[test]
fn what_the_rules_refuse_is_not_shown_and_hides_nothing() {
    let (far, near, room_id, gap) = joined("11");
    let call = PlaceHistory {
        edge: gap.edge,
        missing: gap.missing.clone(),
        events: asks(&far, &room_id, &gap, 3),
        states: vec![],
        is_apart: false,
        is_final: false,
    };
    let Placed::Needs { states, .. } = near.call(room_id.as_str(), &call).unwrap() else { panic!("a state changed") };
    let states = states.into_iter().map(|id| (id.clone(), tells_state(&far, &near, &room_id, &id))).collect();
    assert_eq!(near.call(room_id.as_str(), &PlaceHistory { states, ..call }).unwrap(), Placed::Placed(3));
    let gap = page(&near, &room_id, None, 50).gap.unwrap();
    let events = asks(&far, &room_id, &gap, 4);
    let forged = changed(&events, |index, event| {
        if index == 1 {
            event["sender"] = "@eve:evil.test".into();
        }
    });
    assert_eq!(placed(&near, &room_id, &gap, forged), 4);
    let ids: Vec<_> =
        page(&near, &room_id, None, 7).chunk.iter().map(|event| shown(event.get())["event_id"].clone()).collect();
    assert!(!ids.contains(&json!(events[1].event_id)));
    for event in [&events[0], &events[2], &events[3]] {
        assert!(ids.contains(&json!(event.event_id)), "{ids:?}");
    }
}

#[test]
fn an_event_from_further_back_gets_a_place_of_its_own() {
    let (far, near) = (World::new(5), World::new(5));
    let [alice, ..] = people();
    let began = far.now_ms();
    let room_id = far.creates_room(&alice, "11", Preset::PublicChat);
    for number in 0..40 {
        far.sets_clock(began + number * 1_000);
        far.sends(&alice, &room_id, "m.room.topic", Some(""), &json!({ "topic": number })).unwrap();
    }
    joins(&far, &near, &room_id, "11");
    for (ts, direction, expected) in [(10_500, Direction::Forwards, 11_000), (25_500, Direction::Backwards, 25_000)] {
        let call =
            EventByTimestamp { user: bob(), device: "ANY".into(), ts_ms: began + ts, direction, ignored: Vec::new() };
        let gap = near.call(room_id.as_str(), &call).unwrap().gap.unwrap();
        let asked = EventByTimestampForServer { server: "one.test".try_into().unwrap(), ts_ms: call.ts_ms, direction };
        let found = far.call(room_id.as_str(), &asked).unwrap().unwrap();
        assert_eq!(u64::from(found.origin_server_ts.get()), began + expected);
        let states = vec![(found.event_id.clone(), tells_state(&far, &near, &room_id, &found.event_id))];
        let events = checked(&far, &room_id, vec![found.event_id.clone()]);
        let place = PlaceHistory {
            edge: gap.edge,
            missing: gap.missing.clone(),
            events,
            states,
            is_apart: true,
            is_final: false,
        };
        assert_eq!(near.call(room_id.as_str(), &place).unwrap(), Placed::Placed(1));
        assert_eq!(near.call(room_id.as_str(), &place).unwrap(), Placed::Placed(0), "the same, repeated");
        assert_eq!(near.call(room_id.as_str(), &call).unwrap().event, Some(found));
    }
    let lived = pages_back(&far, &far, &room_id, 0);
    let fetched = pages_back(&far, &near, &room_id, 7);
    let ids = |events: &[Value]| events.iter().map(|event| event["event_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&fetched), ids(&lived));
    the_state_is_the_same(&far, &near, &room_id, &lived);
    let call = EventByTimestamp {
        user: bob(),
        device: "ANY".into(),
        ts_ms: began + 10_500,
        direction: Direction::Forwards,
        ignored: Vec::new(),
    };
    assert_eq!(near.call(room_id.as_str(), &call).unwrap().gap, None, "nothing is missing there any more");
}
