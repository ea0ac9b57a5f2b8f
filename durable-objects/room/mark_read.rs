//! Receipts: how far a user has read. Spec: "Receipts", "Read and unread markers".
//!
//! A receipt that moves takes a position of the log, as an event does: who reads the log from a cursor finds it there.
//! A private one is told to its owner alone, and wakes nobody else. One of another server's user that is here before
//! its event is kept in memory until that comes, or others take its place.

use std::collections::VecDeque;

use domain::Refusal;
use platform::{ActorKind, Sql, Tx};
use ruma_common::{EventId, OwnedDeviceId, OwnedEventId, OwnedUserId};
use ruma_events::room::member::MembershipState;
use serde::{Deserialize, Serialize};

use super::{
    Room,
    store::{self, log::Logged, receipts::Receipt},
    thread,
    viewer::Viewer,
};
use crate::{Call, Cx, Error};

/// Receipts that are kept for events that did not come yet.
const EARLY_MAX: usize = 500;

/// Marks events as read. A receipt that would go back stays where it is. Answers which of them moved, by their places
/// in the call; and the place after the last of them, if the marker would go back.
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
    /// Where the marker points now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<OwnedEventId>,
}

impl MarkRead {
    /// Whether the marker stays where it is, by what the room answered.
    pub fn marker_stays(&self, answered: Option<&[usize]>) -> bool {
        // An older release does not say so, and asks for no marker.
        answered.is_some_and(|places| places.contains(&self.receipts.len()))
    }
}

/// One receipt, up to and including its event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewReceipt {
    #[serde(rename = "type")]
    pub kind: ReceiptKind,
    pub event_id: OwnedEventId,
    /// `main` or the root of a thread; `None`: an unthreaded receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// When it was read, in milliseconds since the Unix epoch, if that was not just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

/// Who sees a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptKind {
    #[serde(rename = "m.read")]
    Public,
    #[serde(rename = "m.read.private")]
    Private,
}

/// Whether a text can name a thread: the main one, or the event that it grows from.
pub fn is_thread(thread: &str) -> bool {
    thread == "main" || <&EventId>::try_from(thread).is_ok()
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
    /// `None`, of an older release: perhaps all.
    type Reply = Option<Vec<usize>>;
}

/// Receipts that wait for their events, the newest last.
#[derive(Default)]
pub(super) struct Early(VecDeque<(OwnedUserId, NewReceipt)>);

impl Early {
    fn keep(&mut self, user: &OwnedUserId, receipt: &NewReceipt) {
        self.0.retain(|(by, kept)| by != user || kept.thread != receipt.thread);
        if self.0.len() >= EARLY_MAX {
            self.0.pop_front();
        }
        self.0.push_back((user.clone(), receipt.clone()));
    }

    fn of(&self, event_id: &EventId) -> Vec<(OwnedUserId, NewReceipt)> {
        self.0.iter().filter(|(_, receipt)| receipt.event_id == event_id).cloned().collect()
    }
}

impl Room {
    pub(super) fn mark_read(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: MarkRead) -> Result<Option<Vec<usize>>, Error> {
        let viewer = Viewer::load(&**tx, call.user, call.device)?;
        if !matches!(viewer.membership(), Some((MembershipState::Join, _))) {
            return Err(Refusal::Forbidden(format!("{} is not in this room", viewer.user)).into());
        }
        let marker_stays = match &call.fully_read {
            Some(event_id) => {
                let event = seen(&**tx, &viewer, event_id)?;
                // Two devices of a user have read differently far. One that is not known any more is before everything.
                let marked =
                    call.marker.as_ref().map(|marker| store::log::by_id(&**tx, marker.as_str())).transpose()?;
                marked.flatten().is_some_and(|marked| marked.position > event.position)
            }
            None => false,
        };
        let mut moved = Vec::new();
        for (place, receipt) in call.receipts.iter().enumerate() {
            let is_early = || Ok::<_, Error>(store::log::by_id(&**tx, receipt.event_id.as_str())?.is_none());
            if !cx.is_local(&viewer.user) && is_early()? {
                self.early_receipts.borrow_mut().keep(&viewer.user, receipt);
            } else if self.moves_receipt(tx, cx, &viewer, receipt)? {
                moved.push(place);
            }
        }
        moved.extend(marker_stays.then_some(call.receipts.len()));
        Ok(Some(moved))
    }

    /// An event takes its place in the log: what was read of it earlier is so from now on.
    pub(super) fn early_receipts_follow(&self, tx: &Tx<'_>, cx: &Cx<'_>, event_id: &EventId) -> Result<(), Error> {
        // They stay in memory: applied again, they change nothing.
        for (user, receipt) in self.early_receipts.borrow().of(event_id) {
            let viewer = Viewer::load(&**tx, user, "".into())?;
            if !matches!(viewer.membership(), Some((MembershipState::Join, _))) {
                continue;
            }
            match self.moves_receipt(tx, cx, &viewer, &receipt) {
                Ok(_) | Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Answers whether it moved.
    fn moves_receipt(&self, tx: &Tx<'_>, cx: &Cx<'_>, viewer: &Viewer, receipt: &NewReceipt) -> Result<bool, Error> {
        let event = seen(&**tx, viewer, &receipt.event_id)?;
        if let Some(thread) = &receipt.thread
            && !thread::place(&**tx, &event)?.belongs_to(thread)
        {
            return Err(Refusal::InvalidParam("The event is not related to the thread_id".to_owned()).into());
        }
        let (user_id, kind) = (viewer.user.as_str(), receipt.kind.as_str());
        let thread = receipt.thread.clone().unwrap_or_default();
        if store::receipts::read_up_to(&**tx, user_id, kind, &thread)?.is_some_and(|read| read >= event.position) {
            return Ok(false);
        }
        let position = self.next_position(&**tx, cx)?;
        let moved = Receipt {
            user_id: user_id.to_owned(),
            kind: kind.to_owned(),
            thread,
            event_id: receipt.event_id.to_string(),
            read: event.position,
            ts_ms: receipt.at_ms.unwrap_or(cx.now_ms),
            position,
        };
        store::receipts::put(tx, &moved)?;
        let owner = (receipt.kind == ReceiptKind::Private).then_some(&*viewer.user);
        self.appservices_see_receipt(tx, cx, position, owner)?;
        cx.room.own_receipts.borrow_mut().push((moved.user_id.clone(), position));
        match receipt.kind {
            ReceiptKind::Public => cx.room.public_head.set(Some(position)),
            ReceiptKind::Private => cx.room.private.borrow_mut().push((moved.user_id, position)),
        }
        Ok(true)
    }
}

/// The event, if the viewer may see it.
fn seen(sql: &dyn Sql, viewer: &Viewer, event_id: &OwnedEventId) -> Result<Logged, Error> {
    store::log::by_id(sql, event_id.as_str())?
        .filter(|event| viewer.may_see(event))
        .ok_or_else(|| Refusal::NotFound("There is no such event, or it is not yours to see".to_owned()).into())
}
