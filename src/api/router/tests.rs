use http::{Method, Request, Response, StatusCode, header};
use ruma_client_api::state::get_state_event_for_key::v3 as get_state;
use serde_json::{Value, json};

use super::{Found, Routes};
use crate::{
    Caller, Context, Failure,
    testing::{TestServer, config, refused},
};

#[test]
fn what_is_kept_can_be_told() {
    let server = TestServer::new(&[("REGISTRATION", "open")]);
    let alice = server.register("alice");
    let user = "@alice:localhost";
    let profile = format!("profile/{user}");
    let tags = format!("user/{user}/rooms/!r/tags");
    let account_data = format!("user/{user}/account_data/t");
    let of_room = format!("user/{user}/rooms/!r/account_data/t");
    for depth in [1, 90, 100, 110, 115, 120, 122, 124, 125, 126, 127, 200, 100_000] {
        let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for (kept, field, body) in [
            (&*profile, "/a.b", format!(r#"{{"a.b":{nested}}}"#)),
            (&*tags, "/t", format!(r#"{{"x":{nested}}}"#)),
            (&*account_data, "", format!(r#"{{"x":{nested}}}"#)),
            (&*of_room, "", format!(r#"{{"x":{nested}}}"#)),
            (
                "pushrules/global/override/r",
                "/actions",
                format!(r#"{{"actions":[{{"set_tweak":"x","value":{nested}}}]}}"#),
            ),
            ("pushrules/", "global/override/r", format!(r#"{{"actions":[{{"set_tweak":"x","value":{nested}}}]}}"#)),
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
    let large = vec![b' '; crate::BODY_BYTES_MAX + 1];
    let refused = server.answer(Request::post("/_matrix/client/v3/login").body(large.into()).unwrap());
    assert_eq!(refused.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(refused.status(), 413);
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

/// A copy of the specification's OpenAPI as one table, and what of it is not built: `tests/client/endpoint_matrix.rs`
/// asks for each of them.
#[test]
fn every_operation_of_the_specification_is_there_or_said_not_to_be() {
    let not_built = include_str!("../../../tests/client/not_built.txt").lines();
    // What is answered as if it were not there, because the server does not offer what it is about.
    let not_offered = include_str!("../../../tests/client/not_offered.txt").lines();
    let not_built: Vec<&str> = not_built.chain(not_offered).collect();
    let routes = crate::routes(&config(&[("URL_PREVIEWS", "on")]));
    let (mut missing, mut built) = (Vec::new(), Vec::new());
    for line in include_str!("../../../tests/client/endpoints.tsv").lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (method, path) = (Method::from_bytes(cells[1].as_bytes()).unwrap(), cells[2]);
        let some = path.split('/').map(|segment| if segment.starts_with('{') { "x" } else { segment });
        let is_there = matches!(routes.find(&method, &some.collect::<Vec<_>>().join("/")), Ok(Found::Route(..)));
        let name = format!("{method} {path}");
        match (is_there, not_built.contains(&&*name)) {
            (false, false) => missing.push(name),
            (true, true) => built.push(name),
            _ => {}
        }
    }
    assert!(built.is_empty(), "there, and still in not_built.txt:\n{}", built.join("\n"));
    assert!(missing.is_empty(), "not there, and not in not_built.txt:\n{}", missing.join("\n"));
}
