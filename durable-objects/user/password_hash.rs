use platform::{ActorKind, Sql};
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error};

/// What a password is checked against. Checking takes long, so the caller does it. Asked for once for each login, so
/// it is here that logins are counted.
///
/// Refused: `LimitExceeded` (`RC_LOGIN`). Spec: "Rate limiting".
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
        cx: &Cx<'_>,
        _call: PasswordHash,
    ) -> Result<StoredPassword, Error> {
        self.logins.take(cx.settings.config.rc_login, cx.now_ms)?;
        Ok(StoredPassword { password_hash: store::account::get(sql)?.password_hash })
    }
}
