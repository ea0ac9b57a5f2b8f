use std::io::{self, IsTerminal as _};

use domain::config::LogLevel;
use platform::Fault;
use tracing_subscriber::EnvFilter;

/// Writes logs to standard error: for people on a terminal, as JSON lines otherwise.
pub(crate) fn start(least: LogLevel) -> Result<(), Fault> {
    let level = match least {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // Of other people's crates only what is wrong: some tell of every event they authorise.
    let mut filter = if matches!(least, LogLevel::Error) { "error".to_owned() } else { "warn".to_owned() };
    for ours in ["domain", "platform", "actors", "api", "myelin"] {
        filter.push_str(&format!(",{ours}={level}"));
    }
    let logs = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() { logs.try_init() } else { logs.json().flatten_event(true).try_init() };
    started.map_err(|error| Fault::new(format!("logs: {error}")))
}
