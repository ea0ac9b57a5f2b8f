//! The current state and its history.

use platform::{Fault, Row, Sql, Tx, Value};

use super::log::{Logged, logged};

/// The most redacted events that are looked at for who was away.
const REDACTED_MAX: u64 = 50;

/// One change of the current state, by positions of events.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub event_type: String,
    pub state_key: String,
    pub after: Option<u64>,
}

/// The event that makes the current state for one key.
pub(crate) fn current(sql: &dyn Sql, event_type: &str, state_key: &str) -> Result<Option<Logged>, Fault> {
    sql.query(
        // A join of the two would be planned anew for each pair of values.
        "SELECT position, event_id, json, txn, redacted_by, withheld FROM event
         WHERE position = (SELECT position FROM state WHERE type = ?1 AND state_key = ?2)",
        &[event_type.into(), state_key.into()],
    )?
    .pop()
    .map(|mut row| logged(&mut row))
    .transpose()
}

/// A text in the content of the event that makes the current state for one key.
pub(crate) fn text(sql: &dyn Sql, event_type: &str, state_key: &str, field: &str) -> Result<Option<String>, Fault> {
    let event = current(sql, event_type, state_key)?;
    let content = event.and_then(|event| event.pdu.content_as::<serde_json::Value>().ok());
    Ok(content.and_then(|content| Some(content.get(field)?.as_str()?.to_owned())))
}

/// The event that made the state for one key at `position`.
pub(crate) fn at(sql: &dyn Sql, event_type: &str, state_key: &str, position: u64) -> Result<Option<Logged>, Fault> {
    sql.query(
        "SELECT event.position, event_id, json, txn, redacted_by, withheld FROM event WHERE position =
         (SELECT after FROM state_change WHERE type = ?1 AND state_key = ?2 AND position <= ?3
          ORDER BY position DESC LIMIT 1)",
        &[event_type.into(), state_key.into(), position.into()],
    )?
    .pop()
    .map(|mut row| logged(&mut row))
    .transpose()
}

/// What the state for one key was at `position`, by the position of its event.
pub(crate) fn position_at(
    sql: &dyn Sql,
    event_type: &str,
    state_key: &str,
    position: u64,
) -> Result<Option<u64>, Fault> {
    let row = sql
        .query(
            "SELECT after FROM state_change WHERE type = ?1 AND state_key = ?2 AND position <= ?3
             ORDER BY position DESC LIMIT 1",
            &[event_type.into(), state_key.into(), position.into()],
        )?
        .pop();
    row.map_or(Ok(None), |mut row| row.unsigned_or_null(0))
}

/// A place between two keys of the state, which are ordered by type, then by state key.
#[derive(Debug, Clone)]
pub(crate) enum Edge<'a> {
    Start,
    /// Behind one key.
    Behind(&'a str, &'a str),
    /// Before all keys of a type.
    BeforeType(&'a str),
    /// Behind all keys of a type.
    BehindType(&'a str),
    End,
}

impl Edge<'_> {
    fn values(&self) -> [Value; 2] {
        // To SQLite a blob is behind every text.
        let behind = || Value::Blob(Vec::new());
        match self {
            Edge::Start => ["".into(), "".into()],
            Edge::Behind(event_type, state_key) => [(*event_type).into(), (*state_key).into()],
            Edge::BeforeType(event_type) => [(*event_type).into(), "".into()],
            Edge::BehindType(event_type) => [(*event_type).into(), behind()],
            Edge::End => [behind(), behind()],
        }
    }
}

/// A key and the event that makes the state for it; `None` while there was none.
pub(crate) type Entry = ((String, String), Option<Logged>);

/// Up to `limit` keys between two edges, in their order, with what the state was for each at `position`.
pub(crate) fn between(
    sql: &dyn Sql,
    [from, to]: [&Edge<'_>; 2],
    position: u64,
    limit: u64,
) -> Result<Vec<Entry>, Fault> {
    let ([from_type, from_key], [to_type, to_key]) = (from.values(), to.values());
    sql.query(
        // A key never leaves `state`, so that the keys of any time are among those of now.
        "SELECT event.position, event_id, json, txn, redacted_by, withheld, entry.type,
          entry.state_key, entry.event FROM
         (SELECT type, state_key,
          (SELECT after FROM state_change
           WHERE state_change.type = state.type AND state_change.state_key = state.state_key AND position <= ?5
           ORDER BY position DESC LIMIT 1) AS event
          FROM state WHERE (type, state_key) > (?1, ?2) AND (type, state_key) < (?3, ?4)
          ORDER BY type, state_key LIMIT ?6) AS entry
         LEFT JOIN event ON event.position = entry.event ORDER BY entry.type, entry.state_key",
        &[from_type, from_key, to_type, to_key, position.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| {
        let event = if row.unsigned_or_null(8)?.is_some() { Some(logged(&mut row)?) } else { None };
        Ok(((row.text(6)?, row.text(7)?), event))
    })
    .collect()
}

/// Up to `limit` events of the current state with this type, those with the first state keys, by their positions.
pub(crate) fn of_type(sql: &dyn Sql, event_type: &str, limit: u64) -> Result<Vec<u64>, Fault> {
    sql.query(
        "SELECT position FROM state WHERE type = ?1 AND position > 0 ORDER BY state_key LIMIT ?2",
        &[event_type.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| row.unsigned(0))
    .collect()
}

/// Up to `limit` changes in `(after, up_to]`, in their order.
pub(crate) fn changes(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Vec<Change>, Fault> {
    sql.query(
        "SELECT type, state_key, after FROM state_change WHERE position > ?1 AND position <= ?2
         ORDER BY position LIMIT ?3",
        &[after.into(), up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok(Change { event_type: row.text(0)?, state_key: row.text(1)?, after: row.unsigned_or_null(2)? }))
    .collect()
}

/// State events that were redacted in `(after, up_to]` and are the state at its end, with who redacted them: their
/// types, state keys and positions.
pub(crate) fn redacted(sql: &dyn Sql, after: u64, up_to: u64) -> Result<Vec<Redacted>, Fault> {
    let rows = sql.query(
        "SELECT type, state_key, position, redacted_by FROM event
         WHERE redacted_by > ?1 AND redacted_by <= ?2 AND redacted_by IS NOT NULL AND state_key IS NOT NULL
         AND position = (SELECT after FROM state_change AS change WHERE change.type = event.type
          AND change.state_key = event.state_key AND change.position <= ?2 ORDER BY change.position DESC LIMIT 1)
         ORDER BY redacted_by DESC LIMIT ?3",
        &[after.into(), up_to.into(), REDACTED_MAX.into()],
    )?;
    let redacted = |mut row: Row| {
        let (event_type, state_key, position) = (row.text(0)?, row.text(1)?, row.unsigned(2)?);
        Ok(Redacted { event_type, state_key, position, by: row.unsigned(3)? })
    };
    rows.into_iter().map(redacted).collect()
}

/// A state event that was redacted, by the one at position `by`.
pub(crate) struct Redacted {
    pub event_type: String,
    pub state_key: String,
    pub position: u64,
    pub by: u64,
}

/// The history of one text in the content of one key's state: when it changed, and to what; oldest first. Where
/// resolution left the key without an event it became nothing.
/// `field` is a JSON path. Whatever else the events hold stays where it is: it may be large, and many.
pub(crate) fn history(
    sql: &dyn Sql,
    event_type: &str,
    state_key: &str,
    field: &str,
) -> Result<Vec<(u64, Option<String>)>, Fault> {
    sql.query(
        "SELECT state_change.position, CASE json_type(json, ?3) WHEN 'text' THEN json_extract(json, ?3) END
         FROM state_change LEFT JOIN event ON event.position = state_change.after
         WHERE state_change.type = ?1 AND state_change.state_key = ?2 ORDER BY state_change.position",
        &[event_type.into(), state_key.into(), field.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text_or_null(1)?)))
    .collect()
}

/// Changes the current state: at `position`, `event` becomes the state for its key, or (`None`) nothing does.
pub(crate) fn set(
    tx: &Tx<'_>,
    event_type: &str,
    state_key: &str,
    position: u64,
    event: Option<u64>,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO state_change (type, state_key, position, before, after) VALUES (?1, ?2, ?3,
         (SELECT nullif(position, 0) FROM state WHERE type = ?1 AND state_key = ?2), ?4)",
        &[event_type.into(), state_key.into(), position.into(), event.into()],
    )?;
    // A key stays when its state is gone: no event has the number 0.
    tx.execute(
        "INSERT INTO state (type, state_key, position) VALUES (?1, ?2, ?3)
         ON CONFLICT (type, state_key) DO UPDATE SET position = excluded.position",
        &[event_type.into(), state_key.into(), event.unwrap_or(0).into()],
    )?;
    Ok(())
}

/// The event that the state event at `position` replaced.
pub(crate) fn replaced(
    sql: &dyn Sql,
    event_type: &str,
    state_key: &str,
    position: u64,
) -> Result<Option<Logged>, Fault> {
    sql.query(
        "SELECT event.position, event_id, json, txn, redacted_by, withheld FROM event WHERE position =
         (SELECT before FROM state_change WHERE type = ?1 AND state_key = ?2 AND position = ?3)",
        &[event_type.into(), state_key.into(), position.into()],
    )?
    .pop()
    .map(|mut row| logged(&mut row))
    .transpose()
}

/// Whether any membership changed in `(after, up_to]`.
pub(crate) fn members_changed(sql: &dyn Sql, after: u64, up_to: u64) -> Result<bool, Fault> {
    let rows = sql.query(
        // By type, all the members would be looked at.
        "SELECT 1 FROM state_change INDEXED BY state_change_position
         WHERE position > ?1 AND position <= ?2 AND type = 'm.room.member' LIMIT 1",
        &[after.into(), up_to.into()],
    )?;
    Ok(!rows.is_empty())
}
