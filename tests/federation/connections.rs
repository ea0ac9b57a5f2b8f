//! What both hosts promise of their connections to other servers: the contract of the platform, with a server that the
//! test plays. And what the Worker makes of its platform's.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{Authority, Homeserver, Host, Https, Reply, Value, encode, json, serde_json};

use crate::network::{on_each_host, ours, ours_with, run};

on_each_host![connections_keep_their_contract];

#[test]
fn a_worker_takes_its_platforms_word_for_a_server_that_is_not_reached() {
    run(Host::Worker, a_server_is_not_reached);
}

#[test]
fn a_worker_has_no_more_connections_wait_than_its_platform_allows() {
    run(Host::Worker, a_few_servers_are_asked_at_a_time);
}

/// Connections of one request that may wait for an answer: the platform has six, and one is for something else.
const WAITING_MAX: usize = 5;

/// Promises of the contract.
const PROMISES: usize = 8;

/// The server that the contract describes.
fn server_of_the_contract() -> Https {
    Https::serves(Authority::shared().vouches_for(&["contract.test", "localhost"]), |request| match &*request.uri {
        "/teapot" => Reply::Whole(418, vec![("greeting".to_owned(), "hello".to_owned())], b"short".to_vec()),
        "/redirect" => Reply::Whole(302, vec![("location".to_owned(), "/echo".to_owned())], vec![]),
        "/large" => Reply::Whole(200, vec![], vec![b'x'; 1 << 20]),
        "/slow" => Reply::Raw(Box::new(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
            loop {
                out.write_all(b"x")?;
                out.flush()?;
                thread::sleep(Duration::from_secs(1));
            }
        })),
        _ => {
            let echo = json!({
                "method": request.method, "uri": request.uri, "host": request.header("host"), "sni": request.sni,
                "greeting": request.header("greeting"), "body": request.body,
            });
            Reply::json(200, &echo)
        }
    })
}

fn nobodys_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// At an address that the certificate does not name, under a name that is said to be there, and under one that is.
fn connections_keep_their_contract(host: Host) {
    let path = "/_myelin/test/outgoing";
    ours(host).anonymous().post(path, json!({})).refused(404, "M_UNRECOGNIZED");
    let other = server_of_the_contract();
    let server = ours_with(host, &[("DNS_OVERRIDES", "contract.test=127.0.0.1")]);
    for (at, certificate_name) in
        [("127.0.0.1", "contract.test"), ("contract.test", "contract.test"), ("localhost", "localhost")]
    {
        let order = json!({
            "host": at, "port": other.port, "nobody": nobodys_port(),
            "certificate_name": certificate_name, "host_header": format!("{certificate_name}:{}", other.port),
        });
        let outcomes = server.operator().post(path, order).ok();
        let outcomes = outcomes.as_array().expect("a list");
        for outcome in outcomes {
            println!("{at}: {}: {}", outcome["name"], outcome["broken"].as_str().unwrap_or("kept"));
        }
        let broken: Vec<_> = outcomes.iter().filter(|outcome| !outcome["broken"].is_null()).collect();
        assert!(broken.is_empty(), "{at}: {broken:?}");
        assert_eq!(outcomes.len(), PROMISES);
    }
}

/// «error code: 521» and the like, as an answer: the platform throws nothing.
fn a_server_is_not_reached(host: Host) {
    let server = ours(host);
    let other = Homeserver::starts();
    other.answers(|request| match &*request.uri {
        uri if uri.contains("%40page") => Some(Reply::Whole(521, vec![], b"<html>Its own proxy says so".to_vec())),
        uri if uri.contains("/profile") => Some(Reply::Whole(521, vec![], b"error code: 521\n".to_vec())),
        _ => None,
    });
    let path = |name: &str| format!("/_matrix/client/v3/profile/{}", encode(&format!("@{name}:{}", other.name)));
    let asked = |name: &str| {
        server.anonymous().get(&path(name)).refused(502, "M_UNKNOWN");
        other.https.takes_received().len()
    };
    assert_eq!([asked("page"), asked("page")], [1, 1], "somebody answers there");
    assert_eq!([asked("bob"), asked("bob")], [1, 0], "who was down a moment ago is not asked");
}

fn a_few_servers_are_asked_at_a_time(host: Host) {
    let server = ours(host);
    let alice = server.registers("alice");
    let (waiting, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let others: Vec<Homeserver> = (0..3 * WAITING_MAX).map(|_| Homeserver::starts()).collect();
    for other in &others {
        let (waiting, most) = (waiting.clone(), most.clone());
        other.answers(move |request| {
            if request.uri != "/_matrix/federation/v1/user/keys/query" {
                return None;
            }
            most.fetch_max(waiting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(300));
            waiting.fetch_sub(1, Ordering::SeqCst);
            Some(Reply::json(200, &json!({ "device_keys": {} })))
        });
    }
    let users = others.iter().map(|other| (format!("@bob:{}", other.name), json!([])));
    let asked = json!({ "device_keys": users.collect::<serde_json::Map<String, Value>>(), "timeout": 20_000 });
    let told = alice.post("/keys/query", asked).ok();
    assert_eq!(told["failures"], json!({}), "each is heard");
    assert_eq!(most.load(Ordering::SeqCst), WAITING_MAX);
}
