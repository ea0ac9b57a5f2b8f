//! The server's signing key: made once, with one conditional statement, and read back. So is its name: whatever is kept
//! belongs to it.

use domain::{Config, Identity, identity::FormerKey};
use platform::{Fault, Metadata, Random, Row, Statement};
use ruma_common::{OwnedServerName, ServerName, serde::Base64};

use super::migrations;

const PURPOSE: &str = "signing";
/// Stands for the version of the database where that is read along with the keys.
const VERSION: &str = "version";
/// The name of the server that the database belongs to.
const NAME: &str = "name";
/// Before the id of a key that signs no more: its row holds the public key and when it stopped.
const FORMER_PREFIX: &str = "former ";

/// Takes over a signing key in the format of Synapse's signing key file, so that a server can move here as who it is,
/// or sign with a new key from now on. The key that signed until now is published as a former one.
///
/// # Errors
/// The text is no signing key, or names itself as another key of the server does; or the database is that of a server
/// with another name.
pub async fn import_signing_key(
    metadata: &dyn Metadata,
    config: &Config,
    text: &str,
    now_ms: u64,
) -> Result<(), Fault> {
    let identity = parse(config.server_name.clone(), text)?;
    migrations::apply(metadata).await?;
    claim(metadata, &config.server_name).await?;
    let Some(before) = stored(metadata, PURPOSE).await? else {
        return insert(metadata, PURPOSE, &identity.export()).await;
    };
    if before == identity.export() {
        return Ok(());
    }
    let former = parse(config.server_name.clone(), &before)?.as_former_key(now_ms);
    let mut others = former_keys(metadata).await?.into_iter().chain([former.clone()]);
    if others.any(|other| other.key_id == identity.key_id()) {
        return Err(Fault::new(format!("the server has another key with the id {}", identity.key_id())));
    }
    let content = format!("{} {}", former.public_key.encode(), former.expired_ms);
    let keep = Statement::new(
        "INSERT INTO server_key (purpose, content) VALUES (?1, ?2) ON CONFLICT (purpose) DO NOTHING",
        vec![format!("{FORMER_PREFIX}{}", former.key_id).into(), content.into()],
    );
    let replace = Statement::new(
        "UPDATE server_key SET content = ?1 WHERE purpose = ?2 AND content = ?3",
        vec![identity.export().into(), PURPOSE.into(), before.into()],
    );
    metadata.batch(vec![keep, replace]).await
}

/// The keys that signed before.
async fn former_keys(metadata: &dyn Metadata) -> Result<Vec<FormerKey>, Fault> {
    let all = Statement::new("SELECT purpose, content FROM server_key ORDER BY purpose", vec![]);
    former_keys_of(metadata.query(all).await?)
}

fn former_keys_of(rows: Vec<Row>) -> Result<Vec<FormerKey>, Fault> {
    let mut keys = Vec::new();
    for mut row in rows {
        let (purpose, content) = (row.text(0)?, row.text(1)?);
        let Some(key_id) = purpose.strip_prefix(FORMER_PREFIX) else { continue };
        let read = || {
            let (public_key, expired_ms) = content.split_once(' ')?;
            Some((Base64::parse(public_key).ok()?, expired_ms.parse().ok()?))
        };
        let (public_key, expired_ms) = read().ok_or_else(|| Fault::new("a former signing key is not readable"))?;
        keys.push(FormerKey { key_id: key_id.to_owned(), public_key, expired_ms });
    }
    Ok(keys)
}

/// The server's identity, with its former keys.
pub(super) async fn load(
    metadata: &dyn Metadata,
    server_name: &ServerName,
    random: &dyn Random,
) -> Result<Identity, Fault> {
    claim(metadata, server_name).await?;
    let identity = load_or_make(metadata, server_name, random).await?;
    Ok(identity.with_former_keys(former_keys(metadata).await?))
}

/// As [`load`], with one statement, where the database is at least of this version and the name and the key are there.
pub(super) async fn load_at_once(
    metadata: &dyn Metadata,
    server_name: &ServerName,
    version: u64,
) -> Result<Option<Identity>, Fault> {
    let statement = Statement::new(
        "SELECT purpose, content FROM server_key
        UNION ALL SELECT ?1, CAST(coalesce(max(version), 0) AS TEXT) FROM migration ORDER BY purpose",
        vec![VERSION.into()],
    );
    // Most likely the tables are not there yet; if it is something else, whoever looks closer finds that, too.
    let Ok(rows) = metadata.query(statement).await else { return Ok(None) };
    let (mut name, mut signing) = (None, None);
    for mut row in rows.clone() {
        match &*row.text(0)? {
            VERSION if row.text(1)?.parse().is_ok_and(|there: u64| there < version) => return Ok(None),
            NAME => name = Some(row.text(1)?),
            PURPOSE => signing = Some(row.text(1)?),
            _ => {}
        }
    }
    let (Some(name), Some(text)) = (name, signing) else { return Ok(None) };
    is_its_own(&name, server_name)?;
    Ok(Some(parse(server_name.to_owned(), &text)?.with_former_keys(former_keys_of(rows)?)))
}

/// Has the database belong to the server of this name, if it does not yet: the name is in every id that is kept.
async fn claim(metadata: &dyn Metadata, server_name: &ServerName) -> Result<(), Fault> {
    let name = match stored(metadata, NAME).await? {
        Some(name) => name,
        None => {
            insert(metadata, NAME, server_name.as_str()).await?;
            // Another host may have been first.
            stored(metadata, NAME).await?.ok_or_else(|| Fault::new("the server's name was not stored"))?
        }
    };
    is_its_own(&name, server_name)
}

/// Refuses what belongs to a server of another name.
fn is_its_own(name: &str, server_name: &ServerName) -> Result<(), Fault> {
    if name == server_name.as_str() {
        return Ok(());
    }
    Err(Fault::new(format!(
        "SERVER_NAME is {server_name}, but everything here is that of {name}, and a server's name can never change: set \
         SERVER_NAME to {name}, or give {server_name} a database and data of its own"
    )))
}

async fn load_or_make(
    metadata: &dyn Metadata,
    server_name: &ServerName,
    random: &dyn Random,
) -> Result<Identity, Fault> {
    if let Some(text) = stored(metadata, PURPOSE).await? {
        return parse(server_name.to_owned(), &text);
    }
    let (mut seed, mut version) = ([0; 32], [0; 4]);
    random.fill(&mut seed)?;
    random.fill(&mut version)?;
    let version: String = version.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let made = Identity::new(server_name.to_owned(), &format!("a_{version}"), seed)
        .map_err(|error| Fault::new(error.to_string()))?;
    insert(metadata, PURPOSE, &made.export()).await?;
    // Another host may have been first: what counts is what is stored.
    let text = stored(metadata, PURPOSE).await?.ok_or_else(|| Fault::new("the signing key was not stored"))?;
    parse(server_name.to_owned(), &text)
}

fn parse(server_name: OwnedServerName, text: &str) -> Result<Identity, Fault> {
    Identity::import(server_name, text).map_err(|error| Fault::new(error.to_string()))
}

async fn stored(metadata: &dyn Metadata, purpose: &'static str) -> Result<Option<String>, Fault> {
    let statement = Statement::new("SELECT content FROM server_key WHERE purpose = ?1", vec![purpose.into()]);
    metadata.query(statement).await?.pop().map(|mut row| row.text(0)).transpose()
}

async fn insert(metadata: &dyn Metadata, purpose: &'static str, content: &str) -> Result<(), Fault> {
    let statement = Statement::new(
        "INSERT INTO server_key (purpose, content) VALUES (?1, ?2) ON CONFLICT (purpose) DO NOTHING",
        vec![purpose.into(), content.into()],
    );
    metadata.query(statement).await.map(drop)
}

#[cfg(test)]
mod tests {
    use platform::{Metadata, Statement};

    use super::{PURPOSE, import_signing_key, stored};
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
        assert_eq!(block_on(stored(&metadata, PURPOSE)).unwrap().unwrap(), first.identity.export());
    }

    #[test]
    fn a_server_that_starts_again_asks_once() {
        let (metadata, random) = (MemoryMetadata::default(), TestRandom::default());
        let first = block_on(load_settings(&metadata, config(&[]), &random)).unwrap();
        metadata.fails_after(1, false);
        let second = block_on(load_settings(&metadata, config(&[]), &random)).unwrap();
        assert_eq!(first.identity.export(), second.identity.export());
        // So does one of the release before.
        metadata.is_well();
        let newer = Statement::new("INSERT INTO migration (version) VALUES (999)", vec![]);
        block_on(metadata.query(newer)).unwrap();
        metadata.fails_after(1, false);
        assert!(block_on(load_settings(&metadata, config(&[]), &random)).is_ok());
    }

    #[test]
    fn a_database_belongs_to_the_first_name_for_ever() {
        let (metadata, random) = (MemoryMetadata::default(), TestRandom::default());
        let named = |name| config(&[("SERVER_NAME", name)]);
        let load = |name| block_on(load_settings(&metadata, named(name), &random));
        let first = load("one.example").unwrap().identity.export();
        let refused = [
            load("two.example").err().unwrap(),
            block_on(import_signing_key(&metadata, &named("two.example"), &first, 1)).unwrap_err(),
        ];
        for refused in refused.map(|fault| fault.to_string()) {
            assert!(
                refused.contains("SERVER_NAME is two.example") && refused.contains("set SERVER_NAME to one.example")
            );
        }
        assert_eq!(load("one.example").unwrap().identity.export(), first);
    }

    #[test]
    fn a_new_key_takes_the_place_of_the_old_one_which_is_not_forgotten() {
        let key = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
        let (metadata, random) = (MemoryMetadata::default(), TestRandom::default());
        let import = |text: &str, now_ms| block_on(import_signing_key(&metadata, &config(&[]), text, now_ms));
        assert!(import("ed25519 1 x", 1).is_err());
        import(key, 1).unwrap();
        import(key, 2).unwrap();
        let load = || block_on(load_settings(&metadata, config(&[]), &random)).unwrap().identity;
        assert_eq!((load().export(), load().former_keys().len()), (key.to_owned(), 0));
        let first = load().as_former_key(5);

        let another = key.replace("ed25519 1", "ed25519 2").replace("YJDB", "AAAA");
        import(&another, 5).unwrap();
        import(&another, 6).unwrap();
        assert_eq!((load().export(), load().former_keys()), (another, &[first][..]));
        for taken in ["ed25519 1", "ed25519 2"] {
            assert!(import(&key.replace("ed25519 1", taken), 7).is_err(), "{taken}");
        }
    }
}
