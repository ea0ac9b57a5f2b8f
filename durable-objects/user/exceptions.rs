//! The rooms that a token's position does not stand for: those its device read less, or further, than their last move
//! told.
//!
//! A few stand in the token itself. More are spilled to a row. That row stays as it is while the device syncs on: the
//! token lists what changed since, and only when that is too much is a new row written, without the rooms that the
//! token's position stands for by now. So an account with thousands of rooms pays for those that move, not for all of
//! them with every sync, and a device's row outlives the syncs of the others.

use std::{collections::BTreeMap, rc::Rc};

use platform::{Sql, Tx};
use ruma_common::DeviceId;

use super::{
    User, store,
    sync_token::{self, Reached, Rooms, SyncToken},
};
use crate::Error;

/// The most rooms that stand in the token itself.
const LISTED_MAX: usize = if cfg!(test) { 1 } else { 40 };
/// Rows kept in memory: one for each device that syncs, of few.
const ROWS_KEPT: usize = 4;

/// Rows read before, by their numbers: a number stands for one content for ever.
#[derive(Default)]
pub(super) struct SpilledRows(BTreeMap<u64, Rc<Rooms>>);

/// The exceptions of one token.
#[derive(Default)]
pub(super) struct Exceptions {
    spilled: Option<(u64, Rc<Rooms>)>,
    /// Goes before what is spilled.
    listed: Rooms,
}

impl Exceptions {
    pub(super) fn get(&self, room: u64) -> Option<Reached> {
        self.listed.get(&room).or_else(|| self.spilled_rooms()?.get(&room)).copied()
    }

    /// The rooms that could not be read when they should have been.
    pub(super) fn owed(&self) -> impl Iterator<Item = u64> {
        let spilled = self.spilled_rooms().into_iter().flat_map(BTreeMap::keys);
        let rooms = self.listed.keys().chain(spilled).copied();
        rooms.filter(|room| self.get(*room).is_some_and(|reached| reached.owed))
    }

    /// A room was read; `told` is what the token's position stands for.
    pub(super) fn read(&mut self, room: u64, reached: Reached, told: u64) {
        let is_spilled = self.spilled_rooms().is_some_and(|rooms| rooms.contains_key(&room));
        if reached.owed || reached.position != told || is_spilled {
            self.listed.insert(room, reached);
        } else {
            self.listed.remove(&room);
        }
    }

    /// What goes into the token: the row, if there is one, and what is listed. `told` says what the token's position
    /// stands for, and `new_row` is the number that a new row takes.
    pub(super) fn settle(
        mut self,
        tx: &Tx<'_>,
        device: &DeviceId,
        new_row: u64,
        told: impl Fn(u64) -> u64,
    ) -> Result<(Option<u64>, Rooms), Error> {
        if self.listed.len() <= LISTED_MAX {
            return Ok((self.spilled.map(|(row, _)| row), self.listed));
        }
        let mut all = self.spilled_rooms().cloned().unwrap_or_default();
        all.append(&mut self.listed);
        all.retain(|room, reached| reached.owed || reached.position != told(*room));
        if all.len() <= LISTED_MAX {
            return Ok((None, all));
        }
        store::rooms::spill(tx, new_row, device, &sync_token::to_row(&all))?;
        Ok((Some(new_row), Rooms::new()))
    }

    fn spilled_rooms(&self) -> Option<&Rooms> {
        self.spilled.as_ref().map(|(_, rooms)| &**rooms)
    }
}

impl User {
    /// The token's exceptions; `None` if they were spilled too long ago.
    pub(super) fn exceptions(&self, sql: &dyn Sql, token: &SyncToken) -> Result<Option<Exceptions>, Error> {
        let listed = token.rooms.clone();
        let Some(row) = token.spilled else { return Ok(Some(Exceptions { spilled: None, listed })) };
        let mut kept = self.spilled.borrow_mut();
        if let Some(rooms) = kept.0.get(&row) {
            return Ok(Some(Exceptions { spilled: Some((row, rooms.clone())), listed }));
        }
        let Some(rooms) = store::rooms::spilled(sql, row)?.and_then(|rooms| sync_token::of_row(&rooms)) else {
            return Ok(None);
        };
        if kept.0.len() >= ROWS_KEPT {
            kept.0.clear();
        }
        let rooms = Rc::new(rooms);
        kept.0.insert(row, rooms.clone());
        Ok(Some(Exceptions { spilled: Some((row, rooms)), listed }))
    }

    /// A row that was read may have been of the transaction that is gone.
    pub(super) fn forget_spilled(&self) {
        self.spilled.borrow_mut().0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use ruma_events::room::member::MembershipState;

    use super::{Exceptions, Reached, Rooms};
    use crate::{
        user::{Create, LogIn, MembershipChanged, NewDevice, ReadRoom, SyncClose, SyncPlan},
        world::World,
    };

    const ALICE: &str = "@alice:myelin.test";

    /// A sync that reads every room further than its moves told; `None` if there is nothing new.
    fn syncs(world: &World, device: &str, since: Option<String>) -> Option<String> {
        let token_hash = device.to_owned();
        let plan =
            SyncPlan { token_hash: token_hash.clone(), since: since.clone(), may_wait: true, ..SyncPlan::default() };
        let plan = world.asks(ALICE, &plan)?;
        let read = |number| {
            let (to, typing) = (1_000, None);
            ReadRoom { number, to, failed: false, anew: false, left: false, untold: false, typing }
        };
        let rooms = plan.rooms.iter().map(|room| read(room.number)).collect();
        let close = SyncClose {
            token_hash,
            since,
            position: plan.position,
            rooms,
            rooms_told: false,
            presence: None,
            without_messages: false,
        };
        Some(world.call(ALICE, &close).unwrap().next_batch)
    }

    #[test]
    fn a_device_spills_over_its_own_rows_only() {
        let world = World::new(1);
        let device = Some(NewDevice::new("DESK", "desk"));
        let (password_hash, call_id) = (Some("hash".to_owned()), "a".to_owned());
        world.call(ALICE, &Create { password_hash, device, call_id, ..Create::default() }).unwrap();
        let log_in = LogIn { password_hash: "hash".to_owned(), device: NewDevice::new("PHONE", "phone") };
        world.call(ALICE, &log_in).unwrap();
        for number in 0..3 {
            let changed = MembershipChanged {
                room_id: format!("!room{number}:a").try_into().unwrap(),
                position: 10,
                membership: MembershipState::Join,
                event_id: None,
                profile: None,
                stripped_state: Vec::new(),
                predecessor: None,
                elsewhere: None,
            };
            world.call(ALICE, &changed).unwrap();
        }
        let desk = syncs(&world, "desk", None);
        assert!(desk.as_ref().unwrap().contains("_x"), "{desk:?}");
        let phones: Vec<_> = (0..100).map(|_| syncs(&world, "phone", None)).collect();
        world.crash();
        assert_eq!(syncs(&world, "desk", desk), None, "nothing is told again");
        assert_eq!(syncs(&world, "phone", phones[99].clone()), None);
        assert_eq!(syncs(&world, "phone", phones[98].clone()), None, "the answer after it was lost");
        assert!(syncs(&world, "phone", phones[0].clone()).is_some());
    }

    fn at(position: u64) -> Reached {
        Reached { position, owed: false }
    }

    #[test]
    fn what_is_listed_goes_before_what_is_spilled() {
        let owed = Reached { position: 7, owed: true };
        let mut exceptions = Exceptions {
            spilled: Some((1, Rc::new(Rooms::from([(1, at(10)), (2, at(20)), (3, owed)])))),
            listed: Rooms::from([(4, at(40)), (5, owed)]),
        };
        // Read to where the token stands for: that must be said of a room that the row says something else of.
        for room in [1, 3, 4] {
            exceptions.read(room, at(100), 100);
        }
        exceptions.read(2, at(101), 100);
        let got: Vec<_> = (1..=6).map(|room| exceptions.get(room)).collect();
        assert_eq!(got, [Some(at(100)), Some(at(101)), Some(at(100)), None, Some(owed), None]);
        assert_eq!(exceptions.owed().collect::<Vec<_>>(), [5]);
    }
}
