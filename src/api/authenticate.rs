//! Who sent a request.
//!
//! An access token names its user, so that no database need be asked whose it is: the user's own actor knows whether
//! the token is good. Spec: "Client Authentication", "Using access tokens".

use std::pin::pin;

use actors::{
    Call,
    user::{Verified, Verify},
};
use bytes::Bytes;
use domain::Refusal;
use futures_util::future::{Either, select};
use http::{Method, Request};
use ruma_common::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme, NoAccessToken,
        NoAuthentication, extract_bearer_or_query_token,
    },
};

use crate::{
    Arriving, Context, Failure, OrAbsent,
    access_token::{self, Named},
    appservice::{self, ActsFor, OfAppservice},
    body::{ANONYMOUS_BODY_BYTES_MAX, BODY_BYTES_MAX, Held},
    guest_access::{GuestAccess, after_version},
    rate_limits::{Asked, Limits},
    router::check_object,
};

/// A user's device whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// Whether the user administers this server.
    pub administrator: bool,
    /// Whether the user is a guest. Who is gets no further than [`guest_access`](crate::guest_access) allows.
    pub is_guest: bool,
    /// Whether the user is suspended. Who is gets no further than [`suspension`](crate::suspension) allows.
    pub is_suspended: bool,
    /// Whom the user ignores; nobody, at endpoints that show no messages.
    pub ignored: Vec<OwnedUserId>,
    /// The application service that acts as the user, if one does. The device's id is empty then unless it names one.
    pub(crate) acts_for: Option<ActsFor>,
}

/// Whoever holds a token: not checked yet. Its only use is inside a call to that user's own actor, which checks the
/// hash in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Whom the token claims to belong to; a local user id.
    pub user_id: OwnedUserId,
    /// What actors keep of a token, see [`access_token::hash`]; or which application service acts, see
    /// [`Acting`](actors::user::Acting).
    pub token_hash: String,
    /// Whether the token is a guest's.
    pub is_guest: bool,
    /// The application service that acts as the user, if one does.
    pub(crate) acts_for: Option<ActsFor>,
}

impl Bearer {
    /// Refuses with `M_FORBIDDEN` unless the token is of `user_id`, whose data the path names.
    pub fn must_be(&self, user_id: &UserId) -> Result<(), Refusal> {
        if self.user_id == user_id {
            Ok(())
        } else {
            Err(Refusal::Forbidden("This belongs to another user".to_owned()))
        }
    }

    /// Whoever shows this token.
    ///
    /// # Errors
    /// `M_UNKNOWN_TOKEN` for what is no token of ours.
    pub(crate) fn of_token(cx: &Context, token: &str) -> Result<Self, Refusal> {
        let Named { user_id, is_guest } =
            access_token::named(token, cx.server_name()).ok_or(Refusal::UnknownToken { soft_logout: false })?;
        Ok(Self { user_id, is_guest, token_hash: access_token::hash(token), acts_for: None })
    }

    /// Whose device the token belongs to, for what asks more before it calls the User.
    pub(crate) async fn verify(&self, cx: &Context) -> Result<Verified, Failure> {
        self.call(cx, &Verify { token_hash: self.token_hash.clone(), active: false, ignored: false }).await
    }

    /// The device that the token belongs to: whether a person did something with it, and whether it matters whom they
    /// ignore.
    pub(crate) async fn checked(self, cx: &Context, active: bool, ignored: bool) -> Result<Caller, Failure> {
        let call = Verify { token_hash: self.token_hash.clone(), active, ignored };
        let Verified { device_id, admin, suspended, ignored } = self.call(cx, &call).await?;
        let Self { user_id, is_guest, acts_for, .. } = self;
        Ok(Caller { user_id, device_id, administrator: admin, is_guest, is_suspended: suspended, ignored, acts_for })
    }

    /// Calls the bearer's own User. The call carries the token's hash; a user who does not exist has no tokens.
    pub async fn call<C: Call>(&self, cx: &Context, call: &C) -> Result<C::Reply, Failure> {
        let user = cx.user(&self.user_id);
        let answer = match (user.call(call).await, &self.acts_for) {
            (Err(Failure::Absent), Some(acts_for)) => {
                acts_for.found(cx, &self.user_id).await?;
                user.call(call).await
            }
            (answer, _) => answer,
        };
        answer.or_absent(Refusal::UnknownToken { soft_logout: false })
    }
}

/// What a handler may ask to know of its caller.
pub trait Who: Sized {
    /// Whether it takes the body to find out.
    const NEEDS_BODY: bool = false;

    /// Finds out, or refuses. Unless it is needed, the body is not there yet.
    fn of(cx: &Context, request: &Request<Bytes>) -> impl Future<Output = Result<Self, Failure>>;

    /// Where the body is needed: refuses what would be refused whatever the body.
    ///
    /// # Errors
    /// As [`Who::of`].
    fn check_head(_cx: &Context, _head: &Request<Bytes>) -> Result<(), Failure> {
        Ok(())
    }

    /// The largest body that they may send, in bytes.
    fn body_bytes_max(&self) -> usize {
        BODY_BYTES_MAX
    }

    /// Whose token it is.
    fn user_id(&self) -> Option<&UserId> {
        None
    }

    /// Whether a guest's token was shown where one is needed.
    fn is_guest(&self) -> bool {
        false
    }

    /// Whether the user is known to be suspended.
    fn is_suspended(&self) -> bool {
        false
    }

    /// The application service that acts as the user, if one does.
    fn acts_for(&self) -> Option<&ActsFor> {
        None
    }

    /// The token that a handler has yet to carry to its user, who checks it.
    fn unchecked(&self) -> Option<Bearer> {
        None
    }
}

/// What holds for an endpoint, whoever handles it.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub limits: Limits,
    pub guest_access: GuestAccess,
    /// Whether whoever is suspended is kept from it.
    pub forbids_suspended: bool,
    /// Whether it is for those who are locked, too.
    pub serves_locked: bool,
}

impl Rules {
    /// Refuses a token that is not good, or not for this.
    async fn verify(self, cx: &Context, bearer: &Bearer) -> Result<(), Failure> {
        match bearer.verify(cx).await {
            // That is said of a good token only.
            Err(Failure::Refused(Refusal::UserLocked)) if self.serves_locked => Ok(()),
            verified => verified.map(drop),
        }
    }
}

/// Whether an endpoint is for those who are locked, too. Spec: "Account locking": all are refused «but …
/// `POST /logout`» and `POST /logout/all`.
pub(crate) fn serves_locked(method: &Method, pattern: &str) -> bool {
    *method == Method::POST && ["logout", "logout/all"].contains(&&*after_version(pattern))
}

/// Finds out who sent the request and has it handled, within the limits of its endpoint. The body is not touched before
/// its sender is known, as far as that goes without it.
///
/// Whoever is refused learns first whether their token is good: a carried one may not have got as far as its user's
/// actor, so it is checked here. Only a refusal pays for that.
pub(crate) async fn handled<W: Who, T>(
    cx: &Context,
    request: Request<Arriving>,
    path_args: Vec<String>,
    rules: Rules,
    handle: impl AsyncFnOnce(W, Request<Bytes>, Vec<String>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (head, body) = request.into_parts();
    let mut request = Request::from_parts(head, Bytes::new());
    let (mut body, mut held) = (Some(body), Held::by_stranger());
    if W::NEEDS_BODY
        && let Some(body) = body.take()
    {
        W::check_head(cx, &request)?;
        *request.body_mut() = arrived(cx, body, BODY_BYTES_MAX, &mut held).await?;
    }
    let who = W::of(cx, &request).await?;
    if who.body_bytes_max() > ANONYMOUS_BODY_BYTES_MAX {
        held.is_of_somebody(cx.now_ms())?;
    }
    let unchecked = who.unchecked();
    if who.is_guest() && !(rules.guest_access)(&path_args) {
        if let Some(bearer) = &unchecked {
            bearer.verify(cx).await?;
        }
        return Err(Refusal::GuestAccessForbidden.into());
    }
    if rules.forbids_suspended {
        let is_suspended = match &unchecked {
            Some(bearer) => bearer.verify(cx).await?.suspended,
            None => who.is_suspended(),
        };
        if is_suspended {
            return Err(Refusal::UserSuspended.into());
        }
    }
    let may_be_large = body.as_ref().is_some_and(Arriving::may_be_large);
    let must_be_known = may_be_large || cx.rate_limits().any_is_of_a_user(rules.limits.limited);
    if let Some(bearer) = unchecked.as_ref().filter(|_| must_be_known) {
        // Or whoever claims to be somebody could use up what is theirs, or send what nobody else may.
        rules.verify(cx, bearer).await?;
    }
    if let Some(body) = body.take() {
        *request.body_mut() = arrived(cx, body, who.body_bytes_max(), &mut held).await?;
    }
    let asked = Asked {
        user_id: who.user_id(),
        address: cx.client_address(),
        request: &request,
        path_args: &path_args,
        is_transaction: rules.limits.is_transaction,
    };
    let limited = if who.acts_for().is_some_and(|acts| acts.is_exempt) { &[] } else { rules.limits.limited };
    let taken = cx.rate_limits().take_for(&asked, limited, cx.now_ms())?;
    let outcome = match check_object(request.body()) {
        Ok(()) => handle(who, request, path_args).await,
        Err(refusal) => Err(refusal.into()),
    };
    taken.settle(outcome.as_ref().err());
    if let (Err(Failure::Refused(_)), Some(bearer)) = (&outcome, unchecked) {
        rules.verify(cx, &bearer).await?;
    }
    outcome
}

/// A body, once it has arrived.
async fn arrived(cx: &Context, body: Arriving, most: usize, held: &mut Held) -> Result<Bytes, Failure> {
    if body.length == Some(0) {
        return Ok(Bytes::new());
    }
    let arrival_ms_max = held.arrival_ms_max();
    match select(pin!(body.whole(cx, most, held)), pin!(cx.pause(arrival_ms_max))).await {
        Either::Left((whole, _)) => whole,
        Either::Right(_) => Err(Refusal::TooSlow.into()),
    }
}

impl Who for () {
    async fn of(_: &Context, _: &Request<Bytes>) -> Result<Self, Failure> {
        Ok(())
    }

    fn body_bytes_max(&self) -> usize {
        ANONYMOUS_BODY_BYTES_MAX
    }
}

impl Who for Bearer {
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        let token = token(request).ok_or(Refusal::MissingToken)?;
        match appservice::of_token(cx, &token) {
            Some(appservice) => appservice::acts_as(appservice, request),
            None => Ok(Bearer::of_token(cx, &token)?),
        }
    }

    fn user_id(&self) -> Option<&UserId> {
        Some(&self.user_id)
    }

    fn is_guest(&self) -> bool {
        self.is_guest
    }

    fn acts_for(&self) -> Option<&ActsFor> {
        self.acts_for.as_ref()
    }

    fn unchecked(&self) -> Option<Bearer> {
        Some(self.clone())
    }
}

impl Who for Option<Bearer> {
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        match token(request) {
            Some(_) => Bearer::of(cx, request).await.map(Some),
            None => Ok(None),
        }
    }

    fn body_bytes_max(&self) -> usize {
        self.as_ref().map_or(ANONYMOUS_BODY_BYTES_MAX, Who::body_bytes_max)
    }

    fn user_id(&self) -> Option<&UserId> {
        self.as_ref().and_then(Who::user_id)
    }

    fn is_guest(&self) -> bool {
        self.as_ref().is_some_and(Who::is_guest)
    }

    fn acts_for(&self) -> Option<&ActsFor> {
        self.as_ref().and_then(Who::acts_for)
    }

    fn unchecked(&self) -> Option<Bearer> {
        self.clone()
    }
}

impl Who for Caller {
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        let bearer = Bearer::of(cx, request).await?;
        bearer.checked(cx, is_activity(request), shows_messages(request)).await
    }

    fn user_id(&self) -> Option<&UserId> {
        Some(&self.user_id)
    }

    fn is_guest(&self) -> bool {
        self.is_guest
    }

    fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    fn acts_for(&self) -> Option<&ActsFor> {
        self.acts_for.as_ref()
    }
}

/// A server administrator's device whose token was checked.
pub(crate) struct Administrator {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
}

impl Who for Administrator {
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        match Caller::of(cx, request).await? {
            Caller { administrator: true, user_id, device_id, .. } => Ok(Administrator { user_id, device_id }),
            _ => Err(Refusal::Forbidden("You are not an administrator".to_owned()).into()),
        }
    }
}

/// Whether a person did this: whatever is written to a room. Spec: "Last active ago", «a pro-active event».
fn is_activity(request: &Request<Bytes>) -> bool {
    request.method() != Method::GET && request.uri().path().contains("/rooms/")
}

/// Whether the answer may show what others say.
fn shows_messages(request: &Request<Bytes>) -> bool {
    let path = request.uri().path();
    request.method() == Method::GET && path.contains("/rooms/") || path.ends_with("/search")
}

impl Who for Option<Caller> {
    async fn of(cx: &Context, request: &Request<Bytes>) -> Result<Self, Failure> {
        match token(request) {
            Some(_) => Caller::of(cx, request).await.map(Some),
            None => Ok(None),
        }
    }

    fn user_id(&self) -> Option<&UserId> {
        self.as_ref().and_then(Caller::user_id)
    }

    fn acts_for(&self) -> Option<&ActsFor> {
        self.as_ref().and_then(Caller::acts_for)
    }

    fn body_bytes_max(&self) -> usize {
        if self.is_some() { BODY_BYTES_MAX } else { ANONYMOUS_BODY_BYTES_MAX }
    }
}

/// The token of the `Authorization` header or, deprecated but still allowed, of the query.
pub(crate) fn token(request: &Request<Bytes>) -> Option<String> {
    extract_bearer_or_query_token(request).ok().flatten()
}

/// What the specification's authentication schemes mean to a handler.
pub trait Authenticate: AuthScheme {
    type Caller: Who + 'static;
}

impl Authenticate for AccessToken {
    type Caller = Caller;
}
impl Authenticate for AccessTokenOptional {
    type Caller = Option<Caller>;
}
impl Authenticate for NoAuthentication {
    type Caller = ();
}
impl Authenticate for NoAccessToken {
    type Caller = ();
}
impl Authenticate for AppserviceToken {
    type Caller = OfAppservice;
}
/// Who registers or logs in need not be anybody yet.
impl Authenticate for AppserviceTokenOptional {
    type Caller = ();
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use actors::user::Moderate;
    use bytes::Bytes;
    use http::{Method, Request, header};
    use ruma_common::user_id;

    use crate::{
        Arriving,
        body::{ANONYMOUS_BODY_BYTES_MAX, BODY_BYTES_MAX, held_bytes},
        testing::{TestServer, block_on},
    };

    /// What a request comes to, and whether its body was looked at.
    fn asks(server: &TestServer, method: &Method, path: &str, authorization: &str, length: usize) -> (u16, bool) {
        let touched = Rc::new(Cell::new(false));
        let is_touched = touched.clone();
        let pieces = futures_util::stream::once(async move {
            is_touched.set(true);
            Ok(Bytes::from("{}"))
        });
        let mut request = Request::builder().method(method).uri(path);
        if !authorization.is_empty() {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Arriving::new(Some(length as u64), pieces)).unwrap();
        (server.answer_arriving(request).status().as_u16(), touched.get())
    }

    #[test]
    fn a_body_is_not_touched_before_its_sender_is_known() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = format!("Bearer {}", server.register("alice"));
        // It says whose it is, and is not theirs.
        let mut forged = alice.clone();
        let last = forged.pop();
        forged.push(if last == Some('a') { 'b' } else { 'a' });
        let (create, upload) = ("/_matrix/client/v3/createRoom", "/_matrix/client/v3/keys/upload");
        let (login, send) = ("/_matrix/client/v3/login", "/_matrix/federation/v1/send/1");
        let password = "/_matrix/client/v3/account/password";
        let (small, large) = (2, BODY_BYTES_MAX);
        for (method, path, authorization, length, expected) in [
            (Method::POST, create, "", small, (401, false)),
            (Method::POST, create, "Bearer x", small, (401, false)),
            (Method::POST, create, &forged, small, (401, false)),
            (Method::POST, create, &alice, small, (200, true)),
            (Method::POST, create, &alice, large, (200, true)),
            (Method::POST, create, &alice, large + 1, (413, false)),
            (Method::POST, upload, "", small, (401, false)),
            (Method::POST, upload, &forged, large, (401, false)),
            (Method::POST, upload, &alice, large, (200, true)),
            (Method::POST, login, "", ANONYMOUS_BODY_BYTES_MAX, (400, true)),
            (Method::POST, login, "", ANONYMOUS_BODY_BYTES_MAX + 1, (413, false)),
            (Method::POST, password, "", ANONYMOUS_BODY_BYTES_MAX + 1, (413, false)),
            (Method::PUT, send, "", small, (401, false)),
            (Method::PUT, send, &alice, small, (401, false)),
        ] {
            let came = asks(&server, &method, path, authorization, length);
            assert_eq!(came, expected, "{method} {path} {authorization} {length}");
        }
    }

    /// Whether or not the length of the body is said: a large one is read of who is known to be let in only.
    #[test]
    fn who_is_locked_may_log_out() {
        for (path, length) in [("logout", None), ("logout", Some(2)), ("logout/all", None)] {
            let server = TestServer::new(&[("REGISTRATION", "open")]);
            let alice = server.register("alice");
            let lock = Moderate { locked: Some(true), suspended: None };
            block_on(server.context().user(user_id!("@alice:localhost")).call(&lock)).unwrap();
            let posts = |path: &str| {
                let pieces = futures_util::stream::iter([Ok(Bytes::from_static(b"{}"))]);
                let request = Request::post(format!("/_matrix/client/v3/{path}"));
                let request = request.header(header::AUTHORIZATION, format!("Bearer {alice}"));
                server.answer_arriving(request.body(Arriving::new(length, pieces)).unwrap()).status().as_u16()
            };
            assert_eq!(posts("createRoom"), 401, "{path} {length:?}");
            assert_eq!(posts(path), 200, "{path} {length:?}");
            assert_eq!(posts(path), 401, "the token is gone");
        }
    }

    /// Who is not known has less time, and a part of the room that is not others'.
    #[test]
    fn a_strangers_body_comes_soon_or_not_at_all() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = format!("Bearer {}", server.register("alice"));
        let stranger = r#"X-Matrix origin="b.test",key="ed25519:1",sig="AAAA""#;
        for (method, path, authorization, is_stranger) in [
            (Method::PUT, "/_matrix/federation/v1/send/1", stranger, true),
            (Method::POST, "/_matrix/client/v3/login", "", true),
            (Method::POST, "/_matrix/client/v3/createRoom", &alice, false),
        ] {
            let seen = Rc::new(Cell::new((0, 0)));
            let sees = seen.clone();
            let some = futures_util::stream::iter([Ok(Bytes::from(vec![b' '; 200_000]))]);
            let rest = futures_util::stream::once(async move {
                sees.set(held_bytes());
                std::future::pending().await
            });
            let pieces = futures_util::StreamExt::chain(some, rest);
            let mut request = Request::builder().method(method).uri(path);
            if !authorization.is_empty() {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let began_ms = server.context().now_ms();
            let request = request.body(Arriving::new(Some(ANONYMOUS_BODY_BYTES_MAX as u64), pieces)).unwrap();
            assert_eq!(server.answer_arriving(request).status().as_u16(), 408, "{path}");
            let took_ms = server.context().now_ms() - began_ms;
            assert_eq!(took_ms, if is_stranger { 30_000 } else { 180_000 }, "{path}");
            let (of_strangers, of_the_known) = seen.get();
            let here = 200_000 - 64 * 1024;
            assert!(if is_stranger { of_strangers } else { of_the_known } >= here, "{path} {:?}", seen.get());
        }
    }
}
