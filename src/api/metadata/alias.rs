//! Local aliases and the rooms they point to. Spec: "Room aliases".

use platform::{Fault, Metadata, Row, Statement};
use ruma_common::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};

/// The most aliases a room has on this server: each is a row, and all of them are read when the room lists some.
pub(crate) const ALIASES_PER_ROOM_MAX: u64 = 1_000;

/// What an alias points to, and since when by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub room_id: OwnedRoomId,
    pub creator: OwnedUserId,
    pub created_ms: u64,
}

/// What became of a claim.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The alias points to the room now.
    Ours,
    /// It did before, by this user's doing: an earlier claim is repeated.
    OursAlready,
    /// It is somebody else's, or another room's.
    Taken(Held),
    /// The room has [`ALIASES_PER_ROOM_MAX`].
    TooMany,
}

/// Claims an alias for a room: one statement decides, however many try at once.
pub(crate) async fn claim(
    metadata: &dyn Metadata,
    alias: &RoomAliasId,
    room_id: &RoomId,
    creator: &UserId,
    now_ms: u64,
) -> Result<Claim, Fault> {
    let statement = Statement::new(
        "INSERT INTO alias (alias, room_id, creator, created_ms) SELECT ?1, ?2, ?3, ?4
         WHERE (SELECT count(*) FROM alias WHERE room_id = ?2) < ?5
         ON CONFLICT (alias) DO UPDATE SET alias = excluded.alias RETURNING room_id, creator, created_ms",
        vec![
            alias.as_str().into(),
            room_id.as_str().into(),
            creator.as_str().into(),
            now_ms.into(),
            ALIASES_PER_ROOM_MAX.into(),
        ],
    );
    Ok(match metadata.query(statement).await?.pop().map(held).transpose()? {
        None => Claim::TooMany,
        Some(held) if held.room_id == room_id && held.creator == creator => {
            if held.created_ms == now_ms {
                Claim::Ours
            } else {
                Claim::OursAlready
            }
        }
        Some(held) => Claim::Taken(held),
    })
}

/// Takes over an alias as it was found to be held; false if it is no longer.
pub(crate) async fn take_over(
    metadata: &dyn Metadata,
    alias: &RoomAliasId,
    from: &Held,
    room_id: &RoomId,
    creator: &UserId,
    now_ms: u64,
) -> Result<bool, Fault> {
    let statement = Statement::new(
        "UPDATE alias SET room_id = ?3, creator = ?4, created_ms = ?5 WHERE alias = ?1 AND room_id = ?2 RETURNING alias",
        vec![
            alias.as_str().into(),
            from.room_id.as_str().into(),
            room_id.as_str().into(),
            creator.as_str().into(),
            now_ms.into(),
        ],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}

/// What a local alias points to.
pub(crate) async fn find(metadata: &dyn Metadata, alias: &RoomAliasId) -> Result<Option<Held>, Fault> {
    let statement =
        Statement::new("SELECT room_id, creator, created_ms FROM alias WHERE alias = ?1", vec![alias.as_str().into()]);
    metadata.query(statement).await?.pop().map(held).transpose()
}

/// The aliases of a room, in alphabetical order.
pub(crate) async fn of_room(metadata: &dyn Metadata, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>, Fault> {
    let statement = Statement::new(
        "SELECT alias FROM alias WHERE room_id = ?1 ORDER BY alias LIMIT ?2",
        vec![room_id.as_str().into(), ALIASES_PER_ROOM_MAX.into()],
    );
    let rows = metadata.query(statement).await?;
    rows.into_iter().map(|mut row| stored(row.text(0)?, RoomAliasId::parse)).collect()
}

/// Deletes an alias of a room; false if there is no such alias any more.
pub(crate) async fn remove(metadata: &dyn Metadata, alias: &RoomAliasId, room_id: &RoomId) -> Result<bool, Fault> {
    let statement = Statement::new(
        "DELETE FROM alias WHERE alias = ?1 AND room_id = ?2 RETURNING alias",
        vec![alias.as_str().into(), room_id.as_str().into()],
    );
    Ok(!metadata.query(statement).await?.is_empty())
}

/// Has every alias of a room point to another one: what an upgrade does once the new room stands («moves any local
/// aliases to the new room»). What was claimed for the old room meanwhile moves with a repetition; nothing else
/// changes.
pub(crate) async fn move_all(metadata: &dyn Metadata, from: &RoomId, to: &RoomId) -> Result<(), Fault> {
    let statement = Statement::new(
        "UPDATE alias SET room_id = ?2 WHERE room_id = ?1",
        vec![from.as_str().into(), to.as_str().into()],
    );
    metadata.query(statement).await.map(drop)
}

fn held(mut row: Row) -> Result<Held, Fault> {
    Ok(Held {
        room_id: stored(row.text(0)?, RoomId::parse)?,
        creator: stored(row.text(1)?, UserId::parse)?,
        created_ms: row.unsigned(2)?,
    })
}

fn stored<T, E: std::fmt::Display>(id: String, parse: impl FnOnce(String) -> Result<T, E>) -> Result<T, Fault> {
    parse(id).map_err(|error| Fault::new(format!("a stored id: {error}")))
}

#[cfg(test)]
mod tests {
    use ruma_common::{RoomAliasId, RoomId, room_alias_id, room_id, user_id};

    use super::{ALIASES_PER_ROOM_MAX, Claim, Held, claim, find, move_all, of_room, remove, take_over};
    use crate::testing::with_metadata;

    #[test]
    fn an_alias_points_to_whoever_claims_it_first() {
        with_metadata(async |metadata| {
            let (tea, alice, bob) = (room_alias_id!("#tea:a"), user_id!("@alice:a"), user_id!("@bob:a"));
            let (one, other) = (room_id!("!one:a"), room_id!("!other:a"));
            let claims = async |room, user, now_ms| claim(metadata, tea, room, user, now_ms).await.unwrap();
            let held = Held { room_id: one.to_owned(), creator: alice.to_owned(), created_ms: 1 };
            assert_eq!(claims(one, alice, 1).await, Claim::Ours);
            assert_eq!(claims(one, alice, 2).await, Claim::OursAlready, "repeated");
            for (room, user) in [(other, alice), (one, bob), (other, bob)] {
                assert_eq!(claims(room, user, 3).await, Claim::Taken(held.clone()));
            }
            assert_eq!(find(metadata, tea).await.unwrap(), Some(held.clone()));
            assert_eq!(of_room(metadata, one).await.unwrap(), [tea]);

            assert!(!remove(metadata, tea, other).await.unwrap());
            assert!(take_over(metadata, tea, &held, other, bob, 4).await.unwrap());
            assert!(!take_over(metadata, tea, &held, one, bob, 5).await.unwrap());
            assert!(remove(metadata, tea, other).await.unwrap());
            assert!(!remove(metadata, tea, other).await.unwrap());
            assert_eq!(find(metadata, tea).await.unwrap(), None);
        });
    }

    #[test]
    fn aliases_move_from_room_to_room() {
        with_metadata(async |metadata| {
            let (alice, old, new) = (user_id!("@alice:a"), room_id!("!old:a"), room_id!("!new:a"));
            for (alias, room) in [("#1:a", old), ("#2:a", old), ("#3:a", new), ("#4:a", room_id!("!other:a"))] {
                let alias = RoomAliasId::parse(alias).unwrap();
                assert_eq!(claim(metadata, &alias, room, alice, 1).await.unwrap(), Claim::Ours);
            }
            for _ in 0..2 {
                move_all(metadata, old, new).await.unwrap();
                assert_eq!(of_room(metadata, new).await.unwrap(), ["#1:a", "#2:a", "#3:a"]);
                assert_eq!(of_room(metadata, old).await.unwrap().len(), 0);
            }
            let moved = find(metadata, room_alias_id!("#1:a")).await.unwrap().unwrap();
            assert_eq!(moved, Held { room_id: new.to_owned(), creator: alice.to_owned(), created_ms: 1 });
        });
    }

    #[test]
    fn a_room_has_so_many_aliases() {
        with_metadata(async |metadata| {
            let claims = async |number: u64, room: &RoomId| {
                let alias = RoomAliasId::parse(format!("#{number}:a")).unwrap();
                claim(metadata, &alias, room, user_id!("@alice:a"), 1).await.unwrap()
            };
            for number in 0..ALIASES_PER_ROOM_MAX {
                assert_eq!(claims(number, room_id!("!one:a")).await, Claim::Ours);
            }
            assert_eq!(claims(5_000, room_id!("!one:a")).await, Claim::TooMany);
            assert_eq!(claims(5_000, room_id!("!other:a")).await, Claim::Ours);
        });
    }
}
