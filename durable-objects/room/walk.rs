//! Going through the log as one user may see it, in batches; what lies in a stretch they may not see is stepped over,
//! however long it is.

use platform::{Fault, Sql};

use super::{
    messages::Direction,
    store::{self, log::Logged},
    viewer::Viewer,
};

/// Events read from the log at once: of the largest ones they take some MB.
const BATCH_EVENTS_MAX: u64 = 50;

/// A walk through a part of the log, one way.
pub(super) struct Walk<'a> {
    sql: &'a dyn Sql,
    viewer: &'a Viewer,
    direction: Direction,
    /// What lies ahead: `(after, up_to]`.
    after: u64,
    up_to: u64,
    /// The events of what lies ahead that were read, and whether the log has more.
    batch: std::vec::IntoIter<Logged>,
    has_more: bool,
    batch_max: u64,
    scanned: u64,
    stepped_over: bool,
}

impl<'a> Walk<'a> {
    /// Through `(after, up_to]`, by one who needs `wanted` events, or somewhat more.
    pub(super) fn new(
        sql: &'a dyn Sql,
        viewer: &'a Viewer,
        direction: Direction,
        (after, up_to): (u64, u64),
        wanted: u64,
    ) -> Self {
        let batch_max = wanted.saturating_add(1).min(BATCH_EVENTS_MAX);
        let batch = Vec::new().into_iter();
        Self { sql, viewer, direction, after, up_to, batch, has_more: true, batch_max, scanned: 0, stepped_over: false }
    }

    /// The position between what was passed and what lies ahead.
    pub(super) fn place(&self) -> u64 {
        match self.direction {
            Direction::Backwards => self.up_to,
            Direction::Forwards => self.after,
        }
    }

    /// How many log entries were looked at.
    pub(super) fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Whether anything was passed that the history visibility hides.
    pub(super) fn has_stepped_over(&self) -> bool {
        self.stepped_over
    }

    /// The next event that the user may see, and wants to.
    pub(super) fn next(&mut self) -> Result<Option<Logged>, Fault> {
        loop {
            let Some(event) = self.batch.next() else {
                if !self.reads_on()? {
                    return Ok(None);
                }
                continue;
            };
            self.scanned = self.scanned.saturating_add(1);
            match self.direction {
                Direction::Backwards => self.up_to = event.position.saturating_sub(1),
                Direction::Forwards => self.after = event.position,
            }
            if !self.viewer.may_see(&event) {
                self.stepped_over |= !self.viewer.is_visible(&event);
            } else if !self.viewer.ignores(&event) {
                return Ok(Some(event));
            }
        }
    }

    /// Reads the next batch, if there is one.
    fn reads_on(&mut self) -> Result<bool, Fault> {
        if !self.has_more {
            return Ok(false);
        }
        let ahead = match self.direction {
            Direction::Backwards => self.viewer.sees_at_or_before(self.up_to).filter(|sight| *sight > self.after),
            Direction::Forwards => {
                self.viewer.sees_at_or_after(self.after.saturating_add(1)).filter(|sight| *sight <= self.up_to)
            }
        };
        let Some(ahead) = ahead else { return Ok(false) };
        let batch = match self.direction {
            Direction::Backwards => {
                self.stepped_over |= ahead < self.up_to;
                self.up_to = ahead;
                store::log::backwards(self.sql, self.after, self.up_to, self.batch_max)?
            }
            Direction::Forwards => {
                self.stepped_over |= ahead > self.after.saturating_add(1);
                self.after = ahead.saturating_sub(1);
                store::log::forwards(self.sql, self.after, self.up_to, self.batch_max)?
            }
        };
        self.has_more = batch.len() as u64 == self.batch_max;
        self.batch_max = BATCH_EVENTS_MAX;
        self.batch = batch.into_iter();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address};
    use ruma_common::{OwnedUserId, RoomId, user_id};
    use serde_json::json;

    use super::{Walk, store};
    use crate::{
        CallError,
        room::{Direction, MembershipAction, viewer::Viewer},
        world::World,
    };

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:myelin.test").to_owned()
    }

    /// Alice speaks and opens and closes the room; Bob comes and goes.
    fn something_happens(world: &World, room_id: &RoomId) -> Result<(), CallError> {
        let action = match world.dice.roll(12) {
            0 => MembershipAction::Join,
            1 => MembershipAction::Leave,
            2 => MembershipAction::Invite,
            3 => MembershipAction::Ban,
            4 => MembershipAction::Unban,
            5 => {
                let setting = ["joined", "invited", "shared", "world_readable"][world.dice.roll(4) as usize];
                let content = json!({ "history_visibility": setting });
                return world.sends(&alice(), room_id, "m.room.history_visibility", Some(""), &content).map(drop);
            }
            _ => return world.sends(&alice(), room_id, "m.room.message", None, &json!({})).map(drop),
        };
        let own = matches!(action, MembershipAction::Join | MembershipAction::Leave);
        world.changes(if own { bob() } else { alice() }.as_ref(), room_id, &bob(), action)
    }

    #[test]
    fn a_walk_meets_what_may_be_seen_and_nothing_else() {
        for seed in 1..=30 {
            let world = World::new(seed);
            let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
            for _ in 0..150 {
                // What the rules refuse makes no event.
                let _ = something_happens(&world, &room_id);
                world.settle();
            }
            let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
            let viewer = Viewer::load(&*sql, bob(), "PHONE".into()).unwrap();
            let head = store::log::head_position(&*sql).unwrap();
            let log = store::log::forwards(&*sql, 0, head, 1_000).unwrap();
            let mut seen: Vec<u64> =
                log.iter().filter(|event| viewer.may_see(event)).map(|event| event.position).collect();
            for direction in [Direction::Forwards, Direction::Backwards] {
                let mut walk = Walk::new(&*sql, &viewer, direction, (0, head), 7);
                let mut met = Vec::new();
                while let Some(event) = walk.next().unwrap() {
                    met.push(event.position);
                }
                assert_eq!(met, seen, "seed {seed}, {direction:?}");
                seen.reverse();
            }
            // Part of the way, from each event, or to it.
            for event in &log {
                for (direction, span) in
                    [(Direction::Forwards, (event.position, head)), (Direction::Backwards, (0, event.position))]
                {
                    let ahead = seen.iter().filter(|position| **position > span.0 && **position <= span.1).count();
                    let mut walk = Walk::new(&*sql, &viewer, direction, span, 7);
                    let mut met = 0;
                    while walk.next().unwrap().is_some() {
                        met += 1;
                    }
                    assert_eq!(met, ahead, "seed {seed}, {direction:?} from {}", event.position);
                }
            }
        }
    }

    #[test]
    fn what_is_hidden_costs_nothing() {
        let world = World::new(1);
        let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
        let setting = json!({ "history_visibility": "joined" });
        world.sends(&alice(), &room_id, "m.room.history_visibility", Some(""), &setting).unwrap();
        for _ in 0..500 {
            world.sends(&alice(), &room_id, "m.room.message", None, &json!({})).unwrap();
        }
        world.changes(&alice(), &room_id, &bob(), MembershipAction::Invite).unwrap();
        world.changes(&bob(), &room_id, &bob(), MembershipAction::Join).unwrap();
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let viewer = Viewer::load(&*sql, bob(), "PHONE".into()).unwrap();
        let head = store::log::head_position(&*sql).unwrap();
        for direction in [Direction::Forwards, Direction::Backwards] {
            let mut walk = Walk::new(&*sql, &viewer, direction, (0, head), 10);
            while walk.next().unwrap().is_some() {}
            assert!(walk.scanned() < 50, "{} entries, {direction:?}", walk.scanned());
        }
    }
}
