//! Making what moves smaller, frame by frame.

use std::{io::Cursor, iter::repeat};

use image::{
    AnimationDecoder, Frame, ImageFormat, ImageResult,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::LoopCount,
};

use super::{
    picture::{MEMORY_BYTES_MAX, Picture, Unfit, limits, unfit},
    png_rows::BESIDE_BYTES_MAX,
    rows::shrunk_frame,
    sizes::Size,
    webp::Film,
    webp_tables,
};

const BOUNDS: Bounds = Bounds { frames: 500, pixels: if cfg!(target_family = "wasm") { 32 << 20 } else { 128 << 20 } };
/// How often the picture is in memory while a frame is decoded, at most: what was before it, what it is drawn on, what
/// is drawn, a list of the pixels that are cleared, and a copy to give away.
const COPIES: u64 = 8;
/// A GIF says with this how often it is shown; without it is shown once.
const GIF_LOOPS: &[u8] = b"NETSCAPE2.0";

/// How many frames are made smaller at most, and how many pixels of all of them together: that takes time.
#[derive(Clone, Copy)]
struct Bounds {
    frames: u32,
    pixels: u64,
}

/// A smaller WebP of what moves; `None` if it would be no smaller a file.
///
/// # Errors
/// It has too many frames, or too many pixels in all of them; or it does not move after all.
pub(super) fn thumbnail(picture: &Picture, bytes: &[u8], size: Size) -> Result<Option<Vec<u8>>, Unfit> {
    within(BOUNDS, picture, bytes, size)
}

fn within(bounds: Bounds, picture: &Picture, bytes: &[u8], size: Size) -> Result<Option<Vec<u8>>, Unfit> {
    let drawn = picture.pixels().saturating_mul(4);
    // What is made is never longer than the file.
    let taken = drawn.saturating_mul(COPIES).saturating_add((bytes.len() as u64).saturating_mul(2));
    let room = MEMORY_BYTES_MAX.checked_sub(taken).ok_or(Unfit::TooLarge)?;
    let shown = size.of_picture((picture.width, picture.height));
    let (plays, mut frames) = frames(picture.format, bytes, drawn).map_err(unfit)?;
    let mut tables = match picture.format {
        ImageFormat::WebP => webp_tables::of_frames(bytes),
        _ => Box::new(repeat(Ok(0))),
    };
    let mut film = Film::new(shown.size, plays);
    let mut pixels = 0_u64;
    loop {
        // What breaks off is shown as far as it goes.
        match tables.next() {
            Some(Ok(tables)) if tables <= room => {}
            Some(Ok(_) | Err(Unfit::TooLarge)) => return Err(Unfit::TooLarge),
            Some(Err(Unfit::Unreadable)) | None => break,
        }
        let Some(Ok(frame)) = frames.next() else { break };
        pixels = pixels.saturating_add(picture.pixels());
        if film.frames_count() >= bounds.frames || pixels > bounds.pixels {
            return Err(Unfit::TooLarge);
        }
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let small = shrunk_frame(frame.buffer(), shown).ok_or(Unfit::Unreadable)?;
        film.show(small, numerator / denominator.max(1)).map_err(unfit)?;
        if film.size() >= bytes.len() {
            return Ok(None);
        }
    }
    if film.frames_count() < 2 { Err(Unfit::Unreadable) } else { Ok(Some(film.finish())) }
}

type Frames<'a> = Box<dyn Iterator<Item = ImageResult<Frame>> + 'a>;

/// How often they are shown, 0 for without end, and the frames themselves; `drawn` bytes has one.
fn frames(format: ImageFormat, bytes: &[u8], drawn: u64) -> ImageResult<(u16, Frames<'_>)> {
    let file = Cursor::new(bytes);
    let times = |count: LoopCount| match count {
        LoopCount::Finite(times) => u16::try_from(times.get()).unwrap_or(u16::MAX),
        LoopCount::Infinite => 0,
    };
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file)?;
            let mut limits = limits();
            // A frame that is larger than the picture takes more to decode than the picture lets expect.
            limits.max_alloc = Some(drawn.saturating_mul(3));
            image::ImageDecoder::set_limits(&mut decoder, limits)?;
            let is_repeated = memchr::memmem::find(bytes, GIF_LOOPS).is_some();
            // It is told how often it is repeated, after it was shown.
            let plays = match times(decoder.loop_count()) {
                _ if !is_repeated => 1,
                0 => 0,
                repeats => repeats.saturating_add(1),
            };
            Ok((plays, Box::new(decoder.into_frames())))
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file)?;
            Ok((times(decoder.loop_count()), Box::new(decoder.into_frames())))
        }
        _ => {
            // A profile that would take more is left out.
            let mut beside = limits();
            beside.max_alloc = Some(BESIDE_BYTES_MAX as u64);
            let mut decoder = PngDecoder::with_limits(file, beside)?;
            image::ImageDecoder::set_limits(&mut decoder, limits())?;
            let decoder = decoder.apng()?;
            Ok((times(decoder.loop_count()), Box::new(decoder.into_frames())))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use image::{Delay, Frame, ImageFormat, Rgba, RgbaImage, codecs::gif::GifEncoder};

    use super::{BOUNDS, Bounds, Film, Picture, Unfit, thumbnail, within};
    use crate::media::thumbnail::sizes::{Method, Size};

    const SIZE: Size = Size { method: Method::Scale, width: 80, height: 60 };

    fn gif(frames: impl IntoIterator<Item = RgbaImage>) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = GifEncoder::new_with_speed(&mut file, 30);
        for frame in frames {
            let delay = Delay::from_numer_denom_ms(70, 1);
            encoder.encode_frame(Frame::from_parts(frame, 0, 0, delay)).unwrap();
        }
        drop(encoder);
        file
    }

    fn webp(frames: impl IntoIterator<Item = RgbaImage>) -> Vec<u8> {
        let mut film = None;
        for frame in frames {
            film.get_or_insert_with(|| Film::new(frame.dimensions(), 0)).show(frame, 70).unwrap();
        }
        film.unwrap().finish()
    }

    /// Films in which something goes from left to right, before what does not move.
    pub(crate) fn films(width: u32, height: u32, count: u32) -> [Vec<u8>; 2] {
        let frames = (0..count).map(|number| {
            RgbaImage::from_fn(width, height, |x, y| {
                let is_there = x.abs_diff(number * width / count) < 3;
                let grain = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 26;
                if is_there { Rgba([250, 250, 9, 255]) } else { Rgba([grain as u8 * 4, 3, 5, 255]) }
            })
        });
        [gif(frames.clone()), webp(frames)]
    }

    #[test]
    fn what_moves_is_made_smaller_while_it_moves() {
        for film in films(200, 150, 8) {
            let picture = Picture::of(&film).unwrap();
            let thumbnail = thumbnail(&picture, &film, SIZE).unwrap().unwrap();
            assert!(thumbnail.len() < film.len(), "{} {}", thumbnail.len(), film.len());
            let smaller = Picture::of(&thumbnail).unwrap();
            assert_eq!((smaller.format, smaller.width, smaller.height), (ImageFormat::WebP, 80, 60));
            assert!(smaller.is_animated);
        }
    }

    #[test]
    fn what_has_too_much_to_move_is_not_moved() {
        for film in films(200, 150, 4) {
            let picture = Picture::of(&film).unwrap();
            let thumbnail = |bounds| within(bounds, &picture, &film, SIZE).map(|thumbnail| thumbnail.is_some());
            let pixels = 4 * 200 * 150;
            assert_eq!(thumbnail(Bounds { frames: 4, pixels }), Ok(true));
            assert_eq!(thumbnail(Bounds { frames: 3, pixels }), Err(Unfit::TooLarge));
            assert_eq!(thumbnail(Bounds { frames: 4, pixels: pixels - 1 }), Err(Unfit::TooLarge));
            // However little is in the file, it takes so much to draw.
            let mut large = picture;
            (large.width, large.height) = (2_500, 2_000);
            assert_eq!(within(BOUNDS, &large, &film, SIZE), Err(Unfit::TooLarge));
        }
    }

    #[test]
    fn what_would_be_no_smaller_a_file_serves_as_it_is() {
        let mut seed = 7_u32;
        let mut noise = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Rgba([(seed >> 24) as u8, (seed >> 16) as u8, (seed >> 8) as u8, 255])
        };
        let film = gif((0..3).map(|_| RgbaImage::from_fn(81, 61, |_, _| noise())));
        assert_eq!(thumbnail(&Picture::of(&film).unwrap(), &film, SIZE), Ok(None));
    }

    #[test]
    fn what_breaks_off_moves_as_far_as_it_goes() {
        let [film, _] = films(200, 150, 6);
        let film = &film[..film.len() * 2 / 3];
        let thumbnail = thumbnail(&Picture::of(film).unwrap(), film, SIZE).unwrap().unwrap();
        assert!(Picture::of(&thumbnail).unwrap().is_animated);
    }
}
