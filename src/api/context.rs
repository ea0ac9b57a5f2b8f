//! What a handler has at hand: the way to the actors and to everything else a host supplies.

use std::{rc::Rc, sync::mpsc};

use actors::{Call, CallError};
use domain::{Config, Identity, RateLimited, Refusal};
use platform::{ActorKind, Fault, LocalFuture, Metadata, OutgoingRequest, OutgoingResponse, SendError};
use ruma_common::{RoomId, ServerName, UserId};

use crate::{ClientAddress, Failure, KnownServers, RateLimits, Services, rate_limits::Taken};

/// How long a retriable fault rests before each repetition, in milliseconds: an actor may be moved meanwhile.
const RETRY_PAUSES_MS: [u64; 3] = [100, 400, 1_000];
/// How long an actor is asked again that waits for another server, in milliseconds.
const NOT_YET_MS_MAX: u64 = 20_000;
/// For one call, a room's policy server is asked to sign so many events: an upgrade makes two, and others may come
/// between.
const SIGNED_MAX: usize = 4;

/// One request's view of the server. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    services: Rc<Services>,
    request_id: Rc<str>,
    client_address: Option<ClientAddress>,
    /// When the host ends this, in milliseconds since the Unix epoch.
    until_ms: Option<u64>,
}

impl Context {
    pub(crate) fn new(services: Rc<Services>, request_id: Rc<str>, client_address: Option<ClientAddress>) -> Self {
        Self { services, request_id, client_address, until_ms: None }
    }

    /// That of a carrier, which no client waits for.
    pub(crate) fn of_carrier(services: Rc<Services>, request_id: Rc<str>) -> Self {
        let until_ms = services.carrier_ms_max.map(|ms| services.clock.now_ms().saturating_add(ms));
        Self { until_ms, ..Self::new(services, request_id, None) }
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

    /// As much of `ms` milliseconds as there is before the host ends this.
    pub(crate) fn in_time(&self, ms: u64) -> u64 {
        self.until_ms.map_or(ms, |until_ms| until_ms.saturating_sub(self.now_ms()).min(ms))
    }

    /// Sends a request to somebody else's server. It takes no longer than there is time to say what came of it.
    pub(crate) async fn send(&self, request: OutgoingRequest) -> Result<OutgoingResponse, SendError> {
        let timeout_ms = self.in_time(request.timeout_ms);
        self.services.outgoing.send(OutgoingRequest { timeout_ms, ..request }).await
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
        let mut outcome = self.call_repeating(id, call).await;
        for _ in 0..SIGNED_MAX {
            let Err(CallError::Unsigned(unsigned)) = outcome else { break };
            // Boxed: keeping what was signed is a call, too.
            let signing: LocalFuture<'_, _> = Box::pin(self.has_signed(&unsigned));
            signing.await?;
            outcome = self.call_repeating(id, call).await;
        }
        Ok(outcome?)
    }

    async fn call_repeating<C: Call>(&self, id: &str, call: &C) -> Result<C::Reply, CallError> {
        self.repeating(async || actors::call(&*self.services.actors, id, call).await).await
    }

    /// Repeats what meets a retriable fault, a few times, and what an actor cannot answer yet, for a while.
    async fn repeating<T>(&self, once: impl AsyncFn() -> Result<T, CallError>) -> Result<T, CallError> {
        let until_ms = self.now_ms().saturating_add(NOT_YET_MS_MAX);
        let mut pauses = RETRY_PAUSES_MS.into_iter();
        loop {
            let outcome = once().await;
            let pause_ms = match &outcome {
                Err(CallError::Fault(fault)) if fault.retriable => pauses.next(),
                Err(CallError::Refused(Refusal::Unavailable { retry_after_ms })) if self.now_ms() < until_ms => {
                    Some(*retry_after_ms)
                }
                _ => None,
            };
            match pause_ms {
                Some(pause_ms) => self.pause(pause_ms).await,
                None => return outcome,
            }
        }
    }

    /// Makes a waiting call to the actor `id` of the call's kind, see [`Handle::wait`].
    pub async fn wait<C: Call>(&self, id: &str, call: &C, timeout_ms: u64) -> Result<Option<C::Reply>, Failure> {
        Ok(self.repeating(async || actors::wait(&*self.services.actors, id, call, timeout_ms).await).await?)
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
    /// The actor's refusal; [`Failure::Absent`] if it was never founded; a retriable fault after three repetitions
    /// within 1.5 s, any other at once. Every call is idempotent, so a repetition is safe. What the room's policy
    /// server has to sign first is signed, or that server's refusal is this one.
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

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    use actors::CallError;
    use http::Method;
    use platform::{Fault, SendError};
    use ruma_common::server_name;

    use super::Context;
    use crate::{
        Bounds,
        testing::{CARRIER_MS_MAX, TestServer, block_on},
    };

    #[test]
    fn a_call_that_may_help_is_repeated_for_a_while_and_never_to_whom_has_too_much_to_do() {
        let cx = TestServer::new(&[]).context();
        let begun_ms = cx.now_ms();
        let after = |losses: u32, fault: fn(&str) -> Fault| {
            let calls = Cell::new(0);
            let once = async || {
                calls.set(calls.get() + 1);
                if calls.get() > losses { Ok(()) } else { Err(CallError::Fault(fault("lost"))) }
            };
            (block_on(cx.repeating(once)).is_ok(), calls.get())
        };
        assert_eq!(after(3, |what| Fault::retriable(what)), (true, 4));
        assert_eq!(cx.now_ms() - begun_ms, 1_500);
        assert_eq!(after(4, |what| Fault::retriable(what)), (false, 4));
        assert_eq!(after(1, |what| Fault::overloaded(what)), (false, 1));
        assert_eq!(after(1, |what| Fault::new(what)), (false, 1));
    }

    #[test]
    fn a_carrier_waits_for_others_only_while_there_is_time_to_say_what_came_of_it() {
        let server = TestServer::new(&[]);
        let asked = Rc::new(RefCell::new(Vec::new()));
        let seen = asked.clone();
        server.others_answer(move |request| {
            seen.borrow_mut().push(request.timeout_ms);
            Err(SendError::TimedOut)
        });
        let there = server_name!("there.test:1");
        let last = |cx: &Context| {
            let bounds = Bounds { response_bytes_max: 1, timeout_ms: 60_000 };
            block_on(cx.ask_raw(there, Method::GET, "/", None, bounds)).unwrap_err();
            asked.borrow().last().copied()
        };
        assert_eq!(last(&server.context()), Some(60_000), "who answers a client takes what it takes");
        server.context().known_servers().is_up(there, 0);
        let carrier = Context::of_carrier(server.context().services.clone(), "carrier".into());
        server.pass_ms(CARRIER_MS_MAX - 2_000);
        assert_eq!(last(&carrier), Some(2_000));
        assert!(!server.context().known_servers().is_down(there, carrier.now_ms()), "it had no time to answer");
        server.pass_ms(2_000);
        assert_eq!(last(&carrier), Some(0));
        let next = Context::of_carrier(server.context().services.clone(), "next".into());
        assert_eq!(last(&next), Some(CARRIER_MS_MAX));
        assert!(server.context().known_servers().is_down(there, next.now_ms()));
    }
}
