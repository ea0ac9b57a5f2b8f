//! Thumbnails of pictures that are made here.

use std::io::Cursor;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use image::{DynamicImage, GenericImageView, ImageFormat, RgbImage};
use serde_json::Value;

use super::webp_tables::tests::webp_with_groups;
use crate::{
    media::tend::tend,
    testing::{TestServer, block_on, refused},
};

const DAY_MS: u64 = 86_400_000;

fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::new(width, height)).write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

fn uploads(server: &TestServer, token: &str, bytes: Vec<u8>) -> String {
    let request = Request::post("/_matrix/media/v3/upload").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let answer: Value = serde_json::from_slice(server.answer(request.body(bytes.into()).unwrap()).body()).unwrap();
    answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

fn path(mxc: &str, side: u32) -> String {
    format!("/_matrix/client/v1/media/thumbnail/{mxc}?width={side}&height={side}&method=crop")
}

fn sees(server: &TestServer, token: &str, mxc: &str, side: u32) -> DynamicImage {
    let request = Request::get(path(mxc, side)).header(header::AUTHORIZATION, format!("Bearer {token}"));
    image::load_from_memory(server.answer(request.body("".into()).unwrap()).body()).unwrap()
}

#[test]
fn a_thumbnail_is_made_once_and_goes_with_its_picture() {
    let server = TestServer::new(&[("REGISTRATION", "open"), ("MEDIA_RETENTION", "1")]);
    let token = server.register("alice");
    let before = server.computations();
    let [one, same] = [picture(200, 100), picture(200, 100)].map(|bytes| uploads(&server, &token, bytes));
    for (mxc, side, made) in [(&one, 32, 32), (&one, 20, 32), (&same, 32, 32), (&one, 33, 96)] {
        assert_eq!(sees(&server, &token, mxc, side).dimensions(), (made, made));
    }
    assert_eq!((server.computations() - before, server.blobs.keys().len()), (2, 3));
    let text = uploads(&server, &token, b"no picture".to_vec());
    for _ in 0..2 {
        assert_eq!(refused(server.get(&path(&text, 32), &token)), (400, "M_UNKNOWN".to_owned()));
    }
    assert_eq!(server.computations() - before, 3, "nor is what is no picture looked at again");
    server.pass_ms(2 * DAY_MS + 1);
    block_on(tend(server.context().services())).unwrap();
    assert_eq!((server.blobs.keys(), server.strays()), (vec![], vec![]));
    assert_eq!(server.numbers("SELECT count(*) FROM media_thumbnail"), [0]);
}

#[test]
fn a_store_that_fails_leaves_at_most_a_stray() {
    for calls in 0..4 {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let token = server.register("alice");
        let mxc = uploads(&server, &token, picture(200, 100));
        server.blobs.fails_after(calls);
        let _ = server.get(&path(&mxc, 32), &token);
        server.blobs.fails_after(usize::MAX);
        let kept = [server.files(), server.texts("SELECT file FROM media_thumbnail")].concat();
        let strays = server.strays();
        assert!(server.blobs.keys().iter().all(|file| kept.contains(file) || strays.contains(file)));
        assert!(kept.iter().all(|file| server.blobs.keys().contains(file)));
        assert_eq!(sees(&server, &token, &mxc, 32).dimensions(), (32, 32));
    }
}

#[test]
fn what_was_too_large_for_an_older_release_is_tried_again() {
    let server = TestServer::new(&[("REGISTRATION", "open")]);
    let token = server.register("alice");
    let mxc = uploads(&server, &token, picture(200, 100));
    let large = uploads(&server, &token, b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0".to_vec());
    server.numbers(
        "INSERT INTO media_thumbnail (sha256, name, outcome) SELECT sha256, '32x32-crop', 'too_large' FROM media_content
         RETURNING 1",
    );
    assert_eq!(sees(&server, &token, &mxc, 32).dimensions(), (32, 32));
    let before = server.computations();
    for _ in 0..2 {
        assert_eq!(refused(server.get(&path(&large, 32), &token)), (413, "M_TOO_LARGE".to_owned()));
    }
    assert_eq!(server.computations() - before, 1);
    let mut outcomes = server.texts("SELECT outcome FROM media_thumbnail ORDER BY outcome");
    outcomes.dedup();
    assert_eq!((outcomes, server.strays()), (vec!["made".to_owned(), "too_large".to_owned()], vec![]));
}

#[test]
fn what_takes_too_much_to_decode_is_too_large() {
    let server = TestServer::new(&[("REGISTRATION", "open")]);
    let token = server.register("alice");
    let webp = uploads(&server, &token, webp_with_groups(30_000));
    assert_eq!(refused(server.get(&path(&webp, 32), &token)), (413, "M_TOO_LARGE".to_owned()));
    let ordinary = uploads(&server, &token, webp_with_groups(20));
    assert_eq!(sees(&server, &token, &ordinary, 32).dimensions(), (32, 32));
}

#[test]
fn pictures_of_other_servers_have_thumbnails() {
    let server = TestServer::new(&[("REGISTRATION", "open")]);
    let token = server.register("alice");
    server.others_answer(|request| {
        let content = match request.path_and_query.split('?').next().unwrap() {
            path if path.ends_with("/picture") => picture(200, 100),
            path if path.ends_with("/large") => b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0".to_vec(),
            path if path.ends_with("/larger") => vec![b'x'; 33 << 20],
            _ => b"no picture".to_vec(),
        };
        let body = [b"--x\r\n\r\n{}\r\n--x\r\n\r\n", &*content, b"\r\n--x--"].concat();
        let told = HeaderValue::from_static("multipart/mixed; boundary=x");
        Ok((StatusCode::OK, HeaderMap::from_iter([(header::CONTENT_TYPE, told)]), body.into()))
    });
    assert_eq!(sees(&server, &token, "b.test:1/picture", 32).dimensions(), (32, 32));
    for (name, expected) in
        [("large", (502, "M_TOO_LARGE")), ("larger", (502, "M_TOO_LARGE")), ("text", (400, "M_UNKNOWN"))]
    {
        let told = refused(server.get(&path(&format!("b.test:1/{name}"), 32), &token));
        assert_eq!(told, (expected.0, expected.1.to_owned()), "{name}");
    }
}
