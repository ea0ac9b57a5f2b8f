//! Looking at pictures and making them smaller: computation only, on bytes that may be anything.

use std::io::Cursor;

use image::{
    AnimationDecoder, DynamicImage, GenericImageView, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits,
    RgbaImage,
    codecs::{gif::GifDecoder, jpeg::JpegEncoder, webp::WebPDecoder},
    metadata::Orientation,
};

use super::{
    jpeg, png_rows,
    rows::shrunk,
    sizes::{Made, Shown},
    webp_tables,
};

/// The largest file that is looked at, in bytes: it has to be in memory at once.
pub(super) const SOURCE_BYTES_MAX: u64 = 32 << 20;
/// What it may take in memory to make a picture smaller, in bytes. On Workers everything that an isolate does has 128
/// MB.
pub(super) const MEMORY_BYTES_MAX: u64 = if cfg!(target_family = "wasm") { 64 << 20 } else { 128 << 20 };
/// How many pixels are looked at: that takes time, however little memory.
pub(super) const PIXELS_MAX: u64 = if cfg!(target_family = "wasm") { 64 << 20 } else { 128 << 20 };
/// What is looked at of pictures: who was told by a release of less that theirs is too large is told anew.
pub(super) const REACH: u64 = PIXELS_MAX + 1;
/// How often a GIF is in memory: frames are drawn over each other.
const COPIES: u64 = 4;
/// What a pixel of a WebP takes to decode, in bytes: what it is made of, how, and what comes of it.
const WEBP_PIXEL_BYTES: u64 = 8;
/// The same of what moves: what is there already, what is drawn over it, and a copy to give away. And of what has its
/// opacity apart, as a picture of its own.
const WEBP_PIXEL_BYTES_MORE: u64 = 12;
/// How often what is made is in memory, at most: turned, in the colours it is written in, and written.
pub(super) const MADE_COPIES: u64 = 3;
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
        let file = bytes.len() as u64;
        let (width, height, whole_bytes) = match format {
            ImageFormat::Jpeg => {
                let head = jpeg::Head::of(bytes)?;
                (head.width, head.height, head.whole_bytes(file))
            }
            ImageFormat::Png => {
                let head = png_rows::Head::of(bytes)?;
                (head.width, head.height, head.whole_bytes.saturating_add(file))
            }
            ImageFormat::WebP => webp_size(bytes)?,
            _ => size(format, bytes).map_err(unfit)?,
        };
        let mut picture = Self { format, width, height, is_animated: false, whole_bytes };
        if picture.pixels() == 0 {
            return Err(Unfit::Unreadable);
        }
        if width.max(height) > SIDE_MAX || picture.pixels() > PIXELS_MAX {
            return Err(Unfit::TooLarge);
        }
        picture.is_animated = is_animated(format, bytes)?;
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

    /// Makes the thumbnail of the picture in these bytes: PNG if some of it is transparent, else JPEG. Of what moves,
    /// the first frame.
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
        encoded(&small)
    }

    /// The picture, or one that is smaller and still large enough for what is made of it.
    fn decoded(&self, bytes: &[u8], made: Made) -> Result<Decoded, Unfit> {
        let made_pixels = match made {
            Made::Whole => self.pixels(),
            Made::Sized(size) => self.pixels().min(u64::from(size.width).saturating_mul(size.height.into())),
        };
        let (made_bytes, file) = (made_pixels.saturating_mul(4), bytes.len() as u64);
        let has_room = self.whole_bytes.saturating_add(made_bytes) <= MEMORY_BYTES_MAX
            && made_bytes.saturating_mul(MADE_COPIES).saturating_add(file) <= MEMORY_BYTES_MAX;
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
        if self.format == ImageFormat::Png {
            return png_rows::whole(bytes);
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
    let decoded = decoder.total_bytes().saturating_mul(COPIES);
    Ok((width, height, decoded.saturating_add(bytes.len() as u64)))
}

/// As [`size`], of a WebP.
fn webp_size(bytes: &[u8]) -> Result<(u32, u32, u64), Unfit> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(unfit)?;
    let (width, height) = decoder.dimensions();
    let is_more = decoder.has_animation() || webp_tables::has_opacity_apart(bytes);
    let of_pixel = if is_more { WEBP_PIXEL_BYTES_MORE } else { WEBP_PIXEL_BYTES };
    let decoded = u64::from(width).saturating_mul(height.into()).saturating_mul(of_pixel);
    let mut whole = decoded.saturating_add(bytes.len() as u64);
    // What is too large anyway is not looked at closer.
    if whole <= MEMORY_BYTES_MAX {
        whole = whole.saturating_add(webp_tables::of_frames(bytes).next().unwrap_or(Ok(0))?);
    }
    Ok((width, height, whole))
}

/// What is shown of a picture that was decoded to this size. It is turned when it is small, so what is made is turned
/// before.
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

fn is_animated(format: ImageFormat, bytes: &[u8]) -> Result<bool, Unfit> {
    let file = Cursor::new(bytes);
    let is_animated = match format {
        ImageFormat::Gif => GifDecoder::new(file).and_then(|mut decoder| {
            decoder.set_limits(limits())?;
            Ok(decoder.into_frames().take(2).filter(Result::is_ok).count() > 1)
        }),
        ImageFormat::Png => return Ok(png_rows::Head::of(bytes)?.is_animated),
        ImageFormat::WebP => WebPDecoder::new(file).map(|decoder| decoder.has_animation()),
        _ => Ok(false),
    };
    is_animated.map_err(unfit)
}

fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn encoded(small: &DynamicImage) -> Result<Vec<u8>, Unfit> {
    let is_transparent = |pixels: &&RgbaImage| pixels.pixels().any(|pixel| pixel.0[3] < u8::MAX);
    if let Some(pixels) = small.as_rgba8().filter(is_transparent) {
        return png_rows::encoded(pixels);
    }
    let mut file = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
    match small.as_rgb8() {
        Some(pixels) => encoder.encode_image(pixels),
        None => encoder.encode_image(&small.to_rgb8()),
    }
    .map_err(unfit)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::{Compression, write::ZlibEncoder};
    use image::{DynamicImage, GenericImageView, GrayImage, ImageFormat, RgbImage, RgbaImage};

    use super::{MADE_COPIES, Picture, Unfit, png_rows};
    use crate::{
        media::thumbnail::{
            moving::{self, tests::films},
            sizes::{Made, Method, Size},
        },
        testing::memory::measured,
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
        // A JPEG may be read coarsely, unless everything comes at the end. Of this there is little, and the rest is
        // grey.
        let mut jpeg = encoded(&GrayImage::new(8, 8).into(), ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|two| two == b"\xff\xc0").unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[12_000_u16.to_be_bytes(), 9_000_u16.to_be_bytes()].concat());
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

    fn png_part(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        [&name[..], content].into_iter().for_each(|bytes| crc.update(bytes));
        [&(content.len() as u32).to_be_bytes(), &name[..], content, &crc.sum().to_be_bytes()].concat()
    }

    fn deflated(zeros: usize) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; zeros]).unwrap();
        encoder.finish().unwrap()
    }

    /// A PNG that comes in seven passes, with a profile that takes 60 MiB.
    fn in_passes(side: usize) -> Vec<u8> {
        let head = [&(side as u32).to_be_bytes()[..], &(side as u32).to_be_bytes(), &[8, 6, 0, 0, 1]].concat();
        // Where a pass begins, and how far its pixels are from each other.
        let passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];
        let bytes = passes
            .map(|(left, top, across, down)| ((side - left).div_ceil(across) * 4 + 1) * (side - top).div_ceil(down));
        let profile = [b"bomb\0\0", &*deflated(60 << 20)].concat();
        let parts = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            png_part(b"IHDR", &head),
            png_part(b"iCCP", &profile),
            png_part(b"IDAT", &deflated(bytes.iter().sum())),
            png_part(b"IEND", &[]),
        ];
        parts.concat()
    }

    /// A WebP without transparency that moves.
    fn moving_webp(side: u32) -> Vec<u8> {
        let part = |name: &[u8; 4], content: &[u8]| [name, &(content.len() as u32).to_le_bytes(), content].concat();
        let side_bytes = &(side - 1).to_le_bytes()[..3];
        let still = encoded(&RgbImage::new(side, side).into(), ImageFormat::WebP);
        let frame = part(b"ANMF", &[&[0; 6], side_bytes, side_bytes, &[100, 0, 0, 0], &still[12..]].concat());
        let canvas = part(b"VP8X", &[&[0b10, 0, 0, 0], side_bytes, side_bytes].concat());
        part(b"RIFF", &[b"WEBP", &*canvas, &part(b"ANIM", &[0; 6]), &frame, &frame].concat())
    }

    /// A PNG of noise, some of it transparent, that moves.
    fn moving_png(side: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, side, side);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_compression(png::Compression::Fast);
        encoder.set_animated(2, 0).unwrap();
        let mut writer = encoder.write_header().unwrap();
        let mut seed = 7_u32;
        let noise = (0..side * side * 4).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        let noise: Vec<u8> = noise.collect();
        (0..2).for_each(|_| writer.write_image_data(&noise).unwrap());
        writer.finish().unwrap();
        file
    }

    /// A PNG that moves, with nothing but a head that says it is this large.
    fn only_a_head(side: u32) -> Vec<u8> {
        let head = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 6, 0, 0, 0]].concat();
        let (head, moves) = (png_part(b"IHDR", &head), png_part(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]));
        [b"\x89PNG\r\n\x1a\n", &*head, &moves, &png_part(b"IDAT", &deflated(0)), &png_part(b"IEND", &[])].concat()
    }

    #[test]
    fn nothing_takes_more_than_it_is_reckoned_to() {
        let photograph = encoded(&RgbImage::new(700, 500).into(), ImageFormat::Jpeg);
        let half = |width, height| Made::Sized(Size { method: Method::Scale, width, height });
        for (what, file, made, pixels) in [
            ("passes and a profile", in_passes(800), SMALL, 64),
            ("a WebP that moves", moving_webp(600), SMALL, 64),
            ("a PNG that moves, as it is", moving_png(300), Made::Whole, 300 * 300),
            ("a PNG that moves", moving_png(300), half(200, 200), 200 * 200),
            ("a photograph", photograph, half(640, 480), 640 * 480),
        ] {
            let picture = Picture::of(&file).unwrap();
            let by_rows = picture.format == ImageFormat::Png && png_rows::has_rows(&file);
            let whole = if by_rows { 0 } else { picture.whole_bytes };
            let (thumbnail, most) = measured(|| Picture::of(&file)?.thumbnail(&file, made).map(drop));
            assert_eq!(thumbnail, Ok(()), "{what}");
            let reckoned = (whole + pixels * 4).max(pixels * 4 * MADE_COPIES);
            // Rows, tables, and what else does not grow with the picture.
            assert!(most <= reckoned + (600 << 10), "{what}: {most} {reckoned}");
        }
        let (large, small) = (only_a_head(4_000), only_a_head(40));
        let whole = |file: &[u8]| measured(|| Picture::of(file)?.thumbnail(file, Made::Whole).map(drop));
        assert_eq!((whole(&large).0, whole(&small).0), (Err(Unfit::TooLarge), Err(Unfit::Unreadable)));
        assert!(whole(&large).1 < 1 << 20);
    }
}
