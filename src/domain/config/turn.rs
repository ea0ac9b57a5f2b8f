use super::{ConfigError, Secret, Values, list};

/// Where calls between clients that cannot reach each other are relayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The servers, as `turn:` and `turns:` URIs; one at least.
    pub uris: Vec<String>,
    /// What they share with us.
    pub secret: Secret,
    /// How long credentials are good, in seconds.
    pub lifetime_s: u64,
}

impl Values {
    pub(super) fn turn(&self) -> Result<Option<Turn>, ConfigError> {
        let uris = self.parsed("TURN_URIS", |text| list(text, parse_uri).filter(|uris| !uris.is_empty()))?;
        let secret = self.parsed("TURN_SHARED_SECRET", Secret::new)?;
        let lifetime_s = self.required("TURN_USER_LIFETIME", |text| {
            text.parse().ok().filter(|seconds| (60..=31_536_000_u64).contains(seconds))
        })?;
        match (uris, secret) {
            (Some(uris), Some(secret)) => Ok(Some(Turn { uris, secret, lifetime_s })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(ConfigError::Missing { name: "TURN_SHARED_SECRET" }),
            (None, Some(_)) => Err(ConfigError::Missing { name: "TURN_URIS" }),
        }
    }
}

fn parse_uri(text: &str) -> Option<String> {
    let rest = text.strip_prefix("turn:").or_else(|| text.strip_prefix("turns:"))?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    (!rest.is_empty() && rest.chars().all(plain)).then(|| text.to_owned())
}
