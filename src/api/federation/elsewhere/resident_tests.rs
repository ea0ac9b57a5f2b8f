//! Users of ours and a room of a whole server of others, which helps as it should but for what a test changes of it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use actors::room::GetVersionForServer;
use domain::federation::server_keys::own_document;
use http::{HeaderMap, StatusCode};
use platform::OutgoingRequest;
use ruma_common::RoomId;
use serde_json::{Value, json};

use super::tests::{ALICE, Story, encoded};
use crate::testing::{TestServer, block_on, refused};

/// A whole server of others, and a room of bob's there that is open to everybody.
struct Resident {
    server: Rc<TestServer>,
    bob: String,
    room_id: String,
}

/// Makes one that we can ask. What it answers may be changed on its way, and what anybody else answers is made there.
fn resident(
    us: &TestServer,
    version: &str,
    change: impl Fn(&OutgoingRequest, StatusCode, &mut Value) -> StatusCode + 'static,
) -> Resident {
    let there = TestServer::new(&[("SERVER_NAME", "b.test"), ("REGISTRATION", "open"), ("TRUSTED_KEY_SERVERS", "")]);
    let our_keys = own_document(us.context().identity(), 1_700_000_000_000);
    there.others_answer(move |request| match request.path_and_query.as_str() {
        "/_matrix/key/v2/server" => Ok((StatusCode::OK, HeaderMap::new(), our_keys.clone().into())),
        _ => Ok((StatusCode::NOT_FOUND, HeaderMap::new(), "".into())),
    });
    let bob = there.register("bob");
    let create = json!({ "preset": "public_chat", "room_version": version });
    let (_, created) = there.post("/_matrix/client/v3/createRoom", &bob, &create);
    let room_id = created["room_id"].as_str().unwrap().to_owned();
    let there = Rc::new(there);
    let asked = there.clone();
    us.others_answer(move |request| {
        if request.peer.host_header != "b.test" || !request.path_and_query.starts_with("/_matrix/") {
            let mut body = Value::Null;
            let status = change(request, StatusCode::NOT_FOUND, &mut body);
            return Ok((status, HeaderMap::new(), body.to_string().into()));
        }
        let mut forwarded = http::Request::builder().method(request.method.clone()).uri(&request.path_and_query);
        *forwarded.headers_mut().unwrap() = request.headers.clone();
        let (head, body) = asked.answer(forwarded.body(request.body.clone()).unwrap()).into_parts();
        let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let status = change(request, head.status, &mut body);
        Ok((status, HeaderMap::new(), body.to_string().into()))
    });
    Resident { server: there, bob, room_id }
}

/// The version that a room has here.
fn version_of(server: &TestServer, room_id: &str) -> String {
    let call = GetVersionForServer { server: "b.test".try_into().unwrap() };
    block_on(server.context().room(<&RoomId>::try_from(room_id).unwrap()).call(&call)).unwrap()
}

/// Events of the first two versions are alike, and servers of old say none of both.
#[test]
fn a_room_has_the_version_that_it_was_made_with() {
    for (version, told) in [("1", None), ("2", None), ("2", Some("2")), ("10", Some("10"))] {
        let story = Story::begins(&[]);
        let Resident { room_id, .. } = resident(&story.server, version, move |request, status, body| {
            if request.path_and_query.contains("/make_join/") {
                body["room_version"] = json!(told);
            }
            status
        });
        let path = format!("/_matrix/client/v3/join/{}?via=b.test", encoded(&room_id));
        let (status, joined) = story.server.post(&path, &story.alice, &json!({}));
        assert_eq!(status, StatusCode::OK, "{version}: {joined}");
        assert_eq!(version_of(&story.server, &room_id), version);
    }
}

#[test]
fn who_lies_about_a_rooms_version_lets_nobody_into_it() {
    for (version, told) in [("10", "9"), ("9", "10"), ("2", "1"), ("1", "2")] {
        let story = Story::begins(&[]);
        let lies = Rc::new(Cell::new(true));
        let lying = lies.clone();
        let Resident { room_id, .. } = resident(&story.server, version, move |request, status, body| {
            if request.path_and_query.contains("/make_join/") && lying.get() {
                body["room_version"] = json!(told);
            }
            status
        });
        let path = format!("/_matrix/client/v3/join/{}?via=b.test", encoded(&room_id));
        let outcome = story.server.post(&path, &story.alice, &json!({}));
        assert_eq!(refused(outcome), (400, "M_UNKNOWN".to_owned()), "{version} as {told}");
        lies.set(false);
        let (status, joined) = story.server.post(&path, &story.alice, &json!({}));
        assert_eq!(status, StatusCode::OK, "{version}: {joined}");
        assert_eq!(version_of(&story.server, &room_id), version);
    }
}

/// Spec: `/make_join`, `/send_join`: «The error should be passed through to clients».
#[test]
fn why_another_server_does_not_let_somebody_in_is_told() {
    for at in ["/make_join/", "/send_join/", "/make_knock/"] {
        for (errcode, told) in [
            ("M_UNABLE_TO_AUTHORISE_JOIN", (400, "M_UNABLE_TO_AUTHORISE_JOIN")),
            ("ORG.EXAMPLE.FULL", (400, "ORG.EXAMPLE.FULL")),
            ("M_FORBIDDEN", (403, "M_FORBIDDEN")),
            ("M_MISSING_PARAM", (502, "M_UNKNOWN")),
            ("M_UNKNOWN_TOKEN", (502, "M_UNKNOWN")),
        ] {
            let story = Story::begins(&[]);
            let Resident { room_id, .. } = resident(&story.server, "11", move |request, status, body| {
                if !request.path_and_query.contains(at) {
                    return status;
                }
                *body = json!({ "errcode": errcode, "error": "The room is full" });
                StatusCode::BAD_REQUEST
            });
            let what = if at == "/make_knock/" { "knock" } else { "join" };
            let path = format!("/_matrix/client/v3/{what}/{}?via=b.test", encoded(&room_id));
            let (status, answer) = story.server.post(&path, &story.alice, &json!({}));
            assert_eq!(refused((status, answer.clone())), (told.0, told.1.to_owned()), "{at} {errcode}");
            if told.0 != 502 {
                assert_eq!(answer["error"], "The room is full");
            }
        }
    }
}

/// Spec: "Joining Rooms": «The joining server is expected to add or replace the `origin`»; `/invite` requires it.
#[test]
fn memberships_that_others_take_say_whose_they_are() {
    let story = Story::begins(&[]);
    let origins = Rc::new(RefCell::new(Vec::new()));
    let noted = origins.clone();
    let Resident { server, bob, room_id } = resident(&story.server, "10", move |request, status, _| {
        let endpoint = request.path_and_query.split('/').nth(4).unwrap_or_default();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let event = if endpoint == "invite" { &body["event"] } else { &body };
        if event["type"] == "m.room.member" {
            noted.borrow_mut().push((endpoint.to_owned(), event["origin"].clone()));
        }
        status
    });
    let knocking = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules", encoded(&room_id));
    server.put(&knocking, &bob, &json!({ "join_rule": "knock" }));
    for (what, rule) in [("knock", "knock"), ("leave", "public"), ("join", "public")] {
        let path = match what {
            "leave" => format!("/_matrix/client/v3/rooms/{}/leave", encoded(&room_id)),
            _ => format!("/_matrix/client/v3/{what}/{}?via=b.test", encoded(&room_id)),
        };
        let (status, answer) = story.server.post(&path, &story.alice, &json!({}));
        assert_eq!(status, StatusCode::OK, "{what}: {answer}");
        server.put(&knocking, &bob, &json!({ "join_rule": rule }));
        story.server.pass_ms(1);
    }
    server.register("carol");
    let (_, created) = story.server.post("/_matrix/client/v3/createRoom", &story.alice, &json!({}));
    let path = format!("/_matrix/client/v3/rooms/{}/invite", encoded(created["room_id"].as_str().unwrap()));
    let (status, answer) = story.server.post(&path, &story.alice, &json!({ "user_id": "@carol:b.test" }));
    assert_eq!(status, StatusCode::OK, "{answer}");
    let origins = origins.borrow().clone();
    let expected =
        ["send_knock", "send_leave", "send_join", "invite"].map(|what| (what.to_owned(), json!("localhost")));
    assert_eq!(origins, expected);
}

/// One that prepared it may be down by then.
#[test]
fn a_knock_goes_to_the_next_server_if_one_does_not_take_it() {
    for fails_with in [StatusCode::BAD_GATEWAY, StatusCode::FORBIDDEN] {
        let story = Story::begins(&[]);
        let room = Rc::new(RefCell::new(String::new()));
        let named = room.clone();
        let Resident { server, bob, room_id } = resident(&story.server, "11", move |request, status, body| {
            if request.peer.host_header != "c.test" {
                return status;
            }
            if request.path_and_query.contains("/make_knock/") {
                *body = json!({ "room_version": "11", "event": {
                    "type": "m.room.member", "room_id": *named.borrow(), "sender": ALICE, "state_key": ALICE, "depth": 5,
                    "content": { "membership": "knock" }, "prev_events": [], "auth_events": [], "origin_server_ts": 1,
                } });
                return StatusCode::OK;
            }
            *body = json!({ "errcode": "M_FORBIDDEN", "error": "No" });
            if request.path_and_query.contains("/send_knock/") { fails_with } else { status }
        });
        room.borrow_mut().clone_from(&room_id);
        let rules = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules", encoded(&room_id));
        server.put(&rules, &bob, &json!({ "join_rule": "knock" }));
        let path = format!("/_matrix/client/v3/knock/{}?via=c.test&via=b.test", encoded(&room_id));
        let (status, answer) = story.server.post(&path, &story.alice, &json!({}));
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}
