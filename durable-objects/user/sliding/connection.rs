//! A connection: what it was sent, as of its last two answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::Refusal;
use platform::{Sql, Tx};
use ruma_common::{DeviceId, OwnedDeviceId};
use serde::{Deserialize, Serialize};

use super::DeviceRoom;
use crate::{
    Cx, Error,
    room::RequiredState,
    user::{
        KeyCounts, User,
        store::{self, sliding::SentRoom},
        typing::Seen,
    },
};

/// The most connections of a device; a further one takes the place of the one that was not used for the longest time.
pub(super) const CONNECTIONS_MAX: usize = if cfg!(test) { 3 } else { 16 };
/// The most states that a connection remembers to have been wanted, and how many bytes they may have.
const STATES_MAX: usize = if cfg!(test) { 3 } else { 64 };
const STATES_BYTES_MAX: usize = 256 * 1024;
/// The number of a state for which there is no place. It is sent again when there is other news of its room, rather
/// than that the connection has to begin anew, which would not make place.
pub(super) const UNNOTED: u64 = u64::MAX;
/// How long after a connection was used rooms still tell what happens, whether or not somebody is there, in
/// milliseconds: a week.
const USED_MS: u64 = 7 * 24 * 3_600_000;
/// Connections kept in memory.
const KEPT_MAX: usize = 16;
/// Connections of which the last request is remembered.
const REQUESTS_MAX: usize = 64;

/// What a connection was sent of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub membership: String,
    /// When the user's membership became that.
    pub changed: u64,
    /// The room's position read up to.
    pub reached: u64,
    /// How many of the newest events it has at least.
    pub limit: u64,
    /// What of the state it has, by its number.
    pub state: u64,
    /// Whether it has the receipts up to there.
    pub receipts: bool,
    /// Whether it has the account data of the room that there was when its answer was made.
    pub data: bool,
    pub is_dm: bool,
}

/// Where a connection was after an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Point {
    /// The number of the answer.
    pub answer: u64,
    /// How far it has followed the moves of rooms, for whose devices changed.
    pub moves: u64,
    /// How far it was told of the user's own stream.
    pub own: u64,
    /// Up to where in both it was told whose devices changed, where that is less far: what came since is owed to it,
    /// and it did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owes_devices: Option<OwesDevices>,
    #[serde(default)]
    pub typing: Seen,
    /// The keys that the device had left.
    #[serde(default)]
    pub keys: KeyCounts,
    /// Rooms that are still to be asked whose devices changed.
    #[serde(default)]
    pub devices: Vec<DeviceRoom>,
    /// Rooms that said whose devices changed, up to further than their moves told, by number.
    #[serde(default)]
    pub ahead: BTreeMap<u64, u64>,
}

/// As in [`Point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwesDevices {
    pub moves: u64,
    pub own: u64,
}

impl Point {
    /// Up to where it was told whose devices changed.
    pub(super) fn devices_since(&self) -> OwesDevices {
        self.owes_devices.unwrap_or(OwesDevices { moves: self.moves, own: self.own })
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Heads {
    last: Point,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Point>,
    /// What was wanted of rooms' states, by number.
    states: BTreeMap<u64, RequiredState>,
    /// Up to which number rooms were asked to speak.
    #[serde(default)]
    heard: u64,
}

#[derive(Debug, Clone, Default)]
struct Versions {
    /// The answer since which it is so.
    answer: u64,
    sent: Option<Sent>,
    before: Option<Sent>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    pub number: u64,
    /// When it was used last, as far as that is noted.
    used_ms: u64,
    heads: Heads,
    rooms: BTreeMap<u64, Versions>,
}

/// A connection as it was after one of its answers.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    connection: &'a Connection,
    pub point: &'a Point,
}

impl<'a> View<'a> {
    /// What was sent of a room.
    pub(super) fn sent(self, room: u64) -> Option<&'a Sent> {
        let versions = self.connection.rooms.get(&room)?;
        if versions.answer <= self.point.answer { versions.sent.as_ref() } else { versions.before.as_ref() }
    }

    /// The rooms of which something was sent.
    pub(super) fn rooms(self) -> impl Iterator<Item = (u64, &'a Sent)> {
        self.connection.rooms.keys().filter_map(move |room| Some((*room, self.sent(*room)?)))
    }

    pub(super) fn state(self, number: u64) -> Option<&'a RequiredState> {
        self.connection.heads.states.get(&number)
    }
}

impl Connection {
    /// The connection as it was after this answer, if that was one of the last two.
    pub(super) fn view(&self, answer: u64) -> Option<View<'_>> {
        let Heads { last, before, .. } = &self.heads;
        let point = [Some(last), before.as_ref()].into_iter().flatten().find(|point| point.answer == answer)?;
        Some(View { connection: self, point })
    }

    /// The number of the next answer.
    pub(super) fn next_answer(&self) -> u64 {
        self.heads.last.answer.saturating_add(1)
    }

    /// Up to which number rooms were asked to speak. Where it was not used for long, they may all be silent again.
    pub(super) fn heard(&self, now_ms: u64) -> u64 {
        if now_ms.saturating_sub(self.used_ms) < USED_MS { self.heads.heard } else { 0 }
    }

    /// It was used, and stands where its heads say.
    fn put(&mut self, tx: &Tx<'_>, (device, conn_id, now_ms): (&DeviceId, &str, u64)) -> Result<(), Error> {
        (self.heads.heard, self.used_ms) = (self.heard(now_ms), now_ms);
        let heads = serde_json::to_string(&self.heads)?;
        Ok(store::sliding::put(tx, (device, conn_id), self.number, now_ms, &heads)?)
    }

    /// They were, up to this one.
    pub(super) fn hears(&mut self, tx: &Tx<'_>, this: (&DeviceId, &str, u64), up_to: u64) -> Result<(), Error> {
        let (_, _, now_ms) = this;
        (self.heads.heard, self.used_ms) = (self.heard(now_ms).max(up_to), now_ms);
        self.put(tx, this)
    }

    /// The number that a wanted state has, or gets; [`UNNOTED`] if there is no place for it. The answer that is being
    /// made has given those numbers to rooms already.
    pub(super) fn number_of(&mut self, state: &RequiredState, given: impl Iterator<Item = u64>) -> Result<u64, Error> {
        if let Some((number, _)) = self.heads.states.iter().find(|(_, known)| *known == state) {
            return Ok(*number);
        }
        let next = self.heads.states.keys().next_back().map_or(0, |last| last.saturating_add(1));
        if self.is_full_of_states()? {
            let sent = self.rooms.values().flat_map(|room| [&room.sent, &room.before]).flatten();
            let used: BTreeSet<u64> = sent.map(|sent| sent.state).chain(given).collect();
            self.heads.states.retain(|number, _| used.contains(number));
            if self.is_full_of_states()? {
                return Ok(UNNOTED);
            }
        }
        self.heads.states.insert(next, state.clone());
        Ok(next)
    }

    fn is_full_of_states(&self) -> Result<bool, Error> {
        let states = &self.heads.states;
        Ok(states.len() >= STATES_MAX || serde_json::to_string(states)?.len() >= STATES_BYTES_MAX)
    }

    /// An answer begins where the one before the last ended: the last one was not received.
    fn take_back(&mut self, tx: &Tx<'_>, base: &Point) -> Result<(), Error> {
        let lost = self.heads.last.answer;
        if base.answer == lost {
            return Ok(());
        }
        store::sliding::take_back(tx, self.number, lost, base.answer)?;
        for room in self.rooms.values_mut().filter(|room| room.answer == lost) {
            *room = Versions { answer: base.answer, sent: room.before.take(), before: None };
        }
        Ok(())
    }

    /// The connection gave an answer that begins at `base` and ends at `point`, and sent this of rooms.
    pub(super) fn answers(
        &mut self,
        tx: &Tx<'_>,
        this: (&DeviceId, &str, u64),
        base: Option<Point>,
        point: Point,
        rooms: BTreeMap<u64, Sent>,
    ) -> Result<(), Error> {
        if let Some(base) = &base {
            self.take_back(tx, base)?;
        }
        for (room, sent) in rooms {
            let versions = self.rooms.entry(room).or_default();
            let before = versions.sent.replace(sent);
            (versions.before, versions.answer) = (before, point.answer);
            self.put_room(tx, room)?;
        }
        (self.heads.before, self.heads.last) = (base, point);
        self.put(tx, this)
    }

    /// Nothing happened that was to be told: the last answer ends at `point` just as well, with this of rooms. Where
    /// the client came with the answer before, that may still be taken back.
    pub(super) fn keeps_up(
        &mut self,
        tx: &Tx<'_>,
        this: (&DeviceId, &str, u64),
        point: Point,
        rooms: BTreeMap<u64, Sent>,
    ) -> Result<(), Error> {
        if point.answer != self.heads.last.answer {
            return Ok(());
        }
        for (room, sent) in rooms {
            self.rooms.entry(room).or_default().sent = Some(sent);
            self.put_room(tx, room)?;
        }
        self.heads.last = point;
        self.put(tx, this)
    }

    fn put_room(&self, tx: &Tx<'_>, room: u64) -> Result<(), Error> {
        let Some(Versions { answer, sent, before }) = self.rooms.get(&room) else { return Ok(()) };
        let text = |sent: &Option<Sent>| sent.as_ref().map(serde_json::to_string).transpose();
        let row = SentRoom { room, answer: *answer, sent: text(sent)?, before: text(before)? };
        Ok(store::sliding::put_room(tx, self.number, &row)?)
    }

    fn load(sql: &dyn Sql, number: u64, used_ms: u64, heads: &str) -> Result<Self, Error> {
        let sent = |text: Option<String>| text.map(|text| serde_json::from_str(&text)).transpose();
        let mut rooms = BTreeMap::new();
        for row in store::sliding::rooms(sql, number)? {
            let versions = Versions { answer: row.answer, sent: sent(row.sent)?, before: sent(row.before)? };
            rooms.insert(row.room, versions);
        }
        Ok(Self { number, used_ms, heads: serde_json::from_str(heads)?, rooms })
    }
}

/// What memory has of connections, by device and name.
#[derive(Default)]
pub(in crate::user) struct Connections {
    /// Those read before.
    kept: BTreeMap<Key, Rc<Connection>>,
    /// The last request of each. What is forgotten of them costs a client that gave one up a new beginning, at worst.
    requests: BTreeMap<Key, String>,
}

type Key = (OwnedDeviceId, String);

/// `c<connection>.<answer>`.
pub(super) fn pos(connection: &Connection, answer: u64) -> String {
    format!("c{}.{answer}", connection.number)
}

impl User {
    /// Whether some connection was in use lately.
    pub(in crate::user) fn slides(&self, sql: &dyn Sql, cx: &Cx<'_>) -> Result<bool, Error> {
        let used_ms = match self.slid_at_ms.get() {
            Some(used_ms) => used_ms,
            None => store::sliding::last_used_ms(sql)?,
        };
        self.slid_at_ms.set(Some(used_ms));
        Ok(cx.now_ms.saturating_sub(used_ms) < USED_MS)
    }

    /// The connection that a `pos` is of, and the number of the answer.
    ///
    /// Refused: `UnknownPos`.
    pub(super) fn connection(
        &self,
        sql: &dyn Sql,
        device: &DeviceId,
        conn_id: &str,
        pos: &str,
    ) -> Result<(Rc<Connection>, u64), Error> {
        let parsed = pos.strip_prefix('c').and_then(|pos| pos.split_once('.'));
        let parsed = parsed.and_then(|(number, answer)| Some((number.parse().ok()?, answer.parse().ok()?)));
        let (number, answer): (u64, u64) = parsed.ok_or(Refusal::UnknownPos)?;
        let key = (device.to_owned(), conn_id.to_owned());
        let known = self.connections.borrow().kept.get(&key).cloned();
        let connection = match known {
            Some(connection) => connection,
            None => {
                let stored = store::sliding::connection(sql, device, conn_id)?;
                let (number, used_ms, heads) = stored.ok_or(Refusal::UnknownPos)?;
                let connection = Rc::new(Connection::load(sql, number, used_ms, &heads)?);
                self.keep_connection(device, conn_id, connection.clone());
                connection
            }
        };
        if connection.number != number || connection.view(answer).is_none() {
            return Err(Refusal::UnknownPos.into());
        }
        Ok((connection, answer))
    }

    pub(super) fn keep_connection(&self, device: &DeviceId, conn_id: &str, connection: Rc<Connection>) {
        let mut kept = self.connections.borrow_mut();
        let key = (device.to_owned(), conn_id.to_owned());
        if kept.kept.len() >= KEPT_MAX && !kept.kept.contains_key(&key) {
            // Any of them: it is read again when it is used.
            kept.kept.pop_first();
        }
        kept.kept.insert(key, connection);
    }

    /// A request of a connection asks; `goes_on`: not for the first time.
    ///
    /// Refused: `Unknown` where another one took over.
    pub(super) fn takes_over(
        &self,
        device: &DeviceId,
        conn_id: &str,
        request: &str,
        goes_on: bool,
    ) -> Result<(), Refusal> {
        let mut connections = self.connections.borrow_mut();
        let key = (device.to_owned(), conn_id.to_owned());
        match connections.requests.get(&key) {
            Some(last) if last == request => return Ok(()),
            Some(_) if goes_on => {
                return Err(Refusal::Unknown("Another request of this connection took over".to_owned()));
            }
            _ => {}
        }
        if connections.requests.len() >= REQUESTS_MAX {
            connections.requests.clear();
        }
        connections.requests.insert(key, request.to_owned());
        Ok(())
    }

    /// A new connection, in the place of the one of this name, and of the oldest where there are too many.
    pub(super) fn new_connection(
        &self,
        tx: &Tx<'_>,
        cx: &Cx<'_>,
        device: &DeviceId,
        conn_id: &str,
    ) -> Result<Connection, Error> {
        let known = store::sliding::of_device(&**tx, device)?;
        let mut kept = 1_usize;
        for (name, number) in known {
            if name == conn_id || kept >= CONNECTIONS_MAX {
                store::sliding::remove(tx, device, &name, number)?;
                self.connections.borrow_mut().kept.remove(&(device.to_owned(), name));
            } else {
                kept = kept.saturating_add(1);
            }
        }
        // By chance: a `pos` of a connection that is gone, perhaps with the device, must not be one of this.
        let number = cx.random::<6>()?.into_iter().fold(0, |number, byte| number << 8 | u64::from(byte));
        Ok(Connection { number, used_ms: cx.now_ms, ..Connection::default() })
    }

    /// A device is gone, and its connections with it.
    pub(in crate::user) fn forget_connections(&self, tx: &Tx<'_>, device: &DeviceId) -> Result<(), Error> {
        for (name, number) in store::sliding::of_device(&**tx, device)? {
            store::sliding::remove(tx, device, &name, number)?;
        }
        self.connections.borrow_mut().kept.retain(|(of, _), _| of != device);
        Ok(())
    }

    /// What is in memory of connections may be of a transaction that is gone.
    pub(in crate::user) fn connections_rolled_back(&self) {
        self.connections.borrow_mut().kept.clear();
    }
}
