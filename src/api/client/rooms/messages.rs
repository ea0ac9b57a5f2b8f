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
use ruma_common::{OwnedRoomId, RoomId, api};
use serde_json::value::RawValue;

use super::not_in_room;
use crate::{
    Caller, Context, Failure, OrAbsent, Routes,
    client::filter::checked_room_events,
    federation::history::{Backfill, Filled},
};

pub(super) fn routes(routes: &mut Routes) {
    routes.add_json(messages);
    routes.add_json(event);
}

/// `GET …/messages`.
async fn messages(cx: &Context, caller: Caller, request: get_message_events::v3::Request) -> Result<Vec<u8>, Failure> {
    checked_room_events("filter", &request.filter)?;
    let direction = direction(request.dir);
    let from = place(cx, &caller, &request.room_id, request.from.as_deref(), direction).await?;
    let to = place(cx, &caller, &request.room_id, request.to.as_deref(), direction.reversed()).await?;
    let mut filter = event_filter(&request.filter, &request.room_id);
    filter.limit = Some(filter.limit.unwrap_or(u64::MAX).min(request.limit.into()));
    let mut call = Messages {
        user: caller.user_id,
        device: caller.device_id,
        ignored: caller.ignored,
        from,
        to,
        direction,
        filter,
        past_gaps: false,
    };
    let mut backfill = Backfill::new(cx, &request.room_id);
    let mut page = loop {
        let mut page = cx.room(&request.room_id).call(&call).await.or_absent(not_in_room(&call.user))?;
        let Some(gap) = page.gap.take() else { break page };
        match backfill.fill(&gap).await? {
            Filled::More => {}
            Filled::Nothing => call.past_gaps = true,
            Filled::Enough => break page,
        }
    };
    if call.past_gaps && page.end.as_deref() == Some(&page.start) {
        // Nobody has what is before: for this reader it begins here, or they would ask for ever.
        page.end = None;
    }
    if let Some(from) = request.from {
        page.start = from;
    }
    Ok(serde_json::to_vec(&page)?)
}

/// `GET …/event/{eventId}`.
async fn event(cx: &Context, caller: Caller, request: get_room_event::v3::Request) -> Result<Box<RawValue>, Failure> {
    let Caller { user_id: user, device_id: device, ignored, .. } = caller;
    let call = GetEvent { user, device, ignored, event_id: request.event_id };
    // In the words of the room itself, for an event that the user may not see.
    let unseen = Refusal::NotFound("There is no such event, or it is not yours to see".to_owned());
    cx.room(&request.room_id).call(&call).await.or_absent(unseen)
}

pub(crate) fn direction(direction: api::Direction) -> Direction {
    match direction {
        api::Direction::Backward => Direction::Backwards,
        api::Direction::Forward => Direction::Forwards,
    }
}

/// [`position`], if there is a token.
pub(super) async fn place(
    cx: &Context,
    caller: &Caller,
    room_id: &OwnedRoomId,
    token: Option<&str>,
    reading: Direction,
) -> Result<Option<u64>, Failure> {
    match token {
        Some(token) => position(cx, caller, room_id, token, reading).await.map(Some),
        None => Ok(None),
    }
}

/// Where in a room's log a token stands from which is read in a direction: one of the room itself, or a sync's
/// `next_batch`.
pub(in crate::client) async fn position(
    cx: &Context,
    caller: &Caller,
    room_id: &OwnedRoomId,
    token: &str,
    reading: Direction,
) -> Result<u64, Failure> {
    let none = || Refusal::InvalidParam(format!("{:.32} is not a token of this server", token));
    if token.starts_with('s') {
        let call = PositionIn { room_id: room_id.clone(), token: token.to_owned(), reading: Some(reading) };
        return match cx.user(&caller.user_id).call(&call).await {
            Err(Failure::Refused(Refusal::InvalidParam(_))) => Err(none().into()),
            outcome => outcome,
        };
    }
    let RoomToken(position) = token.parse().map_err(|_: Refusal| none())?;
    Ok(position)
}

/// A client's filter, as this room understands it: a room that the filter leaves out has no event of any type.
pub(crate) fn event_filter(filter: &RoomEventFilter, room_id: &RoomId) -> EventFilter {
    let is_wanted = wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id);
    let ids = |users: &[ruma_common::OwnedUserId]| users.iter().map(ToString::to_string).collect::<Vec<_>>();
    EventFilter {
        limit: filter.limit.map(Into::into),
        types: if is_wanted { filter.types.clone() } else { Some(Vec::new()) },
        not_types: filter.not_types.clone(),
        senders: filter.senders.as_deref().map(ids),
        not_senders: ids(&filter.not_senders),
        contains_url: filter.url_filter.map(|wanted| matches!(wanted, UrlFilter::EventsWithUrl)),
        unread_thread_notifications: filter.unread_thread_notifications,
        lazy_load_members: matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. }),
        include_redundant_members: matches!(
            filter.lazy_load_options,
            LazyLoadOptions::Enabled { include_redundant_members: true }
        ),
    }
}

/// Whether a filter is for this room: it may list some, and leave out others.
pub(crate) fn wants_room(rooms: Option<&[OwnedRoomId]>, not_rooms: &[OwnedRoomId], room_id: &RoomId) -> bool {
    rooms.is_none_or(|rooms| rooms.iter().any(|wanted| wanted == room_id))
        && !not_rooms.iter().any(|unwanted| unwanted == room_id)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    const ROOMS: &str = "/_matrix/client/v3/rooms";

    fn room(server: &TestServer, token: &str) -> String {
        let (_, created) = server.post("/_matrix/client/v3/createRoom", token, &json!({}));
        created["room_id"].as_str().unwrap().to_owned()
    }

    fn encoded(json: &Value) -> String {
        percent_encoding::utf8_percent_encode(&json.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    #[test]
    fn a_page_starts_where_the_client_said() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let room_id = room(&server, &alice);
        let page = |query: &str| server.get(&format!("{ROOMS}/{room_id}/messages?dir=b&limit=2{query}"), &alice).1;
        let next_batch = server.get("/_matrix/client/v3/sync", &alice).1["next_batch"].as_str().unwrap().to_owned();
        let first = page(&format!("&from={next_batch}"));
        assert_eq!(first["start"], *next_batch);
        let end = first["end"].as_str().unwrap();
        assert_eq!(page(&format!("&from={end}"))["start"], *end);
        assert!(page("")["start"].is_string());
    }

    #[test]
    fn whom_one_ignores_is_not_looked_up_either() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &bob, &json!({ "preset": "public_chat" }));
        let room_id = created["room_id"].as_str().unwrap();
        server.post(&format!("{ROOMS}/{room_id}/join"), &alice, &json!({}));
        let sends = |path: &str, content: &Value| {
            let (_, sent) = server.put(&format!("{ROOMS}/{room_id}/{path}"), &bob, content);
            sent["event_id"].as_str().unwrap().to_owned()
        };
        let (message, topic) = (
            sends("send/m.room.message/1", &json!({ "msgtype": "m.text", "body": "" })),
            sends("state/m.room.topic", &json!({})),
        );
        for (ignored, status) in [(json!({}), 200), (json!({ "@bob:localhost": {} }), 404), (json!({}), 200)] {
            let list = "/_matrix/client/v3/user/@alice:localhost/account_data/m.ignored_user_list";
            server.put(list, &alice, &json!({ "ignored_users": ignored }));
            for what in ["event", "context"] {
                let asks = |event_id: &str| server.get(&format!("{ROOMS}/{room_id}/{what}/{event_id}"), &alice).0;
                assert_eq!((asks(&message).as_u16(), asks(&topic).as_u16()), (status, 200), "{what} {ignored}");
            }
        }
    }

    #[test]
    fn a_filter_may_be_for_other_rooms() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let (one, other) = (room(&server, &alice), room(&server, &alice));
        for (filter, is_empty) in [
            (json!({ "rooms": [one] }), false),
            (json!({ "rooms": [other] }), true),
            (json!({ "rooms": [] }), true),
            (json!({ "not_rooms": [other] }), false),
            (json!({ "not_rooms": [one] }), true),
            (json!({ "rooms": [one], "not_rooms": [one] }), true),
        ] {
            let query = encoded(&filter);
            let (status, page) = server.get(&format!("{ROOMS}/{one}/messages?dir=b&filter={query}"), &alice);
            assert_eq!(status, StatusCode::OK, "{page}");
            assert_eq!(page["chunk"].as_array().unwrap().is_empty(), is_empty, "{filter}");

            let query = encoded(&json!({ "room": { "timeline": filter } }));
            let (_, sync) = server.get(&format!("/_matrix/client/v3/sync?filter={query}"), &alice);
            let synced = &sync["rooms"]["join"][&one];
            assert_eq!(synced["timeline"]["events"].as_array().unwrap().is_empty(), is_empty, "{filter}");
            assert_eq!(synced["state"]["events"].as_array().unwrap().is_empty(), !is_empty, "{filter}");
            let query = encoded(&json!({ "room": { "timeline": { "limit": 1 }, "state": filter } }));
            let (_, sync) = server.get(&format!("/_matrix/client/v3/sync?filter={query}"), &alice);
            let state = &sync["rooms"]["join"][&one]["state"]["events"];
            assert_eq!(state.as_array().unwrap().is_empty(), is_empty, "{filter}");
        }
    }

    #[test]
    fn reading_does_not_tell_which_rooms_there_are() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let room_id = room(&server, &alice);
        let since = server.get("/_matrix/client/v3/sync", &bob).1["next_batch"].as_str().unwrap().to_owned();
        let from = format!("messages?dir=b&from={since}");
        let paths = ["messages?dir=b", &from, "event/$x", "context/$x", "state", "state/m.room.name", "members"];
        for path in paths.into_iter().chain(["joined_members", "timestamp_to_event?dir=f&ts=1"]) {
            let rooms = if path.starts_with("timestamp") { "/_matrix/client/v1/rooms" } else { ROOMS };
            let ask = |room_id: &str| server.get(&format!("{rooms}/{room_id}/{path}"), &bob);
            let expected = if path == "event/$x" { (404, "M_NOT_FOUND") } else { (403, "M_FORBIDDEN") };
            let (status, errcode) = refused(ask(&room_id));
            assert_eq!((status, &*errcode), expected, "{path}");
            assert_eq!(ask("!nowhere:localhost"), ask(&room_id), "{path}");
        }
        let join = server.post("/_matrix/client/v3/join/!nowhere:localhost", &bob, &json!({}));
        assert_eq!(refused(join), (404, "M_NOT_FOUND".to_owned()));
    }
}
