//! The configuration: `MYELIN_<NAME>` in the environment over the file's keys.

use std::{collections::BTreeMap, env, fs, path::Path};

use actors::Settings;
use domain::{Config, Identity};
use platform::Fault;

use crate::{chance::Chance, metadata::MetadataSource, options::OPTION_VARIABLES};

const PREFIX: &str = "MYELIN_";
/// Variables of the test scripts.
const TEST_PREFIXES: [&str; 2] = ["TEST_POSTGRES", "TEST_S3"];

/// Reads the configuration; refuses unknown keys and bad values by name.
pub(crate) fn read_config(file: Option<&Path>) -> Result<Config, Fault> {
    let mut pairs = match file {
        Some(path) => {
            let text = fs::read_to_string(path);
            let text = text.map_err(|error| Fault::new(format!("{}: {error}", path.display())))?;
            from_toml(&text).map_err(|fault| fault.within(&path.display().to_string()))?
        }
        None => BTreeMap::new(),
    };
    let variables = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if OPTION_VARIABLES.contains(&key) || TEST_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            continue;
        }
        let value = value.into_string().map_err(|_| Fault::new(format!("{name} is not UTF-8")))?;
        pairs.insert(key.to_owned(), value);
    }
    read_appservices(&mut pairs)?;
    Config::from_pairs(pairs).map_err(|error| Fault::new(error.to_string()))
}

/// Puts what is in registration files in their place.
fn read_appservices(pairs: &mut BTreeMap<String, String>) -> Result<(), Fault> {
    let Some(files) = pairs.remove("APPSERVICE_FILES") else { return Ok(()) };
    let mut texts: Vec<String> = pairs.remove("APPSERVICES").into_iter().collect();
    for file in files.split(',').map(str::trim).filter(|file| !file.is_empty()) {
        let text = fs::read_to_string(file);
        texts.push(text.map_err(|error| Fault::new(format!("APPSERVICE_FILES: {file}: {error}")))?);
    }
    pairs.insert("APPSERVICES".to_owned(), texts.join("\n---\n"));
    Ok(())
}

/// A file's keys, in upper case. Lists are joined by commas, as the environment spells them.
fn from_toml(text: &str) -> Result<BTreeMap<String, String>, Fault> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| Fault::new(error.message()))?;
    let mut pairs = BTreeMap::new();
    for (name, value) in table {
        let key = name.to_uppercase();
        let value = match value {
            toml::Value::Array(values) => {
                let values = values.into_iter().map(|value| plain(&key, value)).collect::<Result<Vec<_>, _>>()?;
                values.join(",")
            }
            value => plain(&key, value)?,
        };
        if pairs.insert(key, value).is_some() {
            return Err(Fault::new(format!("{name} is given twice")));
        }
    }
    Ok(pairs)
}

fn plain(key: &str, value: toml::Value) -> Result<String, Fault> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(integer) => Ok(integer.to_string()),
        toml::Value::Float(float) => Ok(float.to_string()),
        toml::Value::Boolean(on) => Ok(if on { "on" } else { "off" }.to_owned()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(Fault::new(format!("{key} should be text, a number, a switch or a list of these")))
        }
    }
}

/// Brings metadata up to date and answers what every actor needs to know.
pub(crate) async fn load(metadata: &MetadataSource, config: Config) -> Result<Settings, Fault> {
    api::load_settings(&*metadata.connect(), config, &Chance).await
}

/// The same settings for another thread.
pub(crate) fn copy(settings: &Settings) -> Result<Settings, Fault> {
    let name = settings.config.server_name.clone();
    let identity =
        Identity::import(name, &settings.identity.export()).map_err(|error| Fault::new(error.to_string()))?;
    let identity = identity.with_former_keys(settings.identity.former_keys().to_vec());
    Ok(Settings { config: settings.config.clone(), identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_spells_keys_in_either_case_and_values_as_toml() {
        let pairs = from_toml("server_name = \"a.org\"\nMETRICS = true\nrc_login = [0.5, 3]\nrc_message = 0").unwrap();
        let expected = [("METRICS", "on"), ("RC_LOGIN", "0.5,3"), ("RC_MESSAGE", "0"), ("SERVER_NAME", "a.org")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn registrations_may_lie_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("a.yaml"), "id: a\n").unwrap();
        fs::write(path("b.yaml"), "id: b").unwrap();
        let pair = |name: &str, value: String| (name.to_owned(), value);
        let files = pair("APPSERVICE_FILES", format!("{}, {}", path("a.yaml"), path("b.yaml")));
        let mut pairs = BTreeMap::from([files.clone(), pair("APPSERVICES", "id: c".to_owned())]);
        read_appservices(&mut pairs).unwrap();
        assert_eq!(pairs, [pair("APPSERVICES", "id: c\n---\nid: a\n\n---\nid: b".to_owned())].into());
        let mut missing = BTreeMap::from([pair("APPSERVICE_FILES", path("none.yaml"))]);
        assert!(read_appservices(&mut missing).unwrap_err().to_string().contains("none.yaml"));
    }

    #[test]
    fn a_file_is_refused_with_the_keys_name() {
        let refused = |text| from_toml(text).unwrap_err().to_string();
        assert!(refused("metrics = true\nMETRICS = false").contains("twice"));
        assert!(refused("[federation]\nallow = true").contains("FEDERATION"));
    }
}
