//! Whose devices a client has to look at again, and whose no longer: put together from what the rooms say.
//!
//! Spec: "End-to-End Encryption", "Tracking the device list for a user".

use std::collections::BTreeSet;

use actors::{
    destination::GetSharedRooms,
    room::{self, JoinedAmong},
    user::{JoinedRooms, SharesRoom},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde::Serialize;

use crate::{Bearer, Context, Failure};

/// The most users of ours who are asked, one by one, whether they are in one of the bearer's rooms; of more, the rooms
/// are.
const USERS_ASKED_MAX: usize = 100;
/// The most rooms that are asked who is in them. In more, nobody is told as gone: a client that goes on to follow
/// somebody's devices asks for no more of them, and is told that they changed when it shares a room with them again.
const ROOMS_ASKED_MAX: usize = 256;
/// Users or rooms asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// Users by what became of them.
#[derive(Default, Serialize)]
pub(super) struct DeviceLists {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }

    /// Takes over what a room says; who left it may be in another.
    pub(super) fn add(&mut self, told: room::DeviceLists) {
        self.changed.extend(told.changed);
        self.left.extend(told.left);
    }

    pub(super) fn append(&mut self, other: &mut Self) {
        self.changed.append(&mut other.changed);
        self.left.append(&mut other.left);
    }

    /// Leaves as gone who shares no room with the bearer any more, encrypted or not: others may still see their
    /// devices.
    pub(super) async fn settle(&mut self, cx: &Context, bearer: &Bearer) -> Result<(), Failure> {
        let left = std::mem::take(&mut self.left);
        if left.is_empty() {
            return Ok(());
        }
        let rooms = bearer.call(cx, &JoinedRooms { token_hash: bearer.token_hash.clone() }).await?;
        let are_local = left.iter().all(|user_id| cx.is_local(user_id));
        let shared = if are_local && left.len() <= USERS_ASKED_MAX {
            Some(users_in(cx, rooms, &left).await?)
        } else {
            in_rooms(cx, rooms, &left).await?
        };
        if let Some(shared) = shared {
            self.left = left.difference(&shared).cloned().collect();
            self.changed.retain(|user_id| !self.left.contains(user_id));
        }
        Ok(())
    }
}

/// Those of these users of ours who are in one of the rooms: their room lists say so.
async fn users_in(
    cx: &Context,
    rooms: Vec<OwnedRoomId>,
    users: &BTreeSet<OwnedUserId>,
) -> Result<BTreeSet<OwnedUserId>, Failure> {
    let call = &SharesRoom { rooms };
    let calls = users.iter().map(|user_id| async move {
        let shares = match cx.user(user_id).call(call).await {
            Err(Failure::Absent) => false,
            outcome => outcome?,
        };
        Ok::<_, Failure>(shares.then(|| user_id.clone()))
    });
    let found: Vec<_> = stream::iter(calls).buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Those of these users who are in one of the rooms, as the rooms say; `None` for more rooms than are asked.
async fn in_rooms(
    cx: &Context,
    mut rooms: Vec<OwnedRoomId>,
    users: &BTreeSet<OwnedUserId>,
) -> Result<Option<BTreeSet<OwnedUserId>>, Failure> {
    if users.iter().all(|user_id| !cx.is_local(user_id)) {
        let mut theirs = BTreeSet::new();
        for server in users.iter().map(|user_id| user_id.server_name()).collect::<BTreeSet<_>>() {
            match cx.call(server.as_str(), &GetSharedRooms { newest: None }).await {
                Err(Failure::Absent) => {}
                shared => theirs.extend(shared?),
            }
        }
        rooms.retain(|room_id| theirs.contains(room_id));
    }
    if rooms.len() > ROOMS_ASKED_MAX {
        return Ok(None);
    }
    let call = &JoinedAmong { users: users.iter().cloned().collect() };
    let calls = rooms.iter().map(|room_id| async move {
        match cx.room(room_id).call(call).await {
            Err(Failure::Absent) => Ok(Vec::new()),
            found => found,
        }
    });
    let found: Vec<_> = stream::iter(calls).buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
    Ok(Some(found.into_iter().flatten().collect()))
}
