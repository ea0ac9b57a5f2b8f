//! Spec: server-server API, «Resolving server names».

use harness::{Authority, Homeserver, Host, Https, Received, Reply, Server, encode, json};

use crate::network::{on_each_host, ours_with, run};

on_each_host![
    servers_are_found_by_delegation,
    a_name_with_a_port_is_asked_there,
    authorities_that_the_operator_names_are_trusted,
];

/// What a homeserver was asked, as `host header` and path.
fn heard(homeserver: &Homeserver) -> Vec<(String, String)> {
    let heard = |request: Received| {
        let path = request.uri.split('?').next().unwrap_or_default().to_owned();
        (request.header("host").unwrap_or_default().to_owned(), path)
    };
    homeserver.https.takes_received().into_iter().map(heard).collect()
}

/// Has our server ask for the profile of somebody there.
fn asks_for_profile(server: &Server, user_id: &str) -> harness::Answer {
    server.anonymous().get(&format!("/_matrix/client/v3/profile/{}", encode(user_id)))
}

const PROFILE: &str = "/_matrix/federation/v1/query/profile";
const WELL_KNOWN: &str = "/.well-known/matrix/server";

/// A homeserver with Bob, which is also the web server that delegates to some name.
fn with_bob(delegates_to: Option<&'static str>, certified: &[&str]) -> Homeserver {
    let homeserver = Homeserver::starts_as(Some("b.test"), certified);
    homeserver.answers(move |request| match request.uri.split('?').next() {
        Some(PROFILE) => Some(Reply::json(200, &json!({ "displayname": "Bob" }))),
        Some(WELL_KNOWN) => delegates_to.map(|name| Reply::json(200, &json!({ "m.server": name }))),
        _ => None,
    });
    homeserver
}

fn servers_are_found_by_delegation(host: Host) {
    let bob = |(delegates_to, certified): (Option<&'static str>, &[&str])| with_bob(delegates_to, certified);
    for (case, delegates_to, certified, overrides, host_header) in [
        (
            "to a name with a port",
            Some("c.test:4711"),
            &["b.test", "c.test"][..],
            "c.test=127.0.0.1:PORT",
            "c.test:4711",
        ),
        ("to a name without", Some("c.test"), &["b.test", "c.test"], "c.test=127.0.0.1:PORT", "c.test"),
        ("by SRV", None, &["b.test"], "_matrix-fed._tcp.b.test=d.test:1,d.test=127.0.0.1:PORT", "b.test"),
        ("by the old SRV", None, &["b.test"], "_matrix._tcp.b.test=d.test:1,d.test=127.0.0.1:PORT", "b.test"),
        ("by nothing", None, &["b.test"], "", "b.test"),
    ] {
        let homeserver = bob((delegates_to, certified));
        let overrides = overrides.replace("PORT", &homeserver.https.port.to_string());
        let overrides = format!("b.test=127.0.0.1:{},{overrides}", homeserver.https.port);
        let server = ours_with(host, &[("DNS_OVERRIDES", &overrides)]);
        assert_eq!(asks_for_profile(&server, "@bob:b.test").ok(), json!({ "displayname": "Bob" }), "{case}");
        let expected = [("b.test", WELL_KNOWN), (host_header, PROFILE)];
        let expected = expected.map(|(host, path)| (host.to_owned(), path.to_owned()));
        assert_eq!(heard(&homeserver), expected, "{case}");
        let bearers = asks_for_profile(&server, "@bob:b.test").ok();
        assert_eq!((heard(&homeserver).len(), &bearers["displayname"]), (1, &json!("Bob")), "{case}: it is remembered");
    }
}

fn a_name_with_a_port_is_asked_there(host: Host) {
    let homeserver = Homeserver::starts();
    homeserver.answers(|request| {
        request.uri.starts_with(PROFILE).then(|| Reply::json(200, &json!({ "displayname": "Bob" })))
    });
    let server = ours_with(host, &[]);
    let bob = format!("@bob:{}", homeserver.name);
    assert_eq!(asks_for_profile(&server, &bob).ok(), json!({ "displayname": "Bob" }));
    let request = homeserver.https.takes_received().pop().expect("it was asked");
    assert_eq!(request.header("host"), Some(&*homeserver.name));
    assert_eq!(request.sni.as_deref(), Some("localhost"));
    let authorization = request.header("authorization").expect("it is signed");
    assert!(authorization.contains(&format!(r#"destination="{}""#, homeserver.name)), "{authorization}");
}

/// Whether our server has the name of the homeserver and the port in one place, or not: as in a Worker without
/// `EXTRA_CA`, that are two ways to go there.
fn authorities_that_the_operator_names_are_trusted(host: Host) {
    let authority = std::fs::read_to_string(Authority::shared().file()).expect("its certificate");
    let homeservers = [(None, "localhost"), (Some("b.test"), "b.test"), (Some("c.test"), "d.test")]
        .map(|(name, certified)| Homeserver::starts_as(name, &[certified]));
    for homeserver in &homeservers {
        homeserver.answers(|request| {
            request.uri.starts_with(PROFILE).then(|| Reply::json(200, &json!({ "displayname": "Bob" })))
        });
    }
    let [_, b_test, c_test] = &homeservers;
    let overrides = format!("b.test=127.0.0.1:{},c.test=127.0.0.1:{}", b_test.https.port, c_test.https.port);
    let places = [("ALLOW_PRIVATE_ADDRESSES", "on"), ("DNS_OVERRIDES", &*overrides)];
    let reached = |settings: &[(&str, &str)]| {
        let server = Server::with(host, settings);
        homeservers.each_ref().map(|there| asks_for_profile(&server, &format!("@bob:{}", there.name)).status == 200)
    };
    for authority in [authority.clone(), authority.replace('\n', "\\n")] {
        assert_eq!(reached(&[&places[..], &[("EXTRA_CA", &authority)]].concat()), [true, true, false], "{authority}");
    }
    assert_eq!(reached(&places), [false; 3], "nobody said that they are to be trusted");
}

#[test]
fn the_worker_asks_for_srv_records_by_https() {
    run(Host::Worker, srv_records_come_by_https);
}

fn srv_records_come_by_https(host: Host) {
    let homeserver = Homeserver::starts_as(Some("b.invalid"), &["b.invalid"]);
    homeserver.answers(|request| {
        request.uri.starts_with(PROFILE).then(|| Reply::json(200, &json!({ "displayname": "Bob" })))
    });
    let resolver = Https::serves(Authority::shared().vouches_for(&["cloudflare-dns.com"]), |request| {
        let answer = match request.uri.contains("name=_matrix-fed._tcp.b.invalid") {
            false => json!({ "Status": 3 }),
            true => json!({ "Status": 0, "Answer": [
                { "name": "x", "type": 5, "TTL": 1, "data": "elsewhere." },
                { "name": "x", "type": 33, "TTL": 1, "data": "10 5 4711 d.test." },
            ] }),
        };
        Reply::json(200, &answer)
    });
    let overrides =
        format!("cloudflare-dns.com=127.0.0.1:{},d.test=127.0.0.1:{}", resolver.port, homeserver.https.port);
    let server = ours_with(host, &[("DNS_OVERRIDES", &overrides)]);
    assert_eq!(asks_for_profile(&server, "@bob:b.invalid").ok(), json!({ "displayname": "Bob" }));
    let accepts = resolver.takes_received().first().and_then(|request| request.header("accept").map(str::to_owned));
    assert_eq!(accepts.as_deref(), Some("application/dns-json"));
}
