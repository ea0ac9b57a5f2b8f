//! Which handler answers a request, and the way from bytes to its types and back.
//!
//! Method, paths and authentication come from ruma's metadata of the request type a handler takes, so that a
//! handler cannot forget to authenticate. Paths are looked up in a tree of segments.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use bytes::Bytes;
use domain::Refusal;
use http::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use platform::{Fault, LocalFuture};
use ruma_common::api::{
    IncomingRequest, IncomingRequestExt, Metadata, OutgoingResponseExt,
    auth_scheme::AccessToken,
    error::{DeserializationError, FromHttpRequestError},
    path_builder::PathBuilder,
};
use serde::de::DeserializeOwned;
use serde_json::{error::Category, value::RawValue};

use crate::{
    Body, Context, Failure,
    authenticate::{Authenticate, Bearer, Rules, Who, handled},
    failure::json_bytes,
    guest_access,
    rate_limits::{self, OfEndpoints},
};

type Endpoint =
    Box<dyn for<'a> Fn(&'a Context, Request<Bytes>, Vec<String>) -> LocalFuture<'a, Result<Response<Body>, Failure>>>;

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
        self.answered::<R, <R::Authentication as Authenticate>::Caller>(async move |cx, caller, request| {
            Ok(json_body(handler(cx, caller, request).await?))
        });
    }

    /// As [`Routes::add_carried_json`], for an answer that may come in pieces.
    pub fn add_carried_body<R>(&mut self, handler: impl AsyncFn(&Context, Bearer, R) -> Result<Body, Failure> + 'static)
    where
        R: IncomingRequest + Metadata<Authentication = AccessToken> + 'static,
    {
        self.answered::<R, Bearer>(async move |cx, bearer, request| Ok(json_body(handler(cx, bearer, request).await?)));
    }

    /// Adds a handler for what ruma does not model: it gets the request as it came and the path's decoded variables.
    ///
    /// Its second argument says who may call: [`crate::Caller`], [`Bearer`], `Option<Caller>`, or `()` for everyone.
    pub fn add_raw<W: Who + 'static>(
        &mut self,
        method: Method,
        pattern: &'static str,
        handler: impl AsyncFn(&Context, W, Request<Bytes>, Vec<String>) -> Result<Response<Bytes>, Failure> + 'static,
    ) {
        let handler = Rc::new(handler);
        let rules = self.rules(&method, pattern);
        let endpoint: Endpoint = Box::new(move |cx, request, path_args| {
            let handler = handler.clone();
            Box::pin(async move {
                let handle = async |who: W, request, path_args| handler(cx, who, request, path_args).await;
                Ok(handled(cx, request, path_args, rules, handle).await?.map(Body::from))
            })
        });
        self.insert(method, pattern, Rc::new(Route { pattern, endpoint }));
    }

    fn typed<R, W>(&mut self, handler: impl AsyncFn(&Context, W, R) -> Result<Response<Bytes>, Failure> + 'static)
    where
        R: IncomingRequest + 'static,
        W: Who + 'static,
    {
        self.answered::<R, W>(async move |cx, who, request| Ok(handler(cx, who, request).await?.map(Body::from)));
    }

    fn answered<R, W>(&mut self, handler: impl AsyncFn(&Context, W, R) -> Result<Response<Body>, Failure> + 'static)
    where
        R: IncomingRequest + 'static,
        W: Who + 'static,
    {
        let handler = Rc::new(handler);
        for pattern in R::PATH_BUILDER.all_paths() {
            let handler = handler.clone();
            let rules = self.rules(&R::METHOD, pattern);
            let endpoint: Endpoint = Box::new(move |cx, request, path_args| {
                let handler = handler.clone();
                Box::pin(async move {
                    let handle = async |who: W, request, path_args: Vec<String>| {
                        handler(cx, who, parse::<R>(&request, &path_args)?).await
                    };
                    handled(cx, request, path_args, rules, handle).await
                })
            });
            self.insert(R::METHOD, pattern, Rc::new(Route { pattern, endpoint }));
        }
    }

    fn rules(&self, method: &Method, pattern: &'static str) -> Rules {
        Rules {
            limits: self.limits.get(&(method.clone(), pattern)).copied().unwrap_or_default(),
            guest_access: guest_access::of_endpoint(method, pattern),
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

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

fn parse<R: IncomingRequest>(request: &Request<Bytes>, path_args: &[String]) -> Result<R, Refusal> {
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

/// How deep a client's JSON may nest where it is kept: what tells it wraps it some more, and serde reads 128 levels.
const KEPT_LEVELS_MAX: usize = 100;

/// A client's JSON that is kept as the client said it.
///
/// # Errors
/// As [`bad_json`]; `M_BAD_JSON` for what nests too deep to be read again.
pub(crate) fn kept_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if levels(body) > KEPT_LEVELS_MAX {
        return Err(Refusal::BadJson(format!("This may nest {KEPT_LEVELS_MAX} levels deep")));
    }
    serde_json::from_slice(body).map_err(|error| bad_json(&error))
}

/// How deep JSON nests. What is none has some depth or other.
fn levels(json: &[u8]) -> usize {
    let (mut level, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                level = level.saturating_add(1);
                deepest = deepest.max(level);
            }
            b'}' | b']' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A client's JSON, where a body may be missing.
pub(crate) fn json_or_default<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() { Ok(T::default()) } else { serde_json::from_slice(body).map_err(|error| bad_json(&error)) }
}

fn json_body(body: Body) -> Response<Body> {
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
mod tests {
    use http::{Method, Request, Response, StatusCode, header};
    use ruma_client_api::state::get_state_event_for_key::v3 as get_state;
    use serde_json::{Value, json};

    use super::{Found, Routes};
    use crate::{
        Caller, Context, Failure,
        testing::{TestServer, refused},
    };

    #[test]
    fn only_brackets_outside_of_strings_nest() {
        for (json, levels) in
            [("1", 0), ("{}", 1), (r#"[{"a":[]},[]]"#, 3), (r#"["[[\"[[", "\\", []]"#, 2), ("]]][", 1)]
        {
            assert_eq!(super::levels(json.as_bytes()), levels, "{json}");
        }
    }

    #[test]
    fn what_is_kept_can_be_told() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let alice = server.register("alice");
        let user = "@alice:localhost";
        let profile = format!("profile/{user}");
        let tags = format!("user/{user}/rooms/!r/tags");
        for depth in [1, 90, 100, 110, 115, 120, 122, 124, 125, 126, 127, 200, 100_000] {
            let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            for (kept, field, body) in [
                (&*profile, "/a.b", format!(r#"{{"a.b":{nested}}}"#)),
                (&*tags, "/t", format!(r#"{{"x":{nested}}}"#)),
                ("pushrules/global/override/r", "/actions", format!(r#"{{"actions":[{{"x":{nested}}}]}}"#)),
                ("pushrules/", "global/override/r", format!(r#"{{"actions":[{{"x":{nested}}}]}}"#)),
            ] {
                let path = format!("/_matrix/client/v3/{kept}");
                let request = Request::builder().method(Method::PUT).uri(format!("{path}{field}"));
                let request = request.header(header::AUTHORIZATION, format!("Bearer {alice}"));
                let put = server.answer(request.body(body.into()).unwrap()).status();
                let get = server.get(&path, &alice).0;
                assert!(put.is_success() == (depth < 100) || put == 404, "{depth} {field}: {put}");
                assert!(get == 200 || get == 404, "{depth} {field}: {put} {get}");
            }
        }
    }

    async fn handler(
        _: &Context,
        (): (),
        _: Request<bytes::Bytes>,
        _: Vec<String>,
    ) -> Result<Response<bytes::Bytes>, Failure> {
        Ok(Response::default())
    }

    async fn state(_: &Context, _: Caller, _: get_state::Request) -> Result<String, Failure> {
        Ok(String::new())
    }

    fn found(routes: &Routes, method: Method, path: &str) -> String {
        match routes.find(&method, path) {
            Ok(Found::Route(route, path_args)) => format!("{} {path_args:?}", route.pattern),
            Ok(Found::WrongMethod) => "405".to_owned(),
            Ok(Found::Nothing) => "404".to_owned(),
            Err(refusal) => refusal.errcode().to_owned(),
        }
    }

    #[test]
    fn literals_go_before_variables_and_slashes_may_be_encoded() {
        let mut routes = Routes::default();
        routes.add_raw(Method::GET, "/profile/{user}/{field}", handler);
        routes.add_raw(Method::DELETE, "/profile/{user}/{field}", handler);
        routes.add_raw(Method::GET, "/profile/{user}/name", handler);
        routes.add_raw(Method::GET, "/profile/me/name/long", handler);
        routes.add_raw(Method::GET, "/rules/", handler);
        let table = [
            (Method::GET, "/profile/a/name", r#"/profile/{user}/name ["a"]"#),
            (Method::GET, "/profile/me/name", r#"/profile/{user}/name ["me"]"#),
            (Method::GET, "/profile/me/other", r#"/profile/{user}/{field} ["me", "other"]"#),
            (Method::DELETE, "/profile/a/name", r#"/profile/{user}/{field} ["a", "name"]"#),
            (Method::HEAD, "/profile/a/name", r#"/profile/{user}/name ["a"]"#),
            (Method::GET, "/profile/a%2Fb%3Fc%25/x+y%20z", r#"/profile/{user}/{field} ["a/b?c%", "x+y z"]"#),
            (Method::GET, "/profile/%40%C3%A4/name", r#"/profile/{user}/name ["@ä"]"#),
            (Method::GET, "/rules/", "/rules/ []"),
            (Method::GET, "/profile/%FF/name", "M_INVALID_PARAM"),
            (Method::POST, "/profile/a/name", "405"),
            (Method::GET, "/profile/a/name/", "404"),
            (Method::GET, "/profile//name", "404"),
            (Method::GET, "/profile/a/", "404"),
            (Method::GET, "/profile/a", "404"),
            (Method::GET, "/rules", "404"),
            (Method::GET, "//rules/", "404"),
            (Method::GET, "", "404"),
        ];
        for (method, path, expected) in table {
            assert_eq!(found(&routes, method.clone(), path), expected, "{method} {path}");
        }
    }

    #[test]
    fn an_empty_state_key_may_be_left_out_with_its_slash() {
        let mut routes = Routes::default();
        routes.add_json(state);
        let pattern = "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}";
        for (path, path_args) in
            [("/@a:b", r#"["!r", "m.x", "@a:b"]"#), ("/", r#"["!r", "m.x", ""]"#), ("", r#"["!r", "m.x"]"#)]
        {
            let path = format!("/_matrix/client/v3/rooms/!r/state/m.x{path}");
            assert_eq!(found(&routes, Method::GET, &path), format!("{pattern} {path_args}"));
        }
    }

    #[test]
    fn what_is_not_there_and_what_is_not_understood() {
        let server = TestServer::new(&[("REGISTRATION", "open")]);
        let token = server.register("alice");
        let login = "/_matrix/client/v3/login";
        assert_eq!(refused(server.get("/_matrix/client/v3/nothing", "")), (404, "M_UNRECOGNIZED".to_owned()));
        assert_eq!(refused(server.put(login, "", &Value::Null)), (405, "M_UNRECOGNIZED".to_owned()));
        assert_eq!(refused(server.post(login, "", &json!({}))), (400, "M_BAD_JSON".to_owned()));
        let broken = server.answer(Request::post(login).body("{".into()).unwrap());
        assert_eq!(serde_json::from_slice::<Value>(broken.body()).unwrap()["errcode"], "M_NOT_JSON");
        let available = "/_matrix/client/v3/register/available";
        assert_eq!(refused(server.get(available, "")), (400, "M_MISSING_PARAM".to_owned()));
        assert_eq!(refused(server.get("/_matrix/client/v3/profile/alice", "")), (400, "M_INVALID_PARAM".to_owned()));

        let whoami = "/_matrix/client/v3/account/whoami";
        assert_eq!(refused(server.get(whoami, "")), (401, "M_MISSING_TOKEN".to_owned()));
        for bad in ["x", token.trim_start_matches('m'), &format!("{token}x"), "mye_bm9ib2R5.x"] {
            assert_eq!(refused(server.get(whoami, bad)), (401, "M_UNKNOWN_TOKEN".to_owned()), "{bad}");
        }
        assert_eq!(server.get(&format!("{whoami}?access_token={token}"), "").0, StatusCode::OK);
    }

    #[test]
    fn every_answer_is_open_to_web_pages() {
        let server = TestServer::new(&[]);
        for (method, path, status) in [
            (Method::OPTIONS, "/_matrix/client/v3/account/whoami", 204),
            (Method::OPTIONS, "/nowhere", 204),
            (Method::GET, "/_matrix/client/v3/account/whoami", 401),
            (Method::GET, "/nowhere", 404),
            (Method::GET, "/_matrix/client/versions", 200),
        ] {
            let response = server.answer(Request::builder().method(&method).uri(path).body("".into()).unwrap());
            assert_eq!(response.status(), status, "{method} {path}");
            let headers = response.headers();
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_METHODS], "GET, POST, PUT, DELETE, OPTIONS");
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "X-Requested-With, Content-Type, Authorization");
        }
        assert_eq!(crate::too_large().headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(crate::too_large().status(), 413);
    }

    #[test]
    fn head_is_get_without_the_body() {
        let server = TestServer::new(&[]);
        let ask = |method| server.answer(Request::builder().method(method).uri("/health").body("".into()).unwrap());
        let (get, head) = (ask(Method::GET), ask(Method::HEAD));
        assert_eq!(head.status(), StatusCode::OK);
        assert!(head.body().is_empty());
        assert_eq!(head.headers()[header::CONTENT_LENGTH], get.body().len().to_string());
    }
}
