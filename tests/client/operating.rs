//! What operators rely on besides Matrix: a name that cannot change by mistake, files that are nobody else's, a
//! certificate that is renewed, and one server for one database.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    thread,
    time::{Duration, Instant},
};

use harness::{Authority, Database, Host, Server, json, on_each_host, run};

on_each_host![a_server_keeps_its_name, a_refused_upload_is_answered_before_it_came];

#[test]
fn files_of_the_native_server_are_its_own() {
    run(Host::Native, files_are_its_own);
}

#[test]
fn a_renewed_certificate_is_served() {
    run(Host::Native, serves_a_renewed_certificate);
}

#[test]
fn one_native_server_serves_from_a_database() {
    run(Host::Native, serves_alone);
}

/// Longer than what is waited for here takes.
const WITHIN: Duration = Duration::from_secs(30);
/// Without requests that take long, a server has nothing to stay for.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

fn a_server_keeps_its_name(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let alice = server.registers("alice");
    server.stops(STOPS_WITHIN);
    assert!(server.refuses("SERVER_NAME", "another.test"), "it serves as another");
    server.returns();
    assert_eq!(alice.logs_in_again().id, alice.id);
}

fn a_refused_upload_is_answered_before_it_came(server: &Server) {
    let address = server.url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer guessed\r\n\
         Content-Type: text/plain\r\nContent-Length: 10000000\r\n\r\nfirst"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer, though the rest never comes");
    assert_eq!(&answer, b"HTTP/1.1 401");
}

fn files_are_its_own(server: &Server) {
    let server = Server::with(server.host(), &[]);
    let alice = server.registers("alice");
    alice.creates_room(json!({}));
    alice.client().send_bytes("POST", "/_matrix/media/v3/upload", &[], Some(b"picture".to_vec())).ok();
    let mut seen = 0;
    let mut folders = vec![server.state().to_owned()];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).expect("it is ours").map(|entry| entry.expect("an entry").path()) {
            let about = fs::symlink_metadata(&file).expect("it is there");
            assert_eq!(about.mode() & 0o077, 0, "{} is for others, too", file.display());
            seen += 1;
            if about.is_dir() {
                folders.push(file);
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

fn serves_a_renewed_certificate(server: &Server) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("paths are UTF-8").to_owned();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let renewed = || {
        let (certificate, private, sent) = Authority::shared().certifies(&["localhost"]);
        fs::write(&cert, certificate).expect("it is written");
        fs::write(&key, private).expect("it is written");
        sent
    };
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let first = renewed();
    let tls = [("TLS_LISTEN", &*format!("127.0.0.1:{port}")), ("TLS_CERT", &cert), ("TLS_KEY", &key)];
    let server = Server::with(server.host(), &tls);
    let served = || Authority::shared().certificate_at(port);
    assert_eq!(served(), first);
    let second = renewed();
    server.hangs_up();
    let deadline = Instant::now() + WITHIN;
    while served() != second {
        assert!(Instant::now() < deadline, "the certificate of before is still served");
        thread::sleep(Duration::from_millis(10));
    }
    // Without a certificate to be had, the one of before is as good as it was.
    fs::remove_file(&cert).expect("it was there");
    server.hangs_up();
    server.registers("alice");
    assert_eq!(served(), second);
    let another = Server::with(server.host(), &[]);
    another.hangs_up();
    another.registers("bob");
    assert_eq!(another.stops(STOPS_WITHIN), Some(0));
    assert_eq!(server.stops(STOPS_WITHIN), Some(0));
}

fn serves_alone(server: &Server) {
    let Some(database) = Database::create() else { return };
    let first = Server::on_postgres(server.host(), &database, &[]);
    assert!(Server::may_start_on_postgres(server.host(), &database).is_err(), "two serve from one database");
    let alice = first.registers("alice");
    let died = Instant::now();
    first.dies_and_returns();
    assert!(died.elapsed() < WITHIN, "{:?}", died.elapsed());
    assert_eq!(alice.logs_in_again().id, alice.id);
}
