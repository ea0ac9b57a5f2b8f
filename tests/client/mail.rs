//! Spec: client-server API, «Adding Account Administrative Contact Information», «Password management», «Account
//! registration», «Email-based (identity / homeserver)», on a server that sends mail.

use harness::{Answer, Client, Https, Mailbox, PASSWORD, PerHost, Reply, Server, User, Value, json, on_each_host};

on_each_host![
    an_address_is_proven_and_added,
    a_forgotten_password_is_replaced,
    who_registers_may_have_an_address,
    an_address_may_be_asked_for_at_registration,
    what_cannot_be_is_refused,
    a_message_that_is_not_taken_may_be_asked_for_again,
    so_many_messages_go_to_one_address,
    mail_goes_out_by_http,
];

/// A server with a mail server.
struct Posted {
    server: Server,
    mailbox: Mailbox,
}

/// Shared by these stories; its mail goes out after `STARTTLS`.
fn posted(server: &Server) -> &'static Posted {
    static SHARED: PerHost<Posted> = PerHost::new();
    SHARED.of(server.host(), || {
        let mailbox = Mailbox::with_starttls();
        Posted { server: Server::with_mail(server.host(), &mailbox, &[]), mailbox }
    })
}

fn asks(client: &Client, what: &str, email: &str, secret: &str, attempt: u64) -> Answer {
    let body = json!({ "client_secret": secret, "email": email, "send_attempt": attempt });
    client.post(&format!("/_matrix/client/v3/{what}/email/requestToken"), body)
}

impl Posted {
    fn address(&self, name: &str) -> String {
        format!("{}@example.test", self.server.unique(name))
    }

    /// Opens a link as a browser does, and confirms what it asks.
    fn confirms(&self, link: &str) -> Answer {
        let base = self.server.url();
        let path = link.strip_prefix(&base).unwrap_or_else(|| panic!("{link} is not at {base}")).to_owned();
        let page = self.server.anonymous().get(&path);
        assert_eq!(page.status, 200, "{}", page.text);
        self.server.anonymous().send_bytes("POST", &path, &[], Some(Vec::new()))
    }

    /// Asks for a message and confirms what comes. Answers what proves the address.
    fn proves(&self, what: &str, email: &str) -> Value {
        let asked = asks(&self.server.anonymous(), what, email, "s3cret", 1).ok();
        let confirmed = self.confirms(&self.mailbox.takes(email).link());
        assert_eq!(confirmed.status, 200, "{}", confirmed.text);
        json!({ "sid": asked["sid"], "client_secret": "s3cret" })
    }

    fn adds(&self, user: &User, email: &str) {
        let mut body = self.proves("account/3pid", email);
        body["auth"] = user.proof(PASSWORD);
        assert_eq!(user.post("/account/3pid/add", body).ok(), json!({}));
    }
}

fn addresses(user: &User) -> Vec<String> {
    let told = user.get("/account/3pid").ok();
    let all = told["threepids"].as_array().expect("addresses").iter();
    all.map(|one| {
        assert_eq!(one["medium"], "email");
        assert!(one["validated_at"].as_u64() <= one["added_at"].as_u64(), "{one}");
        one["address"].as_str().expect("an address").to_owned()
    })
    .collect()
}

fn logs_in(server: &Server, email: &str, password: &str) -> Answer {
    let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": email });
    let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
    server.anonymous().post("/_matrix/client/v3/login", body)
}

fn an_address_is_proven_and_added(server: &Server) {
    let home = posted(server);
    let [alice, bob] = ["alice", "bob"].map(|name| home.server.registers(name));
    let capabilities = alice.get("/capabilities").ok();
    assert_eq!(capabilities["capabilities"]["m.3pid_changes"], json!({ "enabled": true }));
    let email = home.address("alice");
    let asked = asks(&home.server.anonymous(), "account/3pid", &email.to_uppercase(), "s3cret", 1).ok();
    let mail = home.mailbox.takes(&email);
    assert_eq!(mail.from, "noreply@myelin.test");
    assert!(mail.text.contains("Tea House") && mail.text.contains("Subject: "), "{}", mail.text);
    // The same attempt again sends nothing, and another one has another link.
    let again = asks(&home.server.anonymous(), "account/3pid", &email, "s3cret", 1).ok();
    assert_eq!(again, asked);
    assert!(home.mailbox.takes_at_once(&email).is_none(), "it was sent twice");
    assert_eq!(asks(&home.server.anonymous(), "account/3pid", &email, "s3cret", 2).ok(), asked);
    let newer = home.mailbox.takes(&email).link();
    let session = json!({ "sid": asked["sid"], "client_secret": "s3cret", "auth": alice.proof(PASSWORD) });
    alice.post("/account/3pid/add", session.clone()).refused(403, "M_THREEPID_AUTH_FAILED");
    let old = mail.link().replace(&home.server.url(), "");
    assert_eq!(home.server.anonymous().get(&old).status, 404, "the older link is none any more");
    // Opening it is not enough: programs open links.
    assert_eq!(home.server.anonymous().get(&newer.replace(&home.server.url(), "")).status, 200);
    alice.post("/account/3pid/add", session.clone()).refused(403, "M_THREEPID_AUTH_FAILED");
    assert_eq!(home.confirms(&newer).status, 200);
    assert_eq!(home.confirms(&newer).status, 200, "once more");

    let mut unproven = session.clone();
    unproven["auth"] = Value::Null;
    assert_eq!(alice.post("/account/3pid/add", unproven).status, 401, "a token alone adds nothing");
    let mut guessed = session.clone();
    guessed["client_secret"] = "guessed".into();
    alice.post("/account/3pid/add", guessed).refused(403, "M_THREEPID_AUTH_FAILED");
    assert_eq!(alice.post("/account/3pid/add", session.clone()).ok(), json!({}));
    assert_eq!((addresses(&alice), addresses(&bob)), (vec![email.clone()], vec![]));
    // By its former name, too.
    let former = home.address("former");
    let proof = home.proves("account/3pid", &former);
    let mut body = json!({ "three_pid_creds": proof });
    alice.post("/account/3pid", body.clone()).status(401);
    body["auth"] = alice.proof(PASSWORD);
    assert_eq!(alice.post("/account/3pid", body).ok(), json!({}));
    alice.post("/account/3pid/delete", json!({ "medium": "email", "address": former })).ok();
    alice.post("/account/3pid/add", session).refused(403, "M_THREEPID_AUTH_FAILED");
    asks(&home.server.anonymous(), "account/3pid", &email, "other", 1).refused(400, "M_THREEPID_IN_USE");
    asks(&home.server.anonymous(), "register", &email, "other", 1).refused(400, "M_THREEPID_IN_USE");

    assert_eq!(logs_in(&home.server, &email.to_uppercase(), PASSWORD).ok()["user_id"], alice.id);
    let unknown = logs_in(&home.server, "nobody@example.test", PASSWORD).refused(403, "M_FORBIDDEN");
    assert_eq!(logs_in(&home.server, &email, "wrong").refused(403, "M_FORBIDDEN"), unknown);
    // Only its own user deletes it.
    let address = json!({ "medium": "email", "address": email });
    for (user, left) in [(&bob, 1), (&alice, 0), (&alice, 0)] {
        let answer = user.post("/account/3pid/delete", address.clone()).ok();
        assert_eq!(answer, json!({ "id_server_unbind_result": "no-support" }));
        assert_eq!(addresses(&alice).len(), left);
    }
    logs_in(&home.server, &email, PASSWORD).refused(403, "M_FORBIDDEN");
    // Somebody who is gone has none.
    home.adds(&bob, &email);
    bob.post("/account/deactivate", json!({ "auth": bob.proof(PASSWORD) })).ok();
    home.adds(&alice, &email);
}

fn a_forgotten_password_is_replaced(server: &Server) {
    let home = posted(server);
    let (alice, anonymous) = (home.server.registers("alice"), home.server.anonymous());
    let email = home.address("alice");
    asks(&anonymous, "account/password", &email, "s3cret", 1).refused(400, "M_THREEPID_NOT_FOUND");
    home.adds(&alice, &email);
    let path = "/_matrix/client/v3/account/password";
    let challenge = anonymous.post(path, json!({ "new_password": "new secret" })).status(401);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.email.identity"] }]));
    let resets = |credentials: &Value, password: &str| {
        let auth = json!({
            "type": "m.login.email.identity", "session": challenge["session"],
            // Clients say it by both names.
            "threepid_creds": credentials, "threepidCreds": credentials,
        });
        anonymous.post(path, json!({ "new_password": password, "auth": auth }))
    };
    // What proves it for something else does not here.
    let other = home.address("other");
    let unproven = resets(&home.proves("register", &other), "new secret").status(401);
    assert_eq!(unproven["errcode"], "M_UNAUTHORIZED", "{unproven}");
    let proof = home.proves("account/password", &email);
    resets(&proof, "").refused(400, "M_WEAK_PASSWORD");
    assert_eq!(resets(&proof, "new secret").ok(), json!({}));
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN");
    logs_in(&home.server, &email, PASSWORD).refused(403, "M_FORBIDDEN");
    logs_in(&home.server, &email, "new secret").ok();
    assert_eq!(resets(&proof, "third secret").status, 401, "a proof is good once");
    logs_in(&home.server, &email, "new secret").ok();
    let bare = json!({ "new_password": "x", "auth": { "type": "m.login.email.identity" } });
    anonymous.post(path, bare).refused(400, "M_MISSING_PARAM");
}

fn registers(home: &Posted, name: &str, stage: &Value) -> Answer {
    let body = json!({ "username": home.server.unique(name), "password": PASSWORD, "auth": stage });
    home.server.anonymous().post("/_matrix/client/v3/register", body)
}

fn by_email(credentials: &Value) -> Value {
    json!({ "type": "m.login.email.identity", "threepid_creds": credentials })
}

fn who_registers_may_have_an_address(server: &Server) {
    let home = posted(server);
    let challenge = registers(home, "carol", &Value::Null).status(401);
    let flows = json!([{ "stages": ["m.login.dummy"] }, { "stages": ["m.login.email.identity"] }]);
    assert_eq!(challenge["flows"], flows);
    let email = home.address("carol");
    let asked = asks(&home.server.anonymous(), "register", &email, "s3cret", 1).ok();
    let credentials = json!({ "sid": asked["sid"], "client_secret": "s3cret" });
    let waiting = registers(home, "carol", &by_email(&credentials)).status(401);
    assert_eq!(waiting["errcode"], "M_UNAUTHORIZED", "{waiting}");
    assert_eq!(home.confirms(&home.mailbox.takes(&email).link()).status, 200);
    let account = registers(home, "carol", &by_email(&credentials)).ok();
    let carol = User::from_login(&home.server.anonymous(), &account);
    assert_eq!(addresses(&carol), [email.as_str()]);
    assert_eq!(logs_in(&home.server, &email, PASSWORD).ok()["user_id"], carol.id);
    assert_eq!(registers(home, "carol", &by_email(&credentials)).status, 401, "a proof is good once");
    // Without one is as good.
    assert_eq!(addresses(&home.server.registers("dave")), Vec::<String>::new());
}

fn an_address_may_be_asked_for_at_registration(server: &Server) {
    // This one's mail is encrypted from the first byte.
    let mailbox = Mailbox::encrypted();
    let server = Server::with_mail(server.host(), &mailbox, &[("REGISTRATION_REQUIRES_EMAIL", "on")]);
    let home = Posted { server, mailbox };
    let challenge = registers(&home, "carol", &json!({ "type": "m.login.dummy" })).status(401);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.email.identity"] }]));
    let email = home.address("carol");
    let proof = home.proves("register", &email);
    let account = registers(&home, "carol", &by_email(&proof)).ok();
    assert_eq!(addresses(&User::from_login(&home.server.anonymous(), &account)), [email]);
}

fn what_cannot_be_is_refused(server: &Server) {
    let home = posted(server);
    let anonymous = home.server.anonymous();
    let good = json!({ "client_secret": "s", "email": home.address("alice"), "send_attempt": 1 });
    let asks = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        anonymous.post("/_matrix/client/v3/account/3pid/email/requestToken", body)
    };
    for secret in ["", "a b", "ä", &"a".repeat(256)] {
        asks("client_secret", secret.into()).refused(400, "M_INVALID_PARAM");
    }
    for email in ["", "alice", "a@b@c", "a@b\r\nRCPT TO:<c@d>", "a b@c", "<a@b>"] {
        asks("email", email.into()).refused(400, "M_INVALID_PARAM");
    }
    asks("send_attempt", (-1).into()).refused(400, "M_BAD_JSON");
    for link in ["javascript:alert(1)", "/here", "ftp://a.test/"] {
        asks("next_link", link.into()).refused(400, "M_INVALID_PARAM");
    }
    let phone = json!({ "client_secret": "s", "country": "GB", "phone_number": "07700900001", "send_attempt": 1 });
    let phone = anonymous.post("/_matrix/client/v3/account/3pid/msisdn/requestToken", phone);
    phone.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
    let bad = anonymous.get("/_myelin/client/validate_email?sid=x&token=y");
    assert_eq!((bad.status, bad.header("content-type")), (404, Some("text/html; charset=utf-8")));
    // Whoever confirmed goes where the client wants.
    let email = home.address("alice");
    let body = json!({
        "client_secret": "s", "email": email, "send_attempt": 1, "next_link": "https://client.test/next?a=b",
    });
    anonymous.post("/_matrix/client/v3/account/3pid/email/requestToken", body).ok();
    let confirmed = home.confirms(&home.mailbox.takes(&email).link());
    assert_eq!((confirmed.status, confirmed.header("location")), (303, Some("https://client.test/next?a=b")));
}

fn a_message_that_is_not_taken_may_be_asked_for_again(server: &Server) {
    let mailbox = Mailbox::with_starttls();
    let server = Server::with_mail(server.host(), &mailbox, &[]);
    let home = Posted { server, mailbox };
    let email = home.address("alice");
    home.mailbox.is_full(true);
    asks(&home.server.anonymous(), "account/3pid", &email, "s", 1).refused(502, "M_UNKNOWN");
    home.mailbox.is_full(false);
    asks(&home.server.anonymous(), "account/3pid", &email, "s", 1).ok();
    assert_eq!(home.mailbox.takes(&email).to, email);
}

fn so_many_messages_go_to_one_address(server: &Server) {
    let mailbox = Mailbox::with_starttls();
    let limits = [("RATE_LIMITS", "on"), ("RC_EMAIL_VALIDATION", "0.001,2")];
    let server = Server::with_mail(server.host(), &mailbox, &limits);
    let home = Posted { server, mailbox };
    let email = home.address("alice");
    let from = |number: u64| home.server.anonymous().from_address(&format!("192.0.2.{number}"));
    for attempt in [1, 1, 1, 2] {
        asks(&from(attempt), "account/3pid", &email, "s", attempt).ok();
    }
    asks(&from(3), "account/3pid", &email, "s", 3).refused(429, "M_LIMIT_EXCEEDED");
    // From one place, so many go to others.
    for attempt in [1, 2] {
        asks(&from(4), "account/3pid", &home.address("bob"), "s", attempt).ok();
    }
    asks(&from(4), "account/3pid", &home.address("bob"), "s", 1).refused(429, "M_LIMIT_EXCEEDED");
}

/// Where no mail server is, a service takes mail by HTTP.
fn mail_goes_out_by_http(server: &Server) {
    let mailer = Https::serves_plainly(|request| {
        let is_known = (&*request.method, &*request.uri) == ("POST", "/v1/send?by=myelin")
            && request.header("content-type") == Some("application/json")
            && request.header("authorization") == Some("Bearer stamps");
        match is_known {
            true if request.body.contains("full@") => Reply::json(503, &json!({})),
            // Some services say nothing.
            true => Reply::Whole(202, Vec::new(), Vec::new()),
            false => Reply::json(401, &json!({})),
        }
    });
    let url = format!("http://127.0.0.1:{}/v1/send?by=myelin", mailer.port);
    let settings = [("MAIL_URL", &*url), ("MAIL_TOKEN", "stamps"), ("EMAIL_FROM", "Tea House <noreply@myelin.test>")];
    let server = Server::with(server.host(), &settings);
    let alice = server.registers("alice");
    assert_eq!(alice.get("/capabilities").ok()["capabilities"]["m.3pid_changes"], json!({ "enabled": true }));
    let asked = asks(&server.anonymous(), "account/3pid", "alice@example.test", "s3cret", 1).ok();
    let sent = mailer.takes_received().pop().expect("a message");
    let sent: Value = serde_json::from_str(&sent.body).expect("JSON");
    assert_eq!(
        (&sent["from"], &sent["to"]),
        (&json!("\"Tea House\" <noreply@myelin.test>"), &json!(["alice@example.test"]))
    );
    assert!(sent["subject"].as_str().is_some_and(|subject| !subject.is_empty()), "{sent}");
    assert_eq!(sent["headers"], json!({ "Auto-Submitted": "auto-generated" }));
    let text = sent["text"].as_str().expect("a text");
    let link = text[text.find("http").expect("a link")..].split_whitespace().next().unwrap_or_default();
    let path = link.replace(&server.url(), "");
    assert_eq!(server.anonymous().get(&path).status, 200, "{link}");
    assert_eq!(server.anonymous().send_bytes("POST", &path, &[], Some(Vec::new())).status, 200);
    let proven = json!({ "sid": asked["sid"], "client_secret": "s3cret", "auth": alice.proof(PASSWORD) });
    assert_eq!(alice.post("/account/3pid/add", proven).ok(), json!({}));
    assert_eq!(addresses(&alice), ["alice@example.test"]);
    // What it does not take may be asked for again.
    asks(&server.anonymous(), "account/3pid", "full@example.test", "s3cret", 1).refused(502, "M_UNKNOWN");
}
