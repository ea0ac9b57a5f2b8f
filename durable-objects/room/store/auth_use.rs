//! Which events are in the auth chain of the log's state at one position, and how many of the state, and of the chain,
//! name each.

use std::collections::BTreeMap;

use platform::{Fault, Sql, Tx};
use ruma_common::OwnedEventId;

use super::{
    graph::{Key, event_id, slices},
    meta,
};

/// The position; `None` before they are kept.
pub(crate) fn position(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    let text = meta::text(sql, "auth_use")?;
    text.map(|text| text.parse().map_err(|_| Fault::new("a position is no number"))).transpose()
}

/// How many name each of these events; those that nobody names are left out.
pub(crate) fn of(sql: &dyn Sql, events: &[&OwnedEventId]) -> Result<BTreeMap<OwnedEventId, u64>, Fault> {
    let mut uses = BTreeMap::new();
    for slice in slices(events) {
        let rows = sql.query(
            "SELECT event_id, uses FROM auth_use WHERE event_id IN (SELECT value FROM json_each(?1))",
            &[slice?],
        )?;
        for mut row in rows {
            uses.insert(event_id(&row.text(0)?)?, row.unsigned(1)?);
        }
    }
    Ok(uses)
}

/// Up to `limit` keys whose state changed in `(after, up_to]`.
pub(crate) fn changed_keys(sql: &dyn Sql, after: u64, up_to: u64, limit: usize) -> Result<Vec<Key>, Fault> {
    sql.query(
        "SELECT DISTINCT type, state_key FROM state_change INDEXED BY state_change_position
         WHERE position > ?1 AND position <= ?2 LIMIT ?3",
        &[after.into(), up_to.into(), (limit as u64).into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.text(1)?)))
    .collect()
}

/// These events are named so often now, and the state is that at `position`.
pub(crate) fn set(tx: &Tx<'_>, uses: &[(&OwnedEventId, u64)], position: u64) -> Result<(), Fault> {
    if !uses.is_empty() {
        let uses = serde_json::to_string(uses)?;
        tx.execute(
            "INSERT INTO auth_use (event_id, uses)
             SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1) WHERE true
             ON CONFLICT (event_id) DO UPDATE SET uses = excluded.uses",
            &[uses.as_str().into()],
        )?;
        tx.execute(
            "DELETE FROM auth_use WHERE uses = 0
             AND event_id IN (SELECT json_extract(value, '$[0]') FROM json_each(?1))",
            &[uses.as_str().into()],
        )?;
    }
    meta::set(tx, "auth_use", position.to_string().into())
}

/// Counts them anew, from the current state: it goes through all of that in the database.
pub(crate) fn count(tx: &Tx<'_>, position: u64) -> Result<(), Fault> {
    const REFERENCES: &str = "json_each(event.json, '$.auth_events') AS reference";
    const ID: &str =
        "CASE reference.type WHEN 'array' THEN json_extract(reference.value, '$[0]') ELSE reference.value END";
    tx.execute("DELETE FROM auth_use", &[])?;
    tx.execute(
        &format!(
            "INSERT INTO auth_use (event_id, uses)
             WITH RECURSIVE
             named (id) AS NOT MATERIALIZED
              (SELECT {ID} FROM state JOIN event ON event.position = state.position, {REFERENCES}),
             chain (id) AS
              (SELECT id FROM named UNION SELECT {ID} FROM chain JOIN event ON event_id = chain.id, {REFERENCES})
             SELECT id, count(*) FROM
              (SELECT id FROM named
               UNION ALL SELECT {ID} FROM chain JOIN event ON event_id = chain.id, {REFERENCES})
             GROUP BY id"
        ),
        &[],
    )?;
    set(tx, &[], position)
}
