use super::bits::Bits;
use crate::media::thumbnail::picture::Unfit;

/// The longest code of a symbol, in bits.
const LENGTH_MAX: usize = 15;
/// What the decoder looks up at once, in bits; what is longer, it looks for in a tree.
const TABLE_BITS: usize = 10;
/// What an entry of the table takes, and a node of the tree, in bytes.
const ENTRY_BYTES: u64 = 4;
const NODE_BYTES: u64 = 16;
/// What it takes to have a table and a tree at all, in bytes.
const KEPT_BYTES: u64 = 64;
/// In which order the lengths of the codes of lengths come.
const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// How symbols are coded: the shorter codes first, and of one length by the order of the symbols.
pub(super) struct Code {
    /// How many symbols have codes of each length.
    counts: [u16; LENGTH_MAX + 1],
    /// In the order of their codes. A single one takes no bits.
    symbols: Vec<u16>,
}

impl Code {
    /// Reads how so many symbols are coded.
    pub(super) fn read(bits: &mut Bits<'_>, symbols: usize) -> Result<Self, Unfit> {
        if bits.take(1)? == 1 {
            return Self::read_simple(bits, symbols);
        }
        let mut lengths = [0; ORDER.len()];
        let count = bits.take(4)?.saturating_add(4) as usize;
        for at in ORDER.iter().take(count) {
            *lengths.get_mut(*at).ok_or(Unfit::Unreadable)? = bits.take(3)?.to_le_bytes()[0];
        }
        Self::of(&read_lengths(bits, &Self::of(&lengths)?, symbols)?)
    }

    /// One symbol, or two with a bit for each.
    fn read_simple(bits: &mut Bits<'_>, symbols: usize) -> Result<Self, Unfit> {
        let has_two = bits.take(1)? == 1;
        let first = if bits.take(1)? == 1 { bits.take(8)? } else { bits.take(1)? };
        let second = if has_two { Some(bits.take(8)?) } else { None };
        let coded: Vec<u16> =
            [Some(first), second].into_iter().flatten().filter_map(|symbol| symbol.try_into().ok()).collect();
        if coded.iter().any(|symbol| usize::from(*symbol) >= symbols) {
            return Err(Unfit::Unreadable);
        }
        let mut counts = [0; LENGTH_MAX + 1];
        counts[1] = 2;
        Ok(Self { counts, symbols: coded })
    }

    /// The code in which each symbol has a code of this length, in bits; 0 is none.
    fn of(lengths: &[u8]) -> Result<Self, Unfit> {
        let mut counts = [0_u16; LENGTH_MAX + 1];
        for length in lengths.iter().filter(|length| **length > 0) {
            *counts.get_mut(usize::from(*length)).ok_or(Unfit::Unreadable)? += 1;
        }
        let mut places = [0_usize; LENGTH_MAX + 1];
        let mut coded = 0;
        for (place, count) in places.iter_mut().zip(&counts) {
            *place = coded;
            coded = coded.saturating_add((*count).into());
        }
        let mut symbols = vec![0; coded];
        for (symbol, length) in (0..).zip(lengths).filter(|(_, length)| **length > 0) {
            let place = places.get_mut(usize::from(*length)).ok_or(Unfit::Unreadable)?;
            *symbols.get_mut(*place).ok_or(Unfit::Unreadable)? = symbol;
            *place = place.saturating_add(1);
        }
        let used = counts.iter().enumerate().skip(1).map(|(length, count)| u64::from(*count) << (LENGTH_MAX - length));
        // Every row of bits means something, unless there is nothing to tell apart.
        let is_complete = used.sum::<u64>() == 1 << LENGTH_MAX;
        if symbols.len() == 1 || is_complete { Ok(Self { counts, symbols }) } else { Err(Unfit::Unreadable) }
    }

    /// The next symbol.
    pub(super) fn next(&self, bits: &mut Bits<'_>) -> Result<u16, Unfit> {
        if let [symbol] = *self.symbols {
            return Ok(symbol);
        }
        // The first code of a length, and the place of its symbol.
        let (mut code, mut first, mut place) = (0_usize, 0_usize, 0_usize);
        for count in self.counts.iter().skip(1).map(|count| usize::from(*count)) {
            code |= bits.take(1)? as usize;
            if let Some(of_length) = code.checked_sub(first).filter(|of_length| *of_length < count) {
                return self.symbols.get(place.saturating_add(of_length)).copied().ok_or(Unfit::Unreadable);
            }
            place = place.saturating_add(count);
            first = first.saturating_add(count) << 1;
            code <<= 1;
        }
        Err(Unfit::Unreadable)
    }

    /// What the decoder keeps of it.
    pub(super) fn table_bytes(&self) -> u64 {
        if self.symbols.len() < 2 {
            return 0;
        }
        let longest = self.counts.iter().rposition(|count| *count > 0).unwrap_or_default();
        let in_tree: u64 = self.counts.iter().skip(TABLE_BITS + 1).map(|count| u64::from(*count)).sum();
        let table = ENTRY_BYTES << longest.min(TABLE_BITS);
        table.saturating_add(in_tree.saturating_mul(2 * NODE_BYTES)).saturating_add(KEPT_BYTES)
    }
}

/// How long the code of each symbol is; most say how often one length or none comes again.
fn read_lengths(bits: &mut Bits<'_>, code: &Code, symbols: usize) -> Result<Vec<u8>, Unfit> {
    let mut left = symbols;
    if bits.take(1)? == 1 {
        let count = bits.take(3)?.saturating_mul(2).saturating_add(2);
        left = bits.take(count)?.saturating_add(2) as usize;
        if left > symbols {
            return Err(Unfit::Unreadable);
        }
    }
    let mut lengths = vec![0; symbols];
    let (mut at, mut last) = (0_usize, 8);
    while at < symbols && left > 0 {
        left = left.saturating_sub(1);
        let (length, times) = match code.next(bits)? {
            16 => (last, bits.take(2)?.saturating_add(3)),
            17 => (0, bits.take(3)?.saturating_add(3)),
            18 => (0, bits.take(7)?.saturating_add(11)),
            length => (length.to_le_bytes()[0], 1),
        };
        if length > 0 {
            last = length;
        }
        let end = at.saturating_add(times as usize);
        lengths.get_mut(at..end).ok_or(Unfit::Unreadable)?.fill(length);
        at = end;
    }
    Ok(lengths)
}
