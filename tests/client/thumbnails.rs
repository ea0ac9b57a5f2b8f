//! Spec: client-server API, «Content repository», «Thumbnails».

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use harness::{
    Answer, Server, User, json, on_each_host, pictures,
    pictures::{encoded, two_colours},
};
use image::{
    AnimationDecoder, DynamicImage, GenericImageView, ImageFormat, Rgba, RgbaImage,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
};

use crate::media::uploads;

on_each_host![
    pictures_of_each_format_are_made_smaller,
    crops_have_the_shape_that_was_asked_for,
    nothing_is_made_larger,
    what_is_transparent_stays_so,
    a_photograph_stands_upright,
    a_large_photograph_is_made_smaller,
    so_is_one_that_comes_from_coarse_to_fine,
    a_photograph_that_would_be_read_a_thousand_times_is_refused,
    only_who_asks_for_movement_gets_it,
    what_is_no_picture_has_no_thumbnail,
    a_picture_with_a_hostile_head_is_refused_unread,
    a_thumbnail_is_nothing_but_a_picture,
    a_thumbnail_is_asked_for_properly,
    a_client_does_not_fetch_a_thumbnail_twice,
    old_clients_see_what_is_from_before_the_freeze,
    many_ask_for_the_same_thumbnail_at_once,
];

const THUMBNAIL: &str = "/_matrix/client/v1/media/thumbnail";

fn asks(user: &User, mxc: &str, query: &str) -> Answer {
    user.client().get(&format!("{THUMBNAIL}/{mxc}?{query}"))
}

#[track_caller]
fn decoded(answer: &Answer) -> DynamicImage {
    assert_eq!(answer.status, 200, "{}: {}", answer.request, answer.body);
    let disposition = answer.header("content-disposition").expect("a disposition");
    assert!(disposition.starts_with("inline; filename=thumbnail."), "{disposition}");
    let picture = image::load_from_memory(&answer.bytes).expect("it is a picture");
    let format = image::guess_format(&answer.bytes).expect("it is a picture");
    assert_eq!(answer.header("content-type"), Some(format.to_mime_type()));
    assert!(answer.header("content-security-policy").is_some_and(|policy| policy.starts_with("sandbox")));
    assert_eq!(answer.header("cross-origin-resource-policy"), Some("cross-origin"));
    picture
}

#[track_caller]
fn is_red_then_blue(picture: &DynamicImage) {
    let [left, right] =
        [1, 7].map(|eighth| picture.to_rgb8().get_pixel(picture.width() * eighth / 8, picture.height() / 2).0);
    assert!(left[0] > 200 && left[2] < 50, "{left:?}");
    assert!(right[0] < 50 && right[2] > 200, "{right:?}");
}

fn pictures_of_each_format_are_made_smaller(server: &Server) {
    let alice = server.registers("alice");
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let mxc = uploads(&alice, "application/octet-stream", None, encoded(&two_colours(1000, 500), format));
        for (query, size) in [
            ("width=32&height=32&method=crop", (32, 32)),
            ("width=96&height=96&method=crop", (96, 96)),
            ("width=320&height=240&method=scale", (320, 160)),
            ("width=640&height=480&method=scale", (640, 320)),
            ("width=800&height=600&method=scale", (800, 400)),
            ("width=100&height=100", (320, 160)),
        ] {
            let picture = decoded(&asks(&alice, &mxc, query));
            assert_eq!(picture.dimensions(), size, "{format:?} {query}");
            is_red_then_blue(&picture);
        }
    }
}

fn crops_have_the_shape_that_was_asked_for(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/png", None, encoded(&two_colours(2000, 1000), ImageFormat::Png));
    for (width, height) in [(40, 40), (96, 48), (48, 96), (300, 200), (640, 640), (900, 600), (1000, 1000)] {
        let picture = decoded(&asks(&alice, &mxc, &format!("width={width}&height={height}&method=crop")));
        assert!(picture.width() >= width && picture.height() >= height, "{:?}", picture.dimensions());
        let (asked, made) =
            (f64::from(width) / f64::from(height), f64::from(picture.width()) / f64::from(picture.height()));
        assert!((asked / made - 1.0).abs() < 0.1, "{asked} {made}");
        is_red_then_blue(&picture);
    }
}

fn nothing_is_made_larger(server: &Server) {
    let alice = server.registers("alice");
    let small = encoded(&two_colours(20, 10), ImageFormat::Png);
    let mxc = uploads(&alice, "image/png", Some("small.png"), small.clone());
    for query in ["width=32&height=32&method=crop", "width=800&height=600&method=scale", "width=5000&height=5000"] {
        // Spec: "servers should return the original content rather than thumbnail it".
        let answer = asks(&alice, &mxc, query);
        assert!(answer.bytes == small, "{query}");
        assert_eq!(answer.header("content-type"), Some("image/png"));
    }
    let narrow = uploads(&alice, "image/png", None, encoded(&two_colours(1000, 8), ImageFormat::Png));
    assert_eq!(decoded(&asks(&alice, &narrow, "width=320&height=240&method=scale")).dimensions(), (320, 2));
    let larger = decoded(&asks(&alice, &narrow, "width=1800&height=1800&method=scale"));
    assert_eq!(larger.dimensions(), (1000, 8));
}

fn what_is_transparent_stays_so(server: &Server) {
    let alice = server.registers("alice");
    let half = RgbaImage::from_fn(400, 400, |x, _| Rgba([0, 255, 0, if x < 200 { 0 } else { 255 }]));
    let mxc = uploads(&alice, "image/png", None, encoded(&half.into(), ImageFormat::Png));
    let picture = decoded(&asks(&alice, &mxc, "width=96&height=96&method=crop")).to_rgba8();
    assert_eq!((picture.get_pixel(10, 50).0[3], picture.get_pixel(90, 50).0[3]), (0, 255));
}

/// A JPEG that says that it lies on its side: shown, its left is on top.
fn turned() -> Vec<u8> {
    let upright = encoded(&two_colours(400, 200), ImageFormat::Jpeg);
    let exif: &[u8] = b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let length = u16::try_from(exif.len() + 2).expect("it is short").to_be_bytes();
    [&upright[..2], &[0xFF, 0xE1], &length, exif, &upright[2..]].concat()
}

fn a_photograph_stands_upright(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/jpeg", None, turned());
    let picture = decoded(&asks(&alice, &mxc, "width=100&height=100&method=scale")).to_rgb8();
    assert_eq!(picture.dimensions(), (120, 240));
    let [top, bottom] = [picture.get_pixel(60, 20).0, picture.get_pixel(60, 220).0];
    assert!(top[0] > 200 && bottom[2] > 200, "{top:?} {bottom:?}");
}

fn a_large_photograph_is_made_smaller(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/jpeg", None, pictures::large_photograph(8_000, 6_000));
    for (query, size) in
        [("width=96&height=96&method=crop", (96, 96)), ("width=1600&height=1200&method=scale", (1600, 1200))]
    {
        let picture = decoded(&asks(&alice, &mxc, query));
        assert_eq!(picture.dimensions(), size, "{query}");
        is_red_then_blue(&picture);
    }
}

fn so_is_one_that_comes_from_coarse_to_fine(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/jpeg", None, pictures::progressive_photograph(4_000, 3_008));
    for (query, size) in [
        ("width=96&height=96&method=crop", (96, 96)),
        ("width=800&height=600&method=scale", (797, 600)),
        ("width=1600&height=1200&method=scale", (1595, 1200)),
    ] {
        let picture = decoded(&asks(&alice, &mxc, query));
        assert_eq!(picture.dimensions(), size, "{query}");
        is_red_then_blue(&picture);
    }
}

fn a_photograph_that_would_be_read_a_thousand_times_is_refused(server: &Server) {
    let alice = server.registers("alice");
    let large = pictures::large_photograph(8_000, 6_000);
    let progressive = pictures::progressive_photograph(4_000, 3_008);
    for photograph in [pictures::with_scans(&large, 1_000), pictures::with_scans(&progressive, 1_000)] {
        let mxc = uploads(&alice, "image/jpeg", None, photograph);
        let begun = Instant::now();
        asks(&alice, &mxc, "width=96&height=96&method=crop").refused(400, "M_UNKNOWN");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

/// How many frames a picture has, of whatever format it is.
fn frames(answer: &Answer) -> usize {
    let file = Cursor::new(&answer.bytes);
    match image::guess_format(&answer.bytes).expect("it is a picture") {
        ImageFormat::Gif => GifDecoder::new(file).expect("it is a GIF").into_frames().count(),
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file).expect("it is a WebP");
            if decoder.has_animation() { decoder.into_frames().count() } else { 1 }
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::new(file).expect("it is a PNG");
            let is_moving = decoder.is_apng().expect("it has a head");
            if is_moving { decoder.apng().expect("it moves").into_frames().count() } else { 1 }
        }
        _ => 1,
    }
}

fn only_who_asks_for_movement_gets_it(server: &Server) {
    let alice = server.registers("alice");
    for (content_type, moving) in [
        ("image/gif", pictures::moving_gif as fn(u32, u32) -> Vec<u8>),
        ("image/apng", pictures::moving_png),
        ("image/webp", pictures::moving_webp),
    ] {
        // What is small serves as it is.
        for (film, moves_as, sizes) in [
            (moving(500, 400), "image/webp", [(96, 96), (300, 240)]),
            (moving(20, 20), content_type, [(20, 20), (20, 20)]),
        ] {
            let mxc = uploads(&alice, "application/octet-stream", None, film);
            for (method, size) in ["crop", "scale"].into_iter().zip(sizes) {
                let query = format!("width=96&height=96&method={method}");
                let animated = asks(&alice, &mxc, &format!("{query}&animated=true"));
                assert_eq!((animated.status, frames(&animated)), (200, 3), "{content_type}");
                assert_eq!(animated.header("content-type"), Some(moves_as));
                let name = format!("inline; filename=thumbnail.{}", moves_as.trim_start_matches("image/"));
                assert_eq!(animated.header("content-disposition"), Some(&*name));
                let picture = image::load_from_memory(&animated.bytes).expect("it is a picture");
                assert_eq!(picture.dimensions(), size, "{content_type} {query}");
                for query in [format!("{query}&animated=false"), query] {
                    let still = asks(&alice, &mxc, &query);
                    decoded(&still);
                    assert_eq!(frames(&still), 1, "{content_type} {query}");
                }
            }
        }
    }
    // Spec: "When true and the media cannot be animated … behave as though animated is false".
    let photograph = uploads(&alice, "image/jpeg", None, encoded(&two_colours(500, 500), ImageFormat::Jpeg));
    let still = decoded(&asks(&alice, &photograph, "width=96&height=96&method=crop&animated=true"));
    assert_eq!(still.dimensions(), (96, 96));
}

fn what_is_no_picture_has_no_thumbnail(server: &Server) {
    let alice = server.registers("alice");
    let png = encoded(&two_colours(500, 500), ImageFormat::Png);
    let jpeg = encoded(&two_colours(500, 500), ImageFormat::Jpeg);
    for (content_type, content) in [
        ("image/png", b"<html><script>alert(1)</script>".to_vec()),
        ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec()),
        ("image/png", vec![]),
        ("image/png", png[..20].to_vec()),
        ("image/png", png[..png.len() / 2].to_vec()),
        ("image/gif", b"GIF89a".to_vec()),
        ("image/webp", b"RIFF\x10\0\0\0WEBPVP8 ".to_vec()),
        ("image/jpeg", [&jpeg[..4], &[0xFF; 400]].concat()),
        // The head of a picture, and a page.
        ("image/gif", b"GIF89a/*\0\0\0\0*/=1;alert(1)".to_vec()),
    ] {
        let mxc = uploads(&alice, content_type, None, content);
        for _ in 0..2 {
            asks(&alice, &mxc, "width=96&height=96&method=crop").refused(400, "M_UNKNOWN");
        }
        asks(&alice, &mxc, "width=96&height=96&method=crop&animated=true").refused(400, "M_UNKNOWN");
    }
    asks(&alice, "myelin.test/nothing", "width=96&height=96").refused(404, "M_NOT_FOUND");
    let created = alice.client().post("/_matrix/media/v1/create", json!({})).ok();
    let mxc = created["content_uri"].as_str().expect("a URI").trim_start_matches("mxc://");
    asks(&alice, mxc, "width=96&height=96&timeout_ms=0").refused(504, "M_NOT_YET_UPLOADED");
}

/// A small JPEG that says that it has 65,000 pixels either way.
fn swollen(mut jpeg: Vec<u8>) -> Vec<u8> {
    let frame = jpeg.windows(2).position(|two| two == b"\xff\xc0").expect("a frame");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFD, 0xE8, 0xFD, 0xE8]);
    jpeg
}

fn a_picture_with_a_hostile_head_is_refused_unread(server: &Server) {
    let alice = server.registers("alice");
    let heads = [(60_000, 60_000), (30_000, 30_000), (2_000_000_000, 1), (12_000, 12_000)];
    let heads = heads.map(|(width, height)| pictures::only_a_head(width, height));
    let screen = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0".to_vec();
    for bomb in heads.into_iter().chain([screen, swollen(encoded(&two_colours(16, 16), ImageFormat::Jpeg))]) {
        let mxc = uploads(&alice, "image/png", None, bomb);
        for _ in 0..2 {
            asks(&alice, &mxc, "width=96&height=96&method=crop").refused(413, "M_TOO_LARGE");
        }
    }
    // One that could be read if it were what it says.
    let mxc = uploads(&alice, "image/png", None, pictures::only_a_head(3_000, 3_000));
    asks(&alice, &mxc, "width=96&height=96&method=crop").refused(400, "M_UNKNOWN");
    let large = [encoded(&two_colours(500, 500), ImageFormat::Png), vec![0; 33 << 20]].concat();
    let mxc = uploads(&alice, "image/png", None, large);
    asks(&alice, &mxc, "width=96&height=96&method=crop").refused(413, "M_TOO_LARGE");
    let fine = uploads(&alice, "image/png", None, encoded(&two_colours(500, 500), ImageFormat::Png));
    assert_eq!(decoded(&asks(&alice, &fine, "width=32&height=32&method=crop")).dimensions(), (32, 32));
}

fn a_thumbnail_is_nothing_but_a_picture(server: &Server) {
    let alice = server.registers("alice");
    let page = b"<html><script>alert(1)</script></html>";
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        // A picture that is called a page, and has one at its end.
        let mxc = uploads(
            &alice,
            "text/html",
            Some("page.html"),
            [encoded(&two_colours(500, 500), format), page.to_vec()].concat(),
        );
        let answer = asks(&alice, &mxc, "width=96&height=96&method=crop");
        is_red_then_blue(&decoded(&answer));
        assert!(!answer.bytes.windows(page.len()).any(|window| window == page), "{format:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    // What it is beside its pixels, a compressed profile or text, may unpack to anything.
    for kind in [b"iCCP", b"zTXt"] {
        let mxc = uploads(&alice, "image/png", None, pictures::with_a_bomb(&two_colours(500, 500), kind));
        let answer = asks(&alice, &mxc, "width=96&height=96&method=crop");
        if answer.status == 200 {
            is_red_then_blue(&decoded(&answer));
        } else {
            assert!([400, 413].contains(&answer.status), "{}", answer.status);
        }
    }
}

fn a_thumbnail_is_asked_for_properly(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/png", None, encoded(&two_colours(100, 100), ImageFormat::Png));
    for query in ["width=-1&height=1", "width=a&height=1", "width=0&height=5", "width=5&height=0", "width=1.5&height=1"]
    {
        asks(&alice, &mxc, query).refused(400, "M_INVALID_PARAM");
    }
    asks(&alice, &mxc, "width=5&height=5&method=stretch").refused(400, "M_INVALID_PARAM");
    asks(&alice, &mxc, "width=5").refused(400, "M_MISSING_PARAM");
    let path = format!("{THUMBNAIL}/{mxc}?width=5&height=5");
    server.anonymous().get(&path).refused(401, "M_MISSING_TOKEN");
    let guest = server.registers_guest();
    decoded(&guest.client().get(&path));
}

fn a_client_does_not_fetch_a_thumbnail_twice(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/png", None, encoded(&two_colours(500, 500), ImageFormat::Png));
    let (small, large) = ("width=32&height=32&method=crop", "width=96&height=96&method=crop");
    let etag = |query| asks(&alice, &mxc, query).header("etag").expect("a tag").to_owned();
    assert_eq!(etag(small), etag(small));
    assert_ne!(etag(small), etag(large));
    let headers = [("If-None-Match", &*etag(small))];
    let again = alice.client().send_bytes("GET", &format!("{THUMBNAIL}/{mxc}?{small}"), &headers, None);
    assert_eq!((again.status, again.bytes.len()), (304, 0));
}

fn old_clients_see_what_is_from_before_the_freeze(server: &Server) {
    let picture = encoded(&two_colours(500, 500), ImageFormat::Png);
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/png", None, picture.clone());
    let path = |mxc: &str| format!("/_matrix/media/v3/thumbnail/{mxc}?width=96&height=96&method=crop");
    server.anonymous().get(&path(&mxc)).refused(404, "M_NOT_FOUND");
    let server = Server::with(server.host(), &[("AUTHENTICATED_MEDIA", "off")]);
    let bob = server.registers("bob");
    let mxc = uploads(&bob, "image/png", None, picture);
    assert_eq!(decoded(&server.anonymous().get(&path(&mxc))).dimensions(), (96, 96));
}

fn many_ask_for_the_same_thumbnail_at_once(server: &Server) {
    let alice = server.registers("alice");
    let mxc = uploads(&alice, "image/png", None, encoded(&two_colours(900, 900), ImageFormat::Png));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asking: Vec<_> =
            (0..6).map(|_| scope.spawn(|| asks(&alice, &mxc, "width=96&height=96&method=crop"))).collect();
        asking.into_iter().map(|asked| asked.join().expect("it is answered")).collect()
    });
    for answer in &answers {
        assert!(answer.status == 200 && answer.bytes == answers[0].bytes);
    }
}
