use std::{fmt, str::FromStr};

use domain::Refusal;

/// A place between two events of a room, for paging: just after `0`, a position.
///
/// Clients get it as `prev_batch`, `start` and `end`; it looks like `t1790000000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomToken(pub u64);

impl fmt::Display for RoomToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl FromStr for RoomToken {
    type Err = Refusal;

    fn from_str(token: &str) -> Result<Self, Refusal> {
        token
            .strip_prefix('t')
            .and_then(|position| position.parse().ok())
            .filter(|position| *position < 1 << 53)
            .map(RoomToken)
            .ok_or_else(|| Refusal::InvalidParam(format!("{token:?} is not a token of this room")))
    }
}
