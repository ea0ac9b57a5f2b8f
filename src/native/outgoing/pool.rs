use std::{cell::RefCell, collections::HashMap, time::Duration};

use platform::Peer;
use tokio::time::Instant;

use super::connect::Sender;

/// A connection that nobody used for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Idle connections to one server.
const IDLE_PER_PEER_MAX: usize = 4;
/// Idle connections of one thread.
const IDLE_TOTAL_MAX: usize = 256;

/// Connections on which nothing is under way. Dropping one closes it.
#[derive(Default)]
pub(super) struct Pool(RefCell<HashMap<Peer, Vec<Idle>>>);

struct Idle {
    sender: Sender,
    since: Instant,
}

impl Pool {
    /// The connection to a server that was used last.
    pub(super) fn take(&self, peer: &Peer) -> Option<Sender> {
        let mut idle = self.0.borrow_mut();
        let of_peer = idle.get_mut(peer)?;
        while let Some(Idle { sender, since }) = of_peer.pop() {
            if since.elapsed() < IDLE_MAX && !sender.is_closed() {
                return Some(sender);
            }
        }
        idle.remove(peer);
        None
    }

    /// Keeps a connection for whoever wants it next.
    pub(super) fn keep(&self, peer: &Peer, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.0.borrow_mut();
        idle.retain(|_, of_peer| {
            of_peer.retain(|idle| idle.since.elapsed() < IDLE_MAX && !idle.sender.is_closed());
            !of_peer.is_empty()
        });
        let total: usize = idle.values().map(Vec::len).sum();
        let of_peer = idle.entry(peer.clone()).or_default();
        if of_peer.len() < IDLE_PER_PEER_MAX && total < IDLE_TOTAL_MAX {
            of_peer.push(Idle { sender, since: Instant::now() });
        }
    }
}
