//! What is bundled with the events that a client is shown: the state of their threads, their most recent replacements,
//! and what references them. Spec: "Aggregations of child events".
//!
//! It is read for all events of an answer at once, in a number of queries that does not depend on how many there are.

use std::collections::HashMap;

use platform::{Fault, Sql};
use ruma_common::OwnedEventId;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    store::{
        self,
        log::Logged,
        relations::{Relating, relating},
    },
    viewer::Viewer,
};
use crate::Cx;

/// Bytes of events bundled in one answer: beyond them, events come with nothing, and their relations are to be asked
/// for.
const BUNDLED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events read from the log at once.
const BATCH_EVENTS: usize = 100;

/// What belongs into the `m.relations` of events, by their positions.
#[derive(Default)]
pub(super) struct Bundles(HashMap<u64, Box<RawValue>>);

/// What `m.relations` says.
#[derive(Serialize)]
struct Aggregations {
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<Thread>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replacement: Option<Box<RawValue>>,
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    references: Option<References>,
}

#[derive(Serialize)]
struct Thread {
    latest_event: Box<RawValue>,
    count: u64,
    current_user_participated: bool,
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: OwnedEventId,
}

impl Bundles {
    /// What relates to the events shown, as far as the viewer may see it.
    pub(super) fn load(
        sql: &dyn Sql,
        cx: &Cx<'_>,
        viewer: &Viewer,
        shown: &[&Logged],
        with_room_id: bool,
    ) -> Result<Self, Fault> {
        let visible = viewer.visible()?;
        let related = |positions: &[u64]| match positions {
            [] => Ok(Vec::new()),
            positions => relating(sql, &visible, &viewer.user, positions),
        };
        let own: HashMap<u64, bool> = shown
            .iter()
            .filter(|event| event.pdu.state_key().is_none())
            .map(|event| (event.position, event.pdu.sender() == viewer.user))
            .collect();
        let of_shown = related(&own.keys().copied().collect::<Vec<_>>())?;
        let latest: Vec<u64> = of_shown.iter().filter_map(|it| it.latest).collect();
        let of_latest = related(&latest)?;
        let replacements = of_shown.iter().chain(&of_latest).filter_map(|it| it.replacement);
        let inner: Vec<u64> = latest.iter().copied().chain(replacements).collect();
        let mut bundling = Bundling { sql, cx, viewer, with_room_id, events: events(sql, &inner)?, own };
        let mut of_latest = bundling.bundles(of_latest, &mut Self::default())?;
        bundling.bundles(of_shown, &mut of_latest)
    }

    /// What is bundled with this event.
    pub(super) fn take(&mut self, event: &Logged) -> Option<Box<RawValue>> {
        self.0.remove(&event.position)
    }
}

/// The events at these positions, until they are too many bytes.
fn events(sql: &dyn Sql, positions: &[u64]) -> Result<HashMap<u64, Logged>, Fault> {
    let (mut events, mut bytes) = (HashMap::new(), 0_usize);
    for batch in positions.chunks(BATCH_EVENTS) {
        if bytes >= BUNDLED_BYTES_MAX {
            break;
        }
        for event in store::log::at(sql, batch)? {
            bytes = bytes.saturating_add(event.pdu.json().len());
            events.insert(event.position, event);
        }
    }
    Ok(events)
}

/// One answer's bundles in the making.
struct Bundling<'a> {
    sql: &'a dyn Sql,
    cx: &'a Cx<'a>,
    viewer: &'a Viewer,
    with_room_id: bool,
    /// What is bundled.
    events: HashMap<u64, Logged>,
    /// Whether the viewer sent an event that is shown.
    own: HashMap<u64, bool>,
}

impl Bundling<'_> {
    /// What is bundled with each event, the last ones of threads with what is bundled with them (`of_latest`).
    fn bundles(&mut self, related: Vec<Relating>, of_latest: &mut Bundles) -> Result<Bundles, Fault> {
        let mut bundles = HashMap::new();
        for Relating { to, in_thread, latest, participated, replacement, references } in related {
            let thread = latest
                .and_then(|latest| self.events.get(&latest))
                .map(|latest| self.sees(latest, of_latest.take(latest)))
                .transpose()?
                .map(|latest_event| Thread {
                    latest_event,
                    count: in_thread,
                    current_user_participated: participated || self.own.get(&to) == Some(&true),
                });
            let replacement = replacement
                .and_then(|replacement| self.events.get(&replacement))
                .map(|replacement| self.sees(replacement, None))
                .transpose()?;
            let references = (!references.is_empty())
                .then(|| References { chunk: references.into_iter().map(|event_id| Reference { event_id }).collect() });
            if thread.is_some() || replacement.is_some() || references.is_some() {
                bundles.insert(to, to_raw_value(&Aggregations { thread, replacement, references })?);
            }
        }
        Ok(Bundles(bundles))
    }

    fn sees(&self, event: &Logged, relations: Option<Box<RawValue>>) -> Result<Box<RawValue>, Fault> {
        self.viewer.sees_with(self.sql, self.cx, event, self.with_room_id, relations)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::power::Preset;
    use platform::{ActorKind, Address};
    use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, user_id};
    use serde_json::{Value, json};

    use crate::{
        room::{Direction, EventFilter, GetEvent, MembershipAction, Messages},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:myelin.test").to_owned()
    }

    /// A room of Alice and Bob.
    struct Story {
        world: Rc<World>,
        room_id: OwnedRoomId,
    }

    impl Story {
        fn begin() -> Self {
            let world = World::new(1);
            let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
            world.changes(&bob(), &room_id, &bob(), MembershipAction::Join).unwrap();
            Self { world, room_id }
        }

        fn sends(&self, user: &OwnedUserId, event_type: &str, content: &Value) -> OwnedEventId {
            self.world.passes(10);
            self.world.sends(user, &self.room_id, event_type, None, content).unwrap()
        }

        fn says(&self, user: &OwnedUserId, text: &str) -> OwnedEventId {
            self.sends(user, "m.room.message", &json!({ "body": text }))
        }

        fn relates(&self, user: &OwnedUserId, rel_type: &str, to: &OwnedEventId, text: &str) -> OwnedEventId {
            let relation = json!({ "rel_type": rel_type, "event_id": to });
            let content = json!({ "body": text, "m.new_content": { "body": text }, "m.relates_to": relation });
            self.sends(user, "m.room.message", &content)
        }

        fn redacts(&self, event_id: &OwnedEventId) {
            self.world.redacts(&alice(), &self.room_id, event_id).unwrap();
        }

        fn bundle_for(&self, user: OwnedUserId, ignored: &[OwnedUserId], event_id: &OwnedEventId) -> Value {
            let ignored = ignored.to_vec();
            let call = GetEvent { user, device: "PHONE".into(), ignored, event_id: event_id.clone() };
            let event = self.world.call(self.room_id.as_str(), &call).unwrap();
            serde_json::from_str::<Value>(event.get()).unwrap()["unsigned"]["m.relations"].clone()
        }

        fn bundle(&self, event_id: &OwnedEventId) -> Value {
            self.bundle_for(alice(), &[], event_id)
        }
    }

    #[test]
    fn the_most_recent_valid_replacement_is_bundled() {
        let story = Story::begin();
        let original = story.says(&bob(), "one");
        assert_eq!(story.bundle(&original), Value::Null);
        let newest = |event_id: &OwnedEventId| story.bundle(event_id)["m.replace"]["event_id"].clone();
        let first = story.relates(&bob(), "m.replace", &original, "two");
        let second = story.relates(&bob(), "m.replace", &original, "three");
        let relation = json!({ "rel_type": "m.replace", "event_id": original });
        // Of somebody else, of another type, and without new content: none of these is valid.
        story.relates(&alice(), "m.replace", &original, "mine");
        story.sends(&bob(), "m.sticker", &json!({ "m.new_content": {}, "m.relates_to": relation }));
        story.sends(&bob(), "m.room.message", &json!({ "body": "x", "m.relates_to": relation }));
        assert_eq!(newest(&original), second.as_str());
        assert_eq!(story.bundle(&original)["m.replace"]["content"]["m.new_content"]["body"], "three");
        story.relates(&bob(), "m.replace", &second, "an edit of an edit");
        assert_eq!(story.bundle(&second), Value::Null);
        story.redacts(&second);
        assert_eq!(newest(&original), first.as_str(), "as it was before");
        story.redacts(&original);
        assert_eq!(story.bundle(&original), Value::Null, "gone with the original");

        let secret = story.sends(&bob(), "m.room.encrypted", &json!({ "ciphertext": "a" }));
        let relation = json!({ "rel_type": "m.replace", "event_id": secret });
        let edit = story.sends(&bob(), "m.room.encrypted", &json!({ "ciphertext": "b", "m.relates_to": relation }));
        assert_eq!(newest(&secret), edit.as_str(), "what is new is encrypted");
    }

    #[test]
    fn of_replacements_the_time_decides_then_the_id() {
        let story = Story::begin();
        let original = story.says(&bob(), "one");
        let now_ms = story.world.now_ms();
        let edits: Vec<OwnedEventId> = [50, 90, 90, 20]
            .into_iter()
            .map(|later_ms| {
                story.world.sets_clock(now_ms + later_ms);
                let relation = json!({ "rel_type": "m.replace", "event_id": original });
                let content = json!({ "m.new_content": {}, "m.relates_to": relation });
                story.world.sends(&bob(), &story.room_id, "m.room.message", None, &content).unwrap()
            })
            .collect();
        assert_eq!(story.bundle(&original)["m.replace"]["event_id"], edits[1].clone().max(edits[2].clone()).as_str());
    }

    #[test]
    fn a_thread_is_summed_up() {
        let story = Story::begin();
        let root = story.says(&alice(), "root");
        let first = story.relates(&bob(), "m.thread", &root, "first");
        let last = story.relates(&bob(), "m.thread", &root, "last");
        let edit = story.relates(&bob(), "m.replace", &last, "edited");
        story.relates(&bob(), "m.reference", &last, "referred to");
        let thread = story.bundle(&root)["m.thread"].clone();
        assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(true)), "her root");
        assert_eq!(thread["latest_event"]["event_id"], last.as_str());
        let relations = &thread["latest_event"]["unsigned"]["m.relations"];
        assert_eq!(relations["m.replace"]["event_id"], edit.as_str());
        assert_eq!(relations["m.reference"]["chunk"].as_array().unwrap().len(), 1);
        story.redacts(&last);
        let thread = story.bundle(&root)["m.thread"].clone();
        assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(1), &json!(first)));
        // Redacted itself, the root still has its thread.
        story.redacts(&root);
        assert_eq!(story.bundle(&root)["m.thread"]["count"], 1);
        story.redacts(&first);
        assert_eq!(story.bundle(&root), Value::Null);
    }

    #[test]
    fn each_sees_a_thread_with_their_own_eyes() {
        let story = Story::begin();
        let hers = story.says(&alice(), "root");
        story.relates(&alice(), "m.thread", &hers, "one");
        let participated = |user| story.bundle_for(user, &[], &hers)["m.thread"]["current_user_participated"].clone();
        assert_eq!((participated(alice()), participated(bob())), (json!(true), json!(false)));
        let his = story.relates(&bob(), "m.thread", &hers, "two");
        story.relates(&bob(), "m.reference", &hers, "a reference");
        assert_eq!(participated(bob()), true);
        let ignoring = story.bundle_for(alice(), &[bob()], &hers);
        assert_eq!((&ignoring["m.thread"]["count"], &ignoring["m.reference"]), (&json!(1), &Value::Null));
        assert_ne!(ignoring["m.thread"]["latest_event"]["event_id"], his.as_str());
        // Bob leaves, and sees no more of it than there was.
        story.world.changes(&bob(), &story.room_id, &bob(), MembershipAction::Leave).unwrap();
        story.relates(&alice(), "m.thread", &hers, "three");
        let seen = |user| story.bundle_for(user, &[], &hers)["m.thread"]["count"].clone();
        assert_eq!((seen(alice()), seen(bob())), (json!(3), json!(2)));
    }

    #[test]
    fn references_are_listed_and_state_events_have_nothing() {
        let story = Story::begin();
        let poll = story.says(&alice(), "a poll");
        let votes = ["a", "b"].map(|text| story.relates(&bob(), "m.reference", &poll, text));
        let chunk = json!([{ "event_id": votes[0] }, { "event_id": votes[1] }]);
        assert_eq!(story.bundle(&poll), json!({ "m.reference": { "chunk": chunk } }));
        let name = json!({ "name": "n" });
        let state = story.world.sends(&alice(), &story.room_id, "m.room.name", Some(""), &name).unwrap();
        story.relates(&bob(), "m.reference", &state, "c");
        assert_eq!(story.bundle(&state), Value::Null);
        // A relation that is malformed is none.
        let relation = json!({ "rel_type": ["m.reference"], "event_id": poll });
        story.sends(&bob(), "m.room.message", &json!({ "m.relates_to": relation }));
        assert_eq!(story.bundle(&poll)["m.reference"]["chunk"], chunk);
    }

    #[test]
    fn more_events_need_no_more_queries() {
        let story = Story::begin();
        for _ in 0..30 {
            let root = story.says(&alice(), "root");
            story.relates(&alice(), "m.replace", &root, "edited");
            let last = story.relates(&bob(), "m.thread", &root, "in the thread");
            story.relates(&bob(), "m.replace", &last, "edited");
        }
        let sql = story.world.sql(&Address::new(ActorKind::Room, story.room_id.as_str()));
        let queries = |limit| {
            let before = sql.statements.get();
            let call = Messages {
                user: alice(),
                device: "PHONE".into(),
                ignored: Vec::new(),
                from: None,
                to: None,
                direction: Direction::Backwards,
                filter: EventFilter { limit: Some(limit), ..EventFilter::default() },
                past_gaps: false,
            };
            let page = story.world.call(story.room_id.as_str(), &call).unwrap();
            let bundled = page.chunk.iter().filter(|event| event.get().contains("m.relations")).count();
            assert!(bundled as u64 >= limit / 2, "{bundled} of {limit}");
            sql.statements.get() - before
        };
        queries(8);
        // As many as are read at once.
        assert_eq!(queries(8), queries(40));
    }
}
