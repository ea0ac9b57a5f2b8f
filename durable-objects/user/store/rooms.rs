//! The user's rooms, their moves, and spilled tokens.

use std::collections::HashSet;

use platform::{Fault, Row, Sql, Tx};
use ruma_common::{DeviceId, OwnedRoomId};

use super::stream::{self, Gone};
use crate::room::Facts;

/// The membership of a room that the user left and forgot: it is on no list.
pub(crate) const FORGOTTEN: &str = "forgotten";

/// A room as the user knows it.
#[derive(Debug, Clone)]
pub(crate) struct KnownRoom {
    pub number: u64,
    pub room_id: String,
    pub membership: String,
    pub effect: u64,
    pub changed: u64,
    pub told: u64,
    /// What the room said of itself; `None`: it did not yet.
    pub facts: Option<Facts>,
}

impl KnownRoom {
    /// Whether the user was in it, or asked for, and is out of it.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.membership.as_str(), "leave" | "ban" | FORGOTTEN)
    }
}

/// One row of the ring.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub slot: u64,
    pub position: u64,
    pub room: u64,
    pub after: u64,
    pub up_to: u64,
}

const ROOM: &str = "SELECT number, room_id, membership, effect, changed, told, facts FROM room";

fn room(mut row: Row) -> Result<KnownRoom, Fault> {
    Ok(KnownRoom {
        number: row.unsigned(0)?,
        room_id: row.text(1)?,
        membership: row.text(2)?,
        effect: row.unsigned(3)?,
        changed: row.unsigned(4)?,
        told: row.unsigned(5)?,
        facts: row.text_or_null(6)?.map(|facts| serde_json::from_str(&facts)).transpose()?,
    })
}

/// Keeps what a room said of itself.
pub(crate) fn keep_facts(tx: &Tx<'_>, room_id: &str, facts: &Facts) -> Result<(), Fault> {
    let facts = serde_json::to_string(facts)?;
    tx.execute("UPDATE room SET facts = ?2 WHERE room_id = ?1", &[room_id.into(), facts.into()])?;
    Ok(())
}

pub(crate) fn by_id(sql: &dyn Sql, room_id: &str) -> Result<Option<KnownRoom>, Fault> {
    sql.query(&format!("{ROOM} WHERE room_id = ?1"), &[room_id.into()])?.pop().map(room).transpose()
}

pub(crate) fn all(sql: &dyn Sql) -> Result<Vec<KnownRoom>, Fault> {
    sql.query(&format!("{ROOM} ORDER BY number"), &[])?.into_iter().map(room).collect()
}

/// The rooms with these numbers.
pub(crate) fn numbered(sql: &dyn Sql, numbers: &HashSet<u64>) -> Result<Vec<KnownRoom>, Fault> {
    let list = serde_json::to_string(numbers)?;
    sql.query(&format!("{ROOM} WHERE number IN (SELECT value FROM json_each(?1)) ORDER BY number"), &[list.into()])?
        .into_iter()
        .map(room)
        .collect()
}

pub(crate) fn with_membership(sql: &dyn Sql, membership: &str) -> Result<Vec<KnownRoom>, Fault> {
    sql.query(&format!("{ROOM} WHERE membership = ?1 ORDER BY number"), &[membership.into()])?
        .into_iter()
        .map(room)
        .collect()
}

/// How many rooms there are of this membership; of `limit` or more, `limit`.
pub(crate) fn count(sql: &dyn Sql, membership: &str, limit: u64) -> Result<u64, Fault> {
    let rows = sql.query(
        "SELECT count(*) FROM (SELECT 1 FROM room WHERE membership = ?1 LIMIT ?2)",
        &[membership.into(), limit.into()],
    )?;
    rows.into_iter().next().map_or(Ok(0), |mut row| row.unsigned(0))
}

/// Up to `limit` rooms the user is in with a number after `number`: number and id.
pub(crate) fn joined_after(sql: &dyn Sql, number: u64, limit: u64) -> Result<Vec<(u64, String)>, Fault> {
    sql.query(
        "SELECT number, room_id FROM room WHERE number > ?1 AND membership = 'join' ORDER BY number LIMIT ?2",
        &[number.into(), limit.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.text(1)?)))
    .collect()
}

/// The rooms the user is in, or was and did not forget: number, the position that is known of the room beside the
/// moves, and id. `only`: of these alone.
pub(crate) fn seen(sql: &dyn Sql, only: Option<&[OwnedRoomId]>) -> Result<Vec<(u64, u64, String)>, Fault> {
    sql.query(
        "SELECT number, max(effect, told), room_id FROM room WHERE membership IN ('join', 'leave', 'ban')
         AND (?1 IS NULL OR room_id IN (SELECT value FROM json_each(?1))) ORDER BY number",
        &[only.map(serde_json::to_string).transpose()?.as_deref().into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.unsigned(0)?, row.unsigned(1)?, row.text(2)?)))
    .collect()
}

/// Whether the user is in one of these rooms.
pub(crate) fn is_in_any(sql: &dyn Sql, rooms: &[OwnedRoomId]) -> Result<bool, Fault> {
    let rooms = sql.query(
        "SELECT 1 FROM room WHERE room_id IN (SELECT value FROM json_each(?1)) AND membership = 'join' LIMIT 1",
        &[serde_json::to_string(rooms)?.into()],
    )?;
    Ok(!rooms.is_empty())
}

/// Those of these rooms that the user is in.
pub(crate) fn joined_among(sql: &dyn Sql, rooms: &[OwnedRoomId]) -> Result<Vec<String>, Fault> {
    sql.query(
        "SELECT room_id FROM room WHERE room_id IN (SELECT value FROM json_each(?1)) AND membership = 'join'
         ORDER BY room_id",
        &[serde_json::to_string(rooms)?.into()],
    )?
    .into_iter()
    .map(|mut row| row.text(0))
    .collect()
}

/// A room that the user is invited to.
#[derive(Debug)]
pub(crate) struct InvitedRoom {
    pub room_id: String,
    pub effect: u64,
    /// The invitation, where another server told of it.
    pub asked: Option<String>,
}

pub(crate) fn invited(sql: &dyn Sql) -> Result<Vec<InvitedRoom>, Fault> {
    sql.query("SELECT room_id, effect, asked FROM room WHERE membership = 'invite' ORDER BY number", &[])?
        .into_iter()
        .map(|mut row| Ok(InvitedRoom { room_id: row.text(0)?, effect: row.unsigned(1)?, asked: row.text_or_null(2)? }))
        .collect()
}

/// The stripped state of a room of which the user has this membership.
pub(crate) fn stripped_state(sql: &dyn Sql, room_id: &str, membership: &str) -> Result<Option<String>, Fault> {
    let rows = sql.query(
        "SELECT stripped_state FROM room WHERE room_id = ?1 AND membership = ?2",
        &[room_id.into(), membership.into()],
    )?;
    rows.into_iter().next().map_or(Ok(None), |mut row| row.text_or_null(0))
}

/// Invitations or knocks that became so after `changed`, with their stripped state as a JSON array.
pub(crate) fn stripped_since(sql: &dyn Sql, membership: &str, changed: u64) -> Result<Vec<(String, String)>, Fault> {
    sql.query(
        "SELECT room_id, coalesce(stripped_state, '[]') FROM room WHERE membership = ?1 AND changed > ?2
         ORDER BY number",
        &[membership.into(), changed.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.text(1)?)))
    .collect()
}

/// Keeps a room, new or changed, and answers its number.
pub(crate) fn put(
    tx: &Tx<'_>,
    room_id: &str,
    membership: &str,
    effect: u64,
    changed: u64,
    stripped_state: Option<String>,
) -> Result<u64, Fault> {
    let mut rows = tx.execute(
        "INSERT INTO room (room_id, membership, effect, changed, told, stripped_state) VALUES (?1, ?2, ?3, ?4, 0, ?5)
         ON CONFLICT (room_id) DO UPDATE SET membership = excluded.membership, effect = excluded.effect,
             changed = excluded.changed, stripped_state = excluded.stripped_state
         RETURNING number",
        &[room_id.into(), membership.into(), effect.into(), changed.into(), stripped_state.into()],
    )?;
    rows.pop().ok_or_else(|| Fault::new("the room list took no row"))?.unsigned(0)
}

/// What other servers told of a room.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// When the last of it came, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The invitation, or the knock, that stands.
    pub asked: Option<String>,
    /// Through which server the user knocked.
    pub resident: Option<String>,
    /// The version that the room has.
    pub room_version: Option<String>,
    /// The position of what the room itself decided last; `None` where an earlier release heard of it.
    pub decided: Option<u64>,
}

pub(crate) fn heard(sql: &dyn Sql, room_id: &str) -> Result<Option<Heard>, Fault> {
    let rows = sql.query(
        "SELECT heard_ms, asked, resident, asked_version, decided FROM room
         WHERE room_id = ?1 AND heard_ms IS NOT NULL",
        &[room_id.into()],
    )?;
    rows.into_iter()
        .next()
        .map(|mut row| {
            Ok(Heard {
                at_ms: row.unsigned(0)?,
                asked: row.text_or_null(1)?,
                resident: row.text_or_null(2)?,
                room_version: row.text_or_null(3)?,
                decided: row.unsigned_or_null(4)?,
            })
        })
        .transpose()
}

pub(crate) fn keep_heard(tx: &Tx<'_>, room_id: &str, heard: &Heard) -> Result<(), Fault> {
    tx.execute(
        "UPDATE room SET heard_ms = ?2, asked = ?3, resident = ?4, asked_version = ?5, decided = ?6 WHERE room_id = ?1",
        &[
            room_id.into(),
            heard.at_ms.into(),
            heard.asked.as_deref().into(),
            heard.resident.as_deref().into(),
            heard.room_version.as_deref().into(),
            heard.decided.into(),
        ],
    )?;
    Ok(())
}

/// Remembers what the last move of a room told, when the ring forgets that move.
pub(crate) fn keep_told(tx: &Tx<'_>, room: u64, told: u64) -> Result<(), Fault> {
    tx.execute("UPDATE room SET told = ?2 WHERE number = ?1", &[room.into(), told.into()])?;
    Ok(())
}

pub(crate) fn moves(sql: &dyn Sql) -> Result<Vec<Move>, Fault> {
    sql.query("SELECT slot, position, room, after, up_to FROM move ORDER BY position", &[])?
        .into_iter()
        .map(|mut row| {
            Ok(Move {
                slot: row.unsigned(0)?,
                position: row.unsigned(1)?,
                room: row.unsigned(2)?,
                after: row.unsigned(3)?,
                up_to: row.unsigned(4)?,
            })
        })
        .collect()
}

pub(crate) fn put_move(tx: &Tx<'_>, moved: &Move) -> Result<(), Fault> {
    tx.execute(
        "INSERT OR REPLACE INTO move (slot, position, room, after, up_to) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[moved.slot.into(), moved.position.into(), moved.room.into(), moved.after.into(), moved.up_to.into()],
    )?;
    Ok(())
}

/// Spilled tokens kept of each device: the one it is about to use, and some that it may come back to.
const SPILLS_OF_DEVICE_MAX: u64 = if cfg!(test) { 2 } else { 4 };

/// Keeps a token's exceptions in a row whose number is a new position of the user's stream.
pub(crate) fn spill(tx: &Tx<'_>, row: u64, device: &DeviceId, rooms: &str) -> Result<(), Fault> {
    tx.execute(
        "DELETE FROM spill WHERE row IN
         (SELECT row FROM spill WHERE device = ?1 ORDER BY row DESC LIMIT -1 OFFSET ?2)",
        &[device.as_str().into(), SPILLS_OF_DEVICE_MAX.saturating_sub(1).into()],
    )?;
    tx.execute(
        "INSERT INTO spill (row, device, rooms) VALUES (?1, ?2, ?3)",
        &[row.into(), device.as_str().into(), rooms.into()],
    )?;
    Ok(())
}

/// The exceptions of a spilled token, unless its device has spilled many since.
pub(crate) fn spilled(sql: &dyn Sql, row: u64) -> Result<Option<String>, Fault> {
    sql.query("SELECT rooms FROM spill WHERE row = ?1", &[row.into()])?.pop().map(|mut row| row.text(0)).transpose()
}

/// Forgets what a device's tokens spilled.
pub(crate) fn forget_spilled(tx: &Tx<'_>, device: &DeviceId) -> Result<Gone, Fault> {
    stream::delete(tx, "spill", "row", "device = ?1", &[device.as_str().into()])
}
