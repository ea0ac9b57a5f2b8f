use super::{ConfigError, Values, parse_link};

/// Who may register an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Nobody but the administrator.
    Closed,
    /// Who holds a registration token.
    Token,
    /// Everyone.
    Open,
}

/// A document that who registers has to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Where it is to be read.
    pub url: String,
    /// What it is called.
    pub name: String,
    /// Which of its versions that is.
    pub version: String,
}

/// The parameters of argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordHashCost {
    /// Memory in KiB: at least 8 for each lane.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Values {
    pub(super) fn terms(&self) -> Result<Option<Terms>, ConfigError> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (name, version) = (self.required("TERMS_NAME", text)?, self.required("TERMS_VERSION", text)?);
        let url = self.parsed("TERMS_URL", parse_link)?;
        Ok(url.map(|url| Terms { url, name, version }))
    }
}

pub(super) fn parse_registration(text: &str) -> Option<Registration> {
    match text {
        "closed" => Some(Registration::Closed),
        "token" => Some(Registration::Token),
        "open" => Some(Registration::Open),
        _ => None,
    }
}

pub(super) fn parse_password_hash_cost(text: &str) -> Option<PasswordHashCost> {
    let mut numbers = text.split(',').map(|number| number.trim().parse::<u32>().ok().filter(|number| *number > 0));
    let cost =
        PasswordHashCost { memory_kib: numbers.next()??, iterations: numbers.next()??, parallelism: numbers.next()?? };
    // RFC 9106, section 3.1: memory is at least 8p kibibytes, p at most 2^24 - 1.
    let enough = cost.parallelism < 1 << 24 && cost.memory_kib >= cost.parallelism * 8;
    (enough && numbers.next().is_none()).then_some(cost)
}
