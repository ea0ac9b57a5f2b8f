//! What operations cost, by the server's own counters: the difference of two readings, divided by the operations.
//!
//! Nothing else may run meanwhile. A commit may arm an alarm that fires seconds later: its run belongs to the
//! operation that armed it, so the second reading waits until nothing has moved for longer than that.

use std::time::Duration;

use futures_util::future::try_join;
use tokio::time::{Instant, sleep};

use crate::{
    Result, Sizes,
    client::{Client, Origin},
    report::{Budget, Cost, Counters, Report},
    user::{Registrar, User},
};

/// An alarm armed by the last operation has fired after this long without a change.
const ALARMS_REST: Duration = Duration::from_secs(7);
/// Nudges on their way have arrived after this long without a change.
const NUDGES_REST: Duration = Duration::from_millis(60);
/// A server that is asked nothing comes to rest within this.
const RESTS_WITHIN: Duration = Duration::from_secs(60);
const READ_EVERY: Duration = Duration::from_millis(15);
/// Between a client's asking and the message it waits for.
const PARKS: Duration = Duration::from_millis(20);

/// A request that acts for somebody asks their User and calls the actor concerned.
const CALLS_PER_SEND_MAX: f64 = 2.0;
/// A sync asks the User what moved and ends there, and reads each room that moved.
const USER_CALLS_PER_SYNC_MAX: f64 = 2.0;
const ROWS_PER_MESSAGE_MAX: f64 = 5.0;
/// Rooms that moved at once, in the sync with several.
const ROOMS_MOVED: usize = 3;

/// Measures every kind of operation, if the server shows counters.
pub(crate) async fn costs(origin: Origin, registrar: &Registrar, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let mut meter = Meter { client: Client::new(origin) };
    if !meter.is_there().await? {
        return Ok(());
    }
    let count = sizes.counted;
    send_alone(&mut meter, registrar, count, report).await?;
    messages_to_a_waiting_client(&mut meter, registrar, count, report).await?;
    for rooms in [0, 1, ROOMS_MOVED] {
        syncs(&mut meter, registrar, rooms, count, report).await?;
    }
    accounts_and_rooms(&mut meter, registrar, count, report).await
}

async fn send_alone(meter: &mut Meter, registrar: &Registrar, count: usize, report: &mut Report) -> Result<()> {
    let mut sender = registrar.user("cost-alone".to_owned()).await?;
    let room = sender.creates_room("private_chat").await?;
    // The sender, who never synced, is told of this one and then wants silence.
    sender.sends(&room, "warm").await?;
    let before = meter.settled(ALARMS_REST).await?;
    for _message in 0..count {
        sender.sends(&room, "hello").await?;
    }
    let cost = Cost::new("send, nobody listens", count, meter.settled(ALARMS_REST).await? - before);
    report.budget(Budget::at_most("send: calls to actors", cost.per_operation().calls, CALLS_PER_SEND_MAX));
    report.cost(cost);
    Ok(())
}

async fn messages_to_a_waiting_client(
    meter: &mut Meter,
    registrar: &Registrar,
    count: usize,
    report: &mut Report,
) -> Result<()> {
    let (mut sender, mut waiting, room) = pair(registrar, "cost-message").await?;
    waiting.syncs_all().await?;
    let mut before = meter.settled(ALARMS_REST).await?;
    for number in 0..=count {
        if number == 1 {
            // The first was for warming up.
            before = meter.settled(ALARMS_REST).await?;
        }
        let text = format!("message {number}.");
        let sending = async {
            sleep(PARKS).await;
            sender.sends(&room, &text).await
        };
        try_join(sending, waiting.receives(&text)).await?;
    }
    let what = "message to one waiting client, its sync included";
    let cost = Cost::new(what, count, meter.settled(ALARMS_REST).await? - before);
    let rows = cost.per_operation().rows_written;
    report.budget(Budget::at_most("message to one waiting client: rows written", rows, ROWS_PER_MESSAGE_MAX));
    report.cost(cost);
    Ok(())
}

/// Syncs after one message in each of some rooms. Only the syncs are counted.
async fn syncs(
    meter: &mut Meter,
    registrar: &Registrar,
    moved: usize,
    count: usize,
    report: &mut Report,
) -> Result<()> {
    let (mut sender, mut reader, first) = pair(registrar, &format!("cost-sync{moved}")).await?;
    let mut rooms = vec![first];
    while rooms.len() < moved {
        let room = sender.creates_room("public_chat").await?;
        reader.joins(&room).await?;
        rooms.push(room);
    }
    reader.syncs_all().await?;
    meter.settled(ALARMS_REST).await?;
    let mut spent = Counters::default();
    for _sync in 0..count {
        for room in rooms.iter().take(moved) {
            sender.sends(room, "hello").await?;
        }
        let before = meter.settled(NUDGES_REST).await?;
        reader.syncs(Duration::ZERO).await?;
        spent = spent + (meter.settled(NUDGES_REST).await? - before);
    }
    let what = match moved {
        0 => "sync, nothing new".to_owned(),
        1 => "sync after a message".to_owned(),
        _ => format!("sync after messages in {moved} rooms"),
    };
    let cost = Cost::new(&what, count, spent);
    let allowed = USER_CALLS_PER_SYNC_MAX + moved as f64;
    report.budget(Budget::at_most(&format!("{what}: calls to actors"), cost.per_operation().calls, allowed));
    report.cost(cost);
    meter.settled(ALARMS_REST).await?;
    Ok(())
}

async fn accounts_and_rooms(meter: &mut Meter, registrar: &Registrar, count: usize, report: &mut Report) -> Result<()> {
    let before = meter.settled(ALARMS_REST).await?;
    let mut people = Vec::new();
    for number in 0..count {
        people.push(registrar.user(format!("cost-register{number}")).await?);
    }
    let registered = meter.settled(ALARMS_REST).await?;
    report.cost(Cost::new("register", count, registered - before));

    for user in &mut people {
        user.logs_in().await?;
    }
    let logged_in = meter.settled(ALARMS_REST).await?;
    report.cost(Cost::new("login", count, logged_in - registered));

    let (owner, joining) = people.split_first_mut().ok_or("nothing is counted")?;
    let mut rooms = Vec::new();
    for _room in 0..count {
        rooms.push(owner.creates_room("public_chat").await?);
    }
    let created = meter.settled(ALARMS_REST).await?;
    report.cost(Cost::new("createRoom", count, created - logged_in));

    for (user, room) in joining.iter_mut().zip(&rooms) {
        user.joins(room).await?;
    }
    let joined = meter.settled(ALARMS_REST).await?;
    report.cost(Cost::new("join", count - 1, joined - created));
    Ok(())
}

/// Two people in a room.
async fn pair(registrar: &Registrar, what: &str) -> Result<(User, User, String)> {
    let mut one = registrar.user(format!("{what}-from")).await?;
    let mut other = registrar.user(format!("{what}-to")).await?;
    let room = one.creates_room("public_chat").await?;
    other.joins(&room).await?;
    Ok((one, other, room))
}

/// The server's `/metrics`.
struct Meter {
    client: Client,
}

impl Meter {
    async fn is_there(&mut self) -> Result<bool> {
        let answer = self.client.get("/metrics").await?;
        Ok(answer.status == 200 && answer.body.starts_with(b"# HELP myelin_"))
    }

    async fn read(&mut self) -> Result<Counters> {
        let body = self.client.get("/metrics").await?.ok()?;
        Ok(Counters::parse(std::str::from_utf8(&body)?))
    }

    /// A reading that has not changed for `rest`.
    async fn settled(&mut self, rest: Duration) -> Result<Counters> {
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
}
