//! Spec: "Filtering".

use actors::{
    room::EventFormat,
    user::{AddFilter, GetFilter},
};
use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use ruma_client_api::filter::{
    EventFormat as Format, Filter, FilterDefinition, RoomEventFilter, get_filter::v3 as get_filter,
};
use ruma_common::OwnedUserId;
use serde_json::{json, value::RawValue};

use crate::{
    Bearer, Context, Failure, Routes, failure,
    router::{bad_json, kept_json},
};

/// The most entries of a list in a filter that each event is held against.
const LIST_ENTRIES_MAX: usize = 1_000;
/// The most paths in `event_fields`.
const EVENT_FIELDS_MAX: usize = 100;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: what it does not know would be lost.
    routes.add_raw(Method::POST, "/_matrix/client/v3/user/{user_id}/filter", define);
    routes.add_raw(Method::POST, "/_matrix/client/r0/user/{user_id}/filter", define);
    routes.add_carried_json(get);
}

async fn define(
    cx: &Context,
    bearer: Bearer,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let [user_id] = <[String; 1]>::try_from(path_args).unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    bearer.must_be(&user_id)?;
    let filter: Box<RawValue> = kept_json(request.body())?;
    checked(serde_json::from_str(filter.get()).map_err(|error| bad_json(&error))?)?;
    let filter_id = bearer.call(cx, &AddFilter { token_hash: bearer.token_hash.clone(), filter }).await?;
    Ok(failure::json(StatusCode::OK, &json!({ "filter_id": filter_id })))
}

/// A filter we can answer along.
///
/// Refused: `BadJson` for an event format there is not, and for lists that would take too long to go through.
pub(super) fn checked(filter: FilterDefinition) -> Result<FilterDefinition, Refusal> {
    if !matches!(filter.event_format, Format::Client | Format::Federation) {
        return Err(Refusal::BadJson("`event_format` is `client` or `federation`".to_owned()));
    }
    at_most("event_fields", filter.event_fields.iter().flatten().count(), EVENT_FIELDS_MAX)?;
    let room = &filter.room;
    for (name, part) in [
        ("account_data", &room.account_data),
        ("timeline", &room.timeline),
        ("ephemeral", &room.ephemeral),
        ("state", &room.state),
    ] {
        checked_room_events(&format!("room.{name}"), part)?;
    }
    for (name, part) in [("presence", &filter.presence), ("account_data", &filter.account_data)] {
        let Filter { types, not_types, senders, not_senders, .. } = part;
        checked_lists(name, [entries(types), not_types.len(), entries(senders), not_senders.len()])?;
    }
    Ok(filter)
}

/// As [`checked`], for the filter of one kind of a room's events; `name` says which to the client.
pub(super) fn checked_room_events(name: &str, filter: &RoomEventFilter) -> Result<(), Refusal> {
    let RoomEventFilter { types, not_types, senders, not_senders, .. } = filter;
    checked_lists(name, [entries(types), not_types.len(), entries(senders), not_senders.len()])
}

fn checked_lists(name: &str, lengths: [usize; 4]) -> Result<(), Refusal> {
    let lists = ["types", "not_types", "senders", "not_senders"];
    lists
        .into_iter()
        .zip(lengths)
        .try_for_each(|(list, length)| at_most(&format!("{name}.{list}"), length, LIST_ENTRIES_MAX))
}

fn entries<T>(list: &Option<Vec<T>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

fn at_most(name: &str, length: usize, most: usize) -> Result<(), Refusal> {
    if length > most {
        return Err(Refusal::BadJson(format!("`{name}` has {length} entries, at most {most} are allowed")));
    }
    Ok(())
}

/// The form in which a filter wants events.
pub(super) fn event_format(filter: &FilterDefinition) -> EventFormat {
    EventFormat {
        federation: filter.event_format == Format::Federation,
        fields: filter.event_fields.clone().unwrap_or_default(),
    }
}

async fn get(cx: &Context, bearer: Bearer, request: get_filter::Request) -> Result<Box<RawValue>, Failure> {
    bearer.must_be(&request.user_id)?;
    let call = GetFilter { token_hash: bearer.token_hash.clone(), filter_id: request.filter_id };
    bearer.call(cx, &call).await
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::testing::{TestServer, refused};

    #[test]
    fn a_filter_is_kept_as_it_came() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let path = "/_matrix/client/v3/user/@alice:localhost/filter";
        let filter = json!({ "room": { "timeline": { "limit": 10 } }, "org.example": [1] });
        let (status, answer) = server.post(path, &alice, &filter);
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(server.post(path, &alice, &filter).1, answer, "the same filter, the same id");
        let one = format!("{path}/{}", answer["filter_id"].as_str().unwrap());
        assert_eq!(server.get(&one, &alice), (StatusCode::OK, filter.clone()));
        assert_eq!(refused(server.get(&format!("{path}/x"), &alice)), (404, "M_NOT_FOUND".to_owned()));
        assert_eq!(refused(server.get(&one, &bob)), (403, "M_FORBIDDEN".to_owned()));
        assert_eq!(refused(server.post(path, &bob, &filter)), (403, "M_FORBIDDEN".to_owned()));
        let wrong = json!({ "room": { "timeline": { "limit": "ten" } } });
        assert_eq!(refused(server.post(path, &alice, &wrong)), (400, "M_BAD_JSON".to_owned()));
        assert_eq!(refused(server.post(path, &alice, &json!([]))), (400, "M_BAD_JSON".to_owned()));
        for (filter, named) in [
            (json!({ "event_format": "xml" }), "event_format"),
            (json!({ "event_fields": vec!["type"; 101] }), "event_fields"),
            (json!({ "room": { "state": { "not_types": vec!["m.*"; 1_001] } } }), "room.state.not_types"),
            (json!({ "presence": { "senders": vec!["@a:b"; 1_001] } }), "presence.senders"),
        ] {
            let (status, answer) = server.post(path, &alice, &filter);
            assert_eq!((status.as_u16(), &answer["errcode"]), (400, &json!("M_BAD_JSON")), "{answer}");
            assert!(answer["error"].as_str().unwrap().contains(&format!("`{named}`")), "{answer}");
        }
        // Whoever is refused learns first that their token is dead.
        server.post("/_matrix/client/v3/logout", &bob, &json!({}));
        for body in [&filter, &wrong, &json!([])] {
            assert_eq!(refused(server.post(path, &bob, body)), (401, "M_UNKNOWN_TOKEN".to_owned()), "{body}");
        }
        assert_eq!(refused(server.get(&one, &bob)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        let nobodys = "/_matrix/client/v3/user/nobody/filter/1";
        assert_eq!(refused(server.get(nobodys, &bob)), (401, "M_UNKNOWN_TOKEN".to_owned()));
        assert_eq!(refused(server.get(nobodys, &alice)), (400, "M_INVALID_PARAM".to_owned()));
        let sync = "/_matrix/client/v3/sync?timeout=soon";
        assert_eq!(refused(server.get(sync, &bob)), (401, "M_UNKNOWN_TOKEN".to_owned()));
    }
}
