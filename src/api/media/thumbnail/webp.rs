//! A moving WebP: stills without loss in their container, each with only what has changed.

use image::{ExtendedColorType, ImageError, Rgba, RgbaImage, codecs::webp::WebPEncoder, imageops};

/// "The animation flag" and "the alpha flag" of the container.
const MOVES: u8 = 0b0000_0010;
const HAS_ALPHA: u8 = 0b0001_0000;
/// How a frame is drawn: in place of what is there, or else over it.
const IN_PLACE: u8 = 0b0000_0010;
/// What a still's file has before its only part.
const STILL_HEAD_BYTES: usize = 12;
const NOTHING: Rgba<u8> = Rgba([0; 4]);

/// A WebP that moves, while it is made.
pub(super) struct Film {
    width: u32,
    height: u32,
    /// How often it is shown; 0 is without end.
    plays: u16,
    /// What is to be seen after the last frame.
    seen: Option<RgbaImage>,
    frames: Vec<u8>,
    frames_count: u32,
}

/// A part of the picture that a frame draws.
struct Part {
    left: u32,
    top: u32,
    pixels: RgbaImage,
    in_place: bool,
}

impl Film {
    pub(super) fn new((width, height): (u32, u32), plays: u16) -> Self {
        Self { width, height, plays, seen: None, frames: Vec::new(), frames_count: 0 }
    }

    pub(super) fn frames_count(&self) -> u32 {
        self.frames_count
    }

    /// How many bytes there are already.
    pub(super) fn size(&self) -> usize {
        self.frames.len()
    }

    /// Shows a picture of the film's size for a time.
    pub(super) fn show(&mut self, picture: RgbaImage, ms: u32) -> Result<(), ImageError> {
        let part = match &self.seen {
            Some(seen) => changed(seen, &picture),
            None => Part { left: 0, top: 0, pixels: picture.clone(), in_place: true },
        };
        let mut still = Vec::new();
        let (width, height) = part.pixels.dimensions();
        WebPEncoder::new_lossless(&mut still).encode(&part.pixels, width, height, ExtendedColorType::Rgba8)?;
        let (x, y) = (u24(part.left / 2), u24(part.top / 2));
        let head = [x, y, u24(width.saturating_sub(1)), u24(height.saturating_sub(1)), u24(ms)].concat();
        let flags = [if part.in_place { IN_PLACE } else { 0 }];
        let still = still.get(STILL_HEAD_BYTES..).unwrap_or_default();
        self.frames.extend(chunk(b"ANMF", &[&head, &flags[..], still].concat()));
        self.frames_count = self.frames_count.saturating_add(1);
        self.seen = Some(picture);
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let size = [u24(self.width.saturating_sub(1)), u24(self.height.saturating_sub(1))].concat();
        let about = chunk(b"VP8X", &[&[MOVES | HAS_ALPHA, 0, 0, 0], &*size].concat());
        // The background is nobody's business: clients have their own.
        let animation = chunk(b"ANIM", &[&[0; 4], &self.plays.to_le_bytes()[..]].concat());
        chunk(b"RIFF", &[b"WEBP", &*about, &animation, &self.frames].concat())
    }
}

/// What has to be drawn for one picture to become another of the same size.
fn changed(from: &RgbaImage, to: &RgbaImage) -> Part {
    let mut bounds: Option<[u32; 4]> = None;
    let mut is_opaque = true;
    for ((x, y, pixel), before) in to.enumerate_pixels().zip(from.pixels()) {
        if pixel != before {
            let [left, top, right, bottom] = bounds.unwrap_or([x, y, x, y]);
            bounds = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
            is_opaque &= pixel.0[3] == u8::MAX;
        }
    }
    let Some([left, top, right, bottom]) = bounds else {
        return Part { left: 0, top: 0, pixels: RgbaImage::new(1, 1), in_place: false };
    };
    // A frame begins at even places.
    let (left, top) = (left & !1, top & !1);
    let (width, height) = ((right - left).saturating_add(1), (bottom - top).saturating_add(1));
    let mut pixels = imageops::crop_imm(to, left, top, width, height).to_image();
    if is_opaque {
        // What stays is left out: that takes next to nothing.
        let before = imageops::crop_imm(from, left, top, width, height).to_image();
        for (pixel, _) in pixels.pixels_mut().zip(before.pixels()).filter(|(pixel, before)| **pixel == **before) {
            *pixel = NOTHING;
        }
    }
    Part { left, top, pixels, in_place: !is_opaque }
}

/// Three bytes, the lowest first.
fn u24(number: u32) -> [u8; 3] {
    let [low, middle, high, _] = number.min(0x00FF_FFFF).to_le_bytes();
    [low, middle, high]
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    // It has an even length.
    let filling: &[u8] = if body.len() % 2 == 1 { &[0] } else { &[] };
    [name, &length[..], body, filling].concat()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{AnimationDecoder, ImageDecoder, Rgba, RgbaImage, codecs::webp::WebPDecoder, metadata::LoopCount};

    use super::Film;

    fn decoder(film: &[u8]) -> WebPDecoder<Cursor<&[u8]>> {
        WebPDecoder::new(Cursor::new(film)).unwrap()
    }

    #[test]
    fn what_is_shown_is_seen() {
        let dotted = |dots: &[(u32, u32, [u8; 4])]| {
            let mut picture = RgbaImage::from_fn(15, 9, |x, y| Rgba([x as u8 * 9, y as u8 * 9, 77, 255]));
            dots.iter().for_each(|(x, y, colour)| picture.put_pixel(*x, *y, Rgba(*colour)));
            picture
        };
        let pictures = [
            dotted(&[]),
            dotted(&[(3, 3, [255; 4]), (14, 8, [1, 2, 3, 255])]),
            dotted(&[(3, 3, [255; 4]), (14, 8, [1, 2, 3, 255])]),
            // Becomes transparent, and what was.
            dotted(&[(5, 1, [0; 4]), (7, 7, [9, 9, 9, 128])]),
            dotted(&[(6, 2, [9, 9, 9, 255])]),
        ];
        let mut film = Film::new((15, 9), 3);
        for (number, picture) in pictures.iter().enumerate() {
            film.show(picture.clone(), 10 * number as u32 + 40).unwrap();
        }
        let film = film.finish();
        assert_eq!(film.len() % 2, 0);
        assert_eq!(decoder(&film).dimensions(), (15, 9));
        assert!(matches!(decoder(&film).loop_count(), LoopCount::Finite(plays) if plays.get() == 3));
        let frames = decoder(&film).into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), pictures.len());
        for (number, (frame, picture)) in frames.iter().zip(&pictures).enumerate() {
            assert_eq!(frame.delay().numer_denom_ms(), (10 * number as u32 + 40, 1));
            for (seen, shown) in frame.buffer().pixels().zip(picture.pixels()) {
                // What is drawn over something is mixed with it, more or less.
                let is_near = seen.0.iter().zip(shown.0).all(|(seen, shown)| seen.abs_diff(shown) < 2);
                assert!(is_near || seen.0[3] == 0 && shown.0[3] == 0, "{number}: {seen:?} {shown:?}");
            }
        }
    }

    #[test]
    fn what_does_not_change_takes_next_to_nothing() {
        let picture = RgbaImage::from_fn(100, 100, |x, y| Rgba([(x * y) as u8, (x ^ y) as u8, x as u8, 255]));
        let mut film = Film::new((100, 100), 0);
        film.show(picture.clone(), 10).unwrap();
        let still = film.size();
        (0..10).for_each(|_| film.show(picture.clone(), 10).unwrap());
        assert!(film.size() < still + 1_000, "{still} {}", film.size());
    }
}
