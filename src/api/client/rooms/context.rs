//! What happened around an event, and at a time. Spec: "Event Context", "Getting events for a room".

use actors::room::{Direction, EventByTimestamp, EventFilter, GetContext, GetState};
use domain::Refusal;
use ruma_client_api::{context::get_context, room::get_event_by_timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    messages::{direction, event_filter},
    not_in_room,
    pages::{in_pages, of_state},
};
use crate::{
    Body, Caller, Context, Failure, OrAbsent, Routes,
    client::filter::checked_room_events,
    federation::history::{Backfill, Filled},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_body(context);
    routes.add(by_timestamp);
}

/// The answer without the state, which may come in pages.
#[derive(Serialize)]
struct Around<'a> {
    start: &'a str,
    end: &'a str,
    events_before: &'a [Box<RawValue>],
    event: &'a RawValue,
    events_after: &'a [Box<RawValue>],
}

/// `GET …/context/{eventId}`.
async fn context(cx: &Context, caller: Caller, request: get_context::v3::Request) -> Result<Body, Failure> {
    checked_room_events("filter", &request.filter)?;
    let mut call = GetContext {
        user: caller.user_id,
        device: caller.device_id,
        ignored: caller.ignored,
        event_id: request.event_id,
        limit: request.limit.into(),
        filter: event_filter(&request.filter, &request.room_id),
        past_gaps: false,
    };
    let mut backfill = Backfill::new(cx, &request.room_id);
    let found = loop {
        let found = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
        let Some(gap) = &found.gap else { break found };
        match backfill.fill(gap).await? {
            Filled::More => {}
            Filled::Nothing => call.past_gaps = true,
            Filled::Enough => break found,
        }
    };
    let around = Around {
        start: &found.start,
        end: &found.end,
        events_before: &found.events_before,
        event: &found.event,
        events_after: &found.events_after,
    };
    let mut open = serde_json::to_string(&around)?;
    open.truncate(open.len().saturating_sub(1));
    open.push_str(",\"state\":[");
    let GetContext { user, device, filter, .. } = call;
    let filter = EventFilter { limit: None, ..filter };
    let first = of_state(GetState { user, device, at: None, after: None, filter, synced: None }, found.state)?;
    Ok(in_pages(cx, request.room_id, &open, first, of_state, "]}"))
}

/// `GET …/timestamp_to_event`.
async fn by_timestamp(
    cx: &Context,
    caller: Caller,
    request: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response, Failure> {
    let call = EventByTimestamp {
        user: caller.user_id,
        device: caller.device_id,
        ts_ms: request.ts.get().into(),
        direction: direction(request.dir),
        ignored: caller.ignored,
    };
    let room = cx.room(&request.room_id);
    let mut closest = room.call(&call).await.or_absent(not_in_room(&call.user))?;
    if let Some(gap) = &closest.gap {
        let elsewhere = Backfill::new(cx, &request.room_id);
        if elsewhere.find(gap, call.ts_ms, call.direction, closest.event.as_ref()).await? {
            closest = room.call(&call).await?;
        }
    }
    let found = closest.event.ok_or_else(|| {
        let side = if call.direction == Direction::Forwards { "after" } else { "before" };
        Refusal::NotFound(format!("There is no event {side} {} that you may see", call.ts_ms))
    })?;
    Ok(get_event_by_timestamp::v1::Response::new(found.event_id, found.origin_server_ts))
}
