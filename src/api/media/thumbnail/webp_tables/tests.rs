use image::{DynamicImage, ExtendedColorType, RgbImage, RgbaImage, codecs::webp::WebPEncoder};

use super::{near, of_frames};
use crate::{
    media::thumbnail::{
        picture::{MEMORY_BYTES_MAX, Picture, Unfit},
        sizes::{Made, Method, Size},
    },
    testing::memory::measured,
};

const SMALL: Made = Made::Sized(Size { method: Method::Crop, width: 8, height: 8 });
const SIDE: u32 = 40;

/// Bits, as they are written: the lowest first.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    count: usize,
}

impl Written {
    fn put(&mut self, count: usize, number: u32) {
        for bit in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((number >> bit & 1) as u8) << (self.count % 8);
            self.count += 1;
        }
    }

    /// A code with one symbol, of eight bits.
    fn one_symbol(&mut self, symbol: u32) {
        [(1, 1), (1, 0), (1, 1), (8, symbol)].into_iter().for_each(|(count, number)| self.put(count, number));
    }

    /// A code in which each of 2,048 symbols has 11 bits: that is said in nine bytes.
    fn many_symbols(&mut self) {
        self.put(1, 0);
        // Of lengths there is only 11, which therefore takes no bits.
        self.put(4, 15 - 4);
        (0..15).for_each(|at| self.put(3, u32::from(at == 14)));
        [(1, 1), (3, 5), (12, 2_048 - 2)].into_iter().for_each(|(count, number)| self.put(count, number));
    }

    /// All of what a picture needs but its size: so many groups of codes, of which the last one is used.
    fn picture(&mut self, groups: u32) {
        // Nothing is transformed; 2,048 colours are remembered; there are parts, four pixels wide.
        [(1, 0), (1, 1), (4, 11), (1, 1), (3, 0)].into_iter().for_each(|(count, number)| self.put(count, number));
        // The picture of parts has one colour, which is the number of the last group.
        self.put(1, 0);
        [(groups - 1) & 0xFF, (groups - 1) >> 8, 0, 0, 0].into_iter().for_each(|symbol| self.one_symbol(symbol));
        for _ in 0..groups {
            self.many_symbols();
            (0..4).for_each(|_| self.one_symbol(0));
        }
        // Each pixel takes eleven bits of green.
        (0..SIDE * SIDE).for_each(|_| self.put(11, 0));
    }
}

fn part(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_le_bytes();
    [name, &length[..], content, &vec![0; content.len() % 2]].concat()
}

fn file(parts: &[Vec<u8>]) -> Vec<u8> {
    part(b"RIFF", &[b"WEBP", &*parts.concat()].concat())
}

fn lossless(groups: u32) -> Vec<u8> {
    let mut bits = Written::default();
    [(8, 0x2F), (14, SIDE - 1), (14, SIDE - 1), (1, 0), (3, 0)]
        .into_iter()
        .for_each(|(count, number)| bits.put(count, number));
    bits.picture(groups);
    part(b"VP8L", &bits.bytes)
}

/// A WebP with so many groups of codes, each of which takes 68 KB in memory and 16 bytes in the file.
pub(in crate::media::thumbnail) fn webp_with_groups(groups: u32) -> Vec<u8> {
    file(&[lossless(groups)])
}

fn canvas(flags: u8) -> Vec<u8> {
    let side = SIDE as u8 - 1;
    part(b"VP8X", &[flags, 0, 0, 0, side, 0, 0, side, 0, 0])
}

fn moving(frames: &[u32]) -> Vec<u8> {
    let side = SIDE as u8 - 1;
    let head = [0, 0, 0, 0, 0, 0, side, 0, 0, side, 0, 0, 100, 0, 0, 0];
    let mut parts = vec![canvas(0b10), part(b"ANIM", &[0; 6])];
    parts.extend(frames.iter().map(|groups| part(b"ANMF", &[&head, &*lossless(*groups)].concat())));
    file(&parts)
}

fn tables(file: &[u8]) -> Vec<Result<u64, Unfit>> {
    of_frames(file).collect()
}

#[test]
fn tables_are_counted_as_the_decoder_makes_them() {
    for groups in [1, 2, 300, 1_000] {
        let file = webp_with_groups(groups);
        let counted = tables(&file)[0].unwrap();
        let (thumbnail, most) = measured(|| Picture::of(&file)?.thumbnail(&file, SMALL));
        assert!(thumbnail.is_ok(), "{groups}: {thumbnail:?}");
        // What is counted is enough, and not much too much.
        let (pixels, slack) = (u64::from(SIDE * SIDE * 8) + (64 << 10), u64::from(groups) * 2_048 + (300 << 10));
        assert!(most <= counted + pixels && counted <= most + slack, "{groups}: {counted} {most}");
    }
}

#[test]
fn what_has_too_many_tables_is_not_decoded() {
    for groups in [3_000, 65_536] {
        let opacity = |groups| {
            let mut bits = Written::default();
            bits.put(8, 1);
            bits.picture(groups);
            part(b"ALPH", &bits.bytes)
        };
        let frames = [moving(&[groups, 1]), moving(&[1, groups])];
        assert_eq!(tables(&frames[1]).iter().filter(|tables| tables.is_ok()).count(), 1);
        let all = [
            webp_with_groups(groups),
            file(&[canvas(0), lossless(groups)]),
            file(&[canvas(0b1_0000), opacity(groups), part(b"VP8 ", b"...")]),
        ];
        for file in all.iter().chain(&frames[..1]) {
            assert_eq!(tables(file)[0], Err(Unfit::TooLarge));
            let (outcome, most) = measured(|| Picture::of(file).map(drop));
            assert!(most < 8 << 20, "{outcome:?} {most}");
        }
    }
    // A frame of odd length would hide the next one from us.
    let mut odd = moving(&[1, 1]);
    let frame = odd.windows(4).position(|name| name == b"ANMF").unwrap();
    odd[frame + 4] |= 1;
    assert_eq!(tables(&odd)[0], Err(Unfit::Unreadable));
}

#[test]
fn ordinary_pictures_are_read_to_where_their_pixels_begin() {
    let (width, height) = (1_500, 1_000);
    let noise = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
    let grain = RgbImage::from_fn(width, height, |x, y| image::Rgb(noise(x, y).to_be_bytes()[1..].try_into().unwrap()));
    let even = RgbaImage::from_fn(300, 200, |x, y| image::Rgba([x as u8, y as u8, 9, (x / 2) as u8]));
    for picture in [DynamicImage::from(grain), even.into()] {
        let mut file = Vec::new();
        let (colours, width, height) = (ExtendedColorType::from(picture.color()), picture.width(), picture.height());
        WebPEncoder::new_lossless(&mut file).encode(picture.as_bytes(), width, height, colours).unwrap();
        assert!(tables(&file)[0].unwrap() < 1 << 20);
        let (thumbnail, most) = measured(|| Picture::of(&file)?.thumbnail(&file, SMALL));
        assert!(thumbnail.is_ok() && most <= MEMORY_BYTES_MAX / 4, "{most}");
    }
}

/// By the usual encoder, with all it has: parts with codes of their own, transforms, palettes.
const SAMPLES: [&[u8]; 4] = [
    include_bytes!("samples/parts.webp"),
    include_bytes!("samples/palette.webp"),
    include_bytes!("samples/opacity.webp"),
    include_bytes!("samples/moving.webp"),
];

#[test]
fn what_the_usual_encoder_writes_is_read() {
    for (number, (sample, frames)) in SAMPLES.iter().zip([1, 1, 1, 3]).enumerate() {
        let tables: Vec<u64> = tables(sample).into_iter().map(Result::unwrap).collect();
        assert!(tables.len() == frames && tables.iter().all(|tables| *tables < 1 << 20), "{number}: {tables:?}");
        let picture = Picture::of(sample).unwrap();
        let (thumbnail, most) = measured(|| picture.thumbnail(sample, SMALL));
        assert!(thumbnail.is_ok(), "{number}: {thumbnail:?}");
        assert!(most <= tables[0] + picture.pixels() * 12 + (64 << 10), "{number}: {tables:?} {most}");
    }
    // Its codes are many.
    assert!(tables(SAMPLES[0])[0].unwrap() > super::SMALL_BYTES + 3 * super::GROUP_BYTES);
}

#[test]
fn what_is_near_is_numbered_as_the_specification_lists_it() {
    let width = 1_000;
    let at = |left: i64, up: i64| usize::try_from(left + up * 1_000).unwrap_or_default().max(1);
    let near = near(width);
    assert_eq!(near.len(), 120);
    let first = [(0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1), (2, 2), (-2, 2)];
    let last = [
        (5, 7),
        (-5, 7),
        (7, 5),
        (-7, 5),
        (8, 4),
        (6, 7),
        (-6, 7),
        (7, 6),
        (-7, 6),
        (8, 5),
        (7, 7),
        (-7, 7),
        (8, 6),
        (8, 7),
    ];
    let expected = |places: &[(i64, i64)]| places.iter().map(|(left, up)| at(*left, *up)).collect::<Vec<_>>();
    assert_eq!(near[..12], expected(&first));
    assert_eq!(near[106..], expected(&last));
}
