//! How fast news arrive, how much asking costs.

use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use tokio::time::{Instant, sleep};

use crate::{
    Result, Sizes,
    report::{Better, Report},
    samples::Samples,
    storm::storm,
    user::{Registrar, User},
};

/// Between asking and being told, so that a client really waits.
const ONE_PARKS: Duration = Duration::from_millis(20);
const ALL_PARK: Duration = Duration::from_millis(500);

/// From sending to the answer of somebody's waiting sync, one message after the other.
pub(crate) async fn send_to_receive(registrar: &Registrar, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let mut sender = registrar.user("latency-from".to_owned()).await?;
    let mut receiver = registrar.user("latency-to".to_owned()).await?;
    let room = sender.creates_room("public_chat").await?;
    receiver.joins(&room).await?;
    receiver.syncs_all().await?;
    let mut took = Vec::new();
    for number in 0..sizes.samples {
        let text = format!("latency {number}.");
        let sending = async {
            sleep(ONE_PARKS).await;
            let sent_at = Instant::now();
            sender.sends(&room, &text).await?;
            Result::Ok(sent_at)
        };
        let receiving = async {
            receiver.receives(&text).await?;
            Result::Ok(Instant::now())
        };
        let (sent_at, received_at) = try_join(sending, receiving).await?;
        took.push(received_at - sent_at);
    }
    report.percentiles("send to receive", &took.into_iter().collect());
    Ok(())
}

/// One message, and everyone who waits in the room.
pub(crate) async fn wake_up(users: &mut [User], room: &str, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let (sender, waiting) = users.split_first_mut().ok_or("no users")?;
    let waiting = waiting.get_mut(..sizes.waiting).ok_or("not enough users")?;
    try_join_all(waiting.iter_mut().map(User::syncs_all)).await?;
    let (mut took, mut last) = (Vec::new(), Vec::new());
    for round in 0..sizes.rounds {
        let text = format!("wake {round}.");
        let sending = async {
            sleep(ALL_PARK).await;
            let sent_at = Instant::now();
            sender.sends(room, &text).await?;
            Result::Ok(sent_at)
        };
        let receiving = try_join_all(waiting.iter_mut().map(|user| async {
            user.receives(&text).await?;
            Result::Ok(Instant::now())
        }));
        let (sent_at, received) = try_join(sending, receiving).await?;
        let woken: Vec<Duration> = received.into_iter().map(|received_at| received_at - sent_at).collect();
        last.extend(woken.iter().max());
        took.extend(woken);
    }
    let what = format!("wake-up of {} waiting", sizes.waiting);
    report.percentiles(&what, &took.into_iter().collect());
    let last: Samples = last.into_iter().collect();
    report.figure(&what, "last ms", last.percentile_ms(50), Better::Lower);
    Ok(())
}

/// Everything a new device needs.
pub(crate) async fn initial(registrar: &Registrar, sizes: &Sizes, report: &mut Report) -> Result<()> {
    for rooms in &sizes.rooms {
        let mut user = registrar.user(format!("initial{rooms}")).await?;
        for _room in 0..*rooms {
            user.creates_room("private_chat").await?;
        }
        let (mut took, mut bytes) = (Vec::new(), 0);
        for _round in 0..sizes.rounds {
            let began = Instant::now();
            bytes = user.syncs_all().await?.len();
            took.push(began.elapsed());
        }
        let what = format!("initial sync, {rooms} rooms");
        let took: Samples = took.into_iter().collect();
        report.figure(&what, "p50 ms", took.percentile_ms(50), Better::Lower);
        report.figure(&what, "kB", bytes as f64 / 1000.0, Better::Lower);
    }
    Ok(())
}

/// Asking when nothing happened.
pub(crate) async fn idle(users: &mut [User], sizes: &Sizes, report: &mut Report) -> Result<()> {
    let asking = users.get_mut(..sizes.idle).ok_or("not enough users")?;
    for user in asking.iter_mut() {
        user.syncs_all().await?;
    }
    let outcome = storm(asking, sizes.bounds, async |user| user.syncs(Duration::ZERO).await.map(drop)).await?;
    let what = format!("idle sync, {} clients", sizes.idle);
    report.rate(&what, "syncs/s", outcome.per_second);
    report.percentiles(&what, &outcome.samples);
    Ok(())
}
