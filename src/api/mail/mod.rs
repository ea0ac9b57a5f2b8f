//! Mail that the server sends: what proves that an address is somebody's, and what is unread.
//!
//! In scope: what a message looks like, and handing it to the server or the service that takes our mail. Out of scope:
//! what it is about.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
mod smtp;
pub(crate) mod validation;

use domain::{
    Refusal,
    config::{Mail, MailEncryption, MailVia, Smtp},
    contact::Email,
};
use futures_util::future::{Either, select};
use mail_builder::{MessageBuilder, headers::raw::Raw};
use platform::{Fault, Peer, Scheme};

use crate::{Context, Failure};

/// How long the server may take for all of it, in milliseconds: a person waits.
const TIMEOUT_MS: u64 = 30_000;

/// A message in plain text.
pub(crate) struct Message {
    pub subject: String,
    pub text: String,
    /// Where the reader says that they want no more of such mail.
    pub unsubscribe: Option<String>,
}

/// Hands a message to who takes our mail.
///
/// # Errors
/// 502 if it is not taken.
pub(crate) async fn send(cx: &Context, mail: &Mail, to: &Email, message: Message) -> Result<(), Failure> {
    let (host, outcome) = match &mail.via {
        MailVia::Smtp(server) => {
            (&server.host, by_smtp(cx, server, (&mail.from, to), &written(cx, mail, to, message)?).await)
        }
        MailVia::Http(mailer) => (&mailer.url, http::deliver(cx, mailer, mail, to, message).await?),
    };
    outcome.map_err(|error| {
        tracing::warn!(host, error, "mail was not taken");
        Refusal::OtherServer("The email could not be sent".to_owned()).into()
    })
}

async fn by_smtp(cx: &Context, server: &Smtp, ends: (&Email, &Email), message: &[u8]) -> Result<(), String> {
    let scheme = if server.encryption == MailEncryption::Tls { Scheme::Https } else { Scheme::Http };
    let peer = Peer::of_operator(scheme, &server.host, Some(server.port));
    let delivery = async {
        let wire = cx.services().outgoing.dial(&peer).await?;
        smtp::deliver(wire, server, cx.server_name().host(), ends, message).await
    };
    match select(std::pin::pin!(delivery), std::pin::pin!(cx.pause(cx.in_time(TIMEOUT_MS)))).await {
        Either::Left((outcome, _)) => outcome.map_err(|error| error.to_string()),
        Either::Right(_) => Err("it took too long".to_owned()),
    }
}

/// Of a message, beside who wrote it and to whom: header fields that say that it was written by a program, which nobody
/// need tell that somebody is away, and how to get no more of them.
fn fields(message: &Message) -> Vec<(&'static str, String)> {
    let mut fields = vec![("Auto-Submitted", "auto-generated".to_owned())];
    if let Some(link) = &message.unsubscribe {
        fields.push(("List-Unsubscribe", format!("<{link}>")));
        fields.push(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()));
    }
    fields
}

fn from_name(cx: &Context, mail: &Mail) -> String {
    mail.from_name.clone().unwrap_or_else(|| cx.server_name().to_string())
}

fn written(cx: &Context, mail: &Mail, to: &Email, message: Message) -> Result<Vec<u8>, Fault> {
    let name = from_name(cx, mail);
    let (_, domain) = mail.from.as_str().split_once('@').unwrap_or_default();
    let id = format!("{:032x}@{domain}", u128::from_be_bytes(cx.random()?));
    let mut builder = MessageBuilder::new();
    for (name, value) in fields(&message) {
        builder = builder.header(name, Raw::new(value));
    }
    builder
        .from((name, mail.from.as_str().to_owned()))
        .to(to.as_str())
        .subject(message.subject)
        .date(cx.now_ms() / 1_000)
        .message_id(id)
        .text_body(message.text)
        .write_to_vec()
        .map_err(|error| Fault::new(format!("a message: {error}")))
}
