//! What metadata shows of actors, so that it can be found across them: «metadata projects; actors decide».
//!
//! An actor owes a projection through its [`crate::outbox`], in the transaction that changed what it shows; its host
//! writes it after the commit and tries until it was written. A projection is the whole of what is shown, and carries a
//! version that only grows: the statement itself leaves a newer one alone, so that repetitions and reorderings are
//! harmless. The tables are in `d1-migrations`; who reads them is the request tier.

use std::collections::BTreeSet;

use domain::directory::PublishedRoom;
use platform::{Statement, Value};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Error;

/// One actor's row of one table.
pub(crate) trait Projection: Serialize + DeserializeOwned {
    /// Unique among projections, stable for ever: what is owed lies in the outbox under this name.
    const NAME: &'static str;

    /// Writes the row, unless a newer version stands there.
    fn statement(&self) -> Result<Statement, Error>;
}

/// A projection from the outbox: its name, and what writes it. `None` if this release knows no such projection.
pub(crate) fn stored(name: &str, body: &str) -> Result<Option<(&'static str, Statement)>, Error> {
    match name {
        DirectoryEntry::NAME => read::<DirectoryEntry>(body).map(Some),
        OpenRoom::NAME => read::<OpenRoom>(body).map(Some),
        NetworkEntry::NAME => read::<NetworkEntry>(body).map(Some),
        NoContacts::NAME => read::<NoContacts>(body).map(Some),
        _ => Ok(None),
    }
}

fn read<P: Projection>(body: &str) -> Result<(&'static str, Statement), Error> {
    Ok((P::NAME, serde_json::from_str::<P>(body)?.statement()?))
}

/// A room in the directory of published rooms, or one that was there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DirectoryEntry {
    pub room_id: OwnedRoomId,
    pub version: u64,
    /// Nothing once the room is no longer published: the row stays, so that an older version cannot come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<PublishedRoom>,
}

impl Projection for DirectoryEntry {
    const NAME: &'static str = "directory";

    fn statement(&self) -> Result<Statement, Error> {
        let [members, room_type, words, entry] = columns(self.room.as_ref())?;
        Ok(Statement::new(
            "INSERT INTO directory (room_id, version, published, members, room_type, words, entry)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (room_id) DO UPDATE SET version = excluded.version, published = excluded.published,
                 members = excluded.members, room_type = excluded.room_type, words = excluded.words,
                 entry = excluded.entry
             WHERE excluded.version > directory.version",
            vec![
                self.room_id.as_str().into(),
                self.version.into(),
                self.room.is_some().into(),
                members,
                room_type,
                words,
                entry,
            ],
        ))
    }
}

/// What a directory is searched and ordered by, and what it shows: `members`, `room_type`, `words`, `entry`.
fn columns(room: Option<&PublishedRoom>) -> Result<[Value; 4], Error> {
    Ok([
        room.map_or(0, |room| room.num_joined_members).into(),
        room.and_then(|room| room.room_type.as_deref()).unwrap_or_default().into(),
        room.map(PublishedRoom::words).unwrap_or_default().into(),
        room.map(serde_json::to_string).transpose()?.unwrap_or_default().into(),
    ])
}

/// A room in the directories of other networks, or one that was there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NetworkEntry {
    pub room_id: OwnedRoomId,
    pub version: u64,
    /// The directories that it is in; the row stays when there are none any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub networks: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<PublishedRoom>,
}

impl Projection for NetworkEntry {
    const NAME: &'static str = "networks";

    fn statement(&self) -> Result<Statement, Error> {
        let [members, room_type, words, entry] = columns(self.room.as_ref())?;
        let mut networks = String::new();
        for network in &self.networks {
            networks.push_str(if networks.is_empty() { "\n" } else { "" });
            networks.push_str(network);
            networks.push('\n');
        }
        Ok(Statement::new(
            "INSERT INTO network_directory (room_id, version, networks, members, room_type, words, entry)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (room_id) DO UPDATE SET version = excluded.version, networks = excluded.networks,
                 members = excluded.members, room_type = excluded.room_type, words = excluded.words,
                 entry = excluded.entry
             WHERE excluded.version > network_directory.version",
            vec![self.room_id.as_str().into(), self.version.into(), networks.into(), members, room_type, words, entry],
        ))
    }
}

/// Whether everybody may join a room, or read it: those in it are found by whoever looks for people.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OpenRoom {
    pub room_id: OwnedRoomId,
    pub version: u64,
    pub open: bool,
}

impl Projection for OpenRoom {
    const NAME: &'static str = "open_room";

    fn statement(&self) -> Result<Statement, Error> {
        Ok(Statement::new(
            "INSERT INTO open_room (room_id, version, open) VALUES (?1, ?2, ?3)
             ON CONFLICT (room_id) DO UPDATE SET version = excluded.version, open = excluded.open
             WHERE excluded.version > open_room.version",
            vec![self.room_id.as_str().into(), self.version.into(), self.open.into()],
        ))
    }
}

/// An account that has no addresses any more, for good: there is no newer version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NoContacts {
    pub user_id: OwnedUserId,
}

impl Projection for NoContacts {
    const NAME: &'static str = "no_contacts";

    fn statement(&self) -> Result<Statement, Error> {
        Ok(Statement::new("DELETE FROM contact WHERE user_id = ?1", vec![self.user_id.as_str().into()]))
    }
}

#[cfg(test)]
mod tests {
    use domain::directory::PublishedRoom;
    use platform::Value;
    use serde_json::{from_value, json};

    use super::{DirectoryEntry, Projection};
    use crate::world::World;

    fn room(members: u64) -> Option<PublishedRoom> {
        let room = json!({
            "room_id": "!room:a", "num_joined_members": members, "world_readable": false, "guest_can_join": false,
            "join_rule": "public", "name": "Tea",
        });
        Some(from_value(room).unwrap())
    }

    #[test]
    fn the_newest_entry_wins_in_whatever_order_they_come() {
        let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
        for (newest, shown) in [(room(3), (1, 3)), (None, (0, 0))] {
            for order in orders {
                let world = World::new(1);
                for version in order.into_iter().chain(order) {
                    let room = if version == 3 { newest.clone() } else { room(version) };
                    let room_id = ruma_common::owned_room_id!("!room:a");
                    world.projects(&DirectoryEntry { room_id, version, room }.statement().unwrap());
                }
                let rows = world.shows("SELECT published, members FROM directory", &[]);
                let (published, members) = shown;
                let expected = vec![Value::Integer(published), Value::Integer(members)];
                assert_eq!(rows.into_iter().map(|row| row.0).collect::<Vec<_>>(), [expected], "{order:?}");
            }
        }
    }
}
