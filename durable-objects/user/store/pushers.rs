//! Where the user's notifications are sent, and how far that got.

use domain::push::{Pusher, PusherKind};
use platform::{Fault, Row, Sql, Tx, Value};
use ruma_common::{DeviceId, EventId};

use super::stream::{self, Gone};
use crate::user::CLOCKS_APART_MS;

/// A pusher as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub id: u64,
    pub device_id: String,
    /// When its key was set last, in milliseconds since the Unix epoch.
    pub changed_ms: u64,
    pub pusher: Pusher,
    /// The number of the last room that was asked what is unread there; `None`: all were.
    pub asked_to: Option<u64>,
    pub failures: u32,
    pub not_before_ms: u64,
}

/// What a pusher was told is unread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Badge {
    pub unread: u64,
    pub missed_calls: u64,
}

/// A room of which a pusher is to be told.
#[derive(Debug, Clone)]
pub(crate) struct Owed {
    pub number: u64,
    pub room_id: String,
    pub membership: String,
    pub owed: u64,
    pub told: u64,
    pub badge: Badge,
    pub invitation: Option<String>,
}

const PUSHER: &str =
    "SELECT id, device_id, changed_ms, pusher, coalesce(asked_to, mail_asked_to), failures, not_before_ms FROM pusher";

fn stored(mut row: Row) -> Result<Stored, Fault> {
    Ok(Stored {
        id: row.unsigned(0)?,
        device_id: row.text(1)?,
        changed_ms: row.unsigned(2)?,
        pusher: serde_json::from_str(&row.text(3)?)?,
        asked_to: row.unsigned_or_null(4)?,
        failures: u32::try_from(row.unsigned(5)?).unwrap_or(u32::MAX),
        not_before_ms: row.unsigned(6)?,
    })
}

/// Those that are sent anything.
const ENABLED: &str = "json_extract(pusher.pusher, '$.enabled') IS NOT 0";

/// All of them, the oldest first.
pub(crate) fn all(sql: &dyn Sql) -> Result<Vec<Stored>, Fault> {
    sql.query(&format!("{PUSHER} ORDER BY id"), &[])?.into_iter().map(stored).collect()
}

/// Whether there is any that is sent anything.
pub(crate) fn is_any(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query(&format!("SELECT 1 FROM pusher WHERE {ENABLED} LIMIT 1"), &[])?.is_empty())
}

/// Whether there is any of these that sends mail.
pub(crate) fn is_any_email(sql: &dyn Sql) -> Result<bool, Fault> {
    let of_mail = format!("SELECT 1 FROM pusher WHERE json_extract(pusher, '$.kind') = 'email' AND {ENABLED} LIMIT 1");
    let rows = sql.query(&of_mail, &[])?;
    Ok(!rows.is_empty())
}

/// Those that send mail and are owed nothing yet send none before this, in milliseconds since the Unix epoch.
pub(crate) fn delay_emails(tx: &Tx<'_>, not_before_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE pusher SET not_before_ms = ?1
         WHERE json_extract(pusher, '$.kind') = 'email' AND not_before_ms < ?1
             AND NOT EXISTS (SELECT 1 FROM pushed WHERE pushed.pusher = pusher.id AND owed > told)",
        &[not_before_ms.into()],
    )?;
    Ok(())
}

/// A pusher rests until then, in milliseconds since the Unix epoch.
pub(crate) fn rests(tx: &Tx<'_>, pusher: u64, not_before_ms: u64) -> Result<(), Fault> {
    tx.execute("UPDATE pusher SET not_before_ms = ?2 WHERE id = ?1", &[pusher.into(), not_before_ms.into()])?;
    Ok(())
}

/// Adds a pusher, whose id is a new position of the user's stream, and which asks every room once.
pub(crate) fn insert(
    tx: &Tx<'_>,
    id: u64,
    device_id: &DeviceId,
    pusher: &Pusher,
    changed_ms: u64,
    not_before_ms: u64,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO pusher (id, device_id, app_id, pushkey, changed_ms, pusher, not_before_ms, asked_to, mail_asked_to)
         VALUES (?1, ?2, ?3, ?4, ?6, ?5, ?7, iif(?8, NULL, 0), iif(?8, 0, NULL))",
        &[
            id.into(),
            device_id.as_str().into(),
            pusher.app_id.as_str().into(),
            pusher.pushkey.as_str().into(),
            serde_json::to_string(pusher)?.into(),
            changed_ms.into(),
            not_before_ms.into(),
            u64::from(pusher.kind == PusherKind::Email).into(),
        ],
    )?;
    Ok(())
}

/// Changes a pusher, which is tried at once, however often it failed before.
pub(crate) fn update(tx: &Tx<'_>, id: u64, device_id: &DeviceId, pusher: &Pusher, now_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE pusher SET device_id = ?2, changed_ms = ?3, pusher = ?4, failures = 0, not_before_ms = 0 WHERE id = ?1",
        &[id.into(), device_id.as_str().into(), now_ms.into(), serde_json::to_string(pusher)?.into()],
    )?;
    Ok(())
}

/// Removes the pusher with this key, if there is one.
pub(crate) fn remove(tx: &Tx<'_>, app_id: &str, pushkey: &str) -> Result<Gone, Fault> {
    remove_those(tx, "app_id = ?1 AND pushkey = ?2", &[app_id.into(), pushkey.into()])
}

/// Removes the pushers that a device made.
pub(crate) fn remove_of_device(tx: &Tx<'_>, device_id: &DeviceId) -> Result<Gone, Fault> {
    remove_those(tx, "device_id = ?1", &[device_id.as_str().into()])
}

fn remove_those(tx: &Tx<'_>, which: &str, params: &[Value]) -> Result<Gone, Fault> {
    let gone = stream::delete(tx, "pusher", "id", which, params)?;
    for id in &gone.0 {
        tx.execute("DELETE FROM pushed WHERE pusher = ?1", &[(*id).into()])?;
    }
    Ok(gone)
}

/// Owes every pusher that is sent anything what is in a room up to a position, and answers whether that was news.
pub(crate) fn owe(tx: &Tx<'_>, room: u64, position: u64, invitation: Option<&EventId>) -> Result<bool, Fault> {
    let rows = tx.execute(
        &format!(
            "INSERT INTO pushed (pusher, room, owed, told, unread, missed_calls, invitation)
             SELECT id, ?1, ?2, id - ?4, 0, 0, ?3 FROM pusher WHERE id - ?4 < ?2 AND {ENABLED}
             ON CONFLICT (pusher, room) DO UPDATE SET owed = excluded.owed, invitation = excluded.invitation
             WHERE excluded.owed > max(pushed.told, pushed.owed) RETURNING 1"
        ),
        &[room.into(), position.into(), invitation.map(EventId::as_str).into(), CLOCKS_APART_MS.into()],
    )?;
    Ok(!rows.is_empty())
}

/// As [`owe`], for a room that the user is no longer in: only those pushers that were told of it.
pub(crate) fn owe_end(tx: &Tx<'_>, room: u64, position: u64) -> Result<bool, Fault> {
    let rows = tx.execute(
        "UPDATE pushed SET owed = max(owed, ?2), invitation = NULL
         WHERE pusher IN (SELECT id FROM pusher) AND room = ?1 RETURNING 1",
        &[room.into(), position.into()],
    )?;
    Ok(!rows.is_empty())
}

/// When the first of the pushers that are owed anything may be tried, in milliseconds since the Unix epoch.
pub(crate) fn next_ms(sql: &dyn Sql) -> Result<Option<u64>, Fault> {
    let rows = sql.query(
        &format!(
            "SELECT min(not_before_ms) FROM pusher WHERE {ENABLED} AND (coalesce(asked_to, mail_asked_to) IS NOT NULL
                 OR EXISTS (SELECT 1 FROM pushed WHERE pushed.pusher = pusher.id AND owed > told))"
        ),
        &[],
    )?;
    rows.into_iter().next().map_or(Ok(None), |mut row| row.unsigned_or_null(0))
}

/// Up to `limit` rooms of which a pusher is owed something, the longest waiting first.
pub(crate) fn owed(sql: &dyn Sql, pusher: u64, limit: u64) -> Result<Vec<Owed>, Fault> {
    rooms(sql.query(
        "SELECT number, room_id, membership, owed, pushed.told, unread, missed_calls, invitation
         FROM pushed JOIN room ON number = room
         WHERE pusher = ?1 AND owed > pushed.told ORDER BY owed LIMIT ?2",
        &[pusher.into(), limit.into()],
    )?)
}

/// Up to `limit` rooms the user is in with a number after `asked_to`, as far as a pusher was told of them.
pub(crate) fn unasked(sql: &dyn Sql, pusher: u64, asked_to: u64, limit: u64) -> Result<Vec<Owed>, Fault> {
    rooms(sql.query(
        "SELECT number, room_id, membership, coalesce(owed, ?4), coalesce(pushed.told, ?4), coalesce(unread, 0),
             coalesce(missed_calls, 0), NULL
         FROM room LEFT JOIN pushed ON pusher = ?1 AND room = number
         WHERE number > ?2 AND membership = 'join' ORDER BY number LIMIT ?3",
        &[pusher.into(), asked_to.into(), limit.into(), pusher.saturating_sub(CLOCKS_APART_MS).into()],
    )?)
}

fn rooms(rows: Vec<Row>) -> Result<Vec<Owed>, Fault> {
    rows.into_iter()
        .map(|mut row| {
            Ok(Owed {
                number: row.unsigned(0)?,
                room_id: row.text(1)?,
                membership: row.text(2)?,
                owed: row.unsigned(3)?,
                told: row.unsigned(4)?,
                badge: Badge { unread: row.unsigned(5)?, missed_calls: row.unsigned(6)? },
                invitation: row.text_or_null(7)?,
            })
        })
        .collect()
}

/// All that a pusher was told is unread.
pub(crate) fn badge(sql: &dyn Sql, pusher: u64) -> Result<Badge, Fault> {
    let rows = sql.query(
        "SELECT coalesce(sum(unread), 0), coalesce(sum(missed_calls), 0) FROM pushed WHERE pusher = ?1",
        &[pusher.into()],
    )?;
    rows.into_iter()
        .next()
        .map_or(Ok(Badge::default()), |mut row| Ok(Badge { unread: row.unsigned(0)?, missed_calls: row.unsigned(1)? }))
}

/// A pusher was told of a room up to a position, and what is unread there; nothing if it is gone.
pub(crate) fn tell(tx: &Tx<'_>, pusher: u64, room: u64, told: u64, badge: Badge) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO pushed (pusher, room, owed, told, unread, missed_calls)
         SELECT id, ?2, ?3, ?3, ?4, ?5 FROM pusher WHERE id = ?1
         ON CONFLICT (pusher, room) DO UPDATE SET told = max(told, excluded.told), unread = excluded.unread,
             missed_calls = excluded.missed_calls,
             invitation = CASE WHEN owed > excluded.told THEN invitation END",
        &[pusher.into(), room.into(), told.into(), badge.unread.into(), badge.missed_calls.into()],
    )?;
    Ok(())
}

/// Every room up to this one was asked; `None`: all.
pub(crate) fn asked(tx: &Tx<'_>, pusher: u64, asked_to: Option<u64>) -> Result<(), Fault> {
    tx.execute(
        "UPDATE pusher SET asked_to = iif(asked_to IS NULL, NULL, ?2),
             mail_asked_to = iif(mail_asked_to IS NULL, NULL, ?2) WHERE id = ?1",
        &[pusher.into(), asked_to.into()],
    )?;
    Ok(())
}

/// A gateway answers again; writes nothing where it did before.
pub(crate) fn clear_failures(tx: &Tx<'_>, pusher: u64) -> Result<(), Fault> {
    tx.execute("UPDATE pusher SET failures = 0, not_before_ms = 0 WHERE id = ?1 AND failures > 0", &[pusher.into()])?;
    Ok(())
}

/// How often a gateway failed in a row, and when it is tried again.
pub(crate) fn set_failures(tx: &Tx<'_>, pusher: u64, failures: u32, not_before_ms: u64) -> Result<(), Fault> {
    tx.execute(
        "UPDATE pusher SET failures = ?2, not_before_ms = ?3 WHERE id = ?1",
        &[pusher.into(), u64::from(failures).into(), not_before_ms.into()],
    )?;
    Ok(())
}
