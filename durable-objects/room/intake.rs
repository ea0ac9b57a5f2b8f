//! Which events of other servers the room takes in, and when.
//!
//! Guarantees: from the moment at which a join of ours is asked for elsewhere, no event that a server sends is turned
//! away, for it is not sent again: until the join is complete they wait ([`super::inbox`]), and after that they are
//! judged like any. Of a join that is given up nothing is kept.
//! Spec: Server-Server API, "Transactions", "Joining Rooms".

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use super::{Room, inbox, resident::check_acl, store};
use crate::{Call, Cx, Error};

/// What the room does with the events that a server sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetIntake {
    pub server: OwnedServerName,
}

/// In which version they are, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intake {
    pub room_version: String,
    pub takes: Takes,
}

/// Whether events are taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// They are judged.
    Now,
    /// A join of ours is under way: they wait for it.
    Later,
    /// They are not; why. Nobody of ours is in the room.
    Never(String),
    /// They are not: the room keeps the server out, as this says.
    Denied(String),
}

impl Call for GetIntake {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_intake";
    type Reply = Intake;
}

impl Room {
    pub(super) fn get_intake(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetIntake) -> Result<Intake, Error> {
        let takes = if self.is_joining(sql, cx)? {
            Takes::Later
        } else {
            match (self.check_resident(sql), check_acl(sql, &call.server)) {
                (Ok(()), Ok(())) => Takes::Now,
                (Err(Error::Refused(refusal)), _) => Takes::Never(refusal.to_string()),
                (Ok(()), Err(Error::Refused(refusal))) => Takes::Denied(refusal.to_string()),
                (Err(error), _) | (Ok(()), Err(error)) => return Err(error),
            }
        };
        Ok(Intake { room_version: self.version(sql)?.as_str().to_owned(), takes })
    }

    /// A join is complete: what came meanwhile is fetched for, but for that of servers that the room keeps out, and for
    /// more than may wait of those that are not in it.
    pub(super) fn take_in_what_came(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        for origin in store::inbox::origins(&**tx)? {
            let Ok(server) = <&ServerName>::try_from(origin.as_str()) else { continue };
            if *server == cx.settings.config.server_name {
                continue;
            }
            match check_acl(&**tx, server) {
                Ok(()) => {
                    let kept_max = inbox::of_origin_max(&**tx, server)?;
                    store::inbox::keep_first(tx, &origin, kept_max)?;
                }
                Err(Error::Refused(_)) => store::inbox::keep_first(tx, &origin, 0)?,
                Err(error) => return Err(error),
            }
        }
        self.look_for_a_fetcher(tx, cx)
    }

    /// A join was given up: unless there is another one, or the room is ours, nothing waits for anything.
    pub(super) fn nothing_is_joined(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        match self.check_resident(&**tx) {
            Ok(()) => Ok(()),
            Err(Error::Refused(Refusal::NotFound(_))) if self.is_joining(&**tx, cx)? => Ok(()),
            Err(Error::Refused(Refusal::NotFound(_))) => Ok(store::inbox::clear(tx)?),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{Pdu, event::Draft, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedRoomId, UserId, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::{GetIntake, Takes};
    use crate::{
        room::{
            BeginJoin, CheckedEvent, CompleteJoin, EndWaiting, GetExtremities, GiveUpJoin, JudgeStaged, KeepWaiting,
            ReceiveEvent, Received, StageEvents, TakeWaiting, inbox::OF_STRANGER_MAX,
        },
        world::World,
    };

    fn draft(sender: &UserId, number: u64) -> Draft {
        Draft {
            event_type: "m.room.message".into(),
            content: to_raw_value(&json!({ "n": number })).unwrap(),
            state_key: None,
            sender: sender.to_owned(),
            redacts: None,
        }
    }

    /// A room of others, as it is there, with the join of a user of `near`, the state before that, and events after it.
    struct Story {
        near: Rc<World>,
        room_id: OwnedRoomId,
        state: Vec<CheckedEvent>,
        join: CheckedEvent,
        after: Vec<CheckedEvent>,
    }

    fn story() -> Story {
        let far = World::configured(1, &[("SERVER_NAME", "one.test")]);
        let alice = user_id!("@alice:one.test");
        let room_id = far.creates_room(alice, "11", Preset::PublicChat);
        let acl = json!({ "allow": ["*"], "deny": ["evil.test"] });
        far.sends(alice, &room_id, "m.room.server_acl", Some(""), &acl).unwrap();
        let sql = far.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let events = || -> Vec<CheckedEvent> {
            let rows = sql.query("SELECT event_id, json FROM event ORDER BY position", &[]).unwrap();
            let event = |mut row: platform::Row| CheckedEvent {
                event_id: row.text(0).unwrap().try_into().unwrap(),
                json: row.text(1).unwrap(),
            };
            rows.into_iter().map(event).collect()
        };
        let state = events();
        let bob = user_id!("@bob:myelin.test");
        far.joins_from_elsewhere(&room_id, bob);
        let join = events().pop().unwrap();
        let mut prev = Pdu::from_stored(join.event_id.clone(), join.json.as_str(), false).unwrap();
        let after = (0..2 * OF_STRANGER_MAX).map(|number| {
            let event = far.says_elsewhere(&room_id, &draft(alice, number), &prev);
            prev = Pdu::from_stored(event.event_id.clone(), event.json.as_str(), false).unwrap();
            event
        });
        let after = after.collect();
        Story { near: World::new(2), room_id, state, join, after }
    }

    impl Story {
        fn begins(&self) {
            let call = BeginJoin { room_version: "11".into(), join: "j".into() };
            self.near.call(self.room_id.as_str(), &call).unwrap();
        }

        fn completes(&self) -> Received {
            let events = self.state.clone();
            let stage = StageEvents { join: "j".into(), first: 0, are_state: true, events };
            self.near.call(self.room_id.as_str(), &stage).unwrap();
            self.near.call(self.room_id.as_str(), &JudgeStaged { join: "j".into(), after: 0 }).unwrap();
            let call = CompleteJoin { call_id: "j".into(), event: self.join.clone(), join: "j".into(), omitted: None };
            self.near.call(self.room_id.as_str(), &call).unwrap()
        }

        fn takes(&self, server: &str) -> Takes {
            let call = GetIntake { server: server.try_into().unwrap() };
            self.near.call(self.room_id.as_str(), &call).unwrap().takes
        }

        fn waits(&self, origin: &str, event: &CheckedEvent) -> bool {
            let call = KeepWaiting { origin: origin.try_into().unwrap(), event: event.clone() };
            self.near.call(self.room_id.as_str(), &call).unwrap()
        }

        fn waiting(&self) -> Vec<CheckedEvent> {
            let call = TakeWaiting { carrier: "one".to_owned() };
            let taken = self.near.call(self.room_id.as_str(), &call).unwrap();
            taken.events.into_iter().map(|waiting| waiting.event).collect()
        }
    }

    #[test]
    fn what_comes_while_a_join_is_under_way_waits_for_it() {
        let story = story();
        story.begins();
        assert_eq!(story.takes("one.test"), Takes::Later);
        assert_eq!(story.takes("evil.test"), Takes::Later, "nobody knows yet");
        for (number, event) in story.after.iter().enumerate() {
            let origin = if number == 5 { "evil.test" } else { "one.test" };
            assert!(story.waits(origin, event));
        }
        assert_eq!(story.waiting(), [], "nothing is fetched for");
        story.near.passes(60_000);
        assert!(!story.near.carriers.take().contains(&story.room_id.to_string()));
        assert_eq!(story.completes(), Received::Accepted);
        assert!(story.near.carriers.take().contains(&story.room_id.to_string()));
        assert_eq!(story.takes("one.test"), Takes::Now);
        // What is before the join is not to come as if it had just happened.
        let begins = story.near.call(story.room_id.as_str(), &GetExtremities {}).unwrap();
        let depth = serde_json::from_str::<serde_json::Value>(&story.join.json).unwrap()["depth"].as_u64().unwrap();
        assert!(depth > 1);
        assert_eq!(begins.min_depth, depth);
        assert!(matches!(story.takes("evil.test"), Takes::Denied(_)));
        let mut judged = Vec::new();
        loop {
            let waiting = story.waiting();
            if waiting.is_empty() {
                break;
            }
            for event in waiting {
                let receive = ReceiveEvent::of(event.clone());
                let received = story.near.call(story.room_id.as_str(), &receive).unwrap();
                let is_judged = received == Received::Accepted;
                judged.extend(is_judged.then_some(event.event_id.clone()));
                let end = EndWaiting { carrier: "one".to_owned(), event_id: event.event_id, is_judged, turns_to: None };
                story.near.call(story.room_id.as_str(), &end).unwrap();
            }
        }
        let before_the_denied: Vec<_> = story.after[..5].iter().map(|event| event.event_id.clone()).collect();
        assert_eq!(
            judged, before_the_denied,
            "what builds on what a server that is kept out brought has to be fetched"
        );
    }

    #[test]
    fn of_a_join_that_is_given_up_nothing_waits() {
        let story = story();
        story.begins();
        assert!(story.waits("one.test", &story.after[0]));
        story.near.call(story.room_id.as_str(), &GiveUpJoin { join: "j".into() }).unwrap();
        assert!(matches!(story.takes("one.test"), Takes::Never(_)));
        assert!(!story.waits("one.test", &story.after[1]));
        let sql = story.near.sql(&Address::new(ActorKind::Room, story.room_id.as_str()));
        assert!(sql.query("SELECT 1 FROM inbox", &[]).unwrap().is_empty());
        // So it is with one that nobody gives up.
        story.begins();
        assert!(story.waits("one.test", &story.after[0]));
        story.near.passes(60 * 60 * 1_000);
        assert!(sql.query("SELECT 1 FROM inbox", &[]).unwrap().is_empty());
    }
}
