//! Where history is missing, and the state in the places that are kept free for it.

use std::collections::{BTreeMap, HashSet};

use platform::{Fault, Row, Sql, Tx, Value};
use ruma_common::{EventId, OwnedEventId};

use super::graph::{Key, LOG_START, slices};

/// Keys of a state that are looked at at once.
pub(crate) const KEYS_AT_ONCE: u64 = if cfg!(test) { 3 } else { 2_000 };

/// A place of the log before which history is missing, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The event that came without what is before it.
    pub position: u64,
    /// From here on numbers are free for what is before; the state here is that before the earliest event found.
    pub floor: u64,
    /// The earliest event found.
    pub place: u64,
}

/// Whether something is missing at an edge, and there is a number for it, and one for the state before it.
const OPEN: &str = "place - floor >= 4
    AND EXISTS (SELECT 1 FROM gap INDEXED BY gap_by_position WHERE gap.position BETWEEN edge.place AND edge.position)";

fn edge(row: &mut Row) -> Result<Edge, Fault> {
    Ok(Edge { position: row.unsigned(0)?, floor: row.unsigned(1)?, place: row.unsigned(2)? })
}

pub(crate) fn insert(tx: &Tx<'_>, edge: Edge) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO edge (position, floor, place) VALUES (?1, ?2, ?3) ON CONFLICT (position) DO NOTHING",
        &[edge.position.into(), edge.floor.into(), edge.place.into()],
    )?;
    Ok(())
}

/// The edges but for the newest `kept_max`; of these, the first of all is one, and that at `but`.
pub(crate) fn beyond(sql: &dyn Sql, but: u64, kept_max: u64) -> Result<Vec<Edge>, Fault> {
    sql.query(
        "SELECT position, floor, place FROM edge
         WHERE position > (SELECT min(position) FROM edge) AND position <> ?1
         ORDER BY position DESC LIMIT -1 OFFSET ?2",
        &[but.into(), kept_max.saturating_sub(2).into()],
    )?
    .into_iter()
    .map(|mut row| edge(&mut row))
    .collect()
}

/// The depth of the event with which the log begins, where that is not the room's first.
pub(crate) fn first_depth(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    sql.query(
        "SELECT json_extract(event.json, '$.depth') FROM edge JOIN event ON event.position = edge.position
         WHERE edge.position = (SELECT min(position) FROM edge)
         AND NOT EXISTS (SELECT 1 FROM event AS earlier WHERE earlier.position >= ?1 AND earlier.position < edge.floor)",
        &[LOG_START.into()],
    )?
    .pop()
    .map_or(Ok(None), |mut row| row.unsigned_or_null(0))
}

/// What is missing at an edge stays so.
pub(crate) fn forget(tx: &Tx<'_>, edge: Edge) -> Result<(), Fault> {
    tx.execute("DELETE FROM gap WHERE position BETWEEN ?1 AND ?2", &[edge.place.into(), edge.position.into()])?;
    tx.execute("DELETE FROM edge WHERE position = ?1", &[edge.position.into()])?;
    Ok(())
}

/// Whether more events than so many are missing.
pub(crate) fn gaps_exceed(sql: &dyn Sql, count: u64) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM gap LIMIT 1 OFFSET ?1", &[count.into()])?.is_empty())
}

pub(crate) fn one(sql: &dyn Sql, position: u64) -> Result<Option<Edge>, Fault> {
    let rows = sql.query("SELECT position, floor, place FROM edge WHERE position = ?1", &[position.into()])?;
    rows.into_iter().next().map(|mut row| edge(&mut row)).transpose()
}

/// The newest edge in `(after, up_to]`.
pub(crate) fn newest(sql: &dyn Sql, after: u64, up_to: u64) -> Result<Option<Edge>, Fault> {
    sql.query(
        "SELECT position, floor, place FROM edge WHERE position > ?1 AND position <= ?2 ORDER BY position DESC LIMIT 1",
        &[after.into(), up_to.into()],
    )?
    .into_iter()
    .next()
    .map(|mut row| edge(&mut row))
    .transpose()
}

/// The first edge, with something missing, that a way back from `up_to` reaches.
pub(crate) fn open_below(sql: &dyn Sql, up_to: u64) -> Result<Option<Edge>, Fault> {
    sql.query(
        &format!("SELECT position, floor, place FROM edge WHERE floor <= ?1 AND {OPEN} ORDER BY position DESC LIMIT 1"),
        &[up_to.into()],
    )?
    .into_iter()
    .next()
    .map(|mut row| edge(&mut row))
    .transpose()
}

/// The edge with something missing that nothing of the log is before.
pub(crate) fn open_at_beginning(sql: &dyn Sql) -> Result<Option<Edge>, Fault> {
    sql.query(
        &format!(
            "SELECT position, floor, place FROM edge
             WHERE {OPEN} AND NOT EXISTS (SELECT 1 FROM event WHERE event.position >= ?1 AND event.position < edge.floor)
             ORDER BY position LIMIT 1"
        ),
        &[LOG_START.into()],
    )?
    .into_iter()
    .next()
    .map(|mut row| edge(&mut row))
    .transpose()
}

/// What was found before an edge begins at `place` now.
pub(crate) fn move_place(tx: &Tx<'_>, position: u64, place: u64) -> Result<(), Fault> {
    tx.execute("UPDATE edge SET place = ?2 WHERE position = ?1", &[position.into(), place.into()])?;
    Ok(())
}

/// The numbers that are free before an edge begin at `floor` now.
pub(crate) fn raise_floor(tx: &Tx<'_>, position: u64, floor: u64) -> Result<(), Fault> {
    tx.execute("UPDATE edge SET floor = ?2 WHERE position = ?1", &[position.into(), floor.into()])?;
    Ok(())
}

/// The events that are missing at an edge, up to `limit`.
pub(crate) fn missing_at(sql: &dyn Sql, edge: Edge, limit: u64) -> Result<Vec<OwnedEventId>, Fault> {
    sql.query(
        "SELECT event_id FROM gap WHERE position BETWEEN ?1 AND ?2 ORDER BY position, event_id LIMIT ?3",
        &[edge.place.into(), edge.position.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| super::graph::event_id(&row.text(0)?))
    .collect()
}

/// An event is missing no longer.
pub(crate) fn found(tx: &Tx<'_>, event_id: &EventId) -> Result<(), Fault> {
    tx.execute("DELETE FROM gap WHERE event_id = ?1", &[event_id.as_str().into()])?;
    Ok(())
}

/// Of these events, those that have no place in the graph: not held, or held beside it for what they say of a state.
pub(crate) fn not_in_graph<'a>(
    sql: &dyn Sql,
    event_ids: impl IntoIterator<Item = &'a OwnedEventId>,
) -> Result<Vec<OwnedEventId>, Fault> {
    let event_ids: Vec<&OwnedEventId> = event_ids.into_iter().collect();
    let mut missing = Vec::new();
    for slice in slices(&event_ids) {
        let rows = sql.query(
            "SELECT value FROM json_each(?1) WHERE NOT EXISTS
             (SELECT 1 FROM event WHERE event_id = value AND (position >= ?2 OR base IS NOT NULL))",
            &[slice?, LOG_START.into()],
        )?;
        for mut row in rows {
            missing.push(super::graph::event_id(&row.text(0)?)?);
        }
    }
    Ok(missing)
}

/// How the state that events make differs from the log's at `position`; refused ones among them count for nothing.
///
/// It goes through both in slices: what it holds in memory is the differences.
pub(crate) fn differences(
    sql: &dyn Sql,
    position: u64,
    event_ids: &[OwnedEventId],
) -> Result<BTreeMap<Key, Option<OwnedEventId>>, Fault> {
    let mut differences = BTreeMap::new();
    for slice in slices(&event_ids.iter().collect::<Vec<_>>()) {
        let rows = sql.query(
            "SELECT told.type, told.state_key, told.event_id FROM json_each(?1) JOIN event AS told ON told.event_id = value
             WHERE told.state_key IS NOT NULL AND told.verdict IS NOT 1 AND told.position IS NOT
             (SELECT after FROM state_change
              WHERE state_change.type = told.type AND state_change.state_key = told.state_key AND position <= ?2
              ORDER BY position DESC LIMIT 1)",
            &[slice?, position.into()],
        )?;
        for mut row in rows {
            let event = super::graph::event_id(&row.text(2)?)?;
            differences.insert((row.text(0)?, row.text(1)?), Some(event));
        }
    }
    let told: HashSet<&EventId> = event_ids.iter().map(|event_id| &**event_id).collect();
    let mut last = None;
    loop {
        let page = state_page(sql, position, last.as_ref())?;
        let Some((key, _)) = page.last() else { return Ok(differences) };
        last = Some(key.clone());
        for (key, event) in page {
            if event.is_some_and(|event| !told.contains(&*event)) {
                differences.entry(key).or_insert(None);
            }
        }
    }
}

/// The next [`KEYS_AT_ONCE`] keys after one, as far as there are so many, and what the log's state at `position` has
/// for each.
pub(crate) fn state_page(
    sql: &dyn Sql,
    position: u64,
    after: Option<&Key>,
) -> Result<Vec<(Key, Option<OwnedEventId>)>, Fault> {
    let is_next = if after.is_some() { ">" } else { ">=" };
    let (event_type, state_key) = after.map_or(("", ""), |(event_type, state_key)| (event_type, state_key));
    let rows = sql.query(
        &format!(
            "SELECT entry.type, entry.state_key, event.event_id FROM
             (SELECT type, state_key,
              (SELECT after FROM state_change
               WHERE state_change.type = state.type AND state_change.state_key = state.state_key AND position <= ?1
               ORDER BY position DESC LIMIT 1) AS event
              FROM state WHERE (type, state_key) {is_next} (?2, ?3) ORDER BY type, state_key LIMIT ?4) AS entry
             LEFT JOIN event ON event.position = entry.event ORDER BY entry.type, entry.state_key"
        ),
        &[position.into(), event_type.into(), state_key.into(), KEYS_AT_ONCE.into()],
    )?;
    rows.into_iter()
        .map(|mut row| {
            let event = row.text_or_null(2)?.map(|text| super::graph::event_id(&text)).transpose()?;
            Ok(((row.text(0)?, row.text(1)?), event))
        })
        .collect()
}

/// What the state for one key is from `position` on: in the places kept free for history, where nobody looked before.
pub(crate) fn set_state(tx: &Tx<'_>, key: &Key, position: u64, event: Option<u64>) -> Result<(), Fault> {
    let values = || [key.0.as_str().into(), key.1.as_str().into(), position.into(), event.into()];
    tx.execute(
        "INSERT INTO state_change (type, state_key, position, before, after) VALUES (?1, ?2, ?3,
         (SELECT after FROM state_change WHERE type = ?1 AND state_key = ?2 AND position < ?3
          ORDER BY position DESC LIMIT 1), ?4)
         ON CONFLICT (type, state_key, position) DO UPDATE SET after = excluded.after",
        &values(),
    )?;
    // The keys of any time are among those of now.
    let [event_type, state_key, ..] = values();
    tx.execute(
        "INSERT INTO state (type, state_key, position) VALUES (?1, ?2, 0) ON CONFLICT (type, state_key) DO NOTHING",
        &[event_type, state_key],
    )?;
    Ok(())
}

/// The state for one key stays what it is from `position` on, whatever becomes of it before.
pub(crate) fn keep_state(tx: &Tx<'_>, key: &Key, position: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO state_change (type, state_key, position, before, after) VALUES (?1, ?2, ?3, NULL,
         (SELECT after FROM state_change WHERE type = ?1 AND state_key = ?2 AND position <= ?3
          ORDER BY position DESC LIMIT 1))
         ON CONFLICT (type, state_key, position) DO NOTHING",
        &[key.0.as_str().into(), key.1.as_str().into(), position.into()],
    )?;
    Ok(())
}

/// Forgets changes at `position` that change nothing.
pub(crate) fn forget_idle_changes(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM state_change AS idle WHERE position = ?1 AND after IS
         (SELECT after FROM state_change AS earlier
          WHERE earlier.type = idle.type AND earlier.state_key = idle.state_key AND earlier.position < ?1
          ORDER BY earlier.position DESC LIMIT 1)",
        &[position.into()],
    )?;
    Ok(())
}

/// The servers with most members joined in the state at `position`, as far as a look at `members` of them tells.
pub(crate) fn servers_at(sql: &dyn Sql, position: u64, members: u64, limit: u64) -> Result<Vec<String>, Fault> {
    let bound: [Value; 3] = [position.into(), members.into(), limit.into()];
    sql.query(
        "SELECT server FROM
         (SELECT substr(state_key, instr(state_key, ':') + 1) AS server,
          (SELECT after FROM state_change
           WHERE state_change.type = state.type AND state_change.state_key = state.state_key AND position <= ?1
           ORDER BY position DESC LIMIT 1) AS event
          FROM state WHERE type = 'm.room.member' LIMIT ?2) AS entry
         JOIN event ON event.position = entry.event
         WHERE json_extract(json, '$.content.membership') = 'join'
         GROUP BY server ORDER BY count(*) DESC, server LIMIT ?3",
        &bound,
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}
