//! Whom the user ignores: a list among their account data. Spec: "Ignoring Users".

use std::collections::BTreeMap;

use platform::{Fault, Sql};
use ruma_common::OwnedUserId;
use serde::{Deserialize, de::IgnoredAny};

use super::store::{self, account_data::GLOBAL};
use crate::Cx;

const IGNORED_USER_LIST: &str = "m.ignored_user_list";
/// The most users that one may ignore with effect: each event is held against them.
const IGNORED_MAX: usize = 1_000;

/// Those on the list that are users, but for the user themselves: what they say would come back to none of their
/// devices. A list that is none has nobody on it.
pub(super) fn ignored_users(sql: &dyn Sql, cx: &Cx<'_>) -> Result<Vec<OwnedUserId>, Fault> {
    #[derive(Deserialize)]
    struct Content {
        ignored_users: BTreeMap<String, IgnoredAny>,
    }
    let content = store::account_data::get(sql, GLOBAL, IGNORED_USER_LIST)?;
    let content: Option<Content> = content.and_then(|content| serde_json::from_str(&content).ok());
    let names = content.into_iter().flat_map(|content| content.ignored_users.into_keys()).filter(|name| name != cx.id);
    Ok(names.filter_map(|name| OwnedUserId::try_from(name).ok()).take(IGNORED_MAX).collect())
}
