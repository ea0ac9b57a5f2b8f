//! The state of a large room, which its first reply has no room for.

use std::collections::BTreeMap;

use actors::room::{DeltaReply, EventFilter, GetState, MoreState, Synced};
use platform::Fault;
use ruma_common::{OwnedDeviceId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Context, Failure};

/// Whose sync it is, and how it shows state.
pub(super) struct Reader {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    pub filter: EventFilter,
    pub format: actors::room::EventFormat,
}

impl Reader {
    /// Reads what the room's reply left out, and puts it into its place.
    pub(super) async fn completed(
        self,
        cx: &Context,
        room_id: &RoomId,
        mut reply: DeltaReply,
    ) -> Result<DeltaReply, Failure> {
        let Some(MoreState { at, after, since }) = reply.more_state.take() else { return Ok(reply) };
        let mut call = GetState {
            user: self.user,
            device: self.device,
            at: Some(at),
            after: Some(after),
            filter: self.filter,
            synced: Some(Synced { since, format: self.format }),
        };
        let mut events = Vec::new();
        while call.after.is_some() {
            let page = match cx.room(room_id).call(&call).await {
                Ok(page) => page,
                // They left meanwhile, perhaps: the next sync says so.
                Err(Failure::Refused(_)) => return Err(Fault::retriable("a room gave half of its state").into()),
                Err(failure) => return Err(failure),
            };
            events.extend(page.events);
            call.after = page.next;
        }
        reply.room = with_state(&reply.room, events)?;
        Ok(reply)
    }
}

/// The room with more events in its state, before those that are there: what is said last counts.
fn with_state(room: &RawValue, mut events: Vec<Box<RawValue>>) -> serde_json::Result<Box<RawValue>> {
    #[derive(Serialize, Deserialize)]
    struct Events {
        events: Vec<Box<RawValue>>,
    }
    let mut room: BTreeMap<String, Box<RawValue>> = serde_json::from_str(room.get())?;
    for name in ["state", "state_after"] {
        if let Some(state) = room.get_mut(name) {
            events.extend(serde_json::from_str::<Events>(state.get())?.events);
            *state = to_raw_value(&Events { events })?;
            break;
        }
    }
    to_raw_value(&room)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::with_state;

    #[test]
    fn state_goes_where_state_is() {
        for name in ["state", "state_after"] {
            let room = json!({ "timeline": { "limited": true }, name: { "events": [3] } });
            let more = [1, 2].map(|number| to_raw_value(&number).unwrap()).into();
            let whole = with_state(&to_raw_value(&room).unwrap(), more).unwrap();
            let expected = json!({ "timeline": { "limited": true }, name: { "events": [1, 2, 3] } });
            assert_eq!(serde_json::from_str::<Value>(whole.get()).unwrap(), expected);
        }
    }
}
