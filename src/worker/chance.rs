//! Time, chance and heavy work, as the runtime offers them.

use std::time::Duration;

use platform::{Clock, Fault, Heavy, LocalFuture, Random};

/// The runtime's clock and its source of randomness.
#[derive(Clone, Copy)]
pub(crate) struct Runtime;

impl Clock for Runtime {
    fn now_ms(&self) -> u64 {
        js_sys::Date::now() as u64
    }
}

impl Random for Runtime {
    #[expect(clippy::disallowed_methods, reason = "this is where the platform's randomness comes from")]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Fault> {
        getrandom::fill(bytes).map_err(|error| Fault::new(format!("randomness: {error}")))
    }
}

impl Heavy for Runtime {
    /// An isolate has one thread, so the work runs in place; other isolates take other requests.
    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move { Ok(work()) })
    }

    fn pause<'a>(&'a self, ms: u64) -> LocalFuture<'a, ()> {
        Box::pin(worker::Delay::from(Duration::from_millis(ms)))
    }
}
