//! Looking at pictures and making them smaller: computation only, on bytes that may be anything.

use std::io::Cursor;

use image::{
    AnimationDecoder, ColorType, DynamicImage, GenericImageView, ImageDecoder, ImageFormat, ImageReader, ImageResult,
    Limits,
    codecs::{gif::GifDecoder, jpeg::JpegEncoder, png::PngDecoder, webp::WebPDecoder},
    imageops,
    metadata::Orientation,
};

use super::sizes::{Made, Shown};

/// The largest file that is looked at, in bytes: it has to be in memory at once.
pub(super) const SOURCE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What it may take in memory to make a picture smaller, in bytes. On Workers everything that an isolate does has 128 MB:
/// a photograph of 16 million pixels in a file of 8 MB will do, natively one of 32.
const MEMORY_BYTES_MAX: u64 = if cfg!(target_family = "wasm") { 64 << 20 } else { 128 << 20 };
/// No picture has longer sides.
const SIDE_MAX: u32 = 1 << 15;
/// The quality of a thumbnail without transparency.
const JPEG_QUALITY: u8 = 82;

/// What the head of a file says of the picture in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture {
    format: ImageFormat,
    width: u32,
    height: u32,
    pub is_animated: bool,
}

/// Why there is no thumbnail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is no picture, or none that we can read.
    Unreadable,
    /// Its file, or what that decodes to, is too large.
    TooLarge,
}

impl Picture {
    /// Reads the head of a file.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Unfit> {
        let format = format(bytes).ok_or(Unfit::Unreadable)?;
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits());
        let decoder = reader.into_decoder().map_err(unfit)?;
        let (width, height) = decoder.dimensions();
        let color = decoder.color_type();
        let shrunk_from = if color.has_alpha() { ColorType::Rgba8 } else { ColorType::Rgb8 };
        let pixels = u64::from(width).saturating_mul(height.into());
        // What has other colours than we shrink is there twice.
        let converted = if color == shrunk_from { 0 } else { pixels * u64::from(shrunk_from.bytes_per_pixel()) };
        let decoded = decoder.total_bytes().saturating_mul(copies(format, bytes));
        // One decoder reads its file into memory of its own.
        let file = (bytes.len() as u64).saturating_mul(if format == ImageFormat::Jpeg { 2 } else { 1 });
        if width.max(height) > SIDE_MAX || decoded.saturating_add(converted).saturating_add(file) > MEMORY_BYTES_MAX {
            return Err(Unfit::TooLarge);
        }
        drop(decoder);
        let is_animated = is_animated(format, bytes).map_err(unfit)?;
        Ok(Self { format, width, height, is_animated })
    }

    /// Spec: the content types of thumbnails.
    pub(super) fn content_type(&self) -> &'static str {
        match self.format {
            ImageFormat::Jpeg => "image/jpeg",
            ImageFormat::Gif => "image/gif",
            ImageFormat::WebP => "image/webp",
            _ if self.is_animated => "image/apng",
            _ => "image/png",
        }
    }

    /// Whether the file itself serves as what was asked for: it is no larger, and it does not move.
    pub(super) fn serves_as(&self, made: Made) -> bool {
        let is_no_larger = match made {
            Made::Whole => true,
            Made::Sized(size) => self.width <= size.width && self.height <= size.height,
        };
        is_no_larger && !self.is_animated
    }

    /// Makes the thumbnail of the picture in these bytes: PNG if some of it is transparent, else JPEG. Of what moves, the
    /// first frame.
    pub(super) fn thumbnail(&self, bytes: &[u8], made: Made) -> Result<Vec<u8>, Unfit> {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), self.format);
        reader.limits(limits());
        let mut decoder = reader.into_decoder().map_err(unfit)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let decoded = DynamicImage::from_decoder(decoder).map_err(unfit)?;
        // It is turned when it is small, so its size is turned before.
        let turned =
            |(width, height): (u32, u32)| if is_turned(orientation) { (height, width) } else { (width, height) };
        let mut shown = match made {
            Made::Whole => {
                Shown { left: 0, top: 0, width: self.width, height: self.height, size: decoded.dimensions() }
            }
            Made::Sized(mut size) => {
                (size.width, size.height) = turned((size.width, size.height));
                size.of_picture(decoded.dimensions())
            }
        };
        shown.size = (shown.size.0.max(1), shown.size.1.max(1));
        let mut small = shrunk(decoded, &shown);
        small.apply_orientation(orientation);
        encoded(&small).map_err(unfit)
    }
}

/// What a thumbnail's bytes are.
pub(super) fn content_type(bytes: &[u8]) -> &'static str {
    if format(bytes) == Some(ImageFormat::Png) { "image/png" } else { "image/jpeg" }
}

/// The format that a file begins like, if it is one that we read.
fn format(bytes: &[u8]) -> Option<ImageFormat> {
    let known = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP];
    image::guess_format(bytes).ok().filter(|format| known.contains(format))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MEMORY_BYTES_MAX);
    limits
}

fn unfit(error: image::ImageError) -> Unfit {
    if matches!(error, image::ImageError::Limits(_)) { Unfit::TooLarge } else { Unfit::Unreadable }
}

fn is_animated(format: ImageFormat, bytes: &[u8]) -> ImageResult<bool> {
    let file = Cursor::new(bytes);
    Ok(match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file)?;
            decoder.set_limits(limits())?;
            decoder.into_frames().take(2).filter(Result::is_ok).count() > 1
        }
        ImageFormat::Png => PngDecoder::with_limits(file, limits())?.is_apng()?,
        ImageFormat::WebP => WebPDecoder::new(file)?.has_animation(),
        _ => false,
    })
}

/// How often a picture is in memory while it is decoded, at most.
fn copies(format: ImageFormat, bytes: &[u8]) -> u64 {
    match format {
        // Frames are drawn over each other.
        ImageFormat::Gif => 4,
        ImageFormat::Jpeg if !is_sequential(bytes) => 3,
        ImageFormat::WebP => 2,
        _ => 1,
    }
}

/// Whether a JPEG is surely decoded row by row, not with all of its coefficients in memory.
fn is_sequential(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xFF, marker, after @ ..] = rest {
        match (marker, after) {
            // A filling byte.
            (0xFF, _) => rest = rest.get(1..).unwrap_or_default(),
            // The scans begin.
            (0xDA, _) => return true,
            // A frame of another kind; C4 has tables.
            (0xC2..=0xC3 | 0xC5..=0xCF, _) => return false,
            (_, [high, low, ..]) => {
                rest = after.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    false
}

fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn shrunk(decoded: DynamicImage, shown: &Shown) -> DynamicImage {
    let Shown { left, top, width, height, size: (to_width, to_height) } = *shown;
    if decoded.color().has_alpha() {
        let pixels = decoded.into_rgba8();
        let view = imageops::crop_imm(&pixels, left, top, width, height);
        DynamicImage::ImageRgba8(imageops::thumbnail(&*view, to_width, to_height))
    } else {
        let pixels = decoded.into_rgb8();
        let view = imageops::crop_imm(&pixels, left, top, width, height);
        DynamicImage::ImageRgb8(imageops::thumbnail(&*view, to_width, to_height))
    }
}

fn encoded(small: &DynamicImage) -> ImageResult<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    let is_transparent = small.as_rgba8().is_some_and(|pixels| pixels.pixels().any(|pixel| pixel.0[3] < u8::MAX));
    if is_transparent {
        small.write_to(&mut file, ImageFormat::Png)?;
    } else {
        JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY).encode_image(&small.to_rgb8())?;
    }
    Ok(file.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};

    use super::{Picture, Unfit};
    use crate::media::thumbnail::sizes::{Made, Method, Size};

    const SMALL: Made = Made::Sized(Size { method: Method::Crop, width: 8, height: 8 });

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    fn pictures() -> Vec<Vec<u8>> {
        let coloured = DynamicImage::from(RgbImage::from_fn(24, 20, |x, y| image::Rgb([x as u8 * 9, y as u8 * 7, 99])));
        let faint = DynamicImage::from(RgbaImage::from_fn(24, 20, |x, y| image::Rgba([x as u8, 9, 7, y as u8 * 12])));
        let formats = [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP];
        let mut all: Vec<_> = formats.iter().map(|format| encoded(&faint, *format)).collect();
        all.push(encoded(&coloured, ImageFormat::Jpeg));
        all.push(encoded(&DynamicImage::from(coloured.to_luma16()), ImageFormat::Png));
        all
    }

    /// On Workers a panic costs the isolate.
    #[test]
    fn whatever_the_bytes_are_nothing_panics() {
        let mut seed = 7_u32;
        let mut chance = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        let (mut read, mut unfit) = (0, 0);
        for original in pictures() {
            assert!(Picture::of(&original).unwrap().thumbnail(&original, SMALL).is_ok());
            for round in 0..400 {
                let mut bytes = original.clone();
                for _ in 0..=round % 4 {
                    let place = chance(bytes.len());
                    bytes[place] = chance(256) as u8;
                }
                if round % 5 == 0 {
                    bytes.truncate(chance(bytes.len()));
                }
                match Picture::of(&bytes).and_then(|picture| picture.thumbnail(&bytes, SMALL)) {
                    Ok(_) => read += 1,
                    Err(_) => unfit += 1,
                }
            }
        }
        assert!(read > 100 && unfit > 100, "{read} {unfit}");
    }

    #[test]
    fn what_decodes_to_too_much_is_not_decoded() {
        // The same number of pixels takes more or less.
        let (width, height) = (6_000, 6_000);
        let grey = image::GrayImage::new(width, height);
        let deep = image::ImageBuffer::<image::Rgb<u16>, _>::new(4_000, 5_000);
        let too_deep = encoded(&DynamicImage::from(deep), ImageFormat::Png);
        assert_eq!(Picture::of(&too_deep).unwrap_err(), Unfit::TooLarge);
        assert_eq!(Picture::of(&encoded(&grey.into(), ImageFormat::Png)).unwrap_err(), Unfit::TooLarge);
        let fits = encoded(&RgbImage::new(width, height).into(), ImageFormat::Png);
        assert_eq!(Picture::of(&fits).unwrap().thumbnail(&fits, SMALL).map(|small| small.is_empty()), Ok(false));
    }
}
