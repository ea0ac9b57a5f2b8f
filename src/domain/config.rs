//! The server's configuration: one list of keys, the same names on every host.
//!
//! Owns the names, the defaults, and what is allowed. Where the pairs come from (`[vars]` and secrets of a Worker;
//! environment, file and flags natively) is the host's.

mod accounts;
mod appservices;
mod error;
mod federation;
mod mail;
mod media_quota;
mod retention;
mod secret;
mod server_notices;
mod support;
mod turn;
mod url_previews;

use std::collections::BTreeMap;

use ruma_common::OwnedServerName;

use crate::{Appservice, RateLimit, RateLimited, RoomVersion, address_range::AddressRange, retention::RetentionRules};

pub use accounts::{PasswordHashCost, Recaptcha, Registration, Terms};
use accounts::{parse_password_hash_cost, parse_registration};
pub use error::ConfigError;
use federation::parse_address_ranges;
pub use federation::{ConnectTo, DnsOverrides, Federation, OutgoingRules, PrivateAddress};
pub use mail::{HttpMailer, Mail, MailEncryption, MailVia, Smtp};
pub use media_quota::MediaQuota;
use media_quota::{UPLOAD_SIZE_MAX, parse_days_ms, parse_size};
pub use secret::Secret;
pub use server_notices::ServerNotices;
pub use support::{Support, SupportContact};
pub use turn::{Relay, Turn};
pub use url_previews::UrlPreviews;

/// A key of the configuration, for listings and generated documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigKey {
    /// The name on every host; natively with `MYELIN_` before it in the environment.
    pub name: &'static str,
    /// The value when none is given; `None` when there is none, or when it follows from another key.
    pub default: Option<&'static str>,
    /// What it does and what is allowed.
    pub help: &'static str,
    /// Whether it is nobody else's to know.
    pub is_secret: bool,
}

// scripts/deploy reads the names from the calls of these two.
const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> ConfigKey {
    ConfigKey { name, default, help, is_secret: false }
}

const fn secret(name: &'static str, default: Option<&'static str>, help: &'static str) -> ConfigKey {
    ConfigKey { name, default, help, is_secret: true }
}

/// The configuration, valid as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The name after the colon in every id we make; may carry a port.
    pub server_name: OwnedServerName,
    /// Where clients reach us, without a slash at the end.
    pub public_baseurl: String,
    /// `host:port` announced to other servers at `/.well-known/matrix/server`.
    pub well_known_server: Option<OwnedServerName>,
    /// Who may register.
    pub registration: Registration,
    /// Whether guests may register.
    pub allow_guests: bool,
    /// What who registers has to accept.
    pub terms: Option<Terms>,
    /// How who registers shows that they are a person, if they have to.
    pub recaptcha: Option<Recaptcha>,
    /// The fewest characters of a new password.
    pub password_length_min: usize,
    /// How long the access tokens of clients that refresh them last, in milliseconds.
    pub access_token_lifetime_ms: u64,
    /// Whether users may make tokens that other clients log in with.
    pub login_tokens: bool,
    /// How to get help with the server.
    pub support: Option<Support>,
    /// The key of the policy server of this name, in unpadded base64.
    pub policy_server_key: Option<String>,
    /// Lets who knows it register users through the admin API.
    pub registration_shared_secret: Option<Secret>,
    /// The version of a new room that names none.
    pub default_room_version: RoomVersion,
    /// What a password costs to check.
    pub password_hash_cost: PasswordHashCost,
    /// Whether `/metrics` is served.
    pub metrics: bool,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Whether users see who of the others is there.
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
    /// Which web pages are looked at for users who want to know what is there.
    pub url_previews: UrlPreviews,
    /// Natively: the reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<AddressRange>,
    /// The limits that are on.
    pub rate_limits: BTreeMap<RateLimited, RateLimit>,
    /// Which other servers we talk to.
    pub federation: Federation,
    /// How they are reached.
    pub outgoing: OutgoingRules,
    /// How long what is said in rooms is kept.
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
    /// Every key there is.
    pub const KEYS: &[ConfigKey; 98] = &[
        key("SERVER_NAME", None, "required. The server's name in user ids; may carry a port, such as localhost:8448"),
        key(
            "PUBLIC_BASEURL",
            None,
            "the https:// or http:// URL where clients reach the server; by default https://SERVER_NAME",
        ),
        key("WELL_KNOWN_SERVER", None, "host:port announced to other servers at /.well-known/matrix/server"),
        key("REGISTRATION", Some("closed"), "who may register: closed, token or open"),
        secret("REGISTRATION_SHARED_SECRET", None, "Lets who knows it register users; not empty"),
        key("ALLOW_GUESTS", Some("off"), "whether guests may register: on or off"),
        key("TERMS_URL", None, "the https:// or http:// URL of what who registers has to accept; none by default"),
        key("TERMS_NAME", Some("Terms of Service"), "what clients call it; not empty"),
        key("TERMS_VERSION", Some("1"), "which version it is; not empty"),
        key(
            "RECAPTCHA_PUBLIC_KEY",
            None,
            "the site key of reCAPTCHA, by which who registers shows that they are a person; goes with \
             RECAPTCHA_PRIVATE_KEY",
        ),
        secret("RECAPTCHA_PRIVATE_KEY", None, "The other key"),
        key(
            "RECAPTCHA_VERIFY_URL",
            Some("https://www.google.com/recaptcha/api/siteverify"),
            "who says whether a challenge is solved",
        ),
        key("PASSWORD_LENGTH_MIN", Some("1"), "the fewest characters of a new password: 1 to 128"),
        key(
            "ACCESS_TOKEN_LIFETIME",
            Some("300"),
            "how long the access tokens of clients that refresh them last, in seconds: 1 to 31536000",
        ),
        key(
            "LOGIN_TOKENS",
            Some("on"),
            "whether users may make a token with which another client logs in, once, within two minutes: on or off",
        ),
        key(
            "SUPPORT_CONTACTS",
            Some(""),
            "who helps with the server, separated by commas: a role (m.role.admin, m.role.security or one of your own), a \
             user id, an email address, or both, separated by spaces",
        ),
        key("SUPPORT_PAGE", None, "the https:// or http:// URL of a page that helps"),
        key(
            "POLICY_SERVER_KEY",
            None,
            "the ed25519 public key of the policy server that goes by SERVER_NAME: 32 bytes in base64 without padding",
        ),
        key("DEFAULT_ROOM_VERSION", Some("12"), "the version of new rooms: 1 to 12"),
        key(
            "PASSWORD_HASH_COST",
            Some("19456,2,1"),
            "argon2id as memory_kib,iterations,parallelism: whole numbers from 1, memory_kib at least 8 × parallelism",
        ),
        key("FEDERATION", Some("on"), "whether this server talks to others: on or off"),
        key(
            "FEDERATION_ALLOW",
            Some("*"),
            "the servers it talks to: names separated by commas, in which * stands for any text and ? for one \
             character; a name without a port is of every port",
        ),
        key("FEDERATION_DENY", Some(""), "those it does not talk to whatever FEDERATION_ALLOW says, in the same form"),
        key(
            "TRUSTED_KEY_SERVERS",
            Some("matrix.org"),
            "who is asked for the keys of servers that do not answer themselves, and believed: server names separated \
             by commas; may be empty",
        ),
        key(
            "EXTRA_CA_FILE",
            None,
            "natively, certificate authorities, as PEM, that are trusted for connections to others besides the usual ones",
        ),
        key(
            "ALLOW_PRIVATE_ADDRESSES",
            Some("off"),
            "whether other servers, push gateways and what is previewed may be at addresses that are not public, such as \
             127.0.0.1 or 10.0.0.1: on or off",
        ),
        key(
            "DENY_ADDRESSES",
            Some(""),
            "addresses that are not connected to even if they are public or ALLOW_PRIVATE_ADDRESSES is on: addresses and \
             ranges such as 10.0.0.0/8, separated by commas; on Workers those that are given as such, not those of names",
        ),
        key(
            "DNS_OVERRIDES",
            Some(""),
            "where names are, whatever the DNS says: name=address or name=address:port, separated by commas; a name that \
             begins with _ is an SRV record, _matrix-fed._tcp.name=target:port",
        ),
        key("PRESENCE", Some("on"), "whether users see which of those they share a room with are there: on or off"),
        key(
            "MAX_UPLOAD_SIZE",
            Some("50M"),
            "the largest file that may be uploaded, or is fetched from another server: bytes, or with K, M or G; 1 to 16G, \
             on Workers never more than 100M",
        ),
        key(
            "MEDIA_QUOTA",
            None,
            "how much media one user may have: bytes, or with K, M, G or T; up to 1024T; by default without limit",
        ),
        key(
            "MEDIA_QUOTA_DAILY",
            None,
            "how much media one user may upload within 24 hours, in the same form; by default without limit",
        ),
        key(
            "MEDIA_QUOTA_INFO_URL",
            None,
            "the https:// or http:// URL where users read about MEDIA_QUOTA: who reaches it is sent there",
        ),
        key(
            "MEDIA_RETENTION",
            None,
            "how many days our users' media is kept after it was last fetched, unless it is protected: 1 to 36500; by \
             default for ever",
        ),
        key(
            "REMOTE_MEDIA_RETENTION",
            Some("90"),
            "how many days a copy of other servers' media is kept after it was last fetched: 1 to 36500, or 0 for ever",
        ),
        key(
            "REMOTE_MEDIA_QUOTA",
            None,
            "how much is kept of copies of other servers' media and images of previews, in the same form as MEDIA_QUOTA: what \
             was not fetched for the longest time goes, within minutes; by default without limit",
        ),
        key(
            "AUTHENTICATED_MEDIA",
            Some("on"),
            "whether media uploaded from now on is served only to those with an access token, and not by the deprecated \
             endpoints: on or off",
        ),
        key("TURN_URIS", None, "where calls are relayed: turn: and turns: URIs separated by commas"),
        secret("TURN_SHARED_SECRET", None, "The one that the TURN servers know; goes with TURN_URIS"),
        key(
            "TURN_CLOUDFLARE_KEY_ID",
            None,
            "instead of TURN_URIS, the id of a key of Cloudflare's TURN service; goes with TURN_CLOUDFLARE_API_TOKEN",
        ),
        secret("TURN_CLOUDFLARE_API_TOKEN", None, "The API token of that key"),
        key("TURN_CLOUDFLARE_URL", Some("https://rtc.live.cloudflare.com/v1/turn"), "where that service is asked"),
        key(
            "TURN_USER_LIFETIME",
            Some("86400"),
            "how long credentials for TURN servers are good, in seconds: 60 to 31536000, and to 172800 at Cloudflare",
        ),
        key(
            "URL_PREVIEWS",
            Some("off"),
            "whether users are told what is at a URL, which this server then fetches: on or off",
        ),
        key(
            "URL_PREVIEWS_DENY",
            Some(""),
            "the hosts it does not fetch from for that: names or addresses separated by commas, in which * stands for any \
             text and ? for one character",
        ),
        key("SMTP_HOST", None, "who takes our mail: a name or an address; without it, or MAIL_URL, there is no mail"),
        key("SMTP_PORT", None, "its port; by default 465 with SMTP_ENCRYPTION=tls, and 587 otherwise"),
        key(
            "SMTP_ENCRYPTION",
            Some("starttls"),
            "how the connection to it is encrypted: tls (from the first byte), starttls, or none",
        ),
        key("SMTP_USER", None, "who we are to it, if it asks; goes with SMTP_PASSWORD"),
        secret("SMTP_PASSWORD", None, "The password of SMTP_USER"),
        key("MAIL_URL", None, "instead of SMTP_HOST, where each message is sent as a POST of JSON, as the README says"),
        secret("MAIL_TOKEN", None, "What we are known by there: it goes along as a bearer token"),
        key("EMAIL_FROM", None, "whom the mail is from, if there is any: an address, or a name and <an address>"),
        key(
            "REGISTRATION_REQUIRES_EMAIL",
            Some("off"),
            "whether who registers has to prove that an email address is theirs: on or off",
        ),
        key(
            "EMAIL_NOTIFICATION_DELAY",
            Some("600"),
            "how long something is unread, in seconds, before mail tells those of it who want that: 0 to 86400",
        ),
        key("EMAIL_NOTIFICATION_PAUSE", Some("3600"), "how long nobody gets another such mail, in seconds: 0 to 86400"),
        key(
            "RETENTION",
            Some("off"),
            "whether what was said in a room is removed when it is older than the room wants (m.room.retention): on or off",
        ),
        key(
            "RETENTION_DEFAULT",
            None,
            "how long it is kept in rooms that say nothing: a whole number with s, m, h, d, w or y; by default for ever",
        ),
        key("RETENTION_MIN", None, "the shortest time that a room may choose, in the same form"),
        key("RETENTION_MAX", None, "the longest time that a room may choose, in the same form"),
        key(
            "SERVER_NOTICES_LOCALPART",
            None,
            "whose name the notices to users bear that administrators send, before the colon of a user id that nobody else \
             has: letters a to z, digits and ._=-/+; without it there are none",
        ),
        key("SERVER_NOTICES_DISPLAY_NAME", Some("Server Notices"), "what they are called; not empty"),
        key("SERVER_NOTICES_ROOM_NAME", Some("Server Notices"), "what the rooms of notices are called; not empty"),
        secret(
            "APPSERVICES",
            Some(""),
            "The registrations of application services, with their tokens: what is in their YAML files, one after \
             the other with a line --- between them, or a JSON list",
        ),
        key(
            "APPSERVICE_FILES",
            Some(""),
            "natively, the registration files of application services, separated by commas; what is in them comes after \
             APPSERVICES",
        ),
        key("METRICS", Some("off"), "whether /metrics is served: on or off"),
        key("LOG_LEVEL", Some("info"), "the least severe level that is logged: error, warn, info or debug"),
        key("TEST_HOOKS", Some("off"), "for tests only, lets a test evict actors: on or off"),
        key(
            "TRUSTED_PROXIES",
            Some("127.0.0.0/8,::1"),
            "natively, the reverse proxies whose X-Forwarded-For names the client, which they must set or append to: \
             addresses and ranges such as 10.0.0.0/8, separated by commas; may be empty",
        ),
        key(
            "RATE_LIMITS",
            Some("on"),
            "whether there are rate limits: on or off. Each is per_second,burst; 0 as per_second is no limit",
        ),
        key("RC_LOGIN", None, "for every RC_LOGIN_* that is not given: per_second,burst, or 0"),
        key("RC_LOGIN_ADDRESS", Some("0.003,5"), "attempts to log in, per address: per_second,burst, or 0"),
        key("RC_LOGIN_ACCOUNT", Some("0.003,5"), "logins, per account: per_second,burst, or 0"),
        key("RC_LOGIN_FAILED_ATTEMPTS", Some("0.17,3"), "wrong passwords, per account: per_second,burst, or 0"),
        key(
            "RC_REGISTRATION",
            Some("0.17,3"),
            "accounts made and proofs that failed, per address: per_second,burst, or 0",
        ),
        key(
            "RC_REGISTRATION_TOKEN_VALIDITY",
            Some("0.1,5"),
            "registration tokens asked about or tried on a page, per address: per_second,burst, or 0",
        ),
        key(
            "RC_EMAIL_VALIDATION",
            Some("0.003,5"),
            "emails that prove an address, per client's address and per email address: per_second,burst, or 0",
        ),
        key("RC_MESSAGE", Some("0.2,10"), "events sent and profiles changed, per user: per_second,burst, or 0"),
        key("RC_JOINS", None, "for every RC_JOINS_* that is not given: per_second,burst, or 0"),
        key("RC_JOINS_LOCAL", Some("0.1,10"), "joins and knocks, per user: per_second,burst, or 0"),
        key("RC_JOINS_PER_ROOM", Some("1,10"), "joins, per room: per_second,burst, or 0"),
        key("RC_INVITES", None, "for every RC_INVITES_* that is not given: per_second,burst, or 0"),
        key("RC_INVITES_PER_ROOM", Some("0.3,10"), "invitations, per room: per_second,burst, or 0"),
        key("RC_INVITES_PER_USER", Some("0.003,5"), "invitations, per user who is invited: per_second,burst, or 0"),
        key("RC_INVITES_PER_ISSUER", Some("0.3,10"), "invitations, per user who invites: per_second,burst, or 0"),
        key("RC_ROOM_CREATION", Some("0.016,10"), "rooms created, per user: per_second,burst, or 0"),
        key("RC_USER_DIRECTORY", Some("0.016,200"), "searches of the user directory, per user: per_second,burst, or 0"),
        key("RC_MEDIA_CREATE", Some("10,50"), "media created and uploaded, per user: per_second,burst, or 0"),
        key(
            "RC_RECEIPTS",
            Some("10,100"),
            "receipts, read markers and notices of typing, per user: per_second,burst, or 0",
        ),
        key("RC_REPORTS", Some("1,5"), "reports to the administrators, per user: per_second,burst, or 0"),
        key(
            "RC_REQUESTS",
            Some("50,500"),
            "whatever else the specification has limited, per access token, or per address where there is none: \
             per_second,burst, or 0",
        ),
        key("RC_URL_PREVIEWS", Some("1,30"), "URLs asked about, per user: per_second,burst, or 0"),
        key("RC_PRESENCE", Some("0.1,1"), "changes of presence, per user: per_second,burst, or 0"),
        key(
            "RC_REMOTE_QUERIES",
            Some("2,200"),
            "questions to other servers for who did not say who they are, per address: per_second,burst, or 0",
        ),
        key("RC_REMOTE_INVITES", Some("1,100"), "invitations, per server that sends them: per_second,burst, or 0"),
        key("RC_TO_DEVICE", Some("20,500"), "requests with messages to devices, per user: per_second,burst, or 0"),
        key("RC_NEW_SERVERS", Some("0.1,100"), "unknown servers written to, per user: per_second,burst, or 0"),
        key(
            "RC_REMOTE_MEDIA",
            Some("10,500"),
            "media fetched from other servers, per user, or per address for who did not say who they are: \
             per_second,burst, or 0",
        ),
    ];

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
