//! The index of words: which of them stand in messages, names and topics of the room.
//!
//! It is made when somebody searches the room for the first time, and costs nothing until then: a row for each event
//! that is indexed then, as Cloudflare counts. It keeps no text of its own but reads it from the log, and stores few
//! rows.

use platform::{Fault, Row, Sql, Tx};
use serde::{Deserialize, Serialize};

use super::{
    graph::LOG_START,
    meta,
    relations::{VISIBLE, Visible, is_visible},
};

/// What the index is made of. A redacted event's words are to be gone from it at once, not when pages are merged.
const LAYOUT: [&str; 3] = [
    "CREATE VIEW searchable AS SELECT position,
      CASE type WHEN 'm.room.message' THEN
       CASE json_type(json, '$.content.body') WHEN 'text' THEN json_extract(json, '$.content.body') END END AS body,
      CASE type WHEN 'm.room.name' THEN
       CASE json_type(json, '$.content.name') WHEN 'text' THEN json_extract(json, '$.content.name') END END AS name,
      CASE type WHEN 'm.room.topic' THEN
       coalesce(CASE json_type(json, '$.content.topic') WHEN 'text' THEN json_extract(json, '$.content.topic') END, '')
       || ' ' || coalesce(
        (SELECT group_concat(json_extract(text.value, '$.body'), ' ')
         FROM json_each(event.json, '$.content.\"m.topic\".\"m.text\"') AS text
         WHERE CASE text.type WHEN 'object'
          THEN coalesce(json_extract(text.value, '$.mimetype'), 'text/plain') END = 'text/plain'), '')
       END AS topic
     FROM event WHERE type IN ('m.room.message', 'm.room.name', 'm.room.topic')",
    "CREATE VIRTUAL TABLE word USING fts5 (body, name, topic, content = 'searchable', content_rowid = 'position',
     columnsize = 0, tokenize = 'unicode61 remove_diacritics 2')",
    "INSERT INTO word (word, rank) VALUES ('secure-delete', 1)",
];

/// Where it is noted among the small facts how far the index reaches.
const INDEXED: &str = "indexed";

/// No position is behind this one.
const LOG_END: u64 = (1 << 53) - 1;
/// The most matches that are held against each other, and the most that are counted: the newest.
const RANKED_MAX: u64 = 1_000;
const COUNTED_MAX: u64 = 10_000;

/// How well an event matches: more is better. In billionths, for rows have no fractions.
pub(crate) type Score = u64;

/// Which events are indexed: those in `(after, up_to]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Indexed {
    pub after: u64,
    pub up_to: u64,
}

/// How far the index reaches; `None`: there is none.
pub(crate) fn indexed(sql: &dyn Sql) -> Result<Option<Indexed>, Fault> {
    Ok(meta::text(sql, INDEXED)?.map(|stored| serde_json::from_str(&stored)).transpose()?)
}

/// Makes an index with nothing in it.
pub(crate) fn lay_out(tx: &Tx<'_>) -> Result<(), Fault> {
    LAYOUT.iter().try_for_each(|statement| tx.execute(statement, &[]).map(drop))
}

/// Adds what `events` say to the index, which reaches as far as `indexed` then.
pub(crate) fn add(tx: &Tx<'_>, events: (u64, u64), indexed: Indexed) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO word (rowid, body, name, topic)
         SELECT position, body, name, topic FROM searchable WHERE position > ?1 AND position <= ?2",
        &[events.0.into(), events.1.into()],
    )?;
    meta::set(tx, INDEXED, serde_json::to_string(&indexed)?.into())
}

/// Adds an event that came to stand among those that are indexed.
pub(crate) fn add_late(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    match indexed(&**tx)? {
        Some(indexed) if position > indexed.after && position <= indexed.up_to => {
            add(tx, (position.saturating_sub(1), position), indexed)
        }
        _ => Ok(()),
    }
}

/// The last of the first `limit` events in `(after, up_to]`, and whether there are so many.
pub(crate) fn end_of_first(sql: &dyn Sql, after: u64, up_to: u64, limit: u64) -> Result<Option<(u64, bool)>, Fault> {
    part(sql.query(
        "SELECT max(position), count(*) = ?3 FROM (SELECT position FROM event WHERE position > ?1 AND position <= ?2
         ORDER BY position LIMIT ?3)",
        &[after.into(), up_to.into(), limit.into()],
    )?)
}

/// The first of the last `limit` events of the log up to a position, and whether there are so many.
pub(crate) fn start_of_last(sql: &dyn Sql, up_to: u64, limit: u64) -> Result<Option<(u64, bool)>, Fault> {
    part(sql.query(
        "SELECT min(position), count(*) = ?3 FROM (SELECT position FROM event WHERE position >= ?1 AND position <= ?2
         ORDER BY position DESC LIMIT ?3)",
        &[LOG_START.into(), up_to.into(), limit.into()],
    )?)
}

fn part(mut rows: Vec<Row>) -> Result<Option<(u64, bool)>, Fault> {
    let Some(mut row) = rows.pop() else { return Ok(None) };
    let is_full = row.unsigned(1)? == 1;
    Ok(row.unsigned_or_null(0)?.map(|end| (end, is_full)))
}

/// Takes the words of an event that is about to be stripped out of the index.
pub(crate) fn forget(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    let Some(indexed) = indexed(&**tx)? else { return Ok(()) };
    if position <= indexed.after || position > indexed.up_to {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO word (word, rowid, body, name, topic)
         SELECT 'delete', position, body, name, topic FROM searchable WHERE position = ?1",
        &[position.into()],
    )?;
    Ok(())
}

/// What is looked for, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct Matching<'a> {
    /// An expression of FTS5.
    pub expression: &'a str,
    pub visible: &'a Visible,
}

/// A place among matches, which stand in an order: what stands there and after it is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub score: Score,
    pub position: u64,
}

/// The matches with their events, newest first; `?4` is where they begin.
fn matches() -> String {
    format!(
        "FROM word CROSS JOIN event AS child ON child.position = word.rowid
         WHERE word MATCH ?3 AND word.rowid <= ?4 AND {} ORDER BY word.rowid DESC LIMIT ?5",
        is_visible("child")
    )
}

/// The newest `among` matches from a position on, each with how well it matches.
fn scored() -> String {
    format!(
        "WITH {VISIBLE} SELECT position, score FROM
         (SELECT child.position AS position, max(CAST(-bm25(word) * 1000000000 AS INTEGER), 0) AS score {})",
        matches()
    )
}

fn places(rows: Vec<Row>) -> Result<Vec<Place>, Fault> {
    rows.into_iter().map(|mut row| Ok(Place { position: row.unsigned(0)?, score: row.unsigned(1)? })).collect()
}

/// Up to `limit` matches, newest first.
pub(crate) fn newest(sql: &dyn Sql, matching: &Matching<'_>, from: Place, limit: u64) -> Result<Vec<Place>, Fault> {
    places(sql.query(
        &format!("{} ORDER BY position DESC", scored()),
        &[
            matching.visible.stretches.as_str().into(),
            matching.visible.ignored.as_str().into(),
            matching.expression.into(),
            from.position.into(),
            limit.into(),
        ],
    )?)
}

/// Up to `limit` of the newest [`RANKED_MAX`] matches, the best first.
pub(crate) fn best(sql: &dyn Sql, matching: &Matching<'_>, from: Place, limit: u64) -> Result<Vec<Place>, Fault> {
    places(sql.query(
        &format!(
            "{} WHERE score < ?6 OR (score = ?6 AND position <= ?7) ORDER BY score DESC, position DESC LIMIT ?8",
            scored()
        ),
        &[
            matching.visible.stretches.as_str().into(),
            matching.visible.ignored.as_str().into(),
            matching.expression.into(),
            LOG_END.into(),
            RANKED_MAX.into(),
            from.score.into(),
            from.position.into(),
            limit.into(),
        ],
    )?)
}

/// How many matches there are, as far as [`COUNTED_MAX`].
pub(crate) fn count(sql: &dyn Sql, matching: &Matching<'_>) -> Result<u64, Fault> {
    let rows = sql.query(
        &format!("WITH {VISIBLE} SELECT count(*) FROM (SELECT 1 {})", matches()),
        &[
            matching.visible.stretches.as_str().into(),
            matching.visible.ignored.as_str().into(),
            matching.expression.into(),
            LOG_END.into(),
            COUNTED_MAX.into(),
        ],
    )?;
    rows.into_iter().next().map_or(Ok(0), |mut row| row.unsigned(0))
}
