//! What a handler has at hand: the way to the actors and to everything else a host supplies.

use std::{rc::Rc, sync::mpsc};

use actors::{Call, CallError};
use domain::{Config, Identity, RateLimited, Refusal};
use platform::{ActorKind, Fault, LocalFuture, Metadata};
use ruma_common::{RoomId, ServerName, UserId};

use crate::{ClientAddress, Failure, KnownServers, RateLimits, Services, rate_limits::Taken};

/// How long a retriable fault rests before its one repetition.
const RETRY_PAUSE_MS: u64 = 50;
/// For one call, a room's policy server is asked to sign so many events: an upgrade makes two, and others may come between.
const SIGNED_MAX: usize = 4;

/// One request's view of the server. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    services: Rc<Services>,
    request_id: Rc<str>,
    client_address: Option<ClientAddress>,
}

impl Context {
    pub(crate) fn new(services: Rc<Services>, request_id: Rc<str>, client_address: Option<ClientAddress>) -> Self {
        Self { services, request_id, client_address }
    }

    /// Names the request in logs; unique enough to serve as a call id's prefix within one request's work.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Where the request came from, if the host knows.
    pub fn client_address(&self) -> Option<ClientAddress> {
        self.client_address
    }

    pub fn config(&self) -> &Config {
        &self.services.settings.config
    }

    pub fn identity(&self) -> &Identity {
        &self.services.settings.identity
    }

    pub fn server_name(&self) -> &ServerName {
        &self.config().server_name
    }

    /// Whether the user's actor is one of ours.
    pub fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name()
    }

    /// Whether we talk to another server.
    pub(crate) fn talks_to(&self, server: &ServerName) -> bool {
        let federation = &self.config().federation;
        federation.is_on && federation.allows(server)
    }

    pub fn metadata(&self) -> &dyn Metadata {
        &*self.services.metadata
    }

    /// What the host supplies, for what this type has no shorter word for.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.services.clock.now_ms()
    }

    /// Unpredictable bytes.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.services.random.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Pauses this request for `ms` milliseconds.
    pub async fn pause(&self, ms: u64) {
        self.services.heavy.pause(ms).await;
    }

    /// Runs long computation where it disturbs least.
    pub async fn heavy<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let (done, outcome) = mpsc::channel();
        let work = move || {
            // Whoever left does not want it any more.
            let _ = done.send(work());
            Vec::new()
        };
        self.services.heavy.run(Box::new(work)).await?;
        outcome.try_recv().map_err(|_| Fault::new("a computation came to nothing"))
    }

    pub(crate) fn rate_limits(&self) -> &RateLimits {
        &self.services.rate_limits
    }

    /// Takes one of a limit that counts what only a handler knows.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn limit(&self, limited: RateLimited, subject: &str) -> Result<Taken<'_>, Refusal> {
        self.rate_limits().take(limited, subject, self.now_ms())
    }

    /// Takes one of a limit that counts for whoever is at the address that the request came from.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn limit_by_address(&self, limited: RateLimited) -> Result<Taken<'_>, Refusal> {
        self.rate_limits().take_of_address(limited, self.client_address, self.now_ms())
    }

    /// Takes one of every limit of an invitation, for a request that is one by what it says.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn limit_invitation(&self, room_id: &RoomId, sender: &UserId, invited: &UserId) -> Result<(), Refusal> {
        self.rate_limits().take_for_invitation(room_id, sender, invited, self.now_ms())?.keep();
        Ok(())
    }

    /// Takes one join or knock of its limits, for requests that are one by what they say.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`].
    pub(crate) fn limit_join(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), Refusal> {
        self.rate_limits().take_for_join(room_id, user_id, self.now_ms())?.keep();
        Ok(())
    }

    /// What is remembered of other servers.
    pub(crate) fn known_servers(&self) -> &KnownServers {
        &self.services.known_servers
    }

    /// The room's actor.
    pub fn room<'a>(&'a self, room_id: &'a RoomId) -> RoomHandle<'a> {
        Handle { cx: self, id: room_id.as_str() }
    }

    /// A local user's actor.
    pub fn user<'a>(&'a self, user_id: &'a UserId) -> UserHandle<'a> {
        Handle { cx: self, id: user_id.as_str() }
    }

    /// Calls the actor `id` of the call's kind, see [`Handle::call`].
    pub async fn call<C: Call>(&self, id: &str, call: &C) -> Result<C::Reply, Failure> {
        let mut outcome = self.call_twice(id, call).await;
        for _ in 0..SIGNED_MAX {
            let Err(CallError::Unsigned(unsigned)) = outcome else { break };
            // Boxed: keeping what was signed is a call, too.
            let signing: LocalFuture<'_, _> = Box::pin(self.has_signed(&unsigned));
            signing.await?;
            outcome = self.call_twice(id, call).await;
        }
        Ok(outcome?)
    }

    async fn call_twice<C: Call>(&self, id: &str, call: &C) -> Result<C::Reply, CallError> {
        match actors::call(&*self.services.actors, id, call).await {
            Err(CallError::Fault(fault)) if fault.retriable => {
                self.pause(RETRY_PAUSE_MS).await;
                actors::call(&*self.services.actors, id, call).await
            }
            outcome => outcome,
        }
    }

    /// Makes a waiting call to the actor `id` of the call's kind, see [`Handle::wait`].
    pub async fn wait<C: Call>(&self, id: &str, call: &C, timeout_ms: u64) -> Result<Option<C::Reply>, Failure> {
        match actors::wait(&*self.services.actors, id, call, timeout_ms).await {
            Err(CallError::Fault(fault)) if fault.retriable => {
                self.pause(RETRY_PAUSE_MS).await;
                Ok(actors::wait(&*self.services.actors, id, call, timeout_ms).await?)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// One actor of a known kind.
#[derive(Clone, Copy)]
pub struct Handle<'a, const KIND: u8> {
    cx: &'a Context,
    id: &'a str,
}

pub type RoomHandle<'a> = Handle<'a, { ActorKind::Room as u8 }>;
pub type UserHandle<'a> = Handle<'a, { ActorKind::User as u8 }>;

impl<const KIND: u8> Handle<'_, KIND> {
    /// Calls the actor. A call to the wrong kind of actor does not compile.
    ///
    /// # Errors
    /// The actor's refusal; [`Failure::Absent`] if it was never founded; a fault, after one repetition 50 ms later if
    /// the first was retriable. Every call is idempotent, so a repetition is safe. What the room's policy server has to
    /// sign first is signed, or that server's refusal is this one.
    pub async fn call<C: Call>(&self, call: &C) -> Result<C::Reply, Failure> {
        const { assert!(C::ACTOR as u8 == KIND, "this call is for another kind of actor") };
        self.cx.call(self.id, call).await
    }

    /// Makes a call that waits for something to say; `None` when `timeout_ms` passed first.
    ///
    /// # Errors
    /// As [`Handle::call`].
    pub async fn wait<C: Call>(&self, call: &C, timeout_ms: u64) -> Result<Option<C::Reply>, Failure> {
        const { assert!(C::ACTOR as u8 == KIND, "this call is for another kind of actor") };
        self.cx.wait(self.id, call, timeout_ms).await
    }
}
