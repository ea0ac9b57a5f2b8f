//! Media of the native host may lie in an S3-compatible service.

use std::{
    io::{self, Read},
    thread,
    time::{Duration, Instant},
};

use harness::{Host, S3, Server, json, run};

use crate::media::uploads;

#[test]
fn media_may_lie_in_a_bucket() {
    run(Host::Native, lies_in_a_bucket);
}

#[test]
fn a_bucket_that_is_not_there_is_noticed_at_the_start() {
    run(Host::Native, is_noticed_at_the_start);
}

const DOWNLOAD: &str = "/_matrix/client/v1/media/download";

/// Hardly says anything more after so many bytes, and ends when the other end is gone.
struct Stalls(usize);

impl Read for Stalls {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            thread::sleep(Duration::from_millis(20));
            self.0 = 1;
        }
        let length = into.len().min(self.0);
        into[..length].fill(b'x');
        self.0 -= length;
        Ok(length)
    }
}

fn lies_in_a_bucket(server: &Server) {
    let Some(s3) = S3::create() else { return };
    let server = Server::with(server.host(), &s3.settings());
    let alice = server.registers("alice");
    let content: Vec<u8> = (0..20_000_003_usize).map(|place| (place % 251) as u8).collect();
    let (small, large) =
        (uploads(&alice, "text/plain", None, "small"), uploads(&alice, "video/mp4", None, content.clone()));
    assert_ne!(uploads(&alice, "text/plain", None, "small"), small);
    assert!(
        s3.objects().len() == 2 && s3.objects().iter().all(|name| name.starts_with("media/")),
        "{:?}",
        s3.objects()
    );
    let asks = |mxc: &str, range: &str| {
        alice.client().send_bytes("GET", &format!("{DOWNLOAD}/{mxc}"), &[("Range", range)], None)
    };
    assert_eq!(alice.client().get(&format!("{DOWNLOAD}/{small}")).text, "small");
    let part = asks(&large, "bytes=9000000-18000000");
    assert!(part.status == 206 && part.bytes == content[9_000_000..=18_000_000]);
    assert!(alice.client().get(&format!("{DOWNLOAD}/{large}")).bytes == content);

    thread::scope(|scope| {
        // Killed while an upload is under way.
        scope.spawn(|| {
            drop(alice.client().try_send_chunks("POST", "/_matrix/media/v3/upload", &[], Stalls(20_000_000)))
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while s3.unfinished().is_empty() {
            assert!(Instant::now() < deadline, "the upload does not begin");
            thread::sleep(Duration::from_millis(20));
        }
        server.dies_and_returns();
    });
    assert_eq!((s3.unfinished().len(), s3.objects().len()), (0, 2));
    assert!(alice.client().get(&format!("{DOWNLOAD}/{large}")).bytes == content);

    let admin = server.unique("admin");
    let account = server.registers_by_secret(&admin, harness::SHARED_SECRET, true).ok();
    let admin = server.anonymous().with_token(account["access_token"].as_str().expect("a token"));
    let (name, id) = large.split_once('/').expect("a server and an id");
    assert_eq!(admin.delete(&format!("/_synapse/admin/v1/media/{name}/{id}")).ok()["deleted_media"], json!([id]));
    assert_eq!(s3.objects().len(), 1);
    assert_eq!(alice.client().get(&format!("{DOWNLOAD}/{small}")).text, "small");
}

fn is_noticed_at_the_start(server: &Server) {
    let Some(s3) = S3::create() else { return };
    let mut settings = s3.settings();
    settings[1].1 = "myelin-not-there";
    let why = Server::may_start(server.host(), &settings).err();
    assert!(why.is_some_and(|why| why.contains("does not start")));
}
