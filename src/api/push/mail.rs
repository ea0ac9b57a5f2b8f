//! Notifications as mail: one message for what is unread in all rooms, and a link with which it ends.
//!
//! What is said in encrypted rooms cannot be in it. Spec: "Push Notifications", pushers of kind `email`.

use actors::{
    room::{Notification, Notifications},
    user::{DropPusher, OwedRoom},
};
use bytes::Bytes;
use domain::{Refusal, config::Mail, contact::Email, push::Pusher};
use http::{Method, Request, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma_common::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Context, Failure, Routes,
    html::{escaped, page},
    mail::{self, Message},
    metadata, sealed,
};

/// The most rooms, and the most events of a room, that a message tells of.
const ROOMS_MAX: usize = 20;
const EVENTS_MAX: usize = 10;
/// The most of one text, in characters.
const TEXT_CHARS_MAX: usize = 300;
/// How long the link in a message is good, in milliseconds: a year.
const LINK_MS: u64 = 365 * 24 * 3_600_000;

const PATH: &str = "/_myelin/client/unsubscribe";
const UNSUBSCRIBE: &str = include_str!("pages/unsubscribe.html");
const UNSUBSCRIBED: &str = include_str!("pages/unsubscribed.html");

/// What is told of one room.
pub(super) type Told<'a> = (&'a OwedRoom, Notifications);

pub(crate) fn routes(routes: &mut Routes) {
    routes.add_raw(Method::GET, PATH, show);
    routes.add_raw(Method::POST, PATH, end);
}

/// Sends what is unread in these rooms.
///
/// # Errors
/// As [`mail::send`].
pub(super) async fn send(
    cx: &Context,
    mail: &Mail,
    user_id: &UserId,
    (pusher, email): (&Pusher, &Email),
    rooms: &[Told<'_>],
) -> Result<(), Failure> {
    let link = link(cx, user_id, pusher)?;
    let message = Message {
        subject: subject(cx.server_name().as_str(), rooms),
        text: text(cx.server_name().as_str(), email, rooms, &link),
        unsubscribe: Some(link),
    };
    mail::send(cx, mail, email, message).await
}

fn subject(server: &str, rooms: &[Told<'_>]) -> String {
    match rooms {
        [one] => format!("Unread in {} at {server}", room_name(one)),
        several => format!("Unread in {} rooms at {server}", several.len()),
    }
}

fn text(server: &str, email: &Email, rooms: &[Told<'_>], link: &str) -> String {
    let mut text = format!("Hello,\n\nthis is unread at {server}.\n");
    for room in rooms.iter().take(ROOMS_MAX) {
        text.push_str(&format!("\n{}\n", room_name(room)));
        let events = &room.1.notifications;
        let before = events.len().saturating_sub(EVENTS_MAX);
        if before > 0 {
            text.push_str(&format!("  … {before} before these\n"));
        }
        events.iter().skip(before).for_each(|event| text.push_str(&format!("  {}\n", in_words(event))));
    }
    if rooms.len() > ROOMS_MAX {
        text.push_str(&format!("\n… and in {} other rooms\n", rooms.len().saturating_sub(ROOMS_MAX)));
    }
    text.push_str(&format!(
        "\nThis goes to {}, because its owner wants to know what they have not read.\nTo get no more of it, open this \
         link and confirm:\n\n{link}\n",
        email.as_str()
    ));
    text
}

/// What people call a room; without any name, by whom they hear of there.
fn room_name((_, found): &Told<'_>) -> String {
    let name = found.room_name.as_deref().or(found.room_alias.as_deref()).map(plain).filter(|name| !name.is_empty());
    let sender = || found.notifications.last().map_or_else(|| "a room".to_owned(), sender);
    name.unwrap_or_else(|| format!("a room with {}", sender()))
}

fn sender(event: &Notification) -> String {
    let name = event.sender_display_name.as_deref().map(plain).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| event.sender.to_string())
}

fn in_words(event: &Notification) -> String {
    let sender = sender(event);
    let content: Value = serde_json::from_str(event.content.get()).unwrap_or_default();
    let said = content.get("body").and_then(Value::as_str).map(plain).filter(|said| !said.is_empty());
    match (event.event_type.as_str(), said) {
        ("m.room.encrypted", _) => format!("{sender} sent an encrypted message"),
        ("m.room.message", Some(said)) if content.get("msgtype").is_some_and(|kind| kind == "m.emote") => {
            format!("* {sender} {said}")
        }
        ("m.room.message", Some(said)) => format!("{sender}: {said}"),
        ("m.room.member", _) if event.user_is_target => format!("{sender} invites you"),
        ("m.call.invite", _) => format!("{sender} called"),
        _ => format!("{sender} sent something that this message cannot show"),
    }
}

/// A text in one line, of a bounded length.
fn plain(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|it| !it.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn link(cx: &Context, user_id: &UserId, pusher: &Pusher) -> Result<String, Failure> {
    let seal = sealed::seal(cx, &purpose(user_id, &pusher.app_id, &pusher.pushkey), LINK_MS)?;
    let query = [("user", user_id.as_str()), ("app", &pusher.app_id), ("key", &pusher.pushkey), ("seal", &seal)];
    let query = query.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    Ok(format!("{}{PATH}?{}", cx.config().public_baseurl, query.join("&")))
}

fn purpose(user_id: &UserId, app_id: &str, pushkey: &str) -> String {
    format!("unsubscribe {user_id} {app_id} {pushkey}")
}

/// Whose mail ends with a link.
#[derive(Deserialize)]
struct Opened {
    user: OwnedUserId,
    app: String,
    key: String,
    seal: String,
}

fn opened(cx: &Context, request: &Request<Bytes>) -> Result<Opened, Failure> {
    let unknown = || Refusal::NotFound("This link is not known, or has expired".to_owned());
    let opened: Opened = serde_html_form::from_str(request.uri().query().unwrap_or_default()).map_err(|_| unknown())?;
    let purpose = purpose(&opened.user, &opened.app, &opened.key);
    sealed::open(cx, &purpose, &opened.seal)?.ok_or_else(unknown)?;
    Ok(opened)
}

/// The page behind the link. Opening it changes nothing: programs open links, too.
async fn show(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let opened = opened(cx, &request)?;
    Ok(page(
        UNSUBSCRIBE
            .replace("{address}", &escaped(&opened.key))
            .replace("{server}", &escaped(cx.server_name().as_str())),
    ))
}

/// What the page's form does, and a mail program's own button. RFC 8058.
async fn end(cx: &Context, (): (), request: Request<Bytes>, _: Vec<String>) -> Result<Response<Bytes>, Failure> {
    let Opened { user, app: app_id, key: pushkey, .. } = opened(cx, &request)?;
    metadata::pusher::forget(cx.metadata(), &app_id, &pushkey, &user).await?;
    match cx.user(&user).call(&DropPusher { app_id, pushkey }).await {
        Ok(()) | Err(Failure::Absent) => Ok(page(UNSUBSCRIBED.to_owned())),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use actors::{
        room::{Notification, Notifications},
        user::{OwedRoom, Unread},
    };
    use domain::contact::Email;
    use serde_json::{Value, from_value, json};

    use super::{Told, subject, text};

    fn room() -> OwedRoom {
        let badge = Unread::default();
        let room_id = "!r:a".try_into().unwrap();
        OwedRoom { number: 1, room_id, after: 0, badge, is_first: false, invitation: None }
    }

    fn event(name: Option<&str>, event_type: &str, content: Value) -> Notification {
        let target = event_type == "m.room.member";
        from_value(json!({
            "position": 1, "type": event_type, "sender": "@bob:a", "sender_display_name": name, "content": content,
            "user_is_target": target, "actions": [],
        }))
        .unwrap()
    }

    fn told<'a>(room: &'a OwedRoom, name: Option<&str>, notifications: Vec<Notification>) -> Told<'a> {
        (room, Notifications { room_name: name.map(str::to_owned), notifications, ..Notifications::default() })
    }

    #[test]
    fn it_names_rooms_and_senders_and_what_they_said_if_that_is_to_be_read() {
        let room = room();
        let tea = vec![
            event(Some("Bob"), "m.room.message", json!({ "msgtype": "m.text", "body": "tea?\r\nnow" })),
            event(None, "m.room.encrypted", json!({ "ciphertext": "secret" })),
            event(Some("Bob"), "m.room.message", json!({ "msgtype": "m.emote", "body": "pours" })),
        ];
        let den = vec![event(Some("Bob\nEve"), "m.room.member", json!({ "membership": "invite" }))];
        let rooms = [told(&room, Some("Tea"), tea), told(&room, None, den)];
        let email = Email::parse("alice@example.org").unwrap();
        insta::assert_snapshot!(text("a", &email, &rooms, "https://a/x"), @r"
        Hello,

        this is unread at a.

        Tea
          Bob: tea? now
          @bob:a sent an encrypted message
          * Bob pours

        a room with Bob Eve
          Bob Eve invites you

        This goes to alice@example.org, because its owner wants to know what they have not read.
        To get no more of it, open this link and confirm:

        https://a/x
        ");
        assert_eq!(subject("a", &rooms), "Unread in 2 rooms at a");
        assert_eq!(subject("a", &rooms[..1]), "Unread in Tea at a");
    }

    #[test]
    fn it_has_bounds() {
        let room = room();
        let long = "x".repeat(10_000);
        let events = |_| event(Some(&long), "m.room.message", json!({ "body": long }));
        let rooms: Vec<_> = (0..50).map(|_| told(&room, Some(&long), (0..50).map(events).collect())).collect();
        let text = text("a", &Email::parse("alice@example.org").unwrap(), &rooms, "https://a/x");
        assert!(text.len() < 150_000 && text.contains("… 40 before these") && text.contains("in 30 other rooms"));
    }
}
