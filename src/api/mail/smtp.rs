//! The dialogue with the server that takes our mail. RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH).

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use domain::{
    config::{MailEncryption, Smtp},
    contact::Email,
};
use platform::{SendError, Wire};

/// The longest reply, in bytes.
const REPLY_BYTES_MAX: usize = 16 * 1024;

/// Why a message was not taken. Texts are for logs.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("{0}")]
    Connection(#[from] SendError),
    #[error("the server ended the connection")]
    Ended,
    #[error("the server's reply to {0} was {1}")]
    Refused(&'static str, String),
    #[error("the server says nothing that is SMTP")]
    Nonsense,
    #[error("the server does not offer {0}")]
    NotOffered(&'static str),
}

/// What a server said.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

/// Delivers one message over a connection that was just made, and says good-bye.
pub(super) async fn deliver(
    wire: Box<dyn Wire>,
    server: &Smtp,
    own_name: &str,
    (from, to): (&Email, &Email),
    message: &[u8],
) -> Result<(), NotTaken> {
    let mut dialogue = Dialogue { wire, pending: Vec::new() };
    dialogue.hears("the connection", 2).await?;
    let mut offers = dialogue.greets(own_name).await?;
    if server.encryption == MailEncryption::StartTls {
        if !offers.has("STARTTLS") {
            return Err(NotTaken::NotOffered("STARTTLS"));
        }
        dialogue.says("STARTTLS", "STARTTLS", 2).await?;
        dialogue = dialogue.encrypted(&server.host).await?;
        // What was offered before anybody could have written.
        offers = dialogue.greets(own_name).await?;
    }
    if let Some((user, password)) = &server.credentials {
        dialogue.logs_in(&offers, user, password.expose()).await?;
    }
    dialogue.says("MAIL", &format!("MAIL FROM:<{}>", from.as_str()), 2).await?;
    dialogue.says("RCPT", &format!("RCPT TO:<{}>", to.as_str()), 2).await?;
    dialogue.says("DATA", "DATA", 3).await?;
    dialogue.writes(stuffed(message)).await?;
    dialogue.hears("the message", 2).await?;
    // It has the message, whatever it says now.
    let _ = dialogue.says("QUIT", "QUIT", 2).await;
    Ok(())
}

/// What a server can do.
struct Offers(Vec<String>);

impl Offers {
    fn has(&self, keyword: &str) -> bool {
        self.0.iter().any(|line| line.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
    }

    fn has_login(&self, mechanism: &str) -> bool {
        let of_line = |line: &String| {
            let mut words = line.split_whitespace();
            words.next().is_some_and(|word| word.eq_ignore_ascii_case("AUTH"))
                && words.any(|word| word.eq_ignore_ascii_case(mechanism))
        };
        self.0.iter().any(of_line)
    }
}

struct Dialogue {
    wire: Box<dyn Wire>,
    /// What came and was not read yet.
    pending: Vec<u8>,
}

impl Dialogue {
    async fn greets(&mut self, own_name: &str) -> Result<Offers, NotTaken> {
        let reply = self.says("EHLO", &format!("EHLO {own_name}"), 2).await?;
        Ok(Offers(reply.lines.into_iter().skip(1).collect()))
    }

    async fn encrypted(self, host: &str) -> Result<Self, NotTaken> {
        // Whoever stands between could have said it.
        if !self.pending.is_empty() {
            return Err(NotTaken::Nonsense);
        }
        Ok(Self { wire: self.wire.encrypts(host).await?, pending: Vec::new() })
    }

    async fn logs_in(&mut self, offers: &Offers, user: &str, password: &str) -> Result<(), NotTaken> {
        if offers.has_login("PLAIN") {
            let told = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
            self.says("AUTH", &format!("AUTH PLAIN {told}"), 2).await?;
        } else if offers.has_login("LOGIN") {
            self.says("AUTH", "AUTH LOGIN", 3).await?;
            self.says("AUTH", &BASE64_STANDARD.encode(user), 3).await?;
            self.says("AUTH", &BASE64_STANDARD.encode(password), 2).await?;
        } else {
            return Err(NotTaken::NotOffered("AUTH PLAIN and AUTH LOGIN"));
        }
        Ok(())
    }

    /// Sends a line, and hears a reply whose code begins with the digit `expected`.
    async fn says(&mut self, what: &'static str, line: &str, expected: u16) -> Result<Reply, NotTaken> {
        self.writes(format!("{line}\r\n").into_bytes()).await?;
        self.hears(what, expected).await
    }

    async fn writes(&mut self, bytes: Vec<u8>) -> Result<(), NotTaken> {
        Ok(self.wire.write(Bytes::from(bytes)).await?)
    }

    async fn hears(&mut self, what: &'static str, expected: u16) -> Result<Reply, NotTaken> {
        let reply = self.reply().await?;
        if reply.code / 100 == expected {
            return Ok(reply);
        }
        Err(NotTaken::Refused(what, format!("{} {}", reply.code, reply.lines.join(" / "))))
    }

    async fn reply(&mut self) -> Result<Reply, NotTaken> {
        let (mut lines, mut bytes) = (Vec::new(), 0_usize);
        loop {
            let line = self.line().await?;
            bytes = bytes.saturating_add(line.len());
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok()).ok_or(NotTaken::Nonsense)?;
            let is_last = match line.as_bytes().get(3) {
                None | Some(b' ') => true,
                Some(b'-') => false,
                Some(_) => return Err(NotTaken::Nonsense),
            };
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if is_last {
                return Ok(Reply { code, lines });
            }
            if bytes > REPLY_BYTES_MAX {
                return Err(NotTaken::Nonsense);
            }
        }
    }

    async fn line(&mut self) -> Result<String, NotTaken> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.pending.len() > REPLY_BYTES_MAX {
                return Err(NotTaken::Nonsense);
            }
            let more = self.wire.read().await?;
            if more.is_empty() {
                return Err(NotTaken::Ended);
            }
            self.pending.extend_from_slice(&more);
        }
    }
}

/// A message as it goes over the line: with line breaks of two bytes, no line that is a single dot, and that at its
/// end.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(message.len().saturating_add(64));
    let message = message.strip_suffix(b"\n").map_or(message, |rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    for line in message.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
        stuffed.extend_from_slice(b"\r\n");
    }
    stuffed.extend_from_slice(b".\r\n");
    stuffed
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use domain::{
        Config,
        config::{MailVia, Smtp},
        contact::Email,
    };
    use platform::{LocalFuture, SendError, Wire};

    use super::{deliver, stuffed};
    use crate::testing::{block_on, config};

    /// What each side of a dialogue is to say: `S:` the server, `C:` we, and `TLS`.
    struct Scripted {
        lines: VecDeque<String>,
    }

    impl Wire for Scripted {
        fn read(&mut self) -> LocalFuture<'_, Result<Bytes, SendError>> {
            Box::pin(async {
                let mut read = String::new();
                while let Some(line) = self.lines.front().and_then(|line| line.strip_prefix("S: ")) {
                    read.push_str(line);
                    read.push_str("\r\n");
                    self.lines.pop_front();
                }
                Ok(read.into())
            })
        }

        fn write(&mut self, bytes: Bytes) -> LocalFuture<'_, Result<(), SendError>> {
            Box::pin(async move {
                for line in String::from_utf8(bytes.to_vec()).unwrap().lines() {
                    let expected = self.lines.pop_front().unwrap_or_default();
                    assert_eq!(expected, format!("C: {line}").trim_end());
                }
                Ok(())
            })
        }

        fn encrypts(mut self: Box<Self>, certificate_name: &str) -> LocalFuture<'_, Result<Box<dyn Wire>, SendError>> {
            assert_eq!(self.lines.pop_front().unwrap(), format!("TLS {certificate_name}"));
            Box::pin(async {
                let wire: Box<dyn Wire> = self;
                Ok(wire)
            })
        }
    }

    fn mail(pairs: &[(&str, &str)]) -> (Smtp, Email) {
        let least = [("SMTP_HOST", "mail.test"), ("EMAIL_FROM", "us@a.test")];
        let config: Config = config(&[&least[..], pairs].concat());
        let mail = config.mail.unwrap();
        let MailVia::Smtp(server) = mail.via else { panic!("no server") };
        (server, mail.from)
    }

    fn talks(pairs: &[(&str, &str)], script: &str) -> Result<(), String> {
        let lines = script.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        let wire = Box::new(Scripted { lines });
        let to = Email::parse("alice@b.test").unwrap();
        let (server, from) = mail(pairs);
        block_on(deliver(wire, &server, "a.test", (&from, &to), b"Subject: hi\n\n.dot\n"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_message_is_delivered_under_encryption() {
        let login = [("SMTP_USER", "us"), ("SMTP_PASSWORD", "secret")];
        let script = "
            S: 220-mail.test welcomes
            S: 220 you
            C: EHLO a.test
            S: 250-mail.test
            S: 250-starttls
            S: 250 SIZE 1000
            C: STARTTLS
            S: 220 go on
            TLS mail.test
            C: EHLO a.test
            S: 250-mail.test
            S: 250 AUTH LOGIN PLAIN
            C: AUTH PLAIN AHVzAHNlY3JldA==
            S: 235 welcome
            C: MAIL FROM:<us@a.test>
            S: 250 ok
            C: RCPT TO:<alice@b.test>
            S: 250 ok
            C: DATA
            S: 354 go on
            C: Subject: hi
            C:
            C: ..dot
            C: .
            S: 250 taken
            C: QUIT
            S: 221 bye";
        assert_eq!(talks(&login, script), Ok(()));
    }

    #[test]
    fn nothing_is_said_in_the_clear_that_should_not_be() {
        let refused = talks(
            &[],
            "S: 220 hi
             C: EHLO a.test
             S: 250 mail.test",
        );
        assert_eq!(refused, Err("the server does not offer STARTTLS".to_owned()));
        let injected = talks(
            &[],
            "S: 220 hi
             C: EHLO a.test
             S: 250-mail.test
             S: 250 STARTTLS
             C: STARTTLS
             S: 220 go on
             S: 250 AUTH PLAIN",
        );
        assert_eq!(injected, Err("the server says nothing that is SMTP".to_owned()));
    }

    #[test]
    fn what_the_server_does_not_want_is_told() {
        let plain = [("SMTP_ENCRYPTION", "none")];
        let nobody = talks(
            &plain,
            "S: 220 hi
             C: EHLO a.test
             S: 250 mail.test
             C: MAIL FROM:<us@a.test>
             S: 250 ok
             C: RCPT TO:<alice@b.test>
             S: 550 nobody here",
        );
        assert_eq!(nobody, Err("the server's reply to RCPT was 550 nobody here".to_owned()));
        let ended = Err("the server ended the connection".to_owned());
        assert_eq!([talks(&plain, ""), talks(&plain, "S: 220 hi\nC: EHLO a.test")], [ended.clone(), ended]);
        for nonsense in ["S: hello", "S: 22", "S: 220?hi"] {
            assert_eq!(talks(&plain, nonsense), Err("the server says nothing that is SMTP".to_owned()), "{nonsense}");
        }
    }

    #[test]
    fn no_line_is_a_single_dot_but_the_last() {
        assert_eq!(stuffed(b"a\n.\n..b\r\nc"), b"a\r\n..\r\n...b\r\nc\r\n.\r\n");
        assert_eq!(stuffed(b""), b"\r\n.\r\n");
    }
}
