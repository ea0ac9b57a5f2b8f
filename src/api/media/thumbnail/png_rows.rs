//! PNGs: what their head says, and making them smaller row by row, however large they are; those whose rows come in
//! passes are decoded whole. And writing them.

use std::io::{Cursor, Write};

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage, metadata::Orientation};
use png::{ColorType, Compression, DecodingError, EncodingError, Limits, Reader, Transformations};

use super::{
    picture::{Decoded, MADE_COPIES, MEMORY_BYTES_MAX, Unfit},
    rows::Shrinking,
    sizes::Shown,
};

/// Where the head says whether the rows come one after the other.
const INTERLACE: usize = 28;
/// What is kept of a file beside the pixels, in bytes: a row, and how the picture is turned. No profile, and no text.
pub(super) const BESIDE_BYTES_MAX: usize = 2 << 20;

/// What of a file that is written stands before the pixels at most, and in which pieces these are written, in bytes.
const HEAD_BYTES: usize = 4 << 10;
const PIECE_BYTES: usize = 32 << 10;

/// What the head says.
pub(super) struct Head {
    pub width: u32,
    pub height: u32,
    pub is_animated: bool,
    /// What it takes in memory to decode it whole, without the file, in bytes.
    pub whole_bytes: u64,
}

impl Head {
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Unfit> {
        let reader = reader(bytes)?;
        let (width, height) = reader.info().size();
        let pixels = u64::from(width).saturating_mul(height.into());
        // What has other colours than we shrink is there twice.
        let of_pixel = match reader.output_color_type().0 {
            ColorType::Grayscale => 1 + 3,
            ColorType::GrayscaleAlpha => 2 + 4,
            ColorType::Rgb => 3,
            ColorType::Rgba | ColorType::Indexed => 4,
        };
        let is_animated = reader.info().animation_control.is_some();
        Ok(Self { width, height, is_animated, whole_bytes: pixels.saturating_mul(of_pixel) })
    }
}

/// Whether its rows come one after the other.
pub(super) fn has_rows(bytes: &[u8]) -> bool {
    bytes.get(INTERLACE) == Some(&0)
}

fn reader(bytes: &[u8]) -> Result<Reader<Cursor<&[u8]>>, Unfit> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: BESIDE_BYTES_MAX });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.read_info().map_err(unfit)
}

fn orientation(reader: &Reader<Cursor<&[u8]>>) -> Orientation {
    let exif = reader.info().exif_metadata.as_deref();
    exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// The picture as it is: there has to be room for it.
pub(super) fn whole(bytes: &[u8]) -> Result<Decoded, Unfit> {
    let mut reader = reader(bytes)?;
    let (orientation, (width, height)) = (orientation(&reader), reader.info().size());
    let mut pixels = vec![0; reader.output_buffer_size().ok_or(Unfit::TooLarge)?];
    reader.next_frame(&mut pixels).map_err(unfit)?;
    let pixels = match reader.output_color_type().0 {
        ColorType::Grayscale => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        ColorType::GrayscaleAlpha => GrayAlphaImage::from_raw(width, height, pixels).map(DynamicImage::from),
        ColorType::Rgb => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        ColorType::Rgba => RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from),
        // It is expanded.
        ColorType::Indexed => None,
    };
    Ok(Decoded { pixels: pixels.ok_or(Unfit::Unreadable)?, orientation })
}

/// A smaller picture, of what is shown of one of this size and orientation.
pub(super) fn thumbnail(bytes: &[u8], shown: impl Fn((u32, u32), Orientation) -> Shown) -> Result<Decoded, Unfit> {
    let mut reader = reader(bytes)?;
    let orientation = orientation(&reader);
    let shown = shown(reader.info().size(), orientation);
    let made = u64::from(shown.size.0).saturating_mul(shown.size.1.into()).saturating_mul(4);
    if made.saturating_mul(MADE_COPIES).saturating_add(bytes.len() as u64) > MEMORY_BYTES_MAX {
        return Err(Unfit::TooLarge);
    }
    let (colours, _) = reader.output_color_type();
    let mut shrinking = Shrinking::new(shown, matches!(colours, ColorType::GrayscaleAlpha | ColorType::Rgba));
    for y in 0.. {
        if shrinking.is_below(y) {
            break;
        }
        let Some(row) = reader.next_row().map_err(unfit)? else { break };
        let (row, columns) = (row.data(), shrinking.columns());
        match colours {
            ColorType::Grayscale => {
                let row = row.get(columns).ok_or(Unfit::Unreadable)?;
                shrinking.take(y, row.iter().map(|grey| [*grey, *grey, *grey, u8::MAX]));
            }
            ColorType::GrayscaleAlpha => {
                let row = row.as_chunks().0.get(columns).ok_or(Unfit::Unreadable)?;
                shrinking.take(y, row.iter().map(|[grey, opacity]| [*grey, *grey, *grey, *opacity]));
            }
            ColorType::Rgb => {
                let row = row.as_chunks().0.get(columns).ok_or(Unfit::Unreadable)?;
                shrinking.take(y, row.iter().map(|[red, green, blue]| [*red, *green, *blue, u8::MAX]));
            }
            ColorType::Rgba => {
                let row = row.as_chunks().0.get(columns).ok_or(Unfit::Unreadable)?;
                shrinking.take(y, row.iter().copied());
            }
            // It is expanded.
            ColorType::Indexed => return Err(Unfit::Unreadable),
        }
    }
    Ok(Decoded { pixels: shrinking.finish().ok_or(Unfit::Unreadable)?, orientation })
}

/// The file of a picture, written as it goes: there is room from the beginning for what is not made shorter.
pub(super) fn encoded(picture: &RgbaImage) -> Result<Vec<u8>, Unfit> {
    let pixels = picture.as_raw();
    let mut file = Vec::with_capacity(pixels.len().saturating_add(pixels.len() / 32).saturating_add(HEAD_BYTES));
    let mut encoder = png::Encoder::new(&mut file, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgba);
    encoder.set_compression(Compression::Fast);
    let writing = || {
        let mut writer = encoder.write_header()?;
        let mut rows = writer.stream_writer_with_size(PIECE_BYTES)?;
        rows.write_all(pixels)?;
        rows.finish()?;
        writer.finish()
    };
    writing().map_err(|_: EncodingError| Unfit::Unreadable)?;
    Ok(file)
}

fn unfit(error: DecodingError) -> Unfit {
    if matches!(error, DecodingError::LimitsExceeded) { Unfit::TooLarge } else { Unfit::Unreadable }
}
