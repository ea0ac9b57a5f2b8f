use platform::{ActorKind, Sql};
use ruma_common::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{User, authenticate, own_id, store, sync_token::SyncToken};
use crate::{Call, Cx, Error};

/// Whose keys changed since a sync token, of those that only the user's own stream tells of: the user, and whose keys
/// they signed.
///
/// Refused: `UnknownToken`; `InvalidParam` for what is no token. Spec: "End-to-End Encryption", `/keys/changes`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetOwnDeviceLists {
    pub token_hash: String,
    pub since: String,
}

impl Call for GetOwnDeviceLists {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "get_own_device_lists";
    type Reply = Vec<OwnedUserId>;
}

impl User {
    pub(super) fn device_lists(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: GetOwnDeviceLists,
    ) -> Result<Vec<OwnedUserId>, Error> {
        authenticate(sql, cx, &call.token_hash)?;
        own_changed(sql, cx, SyncToken::of(cx.id, &call.since)?.own)
    }
}

/// The user, if their keys changed after a position of their own stream, and whose keys they signed since.
pub(super) fn own_changed(sql: &dyn Sql, cx: &Cx<'_>, after: u64) -> Result<Vec<OwnedUserId>, Error> {
    let (own, signed) = store::keys::changed_since(sql, after)?;
    let signed = signed.into_iter().filter_map(|user_id| OwnedUserId::try_from(user_id).ok());
    let own = if own { Some(own_id(cx)?) } else { None };
    Ok(own.into_iter().chain(signed).collect())
}
