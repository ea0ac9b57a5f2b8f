//! Invitations across servers. Spec: Server-Server API, "Inviting to a room".

use std::collections::BTreeMap;

use actors::{
    room::{AdmitMembership, CheckedEvent, GetVersionForServer, PrepareInvite},
    user::AskInvite,
};
use bytes::Bytes;
use domain::{Pdu, RateLimited, Refusal, RoomVersion, event};
use http::{Method, Request, Response, StatusCode};
use ruma_common::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    AskError, Bounds, Origin,
    elsewhere::{Told, residence},
    pdus::{ReadPdu, path_in_room},
    shown_room::{STRIPPED_EVENTS_MAX, is_create, is_whole, stripped},
};
use crate::{Context, Failure, OrAbsent, Routes, failure::json_bytes, router::bad_json};

/// The largest event of the state that comes with an invitation, in bytes. The user's actor decides what is kept.
const STRIPPED_BYTES_MAX: usize = 64 * 1024;

/// How long an invitation that nobody waits for may take in all, and how long their server may take to answer, in
/// milliseconds.
const SOON_MS: u64 = 10_000;
const ANSWER_MS: u64 = 8_000;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: to it, an invitation that shows nothing of the room is none.
    routes.add_raw(Method::PUT, "/_matrix/federation/v2/invite/{room_id}/{event_id}", invite);
    routes.add_raw(Method::PUT, "/_matrix/federation/v1/invite/{room_id}/{event_id}", invite_of_old);
}

/// `PUT /v2/invite/{roomId}/{eventId}`: a user of ours is invited; we sign that we know.
async fn invite(
    cx: &Context,
    Origin(origin): Origin,
    request: Request<Bytes>,
    path: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Content {
        room_version: String,
        event: Box<RawValue>,
        #[serde(default, deserialize_with = "list_if_any")]
        invite_room_state: Vec<Box<RawValue>>,
    }
    #[derive(Serialize)]
    struct Signed {
        event: Box<RawValue>,
    }
    let (room_id, event_id) = ids_in(path)?;
    let Content { room_version, event, invite_room_state: state } =
        serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let Ok(version) = RoomVersion::parse(&room_version) else {
        return Err(Refusal::IncompatibleRoomVersion { room_version }.into());
    };
    let invitation = Invitation { room_id: &room_id, event_id: &event_id, event: &event, state };
    let event = invitation.signed(cx, &origin, &version).await?;
    Ok(json_bytes(StatusCode::OK, serde_json::to_vec(&Signed { event })?.into()))
}

/// What is no list says nothing of the room. Spec: `invite_room_state` is not required, and what it has to be before
/// room version 12 a server «MAY» look at; each event of it is judged by itself.
fn list_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    let told = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(told.get()).unwrap_or_default())
}

/// The room and the event that the path of an invitation names.
fn ids_in(path: Vec<String>) -> Result<(OwnedRoomId, OwnedEventId), Refusal> {
    let invalid = |what: &str| Refusal::InvalidParam(format!("This is no {what}"));
    let [room_id, event_id] = <[String; 2]>::try_from(path).map_err(|_| invalid("path of an invitation"))?;
    let room_id = OwnedRoomId::try_from(room_id).map_err(|_| invalid("room's id"))?;
    Ok((room_id, OwnedEventId::try_from(event_id).map_err(|_| invalid("event's id"))?))
}

/// `PUT /v1/invite/{roomId}/{eventId}`: the same, from a server of old. Spec: «Servers which receive a v1 invite
/// request must assume that the room version is either "1" or "2"»: their events are alike.
async fn invite_of_old(
    cx: &Context,
    Origin(origin): Origin,
    request: Request<Bytes>,
    path: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Default, Deserialize)]
    struct Unsigned {
        #[serde(default, deserialize_with = "list_if_any")]
        invite_room_state: Vec<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Unsigned,
    }
    let (room_id, event_id) = ids_in(path)?;
    let malformed = |error: serde_json::Error| Refusal::BadJson(format!("The invitation: {error}"));
    let event: Box<RawValue> = serde_json::from_slice(request.body()).map_err(malformed)?;
    let Event { unsigned } = serde_json::from_str(event.get()).map_err(malformed)?;
    let version = RoomVersion::parse("1")?;
    let state = unsigned.invite_room_state;
    let invitation = Invitation { room_id: &room_id, event_id: &event_id, event: &event, state };
    let signed = invitation.signed(cx, &origin, &version).await?;
    let body = serde_json::to_vec(&(200, BTreeMap::from([("event", signed)])))?;
    Ok(json_bytes(StatusCode::OK, body.into()))
}

/// An invitation by another server.
struct Invitation<'a> {
    room_id: &'a RoomId,
    event_id: &'a EventId,
    event: &'a RawValue,
    /// What lets the user recognise the room.
    state: Vec<Box<RawValue>>,
}

impl Invitation<'_> {
    /// Checks it, tells the user, and signs it.
    async fn signed(
        mut self,
        cx: &Context,
        origin: &ServerName,
        version: &RoomVersion,
    ) -> Result<Box<RawValue>, Failure> {
        let read = ReadPdu::read(self.event, version).map_err(Refusal::BadJson)?;
        if read.event_id != self.event_id {
            return Err(Refusal::BadJson("The invitation has another id".to_owned()).into());
        }
        cx.limit(RateLimited::RemoteInvites, origin.as_str())?.keep();
        let pdu = cx.check_pdu(version, read).await?.map_err(Refusal::InvalidParam)?;
        let invited = invited(&pdu).filter(|_| pdu.room_id() == self.room_id && pdu.sender().server_name() == origin);
        let Some(invited) = invited.filter(|user_id| cx.is_local(user_id)) else {
            let sentence = "This is no invitation, to this room, by a user of yours, of a user of ours";
            return Err(Refusal::InvalidParam(sentence.to_owned()).into());
        };
        cx.limit(RateLimited::InvitesPerUser, invited.as_str())?.keep();
        cx.make_user(&invited, None).await?;
        cx.user(&invited).call(&AskInvite {}).await.or_absent(Refusal::NotFound("There is no such user".to_owned()))?;
        if version.room_id_is_create_event() {
            self.check_state(cx, version).await?;
        }
        let as_of_ms = Some(cx.now_ms());
        let is_here = residence(cx, pdu.room_id()).await?.has_ours();
        if is_here {
            // Spec: «Server Access Control Lists (ACLs)»: who is kept out invites nobody.
            cx.room(pdu.room_id()).call(&GetVersionForServer { server: origin.to_owned() }).await?;
        }
        // Spec: «All other fields of the events should remain untouched.»
        let signed = event::countersign(self.event, version, cx.identity())?;
        if !is_here {
            let stripped_state = shown(self.state, &pdu);
            let state = stripped_state.clone();
            let room_version = Some(version.as_str());
            let told = Told { event: Some(&pdu), state: stripped_state, room_version, as_of_ms, ..Told::default() };
            cx.tell_of_membership(&invited, pdu.room_id(), MembershipState::Invite, told).await?;
            cx.tell_appservices(&invited, &pdu, state).await?;
        }
        Ok(signed)
    }

    /// What is shown of the room is of that room, down to the create event that its id is the hash of. Spec: «SHOULD»
    /// since version 12, but «servers SHOULD consider their local ecosystems»: what Synapse shows besides that event is
    /// stripped. What comes whole has to be right. Of older versions whole events are not asked for yet.
    /// What cannot be checked, because a server that signed it is gone, is not shown. The create event is what its id
    /// says, whoever signed it.
    async fn check_state(&mut self, cx: &Context, version: &RoomVersion) -> Result<(), Failure> {
        let invalid = |why: &str| Refusal::InvalidParam(format!("`invite_room_state`: {why}"));
        if self.state.len() > STRIPPED_EVENTS_MAX {
            return Err(invalid("there are too many events").into());
        }
        let (whole, few_words): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.state).into_iter().partition(|event| is_whole(event, version));
        let read = whole.iter().map(|event| ReadPdu::read(event, version)).collect::<Result<Vec<_>, String>>();
        let outcomes = cx.check_pdus_if_possible(version, read.map_err(|why| invalid(&why))?).await?;
        let mut has_create = false;
        self.state = few_words;
        for (event, (event_id, outcome)) in whole.into_iter().zip(outcomes) {
            let makes_room = event_id.as_str().get(1..) == self.room_id.as_str().get(1..) && is_create(&event);
            match outcome {
                Some(outcome) => {
                    let pdu = outcome.map_err(|why| invalid(&format!("{event_id}: {why}")))?;
                    if pdu.room_id() != self.room_id || pdu.state_key().is_none() {
                        return Err(invalid(&format!("{event_id} is no state of this room")).into());
                    }
                    has_create |= *pdu.event_type() == TimelineEventType::RoomCreate;
                }
                None if makes_room => has_create = true,
                None => continue,
            }
            self.state.push(event);
        }
        if has_create { Ok(()) } else { Err(invalid("there is no `m.room.create`").into()) }
    }
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
fn shown(mut state: Vec<Box<RawValue>>, invite: &Pdu) -> Vec<Box<RawValue>> {
    state.retain(|event| event.get().len() <= STRIPPED_BYTES_MAX);
    let mut shown = stripped(&state);
    shown.push(event::stripped_json(invite));
    shown
}

impl Context {
    /// Invites a user of another server, as [`Context::invite_elsewhere`], whom nobody waits for: not when their server
    /// was down a moment ago, and not for long.
    ///
    /// # Errors
    /// As [`Context::invite_elsewhere`].
    pub(crate) async fn invite_elsewhere_soon(
        &self,
        room_id: &RoomId,
        call: PrepareInvite,
        absent: Refusal,
    ) -> Result<OwnedEventId, Failure> {
        let server = call.target.server_name().to_owned();
        let bounds = Bounds { timeout_ms: ANSWER_MS, ..Bounds::default() };
        let invited = async { Ok(self.invited_elsewhere(room_id, call, absent, bounds).await) };
        match self.soon(&server, SOON_MS, invited).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Refusal::OtherServer(format!("{server}: {error}")).into()),
        }
    }

    /// Invites a user of another server: theirs signs the invitation, then it is in the room. Answers its id. `at_ms`:
    /// as in [`actors::room::SendEvent`].
    ///
    /// # Errors
    /// What the room refuses; what their server does, as far as that is a matter of the invitation; 502 where it does
    /// not answer.
    pub(crate) async fn invite_elsewhere(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        content: Box<RawValue>,
        at_ms: Option<u64>,
        absent: Refusal,
    ) -> Result<OwnedEventId, Failure> {
        let call = PrepareInvite { sender: sender.to_owned(), target: target.to_owned(), content, at_ms };
        self.invited_elsewhere(room_id, call, absent, Bounds::default()).await
    }

    async fn invited_elsewhere(
        &self,
        room_id: &RoomId,
        call: PrepareInvite,
        absent: Refusal,
        bounds: Bounds,
    ) -> Result<OwnedEventId, Failure> {
        #[derive(Serialize)]
        struct Content<'a> {
            room_version: &'a str,
            event: &'a RawValue,
            invite_room_state: &'a [Box<RawValue>],
        }
        #[derive(Deserialize)]
        struct Answer {
            event: Box<RawValue>,
        }
        let target = &call.target;
        let prepared = self.room(room_id).call(&call).await.or_absent(absent)?;
        self.must_hold(&prepared.keys).await?;
        let version = RoomVersion::parse(&prepared.room_version)?;
        let event = RawValue::from_string(prepared.event.json.clone())?;
        let invitation = Content { room_version: version.as_str(), event: &event, invite_room_state: &prepared.state };
        let path = path_in_room("v2/invite", room_id, prepared.event.event_id.as_str());
        let server = target.server_name();
        let asked = self.ask_raw(server, Method::PUT, &path, Some(to_raw_value(&invitation)?), bounds);
        let read =
            |body: &[u8]| serde_json::from_slice::<Answer>(body).map_err(|error| AskError::Nonsense(error.to_string()));
        let answer = match asked.await {
            Err(AskError::Refused { status, .. }) if knows_v1_only(status, &version) => {
                // Spec: «Senders which receive a 400 or 404 response to this endpoint should retry using the v1 API».
                let path = path_in_room("v1/invite", room_id, prepared.event.event_id.as_str());
                let content = in_form_v1(&event, &prepared.state)?;
                let asked = self.ask_raw(server, Method::PUT, &path, Some(content), bounds);
                // `[200, {…}]`
                asked.await.and_then(|(_, body)| {
                    let (_, answer) = serde_json::from_slice::<(u64, Box<RawValue>)>(&body)
                        .map_err(|error| AskError::Nonsense(error.to_string()))?;
                    read(answer.get().as_bytes())
                })
            }
            asked => asked.and_then(|(_, body)| read(&body)),
        };
        let answer = answer.map_err(|error| not_invited(&error, target, &version))?;
        let signed =
            ReadPdu::read(&answer.event, &version).ok().filter(|read| read.event_id == prepared.event.event_id);
        let Some(signed) = signed else {
            return Err(Refusal::Unknown(format!("{server} signed something else")).into());
        };
        let Ok(pdu) = self.check_pdu(&version, signed).await? else {
            return Err(Refusal::Unknown(format!("{server} made the invitation invalid")).into());
        };
        let call = AdmitMembership { server: self.server_name().to_owned(), event: CheckedEvent::of(&pdu) };
        self.room(room_id).call(&call).await?;
        Ok(prepared.event.event_id)
    }
}

/// Whether the second form of an invitation may have been refused by a server that knows the first one alone.
fn knows_v1_only(status: StatusCode, version: &RoomVersion) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) && matches!(version.as_str(), "1" | "2")
}

/// An invitation in its first form: the event, which says itself what lets the user recognise the room.
fn in_form_v1(event: &RawValue, state: &[Box<RawValue>]) -> Result<Box<RawValue>, Failure> {
    let mut fields: BTreeMap<&str, Box<RawValue>> = serde_json::from_str(event.get())?;
    fields.insert("unsigned", to_raw_value(&BTreeMap::from([("invite_room_state", state)]))?);
    Ok(to_raw_value(&fields)?)
}

/// What whoever invites is told of the other server's no.
fn not_invited(error: &AskError, target: &UserId, version: &RoomVersion) -> Refusal {
    let server = target.server_name();
    if let Some(retry_after_ms) = error.retry_after_ms() {
        return Refusal::LimitExceeded { retry_after_ms };
    }
    let AskError::Refused { status, errcode, message, .. } = error else {
        return match error {
            AskError::Denied => Refusal::Forbidden("This server does not talk to that one".to_owned()),
            _ => Refusal::OtherServer(format!("{server} does not answer")),
        };
    };
    match errcode.as_str() {
        "M_INVITE_BLOCKED" => Refusal::InviteBlocked,
        // Spec: `M_UNSUPPORTED_ROOM_VERSION` is for «residents of a homeserver which does not support the requested
        // room version», whichever word that homeserver has for it.
        "M_INCOMPATIBLE_ROOM_VERSION" | "M_UNSUPPORTED_ROOM_VERSION" => {
            Refusal::UnsupportedRoomVersion(version.as_str().to_owned())
        }
        // Else it is our request that was wrong.
        errcode if *status == StatusCode::BAD_REQUEST && errcode != "M_FORBIDDEN" => {
            let not_understood =
                || Refusal::OtherServer(format!("{server} does not understand the invitation: {message}"));
            Refusal::by_other_server(errcode, message).unwrap_or_else(not_understood)
        }
        // It may do what it is asked another time.
        _ if status.is_server_error() => Refusal::OtherServer(format!("{server} cannot do it: {message}")),
        _ => Refusal::Forbidden(format!("{server} refuses: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use domain::RoomVersion;
    use http::StatusCode;
    use ruma_common::user_id;
    use serde_json::{Map, Value, json};

    use super::{AskError, not_invited};

    #[test]
    fn the_other_servers_no_is_told_in_the_words_of_an_invitation() {
        let version = RoomVersion::parse("12").unwrap();
        for (status, errcode, told) in [
            (400, "M_INCOMPATIBLE_ROOM_VERSION", (400, "M_UNSUPPORTED_ROOM_VERSION")),
            (400, "M_UNSUPPORTED_ROOM_VERSION", (400, "M_UNSUPPORTED_ROOM_VERSION")),
            (400, "M_MISSING_PARAM", (502, "M_UNKNOWN")),
            (400, "M_BAD_JSON", (502, "M_UNKNOWN")),
            (400, "M_FORBIDDEN", (403, "M_FORBIDDEN")),
            (400, "ORG.EXAMPLE.NO_ROOM", (400, "ORG.EXAMPLE.NO_ROOM")),
            (409, "ORG.EXAMPLE.NO_ROOM", (403, "M_FORBIDDEN")),
            (403, "M_INVITE_BLOCKED", (403, "M_INVITE_BLOCKED")),
            (403, "M_FORBIDDEN", (403, "M_FORBIDDEN")),
            (404, "M_NOT_FOUND", (403, "M_FORBIDDEN")),
            (429, "M_LIMIT_EXCEEDED", (429, "M_LIMIT_EXCEEDED")),
            (500, "M_UNKNOWN", (502, "M_UNKNOWN")),
            (503, "M_FORBIDDEN", (502, "M_UNKNOWN")),
        ] {
            let body = Map::from_iter([("retry_after_ms".to_owned(), json!(7))]);
            let status = StatusCode::from_u16(status).unwrap();
            let error = AskError::Refused { status, errcode: errcode.to_owned(), message: String::new(), body };
            let refusal = not_invited(&error, user_id!("@bob:b.test"), &version);
            let body = refusal.body();
            assert_eq!((refusal.status(), body["errcode"].as_str().unwrap()), told, "{status} {errcode}");
            let retry_after = refusal.body().get("retry_after_ms").and_then(Value::as_u64);
            assert_eq!(retry_after, (status == 429).then_some(7), "{status} {errcode}");
        }
    }
}
