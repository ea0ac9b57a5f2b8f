//! Spec: server-server API, «Content Repository», and what clients see of other servers' media.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{
    Answer, Authority, Homeserver, Host, Https, Reply, SHARED_SECRET, Server, User, json,
    pictures::{encoded, only_a_head, two_colours},
};
use image::{GenericImageView, ImageFormat};

use crate::network::{Federated, on_each_host, ours, ours_with};

on_each_host![
    files_are_seen_on_both_servers,
    content_that_comes_later_is_waited_for_elsewhere,
    one_fetches_for_all_who_ask,
    what_is_too_large_is_not_taken_in,
    a_file_that_breaks_off_is_none,
    a_file_at_another_place_is_looked_for_there,
    nobody_leads_us_to_a_private_address,
    old_servers_are_asked_as_they_know_it,
    administrators_hide_and_purge_copies,
    copies_go_where_there_is_no_room_for_them,
    thumbnails_of_files_on_another_server,
    thumbnails_for_other_servers,
];

const FEDERATION: &str = "/_matrix/federation/v1/media/download";

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

fn id(mxc: &str) -> &str {
    mxc.split_once('/').expect("a server and an id").1
}

/// What a server answers that has a file.
fn enclosed(part: &str, content: &[u8]) -> Reply {
    let headers = vec![("Content-Type".to_owned(), "multipart/mixed; boundary=x".to_owned())];
    Reply::Whole(200, headers, envelope(part, content))
}

fn envelope(part: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--x\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--x\r\n{part}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n--x--\r\n"].concat()
}

#[track_caller]
fn asked_for_media(homeserver: &Homeserver) -> usize {
    homeserver.https.takes_received().iter().filter(|request| request.uri.contains("/media/")).count()
}

fn files_are_seen_on_both_servers(host: Host) {
    let [here, there] = [Federated::starts(host), Federated::starts(Host::Native)];
    let [alice, bob] = [there.server.registers("alice"), here.server.registers("bob")];
    for (from, to, origin) in [(&alice, &bob, &there), (&bob, &alice, &here)] {
        let content = bytes(3_000_001);
        let mxc = from.uploads("video/mp4", Some("Größe 世界.mp4"), content.clone());
        origin.takes_received();
        for _ in 0..2 {
            let seen = to.downloads(&mxc);
            assert_eq!((seen.status, seen.bytes == content), (200, true));
            assert_eq!(seen.header("content-type"), Some("video/mp4"));
            let name = "inline; filename*=utf-8''Gr%C3%B6%C3%9Fe%20%E4%B8%96%E7%95%8C.mp4";
            assert_eq!(seen.header("content-disposition"), Some(name));
        }
        let asked = origin.takes_received().into_iter().filter(|request| request.uri.contains("/media/")).count();
        assert_eq!(asked, 1, "the copy is kept");
        let path = format!("/_matrix/client/v1/media/download/{mxc}");
        let part = to.client().send_bytes("GET", &path, &[("Range", "bytes=1000000-1000009")], None);
        assert_eq!((part.status, &*part.bytes), (206, &content[1_000_000..1_000_010]));
        let empty = from.uploads("text/plain", None, "");
        assert_eq!((to.downloads(&empty).status, to.downloads(&empty).bytes.len()), (200, 0));
        to.downloads(&format!("{}/nothing", origin.name)).refused(404, "M_NOT_FOUND");
        // It was fetched after the freeze.
        to.client().get(&format!("/_matrix/media/v3/download/{mxc}")).refused(404, "M_NOT_FOUND");
    }
}

fn content_that_comes_later_is_waited_for_elsewhere(host: Host) {
    let [here, there] = [Federated::starts(host), Federated::starts(Host::Native)];
    let [alice, bob] = [there.server.registers("alice"), here.server.registers("bob")];
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        let created = from.client().post("/_matrix/media/v1/create", json!({})).ok();
        let mxc = created["content_uri"].as_str().expect("a URI").trim_start_matches("mxc://").to_owned();
        to.downloads(&format!("{mxc}?timeout_ms=0")).refused(504, "M_NOT_YET_UPLOADED");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| to.downloads(&mxc));
            thread::sleep(Duration::from_millis(300));
            let path = format!("/_matrix/media/v3/upload/{mxc}");
            from.client().send_bytes("PUT", &path, &[], Some(b"late".to_vec())).ok();
            let waited = waiting.join().expect("it is answered");
            assert_eq!((waited.status, &*waited.text), (200, "late"));
        });
    }
}

fn one_fetches_for_all_who_ask(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    other.answers(|request| {
        let is_slow = request.uri.contains("/media/");
        is_slow.then(|| {
            Reply::Raw(Box::new(|out| {
                let body = envelope("Content-Type: a/b", &bytes(100_000));
                let (begin, end) = body.split_at(50_000);
                let length = body.len();
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=x\r\nContent-Length: {length}\r\n\r\n"
                )?;
                out.write_all(begin)?;
                out.flush()?;
                thread::sleep(Duration::from_millis(700));
                out.write_all(end)?;
                out.flush()
            }))
        })
    });
    let answers: Vec<Answer> = thread::scope(|scope| {
        let asking: Vec<_> = (0..5).map(|_| scope.spawn(|| alice.downloads(&format!("{}/abc", other.name)))).collect();
        asking.into_iter().map(|asking| asking.join().expect("it is answered")).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.bytes == bytes(100_000)));
    assert_eq!(asked_for_media(&other), 1);
}

fn what_is_too_large_is_not_taken_in(host: Host) {
    let server = ours_with(host, &[("MAX_UPLOAD_SIZE", "1M")]);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    other.answers(|request| match request.uri.split('?').next()?.rsplit('/').next()? {
        "fits" => Some(enclosed("X: y", &bytes(1 << 20))),
        "large" => Some(enclosed("X: y", &bytes((1 << 20) + 1))),
        "larger" => Some(enclosed("X: y", &bytes(3 << 20))),
        "endless" => Some(Reply::Raw(Box::new(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n")?;
            out.write_all(b"--x\r\n\r\n{}\r\n--x\r\n\r\n")?;
            loop {
                out.write_all(&[b'z'; 65_536])?;
            }
        }))),
        _ => None,
    });
    let started = Instant::now();
    for name in ["large", "larger", "endless"] {
        alice.downloads(&format!("{}/{name}", other.name)).refused(502, "M_TOO_LARGE");
    }
    assert_eq!(alice.downloads(&format!("{}/fits", other.name)).bytes.len(), 1 << 20);
    assert!(started.elapsed() < Duration::from_secs(30), "it took {:?}", started.elapsed());
}

fn a_file_that_breaks_off_is_none(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    other.answers(|request| match request.uri.split('?').next()?.rsplit('/').next()? {
        "short" => Some(Reply::Whole(
            200,
            vec![("Content-Type".to_owned(), "multipart/mixed; boundary=x".to_owned())],
            b"--x\r\n\r\n{}\r\n--x\r\n\r\nhalf of i".to_vec(),
        )),
        "gone" => Some(Reply::Raw(Box::new(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=x\r\n")?;
            out.write_all(b"Content-Length: 9000\r\n\r\n--x\r\n\r\n{}\r\n--x\r\n\r\nhalf of i")
        }))),
        "plain" => Some(Reply::Whole(200, vec![("Content-Type".to_owned(), "text/plain".to_owned())], b"x".to_vec())),
        _ => None,
    });
    for name in ["short", "gone", "plain"] {
        alice.downloads(&format!("{}/{name}", other.name)).refused(502, "M_UNKNOWN");
    }
}

fn a_file_at_another_place_is_looked_for_there(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let place = Https::serves(Authority::shared().vouches_for(&["localhost"]), |request| match &*request.uri {
        "/moved?to=file" => Reply::Whole(307, vec![("Location".to_owned(), "/file".to_owned())], vec![]),
        _ => {
            let name = ("Content-Disposition".to_owned(), "attachment; filename=x.txt".to_owned());
            Reply::Whole(200, vec![("Content-Type".to_owned(), "text/plain".to_owned()), name], b"elsewhere".to_vec())
        }
    });
    let other = Homeserver::starts();
    let location = format!("Location: https://localhost:{}/moved?to=file", place.port);
    other.answers(move |request| request.uri.starts_with(FEDERATION).then(|| enclosed(&location, b"")));
    for _ in 0..2 {
        let seen = alice.downloads(&format!("{}/abc", other.name));
        assert_eq!((seen.status, &*seen.text, seen.header("content-type")), (200, "elsewhere", Some("text/plain")));
        assert_eq!(seen.header("content-disposition"), Some("inline; filename=x.txt"));
    }
    let asked = place.takes_received();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|request| request.header("authorization").is_none()));
}

fn nobody_leads_us_to_a_private_address(host: Host) {
    let victim = Homeserver::starts();
    let evil = Homeserver::starts_as(Some("evil.test:1"), &["evil.test"]);
    let port = victim.https.port;
    evil.answers(move |request| {
        let target = match request.uri.split('?').next()?.rsplit('/').next()? {
            "v4" => "127.0.0.1",
            "v6" => "[::1]",
            "mapped" => "[::ffff:127.0.0.1]",
            _ => return None,
        };
        Some(enclosed(&format!("Location: https://{target}:{port}/secret"), b""))
    });
    let overrides = format!("evil.test=127.0.0.1:{}", evil.https.port);
    let server = ours_with(host, &[("DNS_OVERRIDES", &overrides), ("ALLOW_PRIVATE_ADDRESSES", "off")]);
    let alice = server.registers("alice");
    for name in ["v4", "v6", "mapped"] {
        alice.downloads(&format!("{}/{name}", evil.name)).refused(502, "M_UNKNOWN");
    }
    assert_eq!(asked_for_media(&evil), 3);
    assert!(victim.https.takes_received().is_empty(), "nobody came");
}

fn old_servers_are_asked_as_they_know_it(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    other.answers(|request| {
        let is_old = request.uri.starts_with("/_matrix/media/v3/download/");
        is_old.then(|| Reply::Whole(200, vec![("Content-Type".to_owned(), "text/csv".to_owned())], b"a,b".to_vec()))
    });
    let seen = alice.downloads(&format!("{}/abc", other.name));
    assert_eq!((seen.status, &*seen.text, seen.header("content-type")), (200, "a,b", Some("text/csv")));
    let asked = other.https.takes_received();
    let last = &asked.last().expect("it was asked").uri;
    assert!(last.starts_with(&format!("/_matrix/media/v3/download/{}/abc?allow_remote=false", other.name)), "{last}");
}

fn administrator(server: &Server) -> User {
    let name = server.unique("admin");
    User::from_login(&server.anonymous(), &server.registers_by_secret(&name, SHARED_SECRET, true).ok())
}

fn administrators_hide_and_purge_copies(host: Host) {
    let server = ours_with(host, &[]);
    let (root, alice) = (administrator(&server), server.registers("alice"));
    let admin = |path: &str| root.client().post(&format!("/_synapse/admin/v1/{path}"), json!({}));
    let other = Homeserver::starts();
    other.answers(|request| {
        let name = request.uri.split('?').next()?.rsplit('/').next()?.to_owned();
        request.uri.starts_with(FEDERATION).then(|| enclosed("Content-Type: text/plain", name.as_bytes()))
    });
    let [hidden, seen] = ["hidden", "seen"].map(|name| format!("{}/{name}", other.name));
    let mine = alice.uploads("text/plain", None, "mine");
    for mxc in [&hidden, &seen] {
        assert_eq!(alice.downloads(mxc).text, id(mxc));
    }
    admin(&format!("media/quarantine/{hidden}")).ok();
    alice.downloads(&hidden).refused(404, "M_NOT_FOUND");
    let same = alice.uploads("text/plain", None, "hidden");
    alice.downloads(&same).refused(404, "M_NOT_FOUND");
    assert_eq!(asked_for_media(&other), 2);
    let told = root.client().get(&format!("/_synapse/admin/v1/media/{hidden}")).ok()["media_info"].clone();
    assert_eq!((&told["media_origin"], &told["user_id"]), (&json!(other.name), &json!(null)));
    let purge = |before_ms: u64| admin(&format!("purge_media_cache?before_ts={before_ms}")).ok();
    assert_eq!(purge(1), json!({ "deleted": 0 }));
    assert_eq!(purge(4_000_000_000_000), json!({ "deleted": 1 }));
    assert_eq!(alice.downloads(&mine).text, "mine");
    alice.downloads(&hidden).refused(404, "M_NOT_FOUND");
    assert_eq!(asked_for_media(&other), 0, "what is hidden stays so");
    assert_eq!(alice.downloads(&seen).text, "seen");
    assert_eq!(asked_for_media(&other), 1, "what was purged is fetched again");
    admin(&format!("media/unquarantine/{hidden}")).ok();
    assert_eq!(alice.downloads(&hidden).text, "hidden");
    admin("purge_media_cache").refused(400, "M_INVALID_PARAM");
}

fn copies_go_where_there_is_no_room_for_them(host: Host) {
    let server = ours_with(host, &[("REMOTE_MEDIA_QUOTA", "1K")]);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    other.answers(|request| {
        let name = request.uri.split('?').next()?.rsplit('/').next()?.to_owned();
        let content = name.repeat(400 / name.len());
        request.uri.starts_with(FEDERATION).then(|| enclosed("Content-Type: text/plain", content.as_bytes()))
    });
    let mine = alice.uploads("text/plain", None, "mine".repeat(1_000));
    let copies = ["first", "then", "last"].map(|name| format!("{}/{name}", other.name));
    for mxc in &copies {
        assert_eq!(alice.downloads(mxc).status, 200);
    }
    server.operator().post("/_myelin/test/tend", json!({})).ok();
    asked_for_media(&other);
    let [first, then, last] = copies;
    for (mxc, asked) in [(last, 0), (then, 0), (first, 1)] {
        assert_eq!(alice.downloads(&mxc).status, 200);
        assert_eq!(asked_for_media(&other), asked, "{mxc}");
    }
    assert_eq!(alice.downloads(&mine).text.len(), 4_000);
}

fn thumbnails_of_files_on_another_server(host: Host) {
    let [here, there] = [Federated::starts(host), Federated::starts(Host::Native)];
    let [alice, bob] = [there.server.registers("alice"), here.server.registers("bob")];
    let picture = encoded(&two_colours(500, 500), ImageFormat::Png);
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        let sees =
            |mxc: &str, query: &str| to.client().get(&format!("/_matrix/client/v1/media/thumbnail/{mxc}?{query}"));
        let mxc = from.uploads("image/png", None, picture.clone());
        for (query, side) in [("width=32&height=32&method=crop", 32), ("width=320&height=240&method=scale", 240)] {
            let seen = image::load_from_memory(&sees(&mxc, query).bytes).expect("a picture");
            assert_eq!(seen.dimensions(), (side, side));
        }
        let text = from.uploads("image/png", None, "no picture");
        sees(&text, "width=32&height=32").refused(400, "M_UNKNOWN");
        let large = from.uploads("image/png", None, only_a_head(12_000, 12_000));
        sees(&large, "width=32&height=32").refused(502, "M_TOO_LARGE");
        from.client()
            .get(&format!("/_matrix/client/v1/media/thumbnail/{large}?width=32&height=32"))
            .refused(413, "M_TOO_LARGE");
    }
}

fn thumbnails_for_other_servers(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let other = Homeserver::starts();
    let mxc = alice.uploads("image/png", None, encoded(&two_colours(500, 500), ImageFormat::Png));
    let asks = |media_id: &str, query: &str| {
        other.gets(server, &format!("/_matrix/federation/v1/media/thumbnail/{media_id}?{query}"))
    };
    let told = asks(id(&mxc), "width=32&height=32&method=crop&animated=false");
    let boundary = told.header("content-type").and_then(|told| told.strip_prefix("multipart/mixed; boundary="));
    let boundary = boundary.expect("a boundary").to_owned();
    let (head, rest) = told.text.split_once("\r\n\r\n{}\r\n").expect("a first part");
    assert_eq!(head, format!("--{boundary}\r\nContent-Type: application/json"));
    assert!(
        rest.contains("content-type: image/jpeg\r\n") && rest.contains("inline; filename=thumbnail.jpeg\r\n"),
        "{rest}"
    );
    let begin = told.bytes.windows(4).rposition(|four| four == b"\r\n\r\n").expect("a second part") + 4;
    let content = told.bytes[begin..].strip_suffix(format!("\r\n--{boundary}--\r\n").as_bytes()).expect("an end");
    assert_eq!(image::load_from_memory(content).expect("a picture").dimensions(), (32, 32));
    asks("nothing", "width=32&height=32").refused(404, "M_NOT_FOUND");
    asks(id(&mxc), "width=0&height=32").refused(400, "M_INVALID_PARAM");
    let text = alice.uploads("image/png", None, "no picture");
    asks(id(&text), "width=32&height=32").refused(400, "M_UNKNOWN");
    let path = format!("/_matrix/federation/v1/media/thumbnail/{}?width=32&height=32", id(&mxc));
    server.anonymous().get(&path).refused(401, "M_UNAUTHORIZED");
}
