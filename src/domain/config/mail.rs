//! Who sends our mail, and from whom it is.

use super::{ConfigError, Secret, Values, parse_switch};
use crate::contact::Email;

/// The longest that mail about what is unread waits: a day.
const SECONDS_MAX: u64 = 86_400;

/// How mail goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The server that takes it: a name, or an IP literal without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection to it is encrypted.
    pub encryption: MailEncryption,
    /// Who we are to it; nobody, if it asks nobody.
    pub credentials: Option<(String, Secret)>,
    /// Whom the mail is from.
    pub from: Email,
    /// What they are called.
    pub from_name: Option<String>,
    /// Whether who registers has to have an address.
    pub required_at_registration: bool,
    /// How long something is unread before mail tells of it, in milliseconds.
    pub notification_delay_ms: u64,
    /// How long there is no other such mail to the same address, in milliseconds.
    pub notification_pause_ms: u64,
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailEncryption {
    /// From the first byte.
    Tls,
    /// After the servers have greeted each other, or not at all and nothing is sent.
    StartTls,
    /// It is not.
    None,
}

impl Values {
    pub(super) fn mail(&self) -> Result<Option<Mail>, ConfigError> {
        let host = self.parsed("SMTP_HOST", parse_host)?;
        let encryption = self.required("SMTP_ENCRYPTION", |text| match text {
            "tls" => Some(MailEncryption::Tls),
            "starttls" => Some(MailEncryption::StartTls),
            "none" => Some(MailEncryption::None),
            _ => None,
        })?;
        let port = self.parsed("SMTP_PORT", |text| text.parse().ok().filter(|port| *port != 0))?;
        let user = self.parsed("SMTP_USER", |text| (!text.is_empty()).then(|| text.to_owned()))?;
        let password = self.parsed("SMTP_PASSWORD", Secret::new)?;
        let from = self.parsed("EMAIL_FROM", parse_from)?;
        let required_at_registration = self.required("REGISTRATION_REQUIRES_EMAIL", parse_switch)?;
        let [notification_delay_ms, notification_pause_ms] = ["EMAIL_NOTIFICATION_DELAY", "EMAIL_NOTIFICATION_PAUSE"]
            .map(|name| {
                let seconds = self.required(name, |text| text.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX));
                seconds.map(|seconds: u64| seconds.saturating_mul(1_000))
            });
        let (notification_delay_ms, notification_pause_ms) = (notification_delay_ms?, notification_pause_ms?);
        let Some(host) = host else {
            return if required_at_registration { Err(ConfigError::Missing { name: "SMTP_HOST" }) } else { Ok(None) };
        };
        let credentials = match (user, password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::Missing { name: "SMTP_PASSWORD" }),
            (None, Some(_)) => return Err(ConfigError::Missing { name: "SMTP_USER" }),
        };
        let (from_name, from) = from.ok_or(ConfigError::Missing { name: "EMAIL_FROM" })?;
        let usual = if encryption == MailEncryption::Tls { 465 } else { 587 };
        let port = port.unwrap_or(usual);
        Ok(Some(Mail {
            host,
            port,
            encryption,
            credentials,
            from,
            from_name,
            required_at_registration,
            notification_delay_ms,
            notification_pause_ms,
        }))
    }
}

fn parse_host(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (!text.is_empty() && text.len() <= 255 && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// An address, or a name and an address in angle brackets.
fn parse_from(text: &str) -> Option<(Option<String>, Email)> {
    match text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        Some((name, address)) => {
            let name = name.trim();
            let is_plain = !name.is_empty() && !name.chars().any(char::is_control);
            is_plain.then_some(())?;
            Some((Some(name.to_owned()), Email::parse(address).ok()?))
        }
        None => Some((None, Email::parse(text).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::config, MailEncryption, parse_from};
    use crate::config::ConfigError;

    #[test]
    fn mail_is_of_somebody() {
        let from = |text: &str| parse_from(text).map(|(name, address)| (name, address.as_str().to_owned()));
        let plain = |address: &str| Some((None, address.to_owned()));
        assert_eq!(from("noreply@example.org"), plain("noreply@example.org"));
        assert_eq!(from("Tea <T@example.org>"), Some((Some("Tea".to_owned()), "t@example.org".to_owned())));
        for bad in ["", "Tea", "<t@example.org>", "Tea <t>", "a@b <t@example.org> x"] {
            assert_eq!(from(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_belongs_together_is_given_together() {
        let least = [("SMTP_HOST", "mail.example.org"), ("EMAIL_FROM", "a@example.org")];
        let mail = config(&least).unwrap().mail.unwrap();
        assert_eq!((mail.port, mail.encryption, mail.credentials), (587, MailEncryption::StartTls, None));
        let tls = config(&[&least[..], &[("SMTP_ENCRYPTION", "tls")]].concat()).unwrap().mail.unwrap();
        assert_eq!(tls.port, 465);
        assert_eq!(config(&[]).unwrap().mail, None);
        for (given, missing) in [
            (vec![("SMTP_HOST", "a")], "EMAIL_FROM"),
            ([&least[..], &[("SMTP_USER", "u")]].concat(), "SMTP_PASSWORD"),
            ([&least[..], &[("SMTP_PASSWORD", "p")]].concat(), "SMTP_USER"),
            (vec![("REGISTRATION_REQUIRES_EMAIL", "on")], "SMTP_HOST"),
        ] {
            assert_eq!(config(&given).unwrap_err(), ConfigError::Missing { name: missing });
        }
    }
}
