use platform::{ActorKind, Tx};
use ruma_common::OwnedRoomId;
use serde::{Deserialize, Serialize};

use super::{User, store};
use crate::{Call, Cx, Error, room::Typing};

/// How long after a sync a user without a waiting client still wants to be told, in milliseconds: clients come back
/// within moments, and going silent and back costs two rows.
const LINGER_MS: u64 = 60_000;

/// A room tells this user that its log now reaches `to`; 0, if it tells only who types.
#[derive(Debug, Serialize, Deserialize)]
pub struct Nudge {
    pub room_id: OwnedRoomId,
    pub to: u64,
    /// The newest position of what may be worth a push, or change what is unread: an event, a receipt of the user's
    /// own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub notify: u64,
    /// Who types there, if that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typing: Option<Typing>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NudgeReply {
    /// Nobody waits here, and every device will read the log when it comes: tell no more until one did.
    pub silent_until_read: bool,
    /// This user's room list does not say that they are in the room: tell it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub membership_unknown: bool,
}

impl Call for Nudge {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "nudge";
    type Reply = NudgeReply;
}

impl User {
    pub(super) fn nudge(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: Nudge) -> Result<NudgeReply, Error> {
        let known = store::rooms::by_id(&**tx, call.room_id.as_str())?;
        let membership_unknown = known.as_ref().is_none_or(|room| room.membership != "join");
        let number = match known {
            Some(room) => room.number,
            // The news overtook the membership, which is on its way: keep the place.
            None => self.put_room(tx, call.room_id.as_str(), ("unknown", 0, 0), None)?,
        };
        let slides = self.slides(&**tx, cx)?;
        let (is_news, will_read) = self.with_moves(&**tx, |moves| {
            let is_news = call.to > moves.told(number);
            Ok((is_news, moves.moved(tx, number, call.to, cx.now_ms, slides)?))
        })?;
        // The same users typing for longer are no news.
        let others_type = call.typing.map(|typing| self.typing.borrow_mut().heard(number, typing, cx.now_ms));
        if is_news || others_type != Some(false) {
            cx.wake();
        }
        let has_pushers = self.owe_pushes(tx, cx, number, call.notify)?;
        // A window shows only some of the rooms: of the others it has to hear, though it may never read them.
        let nobody_listens = !self.lingers(cx) && cx.waiting() == 0 && !has_pushers && !slides;
        let silent_until_read = will_read && !membership_unknown && nobody_listens;
        if silent_until_read {
            // Nor is the user told of presence there.
            self.others_forgotten(cx.now_ms);
        }
        Ok(NudgeReply { silent_until_read, membership_unknown })
    }

    /// Whether a client was here a moment ago.
    pub(super) fn lingers(&self, cx: &Cx<'_>) -> bool {
        self.planned_at_ms.get().is_some_and(|at_ms| cx.now_ms.saturating_sub(at_ms) < LINGER_MS)
    }
}
