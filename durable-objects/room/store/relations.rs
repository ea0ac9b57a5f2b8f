//! Which events relate to which. Their contents say it, and two indexes of the log find it.

use platform::{Fault, Sql};
use ruma_common::{EventId, OwnedEventId, UserId};

use crate::room::Direction;

/// The most events of a thread that are counted: the newest.
const THREAD_EVENTS_MAX: u64 = 10_000;
/// The most edits of an event among which the most recent one is looked for: those that came last.
const EDITS_MAX: u64 = 1_000;
/// The most references to an event that are listed with it: the oldest.
const REFERENCES_MAX: u64 = 1_000;
/// The most events that are gone through for those that relate to one indirectly.
const DESCENDANTS_MAX: u64 = 50_000;

/// What one user may see of the log, as a query takes it.
#[derive(Debug, Clone)]
pub(crate) struct Visible {
    /// A JSON list of the stretches in which they see ordinary events, each by its first and last position.
    pub stretches: String,
    /// A JSON list of those whose events they do not want to see.
    pub ignored: String,
}

/// The first two parameters of a query: what is visible.
pub(super) const VISIBLE: &str = "visible AS MATERIALIZED
  (SELECT json_extract(value, '$[0]') AS first, json_extract(value, '$[1]') AS last FROM json_each(?1)),
 ignored AS MATERIALIZED (SELECT value AS user FROM json_each(?2))";

/// Whether an event of this name is.
pub(super) fn is_visible(event: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM visible WHERE {event}.position BETWEEN first AND last)
         AND {event}.sender NOT IN (SELECT user FROM ignored)
         AND NOT EXISTS (SELECT 1 FROM event AS kept INDEXED BY event_withheld
          WHERE kept.position = {event}.position AND kept.withheld = 1)"
    )
}

/// Which of the events that relate to one are wanted.
#[derive(Debug, Clone)]
pub(crate) struct Children<'a> {
    pub parent: &'a EventId,
    pub rel_type: Option<&'a str>,
    pub event_type: Option<&'a str>,
    /// How many relations lead to the parent at most.
    pub depth: u64,
    pub direction: Direction,
    /// `(after, up_to]`.
    pub span: (u64, u64),
    pub limit: u64,
}

/// The positions of the first events in a span that relate to one.
pub(crate) fn children(sql: &dyn Sql, visible: &Visible, wanted: &Children<'_>) -> Result<Vec<u64>, Fault> {
    let order = match wanted.direction {
        Direction::Backwards => "DESC",
        Direction::Forwards => "ASC",
    };
    // Each in words of its own, or no index would be of use.
    let by_rel_type = if wanted.rel_type.is_some() { "child.rel_type = ?4" } else { "?4 IS NULL" };
    let by_type = if wanted.event_type.is_some() { "child.type = ?5" } else { "?5 IS NULL" };
    let matches = format!("{by_rel_type} AND {by_type} AND {}", is_visible("child"));
    let positions = if wanted.depth > 1 {
        format!(
            "WITH RECURSIVE {VISIBLE}, related (position, id, depth) AS
              (SELECT -1, ?3, 0
               UNION
               SELECT child.position, child.event_id, depth + 1 FROM related JOIN event AS child
               ON child.parent = related.id WHERE depth < ?9 AND {matches}
               ORDER BY 1 {order} LIMIT {DESCENDANTS_MAX})
             SELECT position FROM related WHERE position > ?6 AND position <= ?7 ORDER BY position {order} LIMIT ?8"
        )
    } else {
        format!(
            "WITH {VISIBLE}
             SELECT child.position FROM event AS child WHERE child.parent = ?3 AND {matches}
             AND child.position > ?6 AND child.position <= ?7 AND ?9 > 0 ORDER BY child.position {order} LIMIT ?8"
        )
    };
    sql.query(
        &positions,
        &[
            visible.stretches.as_str().into(),
            visible.ignored.as_str().into(),
            wanted.parent.as_str().into(),
            wanted.rel_type.into(),
            wanted.event_type.into(),
            wanted.span.0.into(),
            wanted.span.1.into(),
            wanted.limit.into(),
            wanted.depth.into(),
        ],
    )?
    .into_iter()
    .map(|mut row| row.unsigned(0))
    .collect()
}

/// What relates to an event, as it is bundled with it.
#[derive(Debug)]
pub(crate) struct Relating {
    /// The position of the event.
    pub to: u64,
    /// How many events are in its thread.
    pub in_thread: u64,
    /// The position of the last of them.
    pub latest: Option<u64>,
    /// Whether the viewer sent one of them.
    pub participated: bool,
    /// The position of its most recent valid replacement.
    pub replacement: Option<u64>,
    /// The ids of the events that reference it, oldest first.
    pub references: Vec<OwnedEventId>,
}

/// What relates to the message events at these positions. Spec: "Server-side aggregation" of `m.thread`, `m.replace`
/// and `m.reference` relationships, "Validity of replacement events".
pub(crate) fn relating(sql: &dyn Sql, visible: &Visible, viewer: &UserId, to: &[u64]) -> Result<Vec<Relating>, Fault> {
    let is_visible = is_visible("child");
    sql.query(
        &format!(
            "WITH {VISIBLE}
             SELECT original.position,
              CASE WHEN original.parent IS NULL THEN
               (SELECT json_array(count(*), max(position), max(sender = ?4)) FROM
                (SELECT position, sender FROM event AS child
                 WHERE child.parent = original.event_id AND child.rel_type = 'm.thread' AND {is_visible}
                 ORDER BY position DESC LIMIT {THREAD_EVENTS_MAX})) END,
              CASE WHEN original.redacted_by IS NULL AND original.rel_type IS NOT 'm.replace' THEN
               (SELECT position FROM
                (SELECT position, event_id, type, json FROM event AS child
                 WHERE child.parent = original.event_id AND child.rel_type = 'm.replace'
                 AND child.sender = original.sender AND child.type = original.type AND child.state_key IS NULL
                 AND {is_visible} ORDER BY position DESC LIMIT {EDITS_MAX})
                WHERE type = 'm.room.encrypted' OR json_type(json, '$.content.\"m.new_content\"') = 'object'
                ORDER BY json_extract(json, '$.origin_server_ts') DESC, event_id DESC LIMIT 1) END,
              (SELECT json_group_array(event_id) FROM
               (SELECT event_id FROM event AS child
                WHERE child.parent = original.event_id AND child.rel_type = 'm.reference' AND {is_visible}
                ORDER BY position LIMIT {REFERENCES_MAX}))
             FROM json_each(?3) AS shown CROSS JOIN event AS original ON original.position = shown.value
             WHERE original.state_key IS NULL"
        ),
        &[
            visible.stretches.as_str().into(),
            visible.ignored.as_str().into(),
            serde_json::to_string(to)?.into(),
            viewer.as_str().into(),
        ],
    )?
    .into_iter()
    .map(|mut row| {
        let thread: (u64, Option<u64>, Option<u64>) = match row.text_or_null(1)? {
            Some(thread) => serde_json::from_str(&thread)?,
            None => (0, None, None),
        };
        Ok(Relating {
            to: row.unsigned(0)?,
            in_thread: thread.0,
            latest: thread.1,
            participated: thread.2 == Some(1),
            replacement: row.unsigned_or_null(2)?,
            references: serde_json::from_str(&row.text(3)?)?,
        })
    })
    .collect()
}

/// An event of a thread.
#[derive(Debug)]
pub(crate) struct Threaded {
    pub position: u64,
    pub root: String,
    /// Whether it is the last of its thread.
    pub is_latest: bool,
}

/// Up to `limit` events of threads, up to a position, newest first.
pub(crate) fn threaded(sql: &dyn Sql, visible: &Visible, up_to: u64, limit: u64) -> Result<Vec<Threaded>, Fault> {
    sql.query(
        &format!(
            "WITH {VISIBLE}
             SELECT child.position, child.parent, NOT EXISTS
              (SELECT 1 FROM event AS later WHERE later.parent = child.parent AND later.rel_type = 'm.thread'
               AND later.position > child.position AND {})
             FROM event AS child INDEXED BY event_in_thread
             WHERE child.rel_type = 'm.thread' AND child.position <= ?3 AND child.parent IS NOT NULL AND {}
             ORDER BY child.position DESC LIMIT ?4",
            is_visible("later"),
            is_visible("child")
        ),
        &[visible.stretches.as_str().into(), visible.ignored.as_str().into(), up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok(Threaded { position: row.unsigned(0)?, root: row.text(1)?, is_latest: row.unsigned(2)? == 1 }))
    .collect()
}

/// Whether a user annotated an event with this key, by an event of this type that was not redacted since.
pub(crate) fn is_annotated(
    sql: &dyn Sql,
    event_id: &EventId,
    sender: &UserId,
    event_type: &str,
    key: &str,
) -> Result<bool, Fault> {
    let rows = sql.query(
        "SELECT 1 FROM event WHERE parent = ?1 AND rel_type = 'm.annotation' AND position >= ?2
         AND sender = ?3 AND type = ?4 AND json_extract(json, '$.content.\"m.relates_to\".key') = ?5 LIMIT 1",
        &[
            event_id.as_str().into(),
            super::graph::LOG_START.into(),
            sender.as_str().into(),
            event_type.into(),
            key.into(),
        ],
    )?;
    Ok(!rows.is_empty())
}
