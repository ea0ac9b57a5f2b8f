//! Whose devices a client has to look at again, and whose no longer: put together from what the rooms say.
//!
//! Spec: "End-to-End Encryption", "Tracking the device list for a user".

use std::collections::BTreeSet;

use actors::{
    room,
    user::{JoinedRooms, SharesRoom},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma_common::OwnedUserId;
use serde::Serialize;

use crate::{Bearer, Context, Failure};

/// Users who left a room whose other rooms are looked at. Of more, none is told as gone: a client that goes on to follow
/// their devices asks for no more of them, and is told that they changed when it shares a room with them again.
const LEFT_MAX: usize = 100;
/// Users asked at the same time.
const USERS_AT_ONCE: usize = 32;

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

    /// Leaves as gone who shares no room with the bearer any more.
    pub(super) async fn settle(&mut self, cx: &Context, bearer: &Bearer) -> Result<(), Failure> {
        let left = std::mem::take(&mut self.left);
        if left.is_empty() || left.len() > LEFT_MAX {
            return Ok(());
        }
        let rooms = bearer.call(cx, &JoinedRooms { token_hash: bearer.token_hash.clone() }).await?;
        let call = &SharesRoom { rooms };
        let calls = left.into_iter().filter(|user_id| cx.is_local(user_id)).map(|user_id| async move {
            let shares = match cx.user(&user_id).call(call).await {
                Err(Failure::Absent) => false,
                outcome => outcome?,
            };
            Ok::<_, Failure>((user_id, shares))
        });
        let known: Vec<_> = stream::iter(calls).buffer_unordered(USERS_AT_ONCE).try_collect().await?;
        self.left = known.into_iter().filter(|(_, shares)| !shares).map(|(user_id, _)| user_id).collect();
        self.changed.retain(|user_id| !self.left.contains(user_id));
        Ok(())
    }
}
