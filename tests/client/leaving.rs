//! Clients that leave before they were answered: what was begun for them is given up, and takes nothing from others.

use std::{
    io::Write as _,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use harness::{Server, Sync, User, encode, json, on_each_host, query};

on_each_host![who_leaves_waits_no_longer, who_leaves_has_nothing_held_for_them];

/// More calls than may wait on one actor.
const WAITS: usize = 80;
/// Longer than anything here takes, shorter than a client's patience.
const LONG_POLL_MS: &str = "50000";
/// The largest body that is taken whole.
const BODY_BYTES: usize = 8 * 1024 * 1024;
/// More such bodies than are held at a time, on either host.
const BODIES: usize = 40;
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// A connection on which requests are written by hand.
struct Connection(TcpStream);

impl Connection {
    /// Opens one, on which an answer lies that nobody reads: closing it then is a reset, which nobody can miss.
    fn to(server: &Server) -> Self {
        let address = server.url().trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is sent");
        stream.peek(&mut [0]).expect("it is answered");
        Self(stream)
    }

    /// Asks something as a user, with `body` as the first bytes of one of `length`.
    fn asks(&mut self, user: &User, request_line: &str, length: usize, body: &[u8]) {
        let token = &user.token;
        let head = format!(
            "{request_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        );
        self.0.write_all(head.as_bytes()).expect("the head is sent");
        // Who has been refused already may be gone.
        let _ = self.0.write_all(body);
    }
}

fn who_leaves_waits_no_longer(server: &Server) {
    let alice = server.registers("alice");
    let room = alice.creates_room(json!({}));
    let since = alice.syncs().next_batch;
    let calls = || server.counter("myelin_object_requests_total");
    thread::scope(|scope| {
        let begun = calls();
        let patient = scope.spawn(|| Sync::from(alice.asks_sync(&[("since", &since), ("timeout", LONG_POLL_MS)])));
        let has_called = |begun: u64| {
            let deadline = Instant::now() + NOTICED_WITHIN;
            while calls() == begun && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
        };
        has_called(begun);
        let asked = query(&[("since", &since), ("timeout", LONG_POLL_MS)]);
        for _ in 0..WAITS {
            let begun = calls();
            let mut connection = Connection::to(server);
            connection.asks(&alice, &format!("GET /_matrix/client/v3/sync{asked}"), 0, &[]);
            has_called(begun);
        }
        alice.sends(&room, "good morning");
        let sync = patient.join().expect("it is answered");
        assert!(sync.has_message(&room, "good morning"), "nobody ended the wait: {}", sync.body);
    });
}

fn who_leaves_has_nothing_held_for_them(server: &Server) {
    let alice = server.registers("alice");
    let path = format!("/_matrix/client/v3/user/{}/account_data/large", encode(&alice.id));
    let most = vec![b' '; BODY_BYTES - 1];
    for _ in 0..BODIES {
        Connection::to(server).asks(&alice, &format!("PUT {path}"), BODY_BYTES, &most);
    }
    // It is too large for what it is for, but that is said of a body that was taken in.
    let large = format!("{{\"text\":\"{}\"}}", "a".repeat(BODY_BYTES - 100));
    let deadline = Instant::now() + NOTICED_WITHIN;
    let mut answer = alice.client().send("PUT", &path, Some(large.clone()));
    while answer.status == 429 && Instant::now() < deadline {
        answer = alice.client().send("PUT", &path, Some(large.clone()));
    }
    answer.refused(413, "M_TOO_LARGE");
}
