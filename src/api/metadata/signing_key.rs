//! The server's signing key: made once, with one conditional statement, and read back.

use domain::{Config, Identity};
use platform::{Fault, Metadata, Random, Statement};
use ruma_common::{OwnedServerName, ServerName};

use super::migrations;

const PURPOSE: &str = "signing";

/// The signing key in the format of Synapse's signing key file, if there is one. Secret.
pub async fn export_signing_key(metadata: &dyn Metadata) -> Result<Option<String>, Fault> {
    migrations::apply(metadata).await?;
    stored(metadata).await
}

/// Takes over a signing key in the format of [`export_signing_key`], so that a server can move here as who it is.
///
/// # Errors
/// The text is no signing key, or the server has another one already.
pub async fn import_signing_key(metadata: &dyn Metadata, config: &Config, text: &str) -> Result<(), Fault> {
    let identity = parse(config.server_name.clone(), text)?;
    migrations::apply(metadata).await?;
    insert(metadata, &identity.export()).await?;
    if stored(metadata).await?.as_deref() == Some(&*identity.export()) {
        Ok(())
    } else {
        Err(Fault::new("the server has another signing key already"))
    }
}

pub(super) async fn load_or_make(
    metadata: &dyn Metadata,
    server_name: &ServerName,
    random: &dyn Random,
) -> Result<Identity, Fault> {
    if let Some(text) = stored(metadata).await? {
        return parse(server_name.to_owned(), &text);
    }
    let (mut seed, mut version) = ([0; 32], [0; 4]);
    random.fill(&mut seed)?;
    random.fill(&mut version)?;
    let version: String = version.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let made = Identity::new(server_name.to_owned(), &format!("a_{version}"), seed)
        .map_err(|error| Fault::new(error.to_string()))?;
    insert(metadata, &made.export()).await?;
    // Another host may have been first: what counts is what is stored.
    let text = stored(metadata).await?.ok_or_else(|| Fault::new("the signing key was not stored"))?;
    parse(server_name.to_owned(), &text)
}

fn parse(server_name: OwnedServerName, text: &str) -> Result<Identity, Fault> {
    Identity::import(server_name, text).map_err(|error| Fault::new(error.to_string()))
}

async fn stored(metadata: &dyn Metadata) -> Result<Option<String>, Fault> {
    let statement = Statement::new("SELECT content FROM server_key WHERE purpose = ?1", vec![PURPOSE.into()]);
    metadata.query(statement).await?.pop().map(|mut row| row.text(0)).transpose()
}

async fn insert(metadata: &dyn Metadata, content: &str) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO server_key (purpose, content) VALUES (?1, ?2) ON CONFLICT (purpose) DO NOTHING",
        vec![PURPOSE.into(), content.into()],
    );
    metadata.query(statement).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{export_signing_key, import_signing_key};
    use crate::{
        load_settings,
        testing::{MemoryMetadata, TestRandom, block_on, config},
    };

    #[test]
    fn the_key_is_made_once() {
        let (metadata, random) = (MemoryMetadata::default(), TestRandom::default());
        let first = block_on(load_settings(&metadata, config(&[]), &random)).unwrap();
        let second = block_on(load_settings(&metadata, config(&[]), &random)).unwrap();
        assert_eq!(first.identity.export(), second.identity.export());
        assert_eq!(block_on(export_signing_key(&metadata)).unwrap().unwrap(), first.identity.export());
    }

    #[test]
    fn a_key_is_taken_over_only_by_a_server_that_has_none() {
        let key = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
        let (metadata, random) = (MemoryMetadata::default(), TestRandom::default());
        assert!(block_on(import_signing_key(&metadata, &config(&[]), "ed25519 1 x")).is_err());
        block_on(import_signing_key(&metadata, &config(&[]), key)).unwrap();
        block_on(import_signing_key(&metadata, &config(&[]), key)).unwrap();
        let settings = block_on(load_settings(&metadata, config(&[]), &random)).unwrap();
        assert_eq!(settings.identity.export(), key);

        let metadata = MemoryMetadata::default();
        block_on(load_settings(&metadata, config(&[]), &random)).unwrap();
        assert!(block_on(import_signing_key(&metadata, &config(&[]), key)).is_err());
    }
}
