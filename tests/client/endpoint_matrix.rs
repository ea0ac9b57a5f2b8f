//! Every operation of the specification (`endpoints.tsv`: its OpenAPI as one table), asked well and badly; and README's
//! table of which there are, which is written from here.
//!
//! What clients ask stands in `operations.tsv`, a line for each operation: the query and the body of a request that
//! works, with `%names%` for what a [`Fixture`] has made; what comes of it, or the story that shows that; what comes of
//! the same request by somebody whose business it is not; and what comes of it where nobody has such an id. `-`: there
//! is no such case.
//!
//! `cargo test -p tests --test client endpoint_matrix -- --nocapture` prints what each answered.
//! `MYELIN_WRITE_README=1` has README's table written.

mod fixture;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use harness::{Answer, Client, Server, User, encode, on_each_host};

use self::fixture::Fixture;

on_each_host![every_operation_answers_as_it_should];

const TABLE: &str = include_str!("endpoints.tsv");
const CASES: &str = include_str!("operations.tsv");
const MARKS: [&str; 2] = ["<!-- operations: written by tests/client/endpoint_matrix.rs -->", "<!-- /operations -->"];

/// What is not built, a method and a path a line: whoever builds one strikes it out.
const NOT_BUILT: &str = include_str!("not_built.txt");

/// Operations that take a token, and do without.
const TOKEN_OPTIONAL: &[&str] = &["getVersions", "getRoomSummary"];

/// Operations of the method POST or PUT that expect no JSON, or an object in which nothing can be.
const NO_JSON: &[&str] = &["createContent", "logout", "logout_all", "uploadContent", "uploadContentToMXC"];

/// Operations that are for application services alone: nobody else's body is looked at.
const OF_APPSERVICES: &[&str] = &["pingAppservice", "updateAppserviceRoomDirectoryVisibility"];

/// Operations that are limited by what the fixture would use up: stories of `rate_limits` show that.
const LIMITED_APART: &[&str] = &["login", "register"];

/// Every limit but those, so that each action is possible once.
const LIMITS: [&str; 14] = [
    "RC_REGISTRATION_TOKEN_VALIDITY",
    "RC_MESSAGE",
    "RC_JOINS",
    "RC_INVITES",
    "RC_ROOM_CREATION",
    "RC_EMAIL_VALIDATION",
    "RC_USER_DIRECTORY",
    "RC_MEDIA_CREATE",
    "RC_RECEIPTS",
    "RC_REPORTS",
    "RC_PRESENCE",
    "RC_REQUESTS",
    "RC_TO_DEVICE",
    "RC_URL_PREVIEWS",
];
/// How often it takes at most until a limit is reached.
const ASKED_MAX: usize = 4;

/// Operations that a server answers with `404 M_UNRECOGNIZED` which does not offer what they are about, as this one
/// does: «the homeserver does not support» OAuth 2.0.
const NOT_OFFERED: &str = include_str!("not_offered.txt");

struct Operation {
    api: &'static str,
    method: &'static str,
    path: &'static str,
    id: &'static str,
    area: &'static str,
    is_deprecated: bool,
    auth: &'static str,
    is_limited: bool,
}

/// How an operation of clients is asked, and what is to come of that.
struct Case {
    query: &'static str,
    body: &'static str,
    works: &'static str,
    anothers: &'static str,
    unknown: &'static str,
}

impl Case {
    fn of(operation: &Operation) -> Option<Self> {
        if operation.api != "client-server" {
            return None;
        }
        let line = CASES.lines().find(|line| line.split('\t').next() == Some(operation.id))?;
        let [_, query, body, works, anothers, unknown] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        Some(Self { query, body, works, anothers, unknown })
    }

    /// The story that shows that it works, if none of this module does.
    fn story(&self) -> Option<(&'static str, &'static str)> {
        self.works.split_once("::")
    }

    /// Whether it takes such a thing to ask.
    fn mentions(&self, operation: &Operation, name: &str) -> bool {
        let named = format!("%{name}%");
        operation.path.contains(&format!("{{{name}}}")) || [self.query, self.body].iter().any(|it| it.contains(&named))
    }
}

/// A request with everything in its place.
struct Asking<'a> {
    operation: &'a Operation,
    case: &'a Case,
    fixture: &'a Fixture,
}

impl Asking<'_> {
    /// Of what there is.
    fn well(&self, client: &Client) -> Answer {
        self.of(client, &|name| self.fixture.value(name))
    }

    /// Of what nobody has.
    fn in_vain(&self, client: &Client) -> Answer {
        let names_others = ["userId", "eventType", "txnId", "kind", "keyName", "serverName"];
        let variables = self.operation.path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
        let is_of_the_user = variables.clone().any(|name| !names_others.contains(&name));
        self.of(client, &|name| match name {
            "userId" if is_of_the_user => self.fixture.value(name),
            // What is about somebody, or proves something, is as it was.
            "bob" | "mallory" | "proof" | "new" | "backup" | "key" | "since" | "serverName" => self.fixture.value(name),
            _ => None,
        })
    }

    fn of(&self, client: &Client, value: &dyn Fn(&str) -> Option<String>) -> Answer {
        static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
        let Self { operation, case, .. } = self;
        let segments = operation.path.split('/').map(|segment| {
            let Some(name) = segment.strip_prefix('{').and_then(|it| it.strip_suffix('}')) else {
                return segment.to_owned();
            };
            match name {
                "txnId" => TRANSACTIONS.fetch_add(1, Ordering::Relaxed).to_string(),
                "stateKey" => String::new(),
                "eventType" if operation.id == "sendMessage" => "m.room.message".to_owned(),
                "tag" => "u.work".to_owned(),
                _ => encode(&value(name).unwrap_or_else(|| unknown(name).to_owned())),
            }
        });
        let path = segments.collect::<Vec<_>>().join("/");
        let filled = |text: &str, encoded: bool| {
            let mut parts = text.split('%').enumerate().map(|(place, part)| match place % 2 {
                0 => part.to_owned(),
                _ => {
                    let value = value(part).unwrap_or_else(|| unknown(part).to_owned());
                    if encoded { encode(&value) } else { value }
                }
            });
            parts.by_ref().collect::<String>()
        };
        let query = if case.query.is_empty() { String::new() } else { format!("?{}", filled(case.query, true)) };
        let uri = format!("{path}{query}");
        if operation.id.starts_with("uploadContent") {
            return client.send_bytes(
                operation.method,
                &uri,
                &[("Content-Type", "text/plain")],
                Some(b"hello".to_vec()),
            );
        }
        let body = match case.body {
            "" => operation.has_body().then(|| "{}".to_owned()),
            body => Some(filled(body, false)),
        };
        client.send(operation.method, &uri, body)
    }
}

/// An id, or a name, that nobody has.
fn unknown(name: &str) -> &'static str {
    match name {
        "userId" => "@unknown:myelin.test",
        "roomId" | "roomIdOrAlias" => "!unknown:myelin.test",
        "roomAlias" => "#unknown:myelin.test",
        "eventId" => "$unknown",
        "serverName" => "myelin.test",
        "eventType" => "m.room.name",
        "receiptType" => "m.read",
        "relType" => "m.thread",
        "kind" => "override",
        "keyName" => "displayname",
        "version" => "999",
        _ => "unknown",
    }
}

impl Operation {
    fn all() -> Vec<Self> {
        let operation = |line: &'static str| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [api, method, path, id, area, deprecated, ..] = cells[..] else { panic!("{line}") };
            let (auth, is_limited) = (cells[8], cells[9] == "yes");
            Self { api, method, path, id, area, is_deprecated: deprecated == "yes", auth, is_limited }
        };
        TABLE.lines().skip(1).map(operation).collect()
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn is_built(&self) -> bool {
        !NOT_BUILT.lines().any(|name| name == self.name())
    }

    fn has_body(&self) -> bool {
        matches!(self.method, "POST" | "PUT")
    }

    /// A path with ids that nobody has but for the user's own.
    fn uri(&self, user: &User) -> String {
        let segments =
            self.path.split('/').map(|segment| match segment.strip_prefix('{').and_then(|it| it.strip_suffix('}')) {
                Some("userId") => encode(&user.id),
                Some(name) => encode(unknown(name)),
                None => segment.to_owned(),
            });
        let path = segments.collect::<Vec<_>>().join("/");
        match self.path {
            // A backup is named first of all.
            backup if backup.contains("/room_keys/keys") => format!("{path}?version=999"),
            waiting if waiting.ends_with("/events") => format!("{path}?timeout=0"),
            _ => path,
        }
    }

    fn asks(&self, client: &harness::Client, uri: &str, body: &str) -> Answer {
        client.send(self.method, uri, self.has_body().then(|| body.to_owned()))
    }
}

fn code(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.body["errcode"].as_str().unwrap_or_default()).trim_end().to_owned()
}

/// What one operation answered, and what is wrong with that.
#[derive(Default)]
struct Row {
    cells: [String; 7],
    faults: Vec<String>,
}

/// The cells of a row.
const WORKS: usize = 0;
const NO_TOKEN: usize = 1;
const ANOTHERS: usize = 2;
const MALFORMED: usize = 3;
const UNKNOWN: usize = 4;
const WRONG_METHOD: usize = 5;
const OVER_THE_LIMIT: usize = 6;

impl Row {
    fn of(operation: &Operation, server: &Server, user: &User) -> Self {
        let mut row = Self::default();
        let is_of_clients = operation.api == "client-server";
        let uri = operation.uri(user);
        let plain = operation.asks(user.client(), &uri, "{}");
        let exists = code(&plain) != "404 M_UNRECOGNIZED";
        if NOT_OFFERED.lines().any(|name| name == operation.name()) {
            row.cells[UNKNOWN] = code(&plain);
            row.expect(!exists, "it should say that this is not offered", &plain);
            return row;
        }
        row.cells[UNKNOWN] = code(&plain);
        row.expect(exists || !operation.is_built(), "it is not there, and not in not_built.txt", &plain);
        if !exists {
            return row;
        }
        if !operation.is_built() {
            row.cells[UNKNOWN].push_str(" (strike it out of not_built.txt)");
        }
        row.expect(plain.status < 500, "with ids that nobody has it breaks", &plain);

        let anonymous = operation.asks(&server.anonymous(), &uri, "{}");
        row.cells[NO_TOKEN] = code(&anonymous);
        let expected = match operation.auth {
            _ if TOKEN_OPTIONAL.contains(&operation.id) => None,
            "accessTokenBearer" | "appserviceAccessTokenBearer" => Some("401 M_MISSING_TOKEN"),
            "signedRequest" => Some("401 M_UNAUTHORIZED"),
            _ => None,
        };
        let is_right = expected.is_none_or(|expected| code(&anonymous) == expected);
        row.expect(is_right && anonymous.status < 500, "without a token it should not be had", &anonymous);

        if operation.has_body() && is_of_clients {
            let malformed = operation.asks(user.client(), &uri, "{");
            row.cells[MALFORMED] = code(&malformed);
            let is_right = [NO_JSON, OF_APPSERVICES].concat().contains(&operation.id)
                || ["400 M_NOT_JSON", "400 M_BAD_JSON"].contains(&&*code(&malformed));
            row.expect(is_right && malformed.status < 500, "a body that is no JSON is not refused as that", &malformed);
        }
        let wrong = user.client().send("PATCH", &uri, Some("{}".to_owned()));
        row.cells[WRONG_METHOD] = code(&wrong);
        let is_right = row.cells[WRONG_METHOD] == "405 M_UNRECOGNIZED";
        row.expect(is_right, "a method that it has not is not refused as that", &wrong);
        row
    }

    /// Asks about things that there are, those of others and those that nobody has.
    fn asks(&mut self, operation: &Operation, case: &Case, server: &Server) {
        let fixture = &Fixture::of(server, operation, case);
        let asking = Asking { operation, case, fixture };
        if case.anothers != "-" {
            let answer = asking.well(fixture.stranger.client());
            self.cells[ANOTHERS] = code(&answer);
            self.expect(self.cells[ANOTHERS] == case.anothers, "what is another's is not answered so", &answer);
        }
        self.cells[UNKNOWN].clear();
        if case.unknown != "-" {
            let answer = asking.in_vain(fixture.asker.client());
            self.cells[UNKNOWN] = code(&answer);
            self.expect(self.cells[UNKNOWN] == case.unknown, "what nobody has is not answered so", &answer);
        }
        if case.story().is_none() {
            // Last: there may be nobody to ask any more.
            let answer = asking.well(fixture.asker.client());
            self.cells[WORKS] = code(&answer);
            self.expect(self.cells[WORKS] == case.works, "it does not work", &answer);
        }
    }

    /// Asks until it is too often.
    fn asks_often(&mut self, operation: &Operation, case: &Case, limited: &Server) {
        let fixture = &Fixture::of(limited, operation, case);
        let asking = Asking { operation, case, fixture };
        let mut answers = std::iter::repeat_with(|| asking.well(fixture.asker.client())).take(ASKED_MAX);
        let is_over = |answer: &Answer| code(answer) == "429 M_LIMIT_EXCEEDED";
        let answer = answers.find(is_over).unwrap_or_else(|| asking.well(fixture.asker.client()));
        self.cells[OVER_THE_LIMIT] = code(&answer);
        self.expect(is_over(&answer), "it may be asked without end", &answer);
    }

    fn expect(&mut self, is_right: bool, what: &str, answer: &Answer) {
        if !is_right {
            self.faults.push(format!("{}: {what}: {} {}", answer.request, answer.status, answer.body));
        }
    }
}

fn every_operation_answers_as_it_should(server: &Server) {
    let limits = LIMITS.iter().map(|name| (*name, "0.001,1")).chain([("RC_REGISTRATION", "0"), ("RC_LOGIN", "0")]);
    let limited = Server::with(server.host(), &limits.chain([("RATE_LIMITS", "on")]).collect::<Vec<_>>());
    let (mut table, mut faults) = (String::new(), Vec::new());
    for operation in Operation::all() {
        // Some of them end the session.
        let mut row = Row::of(&operation, server, &server.registers("asker"));
        if let Some(case) = Case::of(&operation) {
            row.asks(&operation, &case, server);
            if operation.is_limited && !LIMITED_APART.contains(&operation.id) {
                row.asks_often(&operation, &case, &limited);
            }
        }
        let cells = row.cells.iter().map(|cell| format!("{cell:<20}")).collect::<Vec<_>>().join(" | ");
        let _ = writeln!(table, "{:<96} | {cells}", operation.name());
        faults.extend(row.faults);
    }
    let columns = "works, no token, another's, no JSON, unknown id, wrong method, over the limit";
    println!("operation: {columns}\n{table}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// README's table: by section of the specification, how many operations there are, and which are missing.
fn written() -> String {
    let mut sections: BTreeMap<(&str, String), Vec<Operation>> = BTreeMap::new();
    for operation in Operation::all() {
        let section = operation.area.split(" > ").next().unwrap_or_default().trim_start_matches("Module: ").to_owned();
        sections.entry((operation.api, section)).or_default().push(operation);
    }
    let mut text = "| API | section | operations | not built yet |\n|---|---|---|---|\n".to_owned();
    let (mut built_of_all, mut all) = (0, 0);
    for ((api, section), operations) in sections {
        let missing: Vec<&Operation> = operations.iter().filter(|operation| !operation.is_built()).collect();
        let built = operations.len() - missing.len();
        (built_of_all, all) = (built_of_all + built, all + operations.len());
        if missing.is_empty() {
            continue;
        }
        let name = |operation: &&Operation| {
            let path = operation.path.trim_start_matches("/_matrix/").trim_start_matches("client/");
            let path = path.trim_start_matches("federation/");
            format!("`{} {path}`{}", operation.method, if operation.is_deprecated { " (deprecated)" } else { "" })
        };
        let missing = missing.iter().map(name).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "| {api} | {section} | {built} of {} | {missing} |", operations.len());
    }
    format!(
        "{built_of_all} of the {all} operations of v1.19 are served. Sections with operations that are not:\n\n{text}"
    )
}

#[test]
fn readme_says_which_operations_there_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = readme.split_once(MARKS[0]).expect("the first mark");
    let (_, tail) = rest.split_once(MARKS[1]).expect("the second mark");
    let expected = format!("{head}{}\n\n{}\n{}{tail}", MARKS[0], written(), MARKS[1]);
    if std::env::var_os("MYELIN_WRITE_README").is_some() {
        std::fs::write(&path, expected).unwrap();
    } else {
        assert!(readme == expected, "README's table is old: write it with MYELIN_WRITE_README=1");
    }
}

#[test]
fn what_is_not_built_is_in_the_specification() {
    let names: Vec<String> = Operation::all().iter().map(Operation::name).collect();
    for name in NOT_BUILT.lines() {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn every_operation_of_clients_has_its_case() {
    let all = Operation::all();
    let of_clients = || all.iter().filter(|operation| operation.api == "client-server");
    let is_offered = |operation: &&Operation| !NOT_OFFERED.lines().any(|name| name == operation.name());
    for operation in of_clients().filter(is_offered) {
        assert!(Case::of(operation).is_some(), "{} has no line", operation.id);
    }
    for line in CASES.lines().skip(1) {
        let id = line.split('\t').next();
        assert!(of_clients().any(|operation| Some(operation.id) == id), "{line}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, name) in of_clients().filter_map(|operation| Case::of(operation)?.story()) {
        let has_story = |of: &str, argument: &str| {
            let text = std::fs::read_to_string(folder.join(of).join(format!("{file}.rs"))).unwrap_or_default();
            text.contains(&format!("\nfn {name}({argument})"))
        };
        let is_told = has_story("client", "server: &Server") || has_story("federation", "host: Host");
        assert!(is_told, "there is no story {file}::{name}");
    }
}
