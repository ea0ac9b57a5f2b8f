//! Which handler answers a request, and the way from bytes to its types and back.
//!
//! Method, paths and authentication come from ruma's metadata of the request type a handler takes, so that a
//! handler cannot forget to authenticate. Paths are looked up in a tree of segments.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use bytes::Bytes;
use domain::{Refusal, readable};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use platform::{Fault, LocalFuture};
use ruma_common::api::{
    IncomingRequest, IncomingRequestExt, Metadata, OutgoingResponseExt,
    auth_scheme::AccessToken,
    error::{DeserializationError, FromHttpRequestError},
    path_builder::PathBuilder,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{error::Category, value::RawValue};

use crate::{
    Arriving, Body, Context, Failure,
    authenticate::{Authenticate, Bearer, Rules, Who, handled, serves_locked},
    failure::json_bytes,
    guest_access,
    rate_limits::{self, Limits, OfEndpoints},
    suspension,
};

type Endpoint = Box<
    dyn for<'a> Fn(&'a Context, Request<Arriving>, Vec<String>) -> LocalFuture<'a, Result<Response<Body>, Failure>>,
>;

/// One path with one method.
pub(crate) struct Route {
    /// As the specification writes it, with `{names}`: what logs show instead of the path.
    pub(crate) pattern: &'static str,
    pub(crate) endpoint: Endpoint,
}

/// One segment of all paths.
#[derive(Default)]
struct Node {
    literals: HashMap<&'static str, Node>,
    /// Any segment that is not empty.
    variable: Option<Box<Node>>,
    /// An empty segment, as a variable: `state/{eventType}/` is the state with an empty key.
    empty: Option<Box<Node>>,
    methods: Vec<(Method, Rc<Route>)>,
}

/// What a path and a method lead to.
pub(crate) enum Found {
    Route(Rc<Route>, Vec<String>),
    /// The path exists, with other methods.
    WrongMethod,
    Nothing,
}

/// Where today's clients look for what is at this path, besides the places that ruma knows.
fn also_at(path: &str) -> Option<&'static str> {
    // MSC3266's first path: matrix-js-sdk and Nheko.
    (path == "/_matrix/client/v1/room_summary/{room_id_or_alias}")
        .then_some("/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}")
}

/// All endpoints of the server.
pub struct Routes {
    root: Node,
    limits: OfEndpoints,
}

impl Default for Routes {
    fn default() -> Self {
        Self { root: Node::default(), limits: rate_limits::of_endpoints() }
    }
}

/// An answer whose JSON is ready as bytes.
pub trait JsonBytes {
    fn into_json_bytes(self) -> Bytes;
}

impl JsonBytes for Bytes {
    fn into_json_bytes(self) -> Bytes {
        self
    }
}
impl JsonBytes for Vec<u8> {
    fn into_json_bytes(self) -> Bytes {
        self.into()
    }
}
impl JsonBytes for String {
    fn into_json_bytes(self) -> Bytes {
        self.into()
    }
}
impl JsonBytes for Box<RawValue> {
    fn into_json_bytes(self) -> Bytes {
        String::from(Box::<str>::from(self)).into()
    }
}

impl Routes {
    /// Adds a handler. Who calls is checked first, with a call to the caller's User where a token is needed.
    ///
    /// The scheme decides the handler's second argument: [`crate::Caller`] where the endpoint needs an access token,
    /// `Option<Caller>` where it takes one, `()` where it does not.
    pub fn add<R>(
        &mut self,
        handler: impl AsyncFn(
            &Context,
            <R::Authentication as Authenticate>::Caller,
            R,
        ) -> Result<R::OutgoingResponse, Failure>
        + 'static,
    ) where
        R: IncomingRequest + 'static,
        R::Authentication: Authenticate,
    {
        self.typed::<R, <R::Authentication as Authenticate>::Caller>(async move |cx, caller, request| {
            encode::<R>(handler(cx, caller, request).await?)
        });
    }

    /// Adds a handler that carries its caller's token into a call to that very user's actor, which checks it in the
    /// same transaction: one call instead of two. Anything else needs [`Routes::add`].
    pub fn add_carried<R>(
        &mut self,
        handler: impl AsyncFn(&Context, Bearer, R) -> Result<R::OutgoingResponse, Failure> + 'static,
    ) where
        R: IncomingRequest + Metadata<Authentication = AccessToken> + 'static,
    {
        self.typed::<R, Bearer>(async move |cx, bearer, request| encode::<R>(handler(cx, bearer, request).await?));
    }

    /// As [`Routes::add`], for a handler that answers JSON as ready bytes, with status 200.
    pub fn add_json<R, B: JsonBytes>(
        &mut self,
        handler: impl AsyncFn(&Context, <R::Authentication as Authenticate>::Caller, R) -> Result<B, Failure> + 'static,
    ) where
        R: IncomingRequest + 'static,
        R::Authentication: Authenticate,
    {
        self.typed::<R, <R::Authentication as Authenticate>::Caller>(async move |cx, caller, request| {
            Ok(json_bytes(StatusCode::OK, handler(cx, caller, request).await?.into_json_bytes()))
        });
    }

    /// As [`Routes::add_carried`], for a handler that answers JSON as ready bytes, with status 200.
    pub fn add_carried_json<R, B: JsonBytes>(
        &mut self,
        handler: impl AsyncFn(&Context, Bearer, R) -> Result<B, Failure> + 'static,
    ) where
        R: IncomingRequest + Metadata<Authentication = AccessToken> + 'static,
    {
        self.typed::<R, Bearer>(async move |cx, bearer, request| {
            Ok(json_bytes(StatusCode::OK, handler(cx, bearer, request).await?.into_json_bytes()))
        });
    }

    /// As [`Routes::add_json`], for an answer that may come in pieces.
    pub fn add_body<R>(
        &mut self,
        handler: impl AsyncFn(&Context, <R::Authentication as Authenticate>::Caller, R) -> Result<Body, Failure> + 'static,
    ) where
        R: IncomingRequest + 'static,
        R::Authentication: Authenticate,
    {
        self.answered::<R, <R::Authentication as Authenticate>::Caller>(async move |cx, caller, request, _| {
            Ok(json_body(handler(cx, caller, request).await?))
        });
    }

    /// As [`Routes::add_carried_json`], for an answer that may come in pieces.
    pub fn add_carried_body<R>(&mut self, handler: impl AsyncFn(&Context, Bearer, R) -> Result<Body, Failure> + 'static)
    where
        R: IncomingRequest + Metadata<Authentication = AccessToken> + 'static,
    {
        self.answered::<R, Bearer>(async move |cx, bearer, request, _| {
            Ok(json_body(handler(cx, bearer, request).await?))
        });
    }

    /// Adds a handler for what ruma does not model: it gets the request as it came and the path's decoded variables.
    ///
    /// Its second argument says who may call: [`crate::Caller`], [`Bearer`], `Option<Caller>`, or `()` for everyone.
    pub fn add_raw<W: Who + 'static, B: Into<Body> + 'static>(
        &mut self,
        method: Method,
        pattern: &'static str,
        handler: impl AsyncFn(&Context, W, Request<Bytes>, Vec<String>) -> Result<Response<B>, Failure> + 'static,
    ) {
        let handler = Rc::new(handler);
        let rules = self.rules(&method, pattern, Limits::default());
        let endpoint: Endpoint = Box::new(move |cx, request, path_args| {
            let handler = handler.clone();
            Box::pin(async move {
                let handle = async |who: W, request, path_args| handler(cx, who, request, path_args).await;
                Ok(handled(cx, request, path_args, rules, handle).await?.map(Into::into))
            })
        });
        self.insert(method, pattern, Rc::new(Route { pattern, endpoint }));
    }

    /// As [`Routes::add_json`], for a body that is too large to be taken whole: the handler gets it as it arrives. It
    /// is not touched before its sender is known.
    pub fn add_arriving<R, B: JsonBytes>(
        &mut self,
        handler: impl AsyncFn(&Context, <R::Authentication as Authenticate>::Caller, R, Arriving) -> Result<B, Failure>
        + 'static,
    ) where
        R: IncomingRequest + 'static,
        R::Authentication: Authenticate,
    {
        let handler = Rc::new(handler);
        for pattern in R::PATH_BUILDER.all_paths() {
            let handler = handler.clone();
            let rules = self.rules(&R::METHOD, pattern, of_any::<R>());
            let endpoint: Endpoint = Box::new(move |cx, request, path_args| {
                let handler = handler.clone();
                Box::pin(async move {
                    let (head, body) = request.into_parts();
                    let request = Request::from_parts(head, Arriving::from(Bytes::new()));
                    let handle = async |who, request: Request<Bytes>, path_args: Vec<String>| {
                        handler(cx, who, parse::<R>(&request, &path_args)?, body).await
                    };
                    let answer = handled(cx, request, path_args, rules, handle).await?;
                    Ok(json_body(answer.into_json_bytes().into()))
                })
            });
            self.insert(R::METHOD, pattern, Rc::new(Route { pattern, endpoint }));
        }
    }

    /// As [`Routes::add`], for a handler that answers a file, and heeds the headers that ask for a part of one.
    pub fn add_file<R>(
        &mut self,
        handler: impl AsyncFn(
            &Context,
            <R::Authentication as Authenticate>::Caller,
            R,
            HeaderMap,
        ) -> Result<Response<Body>, Failure>
        + 'static,
    ) where
        R: IncomingRequest + 'static,
        R::Authentication: Authenticate,
    {
        self.answered::<R, <R::Authentication as Authenticate>::Caller>(handler);
    }

    fn typed<R, W>(&mut self, handler: impl AsyncFn(&Context, W, R) -> Result<Response<Bytes>, Failure> + 'static)
    where
        R: IncomingRequest + 'static,
        W: Who + 'static,
    {
        self.answered::<R, W>(async move |cx, who, request, _| Ok(handler(cx, who, request).await?.map(Body::from)));
    }

    fn answered<R, W>(
        &mut self,
        handler: impl AsyncFn(&Context, W, R, HeaderMap) -> Result<Response<Body>, Failure> + 'static,
    ) where
        R: IncomingRequest + 'static,
        W: Who + 'static,
    {
        let handler = Rc::new(handler);
        for pattern in R::PATH_BUILDER.all_paths().flat_map(|path| [Some(path), also_at(path)]).flatten() {
            let handler = handler.clone();
            let rules = self.rules(&R::METHOD, pattern, of_any::<R>());
            let endpoint: Endpoint = Box::new(move |cx, request, path_args| {
                let handler = handler.clone();
                Box::pin(async move {
                    let handle = async |who: W, request: Request<Bytes>, path_args: Vec<String>| {
                        let parsed = parse::<R>(&request, &path_args)?;
                        handler(cx, who, parsed, request.into_parts().0.headers).await
                    };
                    handled(cx, request, path_args, rules, handle).await
                })
            });
            self.insert(R::METHOD, pattern, Rc::new(Route { pattern, endpoint }));
        }
    }

    fn rules(&self, method: &Method, pattern: &'static str, of_any: Limits) -> Rules {
        Rules {
            limits: self.limits.get(&(method.clone(), pattern)).copied().unwrap_or(of_any),
            guest_access: guest_access::of_endpoint(method, pattern),
            forbids_suspended: suspension::forbids(method, pattern),
            serves_locked: serves_locked(method, pattern),
        }
    }

    fn insert(&mut self, method: Method, pattern: &'static str, route: Rc<Route>) {
        let taken = self.leaf(pattern).methods.iter().any(|(other, _)| *other == method);
        debug_assert!(!taken, "two handlers for {method} {pattern}");
        // Spec: "the trailing slash is optional when the state key is empty".
        if let Some(head) = pattern.strip_suffix("/{state_key}") {
            self.leaf(head).methods.push((method.clone(), route.clone()));
            self.leaf(head).empty.get_or_insert_default().methods.push((method.clone(), route.clone()));
        }
        self.leaf(pattern).methods.push((method, route));
    }

    fn leaf(&mut self, pattern: &'static str) -> &mut Node {
        segments(pattern).fold(&mut self.root, |node, segment| {
            if segment.starts_with('{') {
                node.variable.get_or_insert_default()
            } else {
                node.literals.entry(segment).or_default()
            }
        })
    }

    /// Finds who answers `method` at `path`. Refuses a path that does not decode to UTF-8.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Result<Found, Refusal> {
        // HEAD is GET without the body.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let decoded: Vec<Cow<'_, str>> = segments(path)
            .map(|segment| percent_decode_str(segment).decode_utf8())
            .collect::<Result<_, _>>()
            .map_err(|_| Refusal::InvalidParam("The path is not UTF-8".to_owned()))?;
        let mut variables = Vec::new();
        let mut exists = false;
        Ok(match self.root.find(method, &decoded, &mut variables, &mut exists) {
            Some(route) => Found::Route(route.clone(), variables.into_iter().map(str::to_owned).collect()),
            None if exists => Found::WrongMethod,
            None => Found::Nothing,
        })
    }
}

impl Node {
    /// Literal segments go before variables, and a path with the right method before one without.
    fn find<'a>(
        &'a self,
        method: &Method,
        path: &'a [Cow<'_, str>],
        variables: &mut Vec<&'a str>,
        exists: &mut bool,
    ) -> Option<&'a Rc<Route>> {
        let Some((segment, rest)) = path.split_first() else {
            *exists |= !self.methods.is_empty();
            return self.methods.iter().find(|(allowed, _)| allowed == method).map(|(_, route)| route);
        };
        if let Some(node) = self.literals.get(&**segment)
            && let Some(route) = node.find(method, rest, variables, exists)
        {
            return Some(route);
        }
        let node = if segment.is_empty() { &self.empty } else { &self.variable };
        let node = node.as_deref()?;
        variables.push(segment);
        let found = node.find(method, rest, variables, exists);
        if found.is_none() {
            variables.pop();
        }
        found
    }
}

/// What limits an endpoint that has no limits of its own.
fn of_any<R: Metadata>() -> Limits {
    if R::RATE_LIMITED { Limits::of_any() } else { Limits::default() }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// Endpoints whose body becomes the content of an event. That nothing came is a client's or a proxy's mistake there,
/// and must not become an event without content: as power levels, it would take everybody's away.
const BODIES_THAT_ARE_CONTENT: [&str; 2] = [
    "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
];

/// A request as ruma models it.
pub(crate) fn parse<R: IncomingRequest>(request: &Request<Bytes>, path_args: &[String]) -> Result<R, Refusal> {
    let is_content = |path| BODIES_THAT_ARE_CONTENT.contains(&path);
    if request.body().is_empty() && R::METHOD == Method::PUT && R::PATH_BUILDER.all_paths().any(is_content) {
        return Err(Refusal::NotJson("There is no body: it must be a JSON object, if an empty one".to_owned()));
    }
    match parse_with::<R>(request, request.body(), path_args) {
        // Some of ruma's types take no body for an empty object, as clients mean it, and some do not.
        Err(FromHttpRequestError::Deserialization(DeserializationError::Json(error)))
            if error.classify() == Category::Eof && request.body().is_empty() =>
        {
            parse_with::<R>(request, b"{}", path_args)
        }
        outcome => outcome,
    }
    .map_err(|error| not_understood(&error))
}

fn parse_with<R: IncomingRequest>(
    request: &Request<Bytes>,
    body: &[u8],
    path_args: &[String],
) -> Result<R, FromHttpRequestError> {
    let mut borrowed = Request::new(body);
    *borrowed.method_mut() = request.method().clone();
    *borrowed.uri_mut() = request.uri().clone();
    *borrowed.headers_mut() = request.headers().clone();
    let path_args: Vec<&str> = path_args.iter().map(String::as_str).collect();
    R::try_from_http_request(borrowed, &path_args)
}

/// Says what was wrong with a request. Spec: "Standard error response".
fn not_understood(error: &FromHttpRequestError) -> Refusal {
    match error {
        FromHttpRequestError::Deserialization(DeserializationError::Json(error)) => bad_json(error),
        FromHttpRequestError::Deserialization(DeserializationError::Utf8(error)) => Refusal::NotJson(error.to_string()),
        FromHttpRequestError::Deserialization(DeserializationError::Query(error)) => {
            let message = error.to_string();
            if message.starts_with("missing field") {
                Refusal::MissingParam(message)
            } else {
                Refusal::InvalidParam(message)
            }
        }
        FromHttpRequestError::MethodMismatch { .. } => Refusal::Unrecognized { status: 405 },
        other => Refusal::InvalidParam(other.to_string()),
    }
}

/// Says what was wrong with a client's JSON.
pub(crate) fn bad_json(error: &serde_json::Error) -> Refusal {
    match error.classify() {
        Category::Data => Refusal::BadJson(error.to_string()),
        Category::Syntax | Category::Eof | Category::Io => Refusal::NotJson(error.to_string()),
    }
}

/// Refuses a list for a body: serde would take it for the values of an object's fields, in their order.
pub(crate) fn check_object(body: &[u8]) -> Result<(), Refusal> {
    if !body.trim_ascii_start().starts_with(b"[") {
        return Ok(());
    }
    let list = serde_json::from_slice::<IgnoredAny>(body);
    Err(list
        .map_or_else(|error| bad_json(&error), |_| Refusal::BadJson("The body is a list, not an object".to_owned())))
}

/// A client's JSON that is kept as the client said it.
///
/// # Errors
/// As [`bad_json`]; `M_BAD_JSON` for what not everybody could read again.
pub(crate) fn kept_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    readable::check_levels(body)?;
    let kept = serde_json::from_slice(body).map_err(|error| bad_json(&error))?;
    readable::check(body)?;
    Ok(kept)
}

/// What the query says, of a request that ruma does not model.
pub(crate) fn query<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, Refusal> {
    serde_html_form::from_str(request.uri().query().unwrap_or_default())
        .map_err(|error| Refusal::InvalidParam(format!("The query: {error}")))
}

/// A client's JSON, where a body may be missing.
pub(crate) fn json_or_default<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() { Ok(T::default()) } else { serde_json::from_slice(body).map_err(|error| bad_json(&error)) }
}

/// A field that may be left out, or be `null`: some clients send what they do not set.
pub(crate) fn null_or<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

pub(crate) fn json_body(body: Body) -> Response<Body> {
    let (head, _) = json_bytes(StatusCode::OK, Bytes::new()).into_parts();
    Response::from_parts(head, body)
}

fn encode<R: IncomingRequest>(response: R::OutgoingResponse) -> Result<Response<Bytes>, Failure> {
    let response = response
        .try_into_http_response::<Vec<u8>>()
        .map_err(|error| Fault::new(format!("an answer does not encode: {error}")))?;
    Ok(response.map(Bytes::from))
}

#[cfg(test)]
mod tests;
