//! Relations, threads and searches.

use serde_json::json;

use super::{alice, pinned, pinned_reply, room};
use crate::{room::EventFilter, user};

#[test]
fn what_relates_to_an_event() {
    pinned(
        &room::GetRelations {
            user: alice(),
            device: "D".into(),
            ignored: Vec::new(),
            event_id: "$e".try_into().unwrap(),
            rel_type: Some("m.thread".into()),
            event_type: Some("m.room.message".into()),
            from: Some(2),
            to: Some(1),
            direction: room::Direction::Backwards,
            limit: Some(5),
            recurse: Some(true),
        },
        json!({
            "user": "@alice:a", "device": "D", "event_id": "$e", "rel_type": "m.thread", "event_type": "m.room.message",
            "from": 2, "to": 1, "direction": "backwards", "limit": 5, "recurse": true,
        }),
    );
    pinned(
        &room::GetThreads {
            user: alice(),
            device: "D".into(),
            ignored: Vec::new(),
            participated: true,
            from: Some(2),
            limit: Some(5),
        },
        json!({ "user": "@alice:a", "device": "D", "participated": true, "from": 2, "limit": 5 }),
    );
    pinned_reply::<room::GetThreads>(json!({ "chunk": [{ "a": 1 }], "next_batch": "t1" }));
    pinned_reply::<room::GetRelations>(json!({ "chunk": [{ "a": 1 }], "next_batch": "t1", "recursion_depth": 3 }));
}

#[test]
fn what_a_search_asks() {
    pinned(
        &room::Search {
            user: alice(),
            device: "D".into(),
            ignored: vec![alice()],
            words: vec!["w".into()],
            keys: vec![room::SearchKey::Body],
            order: room::SearchOrder::Recent,
            after: Some(room::Reached { score: 5, position: 2, inclusive: true }),
            limit: 3,
            filter: EventFilter::default(),
            sender: Some(alice()),
        },
        json!({
            "user": "@alice:a", "device": "D", "ignored": ["@alice:a"], "words": ["w"], "keys": ["content.body"],
            "order": "recent", "after": { "score": 5, "position": 2, "inclusive": true }, "limit": 3, "filter": {},
            "sender": "@alice:a",
        }),
    );
    pinned_reply::<room::Search>(json!({
        "hits": [{ "event_id": "$e", "sender": "@alice:a", "position": 2, "score": 5 }], "count": 1,
        "reached": { "score": 5, "position": 2 }, "unfinished": true,
    }));
    pinned(
        &room::GetSearchResults {
            user: alice(),
            device: "D".into(),
            ignored: Vec::new(),
            positions: vec![2],
            context: Some(room::WantedContext { before: 5, after: 4, profiles: true }),
            bytes_max: 9,
        },
        json!({
            "user": "@alice:a", "device": "D", "positions": [2],
            "context": { "before": 5, "after": 4, "profiles": true }, "bytes_max": 9,
        }),
    );
    pinned_reply::<room::GetSearchResults>(json!([{
        "position": 2, "result": { "a": 1 },
        "context": {
            "start": "t1", "end": "t2", "events_before": [], "events_after": [],
            "profile_info": { "@alice:a": { "displayname": "Alice" } },
        },
    }]));
    pinned(
        &user::GetSearchRooms { token_hash: "h".into(), below: Some(9), only: Some(vec![room()]), limit: 5 },
        json!({ "token_hash": "h", "below": 9, "only": ["!room:a"], "limit": 5 }),
    );
    pinned_reply::<user::GetSearchRooms>(json!({
        "device": "D", "ignored": ["@alice:a"], "rooms": ["!room:a"], "next_below": 7,
    }));
}
