//! What a user's pushers are told of the room. Spec: "Push Notifications".

use platform::{ActorKind, Sql, Tx};
use ruma_common::{
    OwnedEventId, OwnedUserId,
    push::{Action, Ruleset},
};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    Room,
    append::room_id,
    ephemeral::own_receipts,
    judge::display_name,
    store::{self, log::Logged},
    unread::{self, Looking, Read, SCAN_MAX},
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Of more notifications than this, the older ones come too late to be worth a push of their own.
const NOTIFICATIONS_MAX: usize = 50;
/// How old an event may be and still be pushed, in milliseconds since it took its place here: one day.
const AGE_MS_MAX: u64 = 24 * 3_600_000;

/// What the user is to be notified of after a position, and what is unread. The room nudges that user from here on.
///
/// For one who is not in the room there is nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadNotifications {
    pub user: OwnedUserId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    pub after: u64,
    /// What the user has changed of the push rules that everyone starts with, as far as it matters here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
}

/// What there is of it up to a position, with what a gateway may want to know of the room.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Notifications {
    pub to: u64,
    /// The oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Notification>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_alias: Option<String>,
    /// How much notifies the user and is not read.
    #[serde(default)]
    pub unread: u64,
    /// How many calls are among that.
    #[serde(default)]
    pub missed_calls: u64,
}

/// An event that notifies a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Notification {
    pub position: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<OwnedEventId>,
    #[serde(rename = "type")]
    pub event_type: String,
    pub sender: OwnedUserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_display_name: Option<String>,
    /// Whether it is a membership of the user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user_is_target: bool,
    pub content: Box<RawValue>,
    /// Those of the rule that matched.
    pub actions: Vec<Action>,
}

impl Call for ReadNotifications {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "read_notifications";
    type Reply = Notifications;
}

impl Room {
    pub(super) fn read_notifications(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        call: ReadNotifications,
    ) -> Result<Notifications, Error> {
        let heads = self.heads(&**tx)?;
        let viewer = Viewer::load(&**tx, call.user, String::new().into())?.ignoring(call.ignored);
        if !matches!(viewer.membership(), Some((MembershipState::Join, _))) {
            return Ok(Notifications { to: heads.log, ..Notifications::default() });
        }
        let own = own_receipts(&**tx, viewer.user.as_str())?;
        let to = own.first().map_or(0, |newest| newest.position).max(heads.public);
        self.has_read(tx, cx, viewer.user.as_str(), to)?;
        let rules = call.push_rules.as_ref();
        let unread = unread::sum(&self.unread(&**tx, cx, &viewer, &own, rules, to)?);
        let mut found = Notifications {
            to,
            unread: unread.notification_count,
            missed_calls: unread.missed_calls,
            ..Notifications::default()
        };
        if unread.notification_count == 0 {
            return Ok(found);
        }
        let room_id = room_id(cx)?;
        let mut looking = Looking::new(self, &**tx, &room_id, &viewer, Read::new(&viewer, &own), rules);
        let mut walk = looking.backwards(call.after.max(cx.now_ms.saturating_sub(AGE_MS_MAX)), to);
        while let Some(event) = walk.next()? {
            if found.notifications.len() >= NOTIFICATIONS_MAX || walk.scanned() > SCAN_MAX {
                break;
            }
            if let Some(actions) = looking.meets(&event)?.map(<[Action]>::to_vec) {
                found.notifications.push(notification(&**tx, &viewer, &event, actions)?);
            }
        }
        found.notifications.reverse();
        if !found.notifications.is_empty() {
            found.room_name = named::<Name>(&**tx, "m.room.name")?.and_then(|content| content.name);
            found.room_alias = named::<Alias>(&**tx, "m.room.canonical_alias")?.and_then(|content| content.alias);
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
struct Name {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Alias {
    alias: Option<String>,
}

/// The content of what describes the room; `None` for what is malformed.
fn named<T: DeserializeOwned>(sql: &dyn Sql, event_type: &str) -> Result<Option<T>, Error> {
    Ok(store::state::current(sql, event_type, "")?.and_then(|event| event.pdu.content_as().ok()))
}

fn notification(sql: &dyn Sql, viewer: &Viewer, event: &Logged, actions: Vec<Action>) -> Result<Notification, Error> {
    let event_type = event.pdu.event_type().to_string();
    Ok(Notification {
        position: event.position,
        event_id: Some(event.pdu.event_id().to_owned()),
        sender: event.pdu.sender().to_owned(),
        sender_display_name: display_name(sql, event.pdu.sender())?,
        user_is_target: event_type == "m.room.member" && event.pdu.state_key() == Some(viewer.user.as_str()),
        content: event.pdu.content().to_owned(),
        event_type,
        actions,
    })
}
