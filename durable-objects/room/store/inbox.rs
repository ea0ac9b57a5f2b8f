//! Events that wait for what they build on.

use platform::{Fault, Sql, Tx};
use ruma_common::{EventId, ServerName};

use super::graph;
use crate::room::{CheckedEvent, Waiting};

/// Keeps an event, unless it waits already, or `of_origin_max` of its origin or `max` in all do. Answers whether it
/// waits.
pub(crate) fn put(
    tx: &Tx<'_>,
    event: &CheckedEvent,
    origin: &str,
    of_origin_max: u64,
    max: u64,
) -> Result<bool, Fault> {
    tx.execute(
        "INSERT INTO inbox (number, event_id, origin, json)
         SELECT (SELECT coalesce(max(number), 0) + 1 FROM inbox), ?1, ?2, ?3
         WHERE (SELECT count(*) FROM inbox WHERE origin = ?2) < ?4 AND (SELECT count(*) FROM inbox) < ?5
         ON CONFLICT (event_id) DO NOTHING",
        &[event.event_id.as_str().into(), origin.into(), event.json.as_str().into(), of_origin_max.into(), max.into()],
    )?;
    Ok(!tx.query("SELECT 1 FROM inbox WHERE event_id = ?1", &[event.event_id.as_str().into()])?.is_empty())
}

/// Where `max` or more wait, one of a server that is not in the room, the last that came, gives its place up.
pub(crate) fn make_room(tx: &Tx<'_>, own: &ServerName, max: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM inbox WHERE number =
         (SELECT max(number) FROM inbox WHERE origin NOT IN (SELECT name FROM server WHERE joined > 0) AND origin <> ?2)
         AND (SELECT count(*) FROM inbox) >= ?1",
        &[max.into(), own.as_str().into()],
    )?;
    Ok(())
}

/// Whose events wait.
pub(crate) fn origins(sql: &dyn Sql) -> Result<Vec<String>, Fault> {
    let rows = sql.query("SELECT DISTINCT origin FROM inbox ORDER BY origin", &[])?;
    rows.into_iter().map(|mut row| row.text(0)).collect()
}

/// Of a server's events only the first `max` wait any longer.
pub(crate) fn keep_first(tx: &Tx<'_>, origin: &str, max: u64) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM inbox WHERE origin = ?1 AND number NOT IN
         (SELECT number FROM inbox WHERE origin = ?1 ORDER BY number LIMIT ?2)",
        &[origin.into(), max.into()],
    )?;
    Ok(())
}

/// Nothing waits any longer.
pub(crate) fn clear(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("DELETE FROM inbox", &[])?;
    Ok(())
}

/// Up to `limit` of those that were tried up to `attempts_max` times, those first that were tried least. Servers take
/// turns, those in the room before others, and of one's events those go first that came first. Those that are not our
/// own are given up after `given_up_after` attempts.
pub(crate) fn next(
    sql: &dyn Sql,
    own: &ServerName,
    (attempts_max, given_up_after): (u64, u64),
    limit: u64,
) -> Result<Vec<Waiting>, Fault> {
    sql.query(
        "SELECT event_id, origin, json, attempts + 1 >= ?3 AND origin <> ?4 FROM
         (SELECT event_id, origin, json, attempts, number,
           row_number() OVER (PARTITION BY origin, attempts ORDER BY number) AS turn,
           origin IN (SELECT name FROM server WHERE joined > 0) AS is_joined FROM inbox WHERE attempts <= ?1)
         ORDER BY attempts, turn, is_joined DESC, number LIMIT ?2",
        &[attempts_max.into(), limit.into(), given_up_after.into(), own.as_str().into()],
    )?
    .into_iter()
    .map(|mut row| {
        let event_id = graph::event_id(&row.text(0)?)?;
        let origin = row.text(1)?.try_into().map_err(|_| Fault::new("a server has a name that is none"))?;
        let (event, is_last_try) = (CheckedEvent { event_id, json: row.text(2)? }, row.unsigned(3)? != 0);
        Ok(Waiting { origin, event, is_last_try })
    })
    .collect()
}

/// An event waits no longer.
pub(crate) fn forget(tx: &Tx<'_>, event_id: &EventId) -> Result<(), Fault> {
    tx.execute("DELETE FROM inbox WHERE event_id = ?1", &[event_id.as_str().into()])?;
    Ok(())
}

/// What an event needs is asked for once more. Of our own no more than `attempts_max` less one times are counted.
pub(crate) fn tried(tx: &Tx<'_>, event_id: &EventId, own: &ServerName, attempts_max: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE inbox SET attempts = CASE WHEN origin = ?3 THEN min(attempts + 1, ?2 - 1) ELSE attempts + 1 END
         WHERE event_id = ?1",
        &[event_id.as_str().into(), attempts_max.into(), own.as_str().into()],
    )?;
    Ok(())
}

/// What was tried `attempts_max` times waits no longer, unless it is our own.
pub(crate) fn give_up(tx: &Tx<'_>, own: &ServerName, attempts_max: u64) -> Result<(), Fault> {
    tx.execute("DELETE FROM inbox WHERE attempts >= ?1 AND origin <> ?2", &[attempts_max.into(), own.as_str().into()])?;
    Ok(())
}

/// The fewest times that one of them was tried.
pub(crate) fn fewest_attempts(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    let row = sql.query("SELECT min(attempts) FROM inbox", &[])?.pop();
    row.map_or(Ok(None), |mut row| row.unsigned_or_null(0))
}
