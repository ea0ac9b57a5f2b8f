//! Rooms whose history forks: whatever the order in which events come, every server ends with the same state, and it is
//! the one that ruma resolves from the whole states by whole auth chains.
//!
//! Three servers write into one graph, each on what it knows so far. Then rooms receive all of it in random orders, with
//! evictions between, each event as often as it takes until what it needs is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::{
    Identity, Pdu, Refusal, RoomVersion, auth,
    event::{self, Draft, Place},
    power::Preset,
    state::{StateMap, key_of},
};
use platform::{ActorKind, Address, Sql};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId, server_name};
use ruma_events::StateEventType;
use ruma_state_res::utils::event_id_set::EventIdSet;
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    room::{CheckedEvent, Needs, ReceiveEvent, Received, current_state, kept_and_counted},
    world::{Dice, World, seeds},
};

type State = StateMap<OwnedEventId>;

/// The whole graph, and the state after each of its events.
struct Graph {
    version: RoomVersion,
    room_id: OwnedRoomId,
    events: BTreeMap<OwnedEventId, Pdu>,
    /// Parents before children.
    order: Vec<OwnedEventId>,
    after: HashMap<OwnedEventId, State>,
    identity: Identity,
}

/// What one server knows of it.
#[derive(Clone)]
struct View {
    known: BTreeSet<OwnedEventId>,
    extremities: Vec<OwnedEventId>,
}

impl Graph {
    /// A room as its own server made it.
    fn of(world: &World, room_id: OwnedRoomId, version: RoomVersion) -> (Self, View) {
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let rows = sql.query("SELECT event_id, json FROM event ORDER BY position", &[]).unwrap();
        let identity = Identity::new(server_name!("anywhere.test").to_owned(), "a_test", [9; 32]).unwrap();
        let (events, order, after) = Default::default();
        let mut graph = Self { version, room_id, events, order, after, identity };
        let mut view = View { known: BTreeSet::new(), extremities: Vec::new() };
        for mut row in rows {
            let (id, json) = (row.text(0).unwrap(), row.text(1).unwrap());
            let pdu = Pdu::from_stored(OwnedEventId::try_from(id).unwrap(), json, false).unwrap();
            graph.add(&mut view, pdu);
        }
        (graph, view)
    }

    fn add(&mut self, view: &mut View, pdu: Pdu) {
        let id = pdu.event_id().to_owned();
        let mut state = self.meet(pdu.prev_events());
        if let Some(key) = key_of(&pdu) {
            state.insert(key, id.clone());
        }
        self.after.insert(id.clone(), state);
        self.order.push(id.clone());
        view.extremities.retain(|known| !pdu.prev_events().contains(known));
        view.extremities.push(id.clone());
        view.known.insert(id.clone());
        self.events.insert(id, pdu);
    }

    /// Everything that both know.
    fn tells(&self, from: &View, to: &mut View) {
        to.known.extend(from.known.iter().cloned());
        let named: BTreeSet<_> = to.known.iter().flat_map(|id| self.events[id].prev_events()).collect();
        to.extremities =
            self.order.iter().filter(|id| to.known.contains(*id) && !named.contains(id)).cloned().collect();
    }

    fn auth_chain(&self, state: &State) -> EventIdSet<OwnedEventId> {
        let mut chain = EventIdSet::new();
        let mut ahead: Vec<_> = state.values().cloned().collect();
        while let Some(id) = ahead.pop() {
            for named in self.events[&id].auth_events() {
                if chain.insert(named.clone()) {
                    ahead.push(named.clone());
                }
            }
        }
        chain
    }

    /// The events on paths along auth events from one of these to another.
    fn between(&self, conflicted: &BTreeSet<OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let reaches = |id: &OwnedEventId| {
            let chain = self.auth_chain(&State::from([((StateEventType::RoomTopic, String::new()), id.clone())]));
            conflicted.iter().any(|other| other == id || chain.contains(other))
        };
        let states = conflicted.iter().enumerate();
        let states = states.map(|(n, id)| ((StateEventType::RoomTopic, n.to_string()), id.clone()));
        let mut below: Vec<_> = self.auth_chain(&states.collect()).into_iter().collect();
        below.extend(conflicted.iter().cloned());
        below.into_iter().filter(reaches).collect()
    }

    /// As the specification has it: whole states, whole auth chains.
    fn meet(&self, events: &[OwnedEventId]) -> State {
        let states: Vec<State> = events.iter().map(|id| self.after[id].clone()).collect();
        let Some(first) = states.first() else { return State::new() };
        if states.iter().all(|state| state == first) {
            return first.clone();
        }
        let rules = self.version.rules();
        ruma_state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().unwrap(),
            &states,
            states.iter().map(|state| self.auth_chain(state)).collect(),
            |id| self.events.get(id).cloned(),
            |conflicted: &StateMap<Vec<OwnedEventId>>| {
                Some(self.between(&conflicted.values().flatten().cloned().collect()))
            },
        )
        .unwrap()
    }

    /// Has somebody do something on what their server knows, if the rules allow it.
    fn does(&mut self, view: &mut View, draft: &Draft, now_ms: u64) -> Result<(), Refusal> {
        let parents: Vec<_> = view.extremities.iter().rev().take(20).cloned().collect();
        let state = self.meet(&parents);
        let get = |event_type: &StateEventType, key: &str| {
            state.get(&(event_type.clone(), key.to_owned())).map(|id| self.events[id].clone())
        };
        let needed = auth::needed_for(draft, &self.version)?;
        let selected: Vec<Pdu> = needed.iter().filter_map(|key| get(&key.0, &key.1)).collect();
        let name = |pdu: &Pdu| event::reference(pdu, &self.version).unwrap();
        let place = Place {
            room_id: Some(&self.room_id),
            prev_events: &parents.iter().map(|id| name(&self.events[id])).collect::<Vec<_>>(),
            auth_events: &selected.iter().map(name).collect::<Vec<_>>(),
            depth: parents.iter().map(|id| self.events[id].depth()).max().unwrap() + 1,
            origin_server_ts: now_ms,
        };
        let random = [self.order.len() as u8; 18];
        let pdu = event::build(draft, &place, &self.version, &self.identity, random)?;
        auth::check(&pdu, &self.version, &selected, &get)?;
        self.add(view, pdu);
        Ok(())
    }
}

fn alice() -> OwnedUserId {
    OwnedUserId::try_from("@alice:myelin.test").unwrap()
}

fn draft(sender: &UserId, event_type: &str, state_key: Option<&str>, content: &Value) -> Draft {
    Draft {
        event_type: event_type.into(),
        content: to_raw_value(content).unwrap(),
        state_key: state_key.map(str::to_owned),
        sender: sender.to_owned(),
        redacts: None,
    }
}

fn something(dice: &Dice, version: &RoomVersion) -> Draft {
    let users = ["@alice:myelin.test", "@bob:one.test", "@carol:two.test", "@dora:one.test", "@erik:myelin.test"];
    let user = |dice: &Dice| OwnedUserId::try_from(users[dice.roll(5) as usize]).unwrap();
    let (sender, target) = (user(dice), user(dice));
    let state = |event_type, key: &str, content| draft(&sender, event_type, Some(key), &content);
    let member = |target: &UserId, membership: &str| {
        draft(&sender, "m.room.member", Some(target.as_str()), &json!({ "membership": membership }))
    };
    match dice.roll(10) {
        0 => state("m.room.topic", "", json!({ "topic": dice.roll(1_000) })),
        1 => {
            let rule = ["public", "invite"][dice.roll(2) as usize];
            state("m.room.join_rules", "", json!({ "join_rule": rule }))
        }
        2 => {
            let mut levels = json!({ target.as_str(): dice.roll(2) * 50, users[1]: 50 });
            if version.as_str() != "12" {
                levels[users[0]] = 100.into();
            }
            state("m.room.power_levels", "", json!({ "users": levels, "invite": 0 }))
        }
        // The creator stays: somebody has to speak last.
        3 if target != alice() => member(&target, ["ban", "leave", "invite"][dice.roll(3) as usize]),
        4 => state("m.x", sender.as_str(), json!({ "n": dice.roll(1_000) })),
        5 | 6 => draft(&sender, "m.room.message", None, &json!({ "body": dice.roll(1_000) })),
        7 if sender != alice() => member(&sender, "leave"),
        _ => member(&sender, "join"),
    }
}

/// Gives a room all the events in some order, again and again until it has all they need.
fn receives(world: &World, graph: &Graph) {
    let address = Address::new(ActorKind::Room, graph.room_id.as_str());
    let mut ahead = graph.order.clone();
    for index in (1..ahead.len()).rev() {
        ahead.swap(index, world.dice.roll(index as u64 + 1) as usize);
    }
    while !ahead.is_empty() {
        let mut later = Vec::new();
        for id in &ahead {
            let event = CheckedEvent { event_id: id.clone(), json: graph.events[id].json().to_owned() };
            let call = ReceiveEvent::of(event);
            let received = world.call(graph.room_id.as_str(), &call).unwrap();
            match &received {
                Received::Needs(Needs { prev_events, auth_events, .. }) => {
                    assert!(!prev_events.is_empty() || !auth_events.is_empty());
                    later.push(id.clone());
                }
                Received::Rejected(why) => panic!("{id} was allowed where it was made: {why}"),
                Received::Accepted | Received::SoftFailed => {
                    assert_eq!(world.call(graph.room_id.as_str(), &call).unwrap(), received, "the same, repeated");
                }
            }
            if world.dice.roll(20) == 0 {
                world.evict(&address);
            }
        }
        assert!(later.len() < ahead.len(), "nothing goes on");
        ahead = later;
    }
}

fn current(world: &World, graph: &Graph) -> State {
    let sql = world.sql(&Address::new(ActorKind::Room, graph.room_id.as_str()));
    let head = current_state(&*sql);
    head.into_iter().map(|((event_type, key), id)| ((event_type.into(), key), id)).collect()
}

fn story(seed: u64, version_id: &str) -> usize {
    let version = RoomVersion::parse(version_id).unwrap();
    let world = World::new(seed);
    let room_id = world.creates_room(&alice(), version_id, Preset::PublicChat);
    let (mut graph, view) = Graph::of(&world, room_id, version.clone());
    let mut views = [view.clone(), view.clone(), view];
    let mut forks = 0;
    for step in 0..60 {
        let at = world.dice.roll(3) as usize;
        if world.dice.roll(4) == 0 {
            let from = views[world.dice.roll(3) as usize].clone();
            graph.tells(&from, &mut views[at]);
            forks += usize::from(views[at].extremities.len() > 1);
        }
        let now_ms = world.now_ms() + step * 10 + world.dice.roll(30);
        // What the rules refuse does not happen.
        let _ = graph.does(&mut views[at], &something(&world.dice, &version), now_ms);
    }
    let [mut all, second, third] = views;
    graph.tells(&second, &mut all);
    graph.tells(&third, &mut all);
    let last = draft(&alice(), "m.room.message", None, &json!({ "body": "the end" }));
    graph.does(&mut all, &last, world.now_ms() + 10_000).unwrap();
    let expected = graph.meet(&all.extremities);
    for _ in 0..3 {
        // The same seed makes the same room.
        let other = World::new(seed);
        assert_eq!(other.creates_room(&alice(), version_id, Preset::PublicChat), graph.room_id);
        for _ in 0..world.dice.roll(1_000) {
            other.dice.roll(2);
        }
        receives(&other, &graph);
        let got = current(&other, &graph);
        assert_eq!(got, expected, "MYELIN_SEED: {seed}, version {version_id}");
        remembers_its_members(&other, &graph, &got);
        let sql = other.sql(&Address::new(ActorKind::Room, graph.room_id.as_str()));
        if let Some([kept, counted]) = kept_and_counted(&*sql) {
            assert_eq!(kept, counted, "MYELIN_SEED: {seed}: what the state and its auth chain name");
        }
    }
    forks
}

/// What the room keeps of memberships is what its state says.
fn remembers_its_members(world: &World, graph: &Graph, state: &State) {
    let sql = world.sql(&Address::new(ActorKind::Room, graph.room_id.as_str()));
    let rows = sql.query("SELECT user_id, membership FROM member ORDER BY user_id", &[]).unwrap();
    for mut row in rows {
        let (user, membership) = (row.text(0).unwrap(), row.text(1).unwrap());
        let event: Option<&OwnedEventId> = state.get(&(StateEventType::RoomMember, user.clone()));
        let said = event.map(|id: &OwnedEventId| -> &EventId { id });
        let said = said.map_or("leave".to_owned(), |id| {
            let content: Value = serde_json::from_str(graph.events[id].content().get()).unwrap();
            content["membership"].as_str().unwrap().to_owned()
        });
        assert_eq!(membership, said, "{user}");
    }
}

#[test]
fn whatever_the_order_all_end_with_the_same_state() {
    let mut forks = 0;
    for seed in 1..=seeds(9) {
        let versions = ["2", "3", "5", "6", "8", "9", "10", "11", "12"];
        forks += story(seed, versions[(seed % 9) as usize]);
    }
    assert!(forks > 9, "{forks}");
}
