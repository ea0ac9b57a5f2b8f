//! One run: a story played, mended and judged.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use platform::{
    Clock as _,
    planted::{self, Planted},
};

use crate::{
    budget::{self, Costs},
    complaint::{Complaint, Promise},
    faults, heal, oracle,
    play::play,
    scheduler::BEGINNING_MS,
    story::Story,
    world::{Tally, World},
};

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// What was found wrong; nothing, if all is well.
    pub complaints: Vec<Complaint>,
    /// Two runs with the same digest went the same way.
    pub digest: String,
    /// What was noted on the way, if it was to be kept.
    pub trace: String,
    pub tally: Tally,
    pub costs: Costs,
    /// How much time passed in it.
    pub virtual_ms: u64,
    /// How many requests servers made of each other.
    pub requests: u64,
}

/// Plays a story. `keeps_trace` has every request noted down, and every call of an actor.
pub fn run(story: &Story, keeps_trace: bool) -> Outcome {
    run_with(story, None, keeps_trace)
}

/// Plays a story on a host that has a fault.
pub fn run_with(story: &Story, planted: Option<Planted>, keeps_trace: bool) -> Outcome {
    let world = World::new(story.seed, story.size);
    planted::plant(planted);
    faults::listen(None);
    drop(faults::take());
    if keeps_trace {
        world.network.trace.keep();
    }
    let (told, playing) = (story.clone(), world.clone());
    let ran = catch_unwind(AssertUnwindSafe(|| world.scheduler().run(whole(playing, told))));
    if let Err(panic) = ran {
        let why = panic.downcast_ref::<String>().cloned();
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
        world.complains(Promise::Answers, format!("a panic: {}", why.unwrap_or_default()));
    }
    for fault in faults::take() {
        world.complains(Promise::Faults, fault);
    }
    let outcome = Outcome {
        complaints: world.complaints.take(),
        digest: world.network.trace.digest(),
        trace: world.network.trace.kept(),
        tally: world.tally.take(),
        costs: Costs::of(&world),
        virtual_ms: world.scheduler().now_ms() - BEGINNING_MS,
        requests: world.network.requests.get(),
    };
    world.ends();
    planted::plant(None);
    outcome
}

async fn whole(world: Rc<World>, story: Story) {
    play(world.clone(), &story).await;
    let rooms = heal::heals(&world).await;
    oracle::judges(&world, &rooms).await;
    budget::keeps(&world);
    heal::comes_to_rest(&world).await;
}
