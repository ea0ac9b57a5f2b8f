//! The user's own stream: which room moved when, and what each device's next sync reads.
//!
//! Invariants, on which «sync never skips» rests:
//! - A room's move starts where the one before it ended: `after` is the `up_to` of the room's last *stored* move.
//! - A token of position `u` without an exception for a room has read it exactly up to the `up_to` of its last stored
//!   move at or before `u`. A token that read less, or further, names the room as an exception.
//! - While no plan was answered since a room's last move, further news of it need no row: every token will start
//!   from that move.

use std::collections::{BTreeMap, HashMap, VecDeque};

use platform::{
    Fault, Sql, Tx,
    planted::{self, Planted},
};

use super::store::{
    account_data, keys,
    rooms::{self, Move},
    stream, to_device,
};

/// Moves kept. A token older than the oldest gets its rooms with whole state.
pub(super) const MOVES_MAX: usize = if cfg!(test) { 12 } else { 4096 };

/// The stream in memory.
pub(super) struct Moves {
    ring: VecDeque<Move>,
    /// The last stored move of each room: its position and where it ended.
    last: HashMap<u64, (u64, u64)>,
    /// The newest position of the stream.
    pub head: u64,
    /// The newest position at which anything else changed than what rooms hold: a membership, account data.
    pub own_head: u64,
    /// The newest position at which account data of a room changed, or later.
    pub data_head: u64,
    /// The newest position at which any account data changed, or later.
    pub all_data_head: u64,
    /// The position at which a plan was answered last, or the newest one from before this memory: since then none was.
    pub planned: u64,
    /// Whether an operation changed this memory and is not committed yet.
    pub uncommitted: bool,
}

impl Moves {
    pub(super) fn load(sql: &dyn Sql) -> Result<Self, Fault> {
        let ring: VecDeque<Move> = rooms::moves(sql)?.into();
        let data_head = account_data::head(sql)?;
        let (mut last, mut own_head) = (HashMap::new(), data_head.max(keys::head(sql)?).max(to_device::head(sql)?));
        for room in rooms::all(sql)? {
            last.insert(room.number, (0, room.told));
            own_head = own_head.max(room.changed);
        }
        for moved in &ring {
            last.insert(moved.room, (moved.position, moved.up_to));
        }
        let head = ring.back().map_or(0, |moved| moved.position).max(own_head).max(stream::head(sql)?);
        // It may hold what the operation that reads it has just written.
        Ok(Self { ring, last, head, own_head, data_head, all_data_head: data_head, planned: head, uncommitted: true })
    }

    /// The stream's next position: never one used before. Some row has to bear it as long as it is the newest.
    pub(super) fn next_position(&self, now_ms: u64) -> u64 {
        let now_ms = if planted::is(Planted::ReusedPosition) { 0 } else { now_ms };
        self.head.saturating_add(1).max(now_ms)
    }

    /// Takes the next position for something of the user's own, which the operation stores with it.
    pub(super) fn own_news(&mut self, now_ms: u64) -> u64 {
        let position = self.next_position(now_ms);
        self.uncommitted = true;
        self.head = position;
        self.own_head = position;
        position
    }

    /// Takes the next position as the number of something that is no news.
    pub(super) fn number(&mut self, now_ms: u64) -> u64 {
        self.head = self.next_position(now_ms);
        self.uncommitted = true;
        self.head
    }

    /// Up to where the room's stored moves told of it.
    pub(super) fn told(&self, room: u64) -> u64 {
        self.last.get(&room).map_or(0, |(_, told)| *told)
    }

    /// The room has news up to `up_to`. Answers whether every device is sure to read the room with its next plan. News
    /// that come before there is a plan need no move of their own, unless they have to be `exact`: a sliding sync reads
    /// no room that it read as far as its move told of, and that may be ahead of the move.
    pub(super) fn moved(
        &mut self,
        tx: &Tx<'_>,
        room: u64,
        up_to: u64,
        now_ms: u64,
        exact: bool,
    ) -> Result<bool, Fault> {
        let (last, told) = self.last.get(&room).copied().unwrap_or((0, 0));
        let no_plan_since = last > self.planned;
        if up_to <= told || (no_plan_since && !exact) {
            return Ok(no_plan_since);
        }
        let position = self.next_position(now_ms);
        self.push(tx, position, room, up_to)?;
        Ok(true)
    }

    /// Stores a move at `position`, which is new.
    pub(super) fn push(&mut self, tx: &Tx<'_>, position: u64, room: u64, up_to: u64) -> Result<(), Fault> {
        self.uncommitted = true;
        let slot = if self.ring.len() < MOVES_MAX {
            self.ring.len() as u64
        } else if let Some(oldest) = self.ring.pop_front() {
            if let Some((last, told)) = self.last.get_mut(&oldest.room)
                && *last == oldest.position
            {
                rooms::keep_told(tx, oldest.room, *told)?;
                *last = 0;
            }
            oldest.slot
        } else {
            0
        };
        let after = self.told(room);
        let moved = Move { slot, position, room, after, up_to: up_to.max(after) };
        rooms::put_move(tx, &moved)?;
        self.last.insert(room, (position, moved.up_to));
        self.head = position;
        self.ring.push_back(moved);
        Ok(())
    }

    /// Whether every move after `position` is still known, and the position is one of this stream.
    pub(super) fn remembers(&self, position: u64) -> bool {
        let oldest = self.ring.front().map_or(0, |oldest| oldest.position);
        position <= self.head && (self.ring.len() < MOVES_MAX || position >= oldest.saturating_sub(1))
    }

    /// The rooms that moved after `since`, each with the position its news start after.
    pub(super) fn since(&self, since: u64) -> BTreeMap<u64, u64> {
        let mut first = BTreeMap::new();
        for moved in self.ring.iter().rev().take_while(|moved| moved.position > since) {
            // Going back in time, the room's first move since then is what stays.
            first.insert(moved.room, moved.after);
        }
        first
    }

    /// Up to where the room's first move after `position` told of it.
    pub(super) fn next_up_to(&self, room: u64, position: u64) -> Option<u64> {
        self.ring.iter().find(|moved| moved.room == room && moved.position > position).map(|next| next.up_to)
    }

    /// What a token at `position` without an exception has read of a room.
    pub(super) fn told_at(&self, room: u64, position: u64) -> u64 {
        match self.ring.iter().find(|moved| moved.room == room && moved.position > position) {
            Some(next) => next.after,
            None => self.told(room),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, rc::Rc};

    use platform::{ActorKind, Address, Sql};
    use serde_json::{from_value, json, value::to_raw_value};

    use crate::{
        user::{Create, LogIn, LogOut, NewDevice, RemovePusher, SetPusher, UploadKeys},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    /// With a desk and a phone, whose tokens are their first letters.
    fn alice() -> Rc<World> {
        let world = World::new(1);
        let device = Some(NewDevice::new("DESK", "d"));
        let create = Create { password_hash: Some("h".to_owned()), call_id: "a".to_owned(), ..Create::default() };
        world.call(ALICE, &Create { device, ..create }).unwrap();
        let log_in = LogIn { password_hash: "h".to_owned(), device: NewDevice::new("PHONE", "p") };
        world.call(ALICE, &log_in).unwrap();
        world
    }

    fn alices() -> Address {
        Address::new(ActorKind::User, ALICE)
    }

    fn uploads_key(world: &World, token: &str) {
        let one_time_keys = BTreeMap::from([("a:1".to_owned(), to_raw_value(&json!({ "key": "1" })).unwrap())]);
        world
            .call(ALICE, &UploadKeys { token_hash: token.to_owned(), one_time_keys, ..UploadKeys::default() })
            .unwrap();
    }

    fn sets_pusher(world: &World, token: &str) {
        let pusher = from_value(json!({
            "app_id": "a", "pushkey": token, "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
            "data": { "url": "https://push.test/_matrix/push/v1/notify" },
        }));
        world.call(ALICE, &SetPusher { token_hash: token.to_owned(), pusher: pusher.unwrap() }).unwrap();
    }

    fn spills(world: &World, _token: &str) {
        let row = world.now_ms() + 5;
        let insert = "INSERT INTO spill (row, device, rooms) VALUES (?1, 'PHONE', '')";
        world.sql(&alices()).query(insert, &[row.into()]).unwrap();
        world.evict(&alices());
    }

    /// The newest position that any row bears.
    fn newest(world: &World) -> u64 {
        let newest = "SELECT max(position) FROM (SELECT max(uploaded) AS position FROM one_time_key
            UNION ALL SELECT max(id) FROM pusher UNION ALL SELECT max(row) FROM spill)";
        world.sql(&alices()).query(newest, &[]).unwrap()[0].unsigned_or_null(0).unwrap().unwrap_or(0)
    }

    #[test]
    fn no_position_is_given_again_when_its_row_is_gone() {
        for bears in [uploads_key, sets_pusher, spills] {
            for bears_next in [uploads_key, sets_pusher] {
                let world = alice();
                bears(&world, "p");
                let last = newest(&world);
                world.call(ALICE, &LogOut { token_hash: "p".to_owned(), all: false }).unwrap();
                assert_eq!(newest(&world), 0);
                world.evict(&alices());
                bears_next(&world, "d");
                assert!(newest(&world) > last, "{} after {last}", newest(&world));
            }
        }
    }

    #[test]
    fn a_row_that_goes_costs_another_one_where_it_was_the_newest_only() {
        let costs = |then: fn(&World)| {
            let world = alice();
            sets_pusher(&world, "p");
            then(&world);
            let before = world.rows_of(&alices());
            let call = RemovePusher { token_hash: "p".to_owned(), app_id: "a".to_owned(), pushkey: "p".to_owned() };
            world.call(ALICE, &call).unwrap();
            world.rows_of(&alices()) - before
        };
        assert_eq!([costs(|_| {}), costs(|world| uploads_key(world, "d"))], [2, 1]);
    }
}
