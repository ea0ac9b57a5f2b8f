//! Creating a room. Spec: "Creation".

use actors::room::{Create, FirstEvent, NewEvent};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use domain::{
    Pdu, Refusal, RoomVersion,
    event::{self, Place},
    power::{self, InitialState, NewRoom, Preset},
};
use platform::Fault;
use ruma_client_api::room::{
    Visibility,
    create_room::v3::{Request, Response, RoomPreset},
};
use ruma_common::{MxcUri, OwnedRoomId, RoomId, serde::Raw};
use ruma_events::{AnyInitialStateEvent, StateEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    call_id,
    membership::{member_profile, must_be_local},
};
use crate::{Caller, Context, Failure, Routes, metadata};

/// How many milliseconds a version 12 room may be made later than asked, to have an id of its own: the id is a hash of
/// the create event, and two equal ones in one millisecond are one room.
const LATER_MS_MAX: u64 = 16;

pub(super) fn routes(routes: &mut Routes) {
    routes.add(create_room);
}

/// `POST /createRoom`.
async fn create_room(cx: &Context, caller: Caller, request: Request) -> Result<Response, Failure> {
    let version = match &request.room_version {
        Some(version) => RoomVersion::parse(version.as_str())?,
        None => cx.config().default_room_version.clone(),
    };
    let room = new_room(cx, &caller, request).await?;
    let drafts = power::initial_events(&room, &version)?;
    let mut events = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let state_key = draft.state_key.ok_or_else(|| Fault::new("a new room begins with a message"))?;
        events.push(NewEvent { event_type: draft.event_type, state_key, content: draft.content });
    }
    let mut call = Create {
        call_id: call_id(cx)?,
        version: version.as_str().to_owned(),
        creator: caller.user_id,
        create_event: FirstEvent { event_id: ruma_common::owned_event_id!("$none"), json: String::new() },
        events,
    };
    for later_ms in 0..LATER_MS_MAX {
        let create = create_event(cx, &room, &version, later_ms)?;
        let room_id = create.room_id().to_owned();
        call.create_event = FirstEvent { event_id: create.event_id().to_owned(), json: create.json().to_owned() };
        // Registered before its first use: what exists can be found.
        metadata::register_room(cx.metadata(), &room_id, cx.now_ms()).await?;
        match cx.room(&room_id).call(&call).await {
            Err(Failure::Refused(Refusal::RoomInUse(_))) => {}
            outcome => return outcome.map(|_| Response::new(room_id)),
        }
    }
    Err(Fault::new("every room id tried was taken").into())
}

fn create_event(cx: &Context, room: &NewRoom, version: &RoomVersion, later_ms: u64) -> Result<Pdu, Failure> {
    let room_id = if version.room_id_is_create_event() { None } else { Some(random_room_id(cx)?) };
    let place = Place {
        room_id: room_id.as_deref(),
        prev_events: &[],
        auth_events: &[],
        depth: 1,
        origin_server_ts: cx.now_ms().saturating_add(later_ms),
    };
    Ok(event::build(&power::create_draft(room, version)?, &place, version, cx.identity(), cx.random()?)?)
}

fn random_room_id(cx: &Context) -> Result<OwnedRoomId, Failure> {
    let opaque = BASE64_URL_SAFE_NO_PAD.encode(cx.random::<18>()?);
    let room_id = RoomId::parse(format!("!{opaque}:{}", cx.server_name()));
    Ok(room_id.map_err(|_| Fault::new("a new room id is none"))?)
}

/// What was asked for, in the words of the domain.
async fn new_room(cx: &Context, caller: &Caller, request: Request) -> Result<NewRoom, Failure> {
    if request.room_alias_name.is_some() {
        return Err(Refusal::InvalidParam("Room aliases are not available on this server".to_owned()).into());
    }
    if !request.invite_3pid.is_empty() {
        return Err(Refusal::InvalidParam("Invitations by third-party id are not available here".to_owned()).into());
    }
    for invited in &request.invite {
        must_be_local(cx, invited)?;
    }
    let preset = match (&request.preset, &request.visibility) {
        (Some(RoomPreset::PrivateChat), _) => Preset::PrivateChat,
        (Some(RoomPreset::TrustedPrivateChat), _) => Preset::TrustedPrivateChat,
        (Some(RoomPreset::PublicChat), _) | (None, Visibility::Public) => Preset::PublicChat,
        (None, _) => Preset::PrivateChat,
        (Some(other), _) => return Err(Refusal::InvalidParam(format!("There is no preset {other}")).into()),
    };
    let profile = member_profile(cx, &caller.user_id).await?;
    let mut room = NewRoom::new(caller.user_id.clone(), preset);
    room.creator_displayname = profile.displayname;
    room.creator_avatar_url = profile.avatar_url.map(|url| <&MxcUri>::from(url.as_str()).to_owned());
    room.creation_content = request.creation_content.map(Raw::into_json);
    room.power_level_content_override = request.power_level_content_override.map(Raw::into_json);
    room.initial_state = request.initial_state.iter().map(initial_state).collect::<Result<_, _>>()?;
    room.name = request.name;
    room.topic = request.topic;
    room.invite = request.invite;
    room.is_direct = request.is_direct;
    Ok(room)
}

fn initial_state(event: &Raw<AnyInitialStateEvent>) -> Result<InitialState, Refusal> {
    #[derive(Deserialize)]
    struct Given {
        #[serde(rename = "type")]
        event_type: StateEventType,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let given: Given = event
        .deserialize_as_unchecked()
        .map_err(|error| Refusal::BadJson(format!("`initial_state` holds what is no state event: {error}")))?;
    Ok(InitialState { event_type: given.event_type, state_key: given.state_key, content: given.content })
}
