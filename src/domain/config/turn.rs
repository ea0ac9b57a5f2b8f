use super::{ConfigError, Secret, Values, list, parse_link};

/// The longest lifetime that Cloudflare's TURN service gives credentials, in seconds: two days.
const CLOUDFLARE_LIFETIME_S_MAX: u64 = 172_800;

/// Where calls between clients that cannot reach each other are relayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub relay: Relay,
    /// How long credentials are good, in seconds.
    pub lifetime_s: u64,
}

/// Who relays them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relay {
    /// Servers that share a secret with us: credentials are made here.
    Own {
        /// As `turn:` and `turns:` URIs; one at least.
        uris: Vec<String>,
        secret: Secret,
    },
    /// Cloudflare's TURN service, which makes the credentials.
    Cloudflare {
        /// Where it does.
        url: String,
        api_token: Secret,
    },
}

impl Values {
    pub(super) fn turn(&self) -> Result<Option<Turn>, ConfigError> {
        let uris = self.parsed("TURN_URIS", |text| list(text, parse_uri).filter(|uris| !uris.is_empty()))?;
        let secret = self.parsed("TURN_SHARED_SECRET", Secret::new)?;
        let key_id = self.parsed("TURN_CLOUDFLARE_KEY_ID", parse_key_id)?;
        let api_token = self.parsed("TURN_CLOUDFLARE_API_TOKEN", Secret::new)?;
        let url = self.required("TURN_CLOUDFLARE_URL", parse_link)?;
        let lifetime_s = self.required("TURN_USER_LIFETIME", |text| {
            text.parse().ok().filter(|seconds| (60..=31_536_000_u64).contains(seconds))
        })?;
        let own = match (uris, secret) {
            (Some(uris), Some(secret)) => Some(Relay::Own { uris, secret }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::Missing { name: "TURN_SHARED_SECRET" }),
            (None, Some(_)) => return Err(ConfigError::Missing { name: "TURN_URIS" }),
        };
        let cloudflare = match (key_id, api_token) {
            (Some(key_id), Some(api_token)) => {
                let url = format!("{}/keys/{key_id}/credentials/generate-ice-servers", url.trim_end_matches('/'));
                Some(Relay::Cloudflare { url, api_token })
            }
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::Missing { name: "TURN_CLOUDFLARE_API_TOKEN" }),
            (None, Some(_)) => return Err(ConfigError::Missing { name: "TURN_CLOUDFLARE_KEY_ID" }),
        };
        let relay = match (own, cloudflare) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Exclusive { name: "TURN_URIS", other: "TURN_CLOUDFLARE_KEY_ID" });
            }
            (None, Some(_)) if lifetime_s > CLOUDFLARE_LIFETIME_S_MAX => {
                let allowed = "at most 172800 with TURN_CLOUDFLARE_KEY_ID";
                return Err(ConfigError::BadValue { name: "TURN_USER_LIFETIME", allowed });
            }
            (own, cloudflare) => own.or(cloudflare),
        };
        Ok(relay.map(|relay| Turn { relay, lifetime_s }))
    }
}

fn parse_uri(text: &str) -> Option<String> {
    let rest = text.strip_prefix("turn:").or_else(|| text.strip_prefix("turns:"))?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    (!rest.is_empty() && rest.chars().all(plain)).then(|| text.to_owned())
}

fn parse_key_id(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| text.to_owned())
}
