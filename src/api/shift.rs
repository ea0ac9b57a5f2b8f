//! A carrier's time: what an actor has for others leaves this server within it, or the next carrier takes it on.

use crate::{Context, Failure};

/// How long one carrier works, in milliseconds: less than a Worker may after its answer.
const SHIFT_MS: u64 = 20_000;

/// The time of one carrier, who is known to the actor by the request's id.
pub(crate) struct Shift<'a> {
    cx: &'a Context,
    pub carrier: &'a str,
    pub until_ms: u64,
}

impl<'a> Shift<'a> {
    pub(crate) fn begins(cx: &'a Context) -> Self {
        Self { cx, carrier: cx.request_id(), until_ms: cx.now_ms().saturating_add(SHIFT_MS) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.cx.now_ms() >= self.until_ms
    }

    /// Carries `once` after the other while that answers that there may be more. Where the time is over first, the
    /// actor is told to `hand_over`, so that the next carrier need not wait for the end of this one's lease. What goes
    /// wrong is logged, and tried again when the lease ends.
    pub(crate) async fn works(
        &self,
        once: impl AsyncFn() -> Result<bool, Failure>,
        hand_over: impl AsyncFn() -> Result<(), Failure>,
    ) {
        if let Err(failure) = self.until_the_end(once, hand_over).await {
            tracing::error!(failure = %failure.into_fault(), "carrying failed");
        }
    }

    async fn until_the_end(
        &self,
        once: impl AsyncFn() -> Result<bool, Failure>,
        hand_over: impl AsyncFn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while once().await? {
            if self.is_over() {
                return hand_over().await;
            }
        }
        Ok(())
    }
}
