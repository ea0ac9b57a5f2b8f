//! The directory of published rooms, as the rooms project themselves. Spec: "Published room directory".
//!
//! Rooms come with the most members first; among equals the room id decides. A page begins at a place in that order, so
//! that it costs the same wherever it is.

use std::collections::HashSet;

use platform::{Fault, INTEGER_MAX, Metadata, Row, Statement, Value};

/// The most room types that a filter names.
pub(crate) const ROOM_TYPES_MAX: usize = 10;
/// How many rooms are counted for the estimate of all there are.
const COUNTED_MAX: u64 = 10_000;

/// A place in the order of the directory: that of a room, whether or not it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub members: u64,
    pub room_id: String,
}

impl Place {
    /// Before every room: none has so many members.
    pub(crate) fn start() -> Self {
        Self { members: INTEGER_MAX.unsigned_abs(), room_id: String::new() }
    }

    /// After every room.
    pub(crate) fn end() -> Self {
        Self { members: 0, room_id: String::new() }
    }
}

/// Which rooms are wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Found in a name, topic or canonical alias; in lower case, and empty for any.
    pub term: String,
    /// [`ROOM_TYPES_MAX`] at most, "" for a room without one; none for any.
    pub room_types: Vec<String>,
    /// Of whose directory.
    pub network: Network,
}

/// A directory: ours, or one that an application service keeps for another network.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    #[default]
    Ours,
    /// By its instance id.
    Other(String),
    /// Ours and all others.
    All,
}

/// Where a page begins, or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    After(Place),
    Before(Place),
}

/// A room of the directory: where it stands, and the JSON that clients get.
pub(crate) struct Entry {
    pub place: Place,
    pub json: String,
}

/// Up to `limit` rooms next to a place, in the directory's order.
pub(crate) async fn page(
    metadata: &dyn Metadata,
    wanted: &Wanted,
    from: &From,
    limit: u64,
) -> Result<Vec<Entry>, Fault> {
    match &wanted.network {
        Network::Ours => page_of(metadata, wanted, from, limit, None).await,
        Network::Other(network) => page_of(metadata, wanted, from, limit, Some(&format!("\n{network}\n"))).await,
        Network::All => {
            let mut entries = page_of(metadata, wanted, from, limit, None).await?;
            entries.extend(page_of(metadata, wanted, from, limit, Some("")).await?);
            // Most members first. A room that is in both, they show alike.
            let order = |entry: &Entry| (entry.place.members, entry.place.room_id.clone());
            entries.sort_by_key(|entry| std::cmp::Reverse(order(entry)));
            let mut seen = HashSet::new();
            entries.retain(|entry| seen.insert(entry.place.room_id.clone()));
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            match from {
                From::After(_) => entries.truncate(limit),
                From::Before(_) => drop(entries.drain(..entries.len().saturating_sub(limit))),
            }
            Ok(entries)
        }
    }
}

/// Of our directory, or of that of a network with this between its line breaks; of all networks if there is nothing.
async fn page_of(
    metadata: &dyn Metadata,
    wanted: &Wanted,
    from: &From,
    limit: u64,
    network: Option<&str>,
) -> Result<Vec<Entry>, Fault> {
    let (statement, place) = match (from, network) {
        (From::After(place), None) => (AFTER, place),
        (From::Before(place), None) => (BEFORE, place),
        (From::After(place), Some(_)) => (AFTER_IN_NETWORK, place),
        (From::Before(place), Some(_)) => (BEFORE_IN_NETWORK, place),
    };
    let mut params: Vec<Value> =
        vec![place.members.into(), place.room_id.as_str().into(), wanted.term.as_str().into(), limit.into()];
    params.push((wanted.room_types.len() as u64).into());
    // The list has a fixed length: its first room type fills it up.
    let first = wanted.room_types.first().map_or("", String::as_str);
    let room_types = wanted.room_types.iter().map(String::as_str).chain(std::iter::repeat(first));
    params.extend(room_types.take(ROOM_TYPES_MAX).map(Value::from));
    params.extend(network.map(Value::from));
    let rows = metadata.query(Statement::new(statement, params)).await?;
    let mut entries = rows.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    if matches!(from, From::Before(_)) {
        entries.reverse();
    }
    Ok(entries)
}

// A term is not looked for with LIKE, whose patterns have 50 bytes at most in D1.
const AFTER: &str = "SELECT room_id, members, entry FROM directory
    WHERE published = 1 AND (members, room_id) < (?1, ?2) AND (?3 = '' OR replace(words, ?3, '') <> words)
    AND (?5 = 0 OR room_type IN (?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15))
    ORDER BY members DESC, room_id DESC LIMIT ?4";
const BEFORE: &str = "SELECT room_id, members, entry FROM directory
    WHERE published = 1 AND (members, room_id) > (?1, ?2) AND (?3 = '' OR replace(words, ?3, '') <> words)
    AND (?5 = 0 OR room_type IN (?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15))
    ORDER BY members, room_id LIMIT ?4";
const AFTER_IN_NETWORK: &str = "SELECT room_id, members, entry FROM network_directory
    WHERE networks <> '' AND (members, room_id) < (?1, ?2) AND (?3 = '' OR replace(words, ?3, '') <> words)
    AND (?5 = 0 OR room_type IN (?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15))
    AND (?16 = '' OR replace(networks, ?16, '') <> networks)
    ORDER BY members DESC, room_id DESC LIMIT ?4";
const BEFORE_IN_NETWORK: &str = "SELECT room_id, members, entry FROM network_directory
    WHERE networks <> '' AND (members, room_id) > (?1, ?2) AND (?3 = '' OR replace(words, ?3, '') <> words)
    AND (?5 = 0 OR room_type IN (?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15))
    AND (?16 = '' OR replace(networks, ?16, '') <> networks)
    ORDER BY members, room_id LIMIT ?4";

fn entry(mut row: Row) -> Result<Entry, Fault> {
    Ok(Entry { place: Place { room_id: row.text(0)?, members: row.unsigned(1)? }, json: row.text(2)? })
}

/// How many rooms a directory has, whatever is looked for, counted up to [`COUNTED_MAX`] in ours and in others.
pub(crate) async fn count(metadata: &dyn Metadata, network: &Network) -> Result<u64, Fault> {
    let counted = async |statement, param: Option<&str>| {
        let params = [COUNTED_MAX.into()].into_iter().chain(param.map(Value::from)).collect();
        metadata.query(Statement::new(statement, params)).await?.pop().map_or(Ok(0), |mut row| row.unsigned(0))
    };
    let in_network = "SELECT count(*) FROM (SELECT 1 FROM network_directory WHERE networks <> ''
        AND (?2 = '' OR replace(networks, ?2, '') <> networks) LIMIT ?1) AS counted";
    let ours = "SELECT count(*) FROM (SELECT 1 FROM directory WHERE published = 1 LIMIT ?1) AS counted";
    match network {
        Network::Ours => counted(ours, None).await,
        Network::Other(network) => counted(in_network, Some(&format!("\n{network}\n"))).await,
        Network::All => Ok(counted(ours, None).await?.saturating_add(counted(in_network, Some("")).await?)),
    }
}

#[cfg(test)]
mod tests {
    use platform::{Metadata, Statement};

    use super::{AFTER, AFTER_IN_NETWORK, BEFORE, BEFORE_IN_NETWORK, From, Network, Place, Wanted, count, page};
    use crate::{
        load_settings,
        testing::{MemoryMetadata, TestRandom, block_on, config},
    };

    #[test]
    fn a_page_costs_the_same_wherever_it_begins() {
        let metadata = MemoryMetadata::default();
        block_on(async {
            load_settings(&metadata, config(&[]), &TestRandom::default()).await.unwrap();
            for (statement, index, params) in [
                (AFTER, "INDEX directory_order (published=? AND (members,room_id)", 15),
                (BEFORE, "INDEX directory_order (published=? AND (members,room_id)", 15),
                (AFTER_IN_NETWORK, "INDEX network_directory_order ((members,room_id)", 16),
                (BEFORE_IN_NETWORK, "INDEX network_directory_order ((members,room_id)", 16),
            ] {
                let plan = format!("EXPLAIN QUERY PLAN {statement}").leak();
                let plan = metadata.query(Statement::new(plan, vec![0_u64.into(); params])).await.unwrap();
                let plan: Vec<String> = plan.into_iter().map(|mut row| row.text(3).unwrap()).collect();
                assert_eq!(plan.len(), 1, "nothing is sorted: {plan:?}");
                assert!(plan[0].contains(index), "{plan:?}");
            }
        });
    }

    #[test]
    fn rooms_come_with_the_most_members_first() {
        let metadata = MemoryMetadata::default();
        block_on(async {
            load_settings(&metadata, config(&[]), &TestRandom::default()).await.unwrap();
            for (room_id, published, members) in
                [("!a", 1, 1), ("!b", 1, 3), ("!c", 0, 9), ("!d", 1, 3), ("!e", 1, 1), ("!f", 1, 2)]
            {
                let insert = "INSERT INTO directory VALUES (?1, 1, ?2, ?3, '', '', ?1)";
                let params = vec![room_id.into(), i64::from(published).into(), i64::from(members).into()];
                metadata.query(Statement::new(insert, params)).await.unwrap();
            }
            assert_eq!(count(&metadata, &Network::Ours).await.unwrap(), 5);
            let reads = async |from: From, limit| {
                let entries = page(&metadata, &Wanted::default(), &from, limit).await.unwrap();
                entries.into_iter().map(|entry| entry.json).collect::<Vec<_>>().join(" ")
            };
            let place = |members, room_id: &str| Place { members, room_id: room_id.to_owned() };
            let table = [
                (From::After(Place::start()), 9, "!d !b !f !e !a"),
                (From::After(place(3, "!b")), 2, "!f !e"),
                (From::After(place(3, "!c")), 1, "!b"),
                (From::After(Place::end()), 9, ""),
                (From::Before(place(1, "!e")), 2, "!b !f"),
                (From::Before(place(3, "!d")), 9, ""),
                (From::Before(Place::end()), 2, "!e !a"),
            ];
            for (from, limit, expected) in table {
                assert_eq!(reads(from.clone(), limit).await, expected, "{from:?}");
            }
        });
    }
}
