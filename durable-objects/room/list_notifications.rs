//! What of a room a user was notified of, read or not. Spec: "Listing Notifications".
//!
//! It is computed from the log when somebody asks, which is seldom: to store it would cost a written row for every user
//! and every event that notifies them.

use std::collections::HashSet;

use domain::push::Verdict;
use platform::{ActorKind, Sql};
use ruma_common::{
    OwnedDeviceId, OwnedUserId,
    push::{Action, Ruleset},
};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room,
    append::room_id,
    ephemeral::own_receipts,
    messages::Direction,
    store,
    unread::{self, Looking, Read, SCAN_MAX},
    viewer::Viewer,
    walk::Walk,
};
use crate::{Call, Cx, Error};

/// The most notifications in one reply.
const NOTIFICATIONS_MAX: u64 = 100;
/// Bytes of events after which a reply has no more: many rooms answer at once.
const REPLY_BYTES_MAX: usize = 128 * 1024;

/// The newest events before a position that the user is notified of, by their rules and the room as it is now: those
/// since they joined; their invitation, while they have one.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListNotifications {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
    /// `None`: from the newest one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    pub limit: u64,
    /// Whether only those are wanted that stand out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_highlights: bool,
    /// What the user has changed of the push rules that everyone starts with, as far as it matters here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rules: Option<Ruleset>,
}

/// Some of them, the newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ListedNotifications {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<ListedNotification>,
    /// The position from which on everything was looked at; `None`: there is nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_from: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ListedNotification {
    /// When it came, too, in milliseconds since the Unix epoch.
    pub position: u64,
    pub event: Box<RawValue>,
    pub actions: Vec<Action>,
    pub read: bool,
}

impl Call for ListNotifications {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "list_notifications";
    type Reply = ListedNotifications;
}

impl Room {
    pub(super) fn list_notifications(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: ListNotifications,
    ) -> Result<ListedNotifications, Error> {
        let mut listed = ListedNotifications::default();
        let viewer = Viewer::load(sql, call.user.clone(), call.device.clone())?.ignoring(call.ignored.clone());
        match viewer.membership() {
            Some((MembershipState::Join, _)) => {}
            Some((MembershipState::Invite, _)) => return self.listed_invitation(sql, cx, &viewer, &call),
            _ => return Ok(listed),
        }
        let own = own_receipts(sql, viewer.user.as_str())?;
        let rules = call.push_rules.as_ref();
        let head = own.first().map_or(0, |newest| newest.position).max(self.heads(sql)?.public);
        let room_id = room_id(cx)?;
        let looking = || Looking::new(self, sql, &room_id, &viewer, Read::new(&viewer, &own), rules);
        let unread = match unread::sum(&self.unread(sql, cx, &viewer, &own, rules, head)?).notification_count {
            0 => HashSet::new(),
            _ => unread_positions(looking(), head)?,
        };
        let span = (viewer.joined_at().unwrap_or(0), call.before.map_or(head, |before| before.saturating_sub(1)));
        let limit = call.limit.min(NOTIFICATIONS_MAX);
        let mut walk = Walk::new(sql, &viewer, Direction::Backwards, span, SCAN_MAX);
        let (mut looking, mut bytes) = (looking(), 0_usize);
        while let Some(event) = walk.next()? {
            if let Some(actions) = looking.judges(&event)?.map(<[Action]>::to_vec)
                && (!call.only_highlights || Verdict::of(&actions).highlight)
            {
                let read = !unread.contains(&event.position);
                let shown = viewer.sees(sql, cx, &event, false)?;
                bytes = bytes.saturating_add(shown.get().len());
                let position = event.position;
                listed.notifications.push(ListedNotification { position, event: shown, actions, read });
            }
            let is_full = listed.notifications.len() as u64 >= limit || bytes >= REPLY_BYTES_MAX;
            if is_full || walk.scanned() >= SCAN_MAX {
                listed.looked_from = Some(event.position);
                break;
            }
        }
        Ok(listed)
    }

    /// The invitation that the user has.
    fn listed_invitation(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        viewer: &Viewer,
        call: &ListNotifications,
    ) -> Result<ListedNotifications, Error> {
        let mut listed = ListedNotifications::default();
        let invitation = store::state::current(sql, "m.room.member", viewer.user.as_str())?
            .filter(|event| call.before.is_none_or(|before| event.position < before))
            .filter(|event| !viewer.ignored().iter().any(|ignored| ignored == event.pdu.sender()));
        let Some(event) = invitation else { return Ok(listed) };
        let room_id = room_id(cx)?;
        let mut looking = Looking::new(self, sql, &room_id, viewer, Read::new(viewer, &[]), call.push_rules.as_ref());
        let actions = looking.judges(&event)?.map(<[Action]>::to_vec);
        if let Some(actions) = actions.filter(|actions| !call.only_highlights || Verdict::of(actions).highlight) {
            let shown = viewer.sees(sql, cx, &event, false)?;
            let position = event.position;
            listed.notifications.push(ListedNotification { position, event: shown, actions, read: false });
        }
        Ok(listed)
    }
}

/// Where the user has something to read.
fn unread_positions(mut looking: Looking<'_>, head: u64) -> Result<HashSet<u64>, Error> {
    let (mut walk, mut positions) = (looking.backwards(0, head), HashSet::new());
    while let Some(event) = walk.next()? {
        if walk.scanned() > SCAN_MAX {
            break;
        }
        if looking.meets(&event)?.is_some() {
            positions.insert(event.position);
        }
    }
    Ok(positions)
}
