//! What both hosts promise of their connections to other servers: the contract of the platform, with a server that the test
//! plays.

use std::{net::TcpListener, thread, time::Duration};

use harness::{Authority, Host, Https, Reply, json};

use crate::network::{on_each_host, ours, ours_with};

on_each_host![connections_keep_their_contract];

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
