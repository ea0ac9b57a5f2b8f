//! Forks that meet again.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use ruma_common::{EventId, OwnedEventId};
use ruma_events::StateEventType;
use ruma_state_res::utils::event_id_set::EventIdSet;
use serde_json::json;

use super::{LINKS_MAX, Link, Meeting, StateError, StateKey, StateMap, auth_chain::AuthChains, resolve};
use crate::{
    Pdu, RoomVersion,
    event::Draft,
    fixture::{Room, member, state, user, version, versions},
};

/// alice, with power, and bob, who may change the topic.
fn alice_and_bob(version_id: &str) -> Room {
    let mut levels = json!({ "users": { "@bob:example.org": 50 } });
    if version_id != "12" {
        levels["users"]["@alice:example.org"] = json!(100);
    }
    Room::of_alice(
        version(version_id),
        [
            member("alice", "bob", "invite"),
            member("bob", "bob", "join"),
            state("alice", "m.room.power_levels", "", levels),
            state("bob", "m.room.topic", "", json!({ "topic": "before" })),
        ],
    )
}

/// The auth chain of these events, whole.
fn chain_of<'a>(
    event: &dyn Fn(&EventId) -> Option<Pdu>,
    events: impl Iterator<Item = &'a OwnedEventId>,
) -> EventIdSet<OwnedEventId> {
    let (mut chain, mut ahead) = (EventIdSet::new(), events.cloned().collect::<Vec<_>>());
    while let Some(event_id) = ahead.pop() {
        for named in event(&event_id).unwrap().auth_events() {
            if chain.insert(named.clone()) {
                ahead.push(named.clone());
            }
        }
    }
    chain
}

fn link(event: &dyn Fn(&EventId) -> Option<Pdu>, event_id: &OwnedEventId) -> Option<Link> {
    fn generation(
        event: &dyn Fn(&EventId) -> Option<Pdu>,
        event_id: &OwnedEventId,
        known: &mut BTreeMap<OwnedEventId, u64>,
    ) -> u64 {
        if let Some(known) = known.get(event_id) {
            return *known;
        }
        let named = event(event_id).map_or(Vec::new(), |event| event.auth_events().to_vec());
        let last = named.iter().map(|id| generation(event, id, known)).max().unwrap_or(0);
        known.insert(event_id.clone(), last + 1);
        last + 1
    }
    let auth_events = event(event_id)?.auth_events().to_vec();
    let generation = generation(event, event_id, &mut BTreeMap::new());
    Some(Link { event_id: event_id.clone(), generation, auth_events })
}

/// Events alone.
struct Events<'a>(&'a dyn Fn(&EventId) -> Option<Pdu>);

impl Meeting for Events<'_> {
    fn forks(&self) -> &[StateMap<OwnedEventId>] {
        &[]
    }

    fn agreed(&self, _: &StateKey) -> Option<OwnedEventId> {
        None
    }

    fn in_agreed_chain(&self, _: &[Rc<Link>]) -> BTreeSet<OwnedEventId> {
        BTreeSet::new()
    }

    fn links(&self, events: &[OwnedEventId]) -> Vec<Link> {
        events.iter().filter_map(|id| link(self.0, id)).collect()
    }

    fn event(&self, event_id: &EventId) -> Option<Pdu> {
        (self.0)(event_id)
    }
}

/// Two forks that meet, as a room would see it: only what they do not agree on is handed over.
struct Forks<'a> {
    states: [StateMap<OwnedEventId>; 2],
    differing: Vec<StateMap<OwnedEventId>>,
    event: &'a dyn Fn(&EventId) -> Option<Pdu>,
    /// The last generation for which it was asked what is in the agreed chain.
    asked: Cell<u64>,
}

impl<'a> Forks<'a> {
    fn of(states: [StateMap<OwnedEventId>; 2], event: &'a dyn Fn(&EventId) -> Option<Pdu>) -> Self {
        let [a, b] = &states;
        let differ = |key: &StateKey| a.get(key) != b.get(key);
        let part = |state: &StateMap<OwnedEventId>| {
            state.iter().filter(|(key, _)| differ(key)).map(|(key, id)| (key.clone(), id.clone())).collect()
        };
        let differing = vec![part(a), part(b)];
        Self { states, differing, event, asked: Cell::new(u64::MAX) }
    }
}

impl Meeting for Forks<'_> {
    fn forks(&self) -> &[StateMap<OwnedEventId>] {
        &self.differing
    }

    /// As in a room, that of one of them where they do not agree.
    fn agreed(&self, key: &StateKey) -> Option<OwnedEventId> {
        self.states[0].get(key).cloned()
    }

    fn in_agreed_chain(&self, events: &[Rc<Link>]) -> BTreeSet<OwnedEventId> {
        let last = events.iter().map(|link| link.generation).max().unwrap();
        assert!(self.asked.replace(last) >= last, "from the later to the earlier");
        let [a, b] = &self.states;
        let agreed = a.iter().filter(|(key, id)| b.get(*key) == Some(*id));
        let chain = chain_of(self.event, agreed.map(|(_, id)| id));
        events.iter().map(|link| link.event_id.clone()).filter(|id| chain.contains(id)).collect()
    }

    fn links(&self, events: &[OwnedEventId]) -> Vec<Link> {
        events.iter().filter_map(|id| link(self.event, id)).collect()
    }

    fn event(&self, event_id: &EventId) -> Option<Pdu> {
        (self.event)(event_id)
    }
}

/// The resolution of whole states by whole auth chains, as the specification has it and ruma does it.
fn resolve_whole(
    version: &RoomVersion,
    forks: &[StateMap<OwnedEventId>],
    event: &dyn Fn(&EventId) -> Option<Pdu>,
) -> StateMap<OwnedEventId> {
    let auth_chains = forks.iter().map(|fork| chain_of(event, fork.values())).collect();
    let rules = version.rules();
    ruma_state_res::resolve(
        &rules.authorization,
        rules.state_res.v2_rules().unwrap(),
        forks,
        auth_chains,
        event,
        |conflicted: &StateMap<Vec<OwnedEventId>>| {
            let conflicted: EventIdSet<OwnedEventId> = conflicted.values().flatten().cloned().collect();
            Some(AuthChains::new(&Events(event)).subgraph_between(&conflicted).unwrap())
        },
    )
    .unwrap()
}

fn resolve_forks(
    ours: &Room,
    states: [StateMap<OwnedEventId>; 2],
    event: &dyn Fn(&EventId) -> Option<Pdu>,
) -> Result<StateMap<OwnedEventId>, StateError> {
    let forks = Forks::of(states, event);
    let mut state: StateMap<OwnedEventId> = forks.states[0].clone();
    state.retain(|key, id| forks.states[1].get(key) == Some(id));
    state.extend(resolve(&ours.version, ours.create.room_id(), &forks)?);
    Ok(state)
}

/// The resolution, the same in whichever order the forks come, and the same as that of the whole.
fn meet(ours: &Room, theirs: &Room) -> Result<StateMap<OwnedEventId>, StateError> {
    let mut events = ours.events.clone();
    events.extend(theirs.events.clone());
    let event = |event_id: &EventId| events.get(event_id).cloned();
    let (a, b) = (ours.state_map(), theirs.state_map());
    let resolved = resolve_forks(ours, [a.clone(), b.clone()], &event);
    assert_eq!(resolved, resolve_forks(ours, [b.clone(), a.clone()], &event));
    if ours.version.as_str() != "1"
        && let Ok(resolved) = &resolved
    {
        assert_eq!(*resolved, resolve_whole(&ours.version, &[a, b], &event));
    }
    resolved
}

fn topic(state: &StateMap<OwnedEventId>) -> Option<&OwnedEventId> {
    state.get(&(StateEventType::RoomTopic, String::new()))
}

#[test]
fn forks_that_agree_need_no_resolution_in_any_version() {
    for version in versions() {
        let room = Room::of_alice(version, []);
        let state = room.state_map();
        assert_eq!(resolve_forks(&room, [state.clone(), state.clone()], &|_| None), Ok(state));
    }
}

#[test]
fn a_ban_on_one_side_undoes_the_topic_on_the_other() {
    for version_id in ["2", "3", "6", "10", "11", "12"] {
        let room = alice_and_bob(version_id);
        let before = topic(&room.state_map()).cloned();
        let (mut ours, mut theirs) = (room.fork(1), room.fork(2));
        let ban = ours.send(member("alice", "bob", "ban")).unwrap();
        theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "mine" }))).unwrap();

        let state = meet(&ours, &theirs).unwrap();
        let bob = (StateEventType::RoomMember, user("bob").to_string());
        assert_eq!(state.get(&bob).map(|id| &**id), Some(ban.event_id()), "version {version_id}");
        assert_ne!(topic(&state), topic(&theirs.state_map()), "version {version_id}");
        assert!(topic(&state).is_none() || topic(&state) == before.as_ref());
    }
}

#[test]
fn of_two_topics_one_wins_everywhere() {
    for version_id in ["2", "6", "11", "12"] {
        let room = alice_and_bob(version_id);
        let (mut ours, mut theirs) = (room.fork(1), room.fork(2));
        ours.send(state("alice", "m.room.topic", "", json!({ "topic": "ours" }))).unwrap();
        let later = theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "theirs" }))).unwrap();
        assert_eq!(topic(&meet(&ours, &theirs).unwrap()).map(|id| &**id), Some(later.event_id()));
    }
}

/// Something somebody does, or tries to.
fn something(random: &mut impl FnMut(usize) -> usize) -> Draft {
    let names = ["alice", "bob", "carol", "dora"];
    let (sender, target) = (names[random(4)], names[random(4)]);
    match random(8) {
        0 => state(sender, "m.room.topic", "", json!({ "topic": random(1_000) })),
        1 => {
            let rule = ["public", "invite"][random(2)];
            state(sender, "m.room.join_rules", "", json!({ "join_rule": rule }))
        }
        2 => {
            let power = [0, 50][random(2)];
            let mut users = json!({ user(target).as_str(): power, user("bob").as_str(): 50 });
            if random(2) == 0 {
                users[user("alice").as_str()] = 100.into();
            }
            state(sender, "m.room.power_levels", "", json!({ "users": users }))
        }
        3 => member(sender, target, ["ban", "leave", "invite"][random(3)]),
        4 => state(sender, "m.x", user(sender).as_str(), json!({ "n": random(1_000) })),
        _ => member(sender, sender, ["join", "leave", "join"][random(3)]),
    }
}

#[test]
fn random_forks_resolve_as_whole_states_do() {
    let mut conflicts = 0;
    for seed in 0..80_u64 {
        let mut generator = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |below: usize| {
            generator ^= generator << 13;
            generator ^= generator >> 7;
            generator ^= generator << 17;
            usize::try_from(generator >> 33).unwrap() % below
        };
        let version_id = ["1", "2", "5", "6", "8", "10", "11", "12"][random(8)];
        let mut room = alice_and_bob(version_id);
        let acts = |room: &mut Room, random: &mut dyn FnMut(usize) -> usize, count: usize| {
            for _ in 0..count {
                // What the rules refuse does not happen.
                let _ = room.send(something(&mut |below| random(below)));
            }
        };
        acts(&mut room, &mut random, 10);
        for round in 0..3 {
            let (mut ours, mut theirs) = (room.fork(2 * round + 1), room.fork(2 * round + 2));
            acts(&mut ours, &mut random, 8);
            acts(&mut theirs, &mut random, 8);
            conflicts += usize::from(ours.state_map() != theirs.state_map());
            room = ours.met(&theirs, &meet(&ours, &theirs).unwrap());
        }
    }
    assert!(conflicts > 160, "{conflicts}");
}

/// Whoever made the join rules left on the same side: on the other, nobody knows yet whether they are in the room.
#[test]
fn version_1_knows_nothing_of_a_key_before_it_is_resolved() {
    let room = alice_and_bob("1");
    let (mut ours, mut theirs) = (room.fork(1), room.fork(2));
    ours.send(state("alice", "m.room.join_rules", "", json!({ "join_rule": "public" }))).unwrap();
    ours.send(member("alice", "alice", "leave")).unwrap();
    theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "theirs" }))).unwrap();
    // The same whichever of the two a server has in its log.
    meet(&ours, &theirs).unwrap();
}

/// Of several memberships none decides about another one while they are resolved: servers agree on that.
#[test]
fn version_1_decides_all_memberships_at_once() {
    let room = alice_and_bob("1");
    let (mut ours, mut theirs) = (room.fork(1), room.fork(2));
    let renamed = |name: &str| {
        let content = json!({ "membership": "join", "displayname": name });
        state("alice", "m.room.member", user("alice").as_str(), content)
    };
    ours.send(renamed("Alice")).unwrap();
    theirs.send(renamed("Al")).unwrap();
    let invitation = ours.send(member("alice", "carol", "invite")).unwrap();
    theirs.send(member("alice", "carol", "invite")).unwrap();
    theirs.send(member("alice", "carol", "leave")).unwrap();
    // Alice, whose own membership conflicts, is not known to be in the room.
    let state = meet(&ours, &theirs).unwrap();
    let carol = state.get(&(StateEventType::RoomMember, user("carol").to_string()));
    assert_eq!(carol.map(|id| &**id), Some(invitation.event_id()));
}

#[test]
fn version_1_takes_the_deepest_that_is_allowed() {
    let room = alice_and_bob("1");
    let (mut ours, mut theirs) = (room.fork(1), room.fork(2));
    ours.send(state("alice", "m.room.topic", "", json!({ "topic": "ours" }))).unwrap();
    theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "theirs" }))).unwrap();
    let later = theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "theirs again" }))).unwrap();
    assert_eq!(topic(&meet(&ours, &theirs).unwrap()).map(|id| &**id), Some(later.event_id()));
    // Who lost the power to set it does not decide.
    ours.send(state("alice", "m.room.power_levels", "", json!({ "users": { user("alice").as_str(): 100 } }))).unwrap();
    ours.send(state("alice", "m.room.topic", "", json!({ "topic": "ours again" }))).unwrap();
    theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "and again" }))).unwrap();
    theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "and again" }))).unwrap();
    assert_eq!(topic(&meet(&ours, &theirs).unwrap()), topic(&ours.state_map()));
}

#[test]
fn a_missing_event_is_named() {
    let room = alice_and_bob("12");
    let (mut ours, theirs) = (room.fork(1), room.fork(2));
    ours.send(state("alice", "m.room.topic", "", json!({ "topic": "ours" }))).unwrap();
    let gone = room.get(&StateEventType::RoomMember, user("alice").as_str()).unwrap();
    let event = |id: &EventId| ours.events.get(id).filter(|event| *event != &gone).cloned();
    let resolved = resolve_forks(&room, [ours.state_map(), theirs.state_map()], &event);
    assert_eq!(resolved, Err(StateError::Missing(gone.event_id().to_owned())));
}

#[test]
fn the_conflicted_subgraph_is_what_lies_between() {
    // Arrows are `auth_events`: a → b → c → d, a → x, y → c, z → y; a, c and z are conflicted.
    let arrows = [("a", vec!["b", "x"]), ("b", vec!["c"]), ("c", vec!["d"]), ("d", vec![]), ("x", vec![])];
    let arrows = arrows.into_iter().chain([("y", vec!["c"]), ("z", vec!["y"]), ("above", vec!["a"])]);
    let id = |name: &str| OwnedEventId::try_from(format!("${name}")).unwrap();
    let events: BTreeMap<OwnedEventId, Pdu> = arrows
        .map(|(name, auth_events)| {
            let auth_events: Vec<_> = auth_events.into_iter().map(id).collect();
            let json = json!({
                "type": "m.x", "sender": "@a:b", "room_id": "!r", "content": {}, "origin_server_ts": 1, "depth": 1,
                "prev_events": [], "auth_events": auth_events,
            });
            (id(name), Pdu::from_stored(id(name), json.to_string(), false).unwrap())
        })
        .collect();
    let load = |event_id: &EventId| events.get(event_id).cloned();
    let conflicted: EventIdSet<OwnedEventId> = ["a", "c", "z"].into_iter().map(id).collect();
    let mut between: Vec<_> =
        AuthChains::new(&Events(&load)).subgraph_between(&conflicted).unwrap().into_iter().collect();
    between.sort();
    assert_eq!(between, ["a", "b", "c", "y", "z"].map(id));
}

/// One who names thousands of earlier events one after the other has nobody go through them all.
#[test]
fn a_long_chain_is_gone_down_no_further_than_forks_differ() {
    struct Deep {
        forks: Vec<StateMap<OwnedEventId>>,
        asked: Cell<usize>,
    }

    fn id(name: &str, number: u64) -> OwnedEventId {
        OwnedEventId::try_from(format!("${name}{number}")).unwrap()
    }

    impl Meeting for Deep {
        fn forks(&self) -> &[StateMap<OwnedEventId>] {
            &self.forks
        }

        fn agreed(&self, _: &StateKey) -> Option<OwnedEventId> {
            None
        }

        fn in_agreed_chain(&self, _: &[Rc<Link>]) -> BTreeSet<OwnedEventId> {
            BTreeSet::new()
        }

        fn links(&self, events: &[OwnedEventId]) -> Vec<Link> {
            self.asked.set(self.asked.get() + events.len());
            let link = |event_id: &OwnedEventId| {
                let number: u64 =
                    event_id.as_str().trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap();
                let auth_events = number.checked_sub(1).map(|earlier| id("m", earlier)).into_iter().collect();
                Link { event_id: event_id.clone(), generation: number + 1, auth_events }
            };
            events.iter().map(link).collect()
        }

        fn event(&self, _: &EventId) -> Option<Pdu> {
            None
        }
    }

    let fork = |last: OwnedEventId| StateMap::from([((StateEventType::RoomTopic, String::new()), last)]);
    let forks = vec![fork(id("a", 20_000)), fork(id("b", 20_003))];
    let deep = Deep { forks, asked: Cell::new(0) };
    let mut chains = AuthChains::new(&deep);
    let differing: Vec<BTreeSet<_>> =
        chains.differing().unwrap().into_iter().map(|chain| chain.into_iter().collect()).collect();
    assert_eq!(differing, [BTreeSet::new(), BTreeSet::from([20_002, 20_001, 20_000].map(|number| id("m", number)))]);
    assert!(deep.asked.get() < 10, "{}", deep.asked.get());
    let conflicted: EventIdSet<OwnedEventId> = [id("a", 20_000), id("m", 19_990)].into_iter().collect();
    assert_eq!(chains.subgraph_between(&conflicted).unwrap().len(), 11);
    assert!(deep.asked.get() < 30, "{}", deep.asked.get());
    // What nobody goes through is not resolved, and nothing is made up.
    let forks = vec![fork(id("m", 2)), fork(id("b", 2 * LINKS_MAX as u64))];
    let endless = Deep { forks, asked: Cell::new(0) };
    assert_eq!(AuthChains::new(&endless).differing().err(), Some(StateError::TooMuch));
    assert!(endless.asked.get() <= LINKS_MAX);
}
