//! What the server counts of itself: the difference of two readings of `/metrics`.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Client, Value, json};

/// What was armed by anything that is measured here has fired when the counters do not change for this long.
const RESTS: Duration = Duration::from_secs(3);
/// A server that is asked nothing comes to rest within this.
const RESTS_WITHIN: Duration = Duration::from_secs(120);
const READ_EVERY: Duration = Duration::from_millis(50);

/// The counters that `load` knows, by its names for them.
const COUNTERS: [(&str, &str); 6] = [
    ("calls", "myelin_object_requests_total"),
    ("alarms", "myelin_object_alarms_total"),
    ("rows_read", "myelin_rows_read_total"),
    ("rows_written", "myelin_rows_written_total"),
    ("metadata_queries", "myelin_metadata_queries_total"),
    ("bytes", "myelin_object_bytes_total"),
];
const ROWS_WRITTEN: usize = 3;

/// A reading, or the difference of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters([u64; COUNTERS.len()]);

impl Counters {
    pub fn rows_written(self) -> u64 {
        self.0[ROWS_WRITTEN]
    }

    pub fn written(self) -> Value {
        let named = COUNTERS.iter().zip(self.0).map(|((name, _), value)| ((*name).to_owned(), json!(value)));
        Value::Object(named.collect())
    }

    fn since(self, before: Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place].saturating_sub(before.0[place])))
    }
}

/// The way to the counters of a server that shows any.
pub struct Meter(Client);

impl Meter {
    pub fn of(client: Client) -> Self {
        Self(client)
    }

    /// What some work cost, with the alarms that it armed; `None` where nothing is counted.
    pub fn spent_on<T>(&self, work: impl FnOnce() -> T) -> (T, Option<Counters>) {
        let before = self.at_rest();
        let done = work();
        let spent = before.zip(self.at_rest()).map(|(before, after)| after.since(before));
        (done, spent)
    }

    /// A reading that does not change any more.
    fn at_rest(&self) -> Option<Counters> {
        let deadline = Instant::now() + RESTS_WITHIN;
        let (mut reading, mut since) = (self.reads()?, Instant::now());
        while since.elapsed() < RESTS && Instant::now() < deadline {
            thread::sleep(READ_EVERY);
            let next = self.reads()?;
            if next != reading {
                (reading, since) = (next, Instant::now());
            }
        }
        Some(reading)
    }

    fn reads(&self) -> Option<Counters> {
        let answer = self.0.try_send("GET", "/metrics", None).ok()?;
        let counter = |name: &str| {
            let value = answer.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        let is_ours = answer.status == 200 && answer.text.starts_with("# HELP myelin_");
        is_ours.then(|| Counters(COUNTERS.map(|(_, name)| counter(name))))
    }
}
