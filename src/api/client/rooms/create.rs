//! Creating a room. Spec: "Creation".

use std::{
    collections::{BTreeMap, HashSet},
    pin::pin,
};

use actors::room::{Create, FirstEvent, NewEvent, PrepareInvite};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::{
    Pdu, Refusal, RoomVersion, alias,
    event::{self, Place},
    power::{self, InitialState, Invitee, NewRoom, Preset},
    set_state,
};
use futures_util::{
    StreamExt, TryStreamExt,
    future::{Either, join, select},
    stream,
};
use http::{Method, Request, Response, StatusCode};
use platform::Fault;
use ruma_client_api::room::{Visibility, create_room::v3::RoomPreset};
use ruma_common::{MxcUri, OwnedMxcUri, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, UserId};
use ruma_events::{StateEventType, TimelineEventType};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    aliases::{self, Claimed},
    call_id, directory,
    joining::with_profile,
    membership::{invitee_profile, member_profile, must_be_local, must_be_reachable},
    not_in_room, third_party_invites,
};
use crate::{
    Caller, Context, Failure, Routes, failure,
    identity_server::{Asked, ThirdParty},
    metadata,
    router::{bad_json, null_or},
};

/// The most users invited to a new room.
const INVITES_MAX: usize = 100;
/// The most state events a client gives a new room.
const INITIAL_STATE_MAX: usize = 200;
/// The most users that a new room invites, in every way there is: by their ids, by their addresses, and as initial
/// state.
pub(crate) const INVITED_MAX: usize = 2 * INVITES_MAX + INITIAL_STATE_MAX;
/// Profiles looked up at the same time.
const PROFILES_AT_ONCE: usize = 16;
/// Servers asked at the same time to sign invitations.
const SERVERS_AT_ONCE: usize = 16;
/// Addresses looked up at the same time.
const ADDRESSES_AT_ONCE: usize = 16;
/// How long whoever makes a room waits for those to be invited whom others have to be asked about, in milliseconds.
const INVITING_MS_MAX: u64 = 15_000;
/// How many milliseconds a version 12 room may be made later than asked, to have an id of its own: the id is a hash of
/// the create event, and two equal ones in one millisecond are one room.
const LATER_MS_MAX: u64 = 16;

pub(super) fn routes(routes: &mut Routes) {
    for path in ["/_matrix/client/v3/createRoom", "/_matrix/client/r0/createRoom"] {
        routes.add_raw(Method::POST, path, create_room);
    }
}

/// What is wanted. Not ruma's type: to that one, a version with a space in it is bad JSON.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default, deserialize_with = "null_or")]
    visibility: Visibility,
    room_alias_name: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    #[serde(default, deserialize_with = "null_or")]
    invite: Vec<OwnedUserId>,
    #[serde(default, deserialize_with = "null_or")]
    invite_3pid: Vec<ThirdParty>,
    room_version: Option<String>,
    creation_content: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "null_or")]
    initial_state: Vec<GivenState>,
    preset: Option<RoomPreset>,
    #[serde(default, deserialize_with = "null_or")]
    is_direct: bool,
    power_level_content_override: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct GivenState {
    #[serde(rename = "type")]
    event_type: StateEventType,
    #[serde(default, deserialize_with = "null_or")]
    state_key: String,
    content: Box<RawValue>,
}

/// `POST /createRoom`.
async fn create_room(
    cx: &Context,
    caller: Caller,
    request: Request<Bytes>,
    _: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    let body: &[u8] = if request.body().is_empty() { b"{}" } else { request.body() };
    let mut wanted: Wanted = serde_json::from_slice(body).map_err(|error| bad_json(&error))?;
    let is_version_named = wanted.room_version.is_some();
    let version = match &wanted.room_version {
        Some(version) => RoomVersion::parse(version)?,
        None => cx.config().default_room_version.clone(),
    };
    let published = directory::is_public(&wanted.visibility)?;
    let third_parties = std::mem::take(&mut wanted.invite_3pid);
    if third_parties.len() > INVITES_MAX {
        return Err(
            Refusal::InvalidParam(format!("A new room can have at most {INVITES_MAX} invited addresses")).into()
        );
    }
    let asked = third_parties.iter().map(|wanted| wanted.at(cx)).collect::<Result<Vec<_>, Refusal>>()?;
    let room = new_room(cx, &caller, wanted).await?;
    let Founded { room_id, invited } = found(cx, &version, &room, published).await?;
    let by_address = invite_by_address(cx, &caller, &room_id, &asked, room.is_direct);
    let inviting = join(invite_elsewhere(cx, &room_id, &caller.user_id, invited, is_version_named), by_address);
    match select(pin!(inviting), pin!(cx.pause(INVITING_MS_MAX))).await {
        Either::Left(((elsewhere, by_address), _)) => elsewhere.and(by_address)?,
        // A client that gave up would make another room.
        Either::Right(_) => tracing::info!(%room_id, "not everybody could be invited in time"),
    }
    Ok(failure::json(StatusCode::OK, &json!({ "room_id": room_id })))
}

/// A room that was made.
pub(crate) struct Founded {
    pub room_id: OwnedRoomId,
    /// The users of other servers who are to be invited, each with the content of the invitation.
    invited: Vec<(OwnedUserId, Box<RawValue>)>,
}

/// Makes the room and everything in it, or nothing.
pub(crate) async fn found(
    cx: &Context,
    version: &RoomVersion,
    room: &NewRoom,
    published: bool,
) -> Result<Founded, Failure> {
    let drafts = power::initial_events(room, version)?;
    let mut events = Vec::with_capacity(drafts.len());
    let mut invited = Vec::new();
    for draft in drafts {
        let state_key = draft.state_key.ok_or_else(|| Fault::new("a new room begins with a message"))?;
        // The room stands before another server is asked to sign an invitation to it.
        if let Some(invitee) = room.invite.iter().find(|invitee| invitee.user_id == state_key)
            && draft.event_type == TimelineEventType::RoomMember
            && !cx.is_local(&invitee.user_id)
        {
            invited.push((invitee.user_id.clone(), draft.content));
            continue;
        }
        events.push(NewEvent { event_type: draft.event_type, state_key, content: draft.content });
    }
    let mut call = Create {
        call_id: call_id(cx)?,
        version: version.as_str().to_owned(),
        creator: room.creator.clone(),
        create_event: FirstEvent { event_id: ruma_common::owned_event_id!("$none"), json: String::new() },
        events,
        published,
    };
    for later_ms in 0..LATER_MS_MAX {
        let create = create_event(cx, room, version, later_ms)?;
        let room_id = create.room_id().to_owned();
        call.create_event = FirstEvent { event_id: create.event_id().to_owned(), json: create.json().to_owned() };
        if let Some(alias) = &room.alias {
            match aliases::claim(cx, alias, &room_id, &room.creator).await? {
                // Before: with an earlier attempt at this room.
                Claimed::Now | Claimed::Before => {}
                Claimed::Taken => return Err(Refusal::RoomInUse(format!("The alias {alias} is taken")).into()),
            }
        }
        // Registered before its first use: what exists can be found.
        metadata::register_room(cx.metadata(), &room_id, cx.now_ms()).await?;
        let founded = cx.room(&room_id).call(&call).await;
        // After a fault nobody knows whether there is a room: if not, whoever wants the alias next gets it.
        if let (Err(Failure::Refused(_)), Some(alias)) = (&founded, &room.alias) {
            aliases::release(cx, alias, &room_id).await?;
        }
        match founded {
            Err(Failure::Refused(Refusal::RoomInUse(_))) => {}
            Ok(_) => return Ok(Founded { room_id, invited }),
            Err(failure) => return Err(failure),
        }
    }
    Err(Fault::new("every room id tried was taken").into())
}

/// Invites users of other servers to a new room, each server's one after the other. It is there whatever they say: who
/// was not reached can be invited again.
///
/// Refused: `UnsupportedRoomVersion` where the client named the version and somebody's server does not know it: they
/// can never come. Spec: `POST /createRoom`.
async fn invite_elsewhere(
    cx: &Context,
    room_id: &RoomId,
    creator: &UserId,
    invited: Vec<(OwnedUserId, Box<RawValue>)>,
    is_version_named: bool,
) -> Result<(), Failure> {
    let mut by_server: BTreeMap<OwnedServerName, Vec<_>> = BTreeMap::new();
    for (target, content) in invited {
        let of_server = by_server.entry(target.server_name().to_owned()).or_default();
        of_server.push(PrepareInvite { sender: creator.to_owned(), target, content, at_ms: None });
    }
    let invite = |of_server: Vec<PrepareInvite>| async move {
        for call in of_server {
            let invited = cx.invite_elsewhere_soon(room_id, call, not_in_room(creator)).await;
            // It would not answer the next time, either.
            let is_silent = matches!(&invited, Err(Failure::Refused(Refusal::OtherServer(_))));
            if is_version_named && matches!(&invited, Err(Failure::Refused(Refusal::UnsupportedRoomVersion(_)))) {
                return invited.map(drop);
            }
            taken_or_not(room_id, invited.map(drop))?;
            if is_silent {
                break;
            }
        }
        Ok(())
    };
    // All servers are asked, also after one that says no.
    let invited: Vec<Result<(), Failure>> =
        stream::iter(by_server.into_values()).map(invite).buffer_unordered(SERVERS_AT_ONCE).collect().await;
    invited.into_iter().collect()
}

/// Invites whoever is behind these addresses to a new room.
async fn invite_by_address(
    cx: &Context,
    caller: &Caller,
    room_id: &RoomId,
    asked: &[Asked<'_>],
    is_direct: bool,
) -> Result<(), Failure> {
    let invite = |asked| async move {
        let invited = third_party_invites::invite(cx, caller.clone(), room_id, asked, is_direct).await;
        taken_or_not(room_id, invited)
    };
    let invited: Vec<Result<(), Failure>> =
        stream::iter(asked).map(invite).buffer_unordered(ADDRESSES_AT_ONCE).collect().await;
    invited.into_iter().collect()
}

/// The room is there whatever is said of an invitation.
fn taken_or_not(room_id: &RoomId, invited: Result<(), Failure>) -> Result<(), Failure> {
    match invited {
        Err(Failure::Refused(refusal)) => {
            tracing::info!(%room_id, %refusal, "an invitation was not taken");
            Ok(())
        }
        outcome => outcome,
    }
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

/// An id for a room of a version that does not make it from the create event.
pub(super) fn random_room_id(cx: &Context) -> Result<OwnedRoomId, Failure> {
    let opaque = BASE64_URL_SAFE_NO_PAD.encode(cx.random::<18>()?);
    let room_id = RoomId::parse(format!("!{opaque}:{}", cx.server_name()));
    Ok(room_id.map_err(|_| Fault::new("a new room id is none"))?)
}

/// What was asked for, in the words of the domain.
async fn new_room(cx: &Context, caller: &Caller, wanted: Wanted) -> Result<NewRoom, Failure> {
    if wanted.initial_state.len() > INITIAL_STATE_MAX {
        return Err(
            Refusal::InvalidParam(format!("`initial_state` can hold at most {INITIAL_STATE_MAX} events")).into()
        );
    }
    let preset = match (&wanted.preset, &wanted.visibility) {
        (_, visibility) if !matches!(visibility, Visibility::Public | Visibility::Private) => {
            return Err(Refusal::InvalidParam(format!("There is no visibility {visibility}")).into());
        }
        (Some(RoomPreset::PrivateChat), _) => Preset::PrivateChat,
        (Some(RoomPreset::TrustedPrivateChat), _) => Preset::TrustedPrivateChat,
        (Some(RoomPreset::PublicChat), _) | (None, Visibility::Public) => Preset::PublicChat,
        (None, _) => Preset::PrivateChat,
        (Some(other), _) => return Err(Refusal::InvalidParam(format!("There is no preset {other}")).into()),
    };
    let mut room = NewRoom::new(caller.user_id.clone(), preset);
    if let Some(localpart) = &wanted.room_alias_name {
        let alias = alias::local(localpart, cx.server_name())?;
        aliases::may_make(cx, &alias, caller)?;
        room.alias = Some(alias);
    }
    let given = stream::iter(wanted.initial_state).map(|given| initial_state(cx, given, room.alias.as_deref()));
    room.initial_state = given.buffered(PROFILES_AT_ONCE).try_collect().await?;
    let acting = caller.acts_for.as_ref().map(|acts_for| &*acts_for.appservice);
    room.invite = invitees(cx, wanted.invite, acting).await?;
    let profile = member_profile(cx, &caller.user_id).await?;
    room.creator_displayname = profile.displayname;
    room.creator_avatar_url = profile.avatar_url.map(mxc_uri);
    room.creation_content = wanted.creation_content;
    room.power_level_content_override = wanted.power_level_content_override;
    room.name = wanted.name;
    room.topic = wanted.topic;
    room.is_direct = wanted.is_direct;
    Ok(room)
}

/// The users to invite, each once, with their profiles.
async fn invitees(cx: &Context, mut invited: Vec<OwnedUserId>, acting: Option<&str>) -> Result<Vec<Invitee>, Failure> {
    let mut seen = HashSet::new();
    invited.retain(|user_id| seen.insert(user_id.clone()));
    if invited.len() > INVITES_MAX {
        return Err(Refusal::InvalidParam(format!("A new room can have at most {INVITES_MAX} invited users")).into());
    }
    for user_id in &invited {
        must_be_reachable(cx, user_id)?;
    }
    let invitee = |user_id: OwnedUserId| async move {
        cx.make_user(&user_id, acting).await?;
        let profile = invitee_profile(cx, &user_id).await?;
        Ok(Invitee { user_id, displayname: profile.displayname, avatar_url: profile.avatar_url.map(mxc_uri) })
    };
    stream::iter(invited).map(invitee).buffered(PROFILES_AT_ONCE).try_collect().await
}

fn mxc_uri(url: String) -> OwnedMxcUri {
    <&MxcUri>::from(url.as_str()).to_owned()
}

/// A state event of the client's own. What a membership may say, the room decides; who may be invited, they themselves.
/// No other alias than its own points to a new room.
async fn initial_state(cx: &Context, given: GivenState, own: Option<&RoomAliasId>) -> Result<InitialState, Failure> {
    let GivenState { event_type, state_key, mut content } = given;
    if event_type == StateEventType::RoomCanonicalAlias && state_key.is_empty() {
        let mut unproven = alias::listed(&content)?;
        unproven.retain(|alias| own.is_none_or(|own| own != alias.as_str()));
        alias::check_canonical(&unproven, None)?;
    }
    set_state::check(&event_type.to_string(), &content, cx.config().no_policy_server())
        .map_err(|refusal| Refusal::InvalidRoomState(refusal.to_string()))?;
    if event_type == StateEventType::RoomMember {
        let user_id = <&UserId>::try_from(state_key.as_str())
            .map_err(|_| Refusal::BadJson("The state key of m.room.member is a user id".to_owned()))?;
        must_be_local(cx, user_id)?;
        content = with_profile(cx, user_id, &content).await?;
    }
    Ok(InitialState { event_type, state_key, content })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use http::{HeaderMap, StatusCode};
    use platform::SendError;
    use serde_json::{Value, json};

    use crate::testing::{TestServer, refused};

    const CREATE: &str = "/_matrix/client/v3/createRoom";

    fn users(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("@user{number}:localhost")).collect()
    }

    #[test]
    fn invitations_carry_profiles_and_go_out_once() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let field = "/_matrix/client/v3/profile/@bob:localhost/displayname";
        assert_eq!(server.put(field, &bob, &json!({ "displayname": "Bob" })).0, StatusCode::OK);
        let invite = ["@bob:localhost", "@carol:localhost", "@bob:localhost"];
        let (status, created) = server.post(CREATE, &alice, &json!({ "invite": invite, "is_direct": true }));
        assert_eq!(status, StatusCode::OK, "{created}");
        let room_id = created["room_id"].as_str().unwrap();
        let member = |user: &str| {
            server.get(&format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.member/{user}"), &alice).1
        };
        let bob = json!({ "membership": "invite", "is_direct": true, "displayname": "Bob" });
        assert_eq!(member("@bob:localhost"), bob);
        assert_eq!(member("@carol:localhost"), json!({ "membership": "invite", "is_direct": true }));
    }

    #[test]
    fn what_is_null_is_not_asked_for() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let nothing = json!({
            "visibility": null, "room_alias_name": null, "name": null, "topic": null, "invite": null, "invite_3pid": null,
            "room_version": null, "initial_state": null, "preset": null, "is_direct": null,
        });
        assert_eq!(server.post(CREATE, &alice, &nothing).0, StatusCode::OK);
        let state = json!({ "initial_state": [{ "type": "m.x", "state_key": null, "content": {} }] });
        let (_, created) = server.post(CREATE, &alice, &state);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.x/", created["room_id"].as_str().unwrap());
        assert_eq!(server.get(&path, &alice), (StatusCode::OK, json!({})));
        let wrong = json!({ "invite": [null] });
        assert_eq!(refused(server.post(CREATE, &alice, &wrong)), (400, "M_BAD_JSON".to_owned()));
    }

    #[test]
    fn a_direct_chat_by_address_is_one_for_who_is_invited() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let (alice, _) = (server.register("alice"), server.register("bob"));
        server.others_answer(|request| {
            let answer = if request.path_and_query.ends_with("/lookup") {
                json!({ "mappings": { "bob@example.com email": "@bob:localhost" } })
            } else {
                json!({ "lookup_pepper": "p", "algorithms": ["none"] })
            };
            Ok((StatusCode::OK, HeaderMap::new(), answer.to_string().into()))
        });
        for is_direct in [true, false] {
            let by_address = json!({ "id_server": "id.test", "id_access_token": "t", "medium": "email", "address": "bob@example.com" });
            let (_, created) =
                server.post(CREATE, &alice, &json!({ "is_direct": is_direct, "invite_3pid": [by_address] }));
            let room = created["room_id"].as_str().unwrap();
            let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@bob:localhost");
            let mut expected = json!({ "membership": "invite" });
            if is_direct {
                expected["is_direct"] = true.into();
            }
            assert_eq!(server.get(&path, &alice), (StatusCode::OK, expected));
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_once_and_not_again_for_a_while() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let asked: Rc<RefCell<Vec<String>>> = Rc::default();
        let notes = asked.clone();
        server.others_answer(move |request| {
            if request.path_and_query.contains("/invite/") {
                notes.borrow_mut().push(request.peer.host.clone());
                assert!(request.timeout_ms < 10_000);
            }
            Err(SendError::TimedOut)
        });
        let invite = ["@bob:b.test:1", "@carol:c.test:1", "@eve:b.test:1"];
        for _ in 0..2 {
            let (status, created) = server.post(CREATE, &alice, &json!({ "invite": invite, "is_direct": true }));
            assert_eq!(status, StatusCode::OK, "{created}");
        }
        asked.borrow_mut().sort();
        assert_eq!(*asked.borrow(), ["b.test", "c.test"]);
    }

    #[test]
    fn what_no_room_begins_with() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let state = |count: usize| vec![json!({ "type": "org.example.thing", "content": {} }); count];
        let member = |state_key: &str, content: Value| json!({ "initial_state": [{ "type": "m.room.member", "state_key": state_key, "content": content }] });
        let third_party = |id_server: &str, medium: &str, address: &str| {
            json!({ "invite_3pid": [{
                "id_server": id_server, "id_access_token": "t", "medium": medium, "address": address,
            }] })
        };
        for (body, status, errcode) in [
            (json!({ "room_version": "" }), 400, "M_UNSUPPORTED_ROOM_VERSION"),
            (json!({ "room_version": "1 2" }), 400, "M_UNSUPPORTED_ROOM_VERSION"),
            (json!({ "room_version": "x".repeat(100) }), 400, "M_UNSUPPORTED_ROOM_VERSION"),
            (json!({ "room_version": 12 }), 400, "M_BAD_JSON"),
            (json!({ "invite": users(101) }), 400, "M_INVALID_PARAM"),
            (json!({ "invite": ["bob"] }), 400, "M_BAD_JSON"),
            (json!({ "initial_state": state(201) }), 400, "M_INVALID_PARAM"),
            (json!({ "initial_state": [{ "type": "org.example.thing" }] }), 400, "M_BAD_JSON"),
            (member("@bob:elsewhere", json!({ "membership": "invite" })), 403, "M_FORBIDDEN"),
            (member("bob", json!({ "membership": "invite" })), 400, "M_BAD_JSON"),
            (json!({ "preset": "anarchy" }), 400, "M_INVALID_PARAM"),
            (json!({ "visibility": "secret", "preset": "public_chat" }), 400, "M_INVALID_PARAM"),
            (json!({ "invite_3pid": [{ "medium": "email", "address": "a@b.c" }] }), 400, "M_BAD_JSON"),
            (third_party("id.test", "email", "a b"), 400, "M_INVALID_PARAM"),
            (third_party("id.test", "msisdn", "+44"), 400, "M_INVALID_PARAM"),
            (third_party("id.test", "pigeon", "a@b.c"), 400, "M_INVALID_PARAM"),
            (third_party("id test", "email", "a@b.c"), 400, "M_INVALID_PARAM"),
            (json!({ "creation_content": { "m.federate": "no" } }), 400, "M_INVALID_ROOM_STATE"),
            (json!({ "initial_state": [{ "type": "m.room.join_rules", "content": {} }] }), 400, "M_INVALID_ROOM_STATE"),
            (
                json!({ "initial_state": [{ "type": "m.room.policy", "content": { "via": "localhost" } }] }),
                400,
                "M_INVALID_ROOM_STATE",
            ),
            (json!({ "creation_content": [] }), 400, "M_BAD_JSON"),
            (json!({ "creation_content": { "additional_creators": ["bob"] } }), 400, "M_BAD_JSON"),
            (json!({ "power_level_content_override": { "ban": "50" } }), 400, "M_INVALID_ROOM_STATE"),
            (json!({ "power_level_content_override": 50 }), 400, "M_BAD_JSON"),
            (json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] }), 400, "M_INVALID_ROOM_STATE"),
            (json!({ "invite": ["@alice:localhost"] }), 400, "M_INVALID_ROOM_STATE"),
            (json!([]), 400, "M_BAD_JSON"),
        ] {
            assert_eq!(refused(server.post(CREATE, &alice, &body)), (status, errcode.to_owned()), "{body}");
        }
        assert_eq!(refused(server.post(CREATE, "", &json!({}))), (401, "M_MISSING_TOKEN".to_owned()));
        assert_eq!(server.post(CREATE, &alice, &Value::Null).0, StatusCode::OK, "no body is an empty one");
        let most = json!({ "invite": users(100), "initial_state": state(200) });
        assert_eq!(server.post(CREATE, &alice, &most).0, StatusCode::OK);
    }
}
