//! `simulate`: plays stories, one after the other, and tells the shortest one that fails.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program for people, in their time")]

use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use simulation::{Outcome, Planted, Size, Story, listen, run_with, shrink};

/// How long a planted fault may stay unfound.
const PLANTED_MINUTES: f64 = 5.0;

/// Plays random stories of several homeservers and their users in virtual time, and looks whether all is well
/// afterwards.
#[derive(Parser)]
struct Options {
    /// The seed of the only story, or of the first one
    #[arg(long)]
    seed: Option<u64>,
    /// Plays one story after the other for so long; without it, one
    #[arg(long)]
    minutes: Option<f64>,
    /// Plays so many stories one after the other, also after one that fails, and tells in the end how many did
    #[arg(long, conflicts_with_all = ["minutes", "plant"])]
    stories: Option<u64>,
    /// How many servers there are
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// How many people there are
    #[arg(long, default_value_t = 9)]
    people: usize,
    /// How many steps a story has
    #[arg(long, default_value_t = 120)]
    steps: usize,
    /// Has one more server in the rooms, which lies
    #[arg(long)]
    hostile: bool,
    /// Plants a fault into the code, and plays until that is found; `--minutes` says how long at most, else five
    #[arg(long, value_parser = planted)]
    plant: Option<Planted>,
    /// Prints the story before it is played
    #[arg(long)]
    story: bool,
    /// Prints every request of the story, and, indented, what servers ask their actors
    #[arg(long)]
    trace: bool,
    /// How many shorter stories are tried once one fails
    #[arg(long, default_value_t = 150)]
    shrink: usize,
    /// Shows what the servers log, from this level on
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    listen(options.log.as_deref());
    let size = Size {
        servers: options.servers.clamp(1, 8),
        people: options.people.max(1),
        steps: options.steps,
        is_hostile: options.hostile,
    };
    let first = options.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_micros()) + since.as_secs() % 1_000 * 1_000_000
    });
    let minutes = options.minutes.unwrap_or(if options.plant.is_some() { PLANTED_MINUTES } else { 0.0 });
    let until = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let (mut seed, mut stories, mut failing) = (first, 0_u64, Vec::new());
    let (mut server_minutes, began) = (0.0, Instant::now());
    loop {
        let story = Story::new(seed, size);
        if options.story {
            print!("{story}");
        }
        let started = Instant::now();
        let outcome = run_with(&story, options.plant, options.trace);
        stories += 1;
        server_minutes += size.servers as f64 * outcome.virtual_ms as f64 / 60_000.0;
        told(seed, &outcome, started.elapsed(), options.trace);
        if !outcome.complaints.is_empty() && options.stories.is_some() {
            failing.push(seed);
            outcome.complaints.iter().for_each(|complaint| println!("  FAILED: {complaint}"));
        } else if !outcome.complaints.is_empty() {
            fails(&story, &outcome, &options);
            // What was planted is to be found.
            return if options.plant.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let is_over = options.stories.map_or(Instant::now() >= until, |count| stories >= count);
        if is_over {
            break;
        }
        seed += 1;
    }
    if options.plant.is_some() {
        println!("{stories} stories, and what was planted was not found");
        return ExitCode::FAILURE;
    }
    let speed = server_minutes / began.elapsed().as_secs_f64();
    if !failing.is_empty() {
        println!(
            "{stories} stories, {} fail: {failing:?}; {speed:.0} simulated server-minutes per second",
            failing.len()
        );
        return ExitCode::FAILURE;
    }
    println!("{stories} stories, all is well; {speed:.0} simulated server-minutes per second");
    ExitCode::SUCCESS
}

fn planted(name: &str) -> Result<Planted, String> {
    let names = Planted::ALL.map(Planted::as_str);
    let found = Planted::ALL.into_iter().find(|planted| planted.as_str() == name);
    found.ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn told(seed: u64, outcome: &Outcome, took: Duration, trace: bool) {
    if trace {
        print!("{}", outcome.trace);
    }
    let [mut done, mut refused, mut unknown] = [0_u64; 3];
    for [one, two, three] in outcome.tally.values() {
        (done, refused, unknown) = (done + one, refused + two, unknown + three);
    }
    println!(
        "seed {seed}: {done} done, {refused} refused, {unknown} unknown, {} requests between servers, {:.1} h in {:.1} s, {}",
        outcome.requests,
        outcome.virtual_ms as f64 / 3_600_000.0,
        took.as_secs_f64(),
        outcome.digest.get(..12).unwrap_or_default()
    );
    if trace {
        println!("  {:?}", outcome.costs);
        for (kind, [done, refused, unknown]) in &outcome.tally {
            println!("  {kind}: {done} done, {refused} refused, {unknown} unknown");
        }
    }
}

fn fails(story: &Story, outcome: &Outcome, options: &Options) {
    for complaint in &outcome.complaints {
        println!("  FAILED: {complaint}");
    }
    let plant = options.plant.map_or(String::new(), |plant| format!(" --plant {}", plant.as_str()));
    let hostile = if options.hostile { " --hostile" } else { "" };
    println!(
        "again with: scripts/simulate --seed {} --servers {} --people {} --steps {}{hostile}{plant}",
        story.seed, options.servers, options.people, options.steps
    );
    if options.shrink > 0 {
        let (shortest, outcome) = shrink(story, options.plant, options.shrink, &mut |shorter| {
            println!("  {} steps still fail", shorter.steps.len());
        });
        print!("the shortest story that fails:\n{shortest}");
        for complaint in &outcome.complaints {
            println!("  FAILED: {complaint}");
        }
    }
}
