//! Media of a server that the test plays.

use std::{cell::RefCell, rc::Rc};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use platform::{OutgoingRequest, SendError};
use serde_json::{Value, json};

use crate::{
    media::tend::tend,
    testing::{Answered, TestServer, block_on, refused},
};

const FILE: &str = "/_matrix/client/v1/media/download/b.test:1/abc";
const DEPRECATED: &str = "/_matrix/media/v3/download/b.test:1/abc";
const DAY_MS: u64 = 86_400_000;

type Asked = Rc<RefCell<Vec<OutgoingRequest>>>;

/// Our server, and others that answer like this.
fn among(
    pairs: &[(&str, &str)],
    answer: impl Fn(&OutgoingRequest) -> Answered + 'static,
) -> (TestServer, String, Asked) {
    let server = TestServer::new(&[&[("REGISTRATION", "open"), ("MAX_UPLOAD_SIZE", "10")], pairs].concat());
    let token = server.register("alice");
    let asked = Asked::default();
    let notes = asked.clone();
    server.others_answer(move |request| {
        notes.borrow_mut().push(request.clone());
        answer(request)
    });
    (server, token, asked)
}

fn headers(all: &[(header::HeaderName, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
}

fn enclosed(part: &str, content: &str) -> Answered {
    let body = format!("--x\r\n\r\n{{}}\r\n--x\r\n{part}\r\n\r\n{content}\r\n--x--\r\n");
    Ok((StatusCode::OK, headers(&[(header::CONTENT_TYPE, "multipart/mixed; boundary=x")]), body.into()))
}

fn no(status: u16, errcode: &str) -> Answered {
    let body = json!({ "errcode": errcode, "error": "No" }).to_string();
    Ok((StatusCode::from_u16(status).unwrap(), HeaderMap::new(), body.into()))
}

fn gets(server: &TestServer, token: &str, path: &str) -> http::Response<bytes::Bytes> {
    let request = Request::builder().method(Method::GET).uri(path);
    server.answer(request.header(header::AUTHORIZATION, format!("Bearer {token}")).body("".into()).unwrap())
}

#[test]
fn a_file_is_fetched_once_and_kept() {
    let (server, token, asked) = among(&[], |_| {
        enclosed("Content-Type: image/png\r\nContent-Disposition: attachment; filename*=utf-8''k%C3%A4.png", "abc")
    });
    for _ in 0..3 {
        let answer = gets(&server, &token, FILE);
        assert_eq!((answer.status(), &**answer.body()), (StatusCode::OK, &b"abc"[..]));
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "image/png");
        assert_eq!(answer.headers()[header::CONTENT_DISPOSITION], "inline; filename*=utf-8''k%C3%A4.png");
    }
    let asked = asked.borrow();
    let [request] = &**asked else { panic!("{asked:?}") };
    assert_eq!(request.path_and_query, "/_matrix/federation/v1/media/download/abc?timeout_ms=20000");
    assert_eq!((&*request.peer.host_header, request.response_bytes_max), ("b.test:1", 10 + 65_536));
    assert!(request.headers[header::AUTHORIZATION].to_str().unwrap().starts_with("X-Matrix origin="));
    assert_eq!((server.files().len(), server.strays().len()), (1, 0));
}

#[test]
fn what_is_said_of_a_file_is_taken_over_if_it_may_be() {
    let long = "x".repeat(2_000);
    for (part, content_type, disposition) in [
        ("X: y".to_owned(), "application/octet-stream", "attachment"),
        ("Content-Type: text/plain\r\nContent-Disposition: inline".to_owned(), "text/plain", "inline"),
        (format!("Content-Type: {long}"), "application/octet-stream", "attachment"),
        (format!("Content-Disposition: inline; filename={long}"), "application/octet-stream", "attachment"),
        ("Content-Disposition: inline; filename*=utf-8''a%0Ab".to_owned(), "application/octet-stream", "attachment"),
    ] {
        let (server, token, _) = among(&[], move |_| enclosed(&part, ""));
        let answer = gets(&server, &token, FILE);
        assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 0));
        assert_eq!(answer.headers()[header::CONTENT_TYPE], content_type);
        assert_eq!(answer.headers()[header::CONTENT_DISPOSITION], disposition);
    }
}

#[test]
fn why_a_file_is_not_to_be_had() {
    type Other = fn() -> Answered;
    let cases: [(Other, u16, &str); 13] = [
        (|| no(404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"),
        (|| no(404, "M_UNRECOGNIZED"), 502, "M_UNKNOWN"),
        (|| no(504, "M_NOT_YET_UPLOADED"), 504, "M_NOT_YET_UPLOADED"),
        (|| no(502, "M_TOO_LARGE"), 502, "M_TOO_LARGE"),
        (|| no(403, "M_FORBIDDEN"), 502, "M_UNKNOWN"),
        (|| no(429, "M_LIMIT_EXCEEDED"), 502, "M_UNKNOWN"),
        (|| Err(SendError::Unreachable("nobody".to_owned())), 502, "M_UNKNOWN"),
        (|| Err(SendError::TooLarge(10)), 502, "M_TOO_LARGE"),
        (|| enclosed("X: y", "01234567890"), 502, "M_TOO_LARGE"),
        (|| enclosed("X: y", &"x".repeat(70_000)), 502, "M_TOO_LARGE"),
        (|| Ok((StatusCode::OK, HeaderMap::new(), "abc".into())), 502, "M_UNKNOWN"),
        (
            || {
                let told = headers(&[(header::CONTENT_TYPE, "multipart/mixed; boundary=x")]);
                Ok((StatusCode::OK, told, "--x\r\n\r\n{}\r\n--x\r\n\r\ncut o".into()))
            },
            502,
            "M_UNKNOWN",
        ),
        (|| Ok((StatusCode::NOT_FOUND, HeaderMap::new(), "<html>".into())), 502, "M_UNKNOWN"),
    ];
    for (number, (answer, status, errcode)) in cases.into_iter().enumerate() {
        let (server, token, _) = among(&[], move |_| answer());
        assert_eq!(refused(server.get(FILE, &token)), (status, errcode.to_owned()), "case {number}");
        assert_eq!((server.blobs.keys(), server.strays()), (vec![], vec![]), "case {number}");
    }
}

#[test]
fn who_waits_has_the_other_server_wait() {
    let (server, token, asked) = among(&[], |_| no(504, "M_NOT_YET_UPLOADED"));
    for (query, told) in [("?timeout_ms=5", "timeout_ms=5"), ("?timeout_ms=999999", "timeout_ms=60000")] {
        server.get(&format!("{FILE}{query}"), &token);
        assert!(asked.borrow().last().unwrap().path_and_query.ends_with(told), "{query}");
        server.pass_ms(1_000);
    }
}

#[test]
fn nobody_waits_longer_for_an_upload_for_others_having_waited() {
    let (server, token, asked) = among(&[], |_| no(504, "M_NOT_YET_UPLOADED"));
    let begun_ms = server.context().now_ms();
    // Who asks, when that is over, and how often the other server was asked by then.
    for (timeout_ms, ended_ms, times) in [(5, 0, 1), (0, 0, 1), (500, 500, 1), (3_000, 1_500, 2)] {
        let refused = refused(server.get(&format!("{FILE}?timeout_ms={timeout_ms}"), &token));
        assert_eq!(refused, (504, "M_NOT_YET_UPLOADED".to_owned()));
        assert_eq!((server.context().now_ms() - begun_ms, asked.borrow().len()), (ended_ms, times), "{timeout_ms}");
    }
    assert!(asked.borrow().last().unwrap().path_and_query.ends_with("timeout_ms=2000"), "what is left of the time");
}

#[test]
fn what_was_refused_is_not_asked_for_again_at_once() {
    let (server, token, asked) = among(&[], |_| no(404, "M_NOT_FOUND"));
    for _ in 0..3 {
        assert_eq!(refused(server.get(FILE, &token)), (404, "M_NOT_FOUND".to_owned()));
    }
    assert_eq!(asked.borrow().len(), 1);
    server.get(&format!("{FILE}d"), &token);
    assert_eq!(asked.borrow().len(), 2, "another file is asked for");
    server.pass_ms(10_001);
    server.get(FILE, &token);
    assert_eq!(asked.borrow().len(), 3);
}

#[test]
fn old_servers_are_asked_as_they_know_it() {
    let (server, token, asked) = among(&[], |request| {
        if request.path_and_query.starts_with("/_matrix/federation") {
            return no(404, "M_UNRECOGNIZED");
        }
        let told = headers(&[(header::CONTENT_TYPE, "a/b"), (header::CONTENT_DISPOSITION, "inline; filename=c.d")]);
        Ok((StatusCode::OK, told, "abc".into()))
    });
    let answer = gets(&server, &token, FILE);
    assert_eq!((answer.status(), &**answer.body()), (StatusCode::OK, &b"abc"[..]));
    assert_eq!(answer.headers()[header::CONTENT_DISPOSITION], "attachment; filename=c.d");
    let asked = asked.borrow();
    let last = asked.last().unwrap();
    let path = "/_matrix/media/v3/download/b.test:1/abc?allow_remote=false&timeout_ms=20000";
    assert_eq!((asked.len(), &*last.path_and_query), (2, path));
    assert!(!last.headers.contains_key(header::AUTHORIZATION));
}

/// What is got of a file whose server says that it is at this place, and where it was looked for.
fn located(location: &'static str) -> (StatusCode, Vec<String>) {
    let (server, token, asked) = among(&[], move |request| match &*request.path_and_query {
        "/file" => Ok((StatusCode::OK, headers(&[(header::CONTENT_TYPE, "a/b")]), "abc".into())),
        "/moved" => Ok((StatusCode::FOUND, headers(&[(header::LOCATION, "https://d.test/file")]), "".into())),
        "/insecure" => Ok((StatusCode::FOUND, headers(&[(header::LOCATION, "http://d.test/file")]), "".into())),
        "/circle" => Ok((StatusCode::FOUND, headers(&[(header::LOCATION, "/circle")]), "".into())),
        "/private" => Err(SendError::PrivateAddress),
        "/gone" => Ok((StatusCode::NOT_FOUND, HeaderMap::new(), "".into())),
        "/large" => Ok((StatusCode::OK, HeaderMap::new(), "01234567890".into())),
        _ => enclosed(&format!("Location: {location}"), ""),
    });
    let answer = gets(&server, &token, FILE);
    if answer.status() == StatusCode::OK {
        assert_eq!((&**answer.body(), &answer.headers()[header::CONTENT_TYPE]), (&b"abc"[..], &"a/b".parse().unwrap()));
    }
    let asked = asked.borrow();
    for request in asked.iter().skip(1) {
        assert!(!request.headers.contains_key(header::AUTHORIZATION), "nobody else gets our signature");
    }
    let asked = asked.iter().skip(1).map(|request| format!("{}{}", request.peer.host_header, request.path_and_query));
    (answer.status(), asked.collect())
}

#[test]
fn a_file_may_be_elsewhere() {
    assert_eq!(located("https://c.test/file"), (StatusCode::OK, vec!["c.test/file".to_owned()]));
    let moved = ["c.test:8/moved", "d.test/file"].map(str::to_owned).to_vec();
    assert_eq!(located("https://user:secret@c.test:8/moved"), (StatusCode::OK, moved));
    for (location, looked) in [
        ("http://c.test/file", 0),
        ("file:///etc/passwd", 0),
        ("/file", 0),
        ("https://c.test/insecure", 1),
        ("https://c.test/private", 1),
        ("https://c.test/gone", 1),
        ("https://c.test/large", 1),
        ("https://c.test/circle", 6),
    ] {
        let (status, asked) = located(location);
        assert_eq!((status, asked.len()), (StatusCode::BAD_GATEWAY, looked), "{location}");
    }
}

#[test]
fn the_deprecated_endpoints_fetch_only_what_they_may_show() {
    let (server, token, asked) = among(&[], |_| enclosed("X: y", "abc"));
    assert_eq!(refused(server.get(DEPRECATED, "")), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(asked.borrow().len(), 0);
    assert_eq!(server.get(FILE, &token).0, StatusCode::OK);
    assert_eq!(refused(server.get(DEPRECATED, "")), (404, "M_NOT_FOUND".to_owned()), "it was fetched after the freeze");

    let (server, _, asked) = among(&[("AUTHENTICATED_MEDIA", "off")], |_| enclosed("X: y", "abc"));
    let local_only = format!("{DEPRECATED}?allow_remote=false");
    assert_eq!(refused(server.get(&local_only, "")), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(asked.borrow().len(), 0);
    for path in [DEPRECATED, &local_only] {
        assert_eq!(server.get(path, "").0, StatusCode::OK, "{path}");
    }
    assert_eq!(asked.borrow().len(), 1);
}

#[test]
fn without_federation_there_is_nothing_to_fetch() {
    let (server, token, asked) = among(&[("FEDERATION_DENY", "b.test")], |_| enclosed("X: y", "abc"));
    assert_eq!(refused(server.get(FILE, &token)), (403, "M_FORBIDDEN".to_owned()));
    let (silent, silent_token, silence) = among(&[("FEDERATION", "off")], |_| enclosed("X: y", "abc"));
    assert_eq!(refused(silent.get(FILE, &silent_token)), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(asked.borrow().len() + silence.borrow().len(), 0);
}

#[test]
fn nobody_has_us_fetch_without_end() {
    let limits = [("RATE_LIMITS", "on"), ("RC_REMOTE_MEDIA", "0.001,2")];
    let (server, token, asked) = among(&limits, |_| enclosed("X: y", "abc"));
    let statuses: Vec<_> = (0..4).map(|number| server.get(&format!("{FILE}{number}"), &token).0.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(server.get(&format!("{FILE}0"), &token).0, StatusCode::OK, "what is here is no limit's concern");
    assert_eq!(asked.borrow().len(), 2);
}

#[test]
fn copies_go_after_their_own_time_and_come_again() {
    let (server, token, asked) = among(&[("REMOTE_MEDIA_RETENTION", "10")], |_| enclosed("X: y", "abc"));
    let upload = Request::post("/_matrix/media/v3/upload").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let ours: Value = serde_json::from_slice(server.answer(upload.body("ours".into()).unwrap()).body()).unwrap();
    let ours = ours["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    assert_eq!(server.get(FILE, &token).0, StatusCode::OK);
    let tends = || block_on(tend(server.context().services())).unwrap();
    server.pass_ms(9 * DAY_MS);
    assert_eq!(server.get(FILE, &token).0, StatusCode::OK);
    server.pass_ms(9 * DAY_MS);
    tends();
    assert_eq!(server.blobs.keys().len(), 2);
    server.pass_ms(2 * DAY_MS + 1);
    tends();
    assert_eq!((server.blobs.keys().len(), asked.borrow().len()), (1, 1));
    assert_eq!(server.get(FILE, &token).0, StatusCode::OK);
    assert_eq!(asked.borrow().len(), 2);
    assert_eq!(server.get(&format!("/_matrix/client/v1/media/download/{ours}"), &token).0, StatusCode::OK);
}

#[test]
fn the_same_content_of_two_servers_lies_in_one_file() {
    let (server, token, _) = among(&[], |_| enclosed("X: y", "abc"));
    server.get(FILE, &token);
    server.get(&FILE.replace("b.test", "c.test"), &token);
    assert_eq!((server.blobs.keys().len(), server.files().len(), server.strays().len()), (1, 1, 0));
}

#[test]
fn a_store_that_fails_leaves_at_most_a_stray() {
    for calls in 0..3 {
        let (server, token, _) = among(&[], |_| enclosed("X: y", "abc"));
        server.blobs.fails_after(calls);
        let _ = server.get(FILE, &token);
        server.blobs.fails_after(usize::MAX);
        let (kept, strays) = (server.files(), server.strays());
        assert!(server.blobs.keys().iter().all(|file| kept.contains(file) || strays.contains(file)));
        assert!(kept.iter().all(|file| server.blobs.keys().contains(file)));
        assert_eq!(server.get(FILE, &token).0, StatusCode::OK, "it is tried again");
    }
}

#[test]
fn who_has_too_large_a_file_is_asked_for_others() {
    let (server, token, _) = among(&[], |request| {
        let is_large = request.path_and_query.contains("/large");
        if is_large { Err(SendError::TooLarge(10)) } else { enclosed("X: y", "abc") }
    });
    assert_eq!(refused(server.get(&FILE.replace("abc", "large"), &token)), (502, "M_TOO_LARGE".to_owned()));
    assert_eq!(server.get(FILE, &token).0, StatusCode::OK);
}
