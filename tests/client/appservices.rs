//! Spec: Application Service API, what application services do at our client-server API, and what they are asked.

use std::sync::{Arc, OnceLock};

use harness::{
    Answer, Client, Https, PerHost, Received, Reply, SERVER_NAME, Server, Value, encode, json, on_each_host, query,
};

on_each_host![
    it_acts_as_its_users,
    names_are_kept_for_it,
    it_logs_in_without_a_password,
    it_makes_devices_and_needs_no_password,
    its_events_have_the_time_it_says,
    a_ping_says_what_came_of_it,
    it_makes_rooms_and_users_when_they_are_asked_for,
    it_keeps_directories_of_its_networks,
    it_looks_up_what_other_networks_have,
    limits_are_not_for_it,
];

const TOKEN: &str = "as-secret";
const HS_TOKEN: &str = "hs-secret";

/// A server with a bridge at a path of this machine, one that is away, and one without a URL.
struct Bridged {
    server: Server,
    bridge: Https,
}

/// Shared by these stories.
fn bridged(server: &Server) -> &'static Bridged {
    static SHARED: PerHost<Bridged> = PerHost::new();
    SHARED.of(server.host(), || {
        let home: Arc<OnceLock<Client>> = Arc::default();
        let own = home.clone();
        let bridge = Https::serves_plainly(move |request| answers(own.get(), request));
        let registrations = registrations(bridge.port);
        let settings = [
            ("APPSERVICES", &*registrations),
            ("RATE_LIMITS", "on"),
            ("RC_LOGIN", "0"),
            ("RC_REGISTRATION", "0.001,50"),
            ("RC_MESSAGE", "0.001,3"),
        ];
        let server = Server::with(server.host(), &settings);
        home.set(server.anonymous().with_token(TOKEN)).expect("once");
        Bridged { server, bridge }
    })
}

fn registrations(port: u16) -> String {
    format!(
        r##"
id: "IRC Bridge"
url: "http://127.0.0.1:{port}/irc"
as_token: "{TOKEN}"
hs_token: "{HS_TOKEN}"
sender_localpart: "_irc_bot"
rate_limited: false
protocols: ["irc"]
namespaces:
  users: [{{ exclusive: true, regex: "@_irc_.*" }}, {{ exclusive: false, regex: "@shared_.*" }}]
  aliases: [{{ exclusive: true, regex: "#_irc_.*" }}]
  rooms: []
---
id: away
url: "http://127.0.0.1:1"
as_token: "away-secret"
hs_token: "h"
sender_localpart: "away"
protocols: ["irc", "gone"]
namespaces: {{ users: [], aliases: [], rooms: [] }}
---
{{ "id": "mute", "url": null, "as_token": "mute-secret", "hs_token": "h", "sender_localpart": "mute", "namespaces": {{}} }}
"##
    )
}

/// What the bridge says. It makes what it is asked for with `home`, before it answers.
fn answers(home: Option<&Client>, request: &Received) -> Reply {
    let nothing = || Reply::json(404, &json!({ "errcode": "COM.EXAMPLE.NOT_FOUND" }));
    if request.header("authorization") != Some(&format!("Bearer {HS_TOKEN}")) {
        return Reply::json(403, &json!({ "errcode": "M_FORBIDDEN" }));
    }
    let Some(path) = request.uri.strip_prefix("/irc") else { return nothing() };
    let path = path.strip_prefix("/_matrix/app/v1/").unwrap_or(path);
    match path {
        told if told.starts_with("transactions/") => Reply::json(200, &json!({})),
        "ping" if request.body.contains("unwell") => Reply::json(500, &json!({ "errcode": "M_UNKNOWN" })),
        "ping" => Reply::json(200, &json!({})),
        // It knows the old paths only for this.
        "thirdparty/protocol/irc" => Reply::json(404, &json!({ "errcode": "M_UNRECOGNIZED" })),
        old if old.starts_with("/_matrix/app/unstable/thirdparty/protocol/irc?access_token=hs-secret") => {
            Reply::json(200, &described())
        }
        "thirdparty/location/irc?channel=%23matrix" => {
            let fields = json!({ "channel": "#matrix" });
            let alias = format!("#_irc_matrix:{SERVER_NAME}");
            Reply::json(200, &json!([{ "alias": alias, "protocol": "irc", "fields": fields }, { "nonsense": 1 }]))
        }
        user if user.starts_with("thirdparty/user?userid=") => {
            let userid = format!("@_irc_jane:{SERVER_NAME}");
            Reply::json(200, &json!([{ "userid": userid, "protocol": "irc", "fields": { "nick": "jane" } }]))
        }
        made => {
            let Some(home) = home else { return nothing() };
            let name = made.split("_irc_made").nth(1).and_then(|rest| rest.split('%').next());
            match (made.split('/').next(), name) {
                (Some("rooms"), Some(name)) => {
                    let alias = json!({ "room_alias_name": format!("_irc_made{name}"), "preset": "public_chat" });
                    home.post("/_matrix/client/v3/createRoom", alias).ok();
                    Reply::json(200, &json!({}))
                }
                (Some("users"), Some(name)) => {
                    registers(home, &format!("_irc_made{name}")).ok();
                    Reply::json(200, &json!({}))
                }
                _ => nothing(),
            }
        }
    }
}

fn described() -> Value {
    json!({
        "user_fields": ["nick"], "location_fields": ["channel"], "icon": "mxc://a/b", "field_types": {},
        "instances": [{ "network_id": "libera", "desc": "Libera", "fields": {} }],
    })
}

fn registers(client: &Client, username: &str) -> Answer {
    let body = json!({ "type": "m.login.application_service", "username": username, "inhibit_login": true });
    client.post("/_matrix/client/v3/register", body)
}

impl Bridged {
    fn client(&self) -> Client {
        self.server.anonymous().with_token(TOKEN)
    }

    /// A new user of the bridge: their id, and the query that acts as them.
    fn ghost(&self, name: &str) -> (String, String) {
        let username = self.server.unique(&format!("_irc_{name}"));
        let made = registers(&self.client(), &username).ok();
        let id = format!("@{username}:{SERVER_NAME}");
        assert_eq!(made, json!({ "user_id": id }));
        let acts = query(&[("user_id", &id)]);
        (id, acts)
    }
}

fn whoami(client: &Client, acts: &str) -> Answer {
    client.get(&format!("/_matrix/client/v3/account/whoami{acts}"))
}

fn it_acts_as_its_users(server: &Server) {
    let home = bridged(server);
    let (client, (ghost, acts)) = (home.client(), home.ghost("alice"));
    assert_eq!(whoami(&client, &acts).ok(), json!({ "user_id": ghost }));
    // It is its own user, who is there from the beginning.
    let bot = format!("@_irc_bot:{SERVER_NAME}");
    assert_eq!(whoami(&client, "").ok()["user_id"], bot);
    assert_eq!(whoami(&home.server.anonymous(), &format!("?access_token={TOKEN}")).ok()["user_id"], bot);
    let room = client.post(&format!("/_matrix/client/v3/createRoom{acts}"), json!({})).ok();
    let room = room["room_id"].as_str().expect("a room").to_owned();
    let sends = |acts: &str, txn: &str| {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}{acts}", encode(&room));
        client.put(&path, json!({ "msgtype": "m.text", "body": "hi" }))
    };
    let event = sends(&acts, "1").ok();
    assert_eq!(sends(&acts, "1").ok(), event, "once for each transaction id");
    let read = client.get(&format!("/_matrix/client/v3/rooms/{}/messages{acts}&dir=b", encode(&room))).ok();
    assert_eq!((&read["chunk"][0]["sender"], &read["chunk"][0]["event_id"]), (&json!(ghost), &event["event_id"]));
    let synced = client.get(&format!("/_matrix/client/v3/sync{acts}")).ok();
    assert!(synced["rooms"]["join"][&room].is_object(), "{synced}");
    let renamed = format!("/_matrix/client/v3/profile/{}/displayname{acts}", encode(&ghost));
    client.put(&renamed, json!({ "displayname": "Alice (IRC)" })).ok();

    let alice = home.server.registers("alice");
    for other in [&*alice.id, "@_irc_alice:elsewhere.test"] {
        whoami(&client, &query(&[("user_id", other)])).refused(403, "M_FORBIDDEN");
    }
    let unknown = format!("@_irc_nobody:{SERVER_NAME}");
    whoami(&client, &query(&[("user_id", &unknown)])).refused(403, "M_FORBIDDEN");
    whoami(&client, "?user_id=alice").refused(400, "M_INVALID_PARAM");
    whoami(&home.server.anonymous().with_token("as-guessed"), "").refused(401, "M_UNKNOWN_TOKEN");
    // A user acts as nobody else.
    assert_eq!(whoami(alice.client(), &acts).ok()["user_id"], alice.id);
}

fn names_are_kept_for_it(server: &Server) {
    let home = bridged(server);
    let (client, anonymous, alice) = (home.client(), home.server.anonymous(), home.server.registers("alice"));
    let taken = home.server.unique("_irc_mine");
    let by_hand = json!({ "username": taken, "password": "x", "auth": { "type": "m.login.dummy" } });
    anonymous.post("/_matrix/client/v3/register", by_hand).refused(400, "M_EXCLUSIVE");
    let available = format!("/_matrix/client/v3/register/available?username={taken}");
    anonymous.get(&available).refused(400, "M_EXCLUSIVE");
    let shared = home.server.unique("shared_name");
    let by_hand = json!({ "username": shared, "password": "x", "auth": { "type": "m.login.dummy" } });
    anonymous.post("/_matrix/client/v3/register", by_hand).ok();
    registers(&client, &shared).refused(400, "M_USER_IN_USE");

    registers(&client, &home.server.unique("human")).refused(400, "M_EXCLUSIVE");
    registers(&anonymous, &taken).refused(401, "M_MISSING_TOKEN");
    registers(alice.client(), &taken).refused(401, "M_UNKNOWN_TOKEN");
    registers(&client, "_irc_ü").refused(400, "M_INVALID_USERNAME");
    let nameless = json!({ "type": "m.login.application_service" });
    client.post("/_matrix/client/v3/register", nameless).refused(400, "M_MISSING_PARAM");

    let room = alice.creates_room(json!({}));
    let alias = |name: &str| format!("/directory/room/{}", encode(&format!("#{name}:{SERVER_NAME}")));
    let kept = home.server.unique("_irc_room");
    alice.put(&alias(&kept), json!({ "room_id": room })).refused(400, "M_EXCLUSIVE");
    alice.post("/createRoom", json!({ "room_alias_name": kept })).refused(400, "M_EXCLUSIVE");
    let of_bridge = |alias: String| format!("/_matrix/client/v3{alias}");
    // «The AS should be able to manage any … room alias in its namespace», whoever is in the room.
    client.put(&of_bridge(alias(&kept)), json!({ "room_id": room })).ok();
    alice.client().delete(&of_bridge(alias(&kept))).refused(400, "M_EXCLUSIVE");
    client.delete(&of_bridge(alias(&kept))).ok();
    client.put(&of_bridge(alias("human")), json!({ "room_id": room })).refused(400, "M_EXCLUSIVE");
}

fn it_logs_in_without_a_password(server: &Server) {
    let home = bridged(server);
    let (client, anonymous, (ghost, _)) = (home.client(), home.server.anonymous(), home.ghost("alice"));
    let login = "/_matrix/client/v3/login";
    let flows = anonymous.get(login).ok();
    let offered = flows["flows"].as_array().expect("flows").contains(&json!({ "type": "m.login.application_service" }));
    assert!(offered, "{flows}");
    let body = |user: &str| {
        let identifier = json!({ "type": "m.id.user", "user": user });
        json!({ "type": "m.login.application_service", "identifier": identifier, "device_id": "BRIDGE" })
    };
    let answer = client.post(login, body(&ghost)).ok();
    let own = anonymous.with_token(answer["access_token"].as_str().expect("a token"));
    assert_eq!(whoami(&own, "").ok(), json!({ "user_id": ghost, "device_id": "BRIDGE" }));
    client.post(login, body(&home.server.registers("alice").id)).refused(400, "M_EXCLUSIVE");
    client.post(login, body("_irc_nobody")).refused(403, "M_FORBIDDEN");
    anonymous.post(login, body(&ghost)).refused(401, "M_MISSING_TOKEN");
    own.post(login, body(&ghost)).refused(403, "M_FORBIDDEN");
    // A name without a password is nobody's to log in with.
    let identifier = json!({ "type": "m.id.user", "user": ghost });
    let by_password = json!({ "type": "m.login.password", "identifier": identifier, "password": "" });
    anonymous.post(login, by_password).refused(403, "M_FORBIDDEN");
}

fn it_makes_devices_and_needs_no_password(server: &Server) {
    let home = bridged(server);
    let (client, (ghost, acts)) = (home.client(), home.ghost("alice"));
    let device = |id: &str| format!("/_matrix/client/v3/devices/{id}{acts}");
    let named = json!({ "display_name": "Bridge" });
    assert_eq!(client.put(&device("BRIDGE"), named.clone()).status(201), json!({}));
    assert_eq!(client.put(&device("BRIDGE"), named).ok(), json!({}));
    assert_eq!(client.get(&device("BRIDGE")).ok()["display_name"], "Bridge");
    let with = |id: &str| format!("{acts}&device_id={id}");
    assert_eq!(whoami(&client, &with("BRIDGE")).ok()["device_id"], "BRIDGE");
    assert_eq!(whoami(&client, &format!("{acts}&org.matrix.msc3202.device_id=BRIDGE")).ok()["device_id"], "BRIDGE");
    whoami(&client, &with("NONE")).refused(400, "M_UNKNOWN_DEVICE");
    let keys = |acts: &str| client.post(&format!("/_matrix/client/v3/keys/upload{acts}"), json!({}));
    assert_eq!(keys(&with("BRIDGE")).ok(), json!({ "one_time_key_counts": { "signed_curve25519": 0 } }));
    keys(&acts).refused(400, "M_MISSING_PARAM");
    assert_eq!(client.send("DELETE", &device("BRIDGE"), Some("{}".to_owned())).ok(), json!({}));
    client.get(&device("BRIDGE")).refused(404, "M_NOT_FOUND");
    client.put(&device("SECOND"), json!({})).status(201);
    let many = format!("/_matrix/client/v3/delete_devices{acts}");
    assert_eq!(client.post(&many, json!({ "devices": ["SECOND"] })).ok(), json!({}));
    // A user makes no devices.
    let alice = home.server.registers("alice");
    alice.put("/devices/BRIDGE", json!({})).refused(404, "M_NOT_FOUND");
    alice.put(&format!("/devices/BRIDGE{}", query(&[("user_id", &ghost)])), json!({})).refused(404, "M_NOT_FOUND");
}

fn its_events_have_the_time_it_says(server: &Server) {
    let home = bridged(server);
    let (client, (_, acts)) = (home.client(), home.ghost("alice"));
    let alice = home.server.registers("alice");
    let body = json!({ "preset": "public_chat", "invite": [alice.id] });
    let room = client.post(&format!("/_matrix/client/v3/createRoom{acts}"), body).ok();
    let room = room["room_id"].as_str().expect("a room").to_owned();
    alice.joins(&room).ok();
    let time = |path: &str, event: &Value| {
        let event = event["event_id"].as_str().expect("an event id");
        let found = alice.get(&format!("/rooms/{}/event/{}", encode(path), encode(event))).ok();
        found["origin_server_ts"].as_u64().expect("a time")
    };
    let base = format!("/_matrix/client/v3/rooms/{}", encode(&room));
    let message = json!({ "msgtype": "m.text", "body": "hi" });
    let sent = client.put(&format!("{base}/send/m.room.message/1{acts}&ts=1534535223283"), message.clone()).ok();
    assert_eq!(time(&room, &sent), 1_534_535_223_283);
    let set = client.put(&format!("{base}/state/org.example/{acts}&ts=5"), json!({})).ok();
    assert_eq!(time(&room, &set), 5);
    client.put(&format!("{base}/send/m.room.message/2{acts}&ts=-1"), message.clone()).refused(400, "M_INVALID_PARAM");
    let path = format!("/rooms/{}/send/m.room.message/1?ts=5", encode(&room));
    assert!(time(&room, &alice.put(&path, message).ok()) > 1_700_000_000_000, "nobody else is listened to");
}

fn a_ping_says_what_came_of_it(server: &Server) {
    let home = bridged(server);
    let client = home.client();
    let path = |id: &str| format!("/_matrix/client/v1/appservice/{}/ping", encode(id));
    let pong = client.post(&path("IRC Bridge"), json!({ "transaction_id": "meow" })).ok();
    assert!(pong["duration_ms"].is_u64(), "{pong}");
    let told = home.bridge.takes_received().into_iter().find(|request| request.body.contains("meow"));
    let told = told.expect("it was asked");
    assert_eq!((&*told.method, &*told.uri), ("POST", "/irc/_matrix/app/v1/ping"));
    assert_eq!(told.body, r#"{"transaction_id":"meow"}"#);
    client.post(&path("IRC Bridge"), json!({})).ok();

    let unwell = client.post(&path("IRC Bridge"), json!({ "transaction_id": "unwell" })).refused(502, "M_BAD_STATUS");
    assert_eq!((&unwell["status"], &unwell["body"]), (&json!(500), &json!(r#"{"errcode":"M_UNKNOWN"}"#)));
    let other = |token: &str| home.server.anonymous().with_token(token);
    other("away-secret").post(&path("away"), json!({})).refused(502, "M_CONNECTION_FAILED");
    other("mute-secret").post(&path("mute"), json!({})).refused(400, "M_URL_NOT_SET");
    client.post(&path("away"), json!({})).refused(403, "M_FORBIDDEN");
    client.post(&path("none"), json!({})).refused(403, "M_FORBIDDEN");
    home.server.registers("alice").client().post(&path("IRC Bridge"), json!({})).refused(403, "M_FORBIDDEN");
    other("guessed").post(&path("IRC Bridge"), json!({})).refused(401, "M_UNKNOWN_TOKEN");
    home.server.anonymous().post(&path("IRC Bridge"), json!({})).refused(401, "M_MISSING_TOKEN");
    client.send("POST", &path("IRC Bridge"), Some("{".to_owned())).refused(400, "M_NOT_JSON");
}

fn it_makes_rooms_and_users_when_they_are_asked_for(server: &Server) {
    let home = bridged(server);
    let alice = home.server.registers("alice");
    let alias = |name: &str| encode(&format!("#{}:{SERVER_NAME}", home.server.unique(name)));
    let (joined, found) = (alias("_irc_made"), alias("_irc_made"));
    let room = alice.post(&format!("/join/{joined}"), json!({})).ok();
    assert_eq!(alice.get(&format!("/directory/room/{joined}")).ok()["room_id"], room["room_id"]);
    assert!(alice.get(&format!("/directory/room/{found}")).ok()["room_id"].is_string());
    alice.get(&format!("/directory/room/{}", alias("_irc_other"))).refused(404, "M_NOT_FOUND");

    let user = format!("@{}:{SERVER_NAME}", home.server.unique("_irc_made"));
    let profile = format!("/profile/{}", encode(&user));
    alice.get(&profile).refused(404, "M_NOT_FOUND");
    let room = alice.creates_room(json!({}));
    alice.post(&format!("/rooms/{}/invite", encode(&room)), json!({ "user_id": user })).ok();
    alice.get(&profile).ok();
    let synced = home.client().get(&format!("/_matrix/client/v3/sync{}", query(&[("user_id", &user)]))).ok();
    assert!(synced["rooms"]["invite"][&room].is_object(), "{synced}");
    let user = format!("@{}:{SERVER_NAME}", home.server.unique("_irc_made"));
    alice.creates_room(json!({ "invite": [user] }));
    alice.get(&format!("/profile/{}", encode(&user))).ok();
}

fn it_keeps_directories_of_its_networks(server: &Server) {
    let home = bridged(server);
    let (client, alice) = (home.client(), home.server.registers("alice"));
    // Of a network of its own for each run.
    let network = home.server.unique("net");
    let instance = format!("IRC Bridge|{network}");
    let [plain, listed, both] = ["Plain", "Listed", "Both"].map(|name| {
        let visibility = if name == "Listed" { "private" } else { "public" };
        alice.creates_room(json!({ "name": format!("{name} {network}"), "visibility": visibility }))
    });
    let path = |room: &str| format!("/_matrix/client/v3/directory/list/appservice/{network}/{}", encode(room));
    let lists = |room: &str, visibility: &str| client.put(&path(room), json!({ "visibility": visibility }));
    for room in [&listed, &both, &both] {
        assert_eq!(lists(room, "public").ok(), json!({}));
    }
    let ids = |mut body: Value| {
        body["filter"] = json!({ "generic_search_term": network });
        let page = alice.post("/publicRooms", body).ok();
        let mut ids: Vec<String> = page["chunk"]
            .as_array()
            .expect("rooms")
            .iter()
            .map(|room| room["room_id"].as_str().expect("an id").to_owned())
            .collect();
        ids.sort();
        ids
    };
    let sorted = |rooms: &[&String]| {
        let mut rooms: Vec<String> = rooms.iter().map(|room| (*room).clone()).collect();
        rooms.sort();
        rooms
    };
    let of_network = || ids(json!({ "third_party_instance_id": instance }));
    assert_eq!(of_network(), sorted(&[&listed, &both]));
    assert_eq!(ids(json!({})), sorted(&[&plain, &both]));
    assert_eq!(ids(json!({ "include_all_networks": true })), sorted(&[&plain, &listed, &both]));
    assert_eq!(ids(json!({ "third_party_instance_id": "IRC Bridge|other" })), Vec::<String>::new());
    // Page by page, there and back.
    let page = |since: Value| {
        alice.post("/publicRooms", json!({ "third_party_instance_id": instance, "limit": 1, "since": since })).ok()
    };
    let first = page(Value::Null);
    assert_eq!(first["total_room_count_estimate"], 2);
    let second = page(first["next_batch"].clone());
    assert_ne!(first["chunk"], second["chunk"]);
    assert_eq!(page(second["prev_batch"].clone())["chunk"], first["chunk"]);
    // What a room is called there is what it is called.
    alice.sets_state(&listed, "m.room.name", "", json!({ "name": format!("Renamed {network}") })).ok();
    let found = alice
        .post(
            "/publicRooms",
            json!({ "third_party_instance_id": instance, "filter": { "generic_search_term": "renamed" } }),
        )
        .ok();
    assert_eq!(found["chunk"][0]["room_id"], listed);
    assert_eq!(lists(&both, "private").ok(), json!({}));
    assert_eq!(of_network(), sorted(&[&listed]));
    assert_eq!(ids(json!({})), sorted(&[&plain, &both]), "ours is another directory");

    lists(&plain, "secret").refused(400, "M_INVALID_PARAM");
    lists("!unknown:myelin.test", "public").refused(404, "M_NOT_FOUND");
    alice.client().put(&path(&plain), json!({ "visibility": "public" })).refused(403, "M_FORBIDDEN");
    home.server.anonymous().put(&path(&plain), json!({ "visibility": "public" })).refused(401, "M_MISSING_TOKEN");
}

fn it_looks_up_what_other_networks_have(server: &Server) {
    let home = bridged(server);
    let alice = home.server.registers("alice");
    let mut irc = described();
    irc["instances"][0]["instance_id"] = "IRC Bridge|libera".into();
    // Who does not answer is left out.
    assert_eq!(alice.get("/thirdparty/protocols").ok(), json!({ "irc": irc }));
    assert_eq!(alice.get("/thirdparty/protocol/irc").ok(), irc);
    for unknown in ["gone", "xmpp"] {
        alice.get(&format!("/thirdparty/protocol/{unknown}")).refused(404, "M_NOT_FOUND");
    }
    let location = json!([{
        "alias": format!("#_irc_matrix:{SERVER_NAME}"), "protocol": "irc", "fields": { "channel": "#matrix" },
    }]);
    // Whose token it is does not reach the bridge.
    let asked = home
        .server
        .anonymous()
        .get(&format!("/_matrix/client/v3/thirdparty/location/irc?channel=%23matrix&access_token={}", alice.token));
    assert_eq!(asked.ok(), location);
    alice.get("/thirdparty/location/irc?channel=%23other").refused(404, "M_NOT_FOUND");
    let users = alice.get(&format!("/thirdparty/user{}", query(&[("userid", &alice.id)]))).ok();
    assert_eq!(users[0]["fields"], json!({ "nick": "jane" }));
    alice.get("/thirdparty/location?alias=%23a%3Ab").refused(404, "M_NOT_FOUND");
}

fn limits_are_not_for_it(server: &Server) {
    let home = bridged(server);
    let (client, (_, acts)) = (home.client(), home.ghost("alice"));
    let says = |client: &Client, acts: &str, room: &str, number: usize| {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/n{number}{acts}", encode(room));
        client.put(&path, json!({ "msgtype": "m.text", "body": "hi" }))
    };
    let room = client.post(&format!("/_matrix/client/v3/createRoom{acts}"), json!({})).ok();
    for number in 0..6 {
        says(&client, &acts, room["room_id"].as_str().expect("a room"), number).ok();
    }
    let alice = home.server.registers("alice");
    let room = alice.creates_room(json!({}));
    for number in 0..3 {
        says(alice.client(), "", &room, number).ok();
    }
    says(alice.client(), "", &room, 3).refused(429, "M_LIMIT_EXCEEDED");
}
