//! The directory of published rooms. Spec: "Published room directory".

use std::borrow::Cow;

use actors::room::{IsPublished, SetPublished};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::{
    Refusal,
    directory::{PublishedRoom, folded},
};
use http::{Method, Request, Response, StatusCode};
use platform::INTEGER_MAX;
use ruma_client_api::{
    directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility},
    room::Visibility,
};
use ruma_common::{
    OwnedRoomId, RoomId, ServerName,
    directory::{Filter, RoomNetwork},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, value::RawValue};

use super::no_such_room;
use crate::{
    Caller, Context, Failure, OrAbsent, Routes, failure,
    federation::DirectoryElsewhere,
    metadata::directory::{self, Entry, From, Network, Place, ROOM_TYPES_MAX, Wanted},
    router::json_or_default,
};

/// The most rooms on a page, and how many there are unless a client wants fewer.
const PAGE_ROOMS_MAX: u64 = 100;
/// The longest term a client searches for, in bytes.
const TERM_BYTES_MAX: usize = 512;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(visibility);
    for path in ["/_matrix/client/v3/directory/list/room/{room_id}", "/_matrix/client/r0/directory/list/room/{room_id}"]
    {
        routes.add_raw(Method::PUT, path, set_visibility);
    }
    routes.add_json(public_rooms);
    routes.add_json(filtered_public_rooms);
}

/// `GET /directory/list/room/{roomId}`: for everyone, so it is no secret which rooms there are to who knows their ids.
async fn visibility(
    cx: &Context,
    (): (),
    request: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response, Failure> {
    let visibility = visibility_of(cx, &request.room_id).await.or_absent(no_such_room())?;
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// Whether the room is in the directory.
pub(in crate::client) async fn visibility_of(cx: &Context, room_id: &RoomId) -> Result<Visibility, Failure> {
    let published = cx.room(room_id).call(&IsPublished {}).await?;
    Ok(if published { Visibility::Public } else { Visibility::Private })
}

/// `PUT /directory/list/room/{roomId}`. Not ruma's type: to that one, the visibility has no default.
async fn set_visibility(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    path_args: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Default, Deserialize)]
    struct Body {
        visibility: Option<Visibility>,
    }
    let Ok([room_id]) = <[String; 1]>::try_from(path_args) else { return Err(no_such_room().into()) };
    let room_id = OwnedRoomId::try_from(room_id).map_err(|error| Refusal::InvalidParam(error.to_string()))?;
    let body: Body = json_or_default(request.body())?;
    let call = SetPublished {
        user: caller.user_id,
        admin: caller.administrator,
        published: is_public(&body.visibility.unwrap_or(Visibility::Public))?,
    };
    cx.room(&room_id).call(&call).await.or_absent(no_such_room())?;
    Ok(failure::json(StatusCode::OK, &Map::new()))
}

/// Whether a room of this visibility is published.
pub(super) fn is_public(visibility: &Visibility) -> Result<bool, Refusal> {
    match visibility {
        Visibility::Public => Ok(true),
        Visibility::Private => Ok(false),
        other => Err(Refusal::InvalidParam(format!("There is no visibility {other}"))),
    }
}

/// `GET /publicRooms`.
async fn public_rooms(cx: &Context, (): (), request: get_public_rooms::v3::Request) -> Result<Vec<u8>, Failure> {
    let get_public_rooms::v3::Request { limit, since, server, .. } = request;
    let (limit, since) = (limit.map(u64::from), since.as_deref());
    match elsewhere(cx, server.as_deref()) {
        None => answer(cx, since, limit, &Wanted::default(), |_| true).await,
        Some(server) => {
            let (filter, room_network) = (Filter::new(), RoomNetwork::Matrix);
            cx.public_rooms_elsewhere(server, &DirectoryElsewhere { limit, since, filter, room_network }).await
        }
    }
}

/// `POST /publicRooms`.
async fn filtered_public_rooms(
    cx: &Context,
    _: Caller,
    request: get_public_rooms_filtered::v3::Request,
) -> Result<Vec<u8>, Failure> {
    let get_public_rooms_filtered::v3::Request { limit, since, server, filter, room_network, .. } = request;
    let (limit, since) = (limit.map(u64::from), since.as_deref());
    if let Some(server) = elsewhere(cx, server.as_deref()) {
        let wanted = DirectoryElsewhere { limit, since, filter, room_network };
        return cx.public_rooms_elsewhere(server, &wanted).await;
    }
    answer(cx, since, limit, &wanted(filter, room_network)?, |_| true).await
}

/// The other server whose directory is asked for.
fn elsewhere<'a>(cx: &Context, server: Option<&'a ServerName>) -> Option<&'a ServerName> {
    server.filter(|server| *server != cx.server_name())
}

/// What a filter is looked for with, and in which directory.
///
/// # Errors
/// `M_INVALID_PARAM` for one that asks too much.
pub(crate) fn wanted(filter: Filter, network: RoomNetwork) -> Result<Wanted, Refusal> {
    let term = folded(&filter.generic_search_term.unwrap_or_default());
    if term.len() > TERM_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("A search term can have at most {TERM_BYTES_MAX} bytes")));
    }
    if filter.room_types.len() > ROOM_TYPES_MAX {
        return Err(Refusal::InvalidParam(format!("`room_types` may name {ROOM_TYPES_MAX} types")));
    }
    let room_types: Vec<String> =
        filter.room_types.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect();
    if room_types.iter().any(|room_type| room_type.contains('\0')) {
        return Err(Refusal::InvalidParam("A room type has no NUL".to_owned()));
    }
    let network = match network {
        RoomNetwork::All => Network::All,
        RoomNetwork::ThirdParty(instance) if instance.contains(['\0', '\n']) => {
            return Err(Refusal::InvalidParam("There is no such `third_party_instance_id`".to_owned()));
        }
        RoomNetwork::ThirdParty(instance) => Network::Other(instance),
        _ => Network::Ours,
    };
    Ok(Wanted { term, room_types, network })
}

/// A page of the directory.
#[derive(Default, Serialize)]
pub(crate) struct Page<'a> {
    pub chunk: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    pub total_room_count_estimate: u64,
}

/// A page of our own directory, with the rooms of it that `is_shown`.
pub(crate) async fn answer(
    cx: &Context,
    since: Option<&str>,
    limit: Option<u64>,
    wanted: &Wanted,
    is_shown: impl Fn(&str) -> bool,
) -> Result<Vec<u8>, Failure> {
    // Who asks for no room at all means no limit of their own, to other servers too.
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(PAGE_ROOMS_MAX).min(PAGE_ROOMS_MAX);
    let (from, total) = match since.filter(|since| !since.is_empty()) {
        None => (From::After(Place::start()), directory::count(cx.metadata(), &wanted.network).await?),
        Some(token) => parsed(token).ok_or_else(|| Refusal::InvalidParam("This token is none of ours".to_owned()))?,
    };
    // One more than asked for tells whether there is another page.
    let mut entries = directory::page(cx.metadata(), wanted, &from, limit.saturating_add(1)).await?;
    let is_more = entries.len() as u64 > limit;
    if is_more {
        match &from {
            From::After(_) => drop(entries.pop()),
            From::Before(_) => drop(entries.remove(0)),
        }
    }
    // Where a page is empty by now, all there is lies on its other side.
    let place = |entry: Option<&Entry>, otherwise| entry.map_or(otherwise, |entry| entry.place.clone());
    let next = || token(&From::After(place(entries.last(), Place::start())), total);
    let prev = || token(&From::Before(place(entries.first(), Place::end())), total);
    let (next_batch, prev_batch) = match &from {
        From::After(place) => (is_more.then(next), (*place != Place::start()).then(prev)),
        From::Before(_) => (Some(next()), is_more.then(prev)),
    };
    let shown = entries.iter().filter(|entry| is_shown(&entry.json)).map(|entry| as_specified(&entry.json));
    let shown = shown.collect::<Result<Vec<_>, _>>()?;
    let chunk = shown.iter().map(|entry| serde_json::from_str(entry)).collect::<Result<_, _>>()?;
    Ok(serde_json::to_vec(&Page { chunk, next_batch, prev_batch, total_room_count_estimate: total })?)
}

/// An entry as people are shown it.
fn as_specified(entry: &str) -> serde_json::Result<Cow<'_, str>> {
    if !entry.contains("m.federate") {
        return Ok(Cow::Borrowed(entry));
    }
    let room: PublishedRoom = serde_json::from_str(entry)?;
    serde_json::to_string(&room.as_specified()).map(Cow::Owned)
}

/// A token says from where, in which direction, and how many rooms were counted for the first page: that is done once.
fn token(from: &From, total: u64) -> String {
    let (direction, place) = match from {
        From::After(place) => ('n', place),
        From::Before(place) => ('p', place),
    };
    BASE64_URL_SAFE_NO_PAD.encode(format!("{direction} {total} {} {}", place.members, place.room_id))
}

fn parsed(token: &str) -> Option<(From, u64)> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let mut parts = text.splitn(4, ' ');
    let (direction, total, members) = (parts.next()?, count(parts.next()?)?, count(parts.next()?)?);
    let room_id = parts.next().filter(|room_id| !room_id.contains('\0'))?;
    let place = Place { members, room_id: room_id.to_owned() };
    match direction {
        "n" => Some((From::After(place), total)),
        "p" => Some((From::Before(place), total)),
        _ => None,
    }
}

/// A number that JSON and every database take.
fn count(text: &str) -> Option<u64> {
    text.parse().ok().filter(|count| *count <= INTEGER_MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use domain::directory::PublishedRoom;
    use ruma_common::room_id;
    use serde_json::{Value, json};

    use super::{BASE64_URL_SAFE_NO_PAD, Engine, From, Place, as_specified, parsed, token};

    #[test]
    fn nobody_is_shown_what_is_for_us_to_know() {
        let content = |event_type: &str| -> Result<_, ()> {
            let is_create = event_type == "m.room.create";
            Ok(is_create.then(|| serde_json::value::to_raw_value(&json!({ "m.federate": false })).unwrap()))
        };
        let room = PublishedRoom::new(room_id!("!r:a").to_owned(), 3, content).unwrap();
        let stored = serde_json::to_value(&room).unwrap();
        assert_eq!(stored["m.federate"], false);
        let stored = stored.to_string();
        let shown: Value = serde_json::from_str(&as_specified(&stored).unwrap()).unwrap();
        assert_eq!((shown.get("m.federate"), &shown["num_joined_members"]), (None, &json!(3)));
    }

    #[test]
    fn tokens_come_back_as_they_went() {
        let place = Place { members: 42, room_id: "!a room:b".to_owned() };
        for from in [From::After(place.clone()), From::Before(place), From::After(Place::start())] {
            assert_eq!(parsed(&token(&from, 7)), Some((from, 7)));
        }
        for wrong in [
            "",
            "nonsense",
            "n 1 2",
            "x 1 2 !a:b",
            "n one 2 !a:b",
            "n 1 -2 !a:b",
            "n 1 9007199254740992 !a:b",
            "n 1 2 !\0",
        ] {
            assert_eq!(parsed(&BASE64_URL_SAFE_NO_PAD.encode(wrong)), None, "{wrong}");
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
