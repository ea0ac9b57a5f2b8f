//! Spec: client-server API, «User-Interactive Authentication API», «Terms of service at registration», «Fallback».

use harness::{Answer, Client, PASSWORD, Server, Value, encode, json, on_each_host};

on_each_host![
    terms_are_shown_and_accepted,
    stages_come_in_their_order_and_add_up,
    a_browser_completes_a_stage,
    a_browser_completes_a_stage_that_asks_for_nothing,
    a_page_is_only_for_what_it_can_complete,
];

const REGISTER: &str = "/_matrix/client/v3/register";
const TERMS: [(&str, &str); 3] =
    [("TERMS_URL", "https://example.org/terms?a&b"), ("TERMS_NAME", "House <Rules>"), ("TERMS_VERSION", "2.1")];

fn registers(client: &Client, username: &str, auth: Value) -> Answer {
    client.post(REGISTER, json!({ "username": username, "password": PASSWORD, "auth": auth }))
}

/// Makes a token with which as many as it says may register.
fn registration_token(server: &Server) -> String {
    let operator = server.registers_by_secret("operator", harness::SHARED_SECRET, true).ok();
    let operator = server.anonymous().with_token(operator["access_token"].as_str().expect("a token"));
    let made = operator.post("/_synapse/admin/v1/registration_tokens/new", json!({ "token": "sesame" })).ok();
    made["token"].as_str().expect("a token").to_owned()
}

fn terms_are_shown_and_accepted(server: &Server) {
    let server = Server::with(server.host(), &TERMS);
    let nobody = server.anonymous();
    let told = nobody.post(REGISTER, json!({ "username": "alice", "password": PASSWORD })).status(401);
    assert_eq!(told["flows"], json!([{ "stages": ["m.login.terms"] }]));
    let document = json!({ "name": "House <Rules>", "url": "https://example.org/terms?a&b" });
    let policies = json!({ "terms_of_service": { "version": "2.1", "en": document } });
    assert_eq!(told["params"]["m.login.terms"]["policies"], policies);
    registers(&nobody, "alice", json!({ "type": "m.login.dummy", "session": told["session"] })).status(401);
    registers(&nobody, "alice", json!({ "type": "m.login.terms", "session": told["session"] })).ok();
}

fn stages_come_in_their_order_and_add_up(server: &Server) {
    let server = Server::with(server.host(), &[&TERMS[..], &[("REGISTRATION", "token")]].concat());
    let token = registration_token(&server);
    let nobody = server.anonymous();
    let told = nobody.post(REGISTER, json!({})).status(401);
    assert_eq!(told["flows"], json!([{ "stages": ["m.login.registration_token", "m.login.terms"] }]));
    let stage = |stage: Value| {
        let mut stage = stage;
        stage["session"] = told["session"].clone();
        stage
    };
    let terms = stage(json!({ "type": "m.login.terms" }));
    let with_token = stage(json!({ "type": "m.login.registration_token", "token": token }));
    let early = registers(&nobody, "alice", terms.clone()).status(401);
    assert!(early["errcode"].is_string() && early["completed"] == json!([]), "{early}");
    // A stage is completed once, and not tried again.
    for auth in [&with_token, &stage(json!({ "type": "m.login.registration_token", "token": "guessed" }))] {
        let half = registers(&nobody, "alice", auth.clone()).status(401);
        assert_eq!(half["completed"], json!(["m.login.registration_token"]));
        assert_eq!((&half["session"], half.get("errcode")), (&told["session"], None));
    }
    // Whoever finds the name taken meanwhile has another one.
    registers(&nobody, "bob", terms).ok();
}

fn a_browser_completes_a_stage(server: &Server) {
    let server = Server::with(server.host(), &[&TERMS[..], &[("REGISTRATION", "token")]].concat());
    let token = registration_token(&server);
    let nobody = server.anonymous();
    let told = nobody.post(REGISTER, json!({})).status(401);
    let session = told["session"].as_str().expect("a session");
    let acknowledged = json!({ "session": session });
    let page = |stage: &str| format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={}", encode(session));

    let shown = nobody.get(&page("m.login.registration_token"));
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(shown.text.contains("name=\"token\""), "{}", shown.text);
    let submit = |stage: &str, form: &str| nobody.send("POST", &page(stage), Some(form.to_owned()));
    let again = submit("m.login.registration_token", "token=guessed");
    assert!(again.text.contains("is not valid") && !again.text.contains("onAuthDone"), "{}", again.text);
    let nothing = registers(&nobody, "alice", acknowledged.clone()).status(401);
    assert_eq!(nothing["completed"], json!([]), "{nothing}");
    assert!(submit("m.login.registration_token", &format!("token={token}")).text.contains("window.onAuthDone()"));
    let half = registers(&nobody, "alice", acknowledged.clone()).status(401);
    assert_eq!(half["completed"], json!(["m.login.registration_token"]));

    let terms = nobody.get(&page("m.login.terms")).text;
    assert!(terms.contains("House &lt;Rules&gt;") && terms.contains("https://example.org/terms?a&amp;b"), "{terms}");
    assert!(submit("m.login.terms", "").text.contains("authDone"));
    registers(&nobody, "alice", acknowledged).ok();
}

fn a_browser_completes_a_stage_that_asks_for_nothing(server: &Server) {
    let nobody = server.anonymous();
    let told = nobody.post(REGISTER, json!({})).status(401);
    let session = told["session"].as_str().expect("a session");
    let page = format!("/_matrix/client/v3/auth/m.login.dummy/fallback/web?session={}", encode(session));
    assert!(nobody.get(&page).text.contains("<button>"));
    let acknowledged = json!({ "session": session });
    let name = server.unique("alice");
    registers(&nobody, &name, acknowledged.clone()).status(401);
    assert!(nobody.send("POST", &page, Some(String::new())).text.contains("window.onAuthDone()"));
    registers(&nobody, &name, acknowledged).ok();
}

fn a_page_is_only_for_what_it_can_complete(server: &Server) {
    let nobody = server.anonymous();
    let told = nobody.post(REGISTER, json!({})).status(401);
    let session = encode(told["session"].as_str().expect("a session"));
    let page = |stage: &str, session: &str| {
        nobody.get(&format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={session}"))
    };
    // This server has no terms.
    for stage in ["m.login.terms", "m.login.sso", "m.login.magic"] {
        page(stage, &session).refused(404, "M_UNRECOGNIZED");
    }
    page("m.login.registration_token", "forged").refused(400, "M_INVALID_PARAM");
    nobody.get("/_matrix/client/v3/auth/m.login.terms/fallback/web").refused(400, "M_MISSING_PARAM");
}
