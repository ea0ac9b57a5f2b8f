//! Sending events. Spec: "Sending events to a room".

use actors::room::SendEvent;
use domain::Refusal;
use ruma_client_api::{message::send_message_event, state::send_state_event};
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedRoomId};
use ruma_events::{MessageLikeEventType, StateEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{aliases, call_id, joining::send_membership, not_in_room};
use crate::{Caller, Context, Failure, OrAbsent, Routes};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(send);
    routes.add(send_state);
}

/// `PUT …/send/{eventType}/{txnId}`: a message, once per transaction id.
async fn send(
    cx: &Context,
    caller: Caller,
    request: send_message_event::v3::Request,
) -> Result<send_message_event::v3::Response, Failure> {
    if request.event_type == MessageLikeEventType::RoomMessage {
        check_message(request.body.json())?;
    }
    let at_ms = wished_time_ms(&caller, request.timestamp);
    let call = SendEvent {
        administrator: caller.administrator,
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: Some(request.txn_id),
        call_id: None,
        event_type: request.event_type.into(),
        content: request.body.into_json(),
        state_key: None,
        member_of: Vec::new(),
        at_ms,
    };
    Ok(send_message_event::v3::Response::new(append(cx, &request.room_id, &call).await?))
}

/// `PUT …/state/{eventType}/{stateKey}`: a state event.
async fn send_state(
    cx: &Context,
    caller: Caller,
    request: send_state_event::v3::Request,
) -> Result<send_state_event::v3::Response, Failure> {
    if request.event_type == StateEventType::RoomMember {
        return Ok(send_state_event::v3::Response::new(send_membership(cx, caller, request).await?));
    }
    let at_ms = wished_time_ms(&caller, request.timestamp);
    if request.event_type == StateEventType::RoomCanonicalAlias && request.state_key.is_empty() {
        let set = aliases::set_canonical(cx, &request.room_id, caller, request.body.into_json(), at_ms);
        return Ok(send_state_event::v3::Response::new(set.await?));
    }
    let call = SendEvent {
        administrator: caller.administrator,
        sender: caller.user_id,
        device: caller.device_id,
        transaction_id: None,
        call_id: Some(call_id(cx)?),
        event_type: request.event_type.into(),
        content: request.body.into_json(),
        state_key: Some(request.state_key),
        member_of: Vec::new(),
        at_ms,
    };
    Ok(send_state_event::v3::Response::new(append(cx, &request.room_id, &call).await?))
}

/// Spec: "Instant Messaging": «Homeservers SHOULD reject `m.room.message` events which don't have a `msgtype` key, or
/// which don't have a textual `body` key». Those of other servers are what they are.
fn check_message(content: &RawValue) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Message {
        #[serde(rename = "msgtype")]
        _msgtype: String,
        #[serde(rename = "body")]
        _body: String,
    }
    serde_json::from_str::<Message>(content.get())
        .map(drop)
        .map_err(|error| Refusal::BadJson(format!("A message has a `msgtype` and a `body`: {error}")))
}

/// The time that an application service wishes an event to have; nobody else is listened to. Spec: Application Service
/// API, "Timestamp massaging".
pub(super) fn wished_time_ms(caller: &Caller, timestamp: Option<MilliSecondsSinceUnixEpoch>) -> Option<u64> {
    // What is no number of canonical JSON was refused when it was read.
    timestamp.filter(|_| caller.acts_for.is_some()).map(|timestamp| timestamp.get().into())
}

async fn append(cx: &Context, room_id: &OwnedRoomId, call: &SendEvent) -> Result<ruma_common::OwnedEventId, Failure> {
    cx.room(room_id).call(call).await.or_absent(not_in_room(&call.sender))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    const REGISTRATION: &str = r#"{ "id": "irc", "url": "http://irc.test:1", "as_token": "a", "hs_token": "h",
        "sender_localpart": "irc", "namespaces": { "users": [{ "regex": "@irc_.*", "exclusive": true }],
        "aliases": [{ "regex": ".tea:.*", "exclusive": true }] } }"#;
    const OTHER: &str = r#"{ "id": "xmpp", "url": "http://xmpp.test:1", "as_token": "b", "hs_token": "h",
        "sender_localpart": "xmpp", "namespaces": { "users": [{ "regex": "@xmpp_.*", "exclusive": true }] } }"#;

    /// Other servers would ask this one about each event, and it answers nobody.
    #[test]
    fn what_no_room_could_go_by_is_refused() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &json!({ "room_version": "9" }));
        let room = format!("/_matrix/client/v3/rooms/{}/state", created["room_id"].as_str().unwrap());
        let policy = |via: &str| json!({ "via": via, "public_keys": { "ed25519": "AAAA" } });
        for (event_type, content, errcode) in [
            ("m.room.join_rules", json!({}), "M_BAD_JSON"),
            ("m.room.join_rules", json!({ "join_rule": 5 }), "M_BAD_JSON"),
            ("m.room.power_levels", json!({ "users": { "@alice:localhost": "100" } }), "M_BAD_JSON"),
            ("m.room.power_levels", json!({ "ban": "50", "users": { "@alice:localhost": 100 } }), "M_BAD_JSON"),
            ("m.room.power_levels", json!({ "events": 5 }), "M_BAD_JSON"),
            ("m.room.policy", policy("localhost"), "M_INVALID_PARAM"),
        ] {
            let answer = server.put(&format!("{room}/{event_type}"), &alice, &content);
            assert_eq!(refused(answer), (400, errcode.to_owned()), "{content}");
        }
        for (event_type, content) in [
            ("m.room.join_rules", json!({ "join_rule": "org.example.rule" })),
            ("m.room.power_levels", json!({ "ban": 50, "users": { "@alice:localhost": 100 } })),
            ("m.room.policy", policy("elsewhere.test")),
            ("m.room.policy", json!({})),
            ("m.room.policy", json!({ "via": 5 })),
        ] {
            let (status, answer) = server.put(&format!("{room}/{event_type}"), &alice, &content);
            assert_eq!(status, StatusCode::OK, "{content}: {answer}");
        }
    }

    #[test]
    fn an_event_has_a_content() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &json!({}));
        let room = format!("/_matrix/client/v3/rooms/{}", created["room_id"].as_str().unwrap());
        let r0 = room.replace("/v3/", "/r0/");
        for path in ["send/m.room.message/1", "state/m.room.power_levels", "state/m.room.topic/", "state/a/b"] {
            for room in [&room, &r0] {
                let answer = server.put(&format!("{room}/{path}"), &alice, &Value::Null);
                assert_eq!(refused(answer), (400, "M_NOT_JSON".to_owned()), "{path}");
            }
        }
        for message in [
            json!({}),
            json!({ "body": "x" }),
            json!({ "msgtype": "m.text" }),
            json!({ "msgtype": "m.text", "body": 5 }),
        ] {
            let answer = server.put(&format!("{room}/send/m.room.message/1"), &alice, &message);
            assert_eq!(refused(answer), (400, "M_BAD_JSON".to_owned()), "{message}");
        }
        let message = json!({ "msgtype": "m.text", "body": "" });
        let (status, said) = server.put(&format!("{room}/send/m.room.message/1"), &alice, &message);
        assert_eq!(status, StatusCode::OK, "{said}");
        // Of these nothing need be said.
        let path = format!("{room}/redact/{}/2", said["event_id"].as_str().unwrap());
        assert_eq!(server.put(&path, &alice, &Value::Null).0, StatusCode::OK);
        assert_eq!(server.post(&format!("{room}/leave"), &alice, &Value::Null).0, StatusCode::OK);
    }

    #[test]
    fn an_application_service_says_when_and_invites_whom_another_makes() {
        let registrations = format!("{REGISTRATION}\n---\n{OTHER}");
        let server = TestServer::new(&[("APPSERVICES", &registrations), ("TRUSTED_KEY_SERVERS", "")]);
        let asked: Rc<RefCell<Vec<(String, Value)>>> = Rc::default();
        let notes = asked.clone();
        server.others_answer(move |request| {
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            notes.borrow_mut().push((request.path_and_query.clone(), body));
            Ok((StatusCode::NOT_FOUND, HeaderMap::new(), "{}".into()))
        });
        let ok = |(status, body): (StatusCode, Value)| {
            assert_eq!(status, StatusCode::OK, "{body}");
            body
        };
        let create = json!({ "room_alias_name": "tea", "room_version": "11" });
        let room = ok(server.post("/_matrix/client/v3/createRoom", "a", &create))["room_id"].clone();
        let room = format!("/_matrix/client/v3/rooms/{}", room.as_str().unwrap());
        let said =
            ok(server.put(&format!("{room}/send/m.room.message/1"), "a", &json!({ "msgtype": "m.text", "body": "x" })));
        let canonical = json!({ "alias": "#tea:localhost", "alt_aliases": ["#tea:localhost"] });
        let redacts = json!({ "redacts": said["event_id"] });
        for (path, body) in [("state/m.room.canonical_alias/", &canonical), ("send/m.room.redaction/2", &redacts)] {
            let sent = ok(server.put(&format!("{room}/{path}?ts=5"), "a", body));
            let path = format!("{room}/event/{}", sent["event_id"].as_str().unwrap());
            assert_eq!(ok(server.get(&path, "a"))["origin_server_ts"], 5, "{path}");
        }
        // What becomes of them is not for this story.
        for invited in ["@bob:b.test", "@xmpp_bob:localhost", "@irc_bob:localhost"] {
            let path = format!("{room}/state/m.room.member/{invited}?ts=5");
            server.put(&path, "a", &json!({ "membership": "invite" }));
        }
        let asked = asked.borrow();
        let invitation = asked.iter().find(|(path, _)| path.contains("/v2/invite/")).expect("b.test is asked");
        assert_eq!(invitation.1["event"]["origin_server_ts"], 5);
        let made: Vec<_> = asked.iter().filter(|(path, _)| path.contains("/users/")).map(|(path, _)| path).collect();
        assert!(made.iter().any(|path| path.contains("xmpp_bob")), "{made:?}");
        assert!(!made.iter().any(|path| path.contains("irc_bob")), "who asks has made theirs: {made:?}");
    }
}
