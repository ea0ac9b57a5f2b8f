//! People talk through matrix-sdk: with its own sync loop, and through the windows of matrix-sdk-ui.
//!
//!     interop URL GATEWAY
//!
//! GATEWAY is where notifications are pushed to. Prints «ok NAME» or «FAILED NAME: why» for each step; a failed step
//! ends its conversation.

// Whether the SDK's sync may cross threads, the compiler looks for deeper than it does by itself.
#![recursion_limit = "256"]

mod conversation;
mod encryption;
mod finding;
mod people;
mod push;
mod rooms;
mod sliding;
mod threads;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(gateway)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: interop URL GATEWAY");
        return ExitCode::FAILURE;
    };
    let outcomes = [
        conversation::converse(&url).await,
        rooms::live(&url).await,
        threads::discuss(&url).await,
        finding::find(&url).await,
        push::sleep(&url, &gateway).await,
        encryption::trust(&url).await,
        sliding::look(&url).await,
    ];
    if outcomes.iter().all(Option::is_some) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
