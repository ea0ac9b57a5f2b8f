//! Invariant 14: a deletion that is interrupted leaves neither a file that belongs to nothing nor media without its
//! file.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{Client, Host, SHARED_SECRET, Server, on_each_host};

use crate::{killing::RETRIES_LAST, seed::Seed};

on_each_host![what_is_deleted_is_gone_and_the_rest_is_there_after_every_kill];

const MEDIA: usize = 80;
const KILLS: usize = 3;
/// Who deletes at the same time.
const DELETERS: usize = 2;
const KILLED_AFTER_MAX_US: usize = 3_000;

/// Deletes, however often it takes; what was deleted by an attempt whose answer was lost is not there the next time.
fn deletes(admin: &Client, mxc: &str) {
    let deadline = Instant::now() + RETRIES_LAST;
    loop {
        match admin.try_send("DELETE", &format!("/_synapse/admin/v1/media/{mxc}"), None) {
            Ok(answer) if answer.status == 200 || answer.status == 404 => return,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn what_is_deleted_is_gone_and_the_rest_is_there_after_every_kill(server: &Server) {
    let seed = Seed::from_environment();
    let server = Server::with(server.host(), &[]);
    let alice = server.registers("alice");
    let admin = server.registers_by_secret("admin", SHARED_SECRET, true).ok();
    let admin = server.anonymous().with_token(admin["access_token"].as_str().expect("a token"));
    let upload = |number: usize| {
        let body = format!("number {number}").into_bytes();
        let uploaded = alice.client().send_bytes("POST", "/_matrix/media/v3/upload", &[], Some(body)).ok();
        uploaded["content_uri"].as_str().expect("a URI").trim_start_matches("mxc://").to_owned()
    };
    let media: Vec<String> = (0..MEDIA).map(upload).collect();
    let is_kept = |number: &usize| number.is_multiple_of(4);
    let doomed: Vec<&String> = (0..MEDIA).filter(|number| !is_kept(number)).map(|number| &media[number]).collect();

    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for doomed in doomed.chunks(doomed.len().div_ceil(DELETERS)) {
            let (admin, done) = (&admin, &done);
            scope.spawn(move || {
                for mxc in doomed {
                    deletes(admin, mxc);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for kill in 1..=KILLS {
            let deadline = Instant::now() + RETRIES_LAST;
            while done.load(Ordering::Relaxed) < kill * doomed.len() / (KILLS + 2) {
                assert!(Instant::now() < deadline, "nothing is deleted before kill {kill}");
                thread::sleep(Duration::from_micros(200));
            }
            thread::sleep(Duration::from_micros(seed.below(KILLED_AFTER_MAX_US) as u64));
            println!("kill {kill} after {} of {}", done.load(Ordering::Relaxed), doomed.len());
            server.dies_and_returns();
        }
    });
    // Whatever the last kill left is cleared away at a start.
    server.dies_and_returns();

    for (number, mxc) in media.iter().enumerate() {
        let answer = alice.client().get(&format!("/_matrix/client/v1/media/download/{mxc}"));
        if is_kept(&number) {
            assert_eq!((answer.status, answer.text), (200, format!("number {number}")));
        } else {
            answer.refused(404, "M_NOT_FOUND");
        }
    }
    if server.host() == Host::Native {
        let (kept, deadline) = ((0..MEDIA).filter(is_kept).count(), Instant::now() + RETRIES_LAST);
        while server.media_files() != kept {
            assert!(Instant::now() < deadline, "{} files of {kept} media", server.media_files());
            thread::sleep(Duration::from_millis(20));
        }
    }
}
