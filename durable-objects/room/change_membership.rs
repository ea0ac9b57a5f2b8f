use domain::{Refusal, event::Draft};
use platform::{ActorKind, Fault, Sql, Tx};
use ruma_common::{OwnedRoomId, OwnedUserId, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Room,
    append::{check_invitation, check_joined, owe_membership_again},
    guests::check_guest_access,
    notices,
    state::MEMBER,
    store, transactions,
};
use crate::{Call, Cx, Error};

/// Joins, invites, leaves, kicks, bans, unbans or knocks; what is already so stays as it is.
///
/// Refused: `Forbidden` by the room's rules, or where the user to unban is not banned; `GuestAccessForbidden` for a
/// guest who joins where guests may not; `CannotLeaveServerNoticeRoom` for who rejects an invitation of the server's
/// own.
/// Spec: "Room membership".
#[derive(Debug, Serialize, Deserialize)]
pub struct ChangeMembership {
    pub call_id: String,
    pub sender: OwnedUserId,
    pub target: OwnedUserId,
    pub action: MembershipAction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the target's profile says, for joins, invites and knocks.
    #[serde(default)]
    pub profile: MemberProfile,
    /// For a join without an invitation: rooms that said that the sender is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<OwnedRoomId>,
    /// Whether the sender is a guest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guest: bool,
    /// Whether nobody waits for it to happen: it may do so later, once the room's policy server signed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unattended: bool,
    /// For an invitation: whether the room is to be a direct chat with the target. Spec: `is_direct` of
    /// `m.room.member`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_direct: bool,
}

/// What is to become of a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipAction {
    Join,
    Invite,
    Knock,
    Leave,
    Kick,
    Ban,
    Unban,
}

/// The part of a profile that membership events carry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberProfile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

impl ChangeMembership {
    /// A change without words, by an account that is no guest's, for whoever waits for it.
    pub fn new(call_id: String, sender: OwnedUserId, target: OwnedUserId, action: MembershipAction) -> Self {
        Self {
            call_id,
            sender,
            target,
            action,
            reason: None,
            profile: MemberProfile::default(),
            member_of: Vec::new(),
            guest: false,
            unattended: false,
            is_direct: false,
        }
    }

    /// A user leaves, and nobody waits for it to happen.
    pub fn unattended_leave(call_id: String, user_id: OwnedUserId) -> Self {
        Self { unattended: true, ..Self::new(call_id, user_id.clone(), user_id, MembershipAction::Leave) }
    }
}

impl Call for ChangeMembership {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "change_membership";
    type Reply = ();
}

impl MembershipAction {
    fn makes(self) -> MembershipState {
        match self {
            MembershipAction::Join => MembershipState::Join,
            MembershipAction::Invite => MembershipState::Invite,
            MembershipAction::Knock => MembershipState::Knock,
            MembershipAction::Leave | MembershipAction::Kick | MembershipAction::Unban => MembershipState::Leave,
            MembershipAction::Ban => MembershipState::Ban,
        }
    }

    /// Whether one who is not in the room may do it to themselves.
    fn is_from_outside(self) -> bool {
        matches!(self, MembershipAction::Join | MembershipAction::Knock | MembershipAction::Leave)
    }

    /// Whether there is anything to do, given the target's membership.
    ///
    /// Refused: what cannot be done to one with this membership.
    fn applies_to(self, now: Option<&str>, target: &UserId) -> Result<bool, Refusal> {
        let already = now.is_some_and(|now| now == self.makes().as_str());
        match self {
            MembershipAction::Join | MembershipAction::Ban | MembershipAction::Invite | MembershipAction::Knock => {
                Ok(!already)
            }
            MembershipAction::Leave => match now {
                Some("leave") => Ok(false),
                None => Err(Refusal::Forbidden(format!("{target} is not in this room"))),
                Some(_) => Ok(true),
            },
            MembershipAction::Kick => match now {
                Some("join" | "invite" | "knock") => Ok(true),
                Some("leave") | None => Err(Refusal::Forbidden(format!("{target} is not in this room"))),
                Some(_) => Err(Refusal::Forbidden(format!("{target} is banned: unban them instead"))),
            },
            MembershipAction::Unban if now == Some("ban") => Ok(true),
            MembershipAction::Unban => Err(Refusal::BadState(format!("{target} is not banned"))),
        }
    }
}

impl Room {
    pub(super) fn change_membership(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: ChangeMembership) -> Result<(), Error> {
        let txn = transactions::of_membership(&call.call_id);
        if self.made_by(&**tx, cx, &txn)?.is_some() {
            return Ok(());
        }
        let now = store::members::membership(&**tx, call.target.as_str())?;
        let own = call.sender == call.target;
        if !(own && call.action.is_from_outside()) {
            check_joined(&**tx, &call.sender)?;
        }
        if own && !call.action.applies_to(now.as_deref(), &call.target)? {
            // Who asks for what is so may not know: their room list is told again.
            return owe_membership_again(tx, cx, call.target.as_str());
        }
        // All there is may be a join that failed.
        if own && store::log::head_position(&**tx)? == 0 {
            return Err(Refusal::Forbidden(format!("{} is not in this room", call.sender)).into());
        }
        let invited_by_another = call.action == MembershipAction::Invite
            && now.as_deref() == Some("invite")
            && is_invited_by_another(&**tx, &call.target, &call.sender)?;
        let banned_for_another_reason = call.action == MembershipAction::Ban
            && now.as_deref() == Some("ban")
            && call.reason.is_some()
            && store::state::text(&**tx, MEMBER, call.target.as_str(), "reason")? != call.reason;
        let draft = Draft {
            event_type: TimelineEventType::RoomMember,
            content: content_of(call.action, &call.profile, call.reason.as_deref(), call.is_direct)?,
            state_key: Some(call.target.to_string()),
            sender: call.sender,
            redacts: None,
        };
        check_invitation(cx, &draft)?;
        // Nobody rejects anything who is gone.
        if !call.unattended {
            notices::check_rejection(&**tx, cx, &draft)?;
        }
        // Whoever may not do it learns nothing of the target.
        let pdu = self.authorised_for(&**tx, cx, &draft, &call.member_of, cx.now_ms)?;
        let joins = own && call.action == MembershipAction::Join;
        if joins && call.guest {
            check_guest_access(&**tx)?;
        }
        if own
            || invited_by_another
            || banned_for_another_reason
            || call.action.applies_to(now.as_deref(), &call.target)?
        {
            if call.unattended {
                self.insert_unattended(tx, cx, pdu, Some(&txn))?;
            } else {
                self.insert(tx, cx, &self.signed(&**tx, cx, pdu)?, Some(&txn))?;
            }
        }
        if joins {
            store::members::set_guest(tx, call.target.as_str(), call.guest)?;
        }
        Ok(())
    }
}

/// Whether the invitation that somebody has is of another than this sender. It may be one that they are not shown,
/// because they ignore whom it is of: this sender's is another one then, and no repetition.
fn is_invited_by_another(sql: &dyn Sql, invited: &UserId, sender: &UserId) -> Result<bool, Fault> {
    let current = store::state::current(sql, MEMBER, invited.as_str())?;
    Ok(current.is_some_and(|current| current.pdu.sender() != sender))
}

/// The content of a membership event.
pub(super) fn membership_content(
    action: MembershipAction,
    profile: &MemberProfile,
    reason: Option<&str>,
) -> Result<Box<RawValue>, serde_json::Error> {
    content_of(action, profile, reason, false)
}

fn content_of(
    action: MembershipAction,
    profile: &MemberProfile,
    reason: Option<&str>,
    is_direct: bool,
) -> Result<Box<RawValue>, serde_json::Error> {
    #[derive(Serialize)]
    struct Content<'a> {
        membership: MembershipState,
        #[serde(flatten)]
        profile: &'a MemberProfile,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_direct: bool,
    }
    to_raw_value(&Content { membership: action.makes(), profile, reason, is_direct })
}
