//! Which versions of the specification the server claims: those all of whose additions it serves.
//!
//! `versions.tsv` has a line for what each version added to the client-server API that asks something of the server,
//! and the story that shows it, or `-` where it is not served. What is the client's own business (how it renders,
//! encrypts or answers) has none. What only servers do that offer something optional, such as the OAuth 2.0 API, is
//! shown by the answer of those that do not: `404 M_UNRECOGNIZED`, as the specification has it.

use std::path::Path;

use harness::{Answer, Server, encode, on_each_host};

on_each_host![claimed_versions_are_served_whole, the_old_paths_lead_there_still];

const ADDITIONS: &str = include_str!("versions.tsv");
const OPERATIONS: &str = include_str!("endpoints.tsv");
const NOT_BUILT: &str = include_str!("not_built.txt");

/// The newest whose additions were gone through.
const NEWEST: u32 = 19;

/// An operation for clients: its method, its path, and the version that added it.
fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    OPERATIONS.lines().skip(1).filter_map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [api, method, path, _, area, _, since, ..] = cells[..] else { panic!("{line}") };
        (api == "client-server" && !area.contains("Application Services")).then_some((method, path, since))
    })
}

fn is_built(method: &str, path: &str) -> bool {
    !NOT_BUILT.lines().any(|name| name == format!("{method} {path}"))
}

fn minor(version: &str) -> u32 {
    version.trim_start_matches("v1.").trim_start_matches("1.").parse().unwrap_or(0)
}

/// What is missing of a version: operations that are not built, and what else it added.
fn missing(version: u32) -> Vec<String> {
    let not_built = operations().filter(|(method, path, since)| minor(since) == version && !is_built(method, path));
    let not_built = not_built.map(|(method, path, _)| format!("{method} {path}"));
    let not_served = additions().filter(|(since, _, story)| minor(since) == version && *story == "-");
    not_built.chain(not_served.map(|(_, what, _)| what.to_owned())).collect()
}

/// A version, what it added, and the story that shows it.
fn additions() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    ADDITIONS.lines().map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
        [version, what, story] => (version, what, story),
        _ => panic!("{line}"),
    })
}

fn claimed(server: &Server) -> Vec<String> {
    let versions = server.anonymous().get("/_matrix/client/versions").ok();
    let listed = versions["versions"].as_array().expect("versions").iter();
    listed.map(|version| version.as_str().expect("a version").to_owned()).collect()
}

fn claimed_versions_are_served_whole(server: &Server) {
    let claimed = claimed(server);
    let whole = (2..=NEWEST).take_while(|version| missing(*version).is_empty()).map(|version| format!("v1.{version}"));
    let oldest = ["r0.6.1", "v1.1"].map(str::to_owned).into_iter();
    assert_eq!([missing(0), missing(1)].concat(), [""; 0], "of the oldest ones");
    assert_eq!(claimed, oldest.chain(whole).collect::<Vec<_>>());
}

/// Those from before v1.1 had `r0` where there is `v3`.
fn the_old_paths_lead_there_still(server: &Server) {
    let alice = server.registers("alice");
    let old = operations().filter(|(method, path, since)| *since == "pre-1.1" && is_built(method, path));
    let mut asked = 0;
    for (method, path, _) in old.filter(|(_, path, _)| path.contains("/v3/")) {
        let path = path.replace("/client/v3/", "/client/r0/").replace("/media/v3/", "/media/r0/");
        let segments = path.split('/').map(|segment| match segment {
            "{userId}" => encode(&alice.id),
            "{roomId}" | "{roomIdOrAlias}" => encode("!unknown:myelin.test"),
            "{roomAlias}" => encode("#unknown:myelin.test"),
            "{eventId}" => encode("$unknown"),
            variable if variable.starts_with('{') => "unknown".to_owned(),
            literal => literal.to_owned(),
        });
        let path = segments.collect::<Vec<_>>().join("/") + if path.ends_with("/events") { "?timeout=0" } else { "" };
        // With another method nothing happens, and an endpoint that is not there says so.
        let Answer { status, body, .. } = alice.client().send("PATCH", &path, None);
        assert_eq!((status, &body["errcode"]), (405, &"M_UNRECOGNIZED".into()), "{method} {path}: {body}");
        asked += 1;
    }
    assert!(asked > 100, "{asked}");
}

#[test]
fn every_addition_has_its_story() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for version in 2..=NEWEST {
        assert!(additions().any(|(since, ..)| minor(since) == version), "v1.{version} has no line");
    }
    for (version, what, story) in additions().filter(|(.., story)| *story != "-") {
        assert!((2..=NEWEST).contains(&minor(version)), "{version}: {what}");
        let (file, name) = story.split_once("::").expect(what);
        let has_story = |of: &str, argument: &str| {
            let text = std::fs::read_to_string(folder.join(of).join(format!("{file}.rs"))).unwrap_or_default();
            text.contains(&format!("\nfn {name}({argument})"))
        };
        let is_told = has_story("client", "server: &Server") || has_story("federation", "host: Host");
        assert!(is_told, "there is no story {story}");
    }
}
