//! The native host: the same homeserver as on Workers, as one process on a machine of its own.
//!
//! In scope: sockets, TLS, other people's servers, threads, files, PostgreSQL, signals, the command line. Out of scope:
//! anything Matrix.

mod activity;
mod actor_host;
mod admin;
mod chance;
mod clock;
mod connection;
mod errands;
mod heavy;
mod listen;
mod logs;
mod media_files;
mod media_s3;
mod media_store;
mod metadata;
mod options;
mod outgoing;
mod serve;
mod settings;
mod sqlite;
mod tls;

use std::process::ExitCode;

use options::Command;
use rustix::fs::Mode;

fn main() -> ExitCode {
    // Whatever is written here is for this user alone: keys, messages, media.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let mut outcome = Ok(());
    actor_host::run_local("the main thread", 4, || async {
        outcome = match options::parse().command {
            Command::Serve(options) => serve::run(*options).await,
            Command::Admin(admin) => admin::run(admin.command).await,
        };
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            use std::io::Write as _;
            // Without standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr().lock(), "myelin: {fault}");
            ExitCode::FAILURE
        }
    }
}
