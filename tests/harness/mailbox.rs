//! A mail server that a test plays: it takes what comes, for everybody.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::Authority;

/// A message is there by then, on a busy machine.
const COMES_WITHIN: Duration = Duration::from_secs(30);

/// Whom it lets in: what `AUTH PLAIN` has for the user `postbox` with the password `stamps`.
const LOGIN: &str = "AUTH PLAIN AHBvc3Rib3gAc3RhbXBz";

/// A message that came.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: String,
    pub to: String,
    /// Head and body, as they came.
    pub text: String,
}

impl Mail {
    /// The link in it.
    #[track_caller]
    pub fn link(&self) -> String {
        // A soft line break of the quoted-printable encoding is none.
        let text = self.text.replace("=\r\n", "").replace("=3D", "=");
        let start = text.find("http").unwrap_or_else(|| panic!("no link in {text}"));
        text[start..].split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// A mail server on this machine, which asks for TLS and for who comes.
pub struct Mailbox {
    pub port: u16,
    encryption: &'static str,
    mail: Arc<Mutex<VecDeque<Mail>>>,
    is_full: Arc<Mutex<bool>>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Mailbox {
    /// One that has TLS from the first byte.
    pub fn encrypted() -> Self {
        Self::starts("tls")
    }

    /// One that has TLS after `STARTTLS`.
    pub fn with_starttls() -> Self {
        Self::starts("starttls")
    }

    fn starts(encryption: &'static str) -> Self {
        let encrypted = encryption == "tls";
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it has an address").port();
        let tls = Authority::shared().vouches_for(&["localhost"]);
        let (mail, is_full): (Arc<Mutex<VecDeque<Mail>>>, Arc<Mutex<bool>>) = Default::default();
        let (taken, full) = (mail.clone(), is_full.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, taken, full) = (tls.clone(), taken.clone(), full.clone());
                // Who breaks off has had enough.
                thread::spawn(move || drop(converses(stream, &tls, encrypted, &taken, &full)));
            }
        });
        Self { port, encryption, mail, is_full }
    }

    /// What a server is to be told that sends its mail through here.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let authority = Authority::shared().file();
        let certificate = std::fs::read_to_string(authority).expect("its certificate");
        // On Workers these are two ways to encrypt.
        let trusted = match self.encryption {
            "tls" => ("EXTRA_CA_FILE", authority.to_str().expect("paths are UTF-8")),
            _ => ("EXTRA_CA", &*certificate),
        };
        let settings = [
            ("SMTP_HOST", "localhost"),
            ("SMTP_PORT", &self.port.to_string()),
            ("SMTP_ENCRYPTION", self.encryption),
            ("SMTP_USER", "postbox"),
            ("SMTP_PASSWORD", "stamps"),
            ("EMAIL_FROM", "Tea House <noreply@myelin.test>"),
            trusted,
        ];
        settings.map(|(name, value)| (name, value.to_owned())).into()
    }

    /// Whether it takes anything.
    pub fn is_full(&self, is_full: bool) {
        *self.is_full.lock().expect("no holder panics") = is_full;
    }

    /// The next message to this address; others are dropped.
    #[track_caller]
    pub fn takes(&self, to: &str) -> Mail {
        let deadline = Instant::now() + COMES_WITHIN;
        loop {
            if let Some(mail) = self.takes_at_once(to) {
                return mail;
            }
            assert!(Instant::now() < deadline, "no mail came to {to}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A message to this address that is there.
    pub fn takes_at_once(&self, to: &str) -> Option<Mail> {
        let mut mail = self.mail.lock().expect("no holder panics");
        let place = mail.iter().position(|mail| mail.to == to)?;
        mail.remove(place)
    }
}

fn converses(
    stream: TcpStream,
    tls: &Arc<ServerConfig>,
    encrypted: bool,
    taken: &Mutex<VecDeque<Mail>>,
    is_full: &Mutex<bool>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(COMES_WITHIN))?;
    let encrypts = |stream: TcpStream| -> io::Result<Box<dyn Stream>> {
        let connection = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)))
    };
    if encrypted {
        return talks(encrypts(stream)?, true, taken, is_full);
    }
    let mut plain = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    out.write_all(b"220-mail.test\r\n220 speak\r\n")?;
    loop {
        let mut line = String::new();
        if plain.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end() {
            greeting if greeting.starts_with("EHLO ") => out.write_all(b"250-mail.test\r\n250 STARTTLS\r\n")?,
            "STARTTLS" => {
                out.write_all(b"220 go on\r\n")?;
                return talks(encrypts(out)?, false, taken, is_full);
            }
            _ => out.write_all(b"530 not in the clear\r\n")?,
        }
    }
}

fn talks(
    stream: Box<dyn Stream>,
    greets: bool,
    taken: &Mutex<VecDeque<Mail>>,
    is_full: &Mutex<bool>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let says = |stream: &mut BufReader<Box<dyn Stream>>, line: &str| {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        stream.get_mut().flush()
    };
    if greets {
        says(&mut stream, "220 mail.test")?;
    }
    let mut is_known = false;
    let mut mail = Mail { from: String::new(), to: String::new(), text: String::new() };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let address = |line: &str| line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        match line.trim_end() {
            greeting if greeting.starts_with("EHLO ") => says(&mut stream, "250-mail.test\r\n250 AUTH PLAIN LOGIN")?,
            LOGIN => {
                is_known = true;
                says(&mut stream, "235 welcome")?;
            }
            "QUIT" => return says(&mut stream, "221 bye"),
            _ if !is_known => says(&mut stream, "530 who are you")?,
            from if from.starts_with("MAIL FROM:") => {
                mail.from = address(from);
                says(&mut stream, "250 ok")?;
            }
            to if to.starts_with("RCPT TO:") => {
                mail.to = address(to);
                let full = *is_full.lock().expect("no holder panics");
                says(&mut stream, if full { "452 full" } else { "250 ok" })?;
            }
            "DATA" => {
                says(&mut stream, "354 go on")?;
                mail.text = reads_message(&mut stream)?;
                taken.lock().expect("no holder panics").push_back(mail.clone());
                says(&mut stream, "250 taken")?;
            }
            _ => says(&mut stream, "500 what")?,
        }
    }
}

fn reads_message(stream: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
