//! The threads of a room.

use std::collections::HashMap;

use domain::{
    Refusal,
    event::{self, Relation},
};
use platform::{ActorKind, Fault, Sql};
use ruma_common::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room, RoomToken,
    store::{
        self,
        log::Logged,
        relations::{Threaded, relating, threaded},
    },
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Threads on a page when the client names no number.
const PAGE_THREADS_DEFAULT: u64 = 20;
/// The most threads on a page.
const PAGE_THREADS_MAX: u64 = 50;
/// Events of threads looked at for one page; a page may be short and still have a next one.
const PAGE_SCAN_MAX: usize = 5_000;
/// Bytes of roots after which a page ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Events of threads read at once.
const BATCH_EVENTS: u64 = 50;

/// The events that threads begin with, by when somebody spoke last in their thread, newest first.
/// Spec: "Querying threads in a room".
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable; `InvalidParam` for a limit of
/// nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetThreads {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// Whether only threads are wanted in which the user takes part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub participated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// A page in the shape of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct ThreadsPage {
    pub chunk: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

impl Call for GetThreads {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "threads";
    type Reply = ThreadsPage;
}

impl Room {
    pub(super) fn threads(&self, sql: &dyn Sql, cx: &Cx<'_>, call: GetThreads) -> Result<ThreadsPage, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        viewer.sight()?;
        let limit = match call.limit {
            Some(0) => return Err(Refusal::InvalidParam("The limit must be greater than zero".to_owned()).into()),
            limit => limit.unwrap_or(PAGE_THREADS_DEFAULT).min(PAGE_THREADS_MAX),
        };
        let mut up_to = call.from.map_or_else(|| self.head(sql), Ok)?;
        let visible = viewer.visible()?;
        let (mut roots, mut bytes, mut next, mut scanned) = (Vec::new(), 0_usize, None, 0_usize);
        'pages: while let Some(seen) = viewer.sees_at_or_before(up_to) {
            let batch = threaded(sql, &visible, seen, BATCH_EVENTS)?;
            scanned = scanned.saturating_add(batch.len());
            let is_last = (batch.len() as u64) < BATCH_EVENTS;
            up_to = batch.last().map_or(0, |last| last.position.saturating_sub(1));
            for (latest, root) in threads_of(sql, &viewer, batch, call.participated)? {
                if roots.len() as u64 == limit || bytes >= PAGE_BYTES_MAX {
                    next = Some(latest);
                    break 'pages;
                }
                bytes = bytes.saturating_add(root.pdu.json().len());
                roots.push(root);
            }
            if is_last {
                break;
            }
            if scanned >= PAGE_SCAN_MAX {
                next = Some(up_to);
                break;
            }
        }
        for root in &mut roots {
            // «If the thread root event was sent by an ignored user, the event is returned redacted to the caller.»
            if viewer.ignores(root) {
                root.pdu = event::redact(&root.pdu, &*self.version(sql)?, None)
                    .map_err(|error| Fault::new(format!("a stored event does not redact: {error}")))?;
            }
        }
        Ok(ThreadsPage {
            chunk: viewer.sees_all(sql, cx, &roots.iter().collect::<Vec<_>>(), true)?,
            next_batch: next.map(|place| RoomToken(place).to_string()),
        })
    }
}

/// The threads whose last events are among these: the position of the last event, and the root, if it is there to be
/// seen.
fn threads_of(
    sql: &dyn Sql,
    viewer: &Viewer,
    events: Vec<Threaded>,
    participated: bool,
) -> Result<Vec<(u64, Logged)>, Error> {
    let latest: Vec<Threaded> = events.into_iter().filter(|event| event.is_latest).collect();
    let ids: Vec<&str> = latest.iter().map(|event| event.root.as_str()).collect();
    let mut roots = store::log::with_ids(sql, &ids)?;
    // What relates to another event is no root, whatever another server let through.
    roots.retain(|root| viewer.may_see(root) && Relation::of(root.pdu.content()).is_none());
    if participated {
        let positions: Vec<u64> = roots.iter().map(|root| root.position).collect();
        let related = relating(sql, &viewer.visible()?, &viewer.user, &positions)?;
        let takes_part = |root: &Logged| {
            root.pdu.sender() == viewer.user || related.iter().any(|it| it.to == root.position && it.participated)
        };
        roots.retain(takes_part);
    }
    let mut roots: HashMap<String, Logged> =
        roots.into_iter().map(|root| (root.pdu.event_id().to_string(), root)).collect();
    Ok(latest.into_iter().filter_map(|event| Some((event.position, roots.remove(&event.root)?))).collect())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::power::Preset;
    use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, user_id};
    use serde_json::{Value, json};

    use super::{GetThreads, ThreadsPage};
    use crate::{
        room::{MembershipAction, RoomToken},
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
            let room_id = world.creates_room(&alice(), "12", Preset::PublicChat);
            world.changes(&bob(), &room_id, &bob(), MembershipAction::Join).unwrap();
            Self { world, room_id }
        }

        fn says(&self, user: &OwnedUserId, text: &str) -> OwnedEventId {
            self.world.sends(user, &self.room_id, "m.room.message", None, &json!({ "body": text })).unwrap()
        }

        fn answers(&self, user: &OwnedUserId, root: &OwnedEventId) -> OwnedEventId {
            let content = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
            self.world.sends(user, &self.room_id, "m.room.message", None, &content).unwrap()
        }

        fn redacts(&self, event_id: &OwnedEventId) {
            self.world.redacts(&alice(), &self.room_id, event_id).unwrap();
        }

        fn asks(&self, user: OwnedUserId) -> GetThreads {
            let (device, ignored) = ("PHONE".into(), Vec::new());
            GetThreads { user, device, ignored, participated: false, from: None, limit: None }
        }

        fn page(&self, call: &GetThreads) -> ThreadsPage {
            self.world.call(self.room_id.as_str(), call).unwrap()
        }

        /// All threads, in pages.
        fn threads(&self, call: GetThreads) -> Vec<String> {
            let (mut call, mut all) = (call, Vec::new());
            loop {
                let page = self.page(&call);
                all.extend(events(&page).iter().map(|event| event["event_id"].as_str().unwrap().to_owned()));
                let Some(next) = page.next_batch else { return all };
                call.from = Some(next.parse::<RoomToken>().unwrap().0);
            }
        }
    }

    fn events(page: &ThreadsPage) -> Vec<Value> {
        page.chunk.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect()
    }

    #[test]
    fn threads_stand_by_who_spoke_last() {
        let story = Story::begin();
        let roots: Vec<OwnedEventId> = (0..5).map(|number| story.says(&alice(), &number.to_string())).collect();
        let mut order: Vec<usize> = Vec::new();
        for _ in 0..200 {
            let index = story.world.dice.roll(5) as usize;
            let who = if index == 2 { bob() } else { alice() };
            story.answers(&who, &roots[index]);
            order.retain(|other| *other != index);
            order.insert(0, index);
        }
        let expected: Vec<String> = order.iter().map(|index| roots[*index].to_string()).collect();
        for limit in [None, Some(1), Some(2), Some(4), Some(5)] {
            assert_eq!(story.threads(GetThreads { limit, ..story.asks(alice()) }), expected, "{limit:?}");
        }
        assert!(events(&story.page(&story.asks(bob())))[0]["unsigned"]["m.relations"]["m.thread"]["count"].is_u64());
        let his = GetThreads { participated: true, limit: Some(1), ..story.asks(bob()) };
        assert_eq!(story.threads(his), [roots[2].as_str()]);
        let hers = GetThreads { participated: true, limit: Some(1), ..story.asks(alice()) };
        assert_eq!(story.threads(hers), expected);
        // A thread that moves between two pages is on neither twice.
        let first = story.page(&GetThreads { limit: Some(2), ..story.asks(alice()) });
        story.answers(&alice(), &roots[order[4]]);
        let from = first.next_batch.map(|next| next.parse::<RoomToken>().unwrap().0);
        let rest = story.threads(GetThreads { from, ..story.asks(alice()) });
        assert_eq!(rest, expected[2..4]);
    }

    #[test]
    fn a_thread_that_is_gone_is_not_listed() {
        let story = Story::begin();
        let roots = [story.says(&alice(), "one"), story.says(&alice(), "two")];
        let answers = [0, 1, 0].map(|index: usize| story.answers(&bob(), &roots[index]));
        assert_eq!(story.threads(story.asks(bob())), [&roots[0], &roots[1]].map(ToString::to_string));
        story.redacts(&answers[2]);
        assert_eq!(story.threads(story.asks(bob())), [&roots[1], &roots[0]].map(ToString::to_string));
        story.redacts(&answers[0]);
        assert_eq!(story.threads(story.asks(bob())), [roots[1].as_str()]);
        // The root may be redacted, and the thread stays.
        story.redacts(&roots[1]);
        assert_eq!(story.threads(story.asks(bob())), [roots[1].as_str()]);
        // One that nobody here knows yet is not shown.
        story.answers(&bob(), &"$elsewhere".try_into().unwrap());
        assert_eq!(story.threads(story.asks(bob())), [roots[1].as_str()]);
    }

    #[test]
    fn threads_are_seen_by_those_who_may() {
        let story = Story::begin();
        let (his, hers) = (story.says(&bob(), "his"), story.says(&alice(), "hers"));
        story.answers(&alice(), &his);
        story.answers(&bob(), &hers);
        // Of one who is ignored the root is there and says nothing; what they say makes no thread.
        let ignoring = story.page(&GetThreads { ignored: vec![bob()], ..story.asks(alice()) });
        let found = events(&ignoring);
        assert_eq!((found.len(), &found[0]["event_id"], &found[0]["content"]), (1, &json!(his), &json!({})));
        assert_eq!(found[0]["unsigned"]["m.relations"]["m.thread"]["count"], 1);
        story.world.changes(&bob(), &story.room_id, &bob(), MembershipAction::Leave).unwrap();
        let late = story.says(&alice(), "late");
        story.answers(&alice(), &late);
        story.answers(&alice(), &his);
        assert_eq!(story.threads(story.asks(bob())), [&hers, &his].map(ToString::to_string), "as it was");
        assert_eq!(story.threads(story.asks(alice())), [&his, &late, &hers].map(ToString::to_string));
        let stranger = user_id!("@stranger:myelin.test").to_owned();
        assert!(story.world.call(story.room_id.as_str(), &story.asks(stranger)).is_err());
    }
}
