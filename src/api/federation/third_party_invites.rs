//! Invitations of whoever has an email address, once an identity server found out who that is.
//! Spec: Server-Server API, "Third-party invites".

use actors::{
    room::{AdmitMembership, PrepareInvite, PreparedInvite},
    user::AskInvite,
};
use bytes::Bytes;
use domain::{Refusal, rate_limit::RateLimited, third_party_invite::InviteKey};
use http::{Method, Request, Response, StatusCode};
use ruma_common::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use ruma_events::{StateEventType, room::member::MembershipState};
use ruma_federation_api::thirdparty::bind_callback;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    AskError, Bounds, Origin, by_url::HttpsUrl, elsewhere::residence, membership::unknown_room, pdus::encoded,
};
use crate::{Context, Failure, OrAbsent, Routes, failure::json_bytes, router::bad_json};

/// The most invitations that are taken from one notification.
const INVITES_MAX: usize = 20;
/// What the server of who invited may answer, and how long it may take: whoever tells of several waits for all.
const EXCHANGE_BOUNDS: Bounds = Bounds { response_bytes_max: 64 * 1024, timeout_ms: 10_000 };

/// What an identity server may answer about a key, and how long it may take.
const KEY_BOUNDS: Bounds = Bounds { response_bytes_max: 64 * 1024, timeout_ms: 10_000 };
/// The most keys that are asked about for one invitation: it is signed by one.
const KEYS_MAX: usize = 3;

pub(super) fn routes(routes: &mut Routes) {
    // Not through ruma's type: it does not look at which room the body names.
    routes.add_raw(Method::PUT, "/_matrix/federation/v1/exchange_third_party_invite/{room_id}", exchange);
    routes.add(on_bind);
}

/// What makes an invitation of it.
#[derive(Serialize, Deserialize)]
struct Content {
    membership: MembershipState,
    third_party_invite: ThirdPartyInvite,
}

#[derive(Serialize, Deserialize)]
struct ThirdPartyInvite {
    #[serde(default)]
    display_name: String,
    signed: Box<RawValue>,
}

impl Content {
    fn of(signed: Box<RawValue>) -> Self {
        let third_party_invite = ThirdPartyInvite { display_name: String::new(), signed };
        Self { membership: MembershipState::Invite, third_party_invite }
    }

    /// Its JSON, if it says that this user is meant. Whether the identity server signed that, the room judges.
    fn checked(&self, target: &UserId) -> Result<Box<RawValue>, Failure> {
        #[derive(Deserialize)]
        struct Signed<'a> {
            mxid: &'a str,
        }
        let signed = serde_json::from_str::<Signed<'_>>(self.third_party_invite.signed.get());
        let is_meant = signed.is_ok_and(|signed| signed.mxid == target.as_str());
        if self.membership != MembershipState::Invite || !is_meant {
            return Err(Refusal::InvalidParam(format!("This is no invitation of {target}")).into());
        }
        Ok(to_raw_value(self)?)
    }
}

/// `PUT /exchange_third_party_invite/{roomId}`: a user of the other server turned out to be who was invited to a room
/// of ours. The room judges the invitation, their server signs it, and it is sent.
async fn exchange(
    cx: &Context,
    Origin(origin): Origin,
    request: Request<Bytes>,
    path: Vec<String>,
) -> Result<Response<Bytes>, Failure> {
    #[derive(Deserialize)]
    struct Partial {
        #[serde(rename = "type")]
        event_type: StateEventType,
        /// Some may leave it out.
        room_id: Option<String>,
        sender: OwnedUserId,
        state_key: OwnedUserId,
        content: Box<RawValue>,
    }
    let room_id = path.into_iter().next().and_then(|room_id| OwnedRoomId::try_from(room_id).ok());
    let room_id = room_id.ok_or_else(|| Refusal::InvalidParam("This is no room's id".to_owned()))?;
    let partial: Partial = serde_json::from_slice(request.body()).map_err(|error| bad_json(&error))?;
    let (sender, target) = (&partial.sender, &partial.state_key);
    if target.server_name() != origin {
        return Err(Refusal::Forbidden(format!("{target} is not a user of {origin}")).into());
    }
    if partial.event_type != StateEventType::RoomMember {
        return Err(Refusal::InvalidParam("This is no m.room.member".to_owned()).into());
    }
    // Spec: «Must match the ID given in the path.»
    if partial.room_id.is_some_and(|named| named.as_str() != room_id.as_str()) {
        return Err(Refusal::InvalidParam("`room_id` is another room than the path says".to_owned()).into());
    }
    let content: Content = serde_json::from_str(partial.content.get())
        .map_err(|error| Refusal::BadJson(format!("The content of m.room.member: {error}")))?;
    let content = content.checked(target)?;
    if !residence(cx, &room_id).await?.has_ours() {
        return Err(unknown_room().into());
    }
    cx.invite_elsewhere(&room_id, sender, target, content, None, unknown_room()).await?;
    Ok(json_bytes(StatusCode::OK, "{}".into()))
}

/// `PUT /3pid/onbind`: an identity server tells who is behind an address, and to which rooms they were invited. It is
/// nobody that we know: each room judges by the keys that its invitation names.
async fn on_bind(
    cx: &Context,
    (): (),
    request: bind_callback::v1::Request,
) -> Result<bind_callback::v1::Response, Failure> {
    cx.limit_by_address(RateLimited::RemoteQueries)?.keep();
    let no_user = || Refusal::NotFound("There is no such user here".to_owned());
    if !cx.is_local(&request.mxid) {
        return Err(no_user().into());
    }
    cx.user(&request.mxid).call(&AskInvite {}).await.or_absent(no_user())?;
    for invite in request.invites.iter().take(INVITES_MAX).filter(|invite| invite.mxid == request.mxid) {
        let signed = invite.signed.json().to_owned();
        match cx.invite_by_third_party(&invite.room_id, &invite.sender, &invite.mxid, signed).await {
            Err(Failure::Refused(refusal @ Refusal::LimitExceeded { .. })) => return Err(refusal.into()),
            // The other invitations may be good.
            Err(Failure::Refused(refusal)) => {
                tracing::info!(room_id = %invite.room_id, user_id = %invite.mxid, %refusal, "an invitation by a third party is void");
            }
            outcome => outcome?,
        }
    }
    Ok(bind_callback::v1::Response::new())
}

impl Context {
    /// Brings an invitation by address into its room, of the user of ours whom an identity server signed to be meant,
    /// or has the server of who made it do so.
    ///
    /// # Errors
    /// What the room refuses; `InvalidParam` where another user is meant; `Forbidden` for what the other server
    /// refuses.
    pub(crate) async fn invite_by_third_party(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        signed: Box<RawValue>,
    ) -> Result<(), Failure> {
        let content = Content::of(signed).checked(target)?;
        if self.is_local(sender) {
            // «If the invited homeserver is in the room the invite came from, it can auth the event and send it.»
            let call = PrepareInvite { sender: sender.to_owned(), target: target.to_owned(), content, at_ms: None };
            let PreparedInvite { event, keys, .. } = self.room(room_id).call(&call).await.or_absent(unknown_room())?;
            self.must_hold(&keys).await?;
            return self.room(room_id).call(&AdmitMembership { server: self.server_name().to_owned(), event }).await;
        }
        // Anybody may have us ask.
        self.limit_by_address(RateLimited::RemoteQueries)?.keep();
        // The event is in the name of who invited: their server makes it, and tells everybody.
        exchanged(self, room_id, sender, target, &content).await
    }
}

impl Context {
    /// Refuses an invitation by address that is signed by `keys` of which none holds any more; any other has none.
    /// Spec: «the server which is already participating in the room … MUST validate that the public key used for
    /// signing is still valid»; no other server may.
    ///
    /// # Errors
    /// `Forbidden`; 502 where nobody says whether they hold.
    pub(super) async fn must_hold(&self, keys: &[InviteKey]) -> Result<(), Failure> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut is_told = false;
        for InviteKey { public_key, key_validity_url } in keys.iter().take(KEYS_MAX) {
            let Some(url) = key_validity_url else { return Ok(()) };
            match self.does_hold(public_key, url).await {
                Some(true) => return Ok(()),
                Some(false) => is_told = true,
                None => {}
            }
        }
        Err(if is_told {
            Refusal::Forbidden("The key that signed this invitation holds no more".to_owned()).into()
        } else {
            Refusal::OtherServer("The identity server does not say whether its key holds".to_owned()).into()
        })
    }

    /// Whether a key holds, as is said at this URL; `None` where nothing is said. Spec: Identity Service API,
    /// `GET /pubkey/isvalid`, «using the provided URL rather than constructing a new one».
    async fn does_hold(&self, public_key: &str, url: &str) -> Option<bool> {
        #[derive(Deserialize)]
        struct Told {
            valid: bool,
        }
        let mut url = HttpsUrl::parse(url)?;
        let port = url.port.map(|port| format!(":{port}")).unwrap_or_default();
        let name = format!("{}{port}", url.host);
        if !<&ServerName>::try_from(&*name).is_ok_and(|server| self.config().federation.allows(server)) {
            return None;
        }
        url.path_and_query.push(if url.path_and_query.contains('?') { '&' } else { '?' });
        url.path_and_query.push_str("public_key=");
        url.path_and_query.push_str(&encoded(public_key));
        let response = match self.send(url.request(KEY_BOUNDS)).await {
            Ok(response) => response.whole().await,
            Err(error) => Err(error),
        };
        let (status, _, body) =
            response.inspect_err(|error| tracing::info!(%error, "nobody says whether a key holds")).ok()?;
        let told = serde_json::from_slice(&body).ok().filter(|_| status.is_success());
        told.map(|Told { valid }| valid)
    }
}

async fn exchanged(
    cx: &Context,
    room_id: &RoomId,
    sender: &UserId,
    target: &UserId,
    content: &RawValue,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Partial<'a> {
        #[serde(rename = "type")]
        event_type: StateEventType,
        room_id: &'a RoomId,
        sender: &'a UserId,
        state_key: &'a UserId,
        content: &'a RawValue,
    }
    let partial = Partial { event_type: StateEventType::RoomMember, room_id, sender, state_key: target, content };
    let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", encoded(room_id.as_str()));
    let server = sender.server_name();
    let asking = cx.ask_raw(server, Method::PUT, &path, Some(to_raw_value(&partial)?), EXCHANGE_BOUNDS);
    cx.soon(server, EXCHANGE_BOUNDS.timeout_ms, asking).await.map(drop).map_err(|error| match error {
        AskError::Refused { message, .. } => Refusal::Forbidden(format!("{server} refuses: {message}")).into(),
        error => Failure::from(Refusal::OtherServer(error.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use domain::federation::server_keys::own_document;
    use http::{HeaderMap, Method, StatusCode};
    use platform::SendError;
    use ruma_common::{CanonicalJsonObject, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::{
        super::tests::{answered, identity, server_among, signed},
        Content, encoded,
    };
    use crate::testing::{TestServer, refused};

    #[test]
    fn who_was_invited_by_address_joins_with_what_the_identity_server_signed() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let [alice, bob, eve] = ["alice", "bob", "eve"].map(|name| server.register(name));
        let (knows, forges) = (identity("id.test", "0", 9), identity("id.test", "0", 8));
        for version in ["6", "12"] {
            let create = json!({ "preset": "private_chat", "room_version": version });
            let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &create);
            let room = format!("/_matrix/client/v3/rooms/{}", created["room_id"].as_str().unwrap());
            let key = knows.public_key_base64();
            let kept = json!({
                "display_name": "b...@e...", "key_validity_url": "", "public_key": key,
                "public_keys": [{ "public_key": key }],
            });
            let path = format!("{room}/state/m.room.third_party_invite/token");
            assert_eq!(server.put(&path, &alice, &kept).0, StatusCode::OK);
            let joins = |who: &str, by: &domain::Identity, sender: &str, mxid: &str, token: &str| {
                let signed = json!({ "sender": sender, "mxid": mxid, "token": token });
                let mut signed: CanonicalJsonObject = serde_json::from_value(signed).unwrap();
                by.sign_json(&mut signed).unwrap();
                let signed: Value = serde_json::to_value(&signed).unwrap();
                server.post(&format!("{room}/join"), who, &json!({ "third_party_signed": signed }))
            };
            const ALICE: &str = "@alice:localhost";
            const BOB: &str = "@bob:localhost";
            let forbidden = (403, "M_FORBIDDEN".to_owned());
            assert_eq!(refused(joins(&bob, &forges, ALICE, BOB, "token")), forbidden);
            assert_eq!(refused(joins(&bob, &knows, ALICE, BOB, "other")), forbidden);
            assert_eq!(refused(joins(&bob, &knows, "@eve:localhost", BOB, "token")), forbidden);
            assert_eq!(refused(joins(&eve, &knows, ALICE, BOB, "token")), (400, "M_INVALID_PARAM".to_owned()));
            let (status, joined) = joins(&bob, &knows, ALICE, BOB, "token");
            assert_eq!(status, StatusCode::OK, "{joined}");
            // Who is in needs nobody's word.
            assert_eq!(joins(&bob, &forges, ALICE, BOB, "other").0, StatusCode::OK);
        }
    }

    #[test]
    fn the_room_is_the_one_that_path_and_body_name() {
        let b = identity("b.test", "1", 1);
        let (server, _) = server_among(vec![identity("b.test", "1", 1)], &[]);
        let exchanges = |room_id: Option<&str>| {
            let invite = json!({ "display_name": "", "signed": { "mxid": "@bob:b.test" } });
            let mut body = json!({
                "type": "m.room.member", "sender": "@alice:localhost", "state_key": "@bob:b.test",
                "content": { "membership": "invite", "third_party_invite": invite },
            });
            if let Some(room_id) = room_id {
                body["room_id"] = room_id.into();
            }
            let path = "/_matrix/federation/v1/exchange_third_party_invite/!a:localhost";
            refused(answered(&server, signed(&b, "localhost", http::Method::PUT, path, &body.to_string())))
        };
        assert_eq!(exchanges(Some("!b:localhost")), (400, "M_INVALID_PARAM".to_owned()));
        // There is no such room.
        assert_eq!([exchanges(Some("!a:localhost")).0, exchanges(None).0], [404; 2]);
    }

    #[test]
    fn a_key_that_the_identity_server_took_back_invites_nobody() {
        let b = identity("b.test", "1", 1);
        let id = identity("id.test", "0", 9);
        let (server, _) = server_among(vec![], &[]);
        let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
        let answer: Rc<RefCell<Option<Value>>> = Rc::default();
        let asked: Rc<RefCell<Vec<String>>> = Rc::default();
        let (answers, notes, keys) = (answer.clone(), asked.clone(), own_document(&b, 1_700_000_000_000));
        server.others_answer(move |request| {
            let (host, path) = (&*request.peer.host, &*request.path_and_query);
            notes.borrow_mut().push(format!("{host}{path}"));
            let told = match (host, answers.borrow().clone()) {
                (_, _) if path == "/_matrix/key/v2/server" => keys.clone(),
                ("id.test", Some(answer)) => answer.to_string(),
                _ => return Err(SendError::TimedOut),
            };
            Ok((StatusCode::OK, HeaderMap::new(), told.into()))
        });
        let (_, created) = server.post("/_matrix/client/v3/createRoom", &alice, &json!({ "preset": "private_chat" }));
        let room_id = created["room_id"].as_str().unwrap();
        let room = format!("/_matrix/client/v3/rooms/{room_id}");
        let kept = json!({
            "display_name": "b...@e...", "public_key": id.public_key_base64(),
            "key_validity_url": "https://id.test/valid?a=b",
        });
        let path = format!("{room}/state/m.room.third_party_invite/token");
        assert_eq!(server.put(&path, &alice, &kept).0, StatusCode::OK);
        let signed_for = |mxid: &str| {
            let signed = json!({ "sender": "@alice:localhost", "mxid": mxid, "token": "token" });
            let mut signed: CanonicalJsonObject = serde_json::from_value(signed).unwrap();
            id.sign_json(&mut signed).unwrap();
            serde_json::to_value(&signed).unwrap()
        };
        let joins = || {
            server.post(&format!("{room}/join"), &bob, &json!({ "third_party_signed": signed_for("@bob:localhost") }))
        };
        let exchanges = || {
            let invite = json!({ "display_name": "", "signed": signed_for("@eve:b.test") });
            let partial = json!({
                "type": "m.room.member", "room_id": room_id, "sender": "@alice:localhost", "state_key": "@eve:b.test",
                "content": { "membership": "invite", "third_party_invite": invite },
            });
            let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", encoded(room_id));
            answered(&server, signed(&b, "localhost", Method::PUT, &path, &partial.to_string()))
        };
        for (told, expected) in [
            (None, (502, "M_UNKNOWN")),
            (Some(json!({})), (502, "M_UNKNOWN")),
            (Some(json!({ "valid": false })), (403, "M_FORBIDDEN")),
        ] {
            answer.replace(told.clone());
            let expected = (expected.0, expected.1.to_owned());
            assert_eq!((refused(joins()), refused(exchanges())), (expected.clone(), expected), "{told:?}");
        }
        answer.replace(Some(json!({ "valid": true })));
        // Their server does not answer, and is asked at least.
        assert_eq!(refused(exchanges()), (502, "M_UNKNOWN".to_owned()));
        let invitations = asked.borrow().iter().filter(|asked| asked.contains("/invite/")).count();
        assert_eq!(invitations, 1, "{:?}", asked.borrow());
        assert_eq!(joins().0, StatusCode::OK);
        let question = format!("id.test/valid?a=b&public_key={}", encoded(&id.public_key_base64()));
        assert!(asked.borrow().contains(&question), "{:?}", asked.borrow());
    }

    #[test]
    fn only_what_names_a_user_invites_them() {
        let bob = user_id!("@bob:b.org");
        for (signed, is_good) in [
            (json!({ "mxid": bob }), true),
            (json!({ "mxid": "@carol:b.org" }), false),
            (json!({ "mxid": 5 }), false),
            (json!({}), false),
            (json!("@bob:b.org"), false),
        ] {
            assert_eq!(Content::of(to_raw_value(&signed).unwrap()).checked(bob).is_ok(), is_good, "{signed}");
        }
    }
}
