use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{
    backoff::pause_ms,
    federation::{discovery::Route, server_keys::KnownKeys},
};
use ruma_common::{OwnedRoomId, OwnedServerName, ServerName};

use super::SpaceElsewhere;
use crate::recent::Recent;

/// How many other servers are remembered for certain.
const SERVERS_MAX: usize = 4_000;
/// A space as one server tells of it, with all children or the suggested ones: what another says is another matter.
pub(super) type SpaceKey = (OwnedRoomId, OwnedServerName, bool);
/// How many spaces of others are remembered for certain: some may be large.
const SPACES_MAX: usize = 20;
/// How long what was told of a space is believed, in milliseconds. Spec: «should be cached for a period of time».
const SPACE_MS: u64 = 60_000;
/// A server whose keys were just fetched is not asked for more of them so soon, in milliseconds.
const ASK_AGAIN_MS: u64 = 60_000;
/// Nor one that failed again and again: what it signs is not believed meanwhile.
const ASK_AGAIN_MS_MAX: u64 = 300_000;
/// Nor so soon even when it seems to be there, and to sign with a key that is not known: anybody can say to be it.
const ASK_AGAIN_HEARD_MS: u64 = 5_000;
/// A server that is heard of again and again is news so often, in milliseconds.
const HEARD_MS: u64 = 300_000;
/// Whoever began to ask a server for its keys has this long; then somebody else may, in milliseconds.
const ASKING_MS_MAX: u64 = 30_000;

/// What this process remembers of other servers, of an isolate's own on Workers: where they are, and their keys. All of
/// it can be found out again.
#[derive(Default)]
pub struct KnownServers {
    places: Mutex<Recent<String, Place, SERVERS_MAX>>,
    keys: Mutex<Recent<OwnedServerName, KeysOf, SERVERS_MAX>>,
    down: Mutex<Recent<OwnedServerName, Down, SERVERS_MAX>>,
    /// When each was heard of, as far as that was news, in milliseconds since the Unix epoch.
    heard: Mutex<Recent<OwnedServerName, u64, SERVERS_MAX>>,
    /// The room in which a server found an event last that it asked for by its id alone.
    asked_in: Mutex<Recent<OwnedServerName, Option<OwnedRoomId>, SERVERS_MAX>>,
    /// Spaces of others, whole or as far as they suggest their rooms.
    spaces: Mutex<Recent<SpaceKey, Told, SPACES_MAX>>,
}

/// What another server told of a space, and how long that is believed.
#[derive(Default)]
struct Told {
    space: Option<Arc<SpaceElsewhere>>,
    until_ms: u64,
}

/// A server that did not answer the last time.
#[derive(Default)]
struct Down {
    failures: u32,
    until_ms: u64,
}

/// Where the servers of one hostname are.
#[derive(Default, Clone)]
pub(super) struct Place {
    pub routes: Vec<Route>,
    /// How long that holds.
    pub until_ms: u64,
    /// How often its `/.well-known` failed, one time after the other.
    pub failures: u32,
}

#[derive(Default)]
struct KeysOf {
    keys: KnownKeys,
    /// Whether they are all that the database has.
    are_loaded: bool,
    /// The server is not asked again before.
    ask_again_ms: u64,
    /// When it was asked last.
    asked_ms: u64,
    failures: u32,
    /// Somebody is asking it.
    asking_until_ms: u64,
}

/// A server that did not answer is held for down this long, in milliseconds, and longer each time.
const DOWN_MS: u64 = 10_000;
const DOWN_MS_MAX: u64 = 600_000;

/// Who asks a server for its keys.
pub(super) enum Turn<'a> {
    /// The caller does.
    Mine(Asking<'a>),
    /// Somebody else is about to.
    Others,
    /// Nobody, so shortly after the last time.
    Later,
}

impl KnownServers {
    pub(super) fn place(&self, hostname: &str) -> Option<Place> {
        lock(&self.places).get(hostname).cloned()
    }

    pub(super) fn remember_place(&self, hostname: &str, place: Place) {
        *lock(&self.places).of(hostname.to_owned()) = place;
    }

    /// Looks anew where a server is, the next time: it was not there. How often it could not be found is remembered:
    /// what fails again and again is asked for less and less.
    pub(super) fn was_not_there(&self, hostname: &str) {
        let mut places = lock(&self.places);
        if places.get(hostname).is_some_and(|place| place.failures == 0) {
            places.remove(hostname);
        }
    }

    /// Whether a server did not answer a moment ago, and is not worth the time of a person who waits.
    pub(crate) fn is_down(&self, server: &ServerName, now_ms: u64) -> bool {
        lock(&self.down).get(server).is_some_and(|down| now_ms < down.until_ms)
    }

    /// A server answers, or asks us something. Answers whether that is news: it was down, or is heard of after a while.
    pub(crate) fn is_up(&self, server: &ServerName, now_ms: u64) -> bool {
        let was_down = lock(&self.down).remove(server);
        let mut heard = lock(&self.heard);
        let heard_ms = heard.of(server.to_owned());
        let is_news = was_down || now_ms >= heard_ms.saturating_add(HEARD_MS);
        if is_news {
            *heard_ms = now_ms;
        }
        is_news
    }

    pub(super) fn did_not_answer(&self, server: &ServerName, now_ms: u64) {
        let mut all = lock(&self.down);
        let down = all.of(server.to_owned());
        down.until_ms = now_ms.saturating_add(pause_ms(DOWN_MS, down.failures, DOWN_MS_MAX));
        down.failures = down.failures.saturating_add(1);
    }

    /// Where a server found an event last: it is likely to ask for another one of the same room.
    pub(super) fn room_asked(&self, server: &ServerName) -> Option<OwnedRoomId> {
        lock(&self.asked_in).get(server).cloned().flatten()
    }

    pub(super) fn asked_in(&self, server: &ServerName, room_id: OwnedRoomId) {
        *lock(&self.asked_in).of(server.to_owned()) = Some(room_id);
    }

    /// A space of others as it was told a moment ago.
    pub(super) fn space(&self, key: &SpaceKey, now_ms: u64) -> Option<Arc<SpaceElsewhere>> {
        lock(&self.spaces).get(key).filter(|told| now_ms < told.until_ms).and_then(|told| told.space.clone())
    }

    pub(super) fn remember_space(&self, key: SpaceKey, space: Arc<SpaceElsewhere>, now_ms: u64) {
        *lock(&self.spaces).of(key) = Told { space: Some(space), until_ms: now_ms.saturating_add(SPACE_MS) };
    }

    /// What is known of a server's keys, if it was loaded.
    pub(super) fn keys(&self, server: &ServerName) -> Option<KnownKeys> {
        lock(&self.keys).get(server).filter(|of| of.are_loaded).map(|of| of.keys.clone())
    }

    pub(super) fn remember_keys(&self, server: &ServerName, keys: KnownKeys) {
        let mut all = lock(&self.keys);
        let of = all.of(server.to_owned());
        of.keys = keys;
        of.are_loaded = true;
    }

    /// Somebody says to be a server, with a key that is not known: it may be there again, or have a new one, and is
    /// asked for its keys sooner than otherwise.
    pub(super) fn seems_to_be_there(&self, server: &ServerName) {
        let mut all = lock(&self.keys);
        let of = all.of(server.to_owned());
        of.ask_again_ms = of.ask_again_ms.min(of.asked_ms.saturating_add(ASK_AGAIN_HEARD_MS));
    }

    /// Takes the turn to ask a server for its keys: one at a time does, and not too often.
    pub(super) fn begin_asking(&self, server: &ServerName, now_ms: u64) -> Turn<'_> {
        let mut all = lock(&self.keys);
        let of = all.of(server.to_owned());
        if now_ms < of.asking_until_ms {
            return Turn::Others;
        }
        if now_ms < of.ask_again_ms {
            return Turn::Later;
        }
        of.asking_until_ms = now_ms.saturating_add(ASKING_MS_MAX);
        Turn::Mine(Asking { known: self, server: server.to_owned() })
    }
}

/// A turn to ask a server for its keys. Dropped, it is another's.
pub(super) struct Asking<'a> {
    known: &'a KnownServers,
    server: OwnedServerName,
}

impl Asking<'_> {
    /// Ends the turn: the server answered, or did not.
    pub(super) fn end(self, answered: bool, now_ms: u64) {
        let mut all = lock(&self.known.keys);
        let of = all.of(self.server.clone());
        of.asked_ms = now_ms;
        of.ask_again_ms = now_ms.saturating_add(pause_ms(ASK_AGAIN_MS, of.failures, ASK_AGAIN_MS_MAX));
        of.failures = if answered { 0 } else { of.failures.saturating_add(1) };
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.known.keys).of(self.server.clone()).asking_until_ms = 0;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
