//! Spec: client-server API, «Content repository»: previews of URLs. Other people's web servers are the tests' own.

use std::{
    collections::HashMap,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use harness::{
    Answer, Authority, Host, Https, PerHost, Received, Reply, Server, User, Value, json, on_each_host, query,
};

on_each_host![
    a_page_is_told_with_its_image,
    a_page_that_speaks_no_open_graph,
    pages_are_in_many_encodings,
    a_url_that_is_an_image,
    a_provider_says_what_its_page_does_not,
    redirects_are_followed_to_an_end,
    what_is_no_page_has_nothing_to_say,
    urls_that_are_not_asked,
    many_ask_and_one_looks,
    pages_without_end_and_without_sense,
    private_addresses_are_not_connected_to,
    what_the_operator_denies_is_not_asked,
    previews_are_off_unless_switched_on,
    previews_are_rate_limited,
];

const PATH: &str = "/_matrix/client/v1/media/preview_url";
const DEPRECATED: &str = "/_matrix/media/v3/preview_url";
/// An image of 3 × 2 pixels, or its beginning.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02\x08\x06\0\0\0";

/// A server with previews, shared by these stories.
fn previewing(server: &Server) -> &'static Server {
    static SHARED: PerHost<Server> = PerHost::new();
    SHARED.of(server.host(), || Server::with_network(server.host(), &[]))
}

/// A web server with these pages, by path: their type and their content.
fn web(pages: &[(&str, &str, &[u8])]) -> Https {
    let pages: HashMap<String, (String, Vec<u8>)> = pages
        .iter()
        .map(|(path, content_type, body)| ((*path).to_owned(), ((*content_type).to_owned(), body.to_vec())))
        .collect();
    web_that(move |request| match pages.get(&request.uri) {
        Some((content_type, body)) => page(200, content_type, body.clone()),
        None => page(404, "text/html", "<title>Not here</title>"),
    })
}

fn web_that(answers: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Https {
    Https::serves(Authority::shared().vouches_for(&["127.0.0.1"]), answers)
}

fn page(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
    Reply::Whole(status, vec![("Content-Type".to_owned(), content_type.to_owned())], body.into())
}

fn leads_to(location: &str) -> Reply {
    Reply::Whole(302, vec![("Location".to_owned(), location.to_owned())], vec![])
}

fn at(web: &Https, path: &str) -> String {
    format!("https://127.0.0.1:{}{path}", web.port)
}

fn asks(user: &User, url: &str) -> Answer {
    user.client().get(&format!("{PATH}{}", query(&[("url", url)])))
}

#[track_caller]
fn image_of(user: &User, told: &Value) -> Answer {
    let image = told["og:image"].as_str().and_then(|uri| uri.strip_prefix("mxc://"));
    let image = image.unwrap_or_else(|| panic!("no image in {told}"));
    user.client().get(&format!("/_matrix/client/v1/media/download/{image}"))
}

fn paths(web: &Https) -> Vec<String> {
    web.takes_received().into_iter().map(|request| request.uri).collect()
}

fn a_page_is_told_with_its_image(server: &Server) {
    let server = previewing(server);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let html = r#"<html><head><title>Not this</title><meta property="og:title" content="Cats &amp; dogs">
        <meta property="og:type" content="article"><meta property="og:description" content="All of them">
        <meta property="og:image" content="/cat.png"><meta property="og:image:width" content="1000000">"#;
    let web = web(&[("/cats?all", "text/html; charset=utf-8", html.as_bytes()), ("/cat.png", "image/png", PNG)]);
    let told = asks(&alice, &at(&web, "/cats?all")).ok();
    let image = image_of(&bob, &told);
    assert_eq!((image.status, image.bytes == PNG, image.header("content-type")), (200, true, Some("image/png")));
    assert_eq!(image.header("content-disposition"), Some("inline"));
    let expected = json!({
        "og:title": "Cats & dogs",
        "og:type": "article",
        "og:description": "All of them",
        "og:image": told["og:image"],
        "og:image:type": "image/png",
        "og:image:width": 3,
        "og:image:height": 2,
        "matrix:image:size": PNG.len(),
    });
    assert_eq!(told, expected);
    let received = web.takes_received();
    assert_eq!(received.iter().map(|request| &*request.uri).collect::<Vec<_>>(), ["/cats?all", "/cat.png"]);
    for request in received {
        assert_eq!(request.method, "GET");
        assert!(request.header("user-agent").is_some_and(|agent| agent.contains("bot")), "{request:?}");
        assert!(request.header("authorization").is_none() && request.header("cookie").is_none(), "{request:?}");
    }
    // It is remembered, for everyone and by every way to ask.
    let url = query(&[("url", &at(&web, "/cats?all#tail")), ("ts", "1510610716656")]);
    for path in [PATH, DEPRECATED, "/_matrix/media/r0/preview_url"] {
        assert_eq!(bob.client().get(&format!("{path}{url}")).ok(), expected);
    }
    assert!(web.takes_received().is_empty());
}

fn a_page_that_speaks_no_open_graph(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let html =
        "<title>Plain</title><nav>Home</nav><h1>Heading</h1><p>Some <b>wor</b>ds.</p><img src=/track.gif width=1>
        <img src='../img/first.png'><script>no()</script><p>More.";
    let described = "<meta name=description content='Said by itself'><h1>Heading</h1>";
    let web = web(&[
        ("/a/plain", "text/html", html.as_bytes()),
        ("/img/first.png", "image/png", PNG),
        ("/described", "application/xhtml+xml", described.as_bytes()),
    ]);
    let told = asks(&alice, &at(&web, "/a/plain")).ok();
    assert_eq!((&told["og:title"], &told["og:description"]), (&json!("Plain"), &json!("Heading Some words. More.")));
    assert_eq!(image_of(&alice, &told).bytes, PNG);
    let told = asks(&alice, &at(&web, "/described")).ok();
    assert_eq!(told, json!({ "og:title": "Heading", "og:description": "Said by itself" }));
}

fn pages_are_in_many_encodings(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let web = web(&[
        ("/told", "text/html; charset=\"Shift_JIS\"", b"<title>\x82\xa0</title>"),
        ("/said", "text/html", b"<meta charset=koi8-r><title>\xc1</title>"),
        ("/neither", "text/html", b"<title>\xe4.</title>"),
        ("/utf-8", "text/html", "<title>世界</title>".as_bytes()),
        ("/marked", "text/html; charset=iso-8859-1", b"\xff\xfe<\0t\0i\0t\0l\0e\0>\0\xe4\0"),
    ]);
    for (path, title) in [("/told", "あ"), ("/said", "а"), ("/neither", "ä."), ("/utf-8", "世界"), ("/marked", "ä")]
    {
        assert_eq!(asks(&alice, &at(&web, path)).ok()["og:title"], title, "{path}");
    }
}

fn a_url_that_is_an_image(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    // Without TLS, and whatever it is called.
    let web = Https::serves_plainly(|_| page(200, "image/jpeg", PNG));
    let told = asks(&alice, &format!("http://127.0.0.1:{}/cat", web.port)).ok();
    assert_eq!(image_of(&alice, &told).bytes, PNG);
    let expected = json!({
        "og:image": told["og:image"], "og:image:type": "image/png", "og:image:width": 3, "og:image:height": 2,
        "matrix:image:size": PNG.len(),
    });
    assert_eq!(told, expected);
}

fn a_provider_says_what_its_page_does_not(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let link = "<link rel=alternate type='application/json+oembed' href='/oembed?url=x&amp;format=json'>";
    let html = format!("<title>Page</title>{link}");
    let broken = html.replace("/oembed", "/nothing");
    let oembed = json!({
        "version": "1.0", "type": "video", "title": "A video", "provider_name": "Videos", "thumbnail_url": "/t.png",
    });
    let web = web(&[
        ("/video", "text/html", html.as_bytes()),
        ("/broken", "text/html", broken.as_bytes()),
        ("/oembed?url=x&format=json", "application/json", oembed.to_string().as_bytes()),
        ("/t.png", "image/png", PNG),
    ]);
    let told = asks(&alice, &at(&web, "/video")).ok();
    assert_eq!((&told["og:title"], &told["og:site_name"]), (&json!("A video"), &json!("Videos")));
    assert_eq!(image_of(&alice, &told).bytes, PNG);
    assert_eq!(asks(&alice, &at(&web, "/broken")).ok(), json!({ "og:title": "Page" }));
}

fn redirects_are_followed_to_an_end(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let elsewhere =
        web(&[("/there", "text/html", b"<title>There</title><img src=cat.png>"), ("/cat.png", "image/png", PNG)]);
    let there = at(&elsewhere, "/there");
    let web = web_that(move |request| match &*request.uri {
        "/a" => leads_to("b?c"),
        "/b?c" => leads_to(&there),
        "/ftp" => leads_to("ftp://127.0.0.1/"),
        "/nowhere" => Reply::Whole(302, vec![], vec![]),
        loops => leads_to(&format!("{loops}x")),
    });
    let told = asks(&alice, &at(&web, "/a")).ok();
    assert_eq!((&told["og:title"], image_of(&alice, &told).bytes == PNG), (&json!("There"), true));
    assert_eq!(
        (paths(&web), paths(&elsewhere)),
        (vec!["/a".to_owned(), "/b?c".to_owned()], vec!["/there".to_owned(), "/cat.png".to_owned()])
    );
    for path in ["/ftp", "/nowhere", "/loop"] {
        asks(&alice, &at(&web, path)).refused(502, "M_UNKNOWN");
    }
    assert_eq!(paths(&web).len(), 8, "one, one, and the first with five redirects");
}

fn what_is_no_page_has_nothing_to_say(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let html = b"<title>No</title><img src=cat.png>";
    let named = b"<title>Yes</title><meta property=og:image content=/is-html.png>";
    let web = web(&[
        ("/a.pdf", "application/pdf", html),
        ("/a.txt", "text/plain", html),
        ("/a.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("/is-html.png", "image/png", html),
        ("/empty", "text/html", b""),
        ("/named", "text/html", named),
    ]);
    for path in ["/a.pdf", "/a.txt", "/a.svg", "/is-html.png", "/empty"] {
        assert_eq!(asks(&alice, &at(&web, path)).ok(), json!({}), "{path}");
    }
    assert_eq!(asks(&alice, &at(&web, "/named")).ok(), json!({ "og:title": "Yes" }));
    asks(&alice, &at(&web, "/not-there")).refused(502, "M_UNKNOWN");
}

fn urls_that_are_not_asked(server: &Server) {
    let server = previewing(server);
    let (alice, guest) = (server.registers("alice"), server.registers_guest());
    for url in ["", "example.org", "ftp://example.org/", "file:///etc/passwd", "data:text/html,x", "https://"] {
        asks(&alice, url).refused(400, "M_INVALID_PARAM");
    }
    asks(&alice, &format!("https://example.org/{}", "x".repeat(2_048))).refused(400, "M_INVALID_PARAM");
    alice.client().get(PATH).refused(400, "M_MISSING_PARAM");
    alice.client().get(&format!("{PATH}?url=https://example.org&ts=now")).refused(400, "M_INVALID_PARAM");
    let web = web(&[("/", "text/html", b"<title>Seen</title>")]);
    let url = at(&web, "/");
    server.anonymous().get(&format!("{PATH}{}", query(&[("url", &url)]))).refused(401, "M_MISSING_TOKEN");
    asks(&guest, &url).refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert!(web.takes_received().is_empty());
    let told = asks(&alice, &url.replace("://", "://me:secret@")).ok();
    let received = web.takes_received();
    assert_eq!((&told["og:title"], received.len()), (&json!("Seen"), 1));
    assert!(received[0].header("authorization").is_none(), "{received:?}");
}

fn many_ask_and_one_looks(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let web = web_that(|_| {
        thread::sleep(Duration::from_millis(500));
        page(200, "text/html", "<title>Slow</title>")
    });
    thread::scope(|scope| {
        let asked: Vec<_> = (0..6).map(|_| scope.spawn(|| asks(&alice, &at(&web, "/")).ok())).collect();
        for told in asked {
            assert_eq!(told.join().expect("it is answered")["og:title"], "Slow");
        }
    });
    assert_eq!(web.takes_received().len(), 1);
}

/// Writes this again and again.
fn without_end(begin: &'static str, again: &'static str) -> Reply {
    Reply::Raw(Box::new(move |out: &mut dyn Write| {
        out.write_all(begin.as_bytes())?;
        let again = again.repeat(1 + 65_536 / again.len());
        loop {
            out.write_all(again.as_bytes())?;
        }
    }))
}

fn pages_without_end_and_without_sense(server: &Server) {
    let server = previewing(server);
    let alice = server.registers("alice");
    let web = web_that(|request| match &*request.uri {
        "/endless" => {
            without_end("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>Endless</title>", "<p>more")
        }
        "/endless-title" => without_end("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>", "ha"),
        "/endless-head" => without_end("HTTP/1.1 200 OK\r\n", "X-More: and more and more and more\r\n"),
        "/endless-image.png" => {
            without_end("HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\u{89}PNG\r\n", "not really an image")
        }
        "/endless.gif" => without_end("HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\n\r\nGIF89a", "more"),
        "/with-endless" => page(200, "text/html", "<title>Fine</title><img src=/endless.gif>"),
        "/slow" => Reply::Raw(Box::new(|out: &mut dyn Write| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000\r\n\r\n")?;
            loop {
                out.write_all(b" ")?;
                out.flush()?;
                thread::sleep(Duration::from_secs(1));
            }
        })),
        "/huge" => page(200, "text/html", format!("<title>Huge</title>{}", "<p>word".repeat(1 << 20))),
        "/deep" => page(200, "text/html", format!("{}<title>Deep</title>", "<div>".repeat(150_000))),
        "/nonsense" => Reply::Raw(Box::new(|out: &mut dyn Write| out.write_all(b"\0\0\0\0 nonsense\r\n\r\n"))),
        _ => page(200, "text/html", vec![0xff; 100_000]),
    });
    thread::scope(|scope| {
        for (path, title) in [
            ("/endless", Some("Endless")),
            ("/endless-title", Some("hahaha")),
            ("/endless-head", None),
            ("/endless-image.png", Some("")),
            ("/endless.gif", None),
            ("/with-endless", Some("Fine")),
            ("/slow", None),
            ("/huge", Some("Huge")),
            ("/deep", Some("Deep")),
            ("/nonsense", None),
            ("/noise", Some("")),
        ] {
            let (alice, url) = (&alice, at(&web, path));
            scope.spawn(move || {
                let started = Instant::now();
                let told = asks(alice, &url);
                assert!(started.elapsed() < Duration::from_secs(40), "{path} took {:?}", started.elapsed());
                let Some(title) = title else {
                    told.refused(502, "M_UNKNOWN");
                    return;
                };
                let told = told.ok();
                assert!(told["og:title"].as_str().unwrap_or_default().starts_with(title), "{path}: {told}");
                assert!(told.get("og:image").is_none() && told.to_string().len() < 10_000, "{path}: {told}");
            });
        }
    });
    assert_eq!(server.anonymous().get("/health").status, 200);
}

/// Wherever a page leads, it does not lead to our own machine.
fn private_addresses_are_not_connected_to(server: &Server) {
    let victim = web_that(|_| page(200, "text/html", "<title>Secret</title>"));
    let plain_victim = Https::serves_plainly(|_| page(200, "text/html", "<title>Secret</title>"));
    let (secret, plain) = (victim.port, plain_victim.port);
    let evil = Https::serves(Authority::shared().vouches_for(&["evil.test"]), move |request| match &*request.uri {
        "/image" => page(
            200,
            "text/html",
            format!("<meta property=og:image content=https://127.0.0.1:{secret}/i.png><title>Evil"),
        ),
        "/oembed" => page(
            200,
            "text/html",
            format!("<link rel=alternate type=application/json+oembed href=http://127.1:{plain}/><title>Evil"),
        ),
        "/base" => page(200, "text/html", format!("<base href=http://localhost:{plain}/><img src=i.png><title>Evil")),
        path => leads_to(path.trim_start_matches('/')),
    });
    let overrides = format!("evil.test=127.0.0.1:{}", evil.port);
    let settings = [("ALLOW_PRIVATE_ADDRESSES", "off"), ("DNS_OVERRIDES", &*overrides)];
    let server = Server::with_network(server.host(), &settings);
    let alice = server.registers("alice");
    for url in [
        format!("https://127.0.0.1:{secret}/"),
        format!("http://127.0.0.1:{plain}/"),
        format!("http://0x7f.0.0.1:{plain}/"),
        format!("http://2130706433:{plain}/"),
        format!("http://[::1]:{plain}/"),
        format!("http://[::ffff:127.0.0.1]:{plain}/"),
        format!("http://0.0.0.0:{plain}/"),
        format!("http://localhost:{plain}/"),
        format!("http://LOCALHOST.:{plain}/"),
        format!("http://a.localhost:{plain}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://metadata.google.internal/".to_owned(),
    ] {
        asks(&alice, &url).refused(502, "M_UNKNOWN");
        asks(&alice, &format!("https://evil.test/{url}")).refused(502, "M_UNKNOWN");
    }
    for path in ["/image", "/oembed", "/base"] {
        assert_eq!(asks(&alice, &format!("https://evil.test{path}")).ok(), json!({ "og:title": "Evil" }), "{path}");
    }
    assert!(!evil.takes_received().is_empty());
    assert!(victim.takes_received().is_empty() && plain_victim.takes_received().is_empty(), "nobody came");
}

fn what_the_operator_denies_is_not_asked(server: &Server) {
    let web = Https::serves_plainly(|request| match &*request.uri {
        "/" => page(200, "text/html", "<title>There</title>"),
        path => leads_to(path.trim_start_matches('/')),
    });
    let plain = web.port;
    let overrides = format!("good.test=127.0.0.1:{plain},x.evil.test=127.0.0.1:{plain}");
    let settings =
        [("URL_PREVIEWS_DENY", "*.evil.test"), ("DENY_ADDRESSES", "127.0.0.0/8"), ("DNS_OVERRIDES", &*overrides)];
    let server = Server::with_network(server.host(), &settings);
    let alice = server.registers("alice");
    assert_eq!(asks(&alice, "http://good.test/").ok()["og:title"], "There");
    for url in ["http://x.evil.test/", "http://X.EVIL.test./", "http://good.test/http://x.evil.test/"] {
        asks(&alice, url).refused(403, "M_FORBIDDEN");
    }
    asks(&alice, &format!("http://127.0.0.1:{plain}/")).refused(502, "M_UNKNOWN");
    if server.host() == Host::Native {
        // A name that stands for a denied address, which the other host does not learn.
        asks(&alice, &format!("http://localhost:{plain}/")).refused(502, "M_UNKNOWN");
    }
    assert_eq!(paths(&web), ["/", "/http://x.evil.test/"]);
}

fn previews_are_off_unless_switched_on(server: &Server) {
    let server = Server::with(server.host(), &[("URL_PREVIEWS", "off")]);
    let alice = server.registers("alice");
    let url = query(&[("url", "https://example.org")]);
    for path in [PATH, DEPRECATED] {
        let answer = alice.client().get(&format!("{path}{url}")).ok();
        assert_eq!(answer, json!({}), "«The OpenGraph data for the URL, which may be empty.»");
        server.anonymous().get(&format!("{path}{url}")).refused(401, "M_MISSING_TOKEN");
    }
}

fn previews_are_rate_limited(server: &Server) {
    let server = Server::with_network(server.host(), &[("RATE_LIMITS", "on"), ("RC_URL_PREVIEWS", "0.001,2")]);
    let (alice, bob) = (server.registers("alice"), server.registers("bob"));
    let web = web(&[("/", "text/html", b"<title>There</title>")]);
    for path in [PATH, DEPRECATED] {
        alice.client().get(&format!("{path}{}", query(&[("url", &at(&web, "/"))]))).ok();
    }
    asks(&alice, &at(&web, "/")).refused(429, "M_LIMIT_EXCEEDED");
    asks(&bob, &at(&web, "/")).ok();
}
