//! Handing mail to a service that is asked by HTTP. [`HttpMailer`] says how.

use std::collections::BTreeMap;

use domain::{
    config::{HttpMailer, Mail},
    contact::Email,
};
use platform::Fault;
use serde::Serialize;

use super::{Message, fields, from_name};
use crate::{
    Context,
    named_service::{JSON, Post},
};

#[derive(Serialize)]
struct Sent<'a> {
    from: String,
    to: [&'a str; 1],
    subject: &'a str,
    text: &'a str,
    headers: BTreeMap<&'static str, String>,
}

/// Delivers one message; within, why it was not taken, to be logged.
pub(super) async fn deliver(
    cx: &Context,
    mailer: &HttpMailer,
    mail: &Mail,
    to: &Email,
    message: Message,
) -> Result<Result<(), String>, Fault> {
    let sent = Sent {
        from: format!("{} <{}>", quoted(&from_name(cx, mail)), mail.from.as_str()),
        to: [to.as_str()],
        subject: &message.subject,
        text: &message.text,
        headers: fields(&message).into_iter().collect(),
    };
    let bearer = mailer.token.as_ref().map(|token| token.expose());
    let post = Post { url: &mailer.url, content_type: JSON, bearer, body: serde_json::to_vec(&sent)?.into() };
    post.delivers(cx).await
}

/// A name as a quoted string. RFC 5322, 3.2.4.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_name_is_nothing_but_a_name() {
        for (name, expected) in [("Tea House", "\"Tea House\""), ("A \"B\" \\<c@d>", "\"A \\\"B\\\" \\\\<c@d>\"")] {
            assert_eq!(quoted(name), expected);
        }
    }
}
