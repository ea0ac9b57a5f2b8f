//! Who sends our mail, and from whom it is.

use super::{ConfigError, Secret, Values, parse_link, parse_switch};
use crate::contact::Email;

/// The longest that mail about what is unread waits: a day.
const SECONDS_MAX: u64 = 86_400;

/// How mail goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Who takes it.
    pub via: MailVia,
    /// Whom the mail is from.
    pub from: Email,
    /// What they are called.
    pub from_name: Option<String>,
    /// Whether new users have to have an address.
    pub required_at_registration: bool,
    /// How long something is unread before mail tells of it, in milliseconds.
    pub notification_delay_ms: u64,
    /// How long there is no other such mail to the same address, in milliseconds.
    pub notification_pause_ms: u64,
}

/// Who takes our mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailVia {
    /// A mail server.
    Smtp(Smtp),
    /// A service that is asked by HTTP.
    Http(HttpMailer),
}

/// A mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// A name, or an IP literal without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection to it is encrypted.
    pub encryption: MailEncryption,
    /// Who we are to it; nobody, if it asks nobody.
    pub credentials: Option<(String, Secret)>,
}

/// A service that takes each message as a `POST` of a JSON object: `from` (an address, or `"a name" <an address>`),
/// `to` (a list with one address), `subject`, `text`, and `headers`, an object. Any status from 200 to 299 says that it
/// took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMailer {
    pub url: String,
    /// What it knows us by, as a bearer token.
    pub token: Option<Secret>,
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
        let from = self.parsed("EMAIL_FROM", parse_from)?;
        let required_at_registration = self.required("REGISTRATION_REQUIRES_EMAIL", parse_switch)?;
        let [notification_delay_ms, notification_pause_ms] = ["EMAIL_NOTIFICATION_DELAY", "EMAIL_NOTIFICATION_PAUSE"]
            .map(|name| {
                let seconds = self.required(name, |text| text.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX));
                seconds.map(|seconds: u64| seconds.saturating_mul(1_000))
            });
        let (notification_delay_ms, notification_pause_ms) = (notification_delay_ms?, notification_pause_ms?);
        let via = match (self.smtp()?, self.http_mailer()?) {
            (Some(_), Some(_)) => return Err(ConfigError::Exclusive { name: "SMTP_HOST", other: "MAIL_URL" }),
            (Some(smtp), None) => MailVia::Smtp(smtp),
            (None, Some(mailer)) => MailVia::Http(mailer),
            (None, None) if required_at_registration => return Err(ConfigError::Missing { name: "SMTP_HOST" }),
            (None, None) => return Ok(None),
        };
        let (from_name, from) = from.ok_or(ConfigError::Missing { name: "EMAIL_FROM" })?;
        Ok(Some(Mail { via, from, from_name, required_at_registration, notification_delay_ms, notification_pause_ms }))
    }

    fn smtp(&self) -> Result<Option<Smtp>, ConfigError> {
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
        let Some(host) = host else { return Ok(None) };
        let credentials = match (user, password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::Missing { name: "SMTP_PASSWORD" }),
            (None, Some(_)) => return Err(ConfigError::Missing { name: "SMTP_USER" }),
        };
        let usual = if encryption == MailEncryption::Tls { 465 } else { 587 };
        Ok(Some(Smtp { host, port: port.unwrap_or(usual), encryption, credentials }))
    }

    fn http_mailer(&self) -> Result<Option<HttpMailer>, ConfigError> {
        let url = self.parsed("MAIL_URL", parse_link)?;
        match (url, self.parsed("MAIL_TOKEN", Secret::new)?) {
            (Some(url), token) => Ok(Some(HttpMailer { url, token })),
            (None, Some(_)) => Err(ConfigError::Missing { name: "MAIL_URL" }),
            (None, None) => Ok(None),
        }
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
    use super::{super::tests::config, HttpMailer, MailEncryption, MailVia, Smtp, parse_from};
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
        let via = |settings: &[(&str, &str)]| config(settings).unwrap().mail.unwrap().via;
        let smtp = |port, encryption| {
            MailVia::Smtp(Smtp { host: "mail.example.org".to_owned(), port, encryption, credentials: None })
        };
        assert_eq!(via(&least), smtp(587, MailEncryption::StartTls));
        assert_eq!(via(&[&least[..], &[("SMTP_ENCRYPTION", "tls")]].concat()), smtp(465, MailEncryption::Tls));
        let url = "https://mail.example.org/send";
        let by_http = [("MAIL_URL", url), ("EMAIL_FROM", "a@example.org")];
        assert_eq!(via(&by_http), MailVia::Http(HttpMailer { url: url.to_owned(), token: None }));
        let both = config(&[&least[..], &by_http[..1]].concat()).unwrap_err();
        assert_eq!(both, ConfigError::Exclusive { name: "SMTP_HOST", other: "MAIL_URL" });
        assert_eq!(config(&[]).unwrap().mail, None);
        for (given, missing) in [
            (vec![("SMTP_HOST", "a")], "EMAIL_FROM"),
            ([&least[..], &[("SMTP_USER", "u")]].concat(), "SMTP_PASSWORD"),
            ([&least[..], &[("SMTP_PASSWORD", "p")]].concat(), "SMTP_USER"),
            (vec![("REGISTRATION_REQUIRES_EMAIL", "on")], "SMTP_HOST"),
            (by_http[..1].to_vec(), "EMAIL_FROM"),
            (vec![("MAIL_TOKEN", "t")], "MAIL_URL"),
        ] {
            assert_eq!(config(&given).unwrap_err(), ConfigError::Missing { name: missing });
        }
    }
}
