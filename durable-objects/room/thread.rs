//! Which thread an event belongs to. Spec: "Threading", "Threaded read receipts".

use domain::event::Relation;
use platform::{Fault, Sql};
use ruma_common::OwnedEventId;

use super::store::{self, log::Logged};

/// How many relations are followed from an event to a thread. Spec: «a maximum of 3 hops is recommended».
const HOPS_MAX: usize = 3;

/// The name of the main timeline where threads are named.
pub(super) const MAIN: &str = "main";

/// Where an event stands.
pub(super) struct Place {
    /// The root of the event's thread; `None`: in the main timeline, as roots themselves are.
    pub thread: Option<OwnedEventId>,
    /// For an event of the main timeline: where its relations lead, itself if it has none.
    pub topmost: OwnedEventId,
}

impl Place {
    /// Whether the event may be marked as read in this thread. A root, and what relates to it, stand in the main
    /// timeline and are read where its thread begins, too.
    pub(super) fn belongs_to(&self, thread: &str) -> bool {
        match &self.thread {
            Some(root) => root == thread,
            None => thread == MAIN || self.topmost == thread,
        }
    }
}

/// Follows the event's relations to its thread. One that is malformed is none.
pub(super) fn place(sql: &dyn Sql, event: &Logged) -> Result<Place, Fault> {
    let mut topmost = event.pdu.event_id().to_owned();
    let mut relation = Relation::of(event.pdu.content());
    for _hop in 0..HOPS_MAX {
        let Some(Relation { rel_type, event_id, .. }) = relation else { break };
        if rel_type == "m.thread" {
            return Ok(Place { thread: Some(event_id), topmost });
        }
        topmost = event_id;
        let parent = store::log::by_id(sql, topmost.as_str())?;
        relation = parent.and_then(|parent| Relation::of(parent.pdu.content()));
    }
    Ok(Place { thread: None, topmost })
}
