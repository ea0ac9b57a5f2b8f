//! Invitations across servers. Spec: Server-Server API, "Inviting to a room".

use actors::{
    room::{AdmitMembership, PrepareInvite},
    user::AskInvite,
};
use domain::{Pdu, Refusal, RoomVersion, event};
use http::Method;
use ruma_common::{OwnedEventId, OwnedUserId, RoomId, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use ruma_federation_api::membership::create_invite;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    AskError, Bounds, Origin,
    elsewhere::{incompatible, residence, stripped},
    pdus::{ReadPdu, checked, path_in_room, raw},
};
use crate::{Context, Failure, OrAbsent, Routes};

/// The largest event of the state that comes with an invitation, in bytes: it is kept in the user's own storage.
const STRIPPED_BYTES_MAX: usize = 64 * 1024;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(invite);
}

/// `PUT /v2/invite/{roomId}/{eventId}`: a user of ours is invited; we sign that we know.
async fn invite(
    cx: &Context,
    Origin(origin): Origin,
    request: create_invite::v2::Request,
) -> Result<create_invite::v2::Response, Failure> {
    let version = match RoomVersion::parse(request.room_version.as_str()) {
        Ok(version) => version,
        Err(_) => {
            let room_version = request.room_version.to_string();
            return Err(Refusal::IncompatibleRoomVersion { room_version }.into());
        }
    };
    let read = ReadPdu::read(&request.event, &version).map_err(Refusal::BadJson)?;
    if read.event_id != request.event_id {
        return Err(Refusal::BadJson("The invitation has another id".to_owned()).into());
    }
    let pdu = cx.check_pdu(&version, read).await?.map_err(Refusal::Forbidden)?;
    let invited = invited(&pdu).filter(|_| *pdu.room_id() == *request.room_id && pdu.sender().server_name() == origin);
    let Some(invited) = invited.filter(|user_id| cx.is_local(user_id)) else {
        let sentence = "This is no invitation, to this room, by a user of yours, of a user of ours";
        return Err(Refusal::InvalidParam(sentence.to_owned()).into());
    };
    cx.user(&invited).call(&AskInvite {}).await.or_absent(Refusal::NotFound("There is no such user".to_owned()))?;
    let signed = event::countersign(&raw(&pdu)?, &version, cx.identity())?;
    if !residence(cx, pdu.room_id()).await?.here {
        let stripped_state = shown(&request.invite_room_state, &pdu)?;
        let event_id = Some(pdu.event_id().to_owned());
        cx.tell_of_membership(&invited, pdu.room_id(), MembershipState::Invite, event_id, stripped_state).await?;
    }
    Ok(create_invite::v2::Response::new(signed))
}

/// Who is invited by this event.
fn invited(pdu: &Pdu) -> Option<OwnedUserId> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    let is_invitation = *pdu.event_type() == TimelineEventType::RoomMember
        && pdu.content_as::<Content>().is_ok_and(|content| content.membership == MembershipState::Invite);
    OwnedUserId::try_from(pdu.state_key()?).ok().filter(|_| is_invitation)
}

/// What the user is shown of the room.
fn shown(
    state: &[ruma_federation_api::membership::RawStrippedState],
    invite: &Pdu,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let mut events = Vec::new();
    for event in state {
        let event = to_raw_value(event)?;
        if event.get().len() <= STRIPPED_BYTES_MAX {
            events.push(event);
        }
    }
    let mut shown = stripped(&events);
    shown.push(event::stripped_json(invite));
    Ok(shown)
}

impl Context {
    /// Invites a user of another server: theirs signs the invitation, then it is in the room. Answers its id.
    ///
    /// # Errors
    /// What the room refuses; `Forbidden` or `NotFound` for what their server does.
    pub(crate) async fn invite_elsewhere(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        content: Box<RawValue>,
        absent: Refusal,
    ) -> Result<OwnedEventId, Failure> {
        #[derive(Serialize)]
        struct Invitation<'a> {
            room_version: &'a str,
            event: &'a RawValue,
            invite_room_state: &'a [Box<RawValue>],
        }
        #[derive(Deserialize)]
        struct Answer {
            event: Box<RawValue>,
        }
        let call = PrepareInvite { sender: sender.to_owned(), target: target.to_owned(), content };
        let prepared = self.room(room_id).call(&call).await.or_absent(absent)?;
        let version = RoomVersion::parse(&prepared.room_version)?;
        let event = RawValue::from_string(prepared.event.json.clone())?;
        let invitation =
            Invitation { room_version: version.as_str(), event: &event, invite_room_state: &prepared.state };
        let path = path_in_room("v2/invite", room_id, prepared.event.event_id.as_str());
        let server = target.server_name();
        let asked = self.ask_raw(server, Method::PUT, &path, Some(to_raw_value(&invitation)?), Bounds::default());
        let answer = asked.await.and_then(|(_, body)| {
            serde_json::from_slice::<Answer>(&body).map_err(|error| AskError::Nonsense(error.to_string()))
        });
        let answer = answer.map_err(|error| not_invited(&error, target))?;
        let signed =
            ReadPdu::read(&answer.event, &version).ok().filter(|read| read.event_id == prepared.event.event_id);
        let Some(signed) = signed else {
            return Err(Refusal::Unknown(format!("{server} signed something else")).into());
        };
        let Ok(pdu) = self.check_pdu(&version, signed).await? else {
            return Err(Refusal::Unknown(format!("{server} made the invitation invalid")).into());
        };
        let call = AdmitMembership { server: self.server_name().to_owned(), event: checked(&pdu) };
        self.room(room_id).call(&call).await?;
        Ok(prepared.event.event_id)
    }
}

/// What whoever invites is told of the other server's no.
fn not_invited(error: &AskError, target: &UserId) -> Refusal {
    match error {
        AskError::Refused { errcode, .. } if errcode == "M_INVITE_BLOCKED" => Refusal::InviteBlocked,
        AskError::Refused { errcode, body, .. } if errcode == "M_INCOMPATIBLE_ROOM_VERSION" => incompatible(body),
        AskError::Refused { message, .. } => Refusal::Forbidden(format!("{} refuses: {message}", target.server_name())),
        AskError::Denied => Refusal::Forbidden("This server does not talk to that one".to_owned()),
        AskError::Unreachable(_) | AskError::Nonsense(_) => {
            Refusal::Unknown(format!("{} does not answer", target.server_name()))
        }
    }
}
