use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use platform::Clock;

/// The system's clock, held still while the system turns it back: positions and deadlines never see time run
/// backwards within one process.
#[derive(Clone, Copy)]
pub(crate) struct SystemClock;

static LATEST_MS: AtomicU64 = AtomicU64::new(0);

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where time enters this host")]
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        LATEST_MS.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }
}
