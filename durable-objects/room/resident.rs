//! What the room does for another server that wants one of its users in, or out: it prepares the membership, which that
//! server completes and signs, and takes it in.
//! Spec: Server-Server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".

use domain::{
    Refusal, directory, event,
    event::Draft,
    third_party_invite::{self, InviteKey},
};
use platform::{ActorKind, Sql, Tx};
use ruma_common::{OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId};
use ruma_events::TimelineEventType;
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    CheckedEvent, MemberProfile, MembershipAction, Needs, ReceiveEvent, Received, Room, Unsigned,
    append::{check_joined, shown_state},
    change_membership::membership_content,
    get_outgoing::raw,
    store, transactions,
};
use crate::{Call, Cx, Error};

/// Prepares a join, a knock or a leave of another server's user.
///
/// Refused: `Forbidden` by the room's rules or its ACL; as [`super::ChangeMembership`] is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrepareMembership {
    pub user: OwnedUserId,
    pub action: MembershipAction,
    /// For a join without an invitation: rooms that said that the user is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<OwnedRoomId>,
}

/// What the other server is to complete and sign.
#[derive(Debug, Serialize, Deserialize)]
pub struct PreparedMembership {
    pub room_version: String,
    pub event: Box<RawValue>,
}

impl Call for PrepareMembership {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "prepare_membership";
    type Reply = PreparedMembership;
}

/// Takes in what another server made of that, and passes it on to all the others.
///
/// Refused: `Forbidden` for what the rules, or the room's ACL, do not allow now; `OtherServer` for what comes after
/// events that are not here: they may be on their way, or be fetched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdmitMembership {
    pub server: OwnedServerName,
    pub event: CheckedEvent,
}

impl Call for AdmitMembership {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "admit_membership";
    type Reply = ();
}

/// Prepares the invitation of another server's user: it is signed, and not in the room yet. Their server signs it as
/// well, and [`AdmitMembership`] takes it in.
///
/// Refused: as [`super::ChangeMembership`] is; `Forbidden` also for a server that the room's ACL keeps out, and where
/// the room is for users of its own server only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrepareInvite {
    pub sender: OwnedUserId,
    pub target: OwnedUserId,
    /// The content of the membership, in its sender's words.
    pub content: Box<RawValue>,
    /// As in [`super::SendEvent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

/// The invitation, and what lets the other server recognise the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct PreparedInvite {
    pub room_version: String,
    pub event: CheckedEvent,
    /// Whole events. Spec: since v1.16, the state in an invitation is in the event format of the room's version.
    pub state: Vec<Box<RawValue>>,
    /// Of an invitation that goes back to an `m.room.third_party_invite`: the keys of that by which it is signed. One
    /// of them must still hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<InviteKey>,
}

impl Call for PrepareInvite {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "prepare_invite";
    type Reply = PreparedInvite;
}

/// Whether somebody of this server is in the room, and which other servers are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetResidence {}

/// Who knows what happens in the room.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Residence {
    /// Whether this server does.
    pub here: bool,
    /// Whether everybody has left it, as far as this server knows, which then knows no less than others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deserted: bool,
    /// Others that did when this one last knew.
    pub servers: Vec<String>,
}

impl Residence {
    /// Whether somebody of this server is in the room.
    pub fn has_ours(&self) -> bool {
        self.here && !self.deserted
    }
}

impl Call for GetResidence {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_residence";
    type Reply = Residence;
}

/// What lets a user of another server recognise the room who knocked on it: whole events. Spec: since v1.16, the state
/// in the answer to a knock is in the event format of the room's version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetShownState {
    pub user: OwnedUserId,
}

impl Call for GetShownState {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "get_shown_state";
    type Reply = Vec<Box<RawValue>>;
}

/// Refuses a server that the room's ACL keeps out.
pub(super) fn check_acl(sql: &dyn Sql, server: &ServerName) -> Result<(), Error> {
    let acl = store::state::current(sql, "m.room.server_acl", "")?;
    if domain::server_acl::allows(acl.as_ref().map(|acl| &acl.pdu), server) {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("{server} is denied access to this room by its server ACL")).into())
}

/// Refuses to bring users of other servers into a room that is for those of its own alone: they could never join it.
fn check_federates(sql: &dyn Sql) -> Result<(), Error> {
    match store::state::current(sql, "m.room.create", "")? {
        Some(create) if !directory::federates(create.pdu.content()) => {
            Err(Refusal::Forbidden("This room is for users of its own server only".to_owned()).into())
        }
        _ => Ok(()),
    }
}

/// An invitation that goes back to `m.room.third_party_invite`.
struct ByThirdParty {
    /// With the name that this gave who is invited.
    content: Box<RawValue>,
    /// By which it is signed.
    keys: Vec<InviteKey>,
}

/// An invitation with this content, if it goes back to `m.room.third_party_invite`: whoever made that may have left
/// since.
fn by_third_party(sql: &dyn Sql, content: &RawValue) -> Result<Option<ByThirdParty>, Error> {
    let mut content: Map<String, Value> = serde_json::from_str(content.get())
        .map_err(|error| Refusal::BadJson(format!("The content of m.room.member: {error}")))?;
    let Some(Value::Object(invite)) = content.get_mut("third_party_invite") else { return Ok(None) };
    let token = invite.get("signed").and_then(|signed| signed.get("token")).and_then(Value::as_str).unwrap_or_default();
    let mut keys = Vec::new();
    if let Some(made) = store::state::current(sql, "m.room.third_party_invite", token)? {
        if let Some(signed) = invite.get("signed") {
            keys = third_party_invite::signed_by(made.pdu.content(), signed);
        }
        let made: Map<String, Value> = made.pdu.content_as().unwrap_or_default();
        if let Some(name) = made.get("display_name").filter(|name| name.is_string()) {
            invite.insert("display_name".to_owned(), name.clone());
        }
    }
    Ok(Some(ByThirdParty { content: to_raw_value(&content)?, keys }))
}

impl Room {
    pub(super) fn prepare_membership(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: PrepareMembership,
    ) -> Result<PreparedMembership, Error> {
        check_acl(sql, call.user.server_name())?;
        self.check_resident(sql)?;
        let draft = Draft {
            event_type: TimelineEventType::RoomMember,
            content: membership_content(call.action, &MemberProfile::default(), None)?,
            state_key: Some(call.user.to_string()),
            sender: call.user,
            redacts: None,
        };
        let pdu = self.authorised_for(sql, cx, &draft, &call.member_of, cx.now_ms)?;
        let event = event::template(&pdu, cx.own_server()).map_err(Refusal::from)?;
        Ok(PreparedMembership { room_version: self.version(sql)?.as_str().to_owned(), event })
    }

    pub(super) fn admit_membership(&self, tx: &Tx<'_>, cx: &Cx<'_>, call: AdmitMembership) -> Result<(), Error> {
        check_acl(&**tx, &call.server)?;
        self.check_resident(&**tx)?;
        let event = call.event.clone();
        let receive = ReceiveEvent::of(call.event);
        match self.receive(tx, cx, receive, Some(transactions::RELAYED))? {
            Received::Accepted => Ok(()),
            Received::Rejected(rule) => Err(Refusal::Forbidden(rule).into()),
            Received::SoftFailed => {
                Err(Refusal::Forbidden("The room changed meanwhile, and does not allow this any more".to_owned())
                    .into())
            }
            Received::Needs(Needs { policy_server: Some(server), .. }) => {
                Err(Error::Unsigned(Box::new(Unsigned { server, event })))
            }
            Received::Needs(_) => {
                Err(Refusal::OtherServer("The event comes after events that are not known here yet".to_owned()).into())
            }
        }
    }

    pub(super) fn prepare_invite(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: PrepareInvite,
    ) -> Result<PreparedInvite, Error> {
        check_acl(sql, call.target.server_name())?;
        let (content, keys) = match by_third_party(sql, &call.content)? {
            Some(ByThirdParty { content, keys }) => {
                self.check_resident(sql)?;
                (content, keys)
            }
            None => {
                check_joined(sql, &call.sender)?;
                (call.content, Vec::new())
            }
        };
        let draft = Draft {
            event_type: TimelineEventType::RoomMember,
            content,
            state_key: Some(call.target.to_string()),
            sender: call.sender,
            redacts: None,
        };
        let pdu = self.authorised_for(sql, cx, &draft, &[], call.at_ms.unwrap_or(cx.now_ms))?;
        let pdu = if cx.is_local(&call.target) {
            pdu
        } else {
            check_federates(sql)?;
            event::with_origin(&pdu, &*self.version(sql)?, &cx.settings.identity, cx.random()?)?
        };
        let pdu = self.signed(sql, cx, pdu)?;
        let state = shown_state(sql, &pdu)?.iter().map(|event| raw(event.json())).collect::<Result<_, _>>()?;
        let event = CheckedEvent::of(&pdu);
        Ok(PreparedInvite { room_version: self.version(sql)?.as_str().to_owned(), event, state, keys })
    }

    pub(super) fn get_residence(&self, sql: &dyn Sql, _cx: &Cx<'_>, _call: GetResidence) -> Result<Residence, Error> {
        let (has_ours, servers) = (has_ours(sql)?, store::servers::joined(sql)?);
        let deserted = !has_ours && servers.is_empty() && was_founded(sql)?;
        Ok(Residence { here: has_ours || deserted, deserted, servers })
    }

    /// Whether this server knows what happens in the room. One that nobody is in any more is as much here as anywhere.
    pub(super) fn is_resident(&self, sql: &dyn Sql) -> Result<bool, Error> {
        Ok(has_ours(sql)? || (store::servers::joined(sql)?.is_empty() && was_founded(sql)?))
    }

    /// Refused: `Forbidden`, in the words of a room that is not there, where nobody of this server knows what happens:
    /// what is held of the room is old, or it was founded by a join that failed.
    pub(super) fn check_known(&self, sql: &dyn Sql, user_id: &UserId) -> Result<(), Error> {
        if self.is_resident(sql)? {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!("{user_id} is not in this room")).into())
    }

    pub(super) fn get_shown_state(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: GetShownState,
    ) -> Result<Vec<Box<RawValue>>, Error> {
        let member = store::state::current(sql, "m.room.member", call.user.as_str())?;
        let member = member.ok_or_else(|| Refusal::NotFound(format!("{} has no membership here", call.user)))?;
        Ok(shown_state(sql, &member.pdu)?.iter().map(|event| raw(event.json())).collect::<Result<_, _>>()?)
    }

    /// Refused: `NotFound` where nobody of this server is in the room: it does not know what happens there.
    pub(super) fn check_resident(&self, sql: &dyn Sql) -> Result<(), Error> {
        if has_ours(sql)? {
            return Ok(());
        }
        Err(Refusal::NotFound("This server is not in the room".to_owned()).into())
    }
}

/// Whether somebody of this server is in the room.
fn has_ours(sql: &dyn Sql) -> Result<bool, Error> {
    Ok(!store::members::joined_locals(sql, 1)?.is_empty())
}

/// Whether anything ever happened in the room: a join that failed leaves one without.
fn was_founded(sql: &dyn Sql) -> Result<bool, Error> {
    Ok(store::log::head_position(sql)? > 0)
}
