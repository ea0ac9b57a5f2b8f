//! Every operation of the specification (`endpoints.tsv`: its OpenAPI as one table), asked well and badly; and README's
//! table of which there are, which is written from here.
//!
//! `cargo test -p tests --test client endpoint_matrix -- --nocapture` prints what each answered.
//! `MYELIN_WRITE_README=1` has README's table written.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use harness::{Answer, Server, User, encode, on_each_host};

on_each_host![every_operation_answers_as_it_should];

const TABLE: &str = include_str!("endpoints.tsv");
const MARKS: [&str; 2] = ["<!-- operations: written by tests/client/endpoint_matrix.rs -->", "<!-- /operations -->"];

/// What is not built, a method and a path a line: whoever builds one strikes it out.
const NOT_BUILT: &str = include_str!("not_built.txt");

/// Operations that take a token, and do without.
const TOKEN_OPTIONAL: &[&str] = &["getVersions", "getRoomSummary"];

/// Operations of the method POST or PUT that expect no JSON, or an object in which nothing can be.
const NO_JSON: &[&str] = &["createContent", "logout", "logout_all", "uploadContent", "uploadContentToMXC"];

/// Operations that are for application services alone: nobody else's body is looked at.
const OF_APPSERVICES: &[&str] = &["pingAppservice", "updateAppserviceRoomDirectoryVisibility"];

/// Operations that a server answers with `404 M_UNRECOGNIZED` which does not offer what they are about, as this one does:
/// «the homeserver does not support» OAuth 2.0.
const NOT_OFFERED: &str = include_str!("not_offered.txt");

struct Operation {
    api: &'static str,
    method: &'static str,
    path: &'static str,
    id: &'static str,
    area: &'static str,
    is_deprecated: bool,
    auth: &'static str,
}

impl Operation {
    fn all() -> Vec<Self> {
        let operation = |line: &'static str| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [api, method, path, id, area, deprecated, ..] = cells[..] else { panic!("{line}") };
            Self { api, method, path, id, area, is_deprecated: deprecated == "yes", auth: cells[8] }
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
        let segments = self.path.split('/').map(|segment| {
            let value = match segment {
                "{userId}" => user.id.as_str(),
                "{roomId}" | "{roomIdOrAlias}" => "!unknown:myelin.test",
                "{roomAlias}" => "#unknown:myelin.test",
                "{eventId}" => "$unknown",
                "{serverName}" => "myelin.test",
                "{eventType}" => "m.room.name",
                "{receiptType}" => "m.read",
                "{relType}" => "m.thread",
                "{kind}" => "override",
                "{keyName}" => "displayname",
                "{version}" => "999",
                variable if variable.starts_with('{') => "unknown",
                literal => return literal.to_owned(),
            };
            encode(value)
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
    cells: [String; 4],
    faults: Vec<String>,
}

impl Row {
    fn of(operation: &Operation, server: &Server, user: &User) -> Self {
        let mut row = Self::default();
        let is_of_clients = operation.api == "client-server";
        let uri = operation.uri(user);
        let plain = operation.asks(user.client(), &uri, "{}");
        let exists = code(&plain) != "404 M_UNRECOGNIZED";
        if NOT_OFFERED.lines().any(|name| name == operation.name()) {
            row.cells[0] = code(&plain);
            row.expect(!exists, "it should say that this is not offered", &plain);
            return row;
        }
        row.cells[0] = code(&plain);
        row.expect(exists || !operation.is_built(), "it is not there, and not in not_built.txt", &plain);
        if !exists {
            return row;
        }
        if !operation.is_built() {
            row.cells[0].push_str(" (strike it out of not_built.txt)");
        }
        row.expect(plain.status < 500, "with ids that nobody has it breaks", &plain);

        let anonymous = operation.asks(&server.anonymous(), &uri, "{}");
        row.cells[1] = code(&anonymous);
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
            row.cells[2] = code(&malformed);
            let is_right = [NO_JSON, OF_APPSERVICES].concat().contains(&operation.id)
                || ["400 M_NOT_JSON", "400 M_BAD_JSON"].contains(&&*code(&malformed));
            row.expect(is_right && malformed.status < 500, "a body that is no JSON is not refused as that", &malformed);
        }
        let wrong = user.client().send("PATCH", &uri, Some("{}".to_owned()));
        row.cells[3] = code(&wrong);
        row.expect(row.cells[3] == "405 M_UNRECOGNIZED", "a method that it has not is not refused as that", &wrong);
        row
    }

    fn expect(&mut self, is_right: bool, what: &str, answer: &Answer) {
        if !is_right {
            self.faults.push(format!("{}: {what}: {} {}", answer.request, answer.status, answer.body));
        }
    }
}

fn every_operation_answers_as_it_should(server: &Server) {
    let (mut table, mut faults) = (String::new(), Vec::new());
    for operation in Operation::all() {
        // Some of them end the session.
        let row = Row::of(&operation, server, &server.registers("asker"));
        let [plain, anonymous, malformed, wrong] = &row.cells;
        let name = operation.name();
        let _ = writeln!(table, "{name:<96} | {plain:<28} | {anonymous:<20} | {malformed:<16} | {wrong}");
        faults.extend(row.faults);
    }
    println!("{:<96} | asked | no token | no JSON | wrong method\n{table}", "operation");
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
