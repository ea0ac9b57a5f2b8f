//! The server's configuration: one list of keys, the same names on every host.
//!
//! Owns the names, the defaults, and what is allowed. Where the pairs come from (`[vars]` and secrets of a Worker;
//! environment, file and flags natively) is the host's.

mod accounts;
mod appservices;
mod error;
mod federation;
mod keys;
mod mail;
mod media_quota;
mod retention;
mod secret;
mod server_notices;
mod support;
mod turn;
mod url_previews;

use std::collections::BTreeMap;

use ruma_common::{OwnedServerName, ServerName};
use serde_json::{Map, Value};

use crate::{Appservice, RateLimit, RateLimited, RoomVersion, address_range::AddressRange, retention::RetentionRules};

pub use accounts::{PasswordHashCost, Recaptcha, Registration, Terms};
use accounts::{parse_password_hash_cost, parse_registration};
pub use error::ConfigError;
use federation::parse_address_ranges;
pub use federation::{ConnectTo, DnsOverrides, Federation, OutgoingRules, PrivateAddress};
pub use keys::ConfigKey;
pub use mail::{HttpMailer, Mail, MailEncryption, MailVia, Smtp};
pub use media_quota::MediaQuota;
use media_quota::{UPLOAD_SIZE_MAX, parse_days_ms, parse_size};
pub use secret::Secret;
pub use server_notices::ServerNotices;
pub use support::{Support, SupportContact};
pub use turn::{Relay, Turn};
pub use url_previews::UrlPreviews;

/// The configuration, valid as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The name after the colon in every id we make; may carry a port.
    pub server_name: OwnedServerName,
    /// Where clients reach us, without a slash at the end.
    pub public_baseurl: String,
    /// `host:port` announced to other servers at `/.well-known/matrix/server`.
    pub well_known_server: Option<OwnedServerName>,
    /// What clients are told besides where the server is, such as where calls are made.
    pub well_known_client: Map<String, Value>,
    /// Who may register.
    pub registration: Registration,
    /// Whether guests may register.
    pub allow_guests: bool,
    /// What new users have to accept.
    pub terms: Option<Terms>,
    /// How new users show that they are people, if they have to.
    pub recaptcha: Option<Recaptcha>,
    /// The fewest characters of a new password.
    pub password_length_min: usize,
    /// How long the access tokens of clients that refresh them last, in milliseconds.
    pub access_token_lifetime_ms: u64,
    /// Whether users may make tokens that sign in other devices.
    pub login_tokens: bool,
    /// How to get help with the server.
    pub support: Option<Support>,
    /// The key of the policy server of this name, in unpadded base64.
    pub policy_server_key: Option<String>,
    /// Lets a client that knows it register users through the admin API.
    pub registration_shared_secret: Option<Secret>,
    /// The version of a new room that names none.
    pub default_room_version: RoomVersion,
    /// What a password costs to check.
    pub password_hash_cost: PasswordHashCost,
    /// Whether `/metrics` is served.
    pub metrics: bool,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Whether users see each other's presence.
    pub presence: bool,
    /// For tests only: opens endpoints that evict actors at will.
    pub test_hooks: bool,
    /// The largest file that may be uploaded, in bytes.
    pub max_upload_size: u64,
    /// How much media one user may have, and how much of other servers' is kept.
    pub media_quota: MediaQuota,
    /// How long our users' media is kept after it was last served, in milliseconds; for ever without.
    pub media_retention_ms: Option<u64>,
    /// How long other servers' media is kept here after it was last served, in milliseconds; for ever without.
    pub remote_media_retention_ms: Option<u64>,
    /// Whether what is uploaded from now on is served to users only.
    pub authenticated_media: bool,
    /// Where calls are relayed.
    pub turn: Option<Turn>,
    /// Which web pages are previewed.
    pub url_previews: UrlPreviews,
    /// Natively: the reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<AddressRange>,
    /// The limits that are on.
    pub rate_limits: BTreeMap<RateLimited, RateLimit>,
    /// Which other servers we talk to.
    pub federation: Federation,
    /// How they are reached.
    pub outgoing: OutgoingRules,
    /// How long messages in rooms are kept.
    pub retention: RetentionRules,
    /// How mail goes out, if it does.
    pub mail: Option<Mail>,
    /// Who tells users what the operator has to say, if anybody does.
    pub server_notices: Option<ServerNotices>,
    /// The application services that are registered.
    pub appservices: Vec<Appservice>,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Faults of ours.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
}

impl Config {
    /// This server, if it is no policy server.
    pub fn no_policy_server(&self) -> Option<&ServerName> {
        self.policy_server_key.is_none().then_some(&*self.server_name)
    }

    /// Reads a configuration from its pairs.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key: for an unknown key, one given twice, a bad value or a missing `SERVER_NAME`.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut given = BTreeMap::new();
        for (name, value) in pairs {
            let Some(known) = Self::KEYS.iter().find(|known| known.name == name) else {
                return Err(ConfigError::UnknownKey { name });
            };
            if given.insert(known.name, value).is_some() {
                return Err(ConfigError::Twice { name });
            }
        }
        let values = Values { given };
        let server_name: OwnedServerName =
            values.parsed("SERVER_NAME", parse_server_name)?.ok_or(ConfigError::Missing { name: "SERVER_NAME" })?;
        let (appservices, server_notices) = (values.appservices(&server_name)?, values.server_notices(&server_name)?);
        let public_baseurl =
            values.parsed("PUBLIC_BASEURL", parse_url)?.unwrap_or_else(|| format!("https://{server_name}"));
        Ok(Self {
            public_baseurl,
            server_name,
            well_known_server: values.parsed("WELL_KNOWN_SERVER", parse_server_name)?,
            well_known_client: values.well_known_client()?,
            registration: values.required("REGISTRATION", parse_registration)?,
            allow_guests: values.required("ALLOW_GUESTS", parse_switch)?,
            terms: values.terms()?,
            recaptcha: values.recaptcha()?,
            password_length_min: values
                .required("PASSWORD_LENGTH_MIN", |text| text.parse().ok().filter(|least| (1..=128).contains(least)))?,
            access_token_lifetime_ms: values.required("ACCESS_TOKEN_LIFETIME", |text| {
                text.parse().ok().filter(|seconds| (1..=31_536_000_u64).contains(seconds)).map(|seconds| seconds * 1000)
            })?,
            login_tokens: values.required("LOGIN_TOKENS", parse_switch)?,
            support: values.support()?,
            policy_server_key: values.policy_server_key()?,
            registration_shared_secret: values.parsed("REGISTRATION_SHARED_SECRET", Secret::new)?,
            default_room_version: values.required("DEFAULT_ROOM_VERSION", |text| RoomVersion::parse(text).ok())?,
            password_hash_cost: values.required("PASSWORD_HASH_COST", parse_password_hash_cost)?,
            presence: values.required("PRESENCE", parse_switch)?,
            max_upload_size: values.required("MAX_UPLOAD_SIZE", |text| parse_size(text, UPLOAD_SIZE_MAX))?,
            media_quota: values.media_quota()?,
            media_retention_ms: values.parsed("MEDIA_RETENTION", parse_days_ms)?,
            remote_media_retention_ms: values.required("REMOTE_MEDIA_RETENTION", |text| match text {
                "0" => Some(None),
                text => parse_days_ms(text).map(Some),
            })?,
            authenticated_media: values.required("AUTHENTICATED_MEDIA", parse_switch)?,
            turn: values.turn()?,
            url_previews: values.url_previews()?,
            metrics: values.required("METRICS", parse_switch)?,
            log_level: values.required("LOG_LEVEL", parse_log_level)?,
            test_hooks: values.required("TEST_HOOKS", parse_switch)?,
            trusted_proxies: values.required("TRUSTED_PROXIES", parse_address_ranges)?,
            rate_limits: values.rate_limits()?,
            federation: values.federation()?,
            outgoing: values.outgoing()?,
            retention: values.retention()?,
            mail: values.mail()?,
            server_notices,
            appservices,
        })
    }
}

/// The values given, each under a name of [`Config::KEYS`].
struct Values {
    given: BTreeMap<&'static str, String>,
}

impl Values {
    /// The value given or the default, parsed; `None` when there is neither.
    fn parsed<T>(&self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let known = Config::KEYS.iter().find(|known| known.name == name);
        let text = self.given.get(name).map(String::as_str).or_else(|| known.and_then(|known| known.default));
        let allowed = known.map_or("", |known| known.help);
        text.map(|text| parse(text.trim()).ok_or(ConfigError::BadValue { name, allowed })).transpose()
    }

    /// As [`Values::parsed`], for a key with a default.
    fn required<T>(&self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T, ConfigError> {
        self.parsed(name, parse)?.ok_or(ConfigError::Missing { name })
    }

    /// The limits that are on. What is switched off is checked all the same.
    fn rate_limits(&self) -> Result<BTreeMap<RateLimited, RateLimit>, ConfigError> {
        let are_on = self.required("RATE_LIMITS", parse_switch)?;
        let mut limits = BTreeMap::new();
        for limited in RateLimited::ALL {
            let group = limited.group_key().map(|group| self.parsed(group, parse_rate_limit)).transpose()?.flatten();
            let limit = match group.filter(|_| !self.given.contains_key(limited.key())) {
                Some(limit) => limit,
                None => self.required(limited.key(), parse_rate_limit)?,
            };
            if are_on && limit.is_on() {
                limits.insert(limited, limit);
            }
        }
        Ok(limits)
    }
}

fn parse_server_name(text: &str) -> Option<OwnedServerName> {
    OwnedServerName::try_from(text).ok()
}

fn parse_url(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '?' && c != '#';
    let has_host = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    (has_host && rest.chars().all(plain)).then(|| text.trim_end_matches('/').to_owned())
}

/// The address of a document, which may have a query and a fragment.
fn parse_link(text: &str) -> Option<String> {
    let address = text.split(['?', '#']).next().unwrap_or_default();
    let plain = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    parse_url(address).filter(|_| plain).map(|_| text.to_owned())
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn parse_log_level(text: &str) -> Option<LogLevel> {
    match text {
        "error" => Some(LogLevel::Error),
        "warn" => Some(LogLevel::Warn),
        "info" => Some(LogLevel::Info),
        "debug" => Some(LogLevel::Debug),
        _ => None,
    }
}

/// What is separated by commas.
fn list<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty()).map(parse).collect()
}

fn parse_rate_limit(text: &str) -> Option<RateLimit> {
    let (per_second, burst) = match text.split_once(',') {
        Some((per_second, burst)) => (per_second, burst.trim().parse().ok()?),
        None => (text, 0),
    };
    let per_second: f64 = per_second.trim().parse().ok()?;
    let sensible = per_second == 0.0 || (per_second.is_finite() && per_second > 0.0 && burst > 0);
    sensible.then_some(RateLimit { per_second, burst })
}

#[cfg(test)]
mod tests;
