//! How much goes into one transaction for a server that refuses what is sent.
//!
//! A server that finds a transaction too large, or finds no sense in it, takes nothing of it, and says the same of the
//! same transaction for ever. So what was refused is offered again in portions half as large, down to one event or one
//! EDU, in turns; what is refused even alone is left out. What is taken makes portions larger again.
//! Spec: Server-Server API, "Transactions".

use platform::{Sql, Tx};

use super::{
    Destination,
    carrying::{Attempt, Refused, Standing, is_owed_edus},
};
use crate::Error;

/// Spec: «at most 50 PDUs and 100 EDUs».
const EVENTS_MAX: u64 = 50;
pub(super) const EDUS_MAX: u64 = 100;
/// So often halved, a portion is one event or one EDU.
const HALVED_UNTIL_ONE: u32 = 6;

/// What was refused, and how often.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Refusals {
    /// How often portions are halved.
    halved: u32,
    /// Refusals since something was taken.
    in_a_row: u32,
    /// Whether it is an EDU's turn to go alone.
    is_edus_turn: bool,
}

/// The most of each in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portion {
    pub events: u64,
    pub edus: u64,
}

impl Refusals {
    pub(super) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    fn is_one_by_one(&self) -> bool {
        self.halved >= HALVED_UNTIL_ONE
    }

    /// `has_events` and `has_edus`: whether there are any to be sent.
    pub(super) fn portion(&self, has_events: bool, has_edus: bool) -> Portion {
        if !self.is_one_by_one() {
            return Portion { events: (EVENTS_MAX >> self.halved).max(1), edus: (EDUS_MAX >> self.halved).max(1) };
        }
        let is_edus_turn = if has_events && has_edus { self.is_edus_turn } else { has_edus };
        Portion { events: u64::from(!is_edus_turn), edus: u64::from(is_edus_turn) }
    }

    pub(super) fn attempt_starts(&mut self) {
        if self.is_one_by_one() {
            self.is_edus_turn = !self.is_edus_turn;
        }
    }

    pub(super) fn attempt_is_taken(&mut self) {
        (self.halved, self.in_a_row) = (self.halved.saturating_sub(1), 0);
        if self.halved == 0 {
            self.is_edus_turn = false;
        }
    }

    /// An attempt with so much in it was refused: the next has no more than half of that.
    fn attempt_is_refused(&mut self, Portion { events, edus }: Portion) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        while !self.is_one_by_one() {
            self.halved = self.halved.saturating_add(1);
            let next = self.portion(events > 0, edus > 0);
            if next.events.min(events).saturating_add(next.edus.min(edus)) <= events.saturating_add(edus) / 2 {
                break;
            }
        }
    }
}

impl Destination {
    /// What may go into the next transaction.
    pub(super) fn portion(&self, sql: &dyn Sql, standing: &Standing) -> Result<Portion, Error> {
        if standing.refusals.are_none() {
            return Ok(Portion { events: EVENTS_MAX, edus: EDUS_MAX });
        }
        let has_events = self.rooms.is_any_owed(sql)?;
        Ok(standing.refusals.portion(has_events, is_owed_edus(sql)?))
    }

    /// The server refused this attempt: it is not repeated.
    pub(super) fn is_refused(
        &self,
        tx: &Tx<'_>,
        standing: &mut Standing,
        attempt: &Attempt,
        refused: &Refused,
    ) -> Result<(), Error> {
        standing.refusals.attempt_is_refused(Portion { events: refused.events, edus: refused.edus });
        if refused.events.saturating_add(refused.edus) <= 1 {
            tracing::warn!(attempt = attempt.transaction_id, "what another server refuses alone is left out");
            // A server that fails at everything for now may yet take what comes next.
            standing.answers = 0;
            return self.settle(tx, attempt, attempt.edus_up_to);
        }
        Ok(super::store::forget_fact(tx, "attempt")?)
    }
}

#[cfg(test)]
mod tests {
    use platform::{ActorKind, Address};
    use ruma_common::room_id;
    use serde_json::{json, value::to_raw_value};

    use super::EDUS_MAX;
    use crate::{
        destination::{
            Acknowledge, Attempt, Edus, GetEdus, IsUp, QueueEdu, Refused, ReportFailure, RoomMoved, StartAttempt,
            TakeWork, Work, carrying::ANSWERS_MAX,
        },
        world::World,
    };

    const THERE: &str = "there.test";

    fn queues(world: &World, name: &str, bytes: usize) {
        let edu =
            to_raw_value(&json!({ "edu_type": "m.x", "content": { "name": name, "x": "x".repeat(bytes) } })).unwrap();
        world.call(THERE, &QueueEdu { key: name.to_owned(), edu }).unwrap();
    }

    /// The next attempt: how many events it has (a position is one), and the EDUs' names.
    fn attempts(world: &World) -> Option<(Attempt, u64, Vec<String>)> {
        let mut waited_ms = 0;
        let name = |edu: &str| serde_json::from_str::<serde_json::Value>(edu).unwrap()["content"]["name"].to_string();
        let names = |edus: Edus| edus.edus.iter().map(|edu| name(edu.get()).trim_matches('"').to_owned()).collect();
        let mut ranges = loop {
            match world.call(THERE, &TakeWork { carrier: "one".into() }).unwrap() {
                Work::Owed(ranges) => break ranges,
                Work::Repeat(attempt) => {
                    let edus = world.call(THERE, &GetEdus { up_to: attempt.edus_up_to }).unwrap();
                    return Some((attempt, 0, names(edus)));
                }
                Work::Nothing if waited_ms < 7_200_000 => {
                    world.passes(1_000);
                    waited_ms += 1_000;
                }
                Work::Nothing => return None,
                other => panic!("{other:?}"),
            }
        };
        for range in &mut ranges {
            let up_to = range.up_to.min(range.after + range.events_max.unwrap_or(50).min(50));
            range.up_to = up_to;
        }
        let events = ranges.iter().map(|range| range.up_to - range.after).sum();
        let edus = world.call(THERE, &GetEdus { up_to: None }).unwrap();
        let call = StartAttempt { carrier: "one".into(), ranges, edus_up_to: edus.up_to };
        let attempt = world.call(THERE, &call).unwrap().unwrap();
        Some((attempt, events, names(edus)))
    }

    fn is_taken(world: &World, attempt: &Attempt) {
        let transaction_id = attempt.transaction_id.clone();
        let call =
            Acknowledge { carrier: "one".into(), transaction_id, edus_up_to: attempt.edus_up_to, was_empty: false };
        world.call(THERE, &call).unwrap();
    }

    fn is_refused(world: &World, attempt: &Attempt, events: u64, edus: usize) {
        let refused = Some(Refused { transaction_id: attempt.transaction_id.clone(), events, edus: edus as u64 });
        world.call(THERE, &ReportFailure { carrier: "one".into(), refused, answered: None }).unwrap();
    }

    #[test]
    fn a_transaction_has_a_megabyte_of_edus_and_at_least_one() {
        let world = World::new(1);
        for number in 0..8 {
            queues(&world, &number.to_string(), 300_000);
        }
        queues(&world, "large", 1_800_000);
        let mut sizes = Vec::new();
        for _ in 0..4 {
            let (attempt, _, edus) = attempts(&world).unwrap();
            sizes.push(edus.len());
            // Repeated, it is the same.
            let again = world.call(THERE, &GetEdus { up_to: attempt.edus_up_to }).unwrap();
            assert_eq!((again.edus.len(), again.up_to), (edus.len(), attempt.edus_up_to));
            is_taken(&world, &attempt);
        }
        assert_eq!(sizes, [3, 3, 2, 1]);
    }

    #[test]
    fn what_an_earlier_release_attempted_and_is_too_large_goes_in_parts() {
        let world = World::new(1);
        for number in 0..8 {
            queues(&world, &number.to_string(), 300_000);
        }
        assert_eq!(world.call(THERE, &TakeWork { carrier: "one".into() }).unwrap(), Work::Owed(Vec::new()));
        let call = StartAttempt { carrier: "one".into(), ranges: Vec::new(), edus_up_to: Some(1_000) };
        let attempt = world.call(THERE, &call).unwrap().unwrap();
        let part = world.call(THERE, &GetEdus { up_to: attempt.edus_up_to }).unwrap();
        assert!(part.up_to < attempt.edus_up_to);
        let transaction_id = attempt.transaction_id;
        let call = Acknowledge { carrier: "one".into(), transaction_id, edus_up_to: part.up_to, was_empty: false };
        world.call(THERE, &call).unwrap();
        let (_, _, edus) = attempts(&world).unwrap();
        assert_eq!(edus, ["3", "4", "5"]);
    }

    /// Some server refuses whatever has this in it.
    #[test]
    fn what_a_server_refuses_keeps_nothing_else_from_it() {
        for poison in ["57", "0", "99"] {
            let world = World::new(1);
            for number in 0..EDUS_MAX {
                queues(&world, &number.to_string(), 10);
            }
            world
                .call(THERE, &RoomMoved { room_id: room_id!("!r:a").to_owned(), since: 0, to: 60, left: false })
                .unwrap();
            let (mut told, mut events_told, mut tries) = (Vec::new(), 0, 0);
            while let Some((attempt, events, edus)) = attempts(&world) {
                tries += 1;
                assert!(tries < 200, "it goes on for ever");
                if edus.iter().any(|name| name == poison) {
                    is_refused(&world, &attempt, events, edus.len());
                    // Whoever carries next knows of it.
                    world.evict(&Address::new(ActorKind::Destination, THERE));
                } else {
                    told.extend(edus);
                    events_told += events;
                    is_taken(&world, &attempt);
                }
            }
            told.sort_by_key(|name| name.parse::<u64>().unwrap());
            let all: Vec<_> = (0..EDUS_MAX).map(|number| number.to_string()).filter(|name| name != poison).collect();
            assert_eq!((told, events_told), (all, 60), "{poison}");
            assert!(tries < 60, "{tries} transactions");
        }
    }

    #[test]
    fn an_event_that_a_server_refuses_keeps_nothing_else_from_it() {
        let world = World::new(1);
        world.call(THERE, &RoomMoved { room_id: room_id!("!r:a").to_owned(), since: 0, to: 60, left: false }).unwrap();
        let (mut told, mut events_told) = (0, 0);
        for number in 0..200 {
            // There are always EDUs, too.
            queues(&world, &number.to_string(), 10);
            let (attempt, events, edus) = attempts(&world).unwrap();
            if attempt.ranges.iter().any(|range| range.after < 30 && 30 <= range.up_to) {
                is_refused(&world, &attempt, events, edus.len());
            } else {
                is_taken(&world, &attempt);
                told += edus.len();
                events_told += events;
            }
        }
        assert_eq!(events_told, 59);
        assert!(told >= 195, "{told} EDUs");
    }

    #[test]
    fn what_is_refused_alone_is_left_out_at_once() {
        let world = World::new(1);
        queues(&world, "poison", 10);
        let (attempt, events, edus) = attempts(&world).unwrap();
        is_refused(&world, &attempt, events, edus.len());
        queues(&world, "a", 10);
        let (attempt, _, edus) = attempts(&world).unwrap();
        assert_eq!(edus, ["a"]);
        is_taken(&world, &attempt);
        // A server that refuses everything is left alone for longer and longer.
        let mut pauses = Vec::new();
        for number in 0..8 {
            queues(&world, &number.to_string(), 10);
            let began_ms = world.now_ms();
            let (attempt, events, edus) = attempts(&world).unwrap();
            pauses.push(world.now_ms() - began_ms);
            is_refused(&world, &attempt, events, edus.len());
        }
        assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    }

    fn is_answered(world: &World, attempt: &Attempt, edus: usize) {
        let answered = Some(Refused { transaction_id: attempt.transaction_id.clone(), events: 0, edus: edus as u64 });
        world.call(THERE, &ReportFailure { carrier: "one".into(), refused: None, answered }).unwrap();
    }

    /// Some server has an error of its own whenever this is in what it gets.
    #[test]
    fn what_a_server_fails_at_again_and_again_keeps_nothing_else_from_it() {
        let world = World::new(1);
        for name in ["a", "b", "poison", "c", "d"] {
            queues(&world, name, 10);
        }
        let (mut told, mut tries) = (Vec::new(), 0);
        while let Some((attempt, _, edus)) = attempts(&world) {
            tries += 1;
            assert!(tries < 60, "it goes on for ever");
            if edus.iter().any(|name| name == "poison") {
                is_answered(&world, &attempt, edus.len());
                world.evict(&Address::new(ActorKind::Destination, THERE));
            } else {
                told.extend(edus);
                is_taken(&world, &attempt);
            }
        }
        assert_eq!(told, ["a", "b", "c", "d"]);
    }

    #[test]
    fn errors_that_pass_lose_nothing() {
        let world = World::new(1);
        queues(&world, "a", 10);
        let (first, _, _) = attempts(&world).unwrap();
        for _ in 0..2 {
            for _ in 1..ANSWERS_MAX {
                let (attempt, _, edus) = attempts(&world).unwrap();
                assert_eq!((&attempt, &*edus), (&first, &["a".to_owned()][..]));
                is_answered(&world, &attempt, 1);
                world.call(THERE, &IsUp {}).unwrap();
            }
            // It is down meanwhile.
            attempts(&world).unwrap();
            world.call(THERE, &ReportFailure { carrier: "one".into(), refused: None, answered: None }).unwrap();
            world.call(THERE, &IsUp {}).unwrap();
        }
        // What is left out after all does not take what comes next with it.
        for _ in 0..ANSWERS_MAX {
            let (attempt, _, _) = attempts(&world).unwrap();
            is_answered(&world, &attempt, 1);
            world.call(THERE, &IsUp {}).unwrap();
        }
        queues(&world, "b", 10);
        for _ in 1..ANSWERS_MAX {
            let (attempt, _, edus) = attempts(&world).unwrap();
            assert_eq!(edus, ["b"]);
            is_answered(&world, &attempt, 1);
            world.call(THERE, &IsUp {}).unwrap();
        }
        assert_eq!(attempts(&world).unwrap().2, ["b"]);
    }

    /// Who is down refuses nothing, and who refuses is not down.
    #[test]
    fn a_refusal_is_no_failure() {
        let world = World::new(1);
        queues(&world, "a", 10);
        queues(&world, "b", 10);
        let (attempt, _, _) = attempts(&world).unwrap();
        world.call(THERE, &ReportFailure { carrier: "one".into(), refused: None, answered: None }).unwrap();
        world.passes(10_000);
        assert_eq!(world.call(THERE, &TakeWork { carrier: "one".into() }).unwrap(), Work::Repeat(attempt.clone()));
        is_refused(&world, &attempt, 0, 2);
        let (next, _, edus) = attempts(&world).unwrap();
        assert_ne!(next.transaction_id, attempt.transaction_id);
        assert_eq!(edus, ["a"]);
        // Somebody's old news says nothing of this attempt.
        is_refused(&world, &attempt, 0, 2);
        world.passes(20_000);
        assert_eq!(world.call(THERE, &TakeWork { carrier: "one".into() }).unwrap(), Work::Repeat(next));
    }
}
