//! How long what is said in a room is kept: as long as the room says, within what the operator allows.
//!
//! `m.room.retention` is MSC1763's, and what of it is heeded is what Synapse heeds: `max_lifetime`.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Refusal;

/// The type of the state event that says so.
pub const RETENTION: &str = "m.room.retention";

/// The longest time after which anything goes, in milliseconds: a hundred years. A room may say any number, and the
/// time when that is over has to be one that a database keeps exactly, and for which a host sets an alarm.
pub const LIFETIME_MS_MAX: u64 = 3_153_600_000_000;

/// What a room says, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct RoomRetention {
    /// What is younger is kept.
    #[serde(default)]
    pub min_lifetime: Option<u64>,
    /// What is older is not.
    #[serde(default)]
    pub max_lifetime: Option<u64>,
}

impl RoomRetention {
    /// Reads the content of [`RETENTION`].
    ///
    /// # Errors
    /// `BadJson` for lifetimes that are no whole numbers from 0, and for a longest that is shorter than the shortest.
    pub fn parse(content: &RawValue) -> Result<Self, Refusal> {
        let bad = |what: String| Refusal::BadJson(format!("The content of {RETENTION}: {what}"));
        let retention: Self = serde_json::from_str(content.get()).map_err(|error| bad(error.to_string()))?;
        match (retention.min_lifetime, retention.max_lifetime) {
            (Some(min), Some(max)) if min > max => Err(bad("`max_lifetime` is less than `min_lifetime`".to_owned())),
            _ => Ok(retention),
        }
    }
}

/// What the operator allows, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionRules {
    /// Whether anything is ever removed because it is old.
    pub is_on: bool,
    /// In rooms that say nothing; for ever without.
    pub default_ms: Option<u64>,
    /// The shortest lifetime that a room may choose.
    pub min_ms: Option<u64>,
    /// The longest lifetime that a room may choose.
    pub max_ms: Option<u64>,
}

impl RetentionRules {
    /// How long what is said in a room is kept; for ever without. `room` is what the room says, if it says something
    /// that is understood. Never more than [`LIFETIME_MS_MAX`].
    pub fn lifetime_ms(&self, room: Option<RoomRetention>) -> Option<u64> {
        if !self.is_on {
            return None;
        }
        match room.and_then(|room| room.max_lifetime) {
            Some(wished) => {
                let most = self.max_ms.unwrap_or(LIFETIME_MS_MAX);
                Some(wished.max(self.min_ms.unwrap_or(0)).min(most))
            }
            None => self.default_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn a_room_chooses_within_what_is_allowed() {
        let rules = RetentionRules { is_on: true, default_ms: Some(500), min_ms: Some(100), max_ms: Some(1_000) };
        let room = |max_lifetime| Some(RoomRetention { min_lifetime: None, max_lifetime });
        for (said, expected) in [
            (None, Some(500)),
            (room(None), Some(500)),
            (room(Some(200)), Some(200)),
            (room(Some(0)), Some(100)),
            (room(Some(5_000)), Some(1_000)),
        ] {
            assert_eq!(rules.lifetime_ms(said), expected, "{said:?}");
            assert_eq!(RetentionRules { is_on: false, ..rules }.lifetime_ms(said), None);
        }
        let free = RetentionRules { default_ms: None, min_ms: None, max_ms: None, ..rules };
        assert_eq!([free.lifetime_ms(None), free.lifetime_ms(room(Some(7)))], [None, Some(7)]);
        assert_eq!(free.lifetime_ms(room(Some(u64::MAX))), Some(LIFETIME_MS_MAX));
    }

    #[test]
    fn what_is_no_lifetime_is_refused() {
        let parse = |content: serde_json::Value| RoomRetention::parse(&to_raw_value(&content).unwrap());
        assert_eq!(parse(json!({})), Ok(RoomRetention::default()));
        let both = parse(json!({ "min_lifetime": 5, "max_lifetime": 5, "more": true })).unwrap();
        assert_eq!(both, RoomRetention { min_lifetime: Some(5), max_lifetime: Some(5) });
        for bad in [
            json!({ "max_lifetime": -1 }),
            json!({ "max_lifetime": "1d" }),
            json!({ "min_lifetime": 1.5 }),
            json!({ "min_lifetime": 6, "max_lifetime": 5 }),
        ] {
            assert!(matches!(parse(bad.clone()), Err(Refusal::BadJson(_))), "{bad}");
        }
    }
}
