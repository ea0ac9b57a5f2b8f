//! Lets other projects' clients hold their conversations on each host, and counts their steps. See tests/interop/run.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use harness::{Gateway, Host, Server};

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
        let conversations = [
            ("matrix-js-sdk", script("conversation.mjs").arg(server.url()).output()),
            ("matrix-js-sdk", script("rooms.mjs").arg(server.url()).output()),
            ("matrix-js-sdk", script("account.mjs").arg(server.url()).output()),
            ("matrix-js-sdk", script("threads.mjs").arg(server.url()).output()),
            ("matrix-js-sdk", script("finding.mjs").arg(server.url()).output()),
            ("matrix-js-sdk", script("push.mjs").arg(server.url()).arg(gateway.url()).output()),
            ("matrix-js-sdk", script("encryption.mjs").arg(server.url()).output()),
            ("matrix-sdk", Command::new(&rust).arg(server.url()).output()),
        ];
        for (client, conversation) in conversations {
            let conversation = conversation.unwrap_or_else(|error| panic!("{client} does not start: {error}"));
            let told = String::from_utf8_lossy(&conversation.stdout).into_owned();
            for line in told.lines() {
                println!("{} {client}: {line}", host.name());
            }
            let mut announced: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("pushes ")).collect();
            // In any order: rooms are told of one by one.
            while !announced.is_empty() {
                let pushed = gateway.takes();
                // Or how much is unread.
                let Some(event_id) = pushed["event_id"].as_str() else { continue };
                let place = announced.iter().position(|announced| *announced == event_id);
                announced.remove(place.unwrap_or_else(|| panic!("this was to wake nobody: {pushed}")));
                passed += 1;
            }
            if !conversation.status.success() {
                eprintln!("{}", String::from_utf8_lossy(&conversation.stderr));
            }
            let steps = told.lines().filter(|line| line.starts_with("ok ")).count();
            passed += steps;
            // A conversation that ends badly without saying why has failed too.
            let refused = told.lines().filter(|line| line.starts_with("FAILED ")).count();
            failed += if conversation.status.success() && steps > 0 { refused } else { refused.max(1) };
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
