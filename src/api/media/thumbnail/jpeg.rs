//! JPEGs: what their head says, and decoding them at a part of their size, which takes a part of the memory and the time.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, RgbImage, metadata::Orientation};
use jpeg_decoder::{Decoder, PixelFormat};

use super::{
    picture::{Decoded, MEMORY_BYTES_MAX, Unfit},
    sizes::Shown,
};

/// What the frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub width: u32,
    pub height: u32,
    components: u8,
    /// Whether it is surely decoded row by row, not with all of its coefficients in memory.
    is_sequential: bool,
}

impl Head {
    /// Looks for it, past whatever is before it.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(2..)?;
        loop {
            match rest {
                // A filling byte.
                [0xFF, 0xFF, ..] => rest = rest.get(1..)?,
                // The scans begin.
                [0xFF, 0xDA, ..] => return None,
                // C4 has tables, C8 is not used, CC has conditions.
                [0xFF, marker @ (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF), _, _, _, size @ ..] => {
                    let [high, low, left, right, components, ..] = *size else { return None };
                    let [height, width] = [[high, low], [left, right]].map(|side| u16::from_be_bytes(side).into());
                    return Some(Self { width, height, components, is_sequential: matches!(marker, 0xC0 | 0xC1) });
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

    fn pixels(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.height.into())
    }

    /// What decoding it whole takes in memory, in bytes; `file` has the file, which is copied.
    pub(super) fn whole_bytes(&self, file: u64) -> u64 {
        let coefficients = if self.is_sequential { 0 } else { 6 };
        // Grey becomes coloured.
        let colours = if self.components == 1 { 4 } else { 3 };
        self.pixels().saturating_mul(coefficients + colours).saturating_add(file.saturating_mul(2))
    }
}

/// Decodes a half, a quarter or an eighth of each side, whatever is enough for what is shown of it.
///
/// # Errors
/// It is too large for that as well, or has all its coefficients in the file one after the other.
pub(super) fn scaled(bytes: &[u8], shown: impl Fn((u32, u32), Orientation) -> Shown) -> Result<Decoded, Unfit> {
    let head = Head::of(bytes).ok_or(Unfit::Unreadable)?;
    if !head.is_sequential {
        return Err(Unfit::TooLarge);
    }
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.read_info().map_err(unreadable)?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let Shown { width, height, size, .. } = shown((head.width, head.height), orientation);
    let eighth = |side: u32, eighths: u32| u64::from(side).saturating_mul(eighths.into()) / 8;
    let is_enough =
        |eighths: &u32| eighth(width, *eighths) >= u64::from(size.0) && eighth(height, *eighths) >= u64::from(size.1);
    let eighths = [1, 2, 4].into_iter().find(is_enough).ok_or(Unfit::TooLarge)?;
    // The colours one by one, then together; and what is made of them.
    let decoded = head.pixels().saturating_mul(u64::from(eighths * eighths)) / 64 * 6;
    let made = u64::from(size.0).saturating_mul(size.1.into()).saturating_mul(4);
    if decoded.saturating_add(made).saturating_add(bytes.len() as u64) > MEMORY_BYTES_MAX {
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
    use crate::media::thumbnail::sizes::{Method, Size};

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
        assert_eq!((head.width, head.height, head.components, head.is_sequential), (80, 60, 3, true));
        for before in [&b"\xff\xe1\x00\x06\xff\xc0\x00\x00"[..], b"\xff\xff\xff", b"\0\0rubbish", b"\xff\x01"] {
            assert_eq!(Head::of(&[&jpeg[..2], before, &jpeg[2..]].concat()), Some(head), "{before:?}");
        }
        for length in 0..20 {
            assert_eq!(Head::of(&jpeg[..length]), None);
        }
    }
}
