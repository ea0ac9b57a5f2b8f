//! The same load for any homeserver: `load run` measures one, `load grow` how it takes growth, `load media` how it
//! takes files, `load table` sets several side by side.
//!
//! In scope: throughput, latency, memory, and what operations cost by the server's own counters. Out of scope:
//! starting and stopping servers, which scripts/bench does. Only servers on this machine are loaded, and every
//! measurement is bounded in count and time. Times are not judged, but for ratios within one run; counts are, against
//! budgets.

mod client;
mod costs;
mod growth;
mod keys;
mod media;
mod process;
mod report;
mod samples;
mod sends;
mod storm;
mod syncs;
mod user;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand};
use client::Origin;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use report::{Better, Report};
use storm::Bounds;
use user::{AT_ONCE, Registrar, User};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Puts homeservers on this machine under load.
#[derive(Parser)]
#[command(name = "load", arg_required_else_help = true)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure one server
    Run(Run),
    /// Measure how one server's operations grow with what there is
    Grow(Grow),
    /// Measure how one server takes files, and the memory that takes it
    Media(Run),
    /// Print one table of several measurements; fails when a budget was not kept
    Table(Table),
}

#[derive(Args)]
struct Run {
    /// Where it listens: http://127.0.0.1:PORT
    url: String,
    /// What the table calls it; the URL if not given
    #[arg(long)]
    name: Option<String>,
    /// The server's registration_shared_secret, if registration is not open
    #[arg(long)]
    secret: Option<String>,
    /// Small numbers: quick, and good for counting only
    #[arg(long)]
    quick: bool,
    /// A process whose memory, with that of its descendants, is the server's
    #[arg(long)]
    pid: Vec<u32>,
    /// How long the server took to start
    #[arg(long)]
    started_ms: Option<f64>,
    /// Where the measurement goes
    #[arg(long)]
    json: PathBuf,
}

#[derive(Args)]
struct Grow {
    #[command(flatten)]
    run: Run,
    /// The most members of a room
    #[arg(long, default_value_t = 20_000)]
    members: usize,
    /// The most events of a room
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// The most rooms of an account
    #[arg(long, default_value_t = 2_000)]
    rooms: usize,
    /// Opens the server's test hooks: its REGISTRATION_SHARED_SECRET
    #[arg(long)]
    hooks: Option<String>,
    /// What a sync after one message may take in the account with the most rooms: the median, in ms
    #[arg(long)]
    sync_ms_max: Option<f64>,
}

#[derive(Args)]
struct Table {
    /// What `load run` wrote
    #[arg(required = true)]
    measurements: Vec<PathBuf>,
    /// Where all of them go together
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How often each operation is timed at each size.
const GROWTH_SAMPLES: usize = 30;
const GROWTH_SAMPLES_QUICK: usize = 7;

/// How much of everything.
struct Sizes {
    /// Members of the busy room; everybody else is taken from them.
    users: usize,
    senders: Vec<usize>,
    hot_senders: Vec<usize>,
    bounds: Bounds,
    /// Messages whose way is timed one by one.
    samples: usize,
    waiting: usize,
    idle: usize,
    rooms: Vec<usize>,
    /// Those who claim keys at once, those who have some, and of these those who are sent to.
    claimers: usize,
    keyed: usize,
    receivers: usize,
    /// Repetitions of what is large.
    rounds: usize,
    /// Operations of a kind whose cost is counted: few enough that no alarm fires among them.
    counted: usize,
}

impl Sizes {
    fn full() -> Self {
        Self {
            users: 101,
            senders: vec![1, 16, 64],
            hot_senders: vec![16, 64],
            bounds: Bounds { time: Duration::from_secs(5), count_each: 100_000 },
            samples: 200,
            waiting: 100,
            idle: 16,
            rooms: vec![50, 200],
            claimers: 16,
            keyed: 200,
            receivers: 100,
            rounds: 7,
            counted: 20,
        }
    }

    fn quick() -> Self {
        Self {
            users: 11,
            senders: vec![1, 4],
            hot_senders: vec![4],
            bounds: Bounds { time: Duration::from_secs(1), count_each: 20 },
            samples: 10,
            waiting: 10,
            idle: 4,
            rooms: vec![5],
            claimers: 4,
            keyed: 20,
            receivers: 10,
            rounds: 2,
            counted: 10,
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Run(run) => block_on(measure(run)),
        Command::Grow(grow) => block_on(measure_growth(grow)),
        Command::Media(run) => block_on(measure_media(run)),
        Command::Table(table) => show(&table),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn measure(run: Run) -> Result<ExitCode> {
    let sizes = if run.quick { Sizes::quick() } else { Sizes::full() };
    let origin = Origin::parse(&run.url)?;
    let mut report = Report::new(run.name.unwrap_or(run.url));
    if let Some(started_ms) = run.started_ms {
        report.figure("start", "ms", started_ms, Better::Lower);
    }
    memory("memory at start", &run.pid, &mut report);

    say("making accounts");
    let registrar = Registrar::new(origin, run.secret, now()?);
    let mut users = registrar.users("u", sizes.users).await?;
    let room = busy_room(&mut users).await?;

    say("sending");
    sends::many_rooms(&mut users, &sizes, &mut report).await?;
    sends::hot_room(&mut users, &room, &sizes, &mut report).await?;
    say("waiting for news");
    syncs::send_to_receive(&registrar, &sizes, &mut report).await?;
    syncs::wake_up(&mut users, &room, &sizes, &mut report).await?;
    say("syncing");
    syncs::idle(&mut users, &sizes, &mut report).await?;
    syncs::initial(&registrar, &sizes, &mut report).await?;
    say("exchanging keys");
    let mut keys = keys::Keys::publish(&registrar, &sizes).await?;
    keys.speeds(&sizes, &mut report).await?;
    memory("memory under load", &run.pid, &mut report);
    drop(users);
    say("counting");
    costs::costs(origin, &registrar, &mut keys, &sizes, &mut report).await?;
    write(&run.json, &report)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure_growth(grow: Grow) -> Result<ExitCode> {
    let Grow { run, members, events, rooms, hooks, sync_ms_max } = grow;
    let samples = if run.quick { GROWTH_SAMPLES_QUICK } else { GROWTH_SAMPLES };
    let origin = Origin::parse(&run.url)?;
    let mut report = Report::new(run.name.unwrap_or(run.url));
    say("growing");
    let registrar = Registrar::new(origin, run.secret, now()?);
    let sizes = growth::Sizes { members, events, rooms, samples, sync_ms_max };
    growth::growth(origin, &registrar, hooks, &sizes, &run.pid, &mut report).await?;
    write(&run.json, &report)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure_media(run: Run) -> Result<ExitCode> {
    let sizes = if run.quick { media::Sizes::quick() } else { media::Sizes::full() };
    let origin = Origin::parse(&run.url)?;
    let mut report = Report::new(run.name.unwrap_or(run.url));
    let registrar = Registrar::new(origin, run.secret, now()?);
    media::media(origin, &registrar, &sizes, &run.pid, &mut report).await?;
    write(&run.json, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// A room that all of them joined.
async fn busy_room(users: &mut [User]) -> Result<String> {
    let (owner, others) = users.split_first_mut().ok_or("no users")?;
    let room = owner.creates_room("public_chat").await?;
    stream::iter(others).map(|user| user.joins(&room)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(room)
}

fn memory(what: &str, pids: &[u32], report: &mut Report) {
    if let Some(resident_mb) = process::resident_mb(pids) {
        report.figure(what, "MB", resident_mb, Better::Lower);
    }
}

/// Marks the accounts of this run: a server may have seen runs before.
#[expect(clippy::disallowed_methods, reason = "a name, not a decision")]
fn now() -> Result<String> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(format!("{:x}", since_epoch.as_millis()))
}

fn show(table: &Table) -> Result<ExitCode> {
    let mut reports: Vec<Report> = Vec::new();
    for path in &table.measurements {
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        reports.push(serde_json::from_slice(&text)?);
    }
    io::stdout().lock().write_all(report::render(&reports).as_bytes())?;
    let kept = reports.iter().flat_map(|report| &report.budgets).all(report::Budget::is_kept);
    if let Some(path) = &table.json {
        write(path, &reports)?;
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn say(what: &str) {
    eprintln!("  {what}");
}
