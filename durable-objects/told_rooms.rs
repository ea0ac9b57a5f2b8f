//! How far somebody is told of rooms, and small facts about that: the tables `room` and `meta`, which a Destination and
//! an Appservice have alike.
//!
//! Whenever something happens in a room it is asked what is owed, and that must not cost more where there are many
//! rooms. An index of what is owed would be one more written row for each message and server; so it is in memory, read
//! once by an actor that wakes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use platform::{Fault, Row, Sql, Tx};

/// Rooms in memory of which something is owed. Where there are more, they are looked for each time.
const OWED_MAX: u64 = if cfg!(test) { 3 } else { 1_000 };
/// Rooms in memory in which something happened last.
const NEWEST_MAX: u64 = if cfg!(test) { 3 } else { 100 };

/// A room, and how far they are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub room_id: String,
    pub sent: u64,
    pub owed: u64,
}

/// What they have of a room that something new is in, and up to where there is nothing else for them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Has {
    /// All of it: they came then, and got what was before.
    Everything(u64),
    /// What they are told, and nothing else: what they are owed still, they are.
    WhatItWasTold(u64),
}

pub(crate) fn fact(sql: &dyn Sql, key: &str) -> Result<Option<String>, Fault> {
    let row = sql.query("SELECT value FROM meta WHERE key = ?1", &[key.into()])?.pop();
    row.map(|mut row| row.text(0)).transpose()
}

pub(crate) fn set_fact(tx: &Tx<'_>, key: &str, value: &str) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        &[key.into(), value.into()],
    )?;
    Ok(())
}

pub(crate) fn forget_fact(tx: &Tx<'_>, key: &str) -> Result<(), Fault> {
    tx.execute("DELETE FROM meta WHERE key = ?1", &[key.into()])?;
    Ok(())
}

fn cursor(mut row: Row) -> Result<Cursor, Fault> {
    Ok(Cursor { room_id: row.text(0)?, sent: row.unsigned(1)?, owed: row.unsigned(2)? })
}

/// The rooms, with what of them is in memory.
#[derive(Default)]
pub(crate) struct ToldRooms {
    /// Of which something is owed: how far it was told, and up to where there is something.
    owed: RefCell<Option<BTreeMap<String, (u64, u64)>>>,
    /// In which something happened last: up to where there was something.
    newest: RefCell<Option<BTreeSet<(u64, String)>>>,
}

impl ToldRooms {
    /// Notes that there is something in a room up to `to`. Answers whether that was news.
    pub(crate) fn owe(&self, tx: &Tx<'_>, room_id: &str, has: Has, to: u64) -> Result<bool, Fault> {
        let (since, has_everything) = match has {
            Has::Everything(since) => (since, true),
            Has::WhatItWasTold(since) => (since, false),
        };
        let before = self.newest.borrow().is_some().then(|| one(&**tx, room_id)).transpose()?.flatten();
        let rows = tx.execute(
            "INSERT INTO room (room_id, sent, owed) VALUES (?1, ?2, ?3)
             ON CONFLICT (room_id) DO UPDATE SET owed = excluded.owed,
                 sent = CASE WHEN ?4 OR sent = owed THEN max(sent, excluded.sent) ELSE sent END
             WHERE excluded.owed > room.owed RETURNING room_id, sent, owed",
            &[room_id.into(), since.into(), to.into(), u64::from(has_everything).into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok(false) };
        let now = cursor(row)?;
        self.is_newest(before, &now);
        self.moves(now);
        Ok(true)
    }

    /// They have everything of a room up to `to`.
    pub(crate) fn sent(&self, tx: &Tx<'_>, room_id: &str, to: u64) -> Result<(), Fault> {
        let rows = tx.execute(
            "UPDATE room SET sent = ?2 WHERE room_id = ?1 AND sent < ?2 RETURNING room_id, sent, owed",
            &[room_id.into(), to.into()],
        )?;
        rows.into_iter().try_for_each(|row| {
            self.moves(cursor(row)?);
            Ok(())
        })
    }

    /// Up to `limit` rooms of which they are owed something, the longest waiting first.
    pub(crate) fn owed(&self, sql: &dyn Sql, limit: u64) -> Result<Vec<Cursor>, Fault> {
        if !self.knows_owed(sql)? {
            return owed(sql, limit);
        }
        let owed = self.owed.borrow();
        let owed = owed.iter().flatten().map(|(room_id, &(sent, owed))| (owed, room_id, sent)).collect::<BTreeSet<_>>();
        let first = owed.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(first.map(|(owed, room_id, sent)| Cursor { room_id: room_id.clone(), sent, owed }).collect())
    }

    /// Whether they are owed something of any room.
    pub(crate) fn is_any_owed(&self, sql: &dyn Sql) -> Result<bool, Fault> {
        if !self.knows_owed(sql)? {
            return Ok(!sql.query("SELECT 1 FROM room WHERE owed > sent LIMIT 1", &[])?.is_empty());
        }
        Ok(self.owed.borrow().as_ref().is_some_and(|owed| !owed.is_empty()))
    }

    /// Up to `limit` rooms, those first in which something happened last.
    pub(crate) fn newest(&self, sql: &dyn Sql, limit: u64) -> Result<Vec<String>, Fault> {
        if limit > NEWEST_MAX {
            return Ok(newest(sql, limit)?.into_iter().map(|(_, room_id)| room_id).collect());
        }
        let mut known = self.newest.borrow_mut();
        let known = match known.as_mut() {
            Some(known) => known,
            None => known.insert(newest(sql, NEWEST_MAX)?.into_iter().collect()),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(known.iter().rev().take(limit).map(|(_, room_id)| room_id.clone()).collect())
    }

    /// What is in memory may be of a transaction that is gone.
    pub(crate) fn rolled_back(&self) {
        (*self.owed.borrow_mut(), *self.newest.borrow_mut()) = (None, None);
    }

    /// Reads what is owed, unless that is in memory. Answers whether it is now.
    fn knows_owed(&self, sql: &dyn Sql) -> Result<bool, Fault> {
        let mut known = self.owed.borrow_mut();
        if known.is_none() {
            let all = owed(sql, OWED_MAX.saturating_add(1))?;
            if all.len() as u64 > OWED_MAX {
                return Ok(false);
            }
            *known = Some(all.into_iter().map(|room| (room.room_id, (room.sent, room.owed))).collect());
        }
        Ok(true)
    }

    fn moves(&self, room: Cursor) {
        let mut known = self.owed.borrow_mut();
        let Some(owed) = known.as_mut() else { return };
        if room.owed > room.sent {
            owed.insert(room.room_id, (room.sent, room.owed));
        } else {
            owed.remove(&room.room_id);
        }
        if owed.len() as u64 > OWED_MAX {
            *known = None;
        }
    }

    fn is_newest(&self, before: Option<Cursor>, now: &Cursor) {
        let mut known = self.newest.borrow_mut();
        let Some(newest) = known.as_mut() else { return };
        if let Some(before) = before {
            newest.remove(&(before.owed, before.room_id));
        }
        newest.insert((now.owed, now.room_id.clone()));
        while newest.len() as u64 > NEWEST_MAX {
            newest.pop_first();
        }
    }
}

fn one(sql: &dyn Sql, room_id: &str) -> Result<Option<Cursor>, Fault> {
    let rows = sql.query("SELECT room_id, sent, owed FROM room WHERE room_id = ?1", &[room_id.into()])?;
    rows.into_iter().next().map(cursor).transpose()
}

fn owed(sql: &dyn Sql, limit: u64) -> Result<Vec<Cursor>, Fault> {
    sql.query(
        "SELECT room_id, sent, owed FROM room WHERE owed > sent ORDER BY owed, room_id LIMIT ?1",
        &[limit.into()],
    )?
    .into_iter()
    .map(cursor)
    .collect()
}

fn newest(sql: &dyn Sql, limit: u64) -> Result<Vec<(u64, String)>, Fault> {
    sql.query("SELECT owed, room_id FROM room ORDER BY owed DESC, room_id DESC LIMIT ?1", &[limit.into()])?
        .into_iter()
        .map(|mut row| Ok((row.unsigned(0)?, row.text(1)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use platform::{Fault, Sql, Tx, transact};

    use super::{Cursor, Has, ToldRooms};
    use crate::world::{Dice, MemorySql};

    fn empty() -> MemorySql {
        let sql = MemorySql::new();
        let table = "CREATE TABLE room (room_id TEXT PRIMARY KEY, sent INTEGER NOT NULL, owed INTEGER NOT NULL)";
        sql.query(&format!("{table} WITHOUT ROWID"), &[]).unwrap();
        sql
    }

    fn change<T>(sql: &MemorySql, body: impl Fn(&Tx<'_>) -> Result<T, Fault>) -> T {
        transact(sql, |tx| body(tx)).unwrap()
    }

    fn shown(rooms: &ToldRooms, sql: &MemorySql) -> (Vec<Vec<Cursor>>, bool, Vec<Vec<String>>) {
        let owed = (0..6).map(|limit| rooms.owed(sql, limit).unwrap());
        let newest = (0..6).map(|limit| rooms.newest(sql, limit).unwrap());
        (owed.collect(), rooms.is_any_owed(sql).unwrap(), newest.collect())
    }

    #[test]
    fn what_is_in_memory_is_what_is_stored() {
        for seed in 0..20 {
            let (sql, rooms, dice) = (empty(), ToldRooms::default(), Dice::new(seed));
            let has = |since| if dice.roll(2) == 0 { Has::Everything(since) } else { Has::WhatItWasTold(since) };
            for _ in 0..100 {
                let (room_id, to) = (format!("!{}", dice.roll(8)), dice.roll(200));
                match dice.roll(3) {
                    0 => drop(change(&sql, |tx| rooms.owe(tx, &room_id, has(to.saturating_sub(5)), to))),
                    _ => change(&sql, |tx| rooms.sent(tx, &room_id, to)),
                }
                if dice.roll(10) == 0 {
                    rooms.rolled_back();
                }
                assert_eq!(shown(&rooms, &sql), shown(&ToldRooms::default(), &sql), "seed {seed}");
            }
        }
    }

    #[test]
    fn who_got_nothing_is_owed_what_they_were_owed() {
        let (sql, rooms) = (empty(), ToldRooms::default());
        let owes = |has, to| {
            change(&sql, |tx| rooms.owe(tx, "!r", has, to));
            rooms.owed(&sql, 1).unwrap().first().map(|cursor| cursor.sent)
        };
        assert_eq!(owes(Has::Everything(10), 12), Some(10));
        assert_eq!(owes(Has::WhatItWasTold(20), 21), Some(10));
        assert_eq!(owes(Has::Everything(30), 31), Some(30));
        change(&sql, |tx| rooms.sent(tx, "!r", 31));
        assert_eq!(owes(Has::WhatItWasTold(40), 41), Some(40), "what was between is not for them");
    }

    #[test]
    fn news_cost_no_more_where_there_are_many_rooms() {
        let costs = |count: u64| {
            let (sql, rooms) = (empty(), ToldRooms::default());
            for number in 0..count {
                change(&sql, |tx| {
                    rooms.owe(tx, &format!("!{number}"), Has::Everything(0), number + 1)?;
                    rooms.sent(tx, &format!("!{number}"), number + 1)
                });
            }
            let news = |to: u64| {
                change(&sql, |tx| rooms.owe(tx, "!5", Has::Everything(0), to));
                assert_eq!(rooms.owed(&sql, 50).unwrap().len(), 1);
                assert_eq!(rooms.newest(&sql, 3).unwrap()[0], "!5");
                change(&sql, |tx| rooms.sent(tx, "!5", to));
                assert!(!rooms.is_any_owed(&sql).unwrap());
            };
            news(count + 10);
            let before = sql.steps.get();
            news(count + 20);
            sql.steps.get() - before
        };
        let (few, many) = (costs(10), costs(2_000));
        assert!(many <= few * 3 / 2, "{few} steps became {many}");
    }
}
