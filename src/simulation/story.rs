//! What people and fate do in a run: a list of steps that follows from the seed, and can be read.
//!
//! A step names people, rooms and servers by their number, so that a story from which steps were dropped is a story
//! still: what cannot be done any more is refused, or does nothing.

use std::{collections::BTreeSet, fmt};

use crate::{dice::Dice, liar::Lie};

/// The versions of rooms that stories are told with.
pub(crate) const ROOM_VERSIONS: [&str; 11] = ["1", "2", "3", "5", "6", "7", "8", "9", "10", "11", "12"];
const SERVERS: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
const NAMES: [&str; 12] = ["ada", "ben", "cyd", "dov", "eva", "fay", "gus", "hal", "ivy", "jon", "kit", "lea"];

pub(crate) fn server_name(server: usize) -> String {
    format!("{}.test", SERVERS[server % SERVERS.len()])
}

/// How large a world is, and how long its story.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub servers: usize,
    pub people: usize,
    pub steps: usize,
    /// Whether there is a server that lies.
    pub is_hostile: bool,
}

/// Everything that is to happen.
#[derive(Debug, Clone)]
pub struct Story {
    pub seed: u64,
    pub size: Size,
    /// Whether things go wrong by themselves.
    pub is_foul: bool,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Step {
    /// How long after the step before.
    pub after_ms: u64,
    pub deed: Deed,
}

#[derive(Debug, Clone)]
pub enum Deed {
    /// Somebody does something in a room.
    In { room: usize, by: usize, act: Act },
    /// The server that lies tells a lie about a room.
    Lie { room: usize, lie: Lie },
    /// One server's process dies, and starts again.
    Crash { server: usize, down_ms: u64 },
    /// A process is stopped in order and started again.
    Restart { server: usize, down_ms: u64 },
    /// An actor loses its memory.
    Evict { server: usize, nth: u64 },
    /// An actor is put back to an older copy of it.
    Restore { server: usize, nth: u64, back: usize },
    /// Two servers do not reach each other for a while.
    Cut { one: usize, other: usize, ms: u64 },
    /// Nobody does anything.
    Pause { ms: u64 },
}

#[derive(Debug, Clone)]
pub enum Act {
    Create {
        version: usize,
        preset: Preset,
        invited: Vec<usize>,
    },
    Invite(usize),
    Join,
    Knock,
    Leave,
    Kick(usize),
    Ban(usize),
    Unban(usize),
    Say,
    Topic,
    OwnState,
    JoinRule(JoinRule),
    Visibility(usize),
    Power {
        of: usize,
        level: u64,
    },
    /// Redacts what was said so many messages ago.
    Redact {
        back: usize,
    },
    Read,
    Upgrade {
        version: usize,
    },
    /// Sends a message to somebody's device.
    Whisper(usize),
    /// Takes one of somebody's one-time keys.
    Claim(usize),
    /// Logs in with one more device.
    AddDevice,
    /// Logs one of the other devices out.
    DropDevice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    Public,
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRule {
    Public,
    Invite,
    Knock,
    /// Members of another room may join.
    Restricted(usize),
}

pub(crate) const VISIBILITIES: [&str; 4] = ["shared", "joined", "invited", "world_readable"];

impl Size {
    /// Where a person is at home.
    pub(crate) fn home(&self, person: usize) -> usize {
        person % self.servers
    }
}

pub(crate) fn person_name(person: usize) -> String {
    let round = person / NAMES.len();
    let name = NAMES[person % NAMES.len()];
    if round == 0 { name.to_owned() } else { format!("{name}{round}") }
}

/// What the one who makes up a story believes of a room, so that most of what it tells can happen.
struct Room {
    version: usize,
    founder: usize,
    members: BTreeSet<usize>,
    invited: BTreeSet<usize>,
    rule: JoinRule,
}

/// Makes up a story.
struct Teller<'a> {
    dice: Dice,
    size: &'a Size,
    rooms: Vec<Room>,
}

impl Story {
    pub fn new(seed: u64, size: Size) -> Self {
        let mut teller = Teller { dice: Dice::of(seed, "story"), size: &size, rooms: Vec::new() };
        let is_foul = !seed.is_multiple_of(4);
        let mut steps = Vec::new();
        for _ in 0..2 {
            steps.push(Step { after_ms: 500, deed: teller.creates() });
        }
        while steps.len() < size.steps {
            // Often several things happen at once.
            let after_ms = match teller.dice.roll(10) {
                0..=3 => teller.dice.roll(30),
                4..=8 => teller.dice.roll(3_000),
                _ => teller.dice.roll(40_000),
            };
            let deed = match () {
                () if teller.dice.happens(12) => teller.fate(),
                () if size.is_hostile && teller.dice.happens(4) => teller.lie(),
                () => teller.act(),
            };
            steps.push(Step { after_ms, deed });
        }
        Self { seed, size, is_foul, steps }
    }
}

impl Teller<'_> {
    fn person(&self) -> usize {
        self.dice.place(self.size.people)
    }

    fn creates(&mut self) -> Deed {
        let (by, version) = (self.person(), self.dice.place(ROOM_VERSIONS.len()));
        let preset = if self.dice.roll(3) == 0 { Preset::Private } else { Preset::Public };
        let invited: BTreeSet<usize> =
            (0..self.dice.roll(4)).map(|_| self.person()).filter(|invited| *invited != by).collect();
        let room = self.rooms.len();
        self.rooms.push(Room {
            version,
            founder: by,
            members: [by].into(),
            invited: invited.clone(),
            rule: if preset == Preset::Public { JoinRule::Public } else { JoinRule::Invite },
        });
        Deed::In { room, by, act: Act::Create { version, preset, invited: invited.into_iter().collect() } }
    }

    fn fate(&self) -> Deed {
        let server = self.dice.place(self.size.servers);
        match self.dice.roll(9) {
            0..=1 => Deed::Crash { server, down_ms: 200 + self.dice.roll(20_000) },
            2 => Deed::Restart { server, down_ms: 200 + self.dice.roll(5_000) },
            3..=4 => Deed::Evict { server, nth: self.dice.next() },
            8 => Deed::Restore { server, nth: self.dice.next(), back: 1 + self.dice.place(40) },
            5 => Deed::Pause { ms: 60_000 * (1 + self.dice.roll(10)) },
            _ => {
                let other = (server + 1 + self.dice.place(self.size.servers.max(2) - 1)) % self.size.servers;
                let ms = [5_000, 60_000, 400_000][self.dice.place(3)];
                Deed::Cut { one: server, other, ms: 1_000 + self.dice.roll(ms) }
            }
        }
    }

    fn lie(&self) -> Deed {
        Deed::Lie { room: self.dice.place(self.rooms.len()), lie: Lie::of(&self.dice, self.size.people) }
    }

    fn member(&self, room: usize) -> usize {
        let members: Vec<usize> = self.rooms[room].members.iter().copied().collect();
        // The founder can do most.
        if members.is_empty() || self.dice.happens(4) { self.rooms[room].founder } else { *self.dice.pick(&members) }
    }

    fn act(&mut self) -> Deed {
        if self.dice.happens(25) && self.rooms.len() < 8 {
            return self.creates();
        }
        let room = self.dice.place(self.rooms.len());
        let (member, other, founder) = (self.member(room), self.person(), self.rooms[room].founder);
        let (by, act) = match self.dice.roll(43) {
            0..=7 => (other, if self.may_join(room, other) { Act::Join } else { Act::Knock }),
            8..=10 => (member, Act::Invite(other)),
            11 => (member, Act::Leave),
            12 => (self.member(room), Act::Kick(member)),
            13 => (founder, Act::Ban(other)),
            14 => (founder, Act::Unban(other)),
            15..=16 => (member, Act::Topic),
            17..=18 => (member, Act::OwnState),
            19..=20 => (founder, Act::Power { of: other, level: [0, 50, 100][self.dice.place(3)] }),
            21 => (founder, Act::JoinRule(self.rule(room))),
            22 => (founder, Act::Visibility(self.dice.place(VISIBILITIES.len()))),
            23..=24 => (member, Act::Redact { back: self.dice.place(6) }),
            25..=26 => (member, Act::Read),
            28..=29 => (member, Act::Whisper(other)),
            30 => (member, Act::Claim(other)),
            40..=41 => (member, Act::AddDevice),
            42 => (member, Act::DropDevice),
            27 if self.dice.happens(4) => (founder, Act::Upgrade { version: self.dice.place(ROOM_VERSIONS.len()) }),
            _ => (member, Act::Say),
        };
        self.believes(room, by, &act);
        Deed::In { room, by, act }
    }

    fn may_join(&self, room: usize, who: usize) -> bool {
        let room = &self.rooms[room];
        room.rule == JoinRule::Public || room.invited.contains(&who) || !self.dice.happens(3)
    }

    fn rule(&self, room: usize) -> JoinRule {
        let number: usize = ROOM_VERSIONS[self.rooms[room].version].parse().unwrap_or(1);
        match self.dice.roll(4) {
            0 => JoinRule::Invite,
            1 if number >= 7 => JoinRule::Knock,
            2 if number >= 8 => JoinRule::Restricted(self.dice.place(self.rooms.len())),
            _ => JoinRule::Public,
        }
    }

    fn believes(&mut self, room: usize, by: usize, act: &Act) {
        let room = &mut self.rooms[room];
        match act {
            Act::Invite(who) => drop(room.invited.insert(*who)),
            Act::Join => drop(room.members.insert(by)),
            Act::Leave => drop(room.members.remove(&by)),
            Act::Kick(who) | Act::Ban(who) => drop(room.members.remove(who)),
            Act::JoinRule(rule) => room.rule = *rule,
            _ => {}
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weather = if self.is_foul { "things go wrong by themselves" } else { "nothing goes wrong by itself" };
        let Size { servers, people, .. } = self.size;
        writeln!(f, "seed {}: {servers} servers, {people} people, {weather}", self.seed)?;
        let mut at_ms = 0;
        for (number, step) in self.steps.iter().enumerate() {
            at_ms += step.after_ms;
            writeln!(f, "{:3}. {:>9.3} s  {}", number + 1, at_ms as f64 / 1_000.0, step.deed)?;
            if let Deed::Pause { ms } = step.deed {
                at_ms += ms;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: &u64| *ms as f64 / 1_000.0;
        match self {
            Deed::In { room, by, act } => write!(f, "{} {act} (room {room})", person_name(*by)),
            Deed::Lie { room, lie } => write!(f, "the liar {lie} (room {room})"),
            Deed::Crash { server, down_ms } => {
                write!(f, "{} loses its power for {:.1} s", server_name(*server), seconds(down_ms))
            }
            Deed::Restart { server, down_ms } => {
                write!(f, "{} is restarted, which takes {:.1} s", server_name(*server), seconds(down_ms))
            }
            Deed::Evict { server, nth } => write!(f, "{} evicts one of its actors ({nth})", server_name(*server)),
            Deed::Restore { server, nth, back } => {
                write!(f, "{} puts an actor back by {back} commits ({nth})", server_name(*server))
            }
            Deed::Cut { one, other, ms } => {
                let (one, other) = (server_name(*one), server_name(*other));
                write!(f, "{one} and {other} do not reach each other for {:.1} s", seconds(ms))
            }
            Deed::Pause { ms } => write!(f, "nothing happens for {:.0} s", seconds(ms)),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Create { version, preset, invited } => {
                let kind = if *preset == Preset::Public { "public" } else { "private" };
                write!(f, "creates a {kind} room of version {}", ROOM_VERSIONS[*version])?;
                let invited: Vec<String> = invited.iter().map(|who| person_name(*who)).collect();
                if invited.is_empty() { Ok(()) } else { write!(f, " and invites {}", invited.join(", ")) }
            }
            Act::Invite(who) => write!(f, "invites {}", person_name(*who)),
            Act::Join => f.write_str("joins"),
            Act::Knock => f.write_str("knocks"),
            Act::Leave => f.write_str("leaves"),
            Act::Kick(who) => write!(f, "kicks {}", person_name(*who)),
            Act::Ban(who) => write!(f, "bans {}", person_name(*who)),
            Act::Unban(who) => write!(f, "unbans {}", person_name(*who)),
            Act::Say => f.write_str("says something"),
            Act::Topic => f.write_str("sets the topic"),
            Act::OwnState => f.write_str("sets a state of their own"),
            Act::JoinRule(JoinRule::Public) => f.write_str("lets everybody join"),
            Act::JoinRule(JoinRule::Invite) => f.write_str("lets only the invited join"),
            Act::JoinRule(JoinRule::Knock) => f.write_str("lets people knock"),
            Act::JoinRule(JoinRule::Restricted(room)) => write!(f, "lets the members of room {room} join"),
            Act::Visibility(which) => write!(f, "sets the history to {}", VISIBILITIES[*which]),
            Act::Power { of, level } => write!(f, "gives {} the power {level}", person_name(*of)),
            Act::Redact { back } => write!(f, "redacts what was said {back} messages before the last"),
            Act::Read => f.write_str("reads to the last message"),
            Act::Whisper(to) => write!(f, "sends a message to the device of {}", person_name(*to)),
            Act::Claim(of) => write!(f, "takes a one-time key of {}", person_name(*of)),
            Act::AddDevice => f.write_str("logs in with one more device"),
            Act::DropDevice => f.write_str("logs out with one device"),
            Act::Upgrade { version } => write!(f, "upgrades to version {}", ROOM_VERSIONS[*version]),
        }
    }
}
