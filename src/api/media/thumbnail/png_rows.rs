//! PNGs are made smaller row by row, however large they are.

use std::io::Cursor;

use image::metadata::Orientation;
use png::{ColorType, DecodingError, Limits, Transformations};

use super::{
    picture::{Decoded, MEMORY_BYTES_MAX, Unfit},
    rows::Shrinking,
    sizes::Shown,
};

/// Where the head says whether the rows come one after the other.
const INTERLACE: usize = 28;

/// Whether its rows come one after the other.
pub(super) fn has_rows(bytes: &[u8]) -> bool {
    bytes.get(INTERLACE) == Some(&0)
}

/// A smaller picture, of what is shown of one of this size and orientation.
pub(super) fn thumbnail(bytes: &[u8], shown: impl Fn((u32, u32), Orientation) -> Shown) -> Result<Decoded, Unfit> {
    let limit = usize::try_from(MEMORY_BYTES_MAX).unwrap_or(usize::MAX).saturating_sub(bytes.len());
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: limit });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(unfit)?;
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let shown = shown(reader.info().size(), orientation);
    let (width, height) = shown.size;
    if usize::try_from(u64::from(width) * u64::from(height) * 4).map_or(true, |made| made > limit) {
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

fn unfit(error: DecodingError) -> Unfit {
    if matches!(error, DecodingError::LimitsExceeded) { Unfit::TooLarge } else { Unfit::Unreadable }
}
