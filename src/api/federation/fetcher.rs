//! Fetching what events of other servers build on, for a room in which they wait for it. Spec: "Transactions",
//! "Backfilling and retrieving missing events".

use actors::room::{EndWaiting, Received, StopFetching, TakeWaiting, Waiting};
use domain::{Pdu, Refusal, RoomVersion};
use ruma_common::{OwnedRoomId, RoomId};

use super::{omitted_members, receiving::Receiving};
use crate::{Context, Failure, shift::Shift};

/// How long one event has what it needs asked for, in milliseconds; what has come by then stays.
const EVENT_MS: u64 = 30_000;

/// Brings what waits into the room. What goes wrong is logged, and tried again later by whoever comes next.
pub(crate) async fn fetch(cx: &Context, room_id: &str) {
    let Ok(room_id) = OwnedRoomId::try_from(room_id) else { return };
    let shift = Shift::begins(cx);
    omitted_members::fetch(cx, &room_id, &shift).await;
    let once = async || fetch_once(cx, &room_id, &shift).await;
    let stop = StopFetching { carrier: shift.carrier.to_owned() };
    shift.works(once, async || cx.room(&room_id).call(&stop).await).await;
}

/// Answers whether there may be more.
async fn fetch_once(cx: &Context, room_id: &RoomId, shift: &Shift<'_>) -> Result<bool, Failure> {
    let carrier = || shift.carrier.to_owned();
    let waiting = match cx.room(room_id).call(&TakeWaiting { carrier: carrier() }).await {
        Err(Failure::Absent) => return Ok(false),
        waiting => waiting?,
    };
    if waiting.events.is_empty() {
        return Ok(false);
    }
    let version = RoomVersion::parse(&waiting.room_version)?;
    let mut waiting_events = waiting.events.into_iter().peekable();
    while let Some(Waiting { origin, event, is_last_try }) = waiting_events.next() {
        let pdu = Pdu::from_stored(event.event_id.clone(), event.json, false).map_err(Refusal::from)?;
        let until_ms = cx.now_ms().saturating_add(cx.in_time(EVENT_MS));
        let receiving = Receiving {
            cx,
            origin: &origin,
            room_id,
            version: &version,
            until_ms,
            is_last_try,
            takes_gaps: is_last_try,
        };
        let is_judged = match receiving.receive(&pdu).await {
            Ok(Received::Needs(_)) => false,
            Ok(_) | Err(Failure::Refused(_)) => true,
            // The events after it are not kept waiting by one that cannot be judged here.
            Err(failure) => {
                let (event_id, fault) = (&event.event_id, failure.into_fault());
                tracing::error!(%room_id, %event_id, %origin, %fault, "an event could not be judged");
                false
            }
        };
        let next = waiting_events.peek().filter(|_| !shift.is_over());
        let turns_to = next.map(|next| next.event.event_id.clone());
        let is_last = turns_to.is_none();
        let call = EndWaiting { carrier: carrier(), event_id: event.event_id, is_judged, turns_to };
        cx.room(room_id).call(&call).await?;
        if is_last {
            break;
        }
    }
    Ok(true)
}
