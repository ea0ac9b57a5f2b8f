//! Mail that the server sends: what proves that an address is somebody's, and what is unread.
//!
//! In scope: what a message looks like, and handing it to the server that takes our mail. Out of scope: what it is about.

mod smtp;
pub(crate) mod validation;

use domain::{Refusal, config::Mail, config::MailEncryption, contact::Email};
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

/// Hands a message to the server that takes our mail.
///
/// # Errors
/// 502 if it is not taken.
pub(crate) async fn send(cx: &Context, mail: &Mail, to: &Email, message: Message) -> Result<(), Failure> {
    let written = written(cx, mail, to, message)?;
    let scheme = if mail.encryption == MailEncryption::Tls { Scheme::Https } else { Scheme::Http };
    let peer = Peer::of_operator(scheme, &mail.host, Some(mail.port));
    let delivery = async {
        let wire = cx.services().outgoing.dial(&peer).await?;
        smtp::deliver(wire, mail, cx.server_name().host(), to, &written).await
    };
    let outcome = match select(std::pin::pin!(delivery), std::pin::pin!(cx.pause(cx.in_time(TIMEOUT_MS)))).await {
        Either::Left((outcome, _)) => outcome.map_err(|error| error.to_string()),
        Either::Right(_) => Err("it took too long".to_owned()),
    };
    outcome.map_err(|error| {
        tracing::warn!(host = mail.host, error, "mail was not taken");
        Refusal::OtherServer("The email could not be sent".to_owned()).into()
    })
}

fn written(cx: &Context, mail: &Mail, to: &Email, message: Message) -> Result<Vec<u8>, Fault> {
    let name = mail.from_name.clone().unwrap_or_else(|| cx.server_name().to_string());
    let (_, domain) = mail.from.as_str().split_once('@').unwrap_or_default();
    let id = format!("{:032x}@{domain}", u128::from_be_bytes(cx.random()?));
    let mut builder = MessageBuilder::new();
    if let Some(link) = message.unsubscribe {
        builder = builder
            .header("List-Unsubscribe", Raw::new(format!("<{link}>")))
            .header("List-Unsubscribe-Post", Raw::new("List-Unsubscribe=One-Click"));
    }
    builder
        .from((name, mail.from.as_str().to_owned()))
        .to(to.as_str())
        .subject(message.subject)
        .date(cx.now_ms() / 1_000)
        .message_id(id)
        // Nobody is to be told that somebody is away.
        .header("Auto-Submitted", Raw::new("auto-generated"))
        .text_body(message.text)
        .write_to_vec()
        .map_err(|error| Fault::new(format!("a message: {error}")))
}
