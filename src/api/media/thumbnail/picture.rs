//! Looking at pictures and making them smaller: computation only, on bytes that may be anything.

use std::io::Cursor;

use image::{
    AnimationDecoder, ColorType, DynamicImage, GenericImageView, ImageDecoder, ImageFormat, ImageReader, ImageResult,
    Limits,
    codecs::{gif::GifDecoder, jpeg::JpegEncoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use super::{
    jpeg, png_rows,
    rows::shrunk,
    sizes::{Made, Shown},
};

/// The largest file that is looked at, in bytes: it has to be in memory at once.
pub(super) const SOURCE_BYTES_MAX: u64 = 32 << 20;
/// What it may take in memory to make a picture smaller, in bytes. On Workers everything that an isolate does has 128 MB.
pub(super) const MEMORY_BYTES_MAX: u64 = if cfg!(target_family = "wasm") { 64 << 20 } else { 128 << 20 };
/// How many pixels are looked at: that takes time, however little memory.
pub(super) const PIXELS_MAX: u64 = if cfg!(target_family = "wasm") { 64 << 20 } else { 128 << 20 };
/// No picture has longer sides.
const SIDE_MAX: u32 = 1 << 15;
/// The quality of a thumbnail without transparency.
const JPEG_QUALITY: u8 = 82;

/// What the head of a file says of the picture in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture {
    pub format: ImageFormat,
    pub width: u32,
    pub height: u32,
    pub is_animated: bool,
    /// What it takes in memory to decode it whole, in bytes.
    whole_bytes: u64,
}

/// Why there is no thumbnail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is no picture, or none that we can read.
    Unreadable,
    /// Its file, or what that decodes to, is too large.
    TooLarge,
}

/// A picture in memory, perhaps smaller than it is, and how it is turned to be shown.
#[derive(Debug)]
pub(super) struct Decoded {
    pub pixels: DynamicImage,
    pub orientation: Orientation,
}

impl Picture {
    /// Reads the head of a file.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Unfit> {
        let format = format(bytes).ok_or(Unfit::Unreadable)?;
        let (width, height, whole_bytes) = if format == ImageFormat::Jpeg {
            let head = jpeg::Head::of(bytes).ok_or(Unfit::Unreadable)?;
            (head.width, head.height, head.whole_bytes(bytes.len() as u64))
        } else {
            size(format, bytes).map_err(unfit)?
        };
        let mut picture = Self { format, width, height, is_animated: false, whole_bytes };
        if picture.pixels() == 0 {
            return Err(Unfit::Unreadable);
        }
        if width.max(height) > SIDE_MAX || picture.pixels() > PIXELS_MAX {
            return Err(Unfit::TooLarge);
        }
        picture.is_animated = is_animated(format, bytes).map_err(unfit)?;
        Ok(picture)
    }

    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.height.into())
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

    /// Whether it is no larger than what was asked for.
    pub(super) fn fits(&self, made: Made) -> bool {
        match made {
            Made::Whole => true,
            Made::Sized(size) => self.width <= size.width && self.height <= size.height,
        }
    }

    /// Makes the thumbnail of the picture in these bytes: PNG if some of it is transparent, else JPEG. Of what moves, the
    /// first frame.
    pub(super) fn thumbnail(&self, bytes: &[u8], made: Made) -> Result<Vec<u8>, Unfit> {
        let small = if self.format == ImageFormat::Png && png_rows::has_rows(bytes) {
            png_rows::thumbnail(bytes, |size, orientation| shown(made, size, orientation))?
        } else {
            let Decoded { pixels, orientation } = self.decoded(bytes, made)?;
            let shown = shown(made, pixels.dimensions(), orientation);
            Decoded { pixels: shrunk(pixels, shown).ok_or(Unfit::Unreadable)?, orientation }
        };
        let Decoded { pixels: mut small, orientation } = small;
        small.apply_orientation(orientation);
        encoded(&small).map_err(unfit)
    }

    /// The picture, or one that is smaller and still large enough for what is made of it.
    fn decoded(&self, bytes: &[u8], made: Made) -> Result<Decoded, Unfit> {
        let made_pixels = match made {
            Made::Whole => self.pixels(),
            Made::Sized(size) => self.pixels().min(u64::from(size.width).saturating_mul(size.height.into())),
        };
        let has_room = self.whole_bytes.saturating_add(made_pixels.saturating_mul(4)) <= MEMORY_BYTES_MAX;
        if self.format == ImageFormat::Jpeg {
            match jpeg::scaled(bytes, |size, orientation| shown(made, size, orientation)) {
                // The other decoder may read what this one does not, and reads all of it.
                Err(_) if has_room => {}
                decoded => return decoded,
            }
        }
        if !has_room {
            return Err(Unfit::TooLarge);
        }
        let mut reader = ImageReader::with_format(Cursor::new(bytes), self.format);
        reader.limits(limits());
        let mut decoder = reader.into_decoder().map_err(unfit)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        Ok(Decoded { pixels: DynamicImage::from_decoder(decoder).map_err(unfit)?, orientation })
    }
}

/// The width and height of a picture, and what it takes in memory to decode it whole.
fn size(format: ImageFormat, bytes: &[u8]) -> ImageResult<(u32, u32, u64)> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let shrunk_from = if color.has_alpha() { ColorType::Rgba8 } else { ColorType::Rgb8 };
    let pixels = u64::from(width).saturating_mul(height.into());
    // What has other colours than we shrink is there twice.
    let converted = if color == shrunk_from { 0 } else { pixels.saturating_mul(shrunk_from.bytes_per_pixel().into()) };
    let copies = match format {
        // Frames are drawn over each other.
        ImageFormat::Gif => 4,
        ImageFormat::WebP => 2,
        _ => 1,
    };
    let decoded = decoder.total_bytes().saturating_mul(copies);
    Ok((width, height, decoded.saturating_add(converted).saturating_add(bytes.len() as u64)))
}

/// What is shown of a picture that was decoded to this size. It is turned when it is small, so what is made is turned before.
fn shown(made: Made, decoded: (u32, u32), orientation: Orientation) -> Shown {
    match made {
        Made::Whole => Shown { left: 0, top: 0, width: decoded.0, height: decoded.1, size: decoded },
        Made::Sized(mut size) => {
            if is_turned(orientation) {
                (size.width, size.height) = (size.height, size.width);
            }
            size.of_picture(decoded)
        }
    }
}

/// What a thumbnail's bytes are.
pub(super) fn content_type(bytes: &[u8]) -> &'static str {
    match format(bytes) {
        Some(ImageFormat::Png) => "image/png",
        Some(ImageFormat::WebP) => "image/webp",
        _ => "image/jpeg",
    }
}

/// The format that a file begins like, if it is one that we read.
fn format(bytes: &[u8]) -> Option<ImageFormat> {
    let known = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP];
    image::guess_format(bytes).ok().filter(|format| known.contains(format))
}

pub(super) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MEMORY_BYTES_MAX);
    limits
}

pub(super) fn unfit(error: image::ImageError) -> Unfit {
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

fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn encoded(small: &DynamicImage) -> ImageResult<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    let is_transparent = small.as_rgba8().is_some_and(|pixels| pixels.pixels().any(|pixel| pixel.0[3] < u8::MAX));
    if is_transparent {
        small.write_to(&mut file, ImageFormat::Png)?;
    } else {
        let mut encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
        match small.as_rgb8() {
            Some(pixels) => encoder.encode_image(pixels)?,
            None => encoder.encode_image(&small.to_rgb8())?,
        }
    }
    Ok(file.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, GenericImageView, GrayImage, ImageFormat, RgbImage, RgbaImage};

    use super::{Picture, Unfit};
    use crate::media::thumbnail::{
        moving::{self, tests::films},
        sizes::{Made, Method, Size},
    };

    const SIZE: Size = Size { method: Method::Crop, width: 8, height: 8 };
    const SMALL: Made = Made::Sized(SIZE);

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    fn stills() -> Vec<Vec<u8>> {
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
        let films = films(30, 20, 3);
        for original in stills().iter().chain(&films) {
            let made = |bytes: &[u8]| {
                let picture = Picture::of(bytes)?;
                if picture.is_animated {
                    moving::thumbnail(&picture, bytes, SIZE).map(drop)?
                }
                picture.thumbnail(bytes, SMALL)
            };
            assert!(made(original).is_ok());
            for round in 0..400 {
                let mut bytes = original.clone();
                for _ in 0..=round % 4 {
                    let place = chance(bytes.len());
                    bytes[place] = chance(256) as u8;
                }
                if round % 5 == 0 {
                    bytes.truncate(chance(bytes.len()));
                }
                match made(&bytes) {
                    Ok(_) => read += 1,
                    Err(_) => unfit += 1,
                }
            }
        }
        assert!(read > 100 && unfit > 100, "{read} {unfit}");
    }

    #[test]
    fn what_decodes_to_too_much_is_decoded_in_part_or_not_at_all() {
        let small = |bytes: &[u8]| {
            let thumbnail = Picture::of(bytes)?.thumbnail(bytes, SMALL)?;
            Ok::<_, Unfit>(image::load_from_memory(&thumbnail).unwrap().dimensions())
        };
        // A JPEG may be read coarsely, unless everything comes at the end. Of this there is little, and the rest is grey.
        let mut jpeg = encoded(&GrayImage::new(8, 8).into(), ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|two| two == b"\xff\xc0").unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[9_000_u16.to_be_bytes(), 6_000_u16.to_be_bytes()].concat());
        assert_eq!(small(&jpeg), Ok((8, 8)));
        jpeg[frame + 1] = 0xC2;
        assert_eq!(small(&jpeg), Err(Unfit::TooLarge));
        // A PNG goes row by row, unless it is made of several.
        let png = encoded(&GrayImage::new(28_000, 1_600).into(), ImageFormat::Png);
        assert_eq!(small(&png), Ok((8, 8)));
        let webp = encoded(&RgbImage::new(5_000, 5_000).into(), ImageFormat::WebP);
        assert_eq!(small(&webp), Err(Unfit::TooLarge));
        assert_eq!(small(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0"), Err(Unfit::TooLarge));
    }
}
