use platform::{ActorKind, Tx};
use ruma_common::OwnedEventId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Appservice, store};
use crate::{Call, Cx, Error};

/// The most events that wait: of more, those that come last are not told of.
const WAITING_MAX: u64 = 10_000;

/// An event of a room that is not here, as clients see it: an invitation of one of the service's users, or what became
/// of one. Queued again while it waits, it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueEvent {
    pub event_id: OwnedEventId,
    pub event: Box<RawValue>,
}

impl Call for QueueEvent {
    const ACTOR: ActorKind = ActorKind::Appservice;
    const NAME: &'static str = "queue_event";
    type Reply = ();
}

impl Appservice {
    pub(super) fn queue_event(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: QueueEvent) -> Result<(), Error> {
        if store::put_event(tx, call.event_id.as_str(), call.event.get(), WAITING_MAX)? {
            self.find_a_carrier(tx, cx, true)?;
        }
        Ok(())
    }
}
