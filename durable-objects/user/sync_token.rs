//! The token that ends one sync and starts the next.

use std::{collections::BTreeMap, fmt, str::FromStr};

use domain::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    KeyCounts, key_counts,
    typing::{LISTED_MAX as TYPING_LISTED_MAX, Seen},
};

/// What a device has seen: `s<moves>_<own>`, `d<position>` in its inbox if that is another, `u<mark>` of the account it
/// is for, `p<stamp>` if it has seen presence, then the rooms it has read less or further than is known of them:
/// `x<row>` for those spilled to a row, then `<room>.<position>`, with a `-` for those owed, then those where it saw
/// somebody typing, `<room>~<version>`, with `t<ms>`, until when that holds.
///
/// Spec: "Syncing", `next_batch`. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncToken {
    /// How far the device has followed the moves of rooms, in the user's own stream.
    pub moves: u64,
    /// How far it has seen everything else of that stream.
    pub own: u64,
    /// Whose it is, see [`mark`]; a token of an older release does not say.
    pub user: Option<u64>,
    /// Up to which stamp it has seen presence, see [`super::others_presence`].
    pub presence: Option<u64>,
    /// The row with most of the exceptions, if they were too many.
    pub spilled: Option<u64>,
    /// The exceptions, or what changed of them since they were spilled.
    pub rooms: Rooms,
    /// Who it saw typing.
    pub typing: Seen,
    /// Until when at most they type in all those rooms, in milliseconds since the Unix epoch.
    pub typing_until: Option<u64>,
    /// How far it has its messages, where that is not `own`.
    pub to_device: Option<u64>,
    /// How many keys it has left; a token of an older release does not say.
    pub keys: Option<KeyCounts>,
}

/// Rooms, by number, of which the device has read less or further than their last move told; see [`super::exceptions`].
pub(crate) type Rooms = BTreeMap<u64, Reached>;

/// How far a device has read a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    pub position: u64,
    /// It could not be read when it should have been: the next sync reads it, whatever is known of it.
    pub owed: bool,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}", self.moves, self.own)?;
        if let Some(mark) = self.user {
            write!(f, "_u{mark}")?;
        }
        if let Some(seen) = self.presence {
            write!(f, "_p{seen}")?;
        }
        if let Some(row) = self.spilled {
            write!(f, "_x{row}")?;
        }
        if let Some(had) = self.to_device {
            write!(f, "_d{had}")?;
        }
        if let Some(keys) = &self.keys {
            write!(f, "{keys}")?;
        }
        self.rooms.iter().try_for_each(|(room, reached)| {
            write!(f, "_{room}{}{}", if reached.owed { '-' } else { '.' }, reached.position)
        })?;
        if let Some(until_ms) = self.typing_until {
            write!(f, "_t{until_ms}")?;
        }
        self.typing.iter().try_for_each(|(room, version)| write!(f, "_{room}~{version}"))
    }
}

impl FromStr for SyncToken {
    type Err = Refusal;

    fn from_str(token: &str) -> Result<Self, Refusal> {
        parse(token).ok_or_else(|| Refusal::InvalidParam("`since` is not a token of this server".to_owned()))
    }
}

/// Tells accounts apart: one's token means nothing in another's stream, where it would skip. It guards against
/// mistakes; a token is no secret.
pub(crate) fn mark(user_id: &str) -> u64 {
    let digest = Sha256::digest(user_id);
    digest.iter().take(2).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

impl SyncToken {
    /// A token that a device of this account came with.
    ///
    /// Refused: `InvalidParam` for what is none, or another account's.
    pub(crate) fn of(user_id: &str, token: &str) -> Result<Self, Refusal> {
        let parsed: Self = token.parse()?;
        if parsed.user.is_some_and(|user| user != mark(user_id)) {
            return Err(Refusal::InvalidParam("`since` is a token of another account".to_owned()));
        }
        Ok(parsed)
    }
}

fn parse(token: &str) -> Option<SyncToken> {
    let mut parts = token.strip_prefix('s')?.split('_');
    let (moves, own) = (number(parts.next()?)?, number(parts.next()?)?);
    let mut user = None;
    let (mut presence, mut rooms, mut spilled, mut typing) = (None, BTreeMap::new(), None, Seen::new());
    let (mut keys, mut to_device, mut typing_until) = (None, None, None);
    for part in parts {
        if let Some(row) = part.strip_prefix('x') {
            spilled = Some(number(row)?);
        } else if let Some(mark) = part.strip_prefix('u') {
            user = Some(number(mark)?);
        } else if let Some(until_ms) = part.strip_prefix('t') {
            typing_until = Some(number(until_ms)?);
        } else if let Some(had) = part.strip_prefix('d') {
            to_device = Some(number(had)?);
        } else if let Some(seen) = part.strip_prefix('p') {
            presence = Some(number(seen)?);
        } else if let Some(read) = key_counts::read(part, &mut keys) {
            read?;
        } else if let Some((room, version)) = part.split_once('~') {
            typing.insert(number(room)?, number(version)?);
        } else {
            let (room, position) = part.split_once(['.', '-'])?;
            let reached = Reached { position: number(position)?, owed: part.contains('-') };
            rooms.insert(number(room)?, reached);
        }
    }
    (typing.len() <= TYPING_LISTED_MAX).then_some(SyncToken {
        moves,
        own,
        user,
        presence,
        spilled,
        rooms,
        typing,
        typing_until,
        to_device,
        keys,
    })
}

pub(super) fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|number| *number < 1 << 53)
}

/// The exceptions as they stand in a row.
pub(crate) fn to_row(rooms: &Rooms) -> String {
    serde_json::to_string(rooms).unwrap_or_else(|_| Value::Null.to_string())
}

/// The exceptions of a row.
pub(crate) fn of_row(row: &str) -> Option<Rooms> {
    serde_json::from_str(row).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> KeyCounts {
        let one_time = [("signed_curve25519", 50), ("other_Ä", 3)].map(|(name, count)| (name.to_owned(), count));
        let unused_fallback = ["signed_curve25519", "other"].map(ToOwned::to_owned).into();
        KeyCounts { one_time: one_time.into(), unused_fallback }
    }

    #[test]
    fn a_token_says_what_it_said() {
        for rooms in [
            BTreeMap::new(),
            BTreeMap::from([
                (1, Reached { position: 1_790_000_000_000, owed: false }),
                (7, Reached { position: 0, owed: true }),
            ]),
        ] {
            for (presence, spilled) in [(None, Some(12)), (Some(1_790_000_000_001), None)] {
                for (typing, keys) in [(Seen::new(), None), (Seen::from([(1, 5), (3, 1 << 40)]), Some(keys()))] {
                    let token = SyncToken {
                        moves: 5,
                        own: 9,
                        user: spilled,
                        presence,
                        spilled,
                        rooms: rooms.clone(),
                        typing,
                        typing_until: presence,
                        to_device: presence,
                        keys,
                    };
                    assert_eq!(token.to_string().parse(), Ok(token));
                }
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for token in [
            "",
            "s",
            "s1",
            "sx_1",
            "s1_2_",
            "s1_2_3",
            "t12",
            "s1_2_3.x",
            "s1_99999999999999999999",
            "s1_2_x",
            "s1_2_3~",
            "s1_2_p",
            "s1_2_u",
            "s1_2_d",
            "s1_2_k",
            "s1_2_kx",
            "s1_2_fx",
            "s1_2_Kx.1",
            "s1_2_K61",
            "s1_2_F6",
        ] {
            assert!(token.parse::<SyncToken>().is_err(), "{token}");
        }
    }
}
