//! How what precedes an encrypted message grows with the members of its room, each with a device.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use super::{Bench, CROWD_AT_ONCE, Curves, Grows, Two, nothing, steps};
use crate::{Result, keys, report::Report, user::User};

/// The members of a large encrypted room.
const MEMBERS_MAX: usize = 1_000;

impl Bench<'_> {
    pub(super) async fn encrypted(&mut self, report: &mut Report) -> Result<()> {
        let mut curves = Curves::new("members of an encrypted room");
        let mut two = self.two("encrypted").await?;
        two.writer.encrypts(&two.room).await?;
        two.writer.uploads_keys(&json!({ "device_keys": keys::device_keys(&two.writer) })).await?;
        let mut members: Vec<User> = Vec::new();
        for size in steps(MEMBERS_MAX).filter(|size| *size > 1) {
            members.extend(self.keyed(&two.room, size, size - members.len()).await?);
            self.begin(&mut two, &mut curves, size).await?;

            let everybody = keys::queried(&members);
            let ask = async |two: &mut Two| two.writer.asks_keys(&everybody).await;
            let point = self.times(&mut two, nothing, ask).await?;
            curves.add("query everybody's keys", Grows::WithAnswer, point);

            let one_of_each: Value = members
                .iter()
                .map(|user| (user.id.clone(), json!({ (&user.device_id): "signed_curve25519" })))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let claim = async |two: &mut Two| two.writer.claims_keys(&one_of_each).await;
            let point = self.times(&mut two, nothing, claim).await?;
            curves.add("claim a key of each", Grows::WithAnswer, point);

            let messages = keys::receivers(&members, size);
            let send = async |two: &mut Two| two.writer.sends_to_devices(&messages).await;
            let point = self.times(&mut two, nothing, send).await?;
            curves.add("message to each", Grows::WithAnswer, point);

            // The writer's device changes, and a member hears of it.
            let change = async |two: &mut Two| two.writer.renames_device().await;
            let hear = async |two: &mut Two| two.reader.syncs(Duration::ZERO).await.map(drop);
            let point = self.times(&mut two, change, hear).await?;
            curves.add("sync after a changed device", Grows::Not, point);
            self.memory(&mut curves).await?;
        }
        curves.report(report);
        Ok(())
    }

    /// Members with keys, who never look.
    async fn keyed(&self, room: &str, size: usize, count: usize) -> Result<Vec<User>> {
        let made = (0..count).map(|number| async move {
            let mut user = self.registrar.user(format!("keyed{size}-{number}")).await?;
            let one_time_keys = keys::one_time_keys("growth", self.samples.saturating_mul(4));
            let keys = json!({ "device_keys": keys::device_keys(&user), "one_time_keys": one_time_keys });
            user.uploads_keys(&keys).await?;
            user.joins(room).await?;
            Result::Ok(user)
        });
        stream::iter(made).buffer_unordered(CROWD_AT_ONCE).try_collect().await
    }
}
