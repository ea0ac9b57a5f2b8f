//! What the federation costs: one server, with others that are played. `scripts/bench --federation` runs it for each
//! server and sets them side by side with `load table`.
//!
//!     federation-bench native|worker|synapse --json FILE [--quick] [--part receiving|sending|forks|joining]
//!
//! In scope: what other servers send, what goes out to them, joining rooms of theirs, forks. Servers are started as in
//! the tests, by the same environment (`tests/harness`). Out of scope: judging times. Counts have budgets, which
//! `load table` judges. What a part of it fails at is said, and the other parts are measured.

mod forks;
mod joining;
mod meter;
mod receiving;
mod report;
mod sending;
mod tried;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use harness::Host;

use crate::{
    report::Report,
    tried::{Kind, Tried},
};

/// How much of everything.
struct Sizes {
    /// Rooms over which what is received is spread, and servers that send at once.
    rooms: usize,
    servers: usize,
    /// Transactions of 50 PDUs, and of one, by all servers together; after this time no more are begun.
    transactions: [usize; 2],
    receives_for: Duration,
    /// Messages whose way is timed one by one, and messages that are sent as fast as can be.
    messages_timed: usize,
    messages_at_once: usize,
    /// Members of the rooms that are joined.
    members: Vec<usize>,
    branches: Vec<usize>,
}

impl Sizes {
    fn of(kind: Kind, quick: bool) -> Self {
        let full = Self {
            rooms: 100,
            servers: 8,
            transactions: [160, 1600],
            receives_for: Duration::from_secs(5),
            messages_timed: 100,
            messages_at_once: 800,
            members: vec![1_000, 10_000, 100_000],
            branches: vec![20, 50],
        };
        match kind {
            _ if quick => Self {
                rooms: 10,
                transactions: [8, 40],
                messages_timed: 10,
                messages_at_once: 40,
                members: vec![100, 1_000],
                branches: vec![20],
                ..full
            },
            Kind::Ours(Host::Native) => full,
            Kind::Ours(Host::Worker) => Self { transactions: [40, 400], messages_at_once: 200, ..full },
            Kind::Synapse => {
                Self { transactions: [16, 160], messages_at_once: 100, members: vec![1_000, 10_000], ..full }
            }
        }
    }
}

/// Measures some of it.
type Part<'a> = dyn Fn(&mut Report) + 'a;

/// What we are asked for.
struct Wanted {
    kind: Kind,
    file: PathBuf,
    quick: bool,
    /// The only part that is measured.
    part: Option<String>,
}

fn wanted() -> Option<Wanted> {
    let mut words = std::env::args().skip(1);
    let mut wanted = Wanted { kind: words.next()?.parse().ok()?, file: PathBuf::new(), quick: false, part: None };
    while let Some(word) = words.next() {
        match &*word {
            "--json" => wanted.file = words.next()?.into(),
            "--part" => wanted.part = Some(words.next()?),
            "--quick" => wanted.quick = true,
            _ => return None,
        }
    }
    (!wanted.file.as_os_str().is_empty()).then_some(wanted)
}

fn main() -> ExitCode {
    let Some(Wanted { kind, file, quick, part }) = wanted() else {
        eprintln!("usage: federation-bench native|worker|synapse --json FILE [--quick] [--part NAME]");
        return ExitCode::FAILURE;
    };
    let (sizes, mut report) = (Sizes::of(kind, quick), Report::new(kind.name()));
    let tried = Tried::starts(kind);
    let parts: [(&str, &Part<'_>); 4] = [
        ("receiving", &|report| receiving::measure(&tried, &sizes, report)),
        ("sending", &|report| sending::measure(&tried, &sizes, report)),
        ("forks", &|report| forks::measure(&tried, &sizes, report)),
        ("joining", &|report| joining::measure(kind, &sizes, report)),
    ];
    let mut outcome = ExitCode::SUCCESS;
    for (name, measure) in parts.into_iter().filter(|(name, _)| part.as_deref().is_none_or(|part| part == *name)) {
        eprintln!("  {name}");
        // Why it failed was said by the panic.
        if catch_unwind(AssertUnwindSafe(|| measure(&mut report))).is_err() {
            outcome = ExitCode::FAILURE;
        }
    }
    report.write(&file);
    outcome
}
