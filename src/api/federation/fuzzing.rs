//! What other servers send, for the fuzzer: see [`crate::fuzzing`].

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use platform::SendError;
use ruma_common::{room_id, server_name};
use ruma_federation_api::transactions::send_transaction_message;
use serde_json::{Map, Value, value::RawValue};

use super::{
    by_url::{HttpsUrl, redirected},
    device_list_cache::News,
    edus::Edu,
    hierarchy::SpaceElsewhere,
    multipart::{boundary, second_part},
    pdus::{KEYS_OF_SERVER_MAX, ReadPdu},
    receipts,
    taken_apart::TakenApart,
};
use crate::{
    fuzzing::{Target, halves},
    router,
};

pub(crate) const TARGETS: &[Target] = &[
    ("arriving_answer", ANSWERS, arriving_answer),
    ("multipart", ENVELOPES, multipart),
    ("urls", URLS, urls),
    ("transaction", TRANSACTIONS, transaction),
    ("pdu", PDUS, pdu),
    ("hierarchy", SPACES, hierarchy),
];

const ANSWERS: &[&[u8]] = &[
    br#" { "origin":"a\"]}" , "state" : [ {"a":[1,{"b":"}\\"}]} , 2,"x]", null ],"event":{"c":"e"},
        "members_omitted":false,"servers_in_room":["a","b"],"auth_chain":[],"n":-1.5e3} "#,
    br#"{"auth_chain":[{"type":"m.room.create"},{}],"state":[],"x":[[["state",{"state":[1]}]]],"event":"e"}"#,
];

/// However it is cut, an object comes apart in the same pieces: those that are in it, if it is JSON.
fn arriving_answer(bytes: &[u8]) {
    const LISTS: &[&str] = &["state", "auth_chain"];
    let taken = |step: usize| {
        let mut object = TakenApart::new(LISTS, &["event"], 64 * 1024);
        let mut all = Vec::new();
        for bytes in bytes.chunks(step) {
            let pieces = object.read(bytes).ok()?;
            all.extend(pieces.into_iter().map(|piece| (piece.of, piece.json.get().to_owned())));
        }
        Some((all, object.is_whole()))
    };
    let whole = taken(usize::MAX);
    assert!([1, 7].iter().all(|step| taken(*step) == whole));
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
    let text = String::from_utf8_lossy(bytes);
    let is_once = |name: &&str| text.matches(&format!("\"{name}\"")).count() < 2;
    // A name that is there twice, or spelled otherwise, is not looked for.
    if text.contains('\\') || !["state", "auth_chain", "event"].iter().all(is_once) {
        return;
    }
    let (pieces, is_whole) = whole.unwrap_or_default();
    assert!(is_whole, "{text}");
    for list in LISTS {
        let found: Vec<Value> = pieces
            .iter()
            .filter(|(of, _)| of == list)
            .filter_map(|(_, json)| serde_json::from_str(json).ok())
            .collect();
        assert_eq!(
            Some(&found).filter(|found| !found.is_empty()),
            object.get(*list).and_then(Value::as_array).filter(|list| !list.is_empty())
        );
    }
    let event =
        pieces.iter().find(|(of, _)| *of == "event").and_then(|(_, json)| serde_json::from_str::<Value>(json).ok());
    assert_eq!(event.as_ref(), object.get("event"));
}

const ENVELOPES: &[&[u8]] = &[
    b"multipart/mixed; boundary=b-1\n--b-1\r\nContent-Type: application/json\r\n\r\n{}\r\n--b-1\r\nContent-Type: a/b\r\nX: y\r\n\r\nabc\r\n--b-1--\r\n",
    b"Multipart/Mixed;charset=x; BOUNDARY=\"b\"\npreamble\r\n--b  \n\n{}\r\n--b\nLocation: https://cdn.test/x\n\nabc\r\n--b--\n",
];

/// A content type, and what comes under it: the same file, however it arrives.
fn multipart(bytes: &[u8]) {
    let Some((content_type, body)) = halves(bytes) else { return };
    let Some(boundary) = boundary(content_type) else { return };
    let read = |step: usize| {
        let pieces: Vec<Result<Bytes, SendError>> =
            body.as_bytes().chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let whole = async {
            let (headers, content) = second_part(Box::pin(stream::iter(pieces)), boundary).await.ok()?;
            let content: Vec<Result<Bytes, SendError>> = content.collect().await;
            let content: Vec<Bytes> = content.into_iter().collect::<Result<_, _>>().ok()?;
            Some((headers, content.concat()))
        };
        whole.now_or_never().flatten()
    };
    let whole = read(usize::MAX);
    assert!([1, 5].iter().all(|step| read(*step) == whole));
    if let Some((_, content)) = whole {
        assert!(content.len() < body.len());
    }
}

const URLS: &[&[u8]] =
    &[b"https://b.org:8443/x?y#z", b"/x", b"https://me:secret@[::1]/", b"//b.org/x", b"http://b.org/"];

fn urls(bytes: &[u8]) {
    let from = HttpsUrl { host: "a.org".to_owned(), port: None, path_and_query: "/".to_owned() };
    let Ok(location) = HeaderValue::from_bytes(bytes) else { return };
    let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
    let Some(url) = redirected(&headers, &from) else { return };
    assert!(!url.host.is_empty() && !url.host.contains(['/', '@', ' ', '\\', '?', '#']), "{url:?}");
    let is_sent = url.path_and_query.starts_with('/') && !url.path_and_query.contains([' ', '\r', '\n', '#']);
    assert!(is_sent && url.path_and_query.parse::<http::Uri>().is_ok(), "{url:?}");
}

const TRANSACTIONS: &[&[u8]] = &[
    br#"{"origin":"b.test","origin_server_ts":1,"pdus":[{"room_id":"!r:b.test"}],"edus":[
        {"edu_type":"m.device_list_update","content":{"user_id":"@b:b.test","device_id":"D","stream_id":2,"prev_id":[1],"keys":{"user_id":"@b:b.test","device_id":"D","algorithms":[],"keys":{"ed25519:D":"AAAA"},"signatures":{}}}},
        {"edu_type":"m.signing_key_update","content":{"user_id":"@b:b.test","master_key":{"user_id":"@b:b.test","usage":["master"],"keys":{"ed25519:A":"A"}}}},
        {"edu_type":"m.receipt","content":{"!r:b.test":{"m.read":{"@b:b.test":{"data":{"ts":1,"thread_id":"main"},"event_ids":["$e"]}}}}},
        {"edu_type":"m.typing","content":{"room_id":"!r:b.test","user_id":"@b:b.test","typing":true}},
        {"edu_type":"m.presence","content":{"push":[{"user_id":"@b:b.test","presence":"online","last_active_ago":1}]}},
        {"edu_type":"m.direct_to_device","content":{"sender":"@b:b.test","type":"m.x","message_id":"1","messages":{"@a:a.test":{"*":{}}}}}]}"#,
];

fn transaction(bytes: &[u8]) {
    let request = Request::builder().method(Method::PUT).uri("/_matrix/federation/v1/send/1");
    let Ok(request) = request.body(Bytes::copy_from_slice(bytes)) else { return };
    let parsed = router::parse::<send_transaction_message::v1::Request>(&request, &["1".to_owned()]);
    let Ok(request) = parsed else { return };
    let edus: Vec<Edu> = request.edus.iter().filter_map(|edu| serde_json::from_str(edu.json().get()).ok()).collect();
    let _: Vec<_> = edus.iter().filter_map(Edu::device_news).map(|News { user, .. }| user).collect();
    for (_, told) in receipts::by_room(server_name!("b.test"), &edus, 1_000) {
        assert!(told.iter().all(|(user, _)| user.server_name() == "b.test"));
    }
}

const PDUS: &[&[u8]] = &[
    br#"11
{"auth_events":["$a"],"content":{},"depth":3,"hashes":{"sha256":""},"origin_server_ts":1,"prev_events":["$d"],"room_id":"!r:b.test","sender":"@b:b.test","type":"m.x","signatures":{"b.test":{"ed25519:1":"AAAA","x":5},"c.test":[]}}"#,
    br#"2
{"event_id":"$x:c.test","auth_events":[],"content":{},"depth":3,"hashes":{"sha256":""},"origin_server_ts":1,"prev_events":[],"room_id":"!r:b.test","sender":"@b:b.test","type":"m.x","signatures":{"b.test":{"ed25519:1":"AAAA"}}}"#,
];

/// A version, and an event.
fn pdu(bytes: &[u8]) {
    let Some((version, json)) = halves(bytes) else { return };
    let Ok(version) = domain::RoomVersion::parse(version) else { return };
    let Ok(json) = serde_json::from_str::<Box<RawValue>>(json) else { return };
    let Ok(read) = ReadPdu::read(&json, &version) else { return };
    // Its sender's server, in the first versions the server in its id, and who let a member in.
    assert!(read.needed_keys().len() <= 3 * KEYS_OF_SERVER_MAX);
}

const SPACES: &[&[u8]] = &[
    br#"{"room":{"room_id":"!s:b","num_joined_members":1,"world_readable":false,"guest_can_join":false,"allowed_room_ids":["!x:b"],
        "children_state":[{"type":"m.space.child","state_key":"!c:b","sender":"@b:b","origin_server_ts":1,"content":{"via":["b"],"order":"a"}}]},
        "children":[{"room_id":"!c:b","num_joined_members":1,"world_readable":false,"guest_can_join":false}],"inaccessible_children":["!y:b","z"]}"#,
];

fn hierarchy(bytes: &[u8]) {
    if let Ok(space) = SpaceElsewhere::read(bytes, room_id!("!s:b"), false) {
        assert_eq!(space.room.room.room_id, "!s:b");
    }
}
