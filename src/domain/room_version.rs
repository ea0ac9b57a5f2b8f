//! Room versions 1 to 12 and the rules each stands for.
//!
//! The rules themselves are ruma's; this module only says which versions we speak.
//! Spec: "Room Versions".

use ruma_common::{RoomVersionId, room_version_rules::RoomVersionRules};

use crate::Refusal;

/// A room version we support, with its rules at hand.
#[derive(Debug, Clone)]
pub struct RoomVersion {
    id: RoomVersionId,
    rules: RoomVersionRules,
}

impl RoomVersion {
    /// Every version we support, oldest first. All are stable in the specification.
    pub const ALL: [&'static str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

    /// The longest id of a version, in characters: of what is longer, the refusal repeats as much.
    const ID_CHARS_MAX: usize = 32;

    /// Parses the id of a version.
    ///
    /// # Errors
    /// [`Refusal::UnsupportedRoomVersion`] for anything but 1 to 12.
    pub fn parse(id: &str) -> Result<Self, Refusal> {
        let unsupported = || Refusal::UnsupportedRoomVersion(id.chars().take(Self::ID_CHARS_MAX).collect());
        if !Self::ALL.contains(&id) {
            return Err(unsupported());
        }
        let id = RoomVersionId::try_from(id).map_err(|_| unsupported())?;
        let rules = id.rules().ok_or_else(unsupported)?;
        Ok(Self { id, rules })
    }

    /// The id, as in `m.room.create`.
    pub fn id(&self) -> &RoomVersionId {
        &self.id
    }

    /// The id as text, such as `"12"`.
    pub fn as_str(&self) -> &str {
        self.id.as_str()
    }

    /// What differs between versions.
    pub fn rules(&self) -> &RoomVersionRules {
        &self.rules
    }

    /// Since v5: a key that was no longer valid when the event says it was sent signs nothing.
    pub fn looks_at_key_validity(&self) -> bool {
        self.rules.enforce_key_validity
    }

    /// Since v12: the room id is the id of its create event with `!` for `$`, and nobody lists it in `auth_events`.
    pub fn room_id_is_create_event(&self) -> bool {
        self.rules.authorization.room_create_event_id_as_room_id
    }
}

impl PartialEq for RoomVersion {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for RoomVersion {}

#[cfg(test)]
mod tests {
    use super::RoomVersion;
    use crate::Refusal;

    #[test]
    fn one_to_twelve_and_no_other() {
        for id in RoomVersion::ALL {
            assert_eq!(RoomVersion::parse(id).unwrap().as_str(), id);
        }
        for id in ["", "0", "13", "01", "1.0", "org.matrix.msc2870", "twelve"] {
            assert_eq!(RoomVersion::parse(id), Err(Refusal::UnsupportedRoomVersion(id.to_owned())));
        }
    }
}
