//! Spec: client-server API, «Google ReCaptcha», with a verifier that the test plays.

use harness::{Answer, Https, PerHost, Reply, Server, Value, json, on_each_host};

on_each_host![who_registers_is_a_person, a_browser_helps_a_client_that_cannot, one_captcha_makes_one_account,];

struct Guarded {
    server: Server,
    verifier: Https,
}

/// Shared by these stories.
fn guarded(server: &Server) -> &'static Guarded {
    static SHARED: PerHost<Guarded> = PerHost::new();
    SHARED.of(server.host(), || {
        let verifier = Https::serves_plainly(|request| {
            let is_asked = (&*request.method, &*request.uri) == ("POST", "/verify")
                && request.header("content-type") == Some("application/x-www-form-urlencoded")
                && request.body.contains("secret=private");
            match is_asked {
                true if request.body.contains("response=down") => Reply::json(503, &json!({})),
                true => Reply::json(200, &json!({ "success": request.body.contains("response=solved") })),
                false => Reply::json(200, &json!({ "success": false })),
            }
        });
        let url = format!("http://127.0.0.1:{}/verify", verifier.port);
        let settings = [
            ("RECAPTCHA_PUBLIC_KEY", "site-key"),
            ("RECAPTCHA_PRIVATE_KEY", "private"),
            ("RECAPTCHA_VERIFY_URL", &*url),
        ];
        Guarded { server: Server::with(server.host(), &settings), verifier }
    })
}

impl Guarded {
    fn registers(&self, username: &str, auth: Value) -> Answer {
        let body = json!({ "username": username, "password": "secret", "auth": auth });
        self.server.anonymous().post("/_matrix/client/v3/register", body)
    }

    fn session(&self, username: &str) -> String {
        let challenge = self.registers(username, Value::Null);
        assert_eq!(challenge.status, 401);
        assert_eq!(challenge.body["flows"], json!([{ "stages": ["m.login.recaptcha"] }]));
        assert_eq!(challenge.body["params"]["m.login.recaptcha"], json!({ "public_key": "site-key" }));
        challenge.body["session"].as_str().expect("a session").to_owned()
    }
}

fn who_registers_is_a_person(server: &Server) {
    let here = guarded(server);
    let username = here.server.unique("alice");
    let session = here.session(&username);
    let solves = |response: Value| {
        here.registers(&username, json!({ "type": "m.login.recaptcha", "session": session, "response": response }))
    };
    here.verifier.takes_received();
    for (response, errcode) in [(json!("guessed"), "M_CAPTCHA_INVALID"), (Value::Null, "M_CAPTCHA_NEEDED")] {
        let again = solves(response);
        assert_eq!((again.status, &again.body["errcode"]), (401, &json!(errcode)), "{}", again.text);
    }
    assert_eq!(solves(json!("down")).status, 502);
    let other = here.registers(&username, json!({ "type": "m.login.dummy", "session": session }));
    assert_eq!(other.status, 401, "{}", other.text);
    solves(json!("solved")).ok();
}

fn a_browser_helps_a_client_that_cannot(server: &Server) {
    let here = guarded(server);
    let username = here.server.unique("bob");
    let session = here.session(&username);
    let path = format!("/_matrix/client/v3/auth/m.login.recaptcha/fallback/web?session={session}");
    let page = here.server.anonymous().get(&path);
    assert!(page.text.contains(r#"data-sitekey="site-key""#), "{}", page.text);
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.contains("script-src https://www.google.com/recaptcha/"), "{policy}");
    let posts = |response: &str| {
        let body = format!("g-recaptcha-response={response}").into_bytes();
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        here.server.anonymous().send_bytes("POST", &path, &headers, Some(body))
    };
    assert!(posts("guessed").text.contains("The captcha is not solved"));
    assert_eq!(here.registers(&username, json!({ "session": session })).status, 401);
    assert!(!posts("solved").text.contains("<form"));
    here.registers(&username, json!({ "session": session })).ok();
}

fn one_captcha_makes_one_account(server: &Server) {
    let here = guarded(server);
    let names: Vec<String> = (0..6).map(|_| here.server.unique("eve")).collect();
    let session = here.session(&names[0]);
    let path = format!("/_matrix/client/v3/auth/m.login.recaptcha/fallback/web?session={session}");
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let form = b"g-recaptcha-response=solved".to_vec();
    assert!(!here.server.anonymous().send_bytes("POST", &path, &headers, Some(form)).text.contains("<form"));
    // A name that is taken costs nothing.
    let taken = here.server.unique("taken");
    here.registers(&taken, json!({ "type": "m.login.recaptcha", "response": "solved" })).ok();
    here.registers(&taken, json!({ "session": session })).refused(400, "M_USER_IN_USE");
    let (here, auth) = (&here, &json!({ "session": session }));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let all: Vec<_> = names.iter().map(|name| scope.spawn(move || here.registers(name, auth.clone()))).collect();
        all.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let made = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|answer| &answer.text).collect::<Vec<_>>());
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status, &answer.body["completed"]), (401, &json!([])), "{}", answer.text);
    }
    let again = here.registers(&here.server.unique("eve"), auth.clone());
    assert_eq!((again.status, &again.body["completed"]), (401, &json!([])), "{}", again.text);
}
