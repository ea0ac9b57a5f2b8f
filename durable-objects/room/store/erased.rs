//! Users whose accounts were erased, of those who said something here.

use domain::Pdu;
use platform::{Fault, Sql, Tx};
use ruma_common::UserId;

use crate::room::state::MEMBER;

/// Somebody is erased for who comes after a position. The first time counts.
pub(crate) fn put(tx: &Tx<'_>, user_id: &UserId, position: u64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO erased (user_id, position) VALUES (?1, ?2) ON CONFLICT (user_id) DO NOTHING",
        &[user_id.as_str().into(), position.into()],
    )?;
    Ok(())
}

/// Who is erased for somebody who came at a position.
pub(crate) fn for_who_came_at(sql: &dyn Sql, position: u64) -> Result<Erased, Fault> {
    let rows = sql.query("SELECT user_id FROM erased WHERE position < ?1 ORDER BY user_id", &[position.into()])?;
    Ok(Erased(rows.into_iter().map(|mut row| row.text(0)).collect::<Result<_, _>>()?))
}

/// Users who are erased for somebody.
#[derive(Debug, Default)]
pub(crate) struct Erased(Vec<String>);

impl Erased {
    pub(crate) fn users(&self) -> &[String] {
        &self.0
    }

    /// Whether the event is redacted for them: whatever was said, and how its sender was called. Other state stays what
    /// it is, the room's.
    pub(crate) fn has(&self, pdu: &Pdu) -> bool {
        self.0.iter().any(|user_id| user_id == pdu.sender().as_str())
            && (pdu.state_key().is_none() || pdu.event_type().to_string() == MEMBER)
    }
}
