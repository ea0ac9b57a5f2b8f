use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use platform::{OutgoingRequest, Scheme, SendError};
use serde_json::{Value, json};

use super::{HELD_MS, KEPT_MAX, KEPT_MS, tend};
use crate::testing::{Answered, TestServer, block_on, refused};

const PATH: &str = "/_matrix/client/v1/media/preview_url";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02\x08\x06\0\0\0";

fn answers(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answered {
    Ok((status, HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]), body.into()))
}

fn server() -> (TestServer, String) {
    let server = TestServer::new(&[("REGISTRATION", "open"), ("URL_PREVIEWS", "on"), ("URL_PREVIEWS_DENY", "*.evil")]);
    let token = server.register("alice");
    server.others_answer(|request| match &*request.path_and_query {
        "/page" => answers(StatusCode::OK, "text/html", "<title>A page</title><img src=cat.png>"),
        "/plain" => answers(StatusCode::OK, "text/html; charset=koi8-r", &b"<title>\xc1</title>"[..]),
        "/cat.png" => answers(StatusCode::OK, "image/png", PNG),
        "/time" => answers(StatusCode::OK, "text/html", "<title>Now"),
        _ => answers(StatusCode::NOT_FOUND, "text/html", "<title>Nothing here</title>"),
    });
    (server, token)
}

fn asks(server: &TestServer, token: &str, query: &str) -> (StatusCode, Value) {
    server.get(&format!("{PATH}?url={query}"), token)
}

fn is_in_order(server: &TestServer) {
    let (kept, strays, files) = (server.files(), server.strays(), server.blobs.keys());
    for file in &files {
        assert!(kept.contains(file) || strays.contains(file), "{file} belongs to nothing");
    }
    assert!(kept.iter().all(|file| files.contains(file)), "{kept:?} {files:?}");
}

#[test]
fn a_page_and_its_image_are_found_kept_and_forgotten() {
    let (server, token) = server();
    let (status, found) = asks(&server, &token, "https://a.org/page");
    assert_eq!(
        (status, &found["og:title"], &found["matrix:image:size"]),
        (StatusCode::OK, &json!("A page"), &json!(PNG.len()))
    );
    assert_eq!((&found["og:image:width"], &found["og:image:height"]), (&json!(3), &json!(2)));
    let image = found["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap();
    let download = format!("/_matrix/client/v1/media/download/{image}");
    assert_eq!(server.get(&download, &token).0, StatusCode::OK);
    server.others_answer(|_| Err(SendError::TimedOut));
    assert_eq!(asks(&server, &token, "https://a.org/page%23part").1, found, "nobody is asked again");
    server.pass_ms(KEPT_MS + 1);
    block_on(tend(server.context().services())).unwrap();
    assert_eq!(server.get(&download, &token).0, StatusCode::NOT_FOUND);
    assert_eq!(server.numbers("SELECT count(*) FROM url_preview"), [0]);
    assert_eq!(refused(asks(&server, &token, "https://a.org/page")), (502, "M_UNKNOWN".to_owned()));
    is_in_order(&server);
}

#[test]
fn what_an_administrator_protects_stays() {
    let (server, token) = server();
    asks(&server, &token, "https://a.org/page");
    server.numbers("UPDATE media SET protected = 1 RETURNING 1");
    server.pass_ms(KEPT_MS + 1);
    block_on(tend(server.context().services())).unwrap();
    let left = ["SELECT count(*) FROM media", "SELECT count(*) FROM url_preview"].map(|sql| server.numbers(sql));
    assert_eq!(left, [[1], [0]]);
}

#[test]
fn who_asks_what_was_there_is_told_that_or_what_came_after() {
    let (server, token) = server();
    let begun_ms = server.context().now_ms();
    let told = |what: &'static str| {
        server.others_answer(move |_| answers(StatusCode::OK, "text/html", format!("<title>{what}")));
    };
    let asks_at = |ts: u64| asks(&server, &token, &format!("https://a.org/&ts={ts}")).1["og:title"].clone();
    told("first");
    assert_eq!(asks_at(begun_ms + 99 * HELD_MS), "first", "in the future it is as now");
    server.pass_ms(HELD_MS);
    told("second");
    assert_eq!(asks(&server, &token, "https://a.org/").1["og:title"], "second");
    for (ts, expected) in [
        (0, "first"),
        (begun_ms, "first"),
        (begun_ms + HELD_MS - 1, "first"),
        (begun_ms + HELD_MS, "second"),
        (begun_ms + 2 * HELD_MS, "second"),
    ] {
        assert_eq!(asks_at(ts), expected, "{}", ts.saturating_sub(begun_ms));
    }
}

#[test]
fn they_are_not_kept_without_end() {
    let (server, token) = server();
    let many = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {})
         INSERT INTO url_preview SELECT 'old' || n, 1, {} + n, '', NULL FROM n RETURNING 1",
        KEPT_MAX + 7,
        server.context().now_ms() - KEPT_MAX - 10,
    );
    server.numbers(many.leak());
    asks(&server, &token, "https://a.org/time");
    block_on(tend(server.context().services())).unwrap();
    assert_eq!(server.numbers("SELECT count(*) FROM url_preview"), [KEPT_MAX as i64]);
    assert_eq!(server.numbers("SELECT count(*) FROM url_preview WHERE expires_ms > 1"), [1]);
}

#[test]
fn a_failure_is_not_repeated_at_once() {
    let (server, token) = server();
    assert_eq!(refused(asks(&server, &token, "https://a.org/nothing")), (502, "M_UNKNOWN".to_owned()));
    server.others_answer(|_| answers(StatusCode::OK, "text/html", "<title>There"));
    assert_eq!(asks(&server, &token, "https://a.org/nothing").0, StatusCode::BAD_GATEWAY);
    server.pass_ms(60_000);
    assert_eq!(asks(&server, &token, "https://a.org/nothing").1["og:title"], "There");
}

#[test]
fn whom_we_ask_is_as_the_url_says() {
    let (server, token) = server();
    for (url, host, port, scheme, header) in [
        ("https://a.org/x?y=%2520z", "a.org", 443, Scheme::Https, "a.org"),
        ("http://A.org:8080/x?y=%2520z", "a.org", 8080, Scheme::Http, "a.org:8080"),
        ("https://[2606:4700::1111]:1/x?y=%2520z", "2606:4700::1111", 1, Scheme::Https, "[2606:4700::1111]:1"),
    ] {
        server.others_answer(move |OutgoingRequest { peer, path_and_query, headers, .. }| {
            assert_eq!((&*peer.host, peer.port, peer.scheme, &*peer.host_header), (host, port, scheme, header));
            assert_eq!((&*peer.certificate_name, &**path_and_query), (host, "/x?y=%20z"));
            assert!(!headers.contains_key(header::AUTHORIZATION));
            answers(StatusCode::OK, "text/html", "<title>There")
        });
        assert_eq!(asks(&server, &token, url).1["og:title"], "There", "{url}");
    }
    for url in ["https://x.evil/", "http://X.EVIL:80/", "https://x.evil./"] {
        assert_eq!(refused(asks(&server, &token, url)), (403, "M_FORBIDDEN".to_owned()), "{url}");
    }
    for url in ["", "a.org", "ftp://a.org/", "file:///etc/passwd"] {
        assert_eq!(refused(asks(&server, &token, url)), (400, "M_INVALID_PARAM".to_owned()), "{url}");
    }
    assert_eq!(refused(server.get(PATH, &token)), (400, "M_MISSING_PARAM".to_owned()));
}

#[test]
fn a_store_that_fails_leaves_at_most_a_stray() {
    let (server, token) = server();
    for calls in 0..2 {
        server.blobs.fails_after(calls);
        let _ = asks(&server, &token, &format!("https://a.org/cat.png?{calls}"));
        let _ = asks(&server, &token, "https://a.org/page");
        server.blobs.fails_after(usize::MAX);
        is_in_order(&server);
    }
}
