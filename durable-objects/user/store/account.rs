//! The account itself: one row, there since the founding call.

use platform::{Fault, Sql, Tx};

use super::stream::{self, Gone};
use crate::user::Create;

/// What an account may do.
#[derive(Debug)]
pub(crate) struct Account {
    /// In PHC string format.
    pub password_hash: Option<String>,
    pub admin: bool,
    pub guest: bool,
    pub deactivated: bool,
    pub locked: bool,
    pub suspended: bool,
}

pub(crate) fn insert(tx: &Tx<'_>, now_ms: u64, account: &Create) -> Result<(), Fault> {
    let Create { password_hash, admin, guest, call_id, .. } = account;
    tx.execute(
        "INSERT INTO account (id, created_ms, founded_by, password_hash, admin, guest, profile)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, '{}')",
        &[now_ms.into(), call_id.as_str().into(), password_hash.as_deref().into(), (*admin).into(), (*guest).into()],
    )?;
    Ok(())
}

pub(crate) fn get(sql: &dyn Sql) -> Result<Account, Fault> {
    let mut row = sql
        .query("SELECT password_hash, admin, guest, deactivated_ms, locked, suspended FROM account WHERE id = 1", &[])?
        .pop()
        .ok_or_else(|| Fault::new("the user has no account"))?;
    Ok(Account {
        password_hash: row.text_or_null(0)?,
        admin: row.flag(1)?,
        guest: row.flag(2)?,
        deactivated: row.unsigned_or_null(3)?.is_some(),
        locked: row.flag(4)?,
        suspended: row.flag(5)?,
    })
}

/// The id of the call that founded the account, if one did.
pub(crate) fn founded_by(sql: &dyn Sql) -> Result<Option<String>, Fault> {
    sql.query("SELECT founded_by FROM account WHERE id = 1", &[])?.pop().map(|mut row| row.text(0)).transpose()
}

/// The presence that others were told last, as JSON.
pub(crate) fn presence(sql: &dyn Sql) -> Result<Option<String>, Fault> {
    let row = sql.query("SELECT presence FROM account WHERE id = 1", &[])?.pop();
    row.map_or(Ok(None), |mut row| row.text_or_null(0))
}

pub(crate) fn set_presence(tx: &Tx<'_>, presence: &str) -> Result<(), Fault> {
    tx.execute("UPDATE account SET presence = ?1 WHERE id = 1", &[presence.into()])?;
    Ok(())
}

/// The room in which the server speaks to the user.
pub(crate) fn notice_room(sql: &dyn Sql) -> Result<Option<String>, Fault> {
    let row = sql.query("SELECT notice_room FROM account WHERE id = 1", &[])?.pop();
    row.map_or(Ok(None), |mut row| row.text_or_null(0))
}

pub(crate) fn set_notice_room(tx: &Tx<'_>, room_id: &str) -> Result<(), Fault> {
    tx.execute("UPDATE account SET notice_room = ?1 WHERE id = 1", &[room_id.into()])?;
    Ok(())
}

pub(crate) fn set_password_hash(tx: &Tx<'_>, password_hash: &str) -> Result<(), Fault> {
    tx.execute("UPDATE account SET password_hash = ?1 WHERE id = 1", &[password_hash.into()])?;
    Ok(())
}

/// A guest becomes a user like any other.
pub(crate) fn upgrade(tx: &Tx<'_>, password_hash: &str) -> Result<(), Fault> {
    tx.execute("UPDATE account SET guest = 0, password_hash = ?1 WHERE id = 1", &[password_hash.into()])?;
    Ok(())
}

pub(crate) fn moderate(tx: &Tx<'_>, locked: bool, suspended: bool) -> Result<(), Fault> {
    tx.execute("UPDATE account SET locked = ?1, suspended = ?2 WHERE id = 1", &[locked.into(), suspended.into()])?;
    Ok(())
}

pub(crate) fn deactivate(tx: &Tx<'_>, now_ms: u64) -> Result<(), Fault> {
    tx.execute("UPDATE account SET deactivated_ms = ?1 WHERE id = 1", &[now_ms.into()])?;
    Ok(())
}

/// Forgets what the user kept here for themselves and showed of themselves.
pub(crate) fn erase(tx: &Tx<'_>) -> Result<Gone, Fault> {
    tx.execute("UPDATE account SET profile = '{}' WHERE id = 1", &[])?;
    tx.execute("DELETE FROM filter", &[])?;
    stream::delete(tx, "account_data", "position", "true", &[])
}
