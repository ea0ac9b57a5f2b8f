//! The command line for operators.

use std::io::{self, Read as _, Write as _};

use platform::{Clock as _, Fault};

use crate::{
    chance::Chance,
    clock::SystemClock,
    metadata::MetadataSource,
    options::{AdminCommand, SigningKeyCommand, Storage},
    serve::claim_data_dir,
    settings::read_config,
};

pub(crate) async fn run(command: AdminCommand) -> Result<(), Fault> {
    let AdminCommand::SigningKey { command } = command;
    match command {
        SigningKeyCommand::Export { storage } => export(&storage).await,
        SigningKeyCommand::Import { storage } => import(&storage).await,
    }
}

async fn export(storage: &Storage) -> Result<(), Fault> {
    let config = read_config(storage.config.as_deref())?;
    let _claim = claim_data_dir(&storage.data_dir)?;
    let metadata = MetadataSource::open(&storage.data_dir, storage.database_url.as_deref())?;
    let _no_other = metadata.claim().await?;
    let settings = api::load_settings(&*metadata.connect(), config, &Chance).await?;
    let written = writeln!(io::stdout().lock(), "{}", settings.identity.export());
    written.map_err(|error| Fault::new(format!("standard output: {error}")))
}

async fn import(storage: &Storage) -> Result<(), Fault> {
    let config = read_config(storage.config.as_deref())?;
    let mut key = String::new();
    let read = io::stdin().lock().read_to_string(&mut key);
    read.map_err(|error| Fault::new(format!("standard input: {error}")))?;
    let _claim = claim_data_dir(&storage.data_dir)?;
    let metadata = MetadataSource::open(&storage.data_dir, storage.database_url.as_deref())?;
    let _no_other = metadata.claim().await?;
    api::import_signing_key(&*metadata.connect(), &config, &key, SystemClock.now_ms()).await
}
