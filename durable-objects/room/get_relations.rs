//! The events that relate to one.

use domain::Refusal;
use platform::{ActorKind, Sql};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Direction, Room, RoomToken,
    store::{
        self,
        log::Logged,
        relations::{Children, children},
    },
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Events on a page when the client names no number.
const PAGE_EVENTS_DEFAULT: u64 = 20;
/// The most events on a page: they are in memory together.
const PAGE_EVENTS_MAX: u64 = 100;
/// How many relations lead from an event to the one asked about. Spec: «at least 3 levels».
const DEPTH_MAX: u64 = 3;
/// Bytes of events after which a page ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// A page of the events that relate to one, as one user may see them.
/// Spec: `GET /rooms/{roomId}/relations/{eventId}`.
///
/// Refused: `NotFound` for an event that is not there, or that the user may not see.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetRelations {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub event_id: OwnedEventId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Where to start: from the end or the beginning of the log, by direction, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Where to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    pub direction: Direction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Whether events count that relate to it by way of others; whether the client said so at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurse: Option<bool>,
}

/// A page in the shape of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct RelationsPage {
    pub chunk: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// The client's own `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursion_depth: Option<u64>,
}

impl Call for GetRelations {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "relations";
    type Reply = RelationsPage;
}

impl Room {
    pub(super) fn relations(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetRelations) -> Result<RelationsPage, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        let parent = store::log::by_id(sql, call.event_id.as_str())?.filter(|event| viewer.may_see(event));
        if parent.is_none() {
            return Err(Refusal::NotFound("There is no such event, or it is not yours to see".to_owned()).into());
        }
        let head = self.head(sql)?;
        let (start, span) = call.direction.span(call.from, call.to, head);
        let limit = call.limit.unwrap_or(PAGE_EVENTS_DEFAULT).min(PAGE_EVENTS_MAX);
        let depth = if call.recurse == Some(true) { DEPTH_MAX } else { 1 };
        let wanted = Children {
            parent: &call.event_id,
            rel_type: call.rel_type.as_deref(),
            event_type: call.event_type.as_deref(),
            depth,
            direction: call.direction,
            span,
            limit: limit.saturating_add(1),
        };
        let positions = children(sql, &viewer.visible()?, &wanted)?;
        let (mut events, mut bytes, mut has_more) = (Vec::new(), 0_usize, false);
        for event in store::log::each(&positions, |slice| store::log::at(sql, slice)) {
            if events.len() as u64 == limit || bytes >= PAGE_BYTES_MAX {
                has_more = true;
                break;
            }
            let event = event?;
            bytes = bytes.saturating_add(event.pdu.json().len());
            events.push(event);
        }
        let place = events.last().map_or(start, |last| match call.direction {
            Direction::Backwards => last.position.saturating_sub(1),
            Direction::Forwards => last.position,
        });
        Ok(RelationsPage {
            chunk: viewer.sees_all(sql, cx, &events.iter().collect::<Vec<&Logged>>(), true)?,
            next_batch: has_more.then(|| RoomToken(place).to_string()),
            prev_batch: None,
            recursion_depth: call.recurse.map(|_| depth),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{Refusal, power::Preset};
    use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, user_id};
    use serde_json::{Value, json};

    use super::{GetRelations, RelationsPage};
    use crate::{
        CallError,
        room::{Direction, MembershipAction, RoomToken},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:myelin.test").to_owned()
    }

    struct Story {
        world: Rc<World>,
        room_id: OwnedRoomId,
    }

    impl Story {
        fn begin() -> Self {
            let world = World::new(1);
            let room_id = world.creates_room(&alice(), "11", Preset::PrivateChat);
            Self { world, room_id }
        }

        fn tries(&self, event_type: &str, content: &Value) -> Result<OwnedEventId, CallError> {
            self.world.sends(&alice(), &self.room_id, event_type, None, content)
        }

        fn says(&self, text: &str) -> OwnedEventId {
            self.tries("m.room.message", &json!({ "body": text })).unwrap()
        }

        fn relates(&self, rel_type: &str, to: &OwnedEventId, event_type: &str) -> OwnedEventId {
            self.tries(event_type, &json!({ "m.relates_to": { "rel_type": rel_type, "event_id": to } })).unwrap()
        }

        fn annotates(&self, to: &OwnedEventId, event_type: &str, key: &str) -> Result<OwnedEventId, CallError> {
            let relation = json!({ "rel_type": "m.annotation", "event_id": to, "key": key });
            self.tries(event_type, &json!({ "m.relates_to": relation }))
        }

        fn asks(&self, event_id: &OwnedEventId) -> GetRelations {
            GetRelations {
                user: alice(),
                device: "PHONE".into(),
                ignored: Vec::new(),
                event_id: event_id.clone(),
                rel_type: None,
                event_type: None,
                from: None,
                to: None,
                direction: Direction::Backwards,
                limit: None,
                recurse: None,
            }
        }

        fn page(&self, call: &GetRelations) -> RelationsPage {
            self.world.call(self.room_id.as_str(), call).unwrap()
        }

        fn ids(&self, call: &GetRelations) -> Vec<String> {
            ids(&self.page(call))
        }
    }

    fn ids(page: &RelationsPage) -> Vec<String> {
        let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
        page.chunk.iter().map(|event| id(&serde_json::from_str(event.get()).unwrap())).collect()
    }

    fn at(token: Option<&String>) -> Option<u64> {
        token.map(|token| token.parse::<RoomToken>().unwrap().0)
    }

    #[test]
    fn pages_lead_through_all_that_relates_either_way() {
        let story = Story::begin();
        let root = story.says("root");
        let all: Vec<String> = (0..7)
            .map(|number| {
                story.says("something else");
                let kind = if number % 2 == 0 { "m.thread" } else { "org.test" };
                story.relates(kind, &root, "m.room.message").to_string()
            })
            .collect();
        for direction in [Direction::Backwards, Direction::Forwards] {
            for limit in [1, 2, 3, 7, 8] {
                let mut call = GetRelations { direction, limit: Some(limit), ..story.asks(&root) };
                let (mut found, mut pages) = (Vec::new(), 0);
                loop {
                    let page = story.page(&call);
                    assert!(page.recursion_depth.is_none() && page.chunk.len() as u64 <= limit);
                    found.extend(ids(&page));
                    pages += 1;
                    call.from = at(page.next_batch.as_ref());
                    if call.from.is_none() {
                        break;
                    }
                }
                if direction == Direction::Backwards {
                    found.reverse();
                }
                assert_eq!((&found, pages), (&all, 7_u64.div_ceil(limit)), "{direction:?} by {limit}");
            }
        }
        // Between two tokens, and none when they stand the wrong way round.
        let first = story.page(&GetRelations { limit: Some(2), ..story.asks(&root) });
        let second = at(first.next_batch.as_ref());
        assert_eq!(story.ids(&GetRelations { to: second, ..story.asks(&root) }), ids(&first));
        let from_the_second = GetRelations { from: second, limit: Some(2), ..story.asks(&root) };
        let third = at(story.page(&from_the_second).next_batch.as_ref());
        assert_eq!(story.ids(&GetRelations { from: third, to: second, ..story.asks(&root) }), [""; 0]);
        assert_eq!(story.page(&GetRelations { limit: Some(0), ..story.asks(&root) }).chunk.len(), 0);
    }

    #[test]
    fn the_kind_and_the_type_may_be_named() {
        let story = Story::begin();
        let root = story.says("root");
        let thread = story.relates("m.thread", &root, "m.room.message").to_string();
        let sticker = story.relates("m.thread", &root, "m.sticker").to_string();
        let reaction = story.annotates(&root, "m.reaction", "👍").unwrap().to_string();
        let by = |rel_type: Option<&str>, event_type: Option<&str>| {
            let (rel_type, event_type) = (rel_type.map(str::to_owned), event_type.map(str::to_owned));
            story.ids(&GetRelations { rel_type, event_type, ..story.asks(&root) })
        };
        assert_eq!(by(None, None), [&*reaction, &sticker, &thread]);
        assert_eq!(by(Some("m.thread"), None), [&*sticker, &thread]);
        assert_eq!(by(Some("m.thread"), Some("m.sticker")), [&*sticker]);
        assert_eq!(by(Some("m.annotation"), Some("m.sticker")), [""; 0]);
    }

    #[test]
    fn what_relates_indirectly_is_found_three_relations_away() {
        let story = Story::begin();
        let root = story.says("root");
        let mut chain = vec![root.clone()];
        for number in 0..4 {
            let rel_type = ["m.thread", "m.annotation", "m.reference", "org.test"][number];
            chain.push(story.relates(rel_type, &chain[number], "m.room.message"));
        }
        let aside = story.relates("m.thread", &root, "m.room.message");
        let recursing = GetRelations { recurse: Some(true), ..story.asks(&root) };
        let page = story.page(&recursing);
        assert_eq!(page.recursion_depth, Some(3));
        let found = [&aside, &chain[3], &chain[2], &chain[1]].map(ToString::to_string);
        assert_eq!(ids(&page), found);
        let forwards = GetRelations { direction: Direction::Forwards, ..recursing };
        assert_eq!(story.ids(&forwards), found.iter().rev().cloned().collect::<Vec<_>>());
        let first = story.page(&GetRelations { limit: Some(3), ..forwards });
        let rest = GetRelations { from: at(first.next_batch.as_ref()), recurse: Some(true), ..story.asks(&root) };
        assert_eq!(ids(&first), [&found[3], &found[2], &found[1]].map(Clone::clone));
        assert_eq!(story.ids(&GetRelations { direction: Direction::Forwards, ..rest }), [&*found[0]]);
        // What is reached only through another kind is not there.
        let of_threads =
            GetRelations { recurse: Some(true), rel_type: Some("m.thread".to_owned()), ..story.asks(&root) };
        assert_eq!(story.ids(&of_threads), [&found[0], &found[3]].map(Clone::clone));
        assert_eq!(story.page(&GetRelations { recurse: Some(false), ..story.asks(&root) }).recursion_depth, Some(1));
    }

    #[test]
    fn what_is_redacted_hidden_or_ignored_is_not_there() {
        let story = Story::begin();
        let root = story.says("root");
        let (gone, kept) =
            (story.relates("m.thread", &root, "m.sticker"), story.relates("m.thread", &root, "m.sticker"));
        story.world.redacts(&alice(), &story.room_id, &gone).unwrap();
        assert_eq!(story.ids(&story.asks(&root)), [kept.as_str()]);
        assert_eq!(story.ids(&GetRelations { ignored: vec![alice()], ..story.asks(&root) }), [""; 0]);
        let refused = |user| match story.world.call(story.room_id.as_str(), &GetRelations { user, ..story.asks(&root) })
        {
            Err(CallError::Refused(Refusal::NotFound(_))) => true,
            Ok(_) => false,
            other => panic!("{other:?}"),
        };
        assert!(refused(bob()), "a stranger");
        let setting = json!({ "history_visibility": "joined" });
        story.world.sends(&alice(), &story.room_id, "m.room.history_visibility", Some(""), &setting).unwrap();
        let hidden = story.relates("m.thread", &root, "m.sticker");
        story.world.changes(&alice(), &story.room_id, &bob(), MembershipAction::Invite).unwrap();
        story.world.changes(&bob(), &story.room_id, &bob(), MembershipAction::Join).unwrap();
        let seen = story.relates("m.thread", &root, "m.sticker");
        assert_eq!(story.ids(&story.asks(&root)), [&seen, &hidden, &kept].map(ToString::to_string));
        let his = GetRelations { user: bob(), ..story.asks(&root) };
        assert_eq!(story.ids(&his), [&seen, &kept].map(ToString::to_string));
        assert!(!refused(bob()));
    }

    #[test]
    fn relations_that_break_the_rules_are_refused() {
        let story = Story::begin();
        let root = story.says("root");
        let threaded = story.relates("m.thread", &root, "m.room.message");
        let relation = |to: &OwnedEventId| json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": to } });
        let nested = story.tries("m.room.message", &relation(&threaded));
        assert!(matches!(nested, Err(CallError::Refused(Refusal::Unknown(_)))), "{nested:?}");
        let reply = json!({ "m.relates_to": { "m.in_reply_to": { "event_id": root } } });
        let reply = story.tries("m.room.message", &reply).unwrap();
        story.relates("m.thread", &reply, "m.room.message");
        // What is not held yet may turn out to be anything.
        story.relates("m.thread", &"$elsewhere".try_into().unwrap(), "m.room.message");

        let reaction = story.annotates(&root, "m.reaction", "👍").unwrap();
        let again = story.annotates(&root, "m.reaction", "👍");
        assert!(matches!(again, Err(CallError::Refused(Refusal::DuplicateAnnotation))), "{again:?}");
        story.annotates(&root, "m.reaction", "👎").unwrap();
        story.annotates(&root, "org.test", "👍").unwrap();
        story.annotates(&threaded, "m.reaction", "👍").unwrap();
        story.world.redacts(&alice(), &story.room_id, &reaction).unwrap();
        story.annotates(&root, "m.reaction", "👍").unwrap();
    }
}
