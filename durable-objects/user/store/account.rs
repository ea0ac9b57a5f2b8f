//! The account itself: one row, there since the founding call.

use platform::{Fault, Sql, Tx};

/// What an account may do.
#[derive(Debug)]
pub(crate) struct Account {
    /// In PHC string format.
    pub password_hash: Option<String>,
    pub admin: bool,
    pub deactivated: bool,
}

pub(crate) fn insert(
    tx: &Tx<'_>,
    now_ms: u64,
    founded_by: &str,
    password_hash: Option<&str>,
    admin: bool,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO account (id, created_ms, founded_by, password_hash, admin, profile) VALUES (1, ?1, ?2, ?3, ?4, '{}')",
        &[now_ms.into(), founded_by.into(), password_hash.into(), admin.into()],
    )?;
    Ok(())
}

pub(crate) fn get(sql: &dyn Sql) -> Result<Account, Fault> {
    let mut row = sql
        .query("SELECT password_hash, admin, deactivated_ms FROM account WHERE id = 1", &[])?
        .pop()
        .ok_or_else(|| Fault::new("the user has no account"))?;
    Ok(Account {
        password_hash: row.text_or_null(0)?,
        admin: row.flag(1)?,
        deactivated: row.unsigned_or_null(2)?.is_some(),
    })
}

/// The id of the call that founded the account, if one did.
pub(crate) fn founded_by(sql: &dyn Sql) -> Result<Option<String>, Fault> {
    sql.query("SELECT founded_by FROM account WHERE id = 1", &[])?.pop().map(|mut row| row.text(0)).transpose()
}
