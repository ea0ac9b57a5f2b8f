//! What comes with joins, until it is judged: it shows nowhere.

use platform::{Fault, Sql, Tx};
use ruma_common::OwnedEventId;

use super::graph;

/// How many joins may be under way at the same time.
pub(crate) const SLOTS: u64 = 16;
/// A number is the slot, the depth as it is claimed, and a count: so many bits each.
const DEPTH_BITS: u32 = 28;
const COUNT_BITS: u32 = 21;
/// The most events that come with one join.
pub(crate) const EVENTS_MAX: u64 = 1 << COUNT_BITS;

/// An event on its way.
pub(crate) struct Staged {
    pub number: u64,
    pub event_id: OwnedEventId,
    pub is_state: bool,
    pub json: String,
}

/// Where an event stands among those of its slot: after those it may be judged by.
pub(crate) fn number(slot: u64, depth: u64, count: u64) -> u64 {
    let depth = depth.min((1 << DEPTH_BITS) - 1);
    (((slot << DEPTH_BITS) | depth) << COUNT_BITS) | count.min(EVENTS_MAX - 1)
}

fn span(slot: u64) -> (u64, u64) {
    (number(slot, 0, 0), number(slot, u64::MAX, u64::MAX))
}

/// Stores events; `rows` is a JSON list of `[number, event id, whether it is of the state, event]`.
pub(crate) fn insert(tx: &Tx<'_>, rows: String) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO stage (number, event_id, is_state, json)
         SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
          json_extract(value, '$[3]') FROM json_each(?1) WHERE true ON CONFLICT (number) DO NOTHING",
        &[rows.into()],
    )?;
    Ok(())
}

/// Up to `limit` events of a slot behind a number that are not held yet.
pub(crate) fn ahead(sql: &dyn Sql, slot: u64, after: u64, limit: u64) -> Result<Vec<Staged>, Fault> {
    let (start, end) = span(slot);
    sql.query(
        "SELECT number, event_id, is_state, json FROM stage WHERE number > ?1 AND number <= ?2
         AND NOT EXISTS (SELECT 1 FROM event WHERE event.event_id = stage.event_id) ORDER BY number LIMIT ?3",
        &[after.max(start.saturating_sub(1)).into(), end.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| {
        let event_id = graph::event_id(&row.text(1)?)?;
        Ok(Staged { number: row.unsigned(0)?, event_id, is_state: row.flag(2)?, json: row.text(3)? })
    })
    .collect()
}

/// The state of a slot, by ids, as far as it is held.
pub(crate) fn state(sql: &dyn Sql, slot: u64) -> Result<Vec<OwnedEventId>, Fault> {
    let (start, end) = span(slot);
    sql.query(
        "SELECT event_id FROM stage WHERE number BETWEEN ?1 AND ?2 AND is_state
         AND EXISTS (SELECT 1 FROM event WHERE event.event_id = stage.event_id) ORDER BY number",
        &[start.into(), end.into()],
    )?
    .into_iter()
    .map(|mut row| graph::event_id(&row.text(0)?))
    .collect()
}

/// Forgets what is in a slot.
pub(crate) fn clear(tx: &Tx<'_>, slot: u64) -> Result<(), Fault> {
    let (start, end) = span(slot);
    tx.execute("DELETE FROM stage WHERE number BETWEEN ?1 AND ?2", &[start.into(), end.into()])?;
    Ok(())
}

/// Makes held events the state, from `since` on. `entries` is a JSON list of `[type, state key, event id or null]`.
pub(crate) fn set_state(tx: &Tx<'_>, entries: &str, since: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO state_change (type, state_key, position, before, after)
         SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), ?2,
          (SELECT nullif(position, 0) FROM state
           WHERE state.type = json_extract(value, '$[0]') AND state_key = json_extract(value, '$[1]')),
          (SELECT position FROM event WHERE event_id = json_extract(value, '$[2]')) FROM json_each(?1)",
        &[entries.into(), since.into()],
    )?;
    tx.execute(
        "INSERT INTO state (type, state_key, position)
         SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
          coalesce((SELECT position FROM event WHERE event_id = json_extract(value, '$[2]')), 0)
         FROM json_each(?1) WHERE true
         ON CONFLICT (type, state_key) DO UPDATE SET position = excluded.position",
        &[entries.into()],
    )?;
    Ok(())
}

/// Notes the memberships that such entries make, of users of other servers.
pub(crate) fn set_members(tx: &Tx<'_>, entries: &str, position: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO member (user_id, membership, position)
         SELECT json_extract(value, '$[1]'), coalesce(
          (SELECT CASE json_type(json, '$.content.membership') WHEN 'text' THEN json_extract(json, '$.content.membership') END
           FROM event WHERE event_id = json_extract(value, '$[2]')), 'leave'), ?2
         FROM json_each(?1) WHERE json_extract(value, '$[0]') = 'm.room.member'
         ON CONFLICT (user_id) DO UPDATE SET membership = excluded.membership, position = excluded.position",
        &[entries.into(), position.into()],
    )?;
    Ok(())
}

/// Counts anew how many members each other server has, as of `position`.
pub(crate) fn count_servers(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    const JOINED: &str = "SELECT substr(user_id, instr(user_id, ':') + 1) AS name, count(*) AS joined FROM member
         WHERE membership = 'join' AND follower IS NULL GROUP BY 1";
    tx.execute(
        &format!(
            "UPDATE server SET joined = 0, until = ?1 WHERE joined > 0 AND name NOT IN (SELECT name FROM ({JOINED}))"
        ),
        &[position.into()],
    )?;
    tx.execute(
        &format!(
            "INSERT INTO server (name, joined, since, is_known) SELECT name, joined, ?1, 0 FROM ({JOINED}) WHERE true
             ON CONFLICT (name) DO UPDATE SET since = CASE server.joined WHEN 0 THEN excluded.since ELSE since END,
             is_known = is_known AND server.joined > 0, joined = excluded.joined, until = NULL"
        ),
        &[position.into()],
    )?;
    Ok(())
}
