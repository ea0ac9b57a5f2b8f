//! Rooms whose history forks: whatever the order in which events come, every server ends with the same state, and it is
//! the one that ruma resolves from the whole states by whole auth chains.
//!
//! Three servers write into one graph, each on what it knows so far. Then rooms receive all of it in random orders,
//! with evictions between, each event as often as it takes until what it needs is there. Some rooms never get some of
//! the events, or late: of these they are told the state, as it is, where others come after them.

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
    Call,
    room::{
        CheckedEvent, HoldEvents, Needs, ReceiveEvent, ReceiveEvents, Received, ToldState, current_extremities,
        current_state, kept_and_counted,
    },
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

/// A room on its way to having these events.
struct Receiver<'a> {
    world: &'a World,
    graph: &'a Graph,
    /// Events that it is told of and not given.
    withheld: BTreeSet<OwnedEventId>,
    /// How often it was told of a state.
    told: usize,
}

impl Receiver<'_> {
    fn event(&self, id: &OwnedEventId) -> CheckedEvent {
        CheckedEvent { event_id: id.clone(), json: self.graph.events[id].json().to_owned() }
    }

    fn call<C: Call>(&self, call: &C) -> C::Reply {
        self.world.call(self.graph.room_id.as_str(), call).unwrap()
    }

    /// Gives a room these events in some order, again and again until it has all they need.
    fn receives(&mut self, mut ahead: Vec<OwnedEventId>) {
        let address = Address::new(ActorKind::Room, self.graph.room_id.as_str());
        for index in (1..ahead.len()).rev() {
            ahead.swap(index, self.world.dice.roll(index as u64 + 1) as usize);
        }
        while !ahead.is_empty() {
            let mut later = Vec::new();
            // Now and then a whole transaction comes at once: what it took is taken, and comes again.
            if self.world.dice.roll(3) == 0 {
                let events: Vec<_> = ahead.iter().take(10).map(|id| self.event(id)).collect();
                let given = events.len();
                let received = self.call(&ReceiveEvents { events });
                assert!(!received.is_empty() && received.len() <= given);
            }
            for id in &ahead {
                let mut call = ReceiveEvent::of(self.event(id));
                let mut received = self.call(&call);
                if let Received::Needs(needs) = &received
                    && self.is_told(needs, &mut call)
                {
                    received = self.call(&call);
                }
                match &received {
                    Received::Needs(Needs { prev_events, auth_events, state, refused, .. }) => {
                        assert!(!prev_events.is_empty() || !auth_events.is_empty());
                        assert!(state.is_empty() && refused.is_none(), "the truth is enough: {state:?} {refused:?}");
                        later.push(id.clone());
                    }
                    Received::Rejected(why) => panic!("{id} was allowed where it was made: {why}"),
                    Received::Accepted | Received::SoftFailed => {
                        assert_eq!(self.call(&call), received, "the same, repeated");
                    }
                }
                if self.world.dice.roll(20) == 0 {
                    self.world.evict(&address);
                }
            }
            assert!(later.len() < ahead.len(), "nothing goes on");
            ahead = later;
        }
    }

    /// Has a truthful server answer what the room needs: of what it is never given, and sometimes of what is late.
    fn is_told(&mut self, needs: &Needs, call: &mut ReceiveEvent) -> bool {
        if self.withheld.is_empty() {
            return false;
        }
        let withheld = needs.auth_events.iter().filter(|id| self.withheld.contains(*id));
        self.holds(withheld.cloned().collect());
        let is_to_be_told = |id: &OwnedEventId| self.withheld.contains(id) || self.world.dice.roll(4) == 0;
        if needs.prev_events.iter().all(is_to_be_told) {
            call.told = needs.prev_events.iter().map(|id| self.tells_of(id)).collect();
            self.told += call.told.len();
        }
        true
    }

    fn tells_of(&self, id: &OwnedEventId) -> ToldState {
        let before = self.graph.meet(self.graph.events[id].prev_events());
        self.holds(before.values().cloned().chain([id.clone()]).collect());
        ToldState { event_id: id.clone(), state_before: before.into_values().collect() }
    }

    /// Holds these events, and what they depend on.
    fn holds(&self, mut ids: BTreeSet<OwnedEventId>) {
        let states = ids.iter().enumerate();
        let states = states.map(|(n, id)| ((StateEventType::RoomTopic, n.to_string()), id.clone()));
        ids.extend(self.graph.auth_chain(&states.collect()));
        if !ids.is_empty() {
            // Since v12 nobody names it.
            ids.extend(self.graph.order.first().cloned());
        }
        let events = self.graph.order.iter().filter(|id| ids.contains(*id)).map(|id| self.event(id)).collect();
        assert!(self.call(&HoldEvents { events }).is_empty());
    }
}

fn current(world: &World, graph: &Graph) -> State {
    let sql = world.sql(&Address::new(ActorKind::Room, graph.room_id.as_str()));
    let head = current_state(&*sql);
    head.into_iter().map(|((event_type, key), id)| ((event_type.into(), key), id)).collect()
}

/// What a room gets of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    All,
    /// Not some events.
    Without,
    /// These in the end.
    Late,
}

/// How often forks met, and how often a room was told of a state.
fn story(seed: u64, version_id: &str) -> (usize, usize) {
    let version = RoomVersion::parse(version_id).unwrap();
    let world = World::new(seed);
    let room_id = world.creates_room(&alice(), version_id, Preset::PublicChat);
    let (mut graph, view) = Graph::of(&world, room_id, version.clone());
    let made = graph.order.len();
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
    let mut told = 0;
    for mode in [Mode::All, Mode::All, Mode::All, Mode::Without, Mode::Late] {
        // The same seed makes the same room.
        let other = World::new(seed);
        assert_eq!(other.creates_room(&alice(), version_id, Preset::PublicChat), graph.room_id);
        for _ in 0..world.dice.roll(1_000) {
            other.dice.roll(2);
        }
        // The room's beginning it has made itself; the last event is how the others know that it has all.
        let mut given = graph.order.clone();
        if mode != Mode::All {
            let (first, last) = (made, given.len() - 1);
            let mut index = 0;
            given.retain(|_| {
                index += 1;
                index <= first || index > last || other.dice.roll(4) > 0
            });
        }
        let withheld = graph.order.iter().filter(|id| !given.contains(id)).cloned().collect();
        let mut receiver = Receiver { world: &other, graph: &graph, withheld, told: 0 };
        receiver.receives(given);
        if mode == Mode::Late {
            let late = std::mem::take(&mut receiver.withheld);
            receiver.receives(late.into_iter().collect());
        }
        told += receiver.told;
        let got = current(&other, &graph);
        let case = format!("MYELIN_SEED: {seed}, version {version_id}, {mode:?}");
        if mode == Mode::All {
            assert_eq!(got, expected, "{case}");
        } else {
            // It does not know that something is behind what it never had.
            let ends = current_extremities(&*other.sql(&Address::new(ActorKind::Room, graph.room_id.as_str())));
            assert!(ends.contains(graph.order.last().unwrap()), "{case}");
            assert_eq!(got, graph.meet(&ends), "{case}: {ends:?}");
        }
        remembers_its_members(&other, &graph, &got);
        let sql = other.sql(&Address::new(ActorKind::Room, graph.room_id.as_str()));
        if let Some([kept, counted]) = kept_and_counted(&*sql) {
            assert_eq!(kept, counted, "MYELIN_SEED: {seed}: what the state and its auth chain name");
        }
    }
    (forks, told)
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
    let (mut forks, mut told) = (0, 0);
    for seed in 1..=seeds(11) {
        let versions = ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];
        let of_story = story(seed, versions[(seed % 11) as usize]);
        (forks, told) = (forks + of_story.0, told + of_story.1);
    }
    assert!(forks > 9 && told > 50, "{forks} {told}");
}
