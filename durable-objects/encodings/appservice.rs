//! What application services' actors are told, and rooms asked for them.

use serde_json::{json, value::to_raw_value};

use super::{alice, pinned, pinned_reply, room};
use crate::{
    appservice::{self, SentEvents, TypingUser},
    presence::Presence,
    room::{self as rooms, WantedEvents},
};

#[test]
fn what_an_appservice_is_told() {
    pinned(
        &appservice::RoomMoved { room_id: room(), since: 1, to: 2 },
        json!({ "room_id": "!room:a", "since": 1, "to": 2 }),
    );
    let event = to_raw_value(&json!({})).unwrap();
    pinned(
        &appservice::QueueEvent { event_id: "$e".try_into().unwrap(), event },
        json!({ "event_id": "$e", "event": {} }),
    );
    pinned(
        &appservice::TypingChanged { room_id: room(), users: vec![TypingUser { user: alice(), until_ms: 5 }] },
        json!({ "room_id": "!room:a", "users": [{ "user": "@alice:a", "until_ms": 5 }] }),
    );
    pinned(
        &appservice::PresenceChanged { presences: vec![Presence::absent(alice())] },
        json!({ "presences": [{ "user": "@alice:a", "state": "offline", "last_active_ms": 0, "since_ms": 0 }] }),
    );
}

#[test]
fn how_it_is_carried_to() {
    let carrier = || String::from("c");
    pinned(&appservice::TakeWork { carrier: carrier() }, json!({ "carrier": "c" }));
    let sent = json!({ "room_id": "!room:a", "up_to": 9, "event_ids": ["$e"] });
    let attempt = json!({ "transaction_id": "7-a", "queued_up_to": 2, "rooms": [sent], "ephemeral": [{}] });
    for reply in [
        json!("nothing"),
        json!({ "repeat": { "attempt": attempt, "queued": [{}] } }),
        json!({ "owed": {
            "queued": [{}], "queued_up_to": 2, "ranges": [{ "room_id": "!room:a", "after": 1, "up_to": 9 }],
        } }),
        json!({ "passing": { "transaction_id": "7-a", "ephemeral": [{}] } }),
    ] {
        pinned_reply::<appservice::TakeWork>(reply);
    }
    let rooms = vec![SentEvents { room_id: room(), up_to: 9, event_ids: vec!["$e".try_into().unwrap()] }];
    let ephemeral = vec![to_raw_value(&json!({})).unwrap()];
    pinned(
        &appservice::StartAttempt { carrier: carrier(), queued_up_to: 2, rooms, ephemeral },
        json!({ "carrier": "c", "queued_up_to": 2, "rooms": [sent], "ephemeral": [{}] }),
    );
    pinned_reply::<appservice::StartAttempt>(json!(attempt));
    let transaction_id = String::from("7-a");
    pinned(
        &appservice::Acknowledge { carrier: carrier(), transaction_id },
        json!({ "carrier": "c", "transaction_id": "7-a" }),
    );
    pinned(&appservice::ReportFailure { carrier: carrier() }, json!({ "carrier": "c" }));
    pinned(&appservice::StopCarrying { carrier: carrier() }, json!({ "carrier": "c" }));
    pinned(&appservice::IsUp {}, json!({}));
}

#[test]
fn what_a_room_is_asked_for_it() {
    let appservice = || String::from("irc");
    pinned(
        &rooms::GetForAppservice {
            appservice: appservice(),
            wanted: WantedEvents::Between { after: 1, up_to: 9, limit: 100 },
        },
        json!({ "appservice": "irc", "wanted": { "between": { "after": 1, "up_to": 9, "limit": 100 } } }),
    );
    let wanted = WantedEvents::Named(vec!["$e".try_into().unwrap()]);
    pinned(
        &rooms::GetForAppservice { appservice: appservice(), wanted },
        json!({ "appservice": "irc", "wanted": { "named": ["$e"] } }),
    );
    pinned_reply::<rooms::GetForAppservice>(
        json!({ "up_to": 9, "event_ids": ["$e"], "events": [{}], "ephemeral": [{}] }),
    );
    pinned(
        &rooms::SetAlias { alias: "#a:a".try_into().unwrap(), points_here: true },
        json!({ "alias": "#a:a", "points_here": true }),
    );
}
