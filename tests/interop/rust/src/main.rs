//! People talk through matrix-sdk and its own sync loop.
//!
//!     interop URL
//!
//! Prints «ok NAME» or «FAILED NAME: why» for each step; a failed step ends its conversation.

// Whether the SDK's sync may cross threads, the compiler looks for deeper than it does by itself.
#![recursion_limit = "256"]

mod conversation;
mod encryption;
mod people;
mod rooms;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("usage: interop URL");
        return ExitCode::FAILURE;
    };
    let outcomes = [conversation::converse(&url).await, rooms::live(&url).await, encryption::trust(&url).await];
    if outcomes.iter().all(Option::is_some) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
