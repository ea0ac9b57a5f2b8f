//! Stories with other servers that the test plays.

use std::{cell::RefCell, rc::Rc};

use domain::{
    Identity,
    federation::{server_keys::own_document, x_matrix::SignedRequest},
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use platform::{OutgoingRequest, SendError, SrvRecord};
use ruma_common::{OwnedServerName, ServerName, owned_user_id, server_name};
use ruma_federation_api::query::get_profile_information::v1 as profile;
use serde_json::{Value, json};

use super::{AskError, Bounds};
use crate::testing::{Answered, TestServer, block_on, refused};

pub(super) const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=@alice:localhost";
pub(super) const NOW: u64 = 1_700_000_000_000;
pub(super) const DAY: u64 = 86_400_000;

pub(super) fn identity(name: &str, version: &str, seed: u8) -> Identity {
    Identity::new(OwnedServerName::try_from(name).unwrap(), version, [seed; 32]).unwrap()
}

pub(super) fn ok(body: impl Into<bytes::Bytes>) -> Answered {
    Ok((StatusCode::OK, HeaderMap::new(), body.into()))
}

fn status(status: StatusCode) -> Answered {
    Ok((status, HeaderMap::new(), "<html>".into()))
}

pub(super) fn unreachable() -> Answered {
    Err(SendError::Unreachable("nobody".to_owned()))
}

/// What others were asked: where, as whom, what.
pub(super) type Asked = Rc<RefCell<Vec<String>>>;

pub(super) fn noted(asked: &Asked, request: &OutgoingRequest) {
    let peer = &request.peer;
    let host = if peer.host_header == peer.host { String::new() } else { format!(" as {}", peer.host_header) };
    asked.borrow_mut().push(format!("{}:{}{host}{}", peer.host, peer.port, request.path_and_query));
}

/// Our server, and others that publish these keys wherever they are asked.
pub(super) fn server_among(others: Vec<Identity>, pairs: &[(&str, &str)]) -> (TestServer, Asked) {
    let server = TestServer::new(&[&[("REGISTRATION", "open"), ("TRUSTED_KEY_SERVERS", "")], pairs].concat());
    let asked = Asked::default();
    let notes = asked.clone();
    server.others_answer(move |request| {
        noted(&notes, request);
        match others.iter().find(|other| other.server_name().as_str() == request.peer.host_header) {
            Some(other) if request.path_and_query == "/_matrix/key/v2/server" => ok(own_document(other, NOW)),
            Some(_) => status(StatusCode::NOT_FOUND),
            None => unreachable(),
        }
    });
    (server, asked)
}

/// A request that `origin` signs for `destination`.
pub(super) fn signed(
    origin: &Identity,
    destination: &str,
    method: Method,
    uri: &str,
    content: &str,
) -> Request<bytes::Bytes> {
    let what = SignedRequest { method: method.as_str(), uri, content: content.as_bytes() };
    let header = what.authorization(origin, <&ServerName>::try_from(destination).unwrap()).unwrap();
    let request = Request::builder().method(method).uri(uri).header(header::AUTHORIZATION, header);
    request.body(content.to_owned().into()).unwrap()
}

pub(super) fn answered(server: &TestServer, request: Request<bytes::Bytes>) -> (StatusCode, Value) {
    let response = server.answer(request);
    (response.status(), serde_json::from_slice(response.body()).unwrap_or_default())
}

#[test]
fn who_signs_is_answered() {
    let other = identity("b.test:8448", "1", 1);
    let (server, asked) = server_among(vec![identity("b.test:8448", "1", 1)], &[]);
    server.register("alice");
    for _ in 0..2 {
        let request = signed(&other, "localhost", Method::GET, PROFILE, "");
        assert_eq!(answered(&server, request), (StatusCode::OK, json!({})));
    }
    assert_eq!(*asked.borrow(), ["b.test:8448 as b.test:8448/_matrix/key/v2/server"], "keys are remembered");
    let unknown =
        signed(&other, "localhost", Method::GET, "/_matrix/federation/v1/query/profile?user_id=@bob:localhost", "");
    assert_eq!(refused(answered(&server, unknown)), (404, "M_NOT_FOUND".to_owned()));
}

#[test]
fn who_does_not_sign_well_is_refused() {
    let other = || identity("b.test:8448", "1", 1);
    let deny = [("FEDERATION_DENY", "evil.test")];
    let (server, asked) = server_among(vec![other(), identity("evil.test:1", "1", 3)], &deny);
    server.register("alice");
    let unauthorized = (401, "M_UNAUTHORIZED".to_owned());
    let plain = Request::get(PROFILE).body("".into()).unwrap();
    assert_eq!(refused(answered(&server, plain)), unauthorized);
    let as_client = Request::get(PROFILE).header(header::AUTHORIZATION, "Bearer x").body("".into()).unwrap();
    assert_eq!(refused(answered(&server, as_client)), unauthorized);
    for (signer, destination) in [
        (identity("b.test:8448", "1", 2), "localhost"),
        (identity("b.test:8448", "2", 1), "localhost"),
        (identity("c.test:8448", "1", 1), "localhost"),
        (identity("localhost", "1", 1), "localhost"),
        (other(), "elsewhere"),
    ] {
        let request = signed(&signer, destination, Method::GET, PROFILE, "");
        assert_eq!(refused(answered(&server, request)), unauthorized, "{signer:?} for {destination}");
    }
    let mut moved = signed(&other(), "localhost", Method::GET, PROFILE, "");
    *moved.uri_mut() = format!("{PROFILE}&field=displayname").parse().unwrap();
    assert_eq!(refused(answered(&server, moved)), unauthorized);
    let mut filled = signed(&other(), "localhost", Method::GET, PROFILE, "");
    *filled.body_mut() = "{}".into();
    assert_eq!(refused(answered(&server, filled)), unauthorized);
    let before = asked.borrow().len();
    let denied = signed(&identity("evil.test:1", "1", 3), "localhost", Method::GET, PROFILE, "");
    assert_eq!(refused(answered(&server, denied)), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(asked.borrow().len(), before, "who is denied is not asked for keys");
}

#[test]
fn strangers_have_us_ask_so_often_only() {
    let limits = [("RATE_LIMITS", "on"), ("RC_REMOTE_QUERIES", "0.001,2")];
    let (server, asked) = server_among(vec![], &limits);
    let outcomes: Vec<_> = (0..4)
        .map(|number| {
            let stranger = identity(&format!("s{number}.test:1"), "1", 1);
            refused(answered(&server, signed(&stranger, "localhost", Method::GET, PROFILE, "")))
        })
        .collect();
    let errcodes: Vec<_> = outcomes.iter().map(|(_, errcode)| &**errcode).collect();
    assert_eq!(errcodes, ["M_UNAUTHORIZED", "M_UNAUTHORIZED", "M_LIMIT_EXCEEDED", "M_LIMIT_EXCEEDED"]);
    assert_eq!(asked.borrow().len(), 2);
    // Nor may whoever asks for what is elsewhere.
    let (server, _) = server_among(vec![], &limits);
    let path = |number: usize| match number % 2 {
        0 => format!("/_matrix/client/v3/profile/%40bob%3As{number}.test%3A1"),
        _ => format!("/_matrix/client/v3/directory/room/%23a%3As{number}.test%3A1"),
    };
    let outcomes = (0..4).map(|number| refused(server.get(&path(number), "")).0).collect::<Vec<_>>();
    assert_eq!(outcomes, [502, 502, 429, 429]);
}

#[test]
fn nothing_is_there_without_federation() {
    let (server, _) = server_among(vec![], &[("FEDERATION", "off"), ("WELL_KNOWN_SERVER", "localhost:1")]);
    for path in [
        PROFILE,
        "/_matrix/key/v2/server",
        "/_matrix/key/v2/query/b.test",
        "/_matrix/federation/v1/version",
        "/.well-known/matrix/server",
    ] {
        assert_eq!(refused(server.get(path, "")), (404, "M_UNRECOGNIZED".to_owned()), "{path}");
    }
    let outcome = block_on(server.context().ask_raw(server_name!("b.test"), Method::GET, "/", None, Bounds::default()));
    assert_eq!(outcome, Err(AskError::Denied));
}

#[test]
fn our_own_keys_and_version_are_told_to_anybody() {
    let (server, _) = server_among(vec![], &[]);
    let (_, keys) = server.get("/_matrix/key/v2/server", "");
    assert_eq!((&keys["server_name"], keys["valid_until_ts"].as_u64()), (&json!("localhost"), Some(NOW + DAY)));
    for path in ["/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:x", "/_matrix/key/v2/query/localhost"] {
        let (_, again) = server.get(path, "");
        assert!(again == keys || again["server_keys"] == json!([keys]), "{path}: {again}");
    }
    let (_, version) = server.get("/_matrix/federation/v1/version", "");
    assert_eq!(version["server"]["name"], "Myelin");
    assert!(version["server"]["version"].is_string());
}

/// Where a name leads, given what its `/.well-known` answers.
fn found(name: &str, well_known: impl Fn(&str) -> Answered + 'static, srv: &[(&str, u16, &str)]) -> Vec<String> {
    let server = TestServer::new(&[]);
    for (name, port, target) in srv {
        let record = SrvRecord { priority: 0, weight: 0, port: *port, target: (*target).to_owned() };
        server.dns_has(name, vec![record]);
    }
    let asked = Asked::default();
    let notes = asked.clone();
    server.others_answer(move |request| {
        noted(&notes, request);
        assert_eq!(request.headers.contains_key(header::AUTHORIZATION), request.path_and_query.starts_with("/_matrix"));
        if request.path_and_query.starts_with("/_matrix") {
            ok("{}")
        } else {
            well_known(&format!("{}{}", request.peer.host_header, request.path_and_query))
        }
    });
    let server_name = <&ServerName>::try_from(name).unwrap();
    for _ in 0..2 {
        block_on(server.context().ask_raw(server_name, Method::GET, "/_matrix/x", None, Bounds::default())).unwrap();
    }
    let asked = asked.borrow().clone();
    // What was found holds for the second request.
    let (last, before) = asked.split_last().unwrap();
    assert_eq!(before.last(), Some(last));
    before.to_vec()
}

fn delegates(to: &'static str) -> impl Fn(&str) -> Answered {
    move |_| ok(json!({ "m.server": to }).to_string())
}

#[test]
fn servers_are_found_as_the_specification_says() {
    let nobody = |_: &str| unreachable();
    let fed = ("_matrix-fed._tcp.b.test", 10, "fed.test");
    let old = ("_matrix._tcp.b.test", 11, "old.test");
    let asks = "b.test:443/.well-known/matrix/server";
    assert_eq!(found("1.2.3.4", nobody, &[]), ["1.2.3.4:8448/_matrix/x"]);
    assert_eq!(found("b.test:80", nobody, &[fed]), ["b.test:80 as b.test:80/_matrix/x"]);
    assert_eq!(found("b.test", delegates("c.test:80"), &[fed]), [asks, "c.test:80 as c.test:80/_matrix/x"]);
    assert_eq!(found("b.test", delegates("1.2.3.4"), &[fed]), [asks, "1.2.3.4:8448/_matrix/x"]);
    assert_eq!(found("b.test", delegates("c.test"), &[fed]), [asks, "c.test:8448/_matrix/x"]);
    assert_eq!(found("b.test", delegates("b.test"), &[fed, old]), [asks, "fed.test:10 as b.test/_matrix/x"]);
    assert_eq!(found("b.test", nobody, &[old]), [asks, "old.test:11 as b.test/_matrix/x"]);
    assert_eq!(found("b.test", |_| ok("{}"), &[]), [asks, "b.test:8448/_matrix/x"]);
    assert_eq!(found("b.test", |_| status(StatusCode::NOT_FOUND), &[]), [asks, "b.test:8448/_matrix/x"]);
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    fn to(location: String) -> Answered {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(&location).unwrap())]);
        Ok((StatusCode::FOUND, headers, "".into()))
    }
    let once = |asked: &str| match asked {
        "b.test/.well-known/matrix/server" => to("https://www.b.test/x".to_owned()),
        _ => ok(json!({ "m.server": "c.test:1" }).to_string()),
    };
    let places = found("b.test", once, &[]);
    assert_eq!(places, ["b.test:443/.well-known/matrix/server", "www.b.test:443/x", "c.test:1 as c.test:1/_matrix/x"]);
    let in_circles = found("b.test", |_| to("/.well-known/matrix/server".to_owned()), &[]);
    assert_eq!((in_circles.len(), in_circles.last().unwrap().as_str()), (7, "b.test:8448/_matrix/x"));
    let insecure = found("b.test", |_| to("http://www.b.test/x".to_owned()), &[]);
    assert_eq!(insecure.len(), 2);
}

#[test]
fn a_server_that_is_not_where_it_was_is_looked_for_again() {
    let server = TestServer::new(&[]);
    let asked = Asked::default();
    let notes = asked.clone();
    let moved = Rc::new(RefCell::new("c.test:1"));
    let place = moved.clone();
    server.others_answer(move |request| {
        noted(&notes, request);
        match (&*request.peer.host, *place.borrow()) {
            ("b.test", place) => ok(json!({ "m.server": place }).to_string()),
            (host, place) if place.starts_with(host) => ok("{}"),
            _ => unreachable(),
        }
    });
    let b = server_name!("b.test");
    let ask = || block_on(server.context().ask_raw(b, Method::GET, "/_matrix/x", None, Bounds::default()));
    ask().unwrap();
    *moved.borrow_mut() = "d.test:1";
    assert!(matches!(ask(), Err(AskError::Unreachable(_))));
    ask().unwrap();
    assert_eq!(asked.borrow().last().unwrap(), "d.test:1 as d.test:1/_matrix/x");
}

#[test]
fn what_others_say_is_told_apart() {
    let ask = |answered: fn() -> Answered| {
        let server = TestServer::new(&[]);
        server.others_answer(move |_| answered());
        block_on(server.context().ask(server_name!("b.test:1"), profile::Request::new(owned_user_id!("@bob:b.test:1"))))
    };
    let named = ask(|| ok(r#"{"displayname":"Bob"}"#)).unwrap();
    assert_eq!(named.get("displayname"), Some(&json!("Bob")));
    let no = || {
        let body = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Slow down","retry_after_ms":5}"#;
        Ok((StatusCode::TOO_MANY_REQUESTS, HeaderMap::new(), body.into()))
    };
    let Err(AskError::Refused { status: told, errcode, message, body }) = ask(no) else { panic!() };
    assert_eq!((told.as_u16(), &*errcode, &*message), (429, "M_LIMIT_EXCEEDED", "Slow down"));
    assert_eq!(body["retry_after_ms"], 5);
    assert!(matches!(ask(unreachable), Err(AskError::Unreachable(_))));
    assert!(matches!(ask(|| Err(SendError::TimedOut)), Err(AskError::Unreachable(_))));
    assert!(matches!(ask(|| status(StatusCode::BAD_GATEWAY)), Err(AskError::Unreachable(_))));
    assert!(matches!(ask(|| status(StatusCode::NOT_FOUND)), Err(AskError::Nonsense(_))));
    assert!(matches!(ask(|| status(StatusCode::FOUND)), Err(AskError::Nonsense(_))));
    assert!(matches!(ask(|| ok("[")), Err(AskError::Nonsense(_))));
    assert!(matches!(ask(|| ok(vec![b' '; 9 << 20])), Err(AskError::TooLarge)));
}

/// Servers with such names were in rooms before there was a grammar.
#[test]
fn an_alias_is_known_although_a_name_of_a_server_is_none() {
    let (server, _) = server_among(vec![], &[]);
    let alice = server.register("alice");
    for (servers, told) in [
        (json!({ "servers": ["my_host.lan", "c.test"] }), json!(["c.test"])),
        (json!({ "servers": ["my_host.lan"] }), json!(["b.test:1"])),
        (json!({}), json!(["b.test:1"])),
    ] {
        server.others_answer(move |_| {
            let mut answer = servers.clone();
            answer["room_id"] = json!("!tea:b.test");
            ok(answer.to_string())
        });
        let (status, found) = server.get("/_matrix/client/v3/directory/room/%23tea:b.test:1", &alice);
        assert_eq!((status, &found["room_id"], &found["servers"]), (StatusCode::OK, &json!("!tea:b.test"), &told));
    }
}

#[test]
fn what_another_server_does_not_tell_is_told_apart() {
    let (server, _) = server_among(vec![], &[]);
    let alice = server.register("alice");
    let profile = "/_matrix/client/v3/profile/@bob:b.test:1";
    let alias = "/_matrix/client/v3/directory/room/%23tea:b.test:1";
    let directory = "/_matrix/client/v3/publicRooms?server=b.test:1";
    for (told, errcode, expected) in [
        (403, "M_FORBIDDEN", (403, "M_FORBIDDEN")),
        (429, "M_LIMIT_EXCEEDED", (429, "M_LIMIT_EXCEEDED")),
        (404, "M_NOT_FOUND", (404, "M_NOT_FOUND")),
        (404, "M_UNRECOGNIZED", (502, "M_UNKNOWN")),
        (401, "M_UNAUTHORIZED", (502, "M_UNKNOWN")),
        (500, "M_UNKNOWN", (502, "M_UNKNOWN")),
    ] {
        server.others_answer(move |_| {
            let body = json!({ "errcode": errcode, "error": "No", "retry_after_ms": 7 }).to_string();
            Ok((StatusCode::from_u16(told).unwrap(), HeaderMap::new(), body.into()))
        });
        for path in [profile, alias, directory] {
            let (status, body) = server.get(path, &alice);
            assert_eq!(body["retry_after_ms"] == 7, told == 429, "{path}: {body}");
            assert_eq!(refused((status, body)), (expected.0, expected.1.to_owned()), "{path}");
        }
    }
}
