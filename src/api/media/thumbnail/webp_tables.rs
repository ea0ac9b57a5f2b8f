//! What it takes to decode a WebP without loss, beside its pixels: the tables of its codes.
//!
//! A picture may be in parts that each have codes of their own, as many as the largest number in a small picture of
//! parts says, and a table takes thousands of times what describes it. So all that comes before the pixels is read here
//! as the decoder reads it, and the tables are counted instead of made. Spec: RFC 9649, "WebP Lossless Bitstream
//! Specification".

mod bits;
mod codes;
mod parts;

use self::{
    bits::Bits,
    codes::Code,
    parts::{Part, Parts},
};
use super::picture::{MEMORY_BYTES_MAX, Unfit};

/// What comes before the first part of a file: what it is, and how long.
const HEAD_BYTES: usize = 12;
/// What a part has before its content.
const PART_HEAD_BYTES: usize = 8;
/// What a frame has before its parts: where it is, how large, and how long it is seen.
const FRAME_HEAD_BYTES: usize = 16;
/// Where `VP8X` has the size.
const CANVAS: usize = 4;
/// Where a frame has its size.
const FRAME_SIZE: usize = 6;
/// The flag of `VP8X` that says that it moves.
const MOVES: u8 = 0b0000_0010;
/// The bits that say how opacity is compressed, and how they say that it is as pictures are.
const COMPRESSION: u8 = 0b0000_0011;
const IS_LOSSLESS: u8 = 1;
/// What a lossless picture begins with.
const SIGNATURE: u32 = 0x2F;
/// What is there while a small picture is decoded, in bytes: its codes, and the colours it remembers.
const SMALL_BYTES: u64 = 256 << 10;
/// What five codes take beside their tables, in bytes, in a list that is copied when it grows.
const GROUP_BYTES: u64 = 1_024;
/// The codes of one part: of green, red, blue, opacity, and distances.
const SYMBOLS: [usize; 5] = [256 + LENGTHS, 256, 256, 256, DISTANCES];
const LENGTHS: usize = 24;
const DISTANCES: usize = 40;

/// What the tables of each frame take, in bytes, one after the other: of what does not move, of all there is.
///
/// # Errors
/// It cannot be decoded; or the tables alone take too much.
pub(super) fn of_frames(bytes: &[u8]) -> Box<dyn Iterator<Item = Result<u64, Unfit>> + '_> {
    let parts = Parts::of(bytes.get(HEAD_BYTES..).unwrap_or_default());
    let Some((name, first)) = parts.clone().next() else { return Box::new(std::iter::empty()) };
    if name != *b"VP8X" {
        return Box::new(std::iter::once(of_parts(parts.take(1), (0, 0))));
    }
    let canvas = u24(first, CANVAS).zip(u24(first, CANVAS + 3)).unwrap_or_default();
    if first.first().is_none_or(|flags| flags & MOVES == 0) {
        return Box::new(std::iter::once(of_parts(parts, canvas)));
    }
    let frames = parts.filter(|(name, _)| name == b"ANMF");
    Box::new(frames.map(|(_, frame)| {
        // There the decoder does not look where it should for the next.
        if frame.len() % 2 == 1 {
            return Err(Unfit::Unreadable);
        }
        let size = u24(frame, FRAME_SIZE).zip(u24(frame, FRAME_SIZE + 3)).unwrap_or_default();
        of_parts(Parts::of(frame.get(FRAME_HEAD_BYTES..).unwrap_or_default()), size)
    }))
}

/// Whether opacity is a picture of its own.
pub(super) fn has_opacity_apart(bytes: &[u8]) -> bool {
    Parts::of(bytes.get(HEAD_BYTES..).unwrap_or_default()).any(|(name, _)| name == *b"ALPH")
}

/// What the largest of these parts takes; those of frames, too.
fn of_parts<'a>(mut parts: impl Iterator<Item = Part<'a>>, size: (u32, u32)) -> Result<u64, Unfit> {
    parts.try_fold(0, |most: u64, (name, part)| {
        let tables = match &name {
            b"VP8L" => of_picture(part)?,
            b"ALPH" => of_opacity(part, size)?,
            b"ANMF" => of_parts(Parts::of(part.get(FRAME_HEAD_BYTES..).unwrap_or_default()), size)?,
            _ => 0,
        };
        Ok(most.max(tables))
    })
}

/// Three bytes, the lowest first, of what is one less.
fn u24(bytes: &[u8], at: usize) -> Option<u32> {
    let [low, middle, high] = *bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes([low, middle, high, 0]).saturating_add(1))
}

fn of_picture(part: &[u8]) -> Result<u64, Unfit> {
    let mut bits = Bits::of(part);
    if bits.take(8)? != SIGNATURE {
        return Err(Unfit::Unreadable);
    }
    let size = (bits.take(14)?.saturating_add(1), bits.take(14)?.saturating_add(1));
    let (_has_opacity, version) = (bits.take(1)?, bits.take(3)?);
    if version == 0 { of_stream(&mut bits, size) } else { Err(Unfit::Unreadable) }
}

fn of_opacity(part: &[u8], size: (u32, u32)) -> Result<u64, Unfit> {
    let Some((how, rest)) = part.split_first() else { return Err(Unfit::Unreadable) };
    if how & COMPRESSION == IS_LOSSLESS { of_stream(&mut Bits::of(rest), size) } else { Ok(0) }
}

/// How many places of `1 << bits` there are in a side.
fn places(side: u32, bits: u32) -> u32 {
    side.div_ceil(1 << bits)
}

/// Reads up to where the pixels begin.
fn of_stream(bits: &mut Bits<'_>, (mut width, height): (u32, u32)) -> Result<u64, Unfit> {
    let mut transforms = [false; 4];
    while bits.take(1)? == 1 {
        let transform = bits.take(2)?;
        let is_there = transforms.get_mut(transform as usize).ok_or(Unfit::Unreadable)?;
        if std::mem::replace(is_there, true) {
            return Err(Unfit::Unreadable);
        }
        match transform {
            // How pixels follow from those around them, and colours from each other, for each place.
            0 | 1 => {
                let of_place = bits.take(3)?.saturating_add(2);
                small_picture(bits, (places(width, of_place), places(height, of_place)))?;
            }
            // Green is taken from the others: there is nothing to it.
            2 => {}
            // A palette: several of its numbers are in a pixel.
            _ => {
                let colours = bits.take(8)?.saturating_add(1);
                small_picture(bits, (colours, 1))?;
                let in_a_pixel = match colours {
                    0..=2 => 3,
                    3..=4 => 2,
                    5..=16 => 1,
                    _ => 0,
                };
                width = places(width, in_a_pixel);
            }
        }
    }
    let remembered = remembered(bits)?;
    let mut groups = 1;
    if bits.take(1)? == 1 {
        let of_place = bits.take(3)?.saturating_add(2);
        let of_places = small_picture(bits, (places(width, of_place), places(height, of_place)))?;
        let largest = of_places.iter().map(|[red, green, ..]| u16::from_be_bytes([*red, *green])).max();
        groups = u64::from(largest.unwrap_or_default()).saturating_add(1);
    }
    let mut tables = SMALL_BYTES.saturating_add(groups.saturating_mul(GROUP_BYTES));
    for _ in 0..groups {
        for code in group(bits, remembered)? {
            tables = tables.saturating_add(code.table_bytes());
        }
        if tables > MEMORY_BYTES_MAX {
            return Err(Unfit::TooLarge);
        }
    }
    Ok(tables)
}

/// How many colours are remembered.
fn remembered(bits: &mut Bits<'_>) -> Result<usize, Unfit> {
    match bits.take(1)? {
        0 => Ok(0),
        _ => match bits.take(4)? {
            size @ 1..=11 => Ok(1 << size),
            _ => Err(Unfit::Unreadable),
        },
    }
}

/// The codes of one part.
fn group(bits: &mut Bits<'_>, remembered: usize) -> Result<[Code; 5], Unfit> {
    let [green, red, blue, opacity, distance] = SYMBOLS;
    Ok([
        Code::read(bits, green.saturating_add(remembered))?,
        Code::read(bits, red)?,
        Code::read(bits, blue)?,
        Code::read(bits, opacity)?,
        Code::read(bits, distance)?,
    ])
}

/// A colour: red, green, blue and opacity.
type Colour = [u8; 4];

/// One of the pictures that say how the large one is coded: there is a pixel for each place.
fn small_picture(bits: &mut Bits<'_>, (width, height): (u32, u32)) -> Result<Vec<Colour>, Unfit> {
    let mut memory = Memory(vec![[0; 4]; remembered(bits)?]);
    let [green, red, blue, opacity, distance] = group(bits, memory.0.len())?;
    let (count, near) = ((width as usize).saturating_mul(height as usize), near(width));
    let mut pixels: Vec<Colour> = Vec::with_capacity(count);
    while pixels.len() < count {
        let symbol = usize::from(green.next(bits)?);
        if let Ok(green) = u8::try_from(symbol) {
            let mut next = |code: &Code| code.next(bits).map(|symbol| symbol.to_le_bytes()[0]);
            let colour = [next(&red)?, green, next(&blue)?, next(&opacity)?];
            memory.keep(colour);
            pixels.push(colour);
        } else if let Some(prefix) = symbol.checked_sub(256).filter(|prefix| *prefix < LENGTHS) {
            let length = number(bits, prefix)?;
            let prefix = usize::from(distance.next(bits)?);
            let back = back(&near, number(bits, prefix)?);
            if back > pixels.len() || length > count.saturating_sub(pixels.len()) {
                return Err(Unfit::Unreadable);
            }
            for _ in 0..length {
                let colour = *pixels.get(pixels.len().saturating_sub(back)).ok_or(Unfit::Unreadable)?;
                memory.keep(colour);
                pixels.push(colour);
            }
        } else {
            let place = symbol.saturating_sub(256 + LENGTHS);
            pixels.push(*memory.0.get(place).ok_or(Unfit::Unreadable)?);
        }
    }
    Ok(pixels)
}

/// The colours that were seen last, by what they hash to.
struct Memory(Vec<Colour>);

impl Memory {
    fn keep(&mut self, [red, green, blue, opacity]: Colour) {
        let Some(bits) = self.0.len().checked_ilog2() else { return };
        let hash = u32::from_be_bytes([opacity, red, green, blue]).wrapping_mul(0x1E35_A7BD) >> (32 - bits);
        if let Some(kept) = self.0.get_mut(hash as usize) {
            *kept = [red, green, blue, opacity];
        }
    }
}

/// A length or a distance, of which the prefix says how many bits follow.
fn number(bits: &mut Bits<'_>, prefix: usize) -> Result<usize, Unfit> {
    let Some(more) = prefix.checked_sub(4) else { return Ok(prefix.saturating_add(1)) };
    let count = u32::try_from(more / 2).unwrap_or_default().saturating_add(1);
    let from = (2 + (prefix & 1)) << count;
    Ok(from.saturating_add(bits.take(count)? as usize).saturating_add(1))
}

/// How many near places have short numbers.
const NEAR: usize = 120;

/// How far back what is near is, by its number less one: the nearest pixels first, of equals the one most directly
/// above, and what is left of it before what is right.
fn near(width: u32) -> Vec<usize> {
    let mut near: Vec<(i64, i64)> = (0..8).flat_map(|up| (-7..=8).map(move |left| (left, up))).collect();
    near.retain(|(left, up)| *up > 0 || *left > 0);
    near.sort_by_key(|(left, up)| (left * left + up * up, left.abs(), *left < 0));
    let back = |(left, up)| usize::try_from(left + up * i64::from(width)).unwrap_or_default().max(1);
    near.into_iter().map(back).collect()
}

/// How far back something is that has this number.
fn back(near: &[usize], number: usize) -> usize {
    let back = near.get(number.saturating_sub(1)).copied();
    back.unwrap_or(number.saturating_sub(NEAR))
}

#[cfg(test)]
pub(super) mod tests;
