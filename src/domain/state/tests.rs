//! Forks that meet again.

use std::collections::BTreeMap;

use ruma_common::{EventId, OwnedEventId};
use ruma_events::StateEventType;
use ruma_state_res::utils::event_id_set::EventIdSet;
use serde_json::json;

use super::{StateError, StateMap, auth_chain::AuthChains, resolve};
use crate::{
    Pdu,
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

/// The resolution, the same in whichever order the forks come.
fn meet(ours: &Room, theirs: &Room) -> Result<StateMap<OwnedEventId>, StateError> {
    let mut events = ours.events.clone();
    events.extend(theirs.events.clone());
    let event = |event_id: &EventId| events.get(event_id).cloned();
    let (a, b) = (ours.state_map(), theirs.state_map());
    let resolved = resolve(&ours.version, &[a.clone(), b.clone()], &event);
    assert_eq!(resolved, resolve(&ours.version, &[b.clone(), a.clone(), b], &event));
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
        assert_eq!(resolve(&room.version, &[], &|_| None), Ok(StateMap::new()));
        assert_eq!(resolve(&room.version, &[state.clone(), state.clone()], &|_| None), Ok(state));
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

#[test]
fn version_1_is_not_resolved_and_says_so() {
    let room = alice_and_bob("1");
    let (mut ours, mut theirs) = (room.fork(1), room.fork(2));
    ours.send(state("alice", "m.room.topic", "", json!({ "topic": "ours" }))).unwrap();
    theirs.send(state("bob", "m.room.topic", "", json!({ "topic": "theirs" }))).unwrap();
    assert_eq!(meet(&ours, &theirs), Err(StateError::Unsupported("1".to_owned())));
}

#[test]
fn a_missing_event_is_named() {
    let room = alice_and_bob("12");
    let (mut ours, theirs) = (room.fork(1), room.fork(2));
    ours.send(state("alice", "m.room.topic", "", json!({ "topic": "ours" }))).unwrap();
    let gone = room.get(&StateEventType::RoomMember, user("alice").as_str()).unwrap();
    let event = |id: &EventId| ours.events.get(id).filter(|event| *event != &gone).cloned();
    let resolved = resolve(&room.version, &[ours.state_map(), theirs.state_map()], &event);
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
    let mut between: Vec<_> = AuthChains::new(&load).subgraph_between(&conflicted).into_iter().collect();
    between.sort();
    assert_eq!(between, ["a", "b", "c", "y", "z"].map(id));
}
