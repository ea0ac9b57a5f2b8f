use super::Config;
use crate::appservice::BadRegistration;

/// What is wrong with a configuration. Values are not repeated: one may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such key.
    #[error("{name}: there is no such key. Known keys: {}", known_keys())]
    UnknownKey {
        /// The key as given.
        name: String,
    },
    /// The value is not allowed.
    #[error("{name}: {allowed}")]
    BadValue {
        /// The key.
        name: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A required key is not there.
    #[error("{name} is required")]
    Missing {
        /// The key.
        name: &'static str,
    },
    /// Of two keys only one may be given.
    #[error("{name} and {other}: only one of them may be given")]
    Exclusive {
        /// One of them.
        name: &'static str,
        /// The other.
        other: &'static str,
    },
    /// An application service is not registered as it should be.
    #[error("APPSERVICES: {0}")]
    Appservice(#[from] BadRegistration),
    /// A key was given twice.
    #[error("{name} is given twice")]
    Twice {
        /// The key.
        name: String,
    },
}

fn known_keys() -> String {
    Config::KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}
