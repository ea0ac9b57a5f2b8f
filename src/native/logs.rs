use std::io::{self, IsTerminal as _};

use domain::config::LogLevel;
use platform::Fault;
use tracing::Level;

/// Writes logs to standard error: for people on a terminal, as JSON lines otherwise.
pub(crate) fn start(least: LogLevel) -> Result<(), Fault> {
    let level = match least {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let logs = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() { logs.try_init() } else { logs.json().flatten_event(true).try_init() };
    started.map_err(|error| Fault::new(format!("logs: {error}")))
}
