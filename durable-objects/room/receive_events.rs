//! Receiving several events of another server in one operation: what a transaction of theirs says of a room.
//!
//! Guarantees: the events are received in their order, each as [`super::receive`] says, in one transaction. The
//! operation ends early, having received at least one, where it could take long or where memory would be behind: after
//! the first event that is not accepted, that changes the current state, or before which states had to be resolved. The
//! caller gives the rest again. A refusal undoes all of them: the caller gives them one by one.
//!
//! So a run of messages, of which a busy room's transactions consist, is one commit, and nobody can have more than one
//! resolution made in an operation.

use platform::{ActorKind, Tx};
use serde::{Deserialize, Serialize};

use super::{CheckedEvent, ReceiveEvent, Received, Room};
use crate::{Call, Cx, Error};

/// The most events in one [`ReceiveEvents`]: as many as are in a transaction.
pub const RECEIVED_AT_ONCE_MAX: usize = 50;

/// Takes events of another server into the graph, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceiveEvents {
    /// At most [`RECEIVED_AT_ONCE_MAX`]; more are not looked at.
    pub events: Vec<CheckedEvent>,
}

impl Call for ReceiveEvents {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "receive_events";
    /// What became of the first of them. None is told of only where none was given.
    type Reply = Vec<Received>;
}

impl Room {
    pub(super) fn receive_events(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ReceiveEvents) -> Result<Vec<Received>, Error> {
        let mut received = Vec::new();
        for event in call.events.into_iter().take(RECEIVED_AT_ONCE_MAX) {
            let outcome = self.receive(tx, cx, ReceiveEvent::of(event), None)?;
            let goes_on = outcome == Received::Accepted && !cx.room.state_moved.get();
            received.push(outcome);
            if !goes_on {
                break;
            }
        }
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{Pdu, event::Draft, power::Preset};
    use platform::{ActorKind, Address};
    use ruma_common::{OwnedRoomId, UserId, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{RECEIVED_AT_ONCE_MAX, ReceiveEvents};
    use crate::{
        room::{CheckedEvent, ReceiveEvent, Received, current_extremities, current_state},
        world::World,
    };

    fn zoe() -> &'static UserId {
        user_id!("@zoe:there.test")
    }

    fn room() -> (Rc<World>, OwnedRoomId) {
        let world = World::new(1);
        let room_id = world.creates_room(user_id!("@alice:myelin.test"), "11", Preset::PublicChat);
        world.joins_from_elsewhere(&room_id, zoe());
        world.settle();
        (world, room_id)
    }

    fn says(world: &World, room_id: &OwnedRoomId, event_type: &str, content: &Value, prev: &Pdu) -> CheckedEvent {
        let state_key = (event_type != "m.room.message").then(String::new);
        let content = to_raw_value(content).unwrap();
        let draft =
            Draft { event_type: event_type.into(), content, state_key, sender: zoe().to_owned(), redacts: None };
        world.says_elsewhere(room_id, &draft, prev)
    }

    fn pdu(event: &CheckedEvent) -> Pdu {
        Pdu::from_stored(event.event_id.clone(), event.json.clone(), false).unwrap()
    }

    /// A line of messages, each after the one before it.
    fn line(world: &World, room_id: &OwnedRoomId, count: usize, first: Pdu) -> Vec<CheckedEvent> {
        let mut prev = first;
        let mut next = |number: usize| {
            let event = says(world, room_id, "m.room.message", &json!({ "n": number }), &prev);
            prev = pdu(&event);
            event
        };
        (0..count).map(&mut next).collect()
    }

    fn newest(world: &World, room_id: &OwnedRoomId) -> Pdu {
        world.newest(room_id, "m.room.member", zoe().as_str())
    }

    fn receive(world: &World, room_id: &OwnedRoomId, events: &[CheckedEvent]) -> Vec<Received> {
        world.call(room_id.as_str(), &ReceiveEvents { events: events.to_vec() }).unwrap()
    }

    #[test]
    fn messages_come_in_one_operation_and_a_repetition_changes_nothing() {
        let (world, room_id) = room();
        let events = line(&world, &room_id, RECEIVED_AT_ONCE_MAX + 1, newest(&world, &room_id));
        assert_eq!(receive(&world, &room_id, &events), vec![Received::Accepted; RECEIVED_AT_ONCE_MAX]);
        assert_eq!(receive(&world, &room_id, &events[RECEIVED_AT_ONCE_MAX..]), [Received::Accepted]);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let ends = current_extremities(&*sql);
        assert_eq!(ends, [events.last().unwrap().event_id.clone()]);
        assert_eq!(receive(&world, &room_id, &events).len(), RECEIVED_AT_ONCE_MAX);
        assert_eq!(current_extremities(&*sql), ends);
        assert!(receive(&world, &room_id, &[]).is_empty());
    }

    /// Memory knows the state that was there before the operation.
    #[test]
    fn a_change_of_the_state_ends_the_operation() {
        let (world, room_id) = room();
        let first = line(&world, &room_id, 2, newest(&world, &room_id));
        let member = json!({ "membership": "join", "displayname": "Zoe" });
        let draft = Draft {
            event_type: "m.room.member".into(),
            content: to_raw_value(&member).unwrap(),
            state_key: Some(zoe().to_string()),
            sender: zoe().to_owned(),
            redacts: None,
        };
        let named = world.says_elsewhere(&room_id, &draft, &pdu(&first[1]));
        let after = line(&world, &room_id, 2, pdu(&named));
        let events = [&first[..], std::slice::from_ref(&named), &after[..]].concat();
        assert_eq!(receive(&world, &room_id, &events), vec![Received::Accepted; 3]);
        assert_eq!(receive(&world, &room_id, &events[3..]), vec![Received::Accepted; 2]);
    }

    #[test]
    fn what_cannot_be_judged_ends_the_operation_and_what_is_refused_undoes_it() {
        let (world, room_id) = room();
        let events = line(&world, &room_id, 4, newest(&world, &room_id));
        let gap = [&events[..1], &events[2..]].concat();
        let received = receive(&world, &room_id, &gap);
        assert_eq!(received[0], Received::Accepted);
        assert!(
            matches!(&received[1..], [Received::Needs(needs)] if needs.prev_events == [events[1].event_id.clone()])
        );
        let elsewhere =
            CheckedEvent { json: events[2].json.replace(room_id.as_str(), "!other:there.test"), ..events[2].clone() };
        let call = ReceiveEvents { events: vec![events[1].clone(), elsewhere] };
        assert!(world.call(room_id.as_str(), &call).is_err());
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        assert_eq!(current_extremities(&*sql), [events[0].event_id.clone()], "all of it is undone");
        assert_eq!(receive(&world, &room_id, &events), vec![Received::Accepted; 4]);
    }

    /// However they come, the room is the same.
    #[test]
    fn events_that_come_together_are_as_those_that_come_one_by_one() {
        let outcome = |together: bool| {
            let (world, room_id) = room();
            let start = newest(&world, &room_id);
            // Two branches, of which each says something of the topic, and is not allowed to.
            let mut events = line(&world, &room_id, 3, start.clone());
            events.push(says(&world, &room_id, "m.room.topic", &json!({ "topic": "x" }), &pdu(&events[2])));
            events.extend(line(&world, &room_id, 3, start));
            let mut received = Vec::new();
            if together {
                let mut rest = &events[..];
                while !rest.is_empty() {
                    let some = receive(&world, &room_id, rest);
                    rest = &rest[some.len()..];
                    received.extend(some);
                }
            } else {
                for event in events {
                    received.push(world.call(room_id.as_str(), &ReceiveEvent::of(event)).unwrap());
                }
            }
            let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
            let refused = received.iter().filter(|received| matches!(received, Received::Rejected(_))).count();
            assert_eq!((received.len(), refused), (7, 1));
            (received, current_state(&*sql), current_extremities(&*sql))
        };
        assert_eq!(outcome(true), outcome(false));
    }
}
