use crate::media::thumbnail::picture::Unfit;

/// The bits of a lossless picture, the lowest of each byte first.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// How many were taken.
    taken: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, taken: 0 }
    }

    /// The next `count` bits as a number, of which the first is the lowest: at most 24.
    ///
    /// # Errors
    /// There are not so many.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, Unfit> {
        let (at, skipped) = (self.taken / 8, self.taken % 8);
        let mut ahead = [0; 4];
        let bytes = self.bytes.get(at..).unwrap_or_default();
        let bytes = bytes.get(..4).unwrap_or(bytes);
        ahead.iter_mut().zip(bytes).for_each(|(ahead, byte)| *ahead = *byte);
        let end = self.taken.saturating_add(count as usize);
        if end > self.bytes.len().saturating_mul(8) {
            return Err(Unfit::Unreadable);
        }
        self.taken = end;
        Ok((u32::from_le_bytes(ahead) >> skipped) & ((1 << count) - 1))
    }
}
