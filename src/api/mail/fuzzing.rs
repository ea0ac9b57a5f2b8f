//! A mail server that says anything, for the fuzzer: see [`crate::fuzzing`].

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use domain::{Config, config::MailVia, contact::Email};
use futures_util::FutureExt;
use platform::{LocalFuture, SendError, Wire};

use super::smtp::deliver;
use crate::fuzzing::Target;

pub(crate) const TARGETS: &[Target] = &[("smtp", DIALOGUES, smtp)];

const DIALOGUES: &[&[u8]] = &[
    b"220 mail\r\n250-mail\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n235 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n221 bye\r\n",
    b"220-hello\n220 mail\n250-mail\n250 AUTH LOGIN\n334 a\n334 b\n235 ok\n550 no\n",
];

/// Says all it has to say, some bytes at a time; what it was told is kept.
struct Scripted {
    left: Bytes,
    heard: Rc<RefCell<Vec<u8>>>,
}

impl Wire for Scripted {
    fn read(&mut self) -> LocalFuture<'_, Result<Bytes, SendError>> {
        let piece = self.left.split_to(self.left.len().min(9));
        Box::pin(async { Ok(piece) })
    }

    fn write(&mut self, bytes: Bytes) -> LocalFuture<'_, Result<(), SendError>> {
        self.heard.borrow_mut().extend_from_slice(&bytes);
        Box::pin(async { Ok(()) })
    }

    fn encrypts(self: Box<Self>, _: &str) -> LocalFuture<'_, Result<Box<dyn Wire>, SendError>> {
        Box::pin(async {
            let wire: Box<dyn Wire> = self;
            Ok(wire)
        })
    }
}

fn smtp(bytes: &[u8]) {
    let (Ok(from), Ok(to)) = (Email::parse("us@a.test"), Email::parse("you@b.test")) else { return };
    let pairs = [
        ("SERVER_NAME", "a.test"),
        ("SMTP_HOST", "mail.test"),
        ("SMTP_ENCRYPTION", "none"),
        ("EMAIL_FROM", "us@a.test"),
    ];
    let with_login = pairs.into_iter().chain([("SMTP_USER", "us"), ("SMTP_PASSWORD", "word")]);
    let config = Config::from_pairs(with_login.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let via = config.ok().and_then(|config| config.mail).map(|mail| mail.via);
    assert!(matches!(via, Some(MailVia::Smtp(_))), "there is a mail server");
    let Some(MailVia::Smtp(server)) = via else { return };
    let heard = Rc::default();
    let wire = Box::new(Scripted { left: Bytes::copy_from_slice(bytes), heard: Rc::clone(&heard) });
    let outcome = deliver(wire, &server, "a.test", (&from, &to), b"Subject: x\n\nbody\n").now_or_never();
    let heard = heard.borrow();
    let has = |part: &[u8]| heard.windows(part.len()).any(|found| found == part);
    // It has the message only if it asked for it, and it was delivered only if it has it.
    assert!(outcome.is_some_and(|outcome| outcome.is_err() || has(b"Subject")));
    assert!(!has(b"Subject") || has(b"DATA\r\n"));
}
