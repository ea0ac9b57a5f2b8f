//! Transaction ids: a request repeated after a lost answer gets the event it made the first time.
//!
//! The id stands in the event's own row. A memory of the recent ones is rebuilt from the log when the room wakes:
//! an index would cost a written row for each message.

use std::collections::HashMap;

use domain::Refusal;
use platform::{Fault, Sql};
use ruma_common::{DeviceId, EventId, OwnedEventId, TransactionId, UserId};

use super::{Room, store};
use crate::Cx;

/// How long a transaction id is remembered, in milliseconds: half an hour, as other servers do.
const WINDOW_MS: u64 = 30 * 60 * 1000;
/// The most transactions remembered; a room busier than that forgets the oldest.
const RECENT_MAX: u64 = 10_000;

/// The longest transaction id taken: each is remembered for a while.
const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// The recent transactions, by name.
#[derive(Default)]
pub(super) struct Recent(HashMap<String, (u64, OwnedEventId)>);

/// The name of a client's transaction. Its scope is the device and the endpoint; the path of the endpoint names the
/// room and the event type. Spec: "Transaction identifiers".
pub(super) fn of_client(
    sender: &UserId,
    device: &DeviceId,
    event_type: &str,
    transaction_id: &TransactionId,
) -> String {
    // The transaction id comes last: it alone may hold spaces.
    format!("{} {} {} {}", encoded(sender.as_str()), encoded(device.as_str()), encoded(event_type), transaction_id)
}

/// The name of a client's transaction of redacting an event; the path of that endpoint names the event.
pub(super) fn of_redaction(
    sender: &UserId,
    device: &DeviceId,
    event_id: &EventId,
    transaction_id: &TransactionId,
) -> String {
    of_client(sender, device, &format!("redact {event_id}"), transaction_id)
}

/// Refuses `InvalidParam` for a transaction id that is too long to be remembered.
pub(super) fn check_length(transaction_id: &TransactionId) -> Result<(), Refusal> {
    if transaction_id.as_str().len() > TRANSACTION_ID_BYTES_MAX {
        return Err(Refusal::InvalidParam(format!("a transaction id has at most {TRANSACTION_ID_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The name of a call that a tier may repeat after a lost reply.
pub(super) fn of_call(call_id: &str) -> String {
    format!("call {call_id}")
}

/// The name of a call that changes a membership, whose content we write.
pub(super) fn of_membership(call_id: &str) -> String {
    format!("membership {call_id}")
}

/// Whether a membership made by that shows its user's profile, as opposed to what a client wrote there.
pub(super) fn shows_profile(name: Option<&str>) -> bool {
    name.is_none_or(|name| !name.starts_with("call "))
}

/// The name of what other servers asked us to bring into the room for their users: we tell all the others of it.
pub(super) const RELAYED: &str = "relayed";

/// The name under which an upgrade closes the old room.
pub(super) const CLOSING: &str = "closing";

/// The name under which a profile that became so at that time is shown.
pub(super) fn of_refresh(changed_at_ms: u64) -> String {
    format!("refresh {changed_at_ms}")
}

/// The time in a name of [`of_refresh`].
pub(super) fn refreshed_at_ms(name: &str) -> Option<u64> {
    name.strip_prefix("refresh ")?.parse().ok()
}

/// The transaction id in a name, for the very device that used it.
pub(super) fn seen_by<'a>(name: &'a str, user: &UserId, device: &DeviceId) -> Option<&'a TransactionId> {
    let mut parts = name.splitn(4, ' ');
    let own = parts.next() == Some(&encoded(user.as_str())) && parts.next() == Some(&encoded(device.as_str()));
    let _event_type = parts.next();
    parts.next().filter(|_| own).map(<&TransactionId>::from)
}

fn encoded(part: &str) -> String {
    part.replace('%', "%25").replace(' ', "%20")
}

impl Room {
    /// The event that a transaction of this name already made.
    pub(super) fn made_by(&self, sql: &dyn Sql, cx: &Cx<'_>, name: &str) -> Result<Option<OwnedEventId>, Fault> {
        let mut recent = self.transactions.borrow_mut();
        if recent.is_none() {
            let since = cx.now_ms.saturating_sub(WINDOW_MS);
            let found = store::log::transactions(sql, since, RECENT_MAX)?;
            *recent = Some(Recent(
                found.into_iter().map(|(position, name, event_id)| (name, (position, event_id))).collect(),
            ));
        }
        let made = recent.as_ref().and_then(|recent| recent.0.get(name)).map(|(_, event_id)| event_id.clone());
        if made.is_some() {
            // Whoever repeats may do so because of a crash, before anybody was told.
            cx.set_alarm(cx.now_ms.saturating_add(super::follow::NUDGE_CHECK_MS))?;
        }
        Ok(made)
    }

    /// Remembers what an operation's events were made by, once it is committed.
    pub(super) fn remember_transactions(&self, cx: &Cx<'_>) {
        let mut recent = self.transactions.borrow_mut();
        // Not yet read from the log: then the log has these too.
        let Some(recent) = recent.as_mut() else { return };
        for (position, name, event_id) in cx.room.transactions.take() {
            recent.0.insert(name, (position, event_id));
        }
        if recent.0.len() as u64 > RECENT_MAX.saturating_mul(2) {
            let oldest = cx.now_ms.saturating_sub(WINDOW_MS);
            recent.0.retain(|_, (position, _)| *position > oldest);
            let mut positions: Vec<u64> = recent.0.values().map(|(position, _)| *position).collect();
            positions.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(cut) = positions.get(RECENT_MAX as usize).copied() {
                recent.0.retain(|_, (position, _)| *position > cut);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::{device_id, user_id};

    use super::*;

    #[test]
    fn only_the_sending_device_sees_its_transaction_id() {
        let (alice, phone) = (user_id!("@alice:a"), device_id!("MY PHONE"));
        let name = of_client(alice, phone, "m.room.message", "txn 1".into());
        assert_eq!(seen_by(&name, alice, phone).map(TransactionId::as_str), Some("txn 1"));
        assert_eq!(seen_by(&name, alice, device_id!("LAPTOP")), None);
        assert_eq!(seen_by(&name, user_id!("@bob:a"), phone), None);
        assert_eq!(seen_by(&of_call("abc"), alice, phone), None);
        assert_eq!(seen_by(&of_membership("abc"), alice, phone), None);
    }
}
