//! What other servers send us as it happens. Spec: "Transactions".

use std::collections::BTreeMap;

use actors::{
    destination::IsUp,
    room::{CheckedEvent, GetIntake, Intake, KeepWaiting, Needs, Received, Takes},
    user::GetAsked,
};
use domain::{Refusal, RoomVersion};
use futures_util::{StreamExt, stream};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName};
use ruma_events::{TimelineEventType, room::member::MembershipState};
use ruma_federation_api::transactions::send_transaction_message::v1::{Request, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Origin, device_list_cache,
    edus::{self, Edu, Written},
    elsewhere::Told,
    pdus::ReadPdu,
    receipts,
};
use crate::{Context, Failure, Routes};

/// Spec: «Must not be more than 50 items».
const PDUS_MAX: usize = 50;
/// Spec: «Must not be more than 100 items».
const EDUS_MAX: usize = 100;
/// Rooms that are served at the same time.
const ROOMS_AT_ONCE: usize = 8;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(send);
}

/// `PUT /send/{txnId}`. A transaction that is repeated finds its events in their rooms, and changes nothing.
async fn send(cx: &Context, Origin(origin): Origin, request: Request) -> Result<Response, Failure> {
    if request.origin != origin {
        return Err(Refusal::Forbidden("The transaction is not from who sent it".to_owned()).into());
    }
    if request.pdus.len() > PDUS_MAX || request.edus.len() > EDUS_MAX {
        let sentence = format!("A transaction has at most {PDUS_MAX} PDUs and {EDUS_MAX} EDUs");
        return Err(Refusal::InvalidParam(sentence).into());
    }
    // «EDUs in order, before and independently of PDUs»: a key comes before what it opens.
    // Receipts alone come after what they are for.
    let edus = request.edus.iter().filter_map(|edu| serde_json::from_str(edu.json().get()).ok());
    let (read, edus): (Vec<Edu>, Vec<Edu>) = edus.partition(Edu::is_receipt);
    device_list_cache::take_in(cx, &origin, edus.iter().filter_map(Edu::device_news).collect()).await?;
    let mut written = Written::default();
    for edu in &edus {
        edus::receive(cx, &origin, edu, &mut written).await?;
    }
    let mut by_room: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
    let mut pdus = BTreeMap::new();
    for pdu in request.pdus {
        match room_of(&pdu) {
            Some(room_id) => by_room.entry(room_id).or_default().push(pdu),
            None => pdus.extend(id_of(&pdu, None).map(|event_id| (event_id, Err("it is of no room".to_owned())))),
        }
    }
    let rooms = stream::iter(by_room).map(async |(room_id, pdus)| in_room(cx, &origin, &room_id, pdus).await);
    let outcomes: Vec<Result<_, Failure>> = rooms.buffer_unordered(ROOMS_AT_ONCE).collect().await;
    for outcome in outcomes {
        pdus.extend(outcome?);
    }
    receipts::take_in(cx, &origin, &read).await?;
    // Whoever talks to us listens.
    match cx.call(origin.as_str(), &IsUp {}).await {
        Ok(()) | Err(Failure::Absent) => {}
        Err(failure) => return Err(failure),
    }
    Ok(Response::new(pdus))
}

/// The room that an event says it is of. Since v12 a create event says none: nobody is sent one alone.
fn room_of(pdu: &RawValue) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct OfRoom {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<OfRoom>(pdu.get()).ok().map(|of_room| of_room.room_id)
}

/// Receives the events of one room, in their order.
async fn in_room(
    cx: &Context,
    origin: &ServerName,
    room_id: &RoomId,
    pdus: Vec<Box<RawValue>>,
) -> Result<BTreeMap<OwnedEventId, Result<(), String>>, Failure> {
    let mut outcomes = BTreeMap::new();
    let (version, takes) = match cx.room(room_id).call(&GetIntake { server: origin.to_owned() }).await {
        Ok(Intake { room_version, takes }) => (Some(RoomVersion::parse(&room_version)?), takes),
        Err(Failure::Absent) => (None, Takes::Never("this server does not know the room".to_owned())),
        Err(failure) => return Err(failure),
    };
    // Spec: «the PDU MUST be ignored» of a server that the room keeps out.
    if matches!(takes, Takes::Later | Takes::Never(_)) {
        for pdu in &pdus {
            if let Some((event_id, outcome)) = taken_back(cx, room_id, pdu).await? {
                outcomes.insert(event_id, outcome);
            }
        }
    }
    let version = match (version, &takes) {
        (Some(version), Takes::Now | Takes::Later) => version,
        (version, Takes::Never(why) | Takes::Denied(why)) => {
            for event_id in pdus.iter().filter_map(|pdu| id_of(pdu, version.as_ref())) {
                outcomes.entry(event_id).or_insert_with(|| Err(why.clone()));
            }
            return Ok(outcomes);
        }
        (None, Takes::Now | Takes::Later) => return Ok(outcomes),
    };
    let (mut read, mut malformed) = (Vec::new(), Vec::new());
    for pdu in &pdus {
        match ReadPdu::read(pdu, &version) {
            Ok(pdu) => read.push(pdu),
            Err(why) => {
                tracing::debug!(%room_id, %origin, why, "an event is dropped");
                malformed.extend(id_of(pdu, Some(&version)).map(|event_id| (event_id, Err(why))));
            }
        }
    }
    let mut good = Vec::new();
    for (event_id, checked) in cx.check_pdus(&version, read).await? {
        match checked {
            Ok(pdu) => good.push(CheckedEvent::of(&pdu)),
            Err(why) => drop(outcomes.entry(event_id).or_insert(Err(why))),
        }
    }
    let received = match takes {
        Takes::Now => cx.receive_pdus(room_id, &good).await?,
        Takes::Later | Takes::Never(_) | Takes::Denied(_) => vec![Ok(Received::Needs(Needs::default())); good.len()],
    };
    for (event, received) in good.into_iter().zip(received) {
        let event_id = event.event_id.clone();
        let outcome = match received {
            // «If an event in an incoming transaction is rejected, this should not cause … an error response.»
            Ok(Received::Accepted | Received::SoftFailed | Received::Rejected(_)) => Ok(()),
            Ok(Received::Needs(_)) => waits(cx, origin, room_id, event).await?,
            Err(refusal) => Err(refusal.to_string()),
        };
        outcomes.entry(event_id).or_insert(outcome);
    }
    for (event_id, outcome) in malformed {
        outcomes.entry(event_id).or_insert(outcome);
    }
    Ok(outcomes)
}

/// The id of an event that is not taken in, if it can be told: a hash is of canonical JSON only. Where the version of
/// the room is not known, those of the first versions say it, and of the others the newest is as good a guess as any.
fn id_of(pdu: &RawValue, version: Option<&RoomVersion>) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct WithId {
        event_id: OwnedEventId,
    }
    let said = || serde_json::from_str::<WithId>(pdu.get()).ok().map(|with_id| with_id.event_id);
    match version {
        Some(version) if version.rules().event_format.require_event_id => said(),
        Some(version) => ReadPdu::id_of(pdu, version),
        None => said().or_else(|| ReadPdu::id_of(pdu, &RoomVersion::parse("11").ok()?)),
    }
}

/// An event of a room in which nobody of ours is: all that matters of it is whether somebody took back an invitation of
/// a user of ours, or turned their knock down. It is believed of anybody who names the invitation or the knock as what
/// allows it: only who is in the room knows of that; and what names another one is of an earlier one, and late. Where
/// its id is not known it is believed of whoever invited, and of a server that had a part in what who knocks was shown
/// of the room or that took the knock. `None` for anything else.
async fn taken_back(
    cx: &Context,
    room_id: &RoomId,
    json: &RawValue,
) -> Result<Option<(OwnedEventId, Result<(), String>)>, Failure> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        event_type: TimelineEventType,
        sender: OwnedUserId,
        state_key: OwnedUserId,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    let Ok(event) = serde_json::from_str::<Event>(json.get()) else { return Ok(None) };
    let membership = event.content.membership;
    let ends = matches!(membership, MembershipState::Leave | MembershipState::Ban);
    if event.event_type != TimelineEventType::RoomMember || !ends || !cx.is_local(&event.state_key) {
        return Ok(None);
    }
    let (user, as_of_ms) = (cx.user(&event.state_key), Some(cx.now_ms()));
    let asked = match user.call(&GetAsked { room_id: room_id.to_owned() }).await {
        Ok(Some(asked)) => asked,
        Ok(None) | Err(Failure::Absent) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let server = event.sender.server_name();
    let may_be_believed = match (&asked.event_id, &asked.inviter) {
        (Some(asked), _) => json.get().contains(asked.as_str()),
        (None, Some(inviter)) => inviter.server_name() == server,
        (None, None) => asked.servers.iter().any(|known| known == server),
    };
    if !may_be_believed {
        return Ok(None);
    }
    // Of an invitation that an earlier release heard of nothing may be known: any version whose form it has will do.
    let versions: Vec<&str> =
        if asked.is_version_guessed { RoomVersion::ALL.into() } else { vec![&*asked.room_version] };
    let mut outcome = None;
    for version in versions {
        let Ok(version) = RoomVersion::parse(version) else { continue };
        let Ok(read) = ReadPdu::read(json, &version) else { continue };
        let event_id = read.event_id.clone();
        match cx.check_pdu(&version, read).await? {
            Ok(pdu) => {
                if asked.event_id.is_some_and(|asked| !pdu.auth_events().contains(&asked)) {
                    return Ok(None);
                }
                let told = Told { event: Some(&pdu), ends_asked: true, as_of_ms, ..Told::default() };
                cx.tell_of_membership(&event.state_key, pdu.room_id(), membership, told).await?;
                cx.tell_appservices(&event.state_key, &pdu, Vec::new()).await?;
                return Ok(Some((event_id, Ok(()))));
            }
            Err(why) => outcome = Some((event_id, Err(why))),
        }
    }
    Ok(outcome)
}

/// An event builds on what is not here: it waits for that, or for a join of ours, and the transaction does not. Whether
/// it does, or why not.
async fn waits(
    cx: &Context,
    origin: &ServerName,
    room_id: &RoomId,
    event: CheckedEvent,
) -> Result<Result<(), String>, Failure> {
    match cx.room(room_id).call(&KeepWaiting { origin: origin.to_owned(), event }).await {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Ok(Err("too many events wait for what they build on".to_owned())),
        Err(Failure::Refused(refusal)) => Ok(Err(refusal.to_string())),
        Err(failure) => Err(failure),
    }
}
