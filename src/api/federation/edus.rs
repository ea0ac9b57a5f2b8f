//! What servers tell each other besides events. Spec: Server-Server API, "EDUs", "Typing Notifications", "Receipts",
//! "Send-to-device messaging", "Device Management", "Presence". What others' users have read `receipts.rs` takes in.
//!
//! Each is checked on its own: one that makes no sense, or speaks for users of another server, is left out. They have
//! no acknowledgement of their own, so that nothing of this fails a transaction but a fault of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use actors::{
    destination::{HearPresence, PassEdu, QueueEdu, QueueEduIfKnown},
    presence::{Presence, PresenceState, PresenceStatus},
    room::{GetResidence, GetVersionForServer, MarkRead, MemberProfile, ReceiptKind, SetTyping},
    user::{ReceiveToDevice, retain_to_device},
};
use domain::RateLimited;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::device_list_cache::News;
use crate::{Caller, Context, Failure};

/// How long somebody elsewhere types who does not say that they stopped, in milliseconds. Synapse says so again every
/// 40 seconds.
const TYPING_MS: u64 = 60_000;
/// Servers that are told at the same time.
const SERVERS_AT_ONCE: usize = 16;
/// In a room of more servers, who types and who read what stays at home.
const SERVERS_MAX: usize = 200;
/// Names under which one sender's messages are remembered: each receiver knows the last few of every name.
const MESSAGE_NAMES: u64 = 16;

const RECEIPT: &str = "m.receipt";
/// The longest type, and the longest id, of a message to devices, in bytes. Spec: `message_id` has «maximum length 32
/// codepoints».
const NAME_BYTES_MAX: usize = 255;
/// The most presences that are taken from one EDU.
const PUSHES_MAX: usize = 200;
/// The longest status message of another server's user, in bytes: a longer one is not shown.
const STATUS_MSG_BYTES_MAX: usize = 2_048;
/// Users that one message to devices reaches, and all those of a transaction. Clients write to a few hundred devices at
/// once.
const RECEIVERS_MAX: usize = if cfg!(test) { 20 } else { 1_000 };
const ALL_RECEIVERS_MAX: usize = if cfg!(test) { 40 } else { 10_000 };
/// When a sender wrote to so many who are not here, the rest of what they write in the transaction is left out.
const NOBODY_MAX: usize = if cfg!(test) { 25 } else { 100 };

/// One, before it is known to make sense.
#[derive(Deserialize)]
pub(super) struct Edu {
    edu_type: String,
    content: Box<RawValue>,
}

impl Edu {
    /// What it tells of somebody's devices or keys.
    pub(super) fn device_news(&self) -> Option<News> {
        News::read(&self.edu_type, &self.content)
    }

    /// Whether it says what somebody read.
    pub(super) fn is_receipt(&self) -> bool {
        self.edu_type == RECEIPT
    }

    /// JSON of any kind.
    pub(super) fn content(&self) -> &str {
        self.content.get()
    }
}

#[derive(Deserialize)]
struct Typing {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

#[derive(Deserialize)]
struct ToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    /// By receiver, each for itself: one that makes no sense says nothing of the others.
    messages: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct Presences {
    push: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Push {
    user_id: OwnedUserId,
    presence: PresenceState,
    #[serde(default)]
    status_msg: Option<String>,
    /// Synapse leaves it out for who was never active.
    #[serde(default)]
    last_active_ago: Option<u64>,
    #[serde(default)]
    currently_active: bool,
}

/// Takes in what a server tells, but for what is new of devices. `written`: to whom earlier EDUs of the same
/// transaction wrote.
pub(super) async fn receive(
    cx: &Context,
    origin: &ServerName,
    edu: &Edu,
    written: &mut Written,
) -> Result<(), Failure> {
    let content = edu.content.get();
    let outcome = match edu.edu_type.as_str() {
        "m.typing" => match serde_json::from_str(content) {
            Ok(typing) => types(cx, origin, typing).await,
            Err(_) => Ok(()),
        },
        "m.direct_to_device" => match serde_json::from_str(content) {
            Ok(message) => writes_to_devices(cx, origin, message, written).await,
            Err(_) => Ok(()),
        },
        "m.presence" => match serde_json::from_str(content) {
            Ok(presences) => are_there(cx, origin, presences).await,
            Err(_) => Ok(()),
        },
        // What is not known here; what was read goes another way.
        _ => Ok(()),
    };
    settled(outcome)
}

/// A no of ours is nothing that the other server could act on.
pub(super) fn settled(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(Failure::Fault(fault)) => Err(fault.into()),
        Ok(()) | Err(Failure::Absent | Failure::Refused(_) | Failure::Challenge(_)) => Ok(()),
    }
}

fn is_of(user_id: &UserId, origin: &ServerName) -> bool {
    user_id.server_name() == origin
}

/// Spec: «ACLs MUST be applied to all EDUs that are local to a specific room».
async fn may_speak_in(cx: &Context, origin: &ServerName, room_id: &RoomId) -> Result<(), Failure> {
    cx.room(room_id).call(&GetVersionForServer { server: origin.to_owned() }).await.map(drop)
}

async fn types(cx: &Context, origin: &ServerName, typing: Typing) -> Result<(), Failure> {
    if !is_of(&typing.user_id, origin) {
        return Ok(());
    }
    may_speak_in(cx, origin, &typing.room_id).await?;
    let call = SetTyping { user: typing.user_id, timeout_ms: typing.typing.then_some(TYPING_MS) };
    cx.room(&typing.room_id).call(&call).await
}

/// To whom the EDUs of a transaction wrote.
#[derive(Default)]
pub(super) struct Written {
    receivers: usize,
    /// By sender: users who are not here.
    nobody: BTreeMap<OwnedUserId, BTreeSet<OwnedUserId>>,
}

impl Written {
    /// Whether a sender may write to another user.
    fn allows(&self, sender: &UserId, receiver: &UserId) -> bool {
        let nobody = self.nobody.get(sender);
        self.receivers < ALL_RECEIVERS_MAX
            && nobody.is_none_or(|nobody| nobody.len() < NOBODY_MAX && !nobody.contains(receiver))
    }
}

async fn writes_to_devices(
    cx: &Context,
    origin: &ServerName,
    message: ToDevice,
    written: &mut Written,
) -> Result<(), Failure> {
    let is_short = message.message_id.len() <= NAME_BYTES_MAX && message.event_type.len() <= NAME_BYTES_MAX;
    if !is_of(&message.sender, origin) || !is_short {
        return Ok(());
    }
    let mut hasher = DefaultHasher::new();
    message.message_id.hash(&mut hasher);
    let name = format!("by another server {}", hasher.finish() % MESSAGE_NAMES);
    let here = message.messages.into_iter().filter_map(|(user_id, messages)| {
        let user_id = OwnedUserId::try_from(user_id).ok().filter(|user_id| cx.is_local(user_id))?;
        let mut messages = serde_json::from_str(messages.get()).ok()?;
        retain_to_device(&mut messages);
        Some((user_id, messages))
    });
    for (user_id, messages) in here.take(RECEIVERS_MAX) {
        if !written.allows(&message.sender, &user_id) {
            continue;
        }
        written.receivers = written.receivers.saturating_add(1);
        let call = ReceiveToDevice {
            sender: message.sender.clone(),
            sender_device: name.as_str().into(),
            txn_id: message.message_id.clone(),
            event_type: message.event_type.clone(),
            messages,
        };
        match cx.user(&user_id).call(&call).await {
            Err(Failure::Absent) => drop(written.nobody.entry(message.sender.clone()).or_default().insert(user_id)),
            outcome => settled(outcome)?,
        }
    }
    Ok(())
}

/// Users of the server are there, or no longer.
async fn are_there(cx: &Context, origin: &ServerName, presences: Presences) -> Result<(), Failure> {
    if !cx.config().presence {
        return Ok(());
    }
    let now_ms = cx.now_ms();
    let pushes = presences.push.iter().take(PUSHES_MAX);
    // Each for itself: one that makes no sense says nothing of the others.
    let pushes = pushes.filter_map(|push| serde_json::from_str::<Push>(push.get()).ok());
    let presences = pushes.filter(|push| is_of(&push.user_id, origin)).map(|push| {
        let status = PresenceStatus {
            state: push.presence,
            status_msg: push.status_msg.filter(|text| !text.is_empty() && text.len() <= STATUS_MSG_BYTES_MAX),
            last_active_ms: push.last_active_ago.map_or(0, |ago_ms| now_ms.saturating_sub(ago_ms)),
            // That of a user who is not there says nothing.
            currently_active: (push.presence != PresenceState::Offline).then_some(push.currently_active),
            ..PresenceStatus::default()
        };
        Presence { user: push.user_id, status, profile: MemberProfile::default() }
    });
    let presences: Vec<_> = presences.collect();
    if presences.is_empty() { Ok(()) } else { cx.call(origin.as_str(), &HearPresence { presences }).await }
}

/// What another server is told of how users of ours are.
pub(super) fn presence(presences: &[Presence], now_ms: u64) -> Result<Box<RawValue>, Failure> {
    let push: Vec<_> = presences.iter().map(|presence| presence.to_push(now_ms)).collect::<Result<_, _>>()?;
    Ok(to_raw_value(&json!({ "edu_type": "m.presence", "content": { "push": push } }))?)
}

/// A message to devices, of ours.
#[derive(Serialize)]
struct SentToDevices<'a> {
    message_id: &'a str,
    messages: &'a BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// The EDU. What a client said goes through as it is: `json!` would read it, and panic where it cannot.
fn to_devices(content: &SentToDevices<'_>) -> serde_json::Result<Box<RawValue>> {
    #[derive(Serialize)]
    struct Told<'a> {
        content: &'a SentToDevices<'a>,
        edu_type: &'static str,
    }
    to_raw_value(&Told { content, edu_type: "m.direct_to_device" })
}

impl Context {
    /// Tells the other servers in a room something that something newer of the same `key` replaces, as well as that
    /// goes; for so long as it is worth it.
    async fn tell_servers_in(
        &self,
        room_id: &RoomId,
        key: String,
        edu: &Value,
        until_ms: Option<u64>,
    ) -> Result<(), Failure> {
        let servers = self.room(room_id).call(&GetResidence {}).await?.servers;
        if servers.len() > SERVERS_MAX {
            return Ok(());
        }
        let call = &PassEdu { key, edu: to_raw_value(edu)?, until_ms };
        let told = stream::iter(servers).map(async |server| self.call(&server, call).await);
        told.buffer_unordered(SERVERS_AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Tells the other servers in a room that a user of ours types, or stopped.
    pub(crate) async fn tell_of_typing(&self, room_id: &RoomId, user: &UserId, typing: bool) -> Result<(), Failure> {
        let content = json!({ "room_id": room_id, "user_id": user, "typing": typing });
        let edu = json!({ "edu_type": "m.typing", "content": content });
        let until_ms = self.now_ms().saturating_add(TYPING_MS);
        self.tell_servers_in(room_id, format!("typing {room_id} {user}"), &edu, Some(until_ms)).await
    }

    /// Tells the other servers in a room how far a user of ours has read: what everybody may know of that. Of the
    /// receipts, those at the places `moved`.
    pub(crate) async fn tell_of_receipts(
        &self,
        room_id: &RoomId,
        read: &MarkRead,
        moved: Option<&[usize]>,
    ) -> Result<(), Failure> {
        for (place, receipt) in read.receipts.iter().enumerate() {
            if receipt.kind != ReceiptKind::Public || moved.is_some_and(|moved| !moved.contains(&place)) {
                continue;
            }
            let mut data = json!({ "ts": self.now_ms() });
            if let (Some(data), Some(thread)) = (data.as_object_mut(), &receipt.thread) {
                data.insert("thread_id".to_owned(), thread.as_str().into());
            }
            let user = json!({ (read.user.as_str()): { "event_ids": [receipt.event_id], "data": data } });
            let content = json!({ (room_id.as_str()): { "m.read": user } });
            let edu = json!({ "edu_type": "m.receipt", "content": content });
            let thread = receipt.thread.as_deref().unwrap_or_default();
            self.tell_servers_in(room_id, format!("receipt {room_id} {} {thread}", read.user), &edu, None).await?;
        }
        Ok(())
    }

    /// Has messages to devices of users of another server queued for it; repeated, they are queued once. A server of
    /// which nothing is known here, so that it may be nothing but a name, is taken from what the sender may write to of
    /// those.
    pub(crate) async fn write_to_devices_elsewhere(
        &self,
        server: &ServerName,
        sender: &Caller,
        message_id: &str,
        event_type: &str,
        messages: &BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
    ) -> Result<(), Failure> {
        let edu = to_devices(&SentToDevices { message_id, messages, sender: &sender.user_id, event_type })?;
        let call = QueueEduIfKnown(QueueEdu { key: format!("to_device {message_id}"), edu });
        match self.call(server.as_str(), &call).await {
            Err(Failure::Absent) => {
                if sender.acts_for.as_ref().is_none_or(|acts_for| !acts_for.is_exempt) {
                    self.limit(RateLimited::NewServers, sender.user_id.as_str())?.keep();
                }
                self.call(server.as_str(), &call.0).await
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actors::{Call, user::ReceiveToDevice};
    use ruma_common::{server_name, user_id};
    use serde_json::{Value, json, value::RawValue};

    use super::{SentToDevices, Written, receive, to_devices};
    use crate::testing::{TestServer, block_on};

    /// Whether anybody was asked to do something about an EDU, where whoever is asked cannot.
    fn is_done(server: &TestServer, edu: &Value) -> bool {
        let edu = serde_json::from_value(edu.clone()).unwrap();
        block_on(receive(&server.context(), server_name!("b.test"), &edu, &mut Written::default())).is_err()
    }

    #[test]
    fn a_message_to_devices_goes_out_as_it_is() {
        let content = r#"{"a":["\ud800",1e999]}"#;
        let of_device = BTreeMap::from([("*".to_owned(), RawValue::from_string(content.to_owned()).unwrap())]);
        let messages = BTreeMap::from([(user_id!("@bob:b.test").to_owned(), of_device)]);
        let sender = user_id!("@alice:localhost");
        let sent = SentToDevices { message_id: "i", messages: &messages, sender, event_type: "m" };
        let told =
            r#"{"message_id":"i","messages":{"@bob:b.test":{"*":CONTENT}},"sender":"@alice:localhost","type":"m"}"#
                .replace("CONTENT", content);
        let edu = format!(r#"{{"content":{told},"edu_type":"m.direct_to_device"}}"#);
        assert_eq!(to_devices(&sent).unwrap().get(), edu);
    }

    #[test]
    fn a_message_to_devices_has_short_names() {
        let server = TestServer::new(&[]);
        server.fails(ReceiveToDevice::NAME);
        let writes = |kind: usize, id: usize| {
            let content = json!({
                "sender": "@bob:b.test", "type": "m".repeat(kind), "message_id": "i".repeat(id),
                "messages": { "@alice:localhost": { "*": {} } },
            });
            is_done(&server, &json!({ "edu_type": "m.direct_to_device", "content": content }))
        };
        assert_eq!([writes(9, 32), writes(255, 255), writes(256, 32), writes(9, 256)], [true, true, false, false]);
    }

    #[test]
    fn whoever_is_nobody_keeps_no_message_from_others() {
        let server = TestServer::new(&[]);
        server.fails(ReceiveToDevice::NAME);
        let writes = |messages: Value| {
            let content = json!({ "sender": "@bob:b.test", "type": "m", "message_id": "i", "messages": messages });
            is_done(&server, &json!({ "edu_type": "m.direct_to_device", "content": content }))
        };
        assert!(writes(json!({ "alice": { "*": {} }, "@alice:localhost": { "*": {} } })));
        assert!(writes(json!({ "@alice:elsewhere.test": 5, "@a:localhost": [], "@alice:localhost": { "*": {} } })));
        assert!(!writes(json!({ "alice": { "*": {} }, "@alice:localhost": null, "@zoe:localhost": [] })));
        assert!(!writes(json!([])));
    }

    /// It comes once, with all that is for the user's devices.
    #[test]
    fn what_one_device_cannot_have_the_others_get() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let device = server.get("/_matrix/client/v3/account/whoami", &alice).1["device_id"].clone();
        let messages = json!({ "@alice:localhost": { (device.as_str().unwrap()): { "key": 1 }, "OTHER": 5 } });
        let content = json!({ "sender": "@bob:b.test", "type": "m", "message_id": "i", "messages": messages });
        assert!(!is_done(&server, &json!({ "edu_type": "m.direct_to_device", "content": content })));
        let (_, sync) = server.get("/_matrix/client/v3/sync", &alice);
        assert_eq!(sync["to_device"]["events"][0]["content"], json!({ "key": 1 }), "{sync}");
    }

    #[test]
    fn a_transaction_writes_to_so_many() {
        let server = TestServer::new(&[]);
        let mut written = Written::default();
        let mut reached = |sender: &str, first: usize| {
            let receivers = (first..first + 100).map(|number| (format!("@{number}:localhost"), json!({ "*": {} })));
            let messages: serde_json::Map<_, _> = receivers.collect();
            let content = json!({ "sender": sender, "type": "m", "message_id": "i", "messages": messages });
            let edu = serde_json::from_value(json!({ "edu_type": "m.direct_to_device", "content": content })).unwrap();
            let origin = server_name!("b.test");
            block_on(receive(&server.context(), origin, &edu, &mut written)).unwrap();
            server.actors()
        };
        assert_eq!(reached("@bob:b.test", 100), 20, "so many by one message");
        assert_eq!(reached("@bob:b.test", 100), 20, "they are known not to be here");
        assert_eq!(reached("@bob:b.test", 200), 25, "so many who are not here by one sender");
        assert_eq!(reached("@zoe:b.test", 300), 40, "so many in all");
    }
}
