//! How many messages a server takes, and how long each takes.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    Result, Sizes,
    report::Report,
    storm::storm,
    user::{AT_ONCE, User},
};

/// Each sender in a room of their own.
pub(crate) async fn many_rooms(users: &mut [User], sizes: &Sizes, report: &mut Report) -> Result<()> {
    let most = sizes.senders.iter().copied().max().unwrap_or(0);
    let alone: Vec<(&mut User, String)> = stream::iter(users.iter_mut().take(most))
        .map(|user| async {
            let room = user.creates_room("private_chat").await?;
            user.sends(&room, "warm").await?;
            Result::Ok((user, room))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    measure(alone, &sizes.senders, sizes, "send, many rooms", report).await
}

/// All senders in one room, which everybody here has joined.
pub(crate) async fn hot_room(users: &mut [User], room: &str, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let together = users.iter_mut().map(|user| (user, room.to_owned())).collect();
    measure(together, &sizes.hot_senders, sizes, "send, one room", report).await
}

async fn measure(
    mut senders: Vec<(&mut User, String)>,
    counts: &[usize],
    sizes: &Sizes,
    what: &str,
    report: &mut Report,
) -> Result<()> {
    for count in counts {
        let active = senders.get_mut(..*count).ok_or("not enough users")?;
        let outcome = storm(active, sizes.bounds, async |(user, room)| user.sends(room, "hello").await).await?;
        let what = format!("{what}, {count} senders");
        report.rate(&what, "sends/s", outcome.per_second);
        report.percentiles(&what, &outcome.samples);
    }
    Ok(())
}
