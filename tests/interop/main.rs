//! Lets other projects' clients hold their conversations on each host, and counts their steps. See tests/interop/run.

use std::{
    io::{BufRead, BufReader, Error, Read, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
};

use harness::{Gateway, Host, Mailbox, Server};

const USAGE: &str = "usage: interop RUST_CONVERSATION NODE [--host native|worker]…";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(rust), Some(node)) = (arguments.next(), arguments.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let mut hosts = Vec::new();
    while let Some(argument) = arguments.next() {
        let named = arguments.next().unwrap_or_default();
        match Host::ALL.into_iter().find(|host| argument == "--host" && host.name() == named) {
            Some(host) => hosts.push(host),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::FAILURE;
            }
        }
    }
    if hosts.is_empty() {
        hosts = Host::ALL.into();
    }

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/js");
    let script = |name: &str| {
        let mut command = Command::new(&node);
        command.arg(scripts.join(name));
        command
    };
    let (mut passed, mut failed) = (0, 0);
    for host in hosts {
        // It wakes clients through a gateway on this machine.
        let (server, gateway) = (Server::with_network(host, &[]), Gateway::starts());
        let mailbox = Mailbox::encrypted();
        let posted = Server::with_mail(host, &mailbox, &[("EMAIL_NOTIFICATION_DELAY", "1")]);
        for (client, command) in [
            ("matrix-js-sdk", script("conversation.mjs").arg(server.url())),
            ("matrix-js-sdk", script("rooms.mjs").arg(server.url())),
            ("matrix-js-sdk", script("account.mjs").arg(server.url())),
            ("matrix-js-sdk", script("threads.mjs").arg(server.url())),
            ("matrix-js-sdk", script("finding.mjs").arg(server.url())),
            ("matrix-js-sdk", script("push.mjs").arg(server.url()).arg(gateway.url())),
            ("matrix-js-sdk", script("mail.mjs").arg(posted.url())),
            ("matrix-js-sdk", script("encryption.mjs").arg(server.url())),
            ("matrix-sdk", Command::new(&rust).arg(server.url()).arg(gateway.url())),
        ] {
            let held = hold(command, &gateway, &mailbox, |line| println!("{} {client}: {line}", host.name()))
                .unwrap_or_else(|error| panic!("{client} cannot be talked with: {error}"));
            passed += held.passed;
            failed += held.failed;
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Held {
    passed: usize,
    failed: usize,
}

/// Lets a client hold its conversation to the end. One that says «pushes EVENT» hears an empty line once the gateway
/// was told of that event, as the next that it is told of; one that says «mails ADDRESS» hears the link in the next
/// message to there.
fn hold(command: &mut Command, gateway: &Gateway, mailbox: &Mailbox, show: impl Fn(&str)) -> Result<Held, Error> {
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut hears, says) = (client.stdin.take().expect("piped"), client.stdout.take().expect("piped"));
    let mut complains = client.stderr.take().expect("piped");
    let complaints = thread::spawn(move || {
        let mut all = Vec::new();
        complains.read_to_end(&mut all).map(|_| all)
    });
    let mut held = Held::default();
    for line in BufReader::new(says).lines() {
        let line = line?;
        show(&line);
        if let Some(event_id) = line.strip_prefix("pushes ") {
            // Notifications without an event say how much is unread.
            let pushed = std::iter::repeat_with(|| gateway.takes()).find(|pushed| pushed["event_id"].is_string());
            assert_eq!(pushed.expect("there is always a next")["event_id"], event_id, "this was to wake nobody");
            held.passed += 1;
            hears.write_all(b"\n")?;
        }
        if let Some(address) = line.strip_prefix("mails ") {
            hears.write_all(format!("{}\n", mailbox.takes(address).link()).as_bytes())?;
        }
        held.passed += usize::from(line.starts_with("ok "));
        held.failed += usize::from(line.starts_with("FAILED "));
    }
    let ended = client.wait()?;
    let complaints = complaints.join().expect("it only reads")?;
    if !ended.success() {
        eprintln!("{}", String::from_utf8_lossy(&complaints));
    }
    // A conversation that ends badly without saying why has failed too.
    if held.failed == 0 && (!ended.success() || held.passed == 0) {
        held.failed = 1;
    }
    Ok(held)
}
