//! All of the request tier's SQL on the metadata database, one function per statement.
//!
//! In scope: what must be found across actors. Out of scope: what an actor decides; that is its own.

pub(crate) mod alias;
pub(crate) mod auth_stage;
pub(crate) mod contact;
pub(crate) mod deletion;
pub(crate) mod directory;
pub(crate) mod email_validation;
pub(crate) mod media;
mod migrations;
pub(crate) mod nonce;
pub(crate) mod open_room;
pub(crate) mod pusher;
pub(crate) mod registration_token;
mod registry;
pub(crate) mod remote_key;
pub(crate) mod report;
mod signing_key;
pub(crate) mod thumbnail;
pub(crate) mod url_preview;

use actors::Settings;
use domain::Config;
use platform::{Fault, Metadata, Random};

pub(crate) use registry::{register_account, register_room};
pub use signing_key::import_signing_key;

/// Brings the metadata database up to date, makes the server's signing key if there is none, and answers what every
/// actor needs to know. Hosts call it once at start; any number of them may do so at once.
///
/// # Errors
/// The database does not answer, or is that of a server with another name.
pub async fn load_settings(metadata: &dyn Metadata, config: Config, random: &dyn Random) -> Result<Settings, Fault> {
    // Nearly always all is there, and an isolate that starts has a request wait for this.
    if let Some(identity) = signing_key::load_at_once(metadata, &config.server_name, migrations::VERSION).await? {
        return Ok(Settings { config, identity });
    }
    migrations::apply(metadata).await?;
    let identity = signing_key::load(metadata, &config.server_name, random).await?;
    Ok(Settings { config, identity })
}
