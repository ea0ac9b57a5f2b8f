//! Carriers of one thread of the request tier: which actors have something for others, and who is being carried for.
//!
//! However many actors ask at once, so many are carried for at a time, of each kind: a thousand servers that do not
//! answer are not dialled together, and keep no room waiting for what it fetches, and no pusher. The others wait in
//! line, each once however often it asks. What is in memory here may get lost: actors ask again.

use std::collections::{HashMap, HashSet, VecDeque};

use domain::appservice::SIGIL;

/// Destinations that are carried for at the same time, by all threads: each may hold a connection to a server.
const SERVERS_MAX: usize = 256;
/// Rooms that are fetched for, users who are pushed to, application services that are told.
const OTHERS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Server,
    Room,
    User,
    Appservice,
}

impl Kind {
    fn of(actor: &str) -> Self {
        match actor.chars().next() {
            Some('@') => Self::User,
            Some('!') => Self::Room,
            Some(SIGIL) => Self::Appservice,
            _ => Self::Server,
        }
    }
}

/// Those of one kind.
#[derive(Default)]
struct Line {
    carried: usize,
    waiting: VecDeque<String>,
    is_waiting: HashSet<String>,
}

/// All of them.
pub(crate) struct Errands {
    threads: usize,
    lines: HashMap<Kind, Line>,
}

impl Errands {
    /// For one of so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, lines: HashMap::new() }
    }

    /// An actor asks for a carrier. Answers whether one is to come now.
    pub(crate) fn ask(&mut self, actor: &str) -> bool {
        let kind = Kind::of(actor);
        let most = self.most(kind);
        let line = self.lines.entry(kind).or_default();
        if line.carried < most {
            line.carried = line.carried.saturating_add(1);
            return true;
        }
        if line.is_waiting.insert(actor.to_owned()) {
            line.waiting.push_back(actor.to_owned());
        }
        false
    }

    /// A carrier went. Answers whom one is to come for now instead.
    pub(crate) fn went(&mut self, actor: &str) -> Option<String> {
        let line = self.lines.entry(Kind::of(actor)).or_default();
        let next = line.waiting.pop_front();
        match &next {
            Some(next) => drop(line.is_waiting.remove(next)),
            None => line.carried = line.carried.saturating_sub(1),
        }
        next
    }

    fn most(&self, kind: Kind) -> usize {
        let of_all = match kind {
            Kind::Server => SERVERS_MAX,
            Kind::Room | Kind::User | Kind::Appservice => OTHERS_MAX,
        };
        of_all.div_ceil(self.threads.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::{Errands, OTHERS_MAX, SERVERS_MAX};

    #[test]
    fn many_wait_in_line_each_once_and_keep_no_other_kind_waiting() {
        let mut errands = Errands::new(2);
        let most = SERVERS_MAX / 2;
        for number in 0..most {
            assert!(errands.ask(&format!("s{number}.test")));
        }
        for _ in 0..3 {
            for number in most..2 * most {
                assert!(!errands.ask(&format!("s{number}.test")));
            }
        }
        for number in 0..OTHERS_MAX / 2 {
            assert!(errands.ask(&format!("!r{number}:test")) && errands.ask(&format!("@u{number}:test")));
        }
        assert!(!errands.ask("!r:test") && !errands.ask("@u:test"));
        assert_eq!(errands.went("!r0:test").as_deref(), Some("!r:test"));
        let mut came = Vec::new();
        for number in 0..most {
            came.extend(errands.went(&format!("s{number}.test")));
        }
        assert_eq!(came, (most..2 * most).map(|number| format!("s{number}.test")).collect::<Vec<_>>());
        // Who asks while it is carried for waits for its turn again.
        assert!(!errands.ask(&came[0]));
        assert_eq!(errands.went(&came[1]).as_ref(), Some(&came[0]));
        for actor in &came[..most - 1] {
            assert_eq!(errands.went(actor), None);
        }
        assert!(errands.ask("s0.test"));
    }
}
