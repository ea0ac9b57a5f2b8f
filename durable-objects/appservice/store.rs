//! All of the Appservice's SQL.

use platform::{Fault, Sql, Tx};

pub(super) use crate::told_rooms::{fact, forget_fact, set_fact};

/// Up to which of the queued events the service had all, when it had any last.
pub(super) fn had_events(sql: &dyn Sql) -> Result<u64, Fault> {
    let up_to = fact(sql, "had_events")?.map(|up_to| up_to.parse());
    up_to.transpose().map_err(|_| Fault::new("a queue has a position that is none")).map(Option::unwrap_or_default)
}

/// Queues an event after all that were ever queued, unless `waiting_max` wait. Answers whether that was news.
pub(super) fn put_event(tx: &Tx<'_>, event_id: &str, json: &str, waiting_max: u64) -> Result<bool, Fault> {
    let rows = tx.execute(
        "INSERT INTO event (event_id, position, json)
         SELECT ?1, max(coalesce(max(position), 0), ?4) + 1, ?2 FROM event HAVING count(*) < ?3
         ON CONFLICT (event_id) DO NOTHING RETURNING 1",
        &[event_id.into(), json.into(), waiting_max.into(), had_events(&**tx)?.into()],
    )?;
    Ok(!rows.is_empty())
}

/// Up to `limit` queued events up to a position, the oldest first.
pub(super) fn events(sql: &dyn Sql, up_to: u64, limit: u64) -> Result<Vec<(u64, String)>, Fault> {
    sql.query(
        "SELECT position, json FROM event WHERE position <= ?1 ORDER BY position LIMIT ?2",
        &[up_to.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text(1)?)))
    .collect()
}

/// Whether any event is queued.
pub(super) fn is_any_event(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM event LIMIT 1", &[])?.is_empty())
}

/// The service has the queued events up to a position.
pub(super) fn forget_events(tx: &Tx<'_>, up_to: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM event WHERE position <= ?1", &[up_to.into()])?;
    set_fact(tx, "had_events", &up_to.to_string())
}
