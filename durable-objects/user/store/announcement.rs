//! How far news of the user got among the rooms.

use platform::{Fault, Sql, Tx};

use crate::user::News;

/// The columns of the account's row: when it became so, and the number of the room up to which all know it.
fn columns(news: News) -> [&'static str; 2] {
    match news {
        News::Profile => ["profile_changed_ms", "profile_told_to"],
        News::DeviceList | News::KeylessDevice => ["device_list_changed_ms", "device_list_told_to"],
    }
}

/// When the last news that rooms were told of became so, and the number of the room up to which they know it, unless
/// all do.
pub(crate) fn get(sql: &dyn Sql, news: News) -> Result<Option<(u64, Option<u64>)>, Fault> {
    let [changed_ms, told_to] = columns(news);
    let rows = sql.query(&format!("SELECT {changed_ms}, {told_to} FROM account WHERE id = 1"), &[])?.pop();
    let Some(mut row) = rows else { return Ok(None) };
    Ok(row.unsigned_or_null(0)?.zip(Some(row.unsigned_or_null(1)?)))
}

/// Something became so at `changed_ms`, and no room knows it yet.
pub(crate) fn begin(tx: &Tx<'_>, news: News, changed_ms: u64) -> Result<(), Fault> {
    let [changed, told_to] = columns(news);
    tx.execute(&format!("UPDATE account SET {changed} = ?1, {told_to} = 0 WHERE id = 1"), &[changed_ms.into()])?;
    Ok(())
}

/// The rooms up to this number know it.
pub(crate) fn advance(tx: &Tx<'_>, news: News, room: u64) -> Result<(), Fault> {
    let [_, told_to] = columns(news);
    tx.execute(&format!("UPDATE account SET {told_to} = ?1 WHERE id = 1"), &[room.into()])?;
    Ok(())
}

/// All rooms know it.
pub(crate) fn end(tx: &Tx<'_>, news: News) -> Result<(), Fault> {
    let [_, told_to] = columns(news);
    tx.execute(&format!("UPDATE account SET {told_to} = NULL WHERE id = 1"), &[])?;
    Ok(())
}
