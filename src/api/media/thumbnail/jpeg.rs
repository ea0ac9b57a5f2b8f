//! JPEGs: what their head says, and decoding them at a part of their size, which takes a part of the memory and the
//! time.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, RgbImage, metadata::Orientation};
use jpeg_decoder::{Decoder, PixelFormat};

use super::{
    picture::{Decoded, MEMORY_BYTES_MAX, PIXELS_MAX, Unfit},
    sizes::Shown,
};

/// How many scans a picture that comes in several may have. Encoders write about ten.
const SCANS_MAX: u64 = 100;
/// How many pixels are gone through, those of each scan again: that takes time, however small the file is.
const PIXELS_OF_SCANS_MAX: u64 = 8 * PIXELS_MAX;
/// A block has so many pixels, and what is kept of it until all scans are there so many bytes.
const BLOCK_PIXELS: u64 = 64;
const BLOCK_BYTES: u64 = 2 * BLOCK_PIXELS;

/// What the frame's header says, and what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub width: u32,
    pub height: u32,
    components: u8,
    /// Those of all components together.
    blocks: u64,
    /// Whether it comes from coarse to fine, in many scans, with all of its coefficients in memory.
    is_progressive: bool,
    /// Whether one scan has all components.
    is_at_once: bool,
    scans: u64,
    /// What stands beside the pixels, of which decoders keep copies, in bytes.
    beside: u64,
}

impl Head {
    /// Looks for it, past whatever is before it, and goes through the scans.
    ///
    /// # Errors
    /// There is none, or there are more scans than pictures have; or going through them takes too long.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Unfit> {
        let head = Self::found(bytes).ok_or(Unfit::Unreadable)?;
        let scans_max = if head.is_progressive { SCANS_MAX } else { head.components.into() };
        if head.scans > scans_max {
            return Err(Unfit::Unreadable);
        }
        if head.scans.saturating_mul(head.pixels()) > PIXELS_OF_SCANS_MAX {
            return Err(Unfit::TooLarge);
        }
        Ok(head)
    }

    fn found(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(2..)?;
        loop {
            match rest {
                // A filling byte.
                [0xFF, 0xFF, ..] => rest = rest.get(1..)?,
                // The scans begin.
                [0xFF, 0xDA, ..] => return None,
                // C4 has tables, C8 is not used, CC has conditions.
                [0xFF, marker @ (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF), high, low, _, frame @ ..] => {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    let after = rest.get(length.checked_add(2)?..)?;
                    let beside = bytes.len().saturating_sub(after.len());
                    return Self::of_frame(frame, !matches!(marker, 0xC0 | 0xC1))?.with_scans(after, beside);
                }
                // These stand alone.
                [0xFF, 0x00 | 0x01 | 0xD0..=0xD9, ..] => rest = rest.get(2..)?,
                [0xFF, _, high, low, ..] => {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    rest = rest.get(length.checked_add(2)?..)?;
                }
                _ => rest = rest.get(1..).filter(|rest| rest.len() > 3)?,
            }
        }
    }

    fn of_frame(frame: &[u8], is_progressive: bool) -> Option<Self> {
        let [high, low, left, right, components, ref each @ ..] = *frame else { return None };
        let [height, width] = [[high, low], [left, right]].map(|side| u32::from(u16::from_be_bytes(side)));
        // How many blocks beside and above each other each component has in a unit.
        let each = each.as_chunks::<3>().0.get(..components.into())?;
        let sampled = each.iter().map(|[_, sampled, _]| (u64::from(sampled >> 4), u64::from(sampled & 15)));
        if sampled.clone().any(|(across, down)| !(1..=4).contains(&across) || !(1..=4).contains(&down)) {
            return None;
        }
        let (across, down) =
            (sampled.clone().map(|(across, _)| across).max()?, sampled.clone().map(|(_, down)| down).max()?);
        let units = u64::from(width).div_ceil(8 * across).saturating_mul(u64::from(height).div_ceil(8 * down));
        let blocks = units.saturating_mul(sampled.map(|(across, down)| across * down).sum());
        let (is_at_once, scans, beside) = (false, 0, 0);
        Some(Self { width, height, components, blocks, is_progressive, is_at_once, scans, beside })
    }

    /// Goes through what comes after the frame's header: in scans nothing looks like a marker.
    fn with_scans(mut self, mut rest: &[u8], beside: usize) -> Option<Self> {
        self.beside = beside as u64;
        while let Some(mark) = memchr::memchr(0xFF, rest) {
            rest = rest.get(mark.checked_add(1)?..)?;
            match *rest {
                // The end.
                [0xD9, ..] => break,
                // A filling byte, which begins a marker itself.
                [0xFF, ..] => {}
                [0x00 | 0x01 | 0xD0..=0xD8, ..] => rest = rest.get(1..)?,
                [marker, high, low, ref segment @ ..] => {
                    if marker == 0xDA {
                        let components = segment.first().copied().unwrap_or_default();
                        self.is_at_once = self.scans == 0 && components == self.components;
                        self.scans = self.scans.saturating_add(1);
                    }
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    self.beside = self.beside.saturating_add(length as u64);
                    let Some(after) = rest.get(length.checked_add(1)?..) else { break };
                    rest = after;
                }
                _ => break,
            }
        }
        Some(self)
    }

    fn pixels(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.height.into())
    }

    /// What decoding it whole takes in memory, in bytes; `file` has the file, which is copied.
    pub(super) fn whole_bytes(&self, file: u64) -> u64 {
        let coefficients =
            if self.is_at_once && !self.is_progressive { 0 } else { self.blocks.saturating_mul(BLOCK_BYTES) };
        // Grey becomes coloured.
        let colours = if self.components == 1 { 4 } else { 3 };
        self.pixels().saturating_mul(colours).saturating_add(coefficients).saturating_add(file.saturating_mul(2))
    }

    /// What decoding so many eighths of each side takes, in bytes: coefficients, the colours one by one, then together.
    fn scaled_bytes(&self, eighths: u32, file: u64) -> u64 {
        let coefficients = if self.is_progressive { self.blocks.saturating_mul(BLOCK_BYTES) } else { 0 };
        let of_block = u64::from(eighths * eighths);
        let apart = self.blocks.saturating_mul(of_block);
        let together = self.pixels().saturating_mul(of_block) / BLOCK_PIXELS * u64::from(self.components);
        let decoded = coefficients.saturating_add(apart).saturating_add(together);
        decoded.saturating_add(file).saturating_add(self.beside)
    }
}

/// Decodes a half, a quarter or an eighth of each side, whatever is enough for what is shown of it.
///
/// # Errors
/// It is too large for that as well.
pub(super) fn scaled(bytes: &[u8], shown: impl Fn((u32, u32), Orientation) -> Shown) -> Result<Decoded, Unfit> {
    let head = Head::of(bytes)?;
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.read_info().map_err(unreadable)?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let Shown { width, height, size, .. } = shown((head.width, head.height), orientation);
    let eighth = |side: u32, eighths: u32| u64::from(side).saturating_mul(eighths.into()) / 8;
    let is_enough =
        |eighths: &u32| eighth(width, *eighths) >= u64::from(size.0) && eighth(height, *eighths) >= u64::from(size.1);
    let eighths = [1, 2, 4].into_iter().find(is_enough).ok_or(Unfit::TooLarge)?;
    let made = u64::from(size.0).saturating_mul(size.1.into()).saturating_mul(4);
    if head.scaled_bytes(eighths, bytes.len() as u64).saturating_add(made) > MEMORY_BYTES_MAX {
        return Err(Unfit::TooLarge);
    }
    let side = |side: u32| u16::try_from((side * eighths).div_ceil(8)).unwrap_or(u16::MAX);
    let (width, height) = decoder.scale(side(head.width), side(head.height)).map_err(unreadable)?;
    decoder.set_max_decoding_buffer_size(usize::from(width).saturating_mul(height.into()).saturating_mul(3));
    let format = decoder.info().map(|info| info.pixel_format);
    let pixels = decoder.decode().map_err(unreadable)?;
    let (width, height) = (width.into(), height.into());
    let pixels = match format {
        Some(PixelFormat::RGB24) => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        Some(PixelFormat::L8) => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => None,
    };
    Ok(Decoded { pixels: pixels.ok_or(Unfit::Unreadable)?, orientation })
}

fn unreadable(_: jpeg_decoder::Error) -> Unfit {
    Unfit::Unreadable
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GenericImageView, Rgb, RgbImage, codecs::jpeg::JpegEncoder, metadata::Orientation};

    use super::{Head, scaled};
    use crate::media::thumbnail::{
        picture::Unfit,
        sizes::{Method, Size},
    };

    fn encoded(picture: &DynamicImage) -> Vec<u8> {
        let mut file = Vec::new();
        picture.write_with_encoder(JpegEncoder::new(&mut file)).unwrap();
        file
    }

    fn red_then_blue(width: u32, height: u32) -> DynamicImage {
        RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }).into()
    }

    #[test]
    fn as_little_is_decoded_as_is_enough() {
        let (coloured, grey) = (red_then_blue(800, 600), DynamicImage::from(red_then_blue(800, 600).to_luma8()));
        for (method, size, decoded) in [
            (Method::Scale, (90, 90), Some((100, 75))),
            (Method::Scale, (101, 101), Some((200, 150))),
            (Method::Crop, (75, 75), Some((100, 75))),
            (Method::Crop, (100, 100), Some((200, 150))),
            (Method::Scale, (399, 399), Some((400, 300))),
            (Method::Scale, (401, 401), None),
        ] {
            let size = Size { method, width: size.0, height: size.1 };
            for picture in [&coloured, &grey] {
                let scaled = scaled(&encoded(picture), |of, _| size.of_picture(of)).ok();
                assert_eq!(scaled.as_ref().map(|decoded| decoded.pixels.dimensions()), decoded, "{size:?}");
                let Some(scaled) = scaled else { continue };
                assert_eq!((scaled.pixels.color(), scaled.orientation), (picture.color(), Orientation::NoTransforms));
                for eighth in [1, 7] {
                    let [of_it, of_picture] = [&scaled.pixels, picture].map(|picture| {
                        picture.to_rgb8().get_pixel(picture.width() * eighth / 8, picture.height() / 2).0
                    });
                    assert!(of_it.iter().zip(of_picture).all(|(one, other)| one.abs_diff(other) < 9), "{of_it:?}");
                }
            }
        }
    }

    #[test]
    fn the_head_is_found_past_what_is_before_it() {
        let jpeg = encoded(&red_then_blue(80, 60));
        let head = Head::of(&jpeg).unwrap();
        assert_eq!((head.width, head.height, head.components, head.is_progressive), (80, 60, 3, false));
        assert_eq!((head.blocks, head.scans, head.is_at_once), (3 * 10 * 8, 1, true));
        for before in [&b"\xff\xe1\x00\x06\xff\xc0\x00\x00"[..], b"\xff\xff\xff", b"\0\0rubbish", b"\xff\x01"] {
            let beside = head.beside + before.len() as u64;
            let expected = Head { beside, ..head };
            assert_eq!(Head::of(&[&jpeg[..2], before, &jpeg[2..]].concat()), Ok(expected), "{before:?}");
        }
        for length in 0..20 {
            assert_eq!(Head::of(&jpeg[..length]), Err(Unfit::Unreadable));
        }
    }

    /// The parts of a JPEG: what comes before the scan, the scan's head, and the rest.
    fn parts(jpeg: &[u8]) -> [&[u8]; 3] {
        let scan = jpeg.windows(2).position(|two| two == b"\xff\xda").unwrap();
        let blocks = scan + 2 + usize::from(u16::from_be_bytes([jpeg[scan + 2], jpeg[scan + 3]]));
        [&jpeg[..scan], &jpeg[scan..blocks], &jpeg[blocks..]]
    }

    #[test]
    fn a_picture_has_no_more_scans_than_encoders_write() {
        let jpeg = encoded(&red_then_blue(2_400, 1_600));
        let [before, scan, blocks] = parts(&jpeg);
        let with_scans = |count: usize| [before, &scan.repeat(count), blocks].concat();
        let as_progressive = |mut jpeg: Vec<u8>| {
            let frame = jpeg.windows(2).position(|two| two == b"\xff\xc0").unwrap();
            jpeg[frame + 1] = 0xC2;
            jpeg
        };
        for count in [1, 3] {
            assert_eq!(Head::of(&with_scans(count)).unwrap().scans, count as u64);
        }
        // Each takes 14 bytes, and all blocks are gone through again.
        for count in [4, 1_000] {
            assert_eq!(Head::of(&with_scans(count)), Err(Unfit::Unreadable));
        }
        assert!(Head::of(&as_progressive(with_scans(100))).is_ok());
        assert_eq!(Head::of(&as_progressive(with_scans(101))), Err(Unfit::Unreadable));
        // Of a large one, fewer.
        let mut large = as_progressive(with_scans(100));
        let frame = large.windows(2).position(|two| two == b"\xff\xc2").unwrap();
        large[frame + 5..frame + 9].copy_from_slice(&[9_000_u16.to_be_bytes(), 9_000_u16.to_be_bytes()].concat());
        assert_eq!(Head::of(&large), Err(Unfit::TooLarge));
        // What comes after the end is nobody's business: telephones put films there.
        assert_eq!(Head::of(&[&*jpeg, &scan.repeat(1_000)].concat()).unwrap().scans, 1);
        // Nor is what stands in a segment between scans one.
        let comment = [b"\xff\xfe\x0f\xa2", &*b"\xff\xda".repeat(2_000)].concat();
        assert_eq!(Head::of(&[before, scan, b"\xff\xff", &comment, scan, blocks].concat()).unwrap().scans, 2);
    }
}
