use std::collections::BTreeMap;

use platform::{ActorKind, Sql};
use serde::{Deserialize, Serialize};

use super::User;
use crate::{Call, Cx, Error, cx::Key, destination::QueuePresence, presence::PresenceState};

/// How long a server that joined a room may take until it knows so itself, in milliseconds: before, it believes nobody.
const ARRIVES_MS: u64 = 5_000;
/// The most servers that are told of one change.
const SERVERS_TOLD_MAX: usize = 1_000;

/// Servers came to a room that the user is in: if the user is there, they are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServersCame {
    pub servers: Vec<String>,
}

impl Call for ServersCame {
    const ACTOR: ActorKind = ActorKind::User;
    const NAME: &'static str = "servers_came";
    type Reply = ();
}

impl User {
    pub(super) fn servers_came(&self, sql: &dyn Sql, cx: &Cx<'_>, call: ServersCame) -> Result<(), Error> {
        let is_there = self.with_own_presence(sql, cx, |own| {
            own.servers_told.retain(|server| !call.servers.contains(server));
            let is_there = own.current().status.state != PresenceState::Offline;
            if is_there {
                let due_ms = cx.now_ms.saturating_add(ARRIVES_MS);
                let room_left = SERVERS_TOLD_MAX.saturating_sub(own.servers_coming.len());
                own.servers_coming.extend(call.servers.into_iter().take(room_left).map(|server| (server, due_ms)));
            }
            Ok(is_there)
        })?;
        if is_there { Ok(cx.set_alarm(cx.now_ms.saturating_add(ARRIVES_MS))?) } else { Ok(()) }
    }

    /// The alarm: servers that came a moment ago know by now in which rooms they are.
    pub(super) fn tell_servers_that_came(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<(), Error> {
        let (due, next_ms) = self.with_own_presence(sql, cx, |own| {
            let coming = std::mem::take(&mut own.servers_coming);
            let (due, later): (BTreeMap<_, _>, BTreeMap<_, _>) =
                coming.into_iter().partition(|(_, due_ms)| *due_ms <= cx.now_ms);
            let next_ms = later.values().min().copied();
            own.servers_coming = later;
            Ok((due, next_ms))
        })?;
        if let Some(next_ms) = next_ms {
            cx.set_alarm(next_ms)?;
        }
        self.tell_servers_presence(sql, cx, due.into_keys().collect())
    }

    /// Tells servers the user's presence as it is, each once until it changes.
    pub(super) fn tell_servers_presence(&self, sql: &dyn Sql, cx: &Cx<'_>, servers: Vec<String>) -> Result<(), Error> {
        if servers.is_empty() {
            return Ok(());
        }
        self.with_own_presence(sql, cx, |own| {
            let call = QueuePresence { presence: own.current() };
            for server in servers {
                if own.servers_told.len() < SERVERS_TOLD_MAX && own.servers_told.insert(server.clone()) {
                    cx.deliver(server, &call, Key::Unsettled, false)?;
                }
            }
            Ok(())
        })
    }
}
