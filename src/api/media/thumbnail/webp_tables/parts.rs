use super::PART_HEAD_BYTES;

/// The name of a part, and what is in it, as far as it is there.
pub(super) type Part<'a> = ([u8; 4], &'a [u8]);

/// The parts of a file, or of a frame.
#[derive(Clone)]
pub(super) struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?;
        let content = self.0.get(PART_HEAD_BYTES..)?;
        // The next begins at an even place.
        self.0 = content.get(length.checked_next_multiple_of(2)?..).unwrap_or_default();
        Some((*name, content.get(..length).unwrap_or(content)))
    }
}
