use platform::{ActorKind, Sql};
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// What a password is checked against. Checking takes long, so the caller does it, and counts what fails.
#[derive(Debug, Serialize, Deserialize)]
pub struct PasswordHash {}

#[derive(Debug, Serialize, Deserialize)]
pub struct StoredPassword {
    /// In PHC string format; `None` if no password will do.
    pub password_hash: Option<String>,
}

impl Call for PasswordHash {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "password_hash";
    type Reply = StoredPassword;
}

impl User {
    pub(super) fn password_hash(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        _call: PasswordHash,
    ) -> Result<StoredPassword, Error> {
        Ok(StoredPassword { password_hash: store::account::get(sql)?.password_hash })
    }
}
