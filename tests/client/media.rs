//! Spec: client-server API, «Content repository»: uploading and downloading.

use std::io::{self, Read};

use harness::{Answer, Client, SERVER_NAME, Server, User, Value, encode, json, on_each_host, query};

on_each_host![
    what_is_uploaded_is_downloaded,
    what_clients_say_of_a_picture_goes_with_it,
    the_same_content_is_two_media,
    a_large_file_goes_through_in_either_way,
    what_is_too_large_is_refused,
    an_empty_file_is_a_file,
    names_come_back_as_they_went,
    only_safe_types_are_shown_inline,
    parts_of_a_file,
    what_a_client_has_is_not_sent_again,
    media_that_is_not_there,
    the_deprecated_endpoints_are_frozen,
    before_the_freeze_everyone_is_served,
    content_comes_later,
    whoever_waits_for_content_gets_it,
    content_is_given_once_and_by_its_creator,
    nobody_reserves_without_end,
    an_upload_that_breaks_off_leaves_nothing,
    guests_look_and_do_not_upload,
    uploads_are_rate_limited,
    the_configuration_is_told,
    media_survives_the_servers_death,
];

const DOWNLOAD: &str = "/_matrix/client/v1/media/download";
const DEPRECATED: &str = "/_matrix/media/v3/download";
const UPLOAD: &str = "/_matrix/media/v3/upload";
const CREATE: &str = "/_matrix/media/v1/create";

/// Uploads and answers the part of the URI after `mxc://`.
#[track_caller]
pub fn uploads(user: &User, content_type: &str, name: Option<&str>, bytes: impl Into<Vec<u8>>) -> String {
    user.uploads(content_type, name, bytes)
}

#[track_caller]
fn mxc(answer: &Value) -> String {
    let uri = answer["content_uri"].as_str().unwrap_or_default();
    uri.strip_prefix("mxc://").unwrap_or_else(|| panic!("no mxc:// URI in {answer}")).to_owned()
}

fn creates(user: &User) -> (String, Value) {
    let created = user.client().post(CREATE, json!({})).ok();
    (mxc(&created), created)
}

fn downloads(client: &Client, mxc: &str) -> Answer {
    client.get(&format!("{DOWNLOAD}/{mxc}"))
}

fn asks(user: &User, mxc: &str, headers: &[(&str, &str)]) -> Answer {
    user.client().send_bytes("GET", &format!("{DOWNLOAD}/{mxc}"), headers, None)
}

#[track_caller]
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.header(name).unwrap_or_else(|| panic!("no {name} in {answer:?}"))
}

/// Bytes of which each says where it stands.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

fn what_is_uploaded_is_downloaded(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let content = bytes(100_000);
    let mxc = uploads(&alice, "image/png", Some("cat.png"), content.clone());
    let (name, id) = mxc.split_once('/').expect("a server and an id");
    assert_eq!(name, SERVER_NAME);
    assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{id}");
    for user in [&alice, &bob] {
        let answer = downloads(user.client(), &mxc);
        assert_eq!((answer.status, answer.bytes == content), (200, true));
        assert_eq!(header(&answer, "content-type"), "image/png");
        assert_eq!(header(&answer, "content-length"), "100000");
        assert_eq!(header(&answer, "content-disposition"), "inline; filename=cat.png");
        assert_eq!(header(&answer, "cross-origin-resource-policy"), "cross-origin");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "access-control-allow-origin"), "*");
        let policy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
        assert_eq!(header(&answer, "content-security-policy"), policy);
    }
    let answer = downloads(bob.client(), &format!("{mxc}/dog.png"));
    assert_eq!((answer.status, answer.bytes == content), (200, true));
    assert_eq!(header(&answer, "content-disposition"), "inline; filename=dog.png");
    let head = bob.client().send("HEAD", &format!("{DOWNLOAD}/{mxc}"), None);
    assert_eq!((head.status, head.bytes.len(), header(&head, "content-length")), (200, 0, "100000"));
    downloads(&server.anonymous(), &mxc).refused(401, "M_MISSING_TOKEN");
    server.anonymous().send("POST", UPLOAD, Some("x".to_owned())).refused(401, "M_MISSING_TOKEN");
}

/// Whatever the specification does not know yet is for clients to agree on: what a picture looks like before it is
/// there, say.
fn what_clients_say_of_a_picture_goes_with_it(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let room = alice.creates_room_with(&[&bob]);
    let mxc = uploads(&alice, "image/jpeg", Some("cat.jpg"), bytes(1_000));
    let info = json!({
        "mimetype": "image/jpeg", "w": 4, "h": 3, "size": 1_000, "is_animated": true, "blurhash": "LEHV6nWB2yk8pyo0adR*.7kCMdnj",
        "xyz.amorgan.blurhash": "LEHV6nWB2yk8pyo0adR*.7kCMdnj", "xyz.amorgan.thumbhash": "1QcSHQRnh493V4dIh4eXh1h4kJUI",
        "thumbnail_url": format!("mxc://{mxc}"), "thumbnail_info": { "w": 1, "blurhash": "L00000fQfQfQ" },
    });
    let content = json!({
        "msgtype": "m.image", "body": "cat.jpg", "filename": "cat.jpg", "url": format!("mxc://{mxc}"), "info": info,
        "page.codeberg.everypizza.msc4193.spoiler": true,
    });
    let sent = alice.sends_event(&room, "m.room.message", "t", content.clone()).ok();
    let avatar = json!({ "url": format!("mxc://{mxc}"), "info": info });
    alice.sets_state(&room, "m.room.avatar", "", avatar.clone()).ok();
    let timeline = bob.syncs().timeline(&room);
    let seen: Vec<_> = timeline[timeline.len() - 2..].iter().map(|event| &event["content"]).collect();
    assert_eq!(seen, [&content, &avatar]);
    let event = sent["event_id"].as_str().expect("an id");
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(event));
    assert_eq!(bob.client().get(&path).ok()["content"], content);
    let answer = downloads(bob.client(), &mxc);
    assert!(answer.bytes == bytes(1_000) && answer.header("content-type") == Some("image/jpeg"));
}

fn the_same_content_is_two_media(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let first = uploads(&alice, "text/plain", Some("a.txt"), "the same");
    let second = uploads(&bob, "text/html", None, "the same");
    assert_ne!(first, second);
    let (first, second) = (downloads(alice.client(), &first), downloads(alice.client(), &second));
    assert_eq!((&*first.text, &*second.text), ("the same", "the same"));
    assert_eq!(header(&first, "content-disposition"), "inline; filename=a.txt");
    assert_eq!((header(&second, "content-type"), header(&second, "content-disposition")), ("text/html", "attachment"));
}

fn a_large_file_goes_through_in_either_way(server: &Server) {
    let alice = server.registers("alice");
    let content = bytes(20_000_003);
    let known = uploads(&alice, "video/mp4", None, content.clone());
    let headers = [("Content-Type", "video/mp4")];
    let unknown = mxc(&alice.client().send_chunks("POST", UPLOAD, &headers, &content[1..]).ok());
    assert!(downloads(alice.client(), &known).bytes == content);
    assert!(downloads(alice.client(), &unknown).bytes == content[1..]);
}

fn what_is_too_large_is_refused(server: &Server) {
    let server = Server::with(server.host(), &[("MAX_UPLOAD_SIZE", "9M")]);
    let alice = server.registers("alice");
    let size = 9 << 20;
    uploads(&alice, "a/b", None, bytes(size));
    let said = alice.client().send_bytes("POST", UPLOAD, &[], Some(bytes(size + 1)));
    said.refused(413, "M_TOO_LARGE");
    let unsaid = alice.client().send_chunks("POST", UPLOAD, &[], &*bytes(size + 1));
    unsaid.refused(413, "M_TOO_LARGE");
    let (mxc, _) = creates(&alice);
    let path = format!("{UPLOAD}/{mxc}");
    alice.client().send_bytes("PUT", &path, &[], Some(bytes(size + 1))).refused(413, "M_TOO_LARGE");
    alice.client().send_bytes("PUT", &path, &[], Some(bytes(size))).ok();
    let config = alice.client().get("/_matrix/client/v1/media/config").ok();
    assert_eq!(config["m.upload.size"], size);
}

fn an_empty_file_is_a_file(server: &Server) {
    let alice = server.registers("alice");
    for _ in 0..2 {
        let mxc = mxc(&alice.client().send_bytes("POST", UPLOAD, &[], Some(vec![])).ok());
        let answer = downloads(alice.client(), &mxc);
        assert_eq!((answer.status, answer.bytes.len()), (200, 0));
        // Spec: "Defaults to application/octet-stream if it is not set."
        assert_eq!(header(&answer, "content-type"), "application/octet-stream");
        assert_eq!(header(&answer, "content-disposition"), "attachment");
        asks(&alice, &mxc, &[("Range", "bytes=0-")]).status(416);
    }
}

fn names_come_back_as_they_went(server: &Server) {
    let alice = server.registers("alice");
    let unnamed = uploads(&alice, "text/plain", None, "no name");
    for (name, told) in [
        ("War and Peace.pdf", "filename=\"War and Peace.pdf\""),
        ("a\"b\\c.txt", r#"filename="a\"b\\c.txt""#),
        ("Größe 世界.png", "filename*=utf-8''Gr%C3%B6%C3%9Fe%20%E4%B8%96%E7%95%8C.png"),
        ("\u{1F431}", "filename*=utf-8''%F0%9F%90%B1"),
        ("../../etc/passwd", "filename=\"../../etc/passwd\""),
        ("a;b=c", "filename=\"a;b=c\""),
    ] {
        let mxc = uploads(&alice, "text/plain", Some(name), "named");
        let told = format!("inline; {told}");
        assert_eq!(header(&downloads(alice.client(), &mxc), "content-disposition"), told, "{name}");
        let renamed = downloads(alice.client(), &format!("{unnamed}/{}", encode(name)));
        assert_eq!(header(&renamed, "content-disposition"), told, "{name}");
    }
    for name in ["a\nb", "a\0b", &"x".repeat(1_025)] {
        let path = format!("{UPLOAD}{}", query(&[("filename", name)]));
        alice.client().send_bytes("POST", &path, &[], Some(vec![1])).refused(400, "M_INVALID_PARAM");
    }
}

fn only_safe_types_are_shown_inline(server: &Server) {
    let alice = server.registers("alice");
    for (content_type, disposition) in [
        ("image/jpeg", "inline"),
        ("IMAGE/PNG; x=y", "inline"),
        ("text/plain; charset=utf-8", "inline"),
        ("audio/x-flac", "inline"),
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/pdf", "attachment"),
        ("text/javascript", "attachment"),
        ("image/png,text/html", "attachment"),
        ("nonsense", "attachment"),
    ] {
        let mxc = uploads(&alice, content_type, None, "<script>alert(1)</script>");
        let answer = downloads(alice.client(), &mxc);
        assert_eq!(header(&answer, "content-type"), content_type);
        assert_eq!(header(&answer, "content-disposition"), disposition, "{content_type}");
    }
}

fn parts_of_a_file(server: &Server) {
    let alice = server.registers("alice");
    let content = bytes(1_000_000);
    let mxc = uploads(&alice, "video/mp4", None, content.clone());
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-99999", 1_000, 99_999),
        ("bytes=999000-", 999_000, 999_999),
        ("bytes=-10", 999_990, 999_999),
        ("bytes=500000-5000000", 500_000, 999_999),
    ] {
        let answer = asks(&alice, &mxc, &[("Range", range)]);
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.bytes == content[first..=last], "{range}");
        assert_eq!(header(&answer, "content-range"), format!("bytes {first}-{last}/1000000"));
        assert_eq!(header(&answer, "content-length"), (last - first + 1).to_string());
        assert_eq!(header(&answer, "content-type"), "video/mp4");
    }
    let beyond = asks(&alice, &mxc, &[("Range", "bytes=1000000-")]);
    assert_eq!((beyond.status, header(&beyond, "content-range")), (416, "bytes */1000000"));
    for nonsense in ["bytes=9-1", "lines=1-2", "bytes=0-1,5-6"] {
        let answer = asks(&alice, &mxc, &[("Range", nonsense)]);
        assert_eq!((answer.status, answer.bytes.len()), (200, content.len()), "{nonsense}");
        assert_eq!(header(&answer, "accept-ranges"), "bytes");
    }
}

fn what_a_client_has_is_not_sent_again(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "text/plain", None, "content");
    let first = downloads(alice.client(), &mxc);
    let etag = header(&first, "etag");
    assert!(header(&first, "cache-control").contains("private"), "{first:?}");
    let again = asks(&alice, &mxc, &[("If-None-Match", etag)]);
    assert_eq!((again.status, again.bytes.len(), header(&again, "etag")), (304, 0, etag));
    let other = asks(&alice, &mxc, &[("If-None-Match", "\"other\"")]);
    assert_eq!((other.status, &*other.text), (200, "content"));
    let resumed = asks(&alice, &mxc, &[("If-Range", etag), ("Range", "bytes=3-")]);
    assert_eq!((resumed.status, &*resumed.text), (206, "tent"));
    let changed = asks(&alice, &mxc, &[("If-Range", "\"other\""), ("Range", "bytes=3-")]);
    assert_eq!((changed.status, &*changed.text), (200, "content"));
}

fn media_that_is_not_there(server: &Server) {
    let alice = server.registers("alice");
    // Nobody is at home at the other.
    for (name, status, errcode) in [(SERVER_NAME, 404, "M_NOT_FOUND"), ("localhost:1", 502, "M_UNKNOWN")] {
        downloads(alice.client(), &format!("{name}/nothing")).refused(status, errcode);
        downloads(alice.client(), &format!("{name}/nothing/file.txt")).refused(status, errcode);
        server.anonymous().get(&format!("{DEPRECATED}/{name}/nothing")).refused(404, "M_NOT_FOUND");
    }
    // No media has such an id.
    for id in ["..%2F..%2Fetc%2Fpasswd", "a.b", "%C3%A4", &"x".repeat(300)] {
        downloads(alice.client(), &format!("{SERVER_NAME}/{id}")).refused(404, "M_NOT_FOUND");
    }
    downloads(alice.client(), "not%20a%20name/a").refused(400, "M_INVALID_PARAM");
    downloads(alice.client(), &format!("{SERVER_NAME}/a?timeout_ms=soon")).refused(400, "M_INVALID_PARAM");
}

fn the_deprecated_endpoints_are_frozen(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "text/plain", None, "new");
    for client in [&server.anonymous(), alice.client()] {
        client.get(&format!("{DEPRECATED}/{mxc}")).refused(404, "M_NOT_FOUND");
        client.get(&format!("{DEPRECATED}/{mxc}/a.txt?allow_remote=false")).refused(404, "M_NOT_FOUND");
    }
    let (created, _) = creates(&alice);
    server.anonymous().get(&format!("{DEPRECATED}/{created}?timeout_ms=0")).refused(404, "M_NOT_FOUND");
}

fn before_the_freeze_everyone_is_served(server: &Server) {
    let server = Server::with(server.host(), &[("AUTHENTICATED_MEDIA", "off")]);
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "text/plain", Some("a.txt"), "old");
    for path in ["/_matrix/media/v3/download", "/_matrix/media/r0/download"] {
        let answer = server.anonymous().get(&format!("{path}/{mxc}?allow_redirect=true"));
        assert_eq!((answer.status, &*answer.text), (200, "old"));
        assert_eq!(header(&answer, "content-disposition"), "inline; filename=a.txt");
        assert!(header(&answer, "cache-control").contains("public"));
    }
    let renamed = server.anonymous().get(&format!("{DEPRECATED}/{mxc}/b.txt"));
    assert_eq!(header(&renamed, "content-disposition"), "inline; filename=b.txt");
    assert_eq!(downloads(alice.client(), &mxc).text, "old");
    downloads(&server.anonymous(), &mxc).refused(401, "M_MISSING_TOKEN");
    let (late, _) = creates(&alice);
    let answer = server.anonymous().get(&format!("{DEPRECATED}/{late}?timeout_ms=0"));
    answer.refused(504, "M_NOT_YET_UPLOADED");
}

fn content_comes_later(server: &Server) {
    let alice = server.registers("alice");
    let (mxc, created) = creates(&alice);
    let expires_ms = created["unused_expires_at"].as_u64().expect("a time");
    assert!(expires_ms > 1_700_000_000_000, "{created}");
    downloads(alice.client(), &format!("{mxc}?timeout_ms=0")).refused(504, "M_NOT_YET_UPLOADED");
    downloads(alice.client(), &format!("{mxc}?timeout_ms=300")).refused(504, "M_NOT_YET_UPLOADED");
    let path = format!("{UPLOAD}/{mxc}{}", query(&[("filename", "late.txt")]));
    let put = || alice.client().send_bytes("PUT", &path, &[("Content-Type", "text/plain")], Some(b"late".to_vec()));
    assert_eq!(put().ok(), json!({}));
    put().refused(409, "M_CANNOT_OVERWRITE_MEDIA");
    let answer = downloads(alice.client(), &mxc);
    assert_eq!((answer.status, &*answer.text), (200, "late"));
    assert_eq!(header(&answer, "content-type"), "text/plain");
    assert_eq!(header(&answer, "content-disposition"), "inline; filename=late.txt");
}

fn whoever_waits_for_content_gets_it(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (mxc, _) = creates(&alice);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| downloads(bob.client(), &mxc));
        std::thread::sleep(std::time::Duration::from_millis(300));
        alice.client().send_bytes("PUT", &format!("{UPLOAD}/{mxc}"), &[], Some(b"late".to_vec())).ok();
        let waited = waiting.join().expect("Bob is answered");
        assert_eq!((waited.status, &*waited.text), (200, "late"));
    });
}

fn content_is_given_once_and_by_its_creator(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let (mxc, _) = creates(&alice);
    let put = |user: &User, mxc: &str, body: &str| {
        user.client().send_bytes("PUT", &format!("{UPLOAD}/{mxc}"), &[], Some(body.as_bytes().to_vec()))
    };
    put(&bob, &mxc, "not his").refused(403, "M_FORBIDDEN");
    put(&alice, &format!("{SERVER_NAME}/nothing"), "x").refused(404, "M_NOT_FOUND");
    put(&alice, "elsewhere.test/nothing", "x").refused(404, "M_NOT_FOUND");
    let outcomes: Vec<Answer> = std::thread::scope(|scope| {
        let (put, alice, mxc) = (&put, &alice, &mxc);
        let puts: Vec<_> = (0..4).map(|number| scope.spawn(move || put(alice, mxc, &number.to_string()))).collect();
        puts.into_iter().map(|put| put.join().expect("it is answered")).collect()
    });
    let won = outcomes.iter().filter(|answer| answer.status == 200).count();
    let lost = outcomes.iter().filter(|answer| answer.body["errcode"] == "M_CANNOT_OVERWRITE_MEDIA").count();
    assert_eq!((won, lost), (1, 3), "{outcomes:?}");
    let uploaded = uploads(&alice, "a/b", None, "whole");
    put(&alice, &uploaded, "other").refused(409, "M_CANNOT_OVERWRITE_MEDIA");
    assert_eq!(downloads(alice.client(), &uploaded).text, "whole");
}

fn nobody_reserves_without_end(server: &Server) {
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let names: Vec<String> = (0..5).map(|_| creates(&alice).0).collect();
    let refused = alice.client().post(CREATE, json!({})).refused(429, "M_LIMIT_EXCEEDED");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    creates(&bob);
    alice.client().send_bytes("PUT", &format!("{UPLOAD}/{}", names[0]), &[], Some(vec![1])).ok();
    creates(&alice);
}

/// Breaks off after so many bytes.
struct Breaks(usize);

impl Read for Breaks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the client is gone"));
        }
        let length = into.len().min(self.0);
        into[..length].fill(b'x');
        self.0 -= length;
        Ok(length)
    }
}

fn an_upload_that_breaks_off_leaves_nothing(server: &Server) {
    let alice = server.registers("alice");
    let (mxc, _) = creates(&alice);
    let broken = alice.client().try_send_chunks("PUT", &format!("{UPLOAD}/{mxc}"), &[], Breaks(3_000_000));
    assert!(broken.is_err(), "{broken:?}");
    downloads(alice.client(), &format!("{mxc}?timeout_ms=0")).refused(504, "M_NOT_YET_UPLOADED");
    alice.client().send_bytes("PUT", &format!("{UPLOAD}/{mxc}"), &[], Some(b"whole".to_vec())).ok();
    assert_eq!(downloads(alice.client(), &mxc).text, "whole");
}

fn guests_look_and_do_not_upload(server: &Server) {
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    let mxc = uploads(&alice, "text/plain", None, "for all");
    assert_eq!(downloads(guest.client(), &mxc).text, "for all");
    assert_eq!(downloads(guest.client(), &format!("{mxc}/a.txt")).text, "for all");
    let upload = guest.client().send_bytes("POST", UPLOAD, &[], Some(vec![1]));
    upload.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.client().post(CREATE, json!({})).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
}

fn uploads_are_rate_limited(server: &Server) {
    let server = Server::with(server.host(), &[("RATE_LIMITS", "on"), ("RC_MEDIA_CREATE", "0.001,2")]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    uploads(&alice, "a/b", None, "one");
    creates(&alice);
    let refused = alice.client().send_bytes("POST", UPLOAD, &[], Some(vec![1]));
    assert!(refused.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].is_u64());
    alice.client().post(CREATE, json!({})).refused(429, "M_LIMIT_EXCEEDED");
    uploads(&bob, "a/b", None, "another");
}

fn the_configuration_is_told(server: &Server) {
    let alice = server.registers("alice");
    for path in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"] {
        assert_eq!(alice.client().get(path).ok(), json!({ "m.upload.size": 52_428_800 }));
        server.anonymous().get(path).refused(401, "M_MISSING_TOKEN");
    }
}

fn media_survives_the_servers_death(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let alice = server.registers("alice");
    let content = bytes(300_000);
    let mxc = uploads(&alice, "image/png", None, content.clone());
    server.dies_and_returns();
    assert!(downloads(alice.client(), &mxc).bytes == content);
}
