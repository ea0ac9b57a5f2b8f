//! Receipts: how far a user has read. Spec: "Receipts", "Read and unread markers".
//!
//! A receipt that moves takes a position of the log, as an event does: who reads the log from a cursor finds it there. A
//! private one is told to its owner alone, and wakes nobody else.

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedDeviceId, OwnedEventId, OwnedUserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};

use super::{
    Room,
    store::{self, log::Logged, receipts::Receipt},
    thread,
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Marks events as read. A receipt that would go back stays where it is.
///
/// Refused: `Forbidden` for who is not in the room; `NotFound` for an event that is not there, or that the user may not
/// see; `InvalidParam` for one that is not in the thread named.
#[derive(Debug, Serialize, Deserialize)]
pub struct MarkRead {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<NewReceipt>,
    /// An event that the user's marker shall point at, which is kept elsewhere: here it is only looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fully_read: Option<OwnedEventId>,
}

/// One receipt, up to and including its event.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewReceipt {
    #[serde(rename = "type")]
    pub kind: ReceiptKind,
    pub event_id: OwnedEventId,
    /// `main` or the root of a thread; `None`: an unthreaded receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
}

/// Who sees a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptKind {
    #[serde(rename = "m.read")]
    Public,
    #[serde(rename = "m.read.private")]
    Private,
}

impl ReceiptKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ReceiptKind::Public => "m.read",
            ReceiptKind::Private => "m.read.private",
        }
    }
}

impl Call for MarkRead {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "mark_read";
    type Reply = ();
}

impl Room {
    pub(super) fn mark_read(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: MarkRead) -> Result<(), Error> {
        let viewer = Viewer::load(&**tx, call.user, call.device)?;
        if !matches!(viewer.membership(), Some((MembershipState::Join, _))) {
            return Err(Refusal::Forbidden(format!("{} is not in this room", viewer.user)).into());
        }
        if let Some(event_id) = &call.fully_read {
            seen(&**tx, &viewer, event_id)?;
        }
        for receipt in &call.receipts {
            let event = seen(&**tx, &viewer, &receipt.event_id)?;
            if let Some(thread) = &receipt.thread
                && !thread::place(&**tx, &event)?.belongs_to(thread)
            {
                return Err(Refusal::InvalidParam("the event is not related to the thread_id".to_owned()).into());
            }
            let (user_id, kind) = (viewer.user.as_str(), receipt.kind.as_str());
            let thread = receipt.thread.clone().unwrap_or_default();
            if store::receipts::read_up_to(&**tx, user_id, kind, &thread)?.is_some_and(|read| read >= event.position) {
                continue;
            }
            let position = self.next_position(&**tx, cx)?;
            let moved = Receipt {
                user_id: user_id.to_owned(),
                kind: kind.to_owned(),
                thread,
                event_id: receipt.event_id.to_string(),
                read: event.position,
                ts_ms: cx.now_ms,
                position,
            };
            store::receipts::put(tx, &moved)?;
            cx.room.own_receipts.borrow_mut().push((moved.user_id.clone(), position));
            match receipt.kind {
                ReceiptKind::Public => cx.room.public_head.set(Some(position)),
                ReceiptKind::Private => cx.room.private.borrow_mut().push((moved.user_id, position)),
            }
        }
        Ok(())
    }
}

/// The event, if the viewer may see it.
fn seen(sql: &dyn Sql, viewer: &Viewer, event_id: &OwnedEventId) -> Result<Logged, Error> {
    store::log::by_id(sql, event_id.as_str())?
        .filter(|event| viewer.may_see(event))
        .ok_or_else(|| Refusal::NotFound("there is no such event, or it is not yours to see".to_owned()).into())
}
