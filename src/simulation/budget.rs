//! What a run may cost: what servers write for what people do, how large an actor grows, how much is in memory at once.

use crate::{complaint::Promise, world::World};

/// Statements that change an actor, for each step of a story and each server: most are those of a room for an event,
/// and of its users.
const WRITES_PER_STEP_MAX: u64 = 200;
/// The same before the first step, for each person.
const WRITES_PER_PERSON_MAX: u64 = 400;
/// The largest database of an actor, in bytes.
const DATABASE_BYTES_MAX: u64 = 8 << 20;
/// The largest answer of one actor to one call, in bytes: a megabyte and what holds it.
const ANSWER_BYTES_MAX: usize = 1 << 21;

/// What a run cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Costs {
    /// Statements that changed an actor.
    pub writes: u64,
    /// The largest database of an actor, in bytes.
    pub database_bytes_max: u64,
    /// The largest answer of one actor to one call, in bytes.
    pub answer_bytes_max: usize,
}

impl Costs {
    pub(crate) fn of(world: &World) -> Self {
        let disks = || world.machines.iter().flat_map(|machine| machine.disks());
        Self {
            writes: disks().map(|(_, disk)| disk.writes()).sum(),
            database_bytes_max: disks().map(|(_, disk)| disk.bytes()).max().unwrap_or(0),
            answer_bytes_max: world.machines.iter().map(|machine| machine.answer_bytes_max.get()).max().unwrap_or(0),
        }
    }
}

/// Nothing costs more than it may.
pub(crate) fn keeps(world: &World) {
    let (costs, size) = (Costs::of(world), &world.size);
    let writes_max =
        WRITES_PER_STEP_MAX * size.servers as u64 * size.steps as u64 + WRITES_PER_PERSON_MAX * size.people as u64;
    if costs.writes > writes_max {
        world.complains(Promise::Budget, format!("{} statements wrote, {writes_max} may", costs.writes));
    }
    if costs.database_bytes_max > DATABASE_BYTES_MAX {
        world.complains(Promise::Budget, format!("an actor has {} bytes", costs.database_bytes_max));
    }
    if costs.answer_bytes_max > ANSWER_BYTES_MAX {
        world.complains(Promise::Budget, format!("an actor answered {} bytes at once", costs.answer_bytes_max));
    }
}
