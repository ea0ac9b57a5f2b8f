//! What the servers log as faults of their own: there are none but those that the weather makes.

use std::{
    cell::RefCell,
    fmt::{Debug, Write as _},
    sync::Once,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    subscriber::set_global_default,
};
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::Context, layer::SubscriberExt as _, registry};

/// The most faults of one run that are kept.
const KEPT_MAX: usize = 20;
/// What the host says of calls that it lost, and of actors and processes that it ended.
const WEATHER: [&str; 6] =
    ["was lost", "were lost", "the host is gone", "the actor was closed", "is closed", "the tier is gone"];

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Listens from now on, in every thread; `log` is what is shown besides, in the words of `RUST_LOG`. Only the first
/// call of a process counts.
pub fn listen(log: Option<&str>) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let shown = log.map(|log| fmt::layer().without_time().with_ansi(false).with_filter(EnvFilter::new(log)));
        let heard = Ears.with_filter(LevelFilter::ERROR);
        // A test's own subscriber, if there is one, stays.
        let _ = set_global_default(registry().with(heard).with(shown));
    });
}

/// Takes what was heard in this thread since the last time.
pub(crate) fn take() -> Vec<String> {
    HEARD.take()
}

struct Ears;

impl<S: Subscriber> Layer<S> for Ears {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut told = Told::default();
        event.record(&mut told);
        if WEATHER.iter().any(|words| told.0.contains(words)) {
            return;
        }
        HEARD.with_borrow_mut(|heard| {
            if heard.len() < KEPT_MAX {
                heard.push(told.0);
            }
        });
    }
}

/// An event in one line.
#[derive(Default)]
struct Told(String);

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}{}={value:?}", if self.0.is_empty() { "" } else { " " }, field.name());
    }
}
