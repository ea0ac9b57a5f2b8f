//! Who may read what of a server's log, written from the specification's section "Room History Visibility" alone:
//! nothing here knows how a server does it.

use std::collections::BTreeMap;

use platform::{Sql as _, Value};

use crate::disk::Disk;

/// The first position of a log.
const LOG_START: u64 = 1 << 40;

/// A log, as far as it decides who may read it.
pub(crate) struct Sight<'a> {
    disk: &'a Disk,
    events: BTreeMap<String, Entry>,
    settings: Changes,
}

struct Entry {
    position: u64,
    event_type: String,
    state_key: Option<String>,
}

/// What something was, from which position on.
struct Changes(Vec<(u64, String)>);

impl Changes {
    /// A field of the content of a state, through all of the log.
    fn of(disk: &Disk, event_type: &str, key: &str, field: &str) -> Self {
        let rows = disk.query(
            "SELECT state_change.position, json_extract(event.json, ?3) FROM state_change
             LEFT JOIN event ON event.position = state_change.after
             WHERE state_change.type = ?1 AND state_change.state_key = ?2 ORDER BY state_change.position",
            &[event_type.into(), key.into(), Value::Text(format!("$.content.{field}"))],
        );
        let rows = rows.expect("the schema").into_iter();
        let changes = rows.map(|mut row| {
            (row.unsigned(0).expect("a position"), row.text_or_null(1).ok().flatten().unwrap_or_default())
        });
        Self(changes.collect())
    }

    fn at(&self, position: u64) -> &str {
        let before = self.0.partition_point(|(since, _)| *since <= position);
        before.checked_sub(1).map_or("", |last| &self.0[last].1)
    }
}

impl<'a> Sight<'a> {
    pub(crate) fn of(disk: &'a Disk) -> Self {
        let rows = disk.query("SELECT event_id, position, type, state_key FROM event", &[]).expect("the schema");
        let events = rows.into_iter().map(|mut row| {
            let entry = Entry {
                position: row.unsigned(1).expect("a position"),
                event_type: row.text(2).expect("a type"),
                state_key: row.text_or_null(3).expect("a key"),
            };
            (row.text(0).expect("an id"), entry)
        });
        let settings = Changes::of(disk, "m.room.history_visibility", "", "history_visibility");
        Self { disk, events: events.collect(), settings }
    }

    /// Which of these events a user should not have got to see, and why.
    pub(crate) fn forbids<'b>(&self, user_id: &str, read: impl Iterator<Item = &'b String>) -> Vec<String> {
        let memberships = Changes::of(self.disk, "m.room.member", user_id, "membership");
        let mut forbidden = Vec::new();
        for event_id in read {
            match self.events.get(event_id) {
                // Everybody is told what became of their own membership, be it that they are banned from where they
                // never were.
                Some(entry) if entry.event_type == "m.room.member" && entry.state_key.as_deref() == Some(user_id) => {}
                Some(entry) if entry.position < LOG_START => forbidden.push(format!("{event_id} is not in the log")),
                Some(entry) if !self.allows(&memberships, entry) => forbidden.push(format!(
                    "{event_id} at {} is of a time when the history was {:?} and they were {:?} of {:?}",
                    entry.position,
                    self.settings.at(entry.position),
                    memberships.at(entry.position),
                    memberships.0
                )),
                Some(_) => {}
                None => forbidden.push(format!("{event_id} is nowhere")),
            }
        }
        forbidden
    }

    fn allows(&self, memberships: &Changes, entry: &Entry) -> bool {
        let at = |position: u64| {
            // «the user joined the room at any point after the event was sent»
            let mut was_joined = memberships.at(position.saturating_sub(1)) == "join";
            let mut joins_later = false;
            for (since, membership) in memberships.0.iter().filter(|(since, _)| *since >= position) {
                joins_later |= membership == "join" && (!was_joined || *since > position);
                was_joined = membership == "join";
            }
            match (self.settings.at(position), memberships.at(position)) {
                // 1. and 2.
                ("world_readable", _) | (_, "join") => true,
                // 4.
                ("invited", membership) => membership == "invite",
                // 5.
                ("joined", _) => false,
                // 3., also where it is not set, or not understood.
                _ => joins_later,
            }
        };
        // «The state *before* or *after* the event», where it changes what is asked.
        let is_change = entry.event_type == "m.room.history_visibility";
        at(entry.position) || (is_change && at(entry.position - 1))
    }
}
