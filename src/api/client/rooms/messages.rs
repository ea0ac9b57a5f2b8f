//! Reading a room's history. Spec: "Getting events for a room", "Filtering".

use actors::{
    room::{Direction, EventFilter, GetEvent, Messages, RoomToken},
    user::PositionIn,
};
use domain::Refusal;
use ruma_client_api::{
    filter::{LazyLoadOptions, RoomEventFilter, UrlFilter},
    message::get_message_events,
    room::get_room_event,
};
use ruma_common::{OwnedRoomId, api};
use serde_json::value::RawValue;

use super::no_such_room;
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(messages);
    routes.add_json(event);
}

/// `GET …/messages`.
async fn messages(cx: &Context, caller: Caller, request: get_message_events::v3::Request) -> Result<Vec<u8>, Failure> {
    let place = async |token: &Option<String>| match token {
        Some(token) => position(cx, &caller, &request.room_id, token).await.map(Some),
        None => Ok(None),
    };
    let (from, to) = (place(&request.from).await?, place(&request.to).await?);
    let mut filter = event_filter(&request.filter);
    filter.limit = Some(filter.limit.unwrap_or(u64::MAX).min(request.limit.into()));
    let call = Messages {
        user: caller.user_id,
        device: caller.device_id,
        from,
        to,
        direction: match request.dir {
            api::Direction::Backward => Direction::Backwards,
            api::Direction::Forward => Direction::Forwards,
        },
        filter,
    };
    let page = cx.room(&request.room_id).call(&call).await.or_absent(no_such_room())?;
    Ok(serde_json::to_vec(&page)?)
}

/// `GET …/event/{eventId}`.
async fn event(cx: &Context, caller: Caller, request: get_room_event::v3::Request) -> Result<Box<RawValue>, Failure> {
    let call = GetEvent { user: caller.user_id, device: caller.device_id, event_id: request.event_id };
    cx.room(&request.room_id).call(&call).await.or_absent(no_such_room())
}

/// Where in a room's log a token stands: one of the room itself, or a sync's `next_batch`.
pub(super) async fn position(
    cx: &Context,
    caller: &Caller,
    room_id: &OwnedRoomId,
    token: &str,
) -> Result<u64, Failure> {
    if token.starts_with('s') {
        let call = PositionIn { room_id: room_id.clone(), token: token.to_owned() };
        return cx.user(&caller.user_id).call(&call).await;
    }
    Ok(token
        .parse::<RoomToken>()
        .map_err(|_: Refusal| Refusal::InvalidParam("Not a token of this server".to_owned()))?
        .0)
}

/// A client's filter of a room's events, as rooms understand it.
pub(crate) fn event_filter(filter: &RoomEventFilter) -> EventFilter {
    let ids = |users: &[ruma_common::OwnedUserId]| users.iter().map(ToString::to_string).collect::<Vec<_>>();
    EventFilter {
        limit: filter.limit.map(Into::into),
        types: filter.types.clone(),
        not_types: filter.not_types.clone(),
        senders: filter.senders.as_deref().map(ids),
        not_senders: ids(&filter.not_senders),
        contains_url: filter.url_filter.map(|wanted| matches!(wanted, UrlFilter::EventsWithUrl)),
        lazy_load_members: matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. }),
    }
}
