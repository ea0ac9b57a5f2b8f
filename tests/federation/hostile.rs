//! Servers that mean no good.

mod events;

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Homeserver, Host, Reply, encode, json};

use crate::network::{on_each_host, ours, ours_with};

on_each_host![
    private_addresses_are_not_connected_to,
    certificates_must_name_the_server,
    answers_have_an_end,
    redirects_have_an_end,
];

fn profile_of(user_id: &str) -> String {
    format!("/_matrix/client/v3/profile/{}", encode(user_id))
}

/// A delegation leads our server to an address that is its own machine's.
fn private_addresses_are_not_connected_to(host: Host) {
    let victim = Homeserver::starts();
    let secret = victim.https.port;
    for target in [format!("127.0.0.1:{secret}"), format!("[::1]:{secret}"), format!("[::ffff:127.0.0.1]:{secret}")] {
        let evil = Homeserver::starts_as(Some("evil.test"), &["evil.test"]);
        let to = target.clone();
        evil.answers(move |request| {
            request.uri.starts_with("/.well-known").then(|| Reply::json(200, &json!({ "m.server": to })))
        });
        let overrides = format!("evil.test=127.0.0.1:{}", evil.https.port);
        let settings = [("DNS_OVERRIDES", &*overrides), ("ALLOW_PRIVATE_ADDRESSES", "off")];
        let server = ours_with(host, &settings);
        server.anonymous().get(&profile_of("@bob:evil.test")).refused(502, "M_UNKNOWN");
        assert!(!evil.https.takes_received().is_empty());
        server.anonymous().get(&profile_of(&format!("@bob:{target}"))).status(502);
        if host == Host::Native {
            // A name that stands for a private address.
            server.anonymous().get(&profile_of(&format!("@bob:{}", victim.name))).refused(502, "M_UNKNOWN");
        }
    }
    assert!(victim.https.takes_received().is_empty(), "nobody came");
}

fn certificates_must_name_the_server(host: Host) {
    for certified in ["other.test", "a.b.test"] {
        let homeserver = Homeserver::starts_as(Some("b.test:1"), &[certified]);
        let overrides = format!("b.test=127.0.0.1:{}", homeserver.https.port);
        let server = ours_with(host, &[("DNS_OVERRIDES", &overrides)]);
        server.anonymous().get(&profile_of("@bob:b.test:1")).refused(502, "M_UNKNOWN");
        assert!(homeserver.https.takes_received().is_empty(), "nothing is said to it");
    }
    // By the runtime's own way, where name and address are one.
    let homeserver = Homeserver::starts_as(None, &["other.test"]);
    ours(host).anonymous().get(&profile_of(&format!("@bob:{}", homeserver.name))).refused(502, "M_UNKNOWN");
    assert!(homeserver.https.takes_received().is_empty(), "nothing is said to it");
}

fn answers_have_an_end(host: Host) {
    let server = ours(host);
    type Odd = fn() -> Reply;
    let cases: [(&str, Odd); 4] = [
        ("a huge body", || Reply::Whole(200, vec![], vec![b' '; 4 << 20])),
        ("a body without end", || {
            Reply::Raw(Box::new(|out| {
                out.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                loop {
                    out.write_all(&[b' '; 65536])?;
                }
            }))
        }),
        ("headers without end", || {
            Reply::Raw(Box::new(|out| {
                out.write_all(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    out.write_all(b"x-more: and more and more and more\r\n")?;
                }
            }))
        }),
        ("one byte a second", || {
            Reply::Raw(Box::new(|out| {
                out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
                loop {
                    out.write_all(b" ")?;
                    out.flush()?;
                    thread::sleep(Duration::from_secs(1));
                }
            }))
        }),
    ];
    thread::scope(|scope| {
        for (case, reply) in cases {
            scope.spawn(move || {
                let evil = Homeserver::starts();
                evil.answers(move |_| Some(reply()));
                let started = Instant::now();
                let told = server.anonymous().get(&profile_of(&format!("@bob:{}", evil.name)));
                assert_eq!((told.status, told.body["errcode"].as_str()), (502, Some("M_UNKNOWN")), "{case}");
                assert!(started.elapsed() < Duration::from_secs(30), "{case} took {:?}", started.elapsed());
            });
        }
    });
    assert_eq!(server.anonymous().get("/health").status, 200);
}

fn redirects_have_an_end(host: Host) {
    let evil = Homeserver::starts_as(Some("evil.test"), &["evil.test"]);
    evil.answers(|request| {
        let again = vec![("Location".to_owned(), format!("{}x", request.uri))];
        request.uri.starts_with("/.well-known").then(|| Reply::Whole(302, again, vec![]))
    });
    let overrides = format!("evil.test=127.0.0.1:{}", evil.https.port);
    let server = ours_with(host, &[("DNS_OVERRIDES", &overrides)]);
    server.anonymous().get(&profile_of("@bob:evil.test")).refused(502, "M_UNKNOWN");
    let redirected = evil.https.takes_received().into_iter().filter(|request| request.uri.starts_with("/.well-known"));
    assert_eq!(redirected.count(), 6);
}
