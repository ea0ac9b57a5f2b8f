//! One line of JSON for each event, with the fields of the spans it happened in.
//!
//! The runtime stamps each line with its time and keeps or samples them as `[observability]` says.

use std::{cell::RefCell, collections::HashMap, fmt::Debug};

use domain::config::LogLevel;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

use crate::js;

/// The crates whose every event counts.
const OURS: [&str; 5] = ["domain", "platform", "actors", "api", "worker_host"];

thread_local! {
    static SPANS: RefCell<Spans> = RefCell::default();
}

/// The spans alive in this isolate.
#[derive(Default)]
struct Spans {
    made: u64,
    alive: HashMap<u64, Span>,
    /// Those entered and not yet left, outermost first.
    entered: Vec<u64>,
}

struct Span {
    references: usize,
    fields: Map<String, Value>,
}

/// Writes events to the runtime's console.
struct Console {
    least_severe: LevelFilter,
}

/// Has events logged from now on. Only an isolate's first call counts.
pub(crate) fn start(level: LogLevel) {
    let least_severe = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // It fails when there is one already, which is the same.
    let _ = tracing::subscriber::set_global_default(Console { least_severe });
}

impl Subscriber for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of other people's crates only what is wrong: some tell of every event they authorise.
        let ours = OURS.iter().any(|name| metadata.target().starts_with(name));
        *metadata.level() <= self.least_severe && (ours || *metadata.level() <= Level::WARN)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.least_severe)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Map::new();
        attributes.record(&mut Fields(&mut fields));
        SPANS.with_borrow_mut(|spans| {
            spans.made += 1;
            spans.alive.insert(spans.made, Span { references: 1, fields });
            Id::from_u64(spans.made)
        })
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        SPANS.with_borrow_mut(|spans| {
            if let Some(span) = spans.alive.get_mut(&span.into_u64()) {
                values.record(&mut Fields(&mut span.fields));
            }
        });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut fields = Map::new();
        fields.insert("level".to_owned(), metadata.level().as_str().into());
        fields.insert("target".to_owned(), metadata.target().into());
        SPANS.with_borrow(|spans| {
            for span in spans.entered.iter().filter_map(|id| spans.alive.get(id)) {
                fields.extend(span.fields.clone());
            }
        });
        event.record(&mut Fields(&mut fields));
        let line = Value::Object(fields).to_string();
        match *metadata.level() {
            Level::ERROR => js::console_error(&line),
            Level::WARN => js::console_warn(&line),
            _ => js::console_log(&line),
        }
    }

    fn enter(&self, span: &Id) {
        SPANS.with_borrow_mut(|spans| spans.entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        SPANS.with_borrow_mut(|spans| {
            if let Some(place) = spans.entered.iter().rposition(|entered| *entered == span.into_u64()) {
                spans.entered.remove(place);
            }
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        SPANS.with_borrow_mut(|spans| {
            if let Some(span) = spans.alive.get_mut(&span.into_u64()) {
                span.references += 1;
            }
        });
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        SPANS.with_borrow_mut(|spans| {
            let Some(alive) = spans.alive.get_mut(&span.into_u64()) else { return false };
            alive.references -= 1;
            let last = alive.references == 0;
            if last {
                spans.alive.remove(&span.into_u64());
            }
            last
        })
    }
}

/// Collects fields as JSON.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
