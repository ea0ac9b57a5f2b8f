//! Spec: "Listing Notifications".

use std::cmp::Reverse;

use actors::{
    room::{ListNotifications, ListedNotification, ListedNotifications},
    user::{GetNotifyingRooms, ListedInvitation, NotifyingRooms, WantedInvitations},
};
use domain::{Refusal, push::for_room};
use futures_util::future::join_all;
use ruma_client_api::push::get_notifications::v3::Request;
use ruma_common::{OwnedRoomId, RoomId, push::Action};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Bearer, Context, Failure, Routes};

/// Notifications in an answer when the client names no limit.
const NOTIFICATIONS_DEFAULT: u64 = 20;
/// The most in one answer.
const NOTIFICATIONS_MAX: u64 = 100;
/// Rooms that are asked at once.
const ROOMS_AT_ONCE: usize = 25;

pub(super) fn routes(routes: &mut Routes) {
    routes.add_carried_json(list);
}

#[derive(Serialize)]
struct Answer {
    notifications: Vec<Notification>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

#[derive(Serialize)]
struct Notification {
    actions: Vec<Action>,
    event: Box<RawValue>,
    read: bool,
    room_id: OwnedRoomId,
    ts: u64,
}

/// A place among the notifications of all rooms, the newest first: what comes after it is older, or came in the same
/// moment in a room whose id is less.
struct Place {
    position: u64,
    room_id: String,
}

impl Place {
    fn parse(token: &str) -> Result<Self, Refusal> {
        let (position, room_id) = token.split_once('_').unwrap_or((token, ""));
        let position = position.parse().map_err(|_| Refusal::InvalidParam("`from` is no `next_token`".to_owned()))?;
        Ok(Self { position, room_id: room_id.to_owned() })
    }

    /// Before which of its positions a room goes on.
    fn before_in(&self, room_id: &RoomId) -> u64 {
        self.position.saturating_add(u64::from(room_id.as_str() < self.room_id.as_str()))
    }
}

async fn list(cx: &Context, bearer: Bearer, request: Request) -> Result<Vec<u8>, Failure> {
    let from = request.from.as_deref().map(Place::parse).transpose()?;
    let limit = request.limit.map_or(NOTIFICATIONS_DEFAULT, u64::from).clamp(1, NOTIFICATIONS_MAX);
    let only_highlights = request.only.as_deref() == Some("highlight");
    let invitations = WantedInvitations {
        before: from.as_ref().map(|place| (place.position, place.room_id.clone())),
        // One more than wanted says that there are more.
        limit: limit.saturating_add(1),
        only_highlights,
    };
    let call = GetNotifyingRooms { token_hash: bearer.token_hash.clone(), invitations: Some(invitations) };
    let NotifyingRooms { device, rooms, invitations, ignored, push_rules } = bearer.call(cx, &call).await?;
    let mut newest = Newest { found: Vec::new(), limit: usize::try_from(limit).unwrap_or(usize::MAX), looked_from: 0 };
    let invitations = invitations.into_iter().map(|ListedInvitation { room_id, notification }| (room_id, notification));
    newest.found.extend(invitations);
    for rooms in rooms.chunks(ROOMS_AT_ONCE) {
        let (from, device, ignored, push_rules) = (from.as_ref(), &device, &ignored, push_rules.as_ref());
        let asked = rooms.iter().map(|room_id| {
            let call = ListNotifications {
                user: bearer.user_id.clone(),
                device: device.clone(),
                ignored: ignored.clone(),
                before: from.map(|place| place.before_in(room_id)),
                limit,
                only_highlights,
                push_rules: push_rules.and_then(|rules| for_room(rules.clone(), room_id)),
            };
            async move { (room_id, cx.room(room_id).call(&call).await) }
        });
        for (room_id, listed) in join_all(asked).await {
            match listed {
                Ok(listed) => newest.take_in(room_id, listed),
                // A room list may know a room that is gone.
                Err(Failure::Absent) => {}
                Err(failure) => return Err(failure),
            }
        }
        newest.keep_few();
    }
    Ok(serde_json::to_vec(&newest.answer())?)
}

/// The newest notifications of the rooms that were asked.
struct Newest {
    found: Vec<(OwnedRoomId, ListedNotification)>,
    limit: usize,
    /// From where on all of them have looked.
    looked_from: u64,
}

impl Newest {
    fn take_in(&mut self, room_id: &RoomId, listed: ListedNotifications) {
        self.looked_from = self.looked_from.max(listed.looked_from.unwrap_or(0));
        self.found.extend(listed.notifications.into_iter().map(|notification| (room_id.to_owned(), notification)));
    }

    /// Keeps no more than are wanted. From where the others were on, nobody has looked.
    fn keep_few(&mut self) {
        self.found.sort_by(|(room, one), (other_room, other)| {
            (Reverse(one.position), Reverse(room)).cmp(&(Reverse(other.position), Reverse(other_room)))
        });
        // One more than wanted says that there are more.
        self.found.truncate(self.limit.saturating_add(1));
    }

    fn answer(mut self) -> Answer {
        let looked_from = self.looked_from;
        self.found.retain(|(_, notification)| notification.position >= looked_from);
        let has_more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        let next_token = match self.found.last() {
            Some((room_id, last)) if has_more => Some(format!("{}_{room_id}", last.position)),
            // What is older some room has not looked at.
            _ if looked_from > 0 => Some(looked_from.to_string()),
            _ => None,
        };
        let notifications =
            self.found.into_iter().map(|(room_id, ListedNotification { position, event, actions, read })| {
                Notification { actions, event, read, room_id, ts: position }
            });
        Answer { notifications: notifications.collect(), next_token }
    }
}
