//! Where a page of a hierarchy ends, and the next one begins. Everything is in the token: no page is remembered here.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma_common::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};

use super::DEPTH_MAX;

/// How many rooms are looked at in all the pages of a hierarchy: so many are told apart in a token of 5 KB.
pub(super) const ROOMS_MAX: usize = 1_000;

/// A place in a walk through a space, with what the walk is bound to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Token {
    /// From the space down to the room that was looked at last.
    pub path: Vec<OwnedRoomId>,
    pub max_depth: u8,
    pub suggested_only: bool,
    #[serde(skip)]
    pub seen: Seen,
}

/// The rooms that were looked at, as digests: that one of a thousand is taken for another is one chance in eight
/// thousand.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen(HashSet<u32>);

impl Seen {
    /// Whether a room was looked at; from now on it was.
    pub(super) fn insert(&mut self, room_id: &RoomId) -> bool {
        self.0.insert(digest(room_id))
    }

    pub(super) fn contains(&self, room_id: &RoomId) -> bool {
        self.0.contains(&digest(room_id))
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= ROOMS_MAX
    }
}

/// The same in every process of a release: another release's token shows a room twice at worst.
fn digest(room_id: &RoomId) -> u32 {
    let mut hasher = DefaultHasher::new();
    room_id.as_str().hash(&mut hasher);
    u32::try_from(hasher.finish() >> 32).unwrap_or_default()
}

impl Token {
    pub(super) fn start(room_id: OwnedRoomId, max_depth: u8, suggested_only: bool) -> Self {
        Self { path: vec![room_id], max_depth, suggested_only, seen: Seen::default() }
    }

    /// The space.
    pub(super) fn root(&self) -> Option<&RoomId> {
        self.path.first().map(|room_id| &**room_id)
    }

    /// Whether nothing was looked at yet.
    pub(super) fn is_start(&self) -> bool {
        self.seen.0.is_empty()
    }

    pub(super) fn text(&self) -> Option<String> {
        let mut bytes = serde_json::to_vec(self).ok()?;
        bytes.push(b'\n');
        let mut digests: Vec<u32> = self.seen.0.iter().copied().collect();
        digests.sort_unstable();
        bytes.extend(digests.into_iter().flat_map(u32::to_be_bytes));
        Some(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (head, digests) = bytes.split_at_checked(end)?;
        let mut token: Self = serde_json::from_slice(head).ok()?;
        let digests = digests.get(1..)?.chunks(4).map(|digest| digest.try_into().map(u32::from_be_bytes));
        token.seen = Seen(digests.collect::<Result<_, _>>().ok()?);
        let is_ours = !token.seen.0.is_empty()
            && token.seen.0.len() <= ROOMS_MAX
            && (1..=usize::from(DEPTH_MAX).saturating_add(1)).contains(&token.path.len());
        is_ours.then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use ruma_common::{RoomId, owned_room_id, room_id};

    use super::{ROOMS_MAX, Token};

    #[test]
    fn tokens_come_back_as_they_went() {
        let mut token = Token::start(owned_room_id!("!s:a"), 3, true);
        assert!(token.is_start());
        assert_eq!(Token::parse(&token.text().unwrap()), None, "no page ends before its first room");
        assert!(token.seen.insert(room_id!("!s:a")) && token.seen.insert(room_id!("!t:a")));
        assert!(!token.seen.insert(room_id!("!t:a")) && token.seen.contains(room_id!("!t:a")));
        token.path.push(owned_room_id!("!t:a"));
        let text = token.text().unwrap();
        assert_eq!(Token::parse(&text).unwrap(), token);
        let last = text.chars().last().unwrap();
        for wrong in
            ["", "x", text.get(1..).unwrap(), text.trim_end_matches(last), &BASE64_URL_SAFE_NO_PAD.encode("{}\n1234")]
        {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_fits_into_an_address() {
        let mut token = Token::start(owned_room_id!("!s:a"), 10, false);
        for number in 0..ROOMS_MAX {
            token.seen.insert(&RoomId::parse(format!("!{number}:a")).unwrap());
        }
        assert!(token.text().unwrap().len() < 6_000);
    }
}
