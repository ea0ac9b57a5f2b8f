use super::{ConfigError, Secret, Values, parse_link};

/// Who may register an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Nobody but the administrator.
    Closed,
    /// Everyone with a registration token.
    Token,
    /// Everyone.
    Open,
}

/// A document that new users have to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Where it is to be read.
    pub url: String,
    /// What it is called.
    pub name: String,
    /// Which of its versions that is.
    pub version: String,
}

/// What tells people from programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recaptcha {
    /// Our key for clients.
    pub public_key: String,
    /// Our key for whoever verifies what they answer.
    pub private_key: Secret,
    /// Where that is.
    pub verify_url: String,
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
    pub(super) fn recaptcha(&self) -> Result<Option<Recaptcha>, ConfigError> {
        let key = |text: &str| {
            let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            (!text.is_empty() && text.bytes().all(is_key)).then(|| text.to_owned())
        };
        let (public_key, private_key) =
            (self.parsed("RECAPTCHA_PUBLIC_KEY", key)?, self.parsed("RECAPTCHA_PRIVATE_KEY", Secret::new)?);
        let verify_url = self.required("RECAPTCHA_VERIFY_URL", parse_link)?;
        match (public_key, private_key) {
            (Some(public_key), Some(private_key)) => Ok(Some(Recaptcha { public_key, private_key, verify_url })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(ConfigError::Missing { name: "RECAPTCHA_PRIVATE_KEY" }),
            (None, Some(_)) => Err(ConfigError::Missing { name: "RECAPTCHA_PUBLIC_KEY" }),
        }
    }

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
