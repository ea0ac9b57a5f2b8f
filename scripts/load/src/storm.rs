//! Many doing the same at once.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use crate::{Result, samples::Samples};

/// When a storm is over: after this time, or when everybody did this much.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub time: Duration,
    pub count_each: usize,
}

pub(crate) struct Outcome {
    pub samples: Samples,
    pub per_second: f64,
}

/// Everyone repeats the operation, each the next when their last is done.
pub(crate) async fn storm<T>(
    everyone: &mut [T],
    bounds: Bounds,
    operation: impl AsyncFn(&mut T) -> Result<()>,
) -> Result<Outcome> {
    let (operation, started) = (&operation, Instant::now());
    let end = started + bounds.time;
    let repeating = everyone.iter_mut().map(|one| async move {
        let mut took = Vec::new();
        while took.len() < bounds.count_each && Instant::now() < end {
            let began = Instant::now();
            operation(one).await?;
            took.push(began.elapsed());
        }
        Result::Ok(took)
    });
    let samples: Samples = try_join_all(repeating).await?.into_iter().flatten().collect();
    let per_second = samples.count() as f64 / started.elapsed().as_secs_f64();
    Ok(Outcome { samples, per_second })
}
