//! Pictures to be uploaded: harmless ones, moving ones, and those made to do harm.

use std::io::{Cursor, Write};

use flate2::{Compression, write::ZlibEncoder};
use image::{Delay, DynamicImage, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage, codecs::gif::GifEncoder};

const PNG_MARK: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Each frame of what moves has a grey of its own.
const GREYS: [u8; 3] = [10, 120, 240];

/// A picture in two colours: red on the left, blue on the right.
pub fn two_colours(width: u32, height: u32) -> DynamicImage {
    let colour = |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) };
    RgbImage::from_fn(width, height, colour).into()
}

/// The file of a picture.
pub fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).expect("it is encoded");
    file.into_inner()
}

fn grey(width: u32, height: u32, grey: u8) -> RgbaImage {
    RgbaImage::from_pixel(width, height, Rgba([grey, grey, grey, 255]))
}

/// A photograph in two colours, red on the left, blue on the right: made of one row of blocks again and again, since
/// that is made at once.
pub fn large_photograph(width: u32, height: u32) -> Vec<u8> {
    const BLOCK: u32 = 8;
    let strip = encoded(&two_colours(width, BLOCK), ImageFormat::Jpeg);
    let at = |mark: &[u8; 2]| strip.windows(2).position(|two| two == mark).expect("every JPEG has one");
    let (frame, scan) = (at(b"\xff\xc0"), at(b"\xff\xda"));
    let blocks = scan + 2 + usize::from(u16::from_be_bytes([strip[scan + 2], strip[scan + 3]]));
    let (head, row) = (&strip[..blocks], &strip[blocks..strip.len() - 2]);
    let mut photograph = head[..scan].to_vec();
    photograph[frame + 5..frame + 7].copy_from_slice(&u16::try_from(height).expect("it is a JPEG").to_be_bytes());
    // After so many blocks it starts anew.
    let interval = u16::try_from(width / BLOCK).expect("it is a JPEG").to_be_bytes();
    photograph.extend([&[0xFF, 0xDD, 0, 4], &interval[..], &head[scan..]].concat());
    for number in 0..height / BLOCK {
        photograph.extend(row);
        photograph.extend([0xFF, 0xD0 + (number % 8) as u8]);
    }
    photograph.truncate(photograph.len() - 2);
    photograph.extend([0xFF, 0xD9]);
    photograph
}

/// The same with the head of its scan so many times: who believes it goes through all blocks again for each 14 bytes.
pub fn with_scans(photograph: &[u8], count: usize) -> Vec<u8> {
    let scan = photograph.windows(2).position(|two| two == b"\xff\xda").expect("every JPEG has one");
    let blocks = scan + 2 + usize::from(u16::from_be_bytes([photograph[scan + 2], photograph[scan + 3]]));
    [&photograph[..scan], &photograph[scan..blocks].repeat(count), &photograph[blocks..]].concat()
}

/// As [`large_photograph`], from coarse to fine: first what all blocks are in the mean, then that there is no more to
/// each. The sides are of whole units, 16 pixels.
pub fn progressive_photograph(width: u16, height: u16) -> Vec<u8> {
    let segment = |marker: u8, content: &[u8]| {
        let length = u16::try_from(content.len() + 2).expect("it is short").to_be_bytes();
        [&[0xFF, marker], &length, content].concat()
    };
    let (units, rows) = (width / 16, height / 16);
    let size = [height.to_be_bytes(), width.to_be_bytes()].concat();
    // Two samples of brightness in each direction have one of each colour.
    let frame = [&[8], &*size, &[3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0]].concat();
    // Twelve codes of four bits for what differs from the block before; one of a bit for the end of a block.
    let differences = [&[0, 0, 0, 0, 12], &[0; 12][..], &*(0..12).collect::<Vec<u8>>()].concat();
    let end = [&[0x10, 1], &[0_u8; 16][..]].concat();
    let mut bits = Bits::default();
    let mut before = [0; 3];
    for unit in (0..rows).flat_map(|_| 0..units) {
        let colour = if unit < units / 2 { [76, 85, 255] } else { [29, 255, 107] };
        for (component, blocks) in [4, 1, 1].into_iter().enumerate() {
            let value = colour[component] - 128;
            let difference: i32 = value - std::mem::replace(&mut before[component], value);
            let size = 32 - difference.unsigned_abs().leading_zeros();
            let number = if difference < 0 { difference + (1 << size) - 1 } else { difference };
            bits.put(4, size);
            bits.put(size, number.unsigned_abs());
            (1..blocks).for_each(|_| bits.put(4, 0));
        }
    }
    let mut photograph =
        [&[0xFF, 0xD8], &*segment(0xDB, &[&[0], &[8; 64][..]].concat()), &segment(0xC2, &frame)].concat();
    photograph.extend([segment(0xC4, &differences), segment(0xC4, &end)].concat());
    photograph.extend([segment(0xDA, &[3, 1, 0, 2, 0, 3, 0, 0, 0, 0]), bits.bytes()].concat());
    for (component, of_unit) in [(1, 4), (2, 1), (3, 1)] {
        let mut bits = Bits::default();
        (0..u32::from(units) * u32::from(rows) * of_unit).for_each(|_| bits.put(1, 0));
        photograph.extend([segment(0xDA, &[1, component, 0, 1, 63, 0]), bits.bytes()].concat());
    }
    photograph.extend([0xFF, 0xD9]);
    photograph
}

/// Bits as a JPEG has them: the highest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    last: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, count: u32, number: u32) {
        for bit in (0..count).rev() {
            self.last = self.last << 1 | (number >> bit & 1);
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.last.to_le_bytes()[0]);
                // Nothing looks like a marker.
                if self.last & 0xFF == 0xFF {
                    self.bytes.push(0);
                }
                self.count = 0;
            }
        }
    }

    fn bytes(mut self) -> Vec<u8> {
        while self.count > 0 {
            self.put(1, 1);
        }
        self.bytes
    }
}

pub fn moving_gif(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = GifEncoder::new(&mut file);
    for value in GREYS {
        let frame = Frame::from_parts(grey(width, height, value), 0, 0, Delay::from_numer_denom_ms(100, 1));
        encoder.encode_frame(frame).expect("it is encoded");
    }
    drop(encoder);
    file
}

pub fn moving_png(width: u32, height: u32) -> Vec<u8> {
    let mut file = PNG_MARK.to_vec();
    file.extend(chunk(b"IHDR", &head(width, height)));
    file.extend(chunk(b"acTL", &[0, 0, 0, 3, 0, 0, 0, 0]));
    let mut number = 0_u32;
    let mut next = || {
        number += 1;
        (number - 1).to_be_bytes()
    };
    for (frame, value) in GREYS.into_iter().enumerate() {
        let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
        let (place, delay) = ([0; 8], [0, 1, 0, 10]);
        file.extend(chunk(b"fcTL", &[&next()[..], &size, &place, &delay, &[0, 0]].concat()));
        // Each row begins with how it is filtered.
        let row: Vec<u8> = std::iter::once(0).chain([value, value, value, 255].repeat(width as usize)).collect();
        let data = compressed(&row.repeat(height as usize));
        file.extend(if frame == 0 { chunk(b"IDAT", &data) } else { chunk(b"fdAT", &[&next()[..], &data].concat()) });
    }
    file.extend(chunk(b"IEND", &[]));
    file
}

pub fn moving_webp(width: u32, height: u32) -> Vec<u8> {
    let part = |name: &[u8; 4], body: &[u8]| {
        let length = u32::try_from(body.len()).expect("it is short").to_le_bytes();
        [name, &length[..], body, &vec![0; body.len() % 2]].concat()
    };
    let size = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    let size = [size(width), size(height)].concat();
    let mut parts = b"WEBP".to_vec();
    // It moves; the canvas.
    parts.extend(part(b"VP8X", &[&[2, 0, 0, 0], &*size].concat()));
    parts.extend(part(b"ANIM", &[0; 6]));
    for value in GREYS {
        let still = encoded(&grey(width, height, value).into(), ImageFormat::WebP);
        parts.extend(part(b"ANMF", &[&[0; 6], &*size, &[100, 0, 0, 2], &still[12..]].concat()));
    }
    part(b"RIFF", &parts)
}

/// A PNG with nothing but a head that says it is this large.
pub fn only_a_head(width: u32, height: u32) -> Vec<u8> {
    let parts = [chunk(b"IHDR", &head(width, height)), chunk(b"IDAT", &compressed(&[])), chunk(b"IEND", &[])];
    [PNG_MARK, &parts.concat()].concat()
}

/// A PNG with a part, a profile or a text, that takes 300 MB when it is unpacked.
pub fn with_a_bomb(picture: &DynamicImage, kind: &[u8; 4]) -> Vec<u8> {
    let png = encoded(picture, ImageFormat::Png);
    let (begin, rest) = png.split_at(PNG_MARK.len() + 25);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..300 {
        encoder.write_all(&vec![0; 1 << 20]).expect("it is compressed");
    }
    let bomb = encoder.finish().expect("it is compressed");
    [begin, &chunk(kind, &[b"bomb\0\0", &*bomb].concat()), rest].concat()
}

/// What a PNG with eight bits for each of four colours says of itself.
fn head(width: u32, height: u32) -> Vec<u8> {
    [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 6, 0, 0, 0]].concat()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("it is compressed");
    encoder.finish().expect("it is compressed")
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    let body = [name, body].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    [&length[..], &body, &crc.sum().to_be_bytes()].concat()
}
