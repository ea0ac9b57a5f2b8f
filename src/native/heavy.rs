use std::{sync::Arc, time::Duration};

use platform::{Fault, Heavy, LocalFuture};
use tokio::sync::Semaphore;

/// Long computations, on threads of their own and no more at a time than the machine has processors: each may
/// take 20 MB of memory.
#[derive(Clone)]
pub(crate) struct HeavyThreads {
    free: Arc<Semaphore>,
}

impl HeavyThreads {
    pub(crate) fn new(threads: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(threads.max(1))) }
    }
}

impl Heavy for HeavyThreads {
    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move {
            let turn = self.free.clone().acquire_owned().await;
            let turn = turn.map_err(|_| Fault::retriable("the host is shutting down"))?;
            let done = tokio::task::spawn_blocking(move || {
                let outcome = work();
                drop(turn);
                outcome
            });
            done.await.map_err(|error| Fault::new(format!("a computation failed: {error}")))
        })
    }

    fn pause<'a>(&'a self, ms: u64) -> LocalFuture<'a, ()> {
        Box::pin(tokio::time::sleep(Duration::from_millis(ms)))
    }
}
