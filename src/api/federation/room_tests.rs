//! A server that the test plays is let into a room, and asks for what is in it.

use std::{cell::RefCell, rc::Rc};

use actors::room::Received;
use domain::{Identity, Pdu, RoomVersion, event, federation::server_keys::own_document};
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    receiving::Receiving,
    tests::{answered, identity, server_among, signed},
};
use crate::testing::{TestServer, block_on, refused};

fn encoded(part: &str) -> String {
    utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()
}

fn asks(server: &TestServer, origin: &Identity, method: Method, uri: &str, content: &str) -> (StatusCode, Value) {
    answered(server, signed(origin, "localhost", method, uri, content))
}

fn gets(server: &TestServer, origin: &Identity, uri: &str) -> (StatusCode, Value) {
    asks(server, origin, Method::GET, uri, "")
}

/// Has bob join, and answers what his server is told.
pub(super) fn joins(server: &TestServer, origin: &Identity, room: &str) -> (String, Value) {
    let user = format!("@bob:{}", origin.server_name());
    let make = format!("/_matrix/federation/v1/make_join/{}/{}?ver=11&ver=12", encoded(room), encoded(&user));
    let (status, prepared) = gets(server, origin, &make);
    assert_eq!(status, StatusCode::OK, "{prepared}");
    assert_eq!(prepared["event"]["origin"], "localhost");
    let version = RoomVersion::parse(prepared["room_version"].as_str().unwrap()).unwrap();
    let template = to_raw_value(&prepared["event"]).unwrap();
    let content = to_raw_value(&prepared["event"]["content"]).unwrap();
    let join = event::complete(&template, &content, &version, origin, 1_700_000_000_000, [0; 18]).unwrap();
    let id = join.event_id().to_string();
    let send = format!("/_matrix/federation/v2/send_join/{}/{}", encoded(room), encoded(&id));
    let (status, joined) = asks(server, origin, Method::PUT, &send, join.json());
    assert_eq!(status, StatusCode::OK, "{joined}");
    assert_eq!(asks(server, origin, Method::PUT, &send, join.json()).0, StatusCode::OK, "the same, repeated");
    (id, joined)
}

#[test]
fn who_is_in_the_room_may_ask_for_it_and_nobody_else() {
    for version in ["11", "12"] {
        let (b, c) = (identity("b.test", "1", 1), identity("c.test", "1", 2));
        let (server, _) = server_among(vec![identity("b.test", "1", 1), identity("c.test", "1", 2)], &[]);
        let alice = server.register("alice");
        let create = json!({ "preset": "public_chat", "room_version": version });
        let room =
            server.post("/_matrix/client/v3/createRoom", &alice, &create).1["room_id"].as_str().unwrap().to_owned();
        let send = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/t", encoded(&room));
        let said = server.put(&send, &alice, &json!({ "msgtype": "m.text", "body": "hello" })).1["event_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let (join, joined) = joins(&server, &b, &room);
        assert_eq!(joined["servers_in_room"], json!(["localhost"]), "before the join");
        let is_create = |event: &Value| event["type"] == "m.room.create";
        assert!(joined["state"].as_array().unwrap().iter().any(is_create), "{joined}");
        assert!(joined["auth_chain"].as_array().unwrap().len() >= 2, "{joined}");

        let (room, said, join) = (encoded(&room), encoded(&said), encoded(&join));
        let event = format!("/_matrix/federation/v1/event/{said}");
        let state_ids = format!("/_matrix/federation/v1/state_ids/{room}?event_id={join}");
        let state = format!("/_matrix/federation/v1/state/{room}?event_id={join}");
        let auth = format!("/_matrix/federation/v1/event_auth/{room}/{join}");
        let backfill = format!("/_matrix/federation/v1/backfill/{room}?v={join}&limit=3");
        let (status, answer) = gets(&server, &b, &event);
        assert_eq!((status, &answer["pdus"][0]["content"]["body"]), (StatusCode::OK, &json!("hello")), "{answer}");
        let (ids, whole) = (gets(&server, &b, &state_ids).1, gets(&server, &b, &state).1);
        for (ids, events) in [("pdu_ids", "pdus"), ("auth_chain_ids", "auth_chain")].map(|(a, e)| (&ids[a], &whole[e]))
        {
            assert_eq!(ids.as_array().unwrap().len(), events.as_array().unwrap().len());
            assert!(!ids.as_array().unwrap().is_empty());
        }
        assert!(gets(&server, &b, &auth).1["auth_chain"].as_array().unwrap().iter().any(is_create), "down to the root");
        let before = gets(&server, &b, &backfill).1["pdus"].as_array().unwrap().clone();
        assert_eq!((before.len(), &before[0]["type"]), (3, &json!("m.room.member")), "the newest first");
        let earliest: Vec<&Value> = before[2]["prev_events"].as_array().unwrap().iter().collect();
        let missing = json!({ "earliest_events": earliest, "latest_events": [joined_id(&joined)], "limit": 10 });
        let missing = missing.to_string();
        let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
        let between = asks(&server, &b, Method::POST, &path, &missing).1["events"].as_array().unwrap().clone();
        assert_eq!(between.last().unwrap()["content"]["body"], "hello", "the oldest first, without the ends");

        let closest = |ts: u64, dir: &str| {
            let path = format!("/_matrix/federation/v1/timestamp_to_event/{room}?ts={ts}&dir={dir}");
            gets(&server, &b, &path)
        };
        let (status, first) = closest(0, "f");
        assert_eq!(status, StatusCode::OK, "{first}");
        let (_, newest) = closest(u64::from(u32::MAX) * 1_000, "b");
        assert!(first["origin_server_ts"].as_u64() <= newest["origin_server_ts"].as_u64(), "{first} {newest}");
        assert_eq!(encoded(newest["event_id"].as_str().unwrap()), join);
        assert_eq!(refused(closest(0, "b")), (404, "M_NOT_FOUND".to_owned()));

        let timestamp = format!("/_matrix/federation/v1/timestamp_to_event/{room}?ts=0&dir=f");
        for uri in [&event, &state_ids, &state, &auth, &backfill, &timestamp] {
            assert!(matches!(gets(&server, &c, uri).0.as_u16(), 403 | 404), "{uri}");
        }
        assert_eq!(asks(&server, &c, Method::POST, &path, &missing).0, StatusCode::FORBIDDEN);
    }
}

/// Servers may share more rooms than are asked first, and the event be in the quietest of them.
#[test]
fn an_event_is_found_in_whichever_room_it_is() {
    let (b, c) = (identity("b.test", "1", 1), identity("c.test", "1", 2));
    let (server, _) = server_among(vec![identity("b.test", "1", 1), identity("c.test", "1", 2)], &[]);
    let alice = server.register("alice");
    let mut said = Vec::new();
    for number in 0..5 {
        let create = json!({ "preset": "public_chat", "room_version": "11" });
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
        let room = created["room_id"].as_str().unwrap().to_owned();
        joins(&server, &b, &room);
        let send = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/t", encoded(&room));
        let sent = server.put(&send, &alice, &json!({ "msgtype": "m.text", "body": number.to_string() })).1;
        said.push(encoded(sent["event_id"].as_str().unwrap()));
        server.pass_ms(1_000);
    }
    for (number, event_id) in said.iter().enumerate() {
        let path = format!("/_matrix/federation/v1/event/{event_id}");
        let (status, answer) = gets(&server, &b, &path);
        assert_eq!((status, &answer["pdus"][0]["content"]["body"]), (StatusCode::OK, &json!(number.to_string())));
        assert_eq!(refused(gets(&server, &c, &path)), (404, "M_NOT_FOUND".to_owned()));
    }
    let unknown = format!("/_matrix/federation/v1/event/{}", encoded("$unknown"));
    assert_eq!(refused(gets(&server, &b, &unknown)), (404, "M_NOT_FOUND".to_owned()));
}

#[test]
fn what_is_not_taken_in_is_answered_under_its_own_id() {
    let c = identity("c.test", "1", 2);
    let (server, _) = server_among(vec![identity("b.test", "1", 1), identity("c.test", "1", 2)], &[]);
    let alice = server.register("alice");
    let mut rooms = vec![("1", "!unknown:c.test".to_owned()), ("11", "!unknown:c.test".to_owned())];
    for version in ["2", "10", "11"] {
        let denied =
            json!({ "type": "m.room.server_acl", "state_key": "", "content": { "allow": ["b.test", "localhost"] } });
        let create = json!({ "preset": "public_chat", "room_version": version, "initial_state": [denied] });
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
        rooms.push((version, created["room_id"].as_str().unwrap().to_owned()));
    }
    for (number, (version, room)) in rooms.iter().enumerate() {
        let template = to_raw_value(&json!({
            "type": "m.room.power_levels", "room_id": room, "sender": "@carol:c.test", "state_key": "", "depth": 5,
            // Of these, versions before 11 keep less when they are redacted.
            "content": { "invite": 5 }, "prev_events": [], "auth_events": [],
        }))
        .unwrap();
        let content = to_raw_value(&json!({ "invite": 5 })).unwrap();
        let known = RoomVersion::parse(version).unwrap();
        let pdu = event::complete(&template, &content, &known, &c, 1_700_000_000_000, [3; 18]).unwrap();
        let pdus: Vec<Value> = vec![serde_json::from_str(pdu.json()).unwrap()];
        let body = json!({ "origin": "c.test", "origin_server_ts": 1, "pdus": pdus }).to_string();
        let path = format!("/_matrix/federation/v1/send/{number}");
        let (status, answer) = asks(&server, &c, Method::PUT, &path, &body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        let outcomes = answer["pdus"].as_object().unwrap();
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), [pdu.event_id().as_str()], "version {version}");
        assert!(outcomes.values().all(|outcome| outcome["error"].is_string()), "{answer}");
    }
}

/// What is sent to a room is told apart: no event at all, or one that is not what was asked for.
#[test]
fn what_is_no_event_is_bad_json() {
    let b = identity("b.test", "1", 1);
    let (server, _) = server_among(vec![identity("b.test", "1", 1)], &[]);
    let alice = server.register("alice");
    let create = json!({ "preset": "public_chat", "room_version": "11" });
    let room = server.post("/_matrix/client/v3/createRoom", &alice, &create).1["room_id"].as_str().unwrap().to_owned();
    let template = json!({
        "type": "m.room.member", "room_id": room, "sender": "@bob:b.test", "state_key": "@bob:b.test", "depth": 5,
        "content": { "membership": "ban" }, "prev_events": [], "auth_events": [],
    });
    let (template, content) = (to_raw_value(&template).unwrap(), to_raw_value(&template["content"]).unwrap());
    let version = RoomVersion::parse("11").unwrap();
    let ban = event::complete(&template, &content, &version, &b, 1_700_000_000_000, [0; 18]).unwrap();
    let nested = format!(r#"{{"a":{}{},"#, "[".repeat(101), "]".repeat(101));
    let nested = ban.json().replacen('{', &nested, 1);
    for endpoint in ["v2/send_join", "v1/send_knock", "v2/send_leave"] {
        let id = encoded(ban.event_id().as_str());
        let path = format!("/_matrix/federation/{endpoint}/{}/{id}", encoded(&room));
        let told = |content: &str| refused(asks(&server, &b, Method::PUT, &path, content));
        assert_eq!(told(ban.json()), (400, "M_INVALID_PARAM".to_owned()), "{endpoint}");
        for content in ["[]", "5", "{}", &nested] {
            assert_eq!(told(content), (400, "M_BAD_JSON".to_owned()), "{endpoint}: {content}");
        }
    }
}

/// A server whose join names what has not come yet is not turned away for that.
#[test]
fn what_a_join_comes_after_is_fetched_from_who_is_in_the_room() {
    for answers in [false, true] {
        let (b, c) = (identity("b.test", "1", 1), identity("c.test", "1", 2));
        let server = TestServer::new(&[("REGISTRATION", "open"), ("TRUSTED_KEY_SERVERS", "")]);
        let said: Rc<RefCell<Option<Pdu>>> = Rc::default();
        let told = said.clone();
        server.others_answer(move |request| {
            let of = |name: &str, seed| own_document(&identity(name, "1", seed), 1_700_000_000_000);
            let body = match (&*request.peer.host_header, request.path_and_query.as_str()) {
                ("b.test", "/_matrix/key/v2/server") => of("b.test", 1).into(),
                ("c.test", "/_matrix/key/v2/server") => of("c.test", 2).into(),
                ("b.test", path) if path.starts_with("/_matrix/federation/v1/event/") && answers => {
                    let pdu: Value = serde_json::from_str(told.borrow().as_ref().unwrap().json()).unwrap();
                    json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [pdu] }).to_string().into()
                }
                _ => return Ok((StatusCode::NOT_FOUND, HeaderMap::new(), "".into())),
            };
            Ok((StatusCode::OK, HeaderMap::new(), body))
        });
        let alice = server.register("alice");
        let create = json!({ "preset": "public_chat", "room_version": "11" });
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
        let room = created["room_id"].as_str().unwrap().to_owned();
        let (_, joined) = joins(&server, &b, &room);
        assert_eq!(joined["event"]["origin"], "b.test");
        let version = RoomVersion::parse("11").unwrap();
        let id = |event: &Value| event::id_of(&serde_json::from_value(event.clone()).unwrap(), &version).unwrap();
        let state = |kind: &str| {
            let of_kind = |event: &&Value| event["type"] == kind;
            id(joined["state"].as_array().unwrap().iter().find(of_kind).unwrap())
        };
        let template = json!({
            "type": "m.room.message", "room_id": room, "sender": "@bob:b.test", "depth": 50,
            "prev_events": [joined_id(&joined)],
            "auth_events": [state("m.room.create"), state("m.room.power_levels"), joined_id(&joined)],
        });
        let content = to_raw_value(&json!({ "body": "on its way" })).unwrap();
        let message = event::complete(&to_raw_value(&template).unwrap(), &content, &version, &b, 5, [0; 18]).unwrap();
        *said.borrow_mut() = Some(message.clone());

        let make = format!("/_matrix/federation/v1/make_join/{}/{}?ver=11", encoded(&room), encoded("@carol:c.test"));
        let mut prepared = gets(&server, &c, &make).1["event"].clone();
        prepared["prev_events"] = json!([message.event_id()]);
        let content = to_raw_value(&prepared["content"]).unwrap();
        let join = event::complete(&to_raw_value(&prepared).unwrap(), &content, &version, &c, 6, [0; 18]).unwrap();
        let send = format!("/_matrix/federation/v2/send_join/{}/{}", encoded(&room), encoded(join.event_id().as_str()));
        let (status, answer) = asks(&server, &c, Method::PUT, &send, join.json());
        if answers {
            assert_eq!(status, StatusCode::OK, "{answer}");
        } else {
            assert_eq!(refused((status, answer)), (502, "M_UNKNOWN".to_owned()), "it may try again");
        }
    }
}

/// Spec: "Validating Policy Server signatures": what was received without one is soft failed.
#[test]
fn what_no_policy_server_answers_about_is_kept_from_users_in_the_end() {
    let b = identity("b.test", "1", 1);
    let (server, _) = server_among(vec![identity("b.test", "1", 1)], &[]);
    let alice = server.register("alice");
    let create = json!({ "preset": "public_chat", "room_version": "11" });
    let room = server.post("/_matrix/client/v3/createRoom", &alice, &create).1["room_id"].as_str().unwrap().to_owned();
    let (_, joined) = joins(&server, &b, &room);
    let policy =
        json!({ "via": "b.test", "public_keys": { "ed25519": "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s" } });
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.policy", encoded(&room));
    assert_eq!(server.put(&path, &alice, &policy).0, StatusCode::OK);
    let version = RoomVersion::parse("11").unwrap();
    let state = |kind: &str| {
        let of_kind = |event: &&Value| event["type"] == kind;
        let event = joined["state"].as_array().unwrap().iter().find(of_kind).unwrap();
        event::id_of(&serde_json::from_value(event.clone()).unwrap(), &version).unwrap()
    };
    let template = json!({
        "type": "m.room.message", "room_id": room, "sender": "@bob:b.test", "depth": 50,
        "prev_events": [joined_id(&joined)],
        "auth_events": [state("m.room.create"), state("m.room.power_levels"), joined_id(&joined)],
    });
    let content = to_raw_value(&json!({ "body": "unsigned" })).unwrap();
    let message = event::complete(&to_raw_value(&template).unwrap(), &content, &version, &b, 5, [0; 18]).unwrap();
    let cx = server.context();
    let (origin, room_id, until_ms) = (b.server_name(), message.room_id(), u64::MAX);
    let receives = |is_last_try| {
        let receiving =
            Receiving { cx: &cx, origin, room_id, version: &version, until_ms, is_last_try, takes_gaps: is_last_try };
        block_on(receiving.receive(&message)).unwrap()
    };
    assert!(matches!(receives(false), Received::Needs(_)), "it may be signed another time");
    assert_eq!(receives(true), Received::SoftFailed);
}

#[test]
fn what_has_no_form_is_answered_under_its_own_id() {
    let b = identity("b.test", "1", 1);
    let (server, _) = server_among(vec![identity("b.test", "1", 1)], &[]);
    let alice = server.register("alice");
    for version in ["1", "11"] {
        let create = json!({ "preset": "public_chat", "room_version": version });
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
        let room = created["room_id"].as_str().unwrap().to_owned();
        let mut timeless = json!({
            "type": "m.x", "room_id": room, "sender": "@bob:b.test", "depth": 5, "content": {}, "prev_events": [],
            "auth_events": [], "hashes": { "sha256": "x" }, "signatures": {}, "event_id": "$timeless:b.test",
        });
        let mut nowhere = timeless.clone();
        nowhere["room_id"] = json!("nowhere");
        nowhere["event_id"] = json!("$nowhere:b.test");
        if version != "1" {
            for event in [&mut timeless, &mut nowhere] {
                event.as_object_mut().unwrap().remove("event_id");
            }
        }
        let known = RoomVersion::parse(version).unwrap();
        let id = |event: &Value| event::id_of(&serde_json::from_value(event.clone()).unwrap(), &known).unwrap();
        let body = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [timeless, nowhere] }).to_string();
        let path = format!("/_matrix/federation/v1/send/{version}");
        let (status, answer) = asks(&server, &b, Method::PUT, &path, &body);
        assert_eq!(status, StatusCode::OK, "{answer}");
        for event in [&timeless, &nowhere] {
            assert!(answer["pdus"][id(event).as_str()]["error"].is_string(), "version {version}: {answer}");
        }
    }
}

/// The id of the join in the answer to it.
fn joined_id(joined: &Value) -> String {
    let version = RoomVersion::parse("11").unwrap();
    let object = serde_json::from_value(joined["event"].clone()).unwrap();
    event::id_of(&object, &version).unwrap().to_string()
}

#[test]
fn a_server_of_old_invites_into_a_room_of_old() {
    let b = identity("b.test", "1", 1);
    let (server, asked) = server_among(vec![identity("b.test", "1", 1)], &[]);
    let alice = server.register("alice");
    let invitation = |version: &str, target: &str, membership: &str| {
        let version = RoomVersion::parse(version).unwrap();
        let template = json!({
            "type": "m.room.member", "room_id": "!old:b.test", "sender": "@bob:b.test", "state_key": target,
            "content": { "membership": membership }, "depth": 5, "prev_events": [], "auth_events": [],
            "origin": "b.test", "origin_server_ts": 1,
        });
        let (template, content) = (to_raw_value(&template).unwrap(), to_raw_value(&template["content"]).unwrap());
        let pdu = event::complete(&template, &content, &version, &b, 1_700_000_000_000, [3; 18]).unwrap();
        let mut body: Value = serde_json::from_str(pdu.json()).unwrap();
        let name =
            json!({ "type": "m.room.name", "state_key": "", "sender": "@bob:b.test", "content": { "name": "Old" } });
        body["unsigned"] = json!({ "invite_room_state": [name] });
        let path =
            format!("/_matrix/federation/v1/invite/{}/{}", encoded("!old:b.test"), encoded(pdu.event_id().as_str()));
        asks(&server, &b, Method::PUT, &path, &body.to_string())
    };
    let (status, answer) = invitation("1", "@alice:localhost", "invite");
    assert_eq!((status, &answer[0]), (StatusCode::OK, &json!(200)), "{answer}");
    let signatures = answer[1]["event"]["signatures"].as_object().unwrap();
    assert!(signatures.contains_key("localhost") && signatures.contains_key("b.test"), "{answer}");
    let (_, sync) = server.get("/_matrix/client/v3/sync", &alice);
    let shown = sync["rooms"]["invite"]["!old:b.test"]["invite_state"]["events"].as_array().unwrap();
    assert!(shown.iter().any(|event| event["content"]["name"] == "Old"), "{sync}");

    for (target, membership) in [("@alice:localhost", "join"), ("@alice:b.test", "invite")] {
        assert_eq!(refused(invitation("1", target, membership)), (400, "M_INVALID_PARAM".to_owned()), "{target}");
    }
    assert_eq!(refused(invitation("1", "@nobody:localhost", "invite")), (404, "M_NOT_FOUND".to_owned()));
    // Its id is in the event in rooms of old.
    assert_eq!(invitation("11", "@alice:localhost", "invite").0, StatusCode::BAD_REQUEST);

    // Whoever is going away turns it down, and gets no other.
    asked.borrow_mut().clear();
    let auth = json!({ "type": "m.login.password", "password": "secret", "identifier": { "type": "m.id.user", "user": "alice" } });
    let (_, deactivated) = server.post("/_matrix/client/v3/account/deactivate", &alice, &json!({ "auth": auth }));
    assert_eq!(deactivated, json!({ "id_server_unbind_result": "success" }));
    assert!(asked.borrow().iter().any(|asked| asked.contains("/make_leave/")), "{:?}", asked.borrow());
    assert_eq!(refused(invitation("1", "@alice:localhost", "invite")), (403, "M_FORBIDDEN".to_owned()));
}

#[test]
fn a_room_for_users_of_its_own_server_is_kept_from_others() {
    let b = identity("b.test", "1", 1);
    let (server, asked) = server_among(vec![identity("b.test", "1", 1)], &[]);
    let alice = server.register("alice");
    let creates = |name: &str, federates: bool| {
        let create = json!({
            "name": name, "visibility": "public", "creation_content": { "m.federate": federates },
            "invite": ["@eve:b.test"],
        });
        let (status, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
        assert_eq!(status, StatusCode::OK, "{created}");
        encoded(created["room_id"].as_str().unwrap())
    };
    let (internal, open) = (creates("Internal", false), creates("Open", true));
    let directory = "/_matrix/federation/v1/publicRooms";
    for (status, page) in [gets(&server, &b, directory), asks(&server, &b, Method::POST, directory, "{}")] {
        let names: Vec<_> =
            page["chunk"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap()).collect();
        assert_eq!((status, names), (StatusCode::OK, vec!["Open"]), "{page}");
    }
    let (_, page) = server.get("/_matrix/client/v3/publicRooms", "");
    assert_eq!(page["chunk"].as_array().unwrap().len(), 2, "users of its own server may know: {page}");
    let shown = |(status, page): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::OK, "{page}");
        page["chunk"].as_array().unwrap().len()
    };
    let with = |query: &str| gets(&server, &b, &format!("{directory}?{query}"));
    assert_eq!(shown(with("include_all_networks=true&limit=5")), 1);
    assert_eq!(shown(with("third_party_instance_id=irc")), 0, "another network");
    let both = "include_all_networks=true&third_party_instance_id=irc";
    assert_eq!(refused(with(both)), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(refused(with("limit=x")), (400, "M_INVALID_PARAM".to_owned()));
    let nothing = r#"{"filter":{"generic_search_term":null,"room_types":null},"limit":null}"#;
    assert_eq!(shown(asks(&server, &b, Method::POST, directory, nothing)), 1);
    let hierarchy = |room: &str| gets(&server, &b, &format!("/_matrix/federation/v1/hierarchy/{room}"));
    assert_eq!(refused(hierarchy(&internal)), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(hierarchy(&open).0, StatusCode::OK);
    // Nor is anybody invited in vain.
    let invited = |room: &str| asked.borrow().iter().any(|asked| asked.contains("/invite/") && asked.contains(room));
    assert_eq!((invited(&internal), invited(&open)), (false, true), "{:?}", asked.borrow());
    let eve = json!({ "user_id": "@eve:b.test" });
    let invite = server.post(&format!("/_matrix/client/v3/rooms/{internal}/invite"), &alice, &eve);
    assert_eq!(refused(invite), (403, "M_FORBIDDEN".to_owned()));
    assert!(!invited(&internal));
}
