//! Counters of what costs money or time, the same on both hosts.
//!
//! They live for the process (the isolate on Workers) and only grow. `GET /metrics` shows them in the
//! Prometheus text format; the benchmark subtracts two readings and prices the difference.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// One counter.
pub struct Counter {
    name: &'static str,
    help: &'static str,
    value: AtomicU64,
}

impl Counter {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: AtomicU64::new(0) }
    }

    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

pub static REQUESTS: Counter = Counter::new("myelin_http_requests_total", "HTTP requests answered");
pub static FAULTS: Counter =
    Counter::new("myelin_faults_total", "Requests and background work that failed by our own fault");
pub static OBJECT_CALLS: Counter = Counter::new("myelin_object_requests_total", "Calls to actors");
pub static OBJECT_ALARMS: Counter = Counter::new("myelin_object_alarms_total", "Alarms that fired");
pub static ROWS_READ: Counter = Counter::new("myelin_rows_read_total", "Rows read in actors' databases");
pub static ROWS_WRITTEN: Counter =
    Counter::new("myelin_rows_written_total", "Rows written in actors' databases, index entries and alarms included");
pub static METADATA_QUERIES: Counter =
    Counter::new("myelin_metadata_queries_total", "Statements sent to the metadata database");
pub static CALL_BYTES: Counter =
    Counter::new("myelin_object_bytes_total", "Bytes of calls to actors and of their replies");
pub static STATE_RESETS: Counter = Counter::new(
    "myelin_state_resets_total",
    "Memberships and power levels that resolution took back, and no event: the log says which",
);

static ALL: [&Counter; 9] = [
    &REQUESTS,
    &FAULTS,
    &OBJECT_CALLS,
    &OBJECT_ALARMS,
    &ROWS_READ,
    &ROWS_WRITTEN,
    &METADATA_QUERIES,
    &CALL_BYTES,
    &STATE_RESETS,
];

/// All counters in the Prometheus text format.
pub fn render() -> String {
    let mut text = String::new();
    for counter in ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}",
            name = counter.name,
            help = counter.help,
            value = counter.get()
        );
    }
    if let Some(bytes) = wasm_memory_bytes() {
        let name = "myelin_wasm_memory_bytes";
        let _ = writeln!(text, "# HELP {name} Memory of the code in its isolate\n# TYPE {name} gauge\n{name} {bytes}");
    }
    text
}

/// What the code has taken of its isolate's memory; it never gives any back.
#[cfg(target_arch = "wasm32")]
fn wasm_memory_bytes() -> Option<usize> {
    const PAGE_BYTES: usize = 64 * 1024;
    Some(core::arch::wasm32::memory_size(0) * PAGE_BYTES)
}

#[cfg(not(target_arch = "wasm32"))]
fn wasm_memory_bytes() -> Option<usize> {
    None
}
