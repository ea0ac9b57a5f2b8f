//! Spec: client-server API, «Push Notifications», pushers of kind `email`, on a server that sends mail.

use harness::{Mailbox, PASSWORD, PerHost, Server, User, Value, encode, json, on_each_host};

on_each_host![
    mail_tells_what_is_unread_until_it_is_not_wanted,
    mail_goes_to_an_address_of_the_account,
    a_server_without_mail_sends_none,
];

struct Posted {
    server: Server,
    mailbox: Mailbox,
}

/// Shared by these stories; mail is sent soon.
fn posted(server: &Server) -> &'static Posted {
    static SHARED: PerHost<Posted> = PerHost::new();
    SHARED.of(server.host(), || {
        let mailbox = Mailbox::encrypted();
        let soon = [("EMAIL_NOTIFICATION_DELAY", "1"), ("EMAIL_NOTIFICATION_PAUSE", "0")];
        Posted { server: Server::with_mail(server.host(), &mailbox, &soon), mailbox }
    })
}

fn pusher(email: &str) -> Value {
    json!({
        "kind": "email", "app_id": "m.email", "pushkey": email, "app_display_name": "Email Notifications",
        "device_display_name": email, "lang": "en", "data": { "brand": "Element" }, "append": true,
    })
}

fn pushers(user: &User) -> Vec<Value> {
    user.get("/pushers").ok()["pushers"].as_array().expect("a list").clone()
}

impl Posted {
    /// Somebody with an address.
    fn registers(&self, name: &str) -> (User, String) {
        let (user, email) = (self.server.registers(name), format!("{}@example.test", self.server.unique(name)));
        let anonymous = self.server.anonymous();
        let wish = json!({ "client_secret": "s3cret", "email": email, "send_attempt": 1 });
        let asked = anonymous.post("/_matrix/client/v3/account/3pid/email/requestToken", wish).ok();
        self.confirms(&self.mailbox.takes(&email).link());
        let body = json!({ "sid": asked["sid"], "client_secret": "s3cret", "auth": user.proof(PASSWORD) });
        user.post("/account/3pid/add", body).ok();
        (user, email)
    }

    fn confirms(&self, link: &str) {
        let path = link.strip_prefix(&self.server.url()).expect("it is here").to_owned();
        let page = self.server.anonymous().get(&path);
        assert_eq!((page.status, page.text.contains("<form")), (200, true), "{}", page.text);
        let confirmed = self.server.anonymous().send_bytes("POST", &path, &[], Some(Vec::new()));
        assert_eq!(confirmed.status, 200, "{}", confirmed.text);
    }
}

fn mail_tells_what_is_unread_until_it_is_not_wanted(server: &Server) {
    let here = posted(server);
    let (alice, email) = here.registers("alice");
    let bob = here.server.registers("bob");
    bob.put(&format!("/profile/{}/displayname", encode(&bob.id)), json!({ "displayname": "Bob" })).ok();
    let room = bob.creates_room(json!({ "preset": "public_chat", "name": "Tea House" }));
    alice.joins(&room).ok();
    alice.post("/pushers/set", pusher(&email)).ok();
    let mut shown = pusher(&email);
    shown.as_object_mut().expect("an object").remove("append");
    shown["org.matrix.msc3881.enabled"] = true.into();
    shown["org.matrix.msc3881.device_id"] = json!(alice.device_id);
    assert_eq!(pushers(&alice), [shown]);
    bob.sends(&room, "is there any tea left");
    let mail = here.mailbox.takes(&email);
    let text = mail.text.replace("=\r\n", "");
    assert!(text.contains("Tea House") && text.contains("Bob: is there any tea left"), "{text}");
    assert!(text.contains("List-Unsubscribe: <http") && text.contains("List-Unsubscribe=One-Click"), "{text}");
    // Nobody else can read what is encrypted.
    bob.sends_event(&room, "m.room.encrypted", "secret", json!({ "algorithm": "a", "ciphertext": "b" })).ok();
    let mail = here.mailbox.takes(&email);
    assert!(mail.text.replace("=\r\n", "").contains("Bob sent an encrypted message"), "{}", mail.text);
    let start = mail.text.find("open this").expect("a way out");
    let link = harness::Mail { text: mail.text[start..].to_owned(), ..mail.clone() }.link();
    here.confirms(&link);
    assert!(pushers(&alice).is_empty());
    let forged = link.replace("seal=", "seal=x");
    let path = forged.strip_prefix(&here.server.url()).expect("it is here").to_owned();
    here.server.anonymous().get(&path).refused(404, "M_NOT_FOUND");
}

fn mail_goes_to_an_address_of_the_account(server: &Server) {
    let here = posted(server);
    let ((alice, email), eve) = (here.registers("alice"), here.server.registers("eve"));
    let sets = |user: &User, body: Value| user.post("/pushers/set", body);
    sets(&eve, pusher(&email)).refused(400, "M_THREEPID_NOT_FOUND");
    sets(&eve, pusher("eve@example.test")).refused(400, "M_THREEPID_NOT_FOUND");
    sets(&alice, pusher("alice")).refused(400, "M_INVALID_PARAM");
    let mut other = pusher(&email);
    other["app_id"] = "org.example".into();
    sets(&alice, other).refused(400, "M_INVALID_PARAM");
    sets(&alice, pusher(&email)).ok();
    sets(&alice, json!({ "kind": null, "app_id": "m.email", "pushkey": email })).ok();
    assert!(pushers(&alice).is_empty());
}

fn a_server_without_mail_sends_none(server: &Server) {
    server.registers("alice").post("/pushers/set", pusher("a@example.test")).refused(400, "M_INVALID_PARAM");
}
