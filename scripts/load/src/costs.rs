//! What operations cost, by the server's own counters: the difference of two readings, divided by the operations.
//!
//! Nothing else may run meanwhile, so everything that is needed is made before the first reading. A commit may arm an
//! alarm that fires seconds later, and its run may arm another: these runs belong to the operation, and the second
//! reading waits for them.

use std::time::Duration;

use futures_util::future::try_join;
use tokio::time::{Instant, sleep};

use crate::{
    Result, Sizes,
    client::{Client, Origin},
    keys::Keys,
    report::{Budget, Cost, Counters, Report},
    user::{Registrar, User},
};

/// No alarm is still to fire when the counters do not change for this long.
pub(crate) const ALARMS_REST: Duration = Duration::from_secs(6);
/// What was on its way has arrived when the counters do not change for this long.
pub(crate) const NUDGES_REST: Duration = Duration::from_millis(60);
/// A server that is asked nothing comes to rest within this: after five minutes its users are idle.
const RESTS_WITHIN: Duration = Duration::from_secs(420);
const READ_EVERY: Duration = Duration::from_millis(15);
/// Between a client's asking and the message it waits for.
const PARKS: Duration = Duration::from_millis(20);

/// A request that acts for somebody asks their User and calls the actor concerned.
const CALLS_PER_SEND_MAX: f64 = 2.0;
/// A sync asks the User what moved and ends there, and reads each room that moved.
const USER_CALLS_PER_SYNC_MAX: f64 = 2.0;
const ROWS_PER_MESSAGE_MAX: f64 = 5.0;
/// How many rooms moved in the syncs that are counted.
const ROOMS_MOVED: [usize; 3] = [0, 1, 3];

/// Measures every kind of operation, if the server shows counters.
pub(crate) async fn costs(
    origin: Origin,
    registrar: &Registrar,
    keys: &mut Keys,
    sizes: &Sizes,
    report: &mut Report,
) -> Result<()> {
    let mut meter = Meter::new(origin);
    if !meter.is_there().await? {
        return Ok(());
    }
    let count = sizes.counted;
    let mut alone = Pair::new(registrar, "cost-alone", 1).await?;
    let mut listening = Pair::new(registrar, "cost-listening", 1).await?;
    listening.has_heard("warm").await?;
    let mut reading = Vec::new();
    for moved in ROOMS_MOVED {
        let mut pair = Pair::new(registrar, &format!("cost-sync{moved}"), moved.max(1)).await?;
        pair.reader.syncs_all().await?;
        reading.push((moved, pair));
    }
    meter.at_rest(ALARMS_REST).await?;

    sends(&mut meter, &mut alone, count, report).await?;
    messages(&mut meter, &mut listening, count, report).await?;
    for (moved, pair) in &mut reading {
        syncs(&mut meter, pair, *moved, count, report).await?;
    }
    keys.costs(&mut meter, sizes, report).await?;
    accounts_and_rooms(&mut meter, registrar, count, report).await
}

async fn sends(meter: &mut Meter, pair: &mut Pair, count: usize, report: &mut Report) -> Result<()> {
    let spent = meter.spent_on(async {
        for _message in 0..count {
            pair.sends("hello", 1).await?;
        }
        Ok(())
    });
    let cost = Cost::new("send, nobody listens", count, spent.await?);
    report.budget(Budget::at_most("send: calls to actors", cost.per_operation().calls, CALLS_PER_SEND_MAX));
    report.cost(cost);
    Ok(())
}

async fn messages(meter: &mut Meter, pair: &mut Pair, count: usize, report: &mut Report) -> Result<()> {
    let spent = meter.spent_on(async {
        for number in 0..count {
            pair.has_heard(&format!("message {number}.")).await?;
        }
        Ok(())
    });
    let cost = Cost::new("message to one waiting client, its sync included", count, spent.await?);
    let rows = cost.per_operation().rows_written;
    report.budget(Budget::at_most("message to one waiting client: rows written", rows, ROWS_PER_MESSAGE_MAX));
    report.cost(cost);
    Ok(())
}

/// Syncs after one message in each of some rooms. Only the syncs are counted.
async fn syncs(meter: &mut Meter, pair: &mut Pair, moved: usize, count: usize, report: &mut Report) -> Result<()> {
    // What was still on its way with the initial sync.
    pair.reader.syncs(Duration::ZERO).await?;
    let mut spent = Counters::default();
    for _sync in 0..count {
        pair.sends("hello", moved).await?;
        let before = meter.at_rest(NUDGES_REST).await?;
        pair.reader.syncs(Duration::ZERO).await?;
        spent = spent + (meter.at_rest(NUDGES_REST).await? - before);
    }
    meter.at_rest(ALARMS_REST).await?;
    let what = match moved {
        0 => "sync, nothing new".to_owned(),
        1 => "sync after a message".to_owned(),
        _ => format!("sync after messages in {moved} rooms"),
    };
    let cost = Cost::new(&what, count, spent);
    let allowed = USER_CALLS_PER_SYNC_MAX + moved as f64;
    report.budget(Budget::at_most(&format!("{what}: calls to actors"), cost.per_operation().calls, allowed));
    report.cost(cost);
    Ok(())
}

async fn accounts_and_rooms(meter: &mut Meter, registrar: &Registrar, count: usize, report: &mut Report) -> Result<()> {
    let mut people = Vec::new();
    let registering = meter.spent_on(async {
        for number in 0..count {
            people.push(registrar.user(format!("cost-register{number}")).await?);
        }
        Ok(())
    });
    report.cost(Cost::new("register", count, registering.await?));

    let logging_in = meter.spent_on(async {
        for user in &mut people {
            user.logs_in().await?;
        }
        Ok(())
    });
    report.cost(Cost::new("login", count, logging_in.await?));

    let (owner, others) = people.split_first_mut().ok_or("nothing is counted")?;
    let mut rooms = Vec::new();
    let creating = meter.spent_on(async {
        for _room in 0..count {
            rooms.push(owner.creates_room("public_chat").await?);
        }
        Ok(())
    });
    report.cost(Cost::new("createRoom", count, creating.await?));

    let joins = others.len();
    let joining = meter.spent_on(async {
        for (user, room) in others.iter_mut().zip(&rooms) {
            user.joins(room).await?;
        }
        Ok(())
    });
    report.cost(Cost::new("join", joins, joining.await?));
    Ok(())
}

/// Two people in some rooms.
struct Pair {
    writer: User,
    reader: User,
    rooms: Vec<String>,
}

impl Pair {
    async fn new(registrar: &Registrar, what: &str, rooms: usize) -> Result<Self> {
        let mut pair = Self {
            writer: registrar.user(format!("{what}-writer")).await?,
            reader: registrar.user(format!("{what}-reader")).await?,
            rooms: Vec::new(),
        };
        for _room in 0..rooms {
            let room = pair.writer.creates_room("public_chat").await?;
            pair.reader.joins(&room).await?;
            // Whoever never synced is told of this one and then wants silence.
            pair.writer.sends(&room, "warm").await?;
            pair.rooms.push(room);
        }
        Ok(pair)
    }

    /// One message to each of the first so many rooms.
    async fn sends(&mut self, text: &str, rooms: usize) -> Result<()> {
        for room in self.rooms.iter().take(rooms) {
            self.writer.sends(room, text).await?;
        }
        Ok(())
    }

    /// One message while the reader waits for it.
    async fn has_heard(&mut self, text: &str) -> Result<()> {
        let room = self.rooms.first().ok_or("no room")?;
        if self.reader.since.is_empty() {
            self.reader.syncs_all().await?;
        }
        let sending = async {
            sleep(PARKS).await;
            self.writer.sends(room, text).await
        };
        try_join(sending, self.reader.receives(text)).await?;
        Ok(())
    }
}

/// The server's `/metrics`.
pub(crate) struct Meter {
    client: Client,
}

impl Meter {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { client: Client::new(origin) }
    }

    pub(crate) async fn is_there(&mut self) -> Result<bool> {
        let answer = self.client.get("/metrics").await?;
        Ok(answer.status == 200 && answer.body.starts_with(b"# HELP myelin_"))
    }

    /// What some work cost, with the alarms it armed.
    pub(crate) async fn spent_on(&mut self, work: impl Future<Output = Result<()>>) -> Result<Counters> {
        let before = self.read().await?;
        work.await?;
        Ok(self.at_rest(ALARMS_REST).await? - before)
    }

    /// A reading that has not changed for `rest`.
    pub(crate) async fn at_rest(&mut self, rest: Duration) -> Result<Counters> {
        let deadline = Instant::now() + RESTS_WITHIN;
        let (mut reading, mut since) = (self.read().await?, Instant::now());
        while since.elapsed() < rest {
            if Instant::now() > deadline {
                return Err(format!("the server does not come to rest: {reading:?}").into());
            }
            sleep(READ_EVERY).await;
            let next = self.read().await?;
            if next != reading {
                (reading, since) = (next, Instant::now());
            }
        }
        Ok(reading)
    }

    pub(crate) async fn read(&mut self) -> Result<Counters> {
        let body = self.client.get("/metrics").await?.ok()?;
        Ok(Counters::parse(std::str::from_utf8(&body)?))
    }
}
