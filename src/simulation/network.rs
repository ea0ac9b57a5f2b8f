//! The network between servers: latency, loss, repetition, partitions. No TLS: who is connected to is who is meant.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    rc::Rc,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, header};
use platform::{
    Clock as _, LocalFuture, Outgoing, OutgoingRequest, OutgoingResponse, SendError, SrvRecord,
    planted::{self, Planted},
};

use crate::{
    dice::Dice,
    knobs::Knobs,
    liar::{LIAR, Liar},
    machine::Machine,
    scheduler::{Group, Scheduler},
    trace::Trace,
};

/// Where servers listen.
const PORTS: [u16; 2] = [443, 8448];

/// Who can be asked.
#[derive(Clone)]
enum Peer {
    Machine(Rc<Machine>),
    Liar(Rc<Liar>),
}

impl Peer {
    fn name(&self) -> &str {
        match self {
            Self::Machine(machine) => &machine.name,
            Self::Liar(_) => LIAR,
        }
    }

    async fn answer(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
        match self {
            Self::Machine(machine) => machine.answer(request).await,
            Self::Liar(liar) => liar.answer(request).await,
        }
    }
}

pub(crate) struct Network {
    pub(crate) scheduler: Rc<Scheduler>,
    pub(crate) knobs: Cell<Knobs>,
    pub(crate) trace: Trace,
    pub(crate) dice: Dice,
    peers: RefCell<BTreeMap<String, Peer>>,
    /// Pairs of servers that do not reach each other.
    cuts: RefCell<BTreeSet<(String, String)>>,
    /// How many requests went from one server to another.
    pub(crate) requests: Cell<u64>,
}

impl Network {
    pub(crate) fn new(scheduler: Rc<Scheduler>, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            scheduler,
            knobs: Cell::new(Knobs::FAIR),
            trace: Trace::default(),
            dice: Dice::of(seed, "network"),
            peers: RefCell::default(),
            cuts: RefCell::default(),
            requests: Cell::new(0),
        })
    }

    pub(crate) fn add(&self, machine: Rc<Machine>) {
        self.peers.borrow_mut().insert(machine.name.clone(), Peer::Machine(machine));
    }

    pub(crate) fn add_liar(&self, liar: Rc<Liar>) {
        self.peers.borrow_mut().insert(LIAR.to_owned(), Peer::Liar(liar));
    }

    /// Forgets the machines, which hold the network in turn.
    pub(crate) fn clear(&self) {
        self.peers.borrow_mut().clear();
    }

    /// Cuts the way between two servers, or mends it.
    pub(crate) fn cut(&self, one: &str, other: &str, is_cut: bool) {
        let pair = if one < other { (one.to_owned(), other.to_owned()) } else { (other.to_owned(), one.to_owned()) };
        if is_cut {
            self.cuts.borrow_mut().insert(pair);
        } else {
            self.cuts.borrow_mut().remove(&pair);
        }
    }

    pub(crate) fn mend_all(&self) {
        self.cuts.borrow_mut().clear();
    }

    fn is_cut(&self, one: &str, other: &str) -> bool {
        let pair = if one < other { (one, other) } else { (other, one) };
        self.cuts.borrow().iter().any(|(first, second)| (first.as_str(), second.as_str()) == pair)
    }

    async fn travel(&self) {
        let ms = 1 + self.dice.roll(self.knobs.get().travel_ms_max);
        self.scheduler.sleep(ms).await;
    }

    fn loses(&self) -> bool {
        self.dice.happens(self.knobs.get().lost_request_one_in)
    }

    /// Brings a request there and its answer back; for ever, if it gets lost.
    async fn carry(&self, from: &str, to: &Peer, request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
        self.requests.set(self.requests.get() + 1);
        self.trace.note(
            self.scheduler.now_ms(),
            format_args!("{from} -> {}: {} {}", to.name(), request.method(), request.uri()),
        );
        self.travel().await;
        if self.is_cut(from, to.name()) || self.loses() {
            return pending().await;
        }
        let is_lost = planted::is(Planted::LostTransaction)
            && request.uri().path().contains("/federation/v1/send/")
            && self.dice.happens(4);
        if is_lost {
            return Ok(Response::new(Bytes::from_static(br#"{"pdus":{}}"#)));
        }
        let may_repeat = *request.method() == Method::PUT || *request.method() == Method::GET;
        if may_repeat && self.dice.happens(self.knobs.get().repeated_request_one_in) {
            self.repeats(to.clone(), request.clone());
        }
        let Some(response) = to.answer(request).await else {
            return Err(SendError::Unreachable("the connection was closed".to_owned()));
        };
        self.travel().await;
        if self.is_cut(from, to.name()) || self.loses() {
            return pending().await;
        }
        Ok(response)
    }

    /// Asks a server for somebody who is none of the machines.
    pub(crate) async fn asks(
        &self,
        from: &str,
        to: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, SendError> {
        let peer = self.peers.borrow().get(to).cloned();
        let peer = peer.ok_or_else(|| SendError::Unreachable(format!("there is no {to}")))?;
        self.carry(from, &peer, request).await
    }

    /// The request arrives once more, later.
    fn repeats(&self, to: Peer, request: Request<Bytes>) {
        let (ms, scheduler) = (self.dice.roll(Knobs::REPEATED_MS_MAX), self.scheduler.clone());
        let _running = self.scheduler.spawn(&Group::default(), async move {
            scheduler.sleep(ms).await;
            let _ = to.answer(request).await;
        });
    }
}

/// One server's way to the others.
pub(crate) struct WayOut {
    pub(crate) from: String,
    pub(crate) network: Rc<Network>,
}

impl WayOut {
    async fn ask(&self, request: OutgoingRequest) -> Result<OutgoingResponse, SendError> {
        let OutgoingRequest { peer, method, path_and_query, headers, body, response_bytes_max, timeout_ms } = request;
        let asked = self.network.peers.borrow().get(&peer.host).cloned();
        let asked = asked
            .filter(|asked| PORTS.contains(&peer.port) && peer.certificate_name == asked.name())
            .ok_or_else(|| SendError::Unreachable(format!("there is no {}", peer.host)))?;
        let mut request = Request::builder().method(method).uri(path_and_query).body(body);
        if let Ok(request) = &mut request {
            *request.headers_mut() = headers;
            if let Ok(host) = peer.host_header.parse() {
                request.headers_mut().insert(header::HOST, host);
            }
        }
        let request = request.map_err(|error| SendError::Nonsense(error.to_string()))?;
        let answer = self.network.carry(&self.from, &asked, request);
        let answer = self.network.scheduler.within(timeout_ms, answer).await.ok_or(SendError::TimedOut)??;
        let (head, body) = answer.into_parts();
        let body =
            if body.len() > response_bytes_max { Err(SendError::TooLarge(response_bytes_max)) } else { Ok(body) };
        Ok(OutgoingResponse { status: head.status, headers: head.headers, body: Box::pin(stream::iter([body])) })
    }
}

impl Outgoing for WayOut {
    fn send<'a>(&'a self, request: OutgoingRequest) -> LocalFuture<'a, Result<OutgoingResponse, SendError>> {
        Box::pin(self.ask(request))
    }

    fn resolve_srv<'a>(&'a self, _: &'a str) -> LocalFuture<'a, Result<Vec<SrvRecord>, SendError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
