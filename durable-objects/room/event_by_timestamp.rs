//! Which event happened at a time.
//!
//! Where history is missing next to the time, there may be a closer event: the reply says whom to ask for it
//! ([`super::Gap`]). Spec: "Getting events for a room"; Server-Server API, "Retrieving events".

use domain::Pdu;
use platform::{ActorKind, Fault, Sql};
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{
    Direction, Gap, Room,
    server_sight::ServerSight,
    store::{self, graph::Verdict, log::Logged},
    viewer::Viewer,
    walk::Walk,
};
use crate::{Call, Cx, Error};

/// How far around the place where the times pass the given one events are looked at, in log entries: where clocks went
/// back, or stood still, the closest event need not be the first.
const AROUND: u64 = 100;
/// Log entries looked at for an event that the user may see.
const SCAN_MAX: u64 = 2_000;
/// As that, for one that another server may see: each is looked at by itself.
const SERVER_SCAN_MAX: u64 = 500;

/// The event that the user may see closest to a time, by `origin_server_ts`, in a direction.
/// Spec: `GET /rooms/{roomId}/timestamp_to_event`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventByTimestamp {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// Milliseconds since the Unix epoch.
    pub ts_ms: u64,
    pub direction: Direction,
    /// Whom the user ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<OwnedUserId>,
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ClosestEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<TimedEvent>,
    /// What is missing there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// As [`EventByTimestamp`], for another server.
///
/// Refused: `Forbidden` for a server that is not in the room, or that its ACL keeps out.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventByTimestampForServer {
    pub server: OwnedServerName,
    pub ts_ms: u64,
    pub direction: Direction,
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedEvent {
    pub event_id: OwnedEventId,
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
}

impl Call for EventByTimestamp {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "event_by_timestamp";
    type Reply = ClosestEvent;
}

impl Call for EventByTimestampForServer {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "event_by_timestamp_for_server";
    type Reply = Option<TimedEvent>;
}

impl Room {
    pub(super) fn event_by_timestamp(
        &self,
        sql: &dyn Sql,
        cx: &Cx<'_>,
        call: EventByTimestamp,
    ) -> Result<ClosestEvent, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?.ignoring(call.ignored);
        viewer.sight()?;
        let search = Search::new(sql, call.ts_ms, call.direction, self.head(sql)?)?;
        let mut walk = Walk::new(sql, &viewer, call.direction, search.span, AROUND);
        let found = search.closest(&mut || {
            let next = if walk.scanned() < SCAN_MAX { walk.next()? } else { None };
            Ok(next.map(|Logged { position, pdu, .. }| Timed { position, pdu }))
        })?;
        Ok(ClosestEvent { event: found.as_ref().map(timed), gap: self.gap_around(sql, cx, search.passes)? })
    }

    pub(super) fn event_by_timestamp_for_server(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: EventByTimestampForServer,
    ) -> Result<Option<TimedEvent>, Error> {
        self.check_server(sql, &call.server)?;
        let sight = ServerSight::load(sql, &call.server)?;
        let search = Search::new(sql, call.ts_ms, call.direction, self.head(sql)?)?;
        let positions = store::log::positions(sql, search.span, call.direction, SERVER_SCAN_MAX)?;
        let mut events = store::log::each(&positions, |slice| store::graph::at(sql, slice));
        let found = search.closest(&mut || {
            for node in events.by_ref() {
                let node = node?;
                if node.verdict == Verdict::Accepted && sight.sees(sql, &node)? {
                    return Ok(Some(Timed { position: node.number, pdu: node.pdu }));
                }
            }
            Ok(None)
        })?;
        Ok(found.as_ref().map(timed))
    }

    /// What is missing between the last event before `position` and the first one from there on.
    fn gap_around(&self, sql: &dyn Sql, cx: &Cx<'_>, position: u64) -> Result<Option<Gap>, Error> {
        let Some(stop) = self.history_stop(sql, position.saturating_sub(1))? else { return Ok(None) };
        let between = store::log::backwards(sql, stop.place, position.saturating_sub(1), 1)?;
        if between.is_empty() { self.gap_at(sql, cx, &stop).map(Some) } else { Ok(None) }
    }
}

/// An event of the log that may be the one.
struct Timed {
    position: u64,
    pdu: Pdu,
}

fn timed(event: &Timed) -> TimedEvent {
    TimedEvent { event_id: event.pdu.event_id().to_owned(), origin_server_ts: event.pdu.origin_server_ts() }
}

/// Where to look for the event at a time.
struct Search {
    ts_ms: u64,
    direction: Direction,
    /// Where the times pass the given one.
    passes: u64,
    /// From where on, in the direction, the first event found is good enough.
    from: u64,
    span: (u64, u64),
}

impl Search {
    fn new(sql: &dyn Sql, ts_ms: u64, direction: Direction, head: u64) -> Result<Self, Fault> {
        let passes = passes(sql, ts_ms, head)?;
        // A little beyond, against the direction: there may be events as close.
        let (from, span) = match direction {
            Direction::Forwards => {
                let before = (0, passes.saturating_sub(1));
                let from = store::log::positions(sql, before, Direction::Backwards, AROUND)?;
                let from = from.last().map_or(0, |position| position.saturating_sub(1));
                (passes, (from, head))
            }
            Direction::Backwards => {
                let from = store::log::positions(sql, (passes, head), Direction::Forwards, AROUND)?;
                (passes, (0, from.last().copied().unwrap_or(head)))
            }
        };
        Ok(Self { ts_ms, direction, passes, from, span })
    }

    /// The event with the time closest on its side: of the first `AROUND` beyond `from`, if there is one, or else the
    /// first of all.
    fn closest(&self, next: &mut dyn FnMut() -> Result<Option<Timed>, Fault>) -> Result<Option<Timed>, Fault> {
        let mut closest: Option<Timed> = None;
        let mut beyond = 0_u64;
        while closest.is_none() || beyond < AROUND {
            let Some(event) = next()? else { break };
            let is_beyond = match self.direction {
                Direction::Forwards => event.position >= self.from,
                Direction::Backwards => event.position < self.from,
            };
            beyond = beyond.saturating_add(is_beyond.into());
            let closer = match self.direction {
                Direction::Forwards => {
                    time(&event.pdu) >= self.ts_ms
                        && closest.as_ref().is_none_or(|last| time(&event.pdu) < time(&last.pdu))
                }
                Direction::Backwards => {
                    time(&event.pdu) <= self.ts_ms
                        && closest.as_ref().is_none_or(|last| time(&event.pdu) > time(&last.pdu))
                }
            };
            if closer {
                closest = Some(event);
            }
        }
        Ok(closest)
    }
}

fn time(pdu: &Pdu) -> u64 {
    pdu.origin_server_ts().get().into()
}

/// The first position whose event's time is not before `ts_ms`, where times grow with positions, as they do but for
/// clocks set back; one behind the head if there is none. Looks at one event for each halving.
fn passes(sql: &dyn Sql, ts_ms: u64, head: u64) -> Result<u64, Fault> {
    let mut passes = head.saturating_add(1);
    let (mut before, mut up_to) = (0, head);
    while before < up_to {
        let middle = before.midpoint(up_to);
        match store::log::forwards(sql, middle, up_to, 1)?.pop() {
            Some(event) if time(&event.pdu) < ts_ms => before = event.position,
            Some(event) => (passes, up_to) = (event.position, middle),
            None => up_to = middle,
        }
    }
    Ok(passes)
}

#[cfg(test)]
mod tests {
    use domain::power::Preset;
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedUserId, user_id};
    use serde_json::json;

    use super::{Direction, EventByTimestamp, passes};
    use crate::world::World;

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    /// Times of messages, as offsets in milliseconds from the room's creation; the clock may go back.
    fn room(offsets: &[u64]) -> (std::rc::Rc<World>, ruma_common::OwnedRoomId, u64) {
        let world = World::new(1);
        let began = world.now_ms();
        let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
        for offset in offsets {
            world.sets_clock(began + offset);
            world.sends(&alice(), &room_id, "m.room.message", None, &json!({})).unwrap();
        }
        (world, room_id, began)
    }

    #[test]
    fn the_closest_event_on_its_side_is_found() {
        use Direction::{Backwards, Forwards};
        // A burst in one millisecond, whose positions run ahead of the clock; a clock that was set back by 200 ms.
        let burst = [1_000_u64; 300];
        let offsets = [&burst[..], &[2_000, 3_000, 2_800, 2_900, 3_100], &[9_000; 50], &[20_000]].concat();
        let (world, room_id, began) = room(&offsets);
        for (direction, offset, expected) in [
            (Forwards, 0, Some(0)),
            (Forwards, 1, Some(1_000)),
            (Forwards, 1_000, Some(1_000)),
            (Forwards, 1_001, Some(2_000)),
            (Forwards, 2_850, Some(2_900)),
            (Forwards, 2_950, Some(3_000)),
            (Forwards, 3_001, Some(3_100)),
            (Forwards, 5_000, Some(9_000)),
            (Forwards, 20_000, Some(20_000)),
            (Forwards, 20_001, None),
            (Backwards, 0, Some(0)),
            (Backwards, 999, Some(0)),
            (Backwards, 1_000, Some(1_000)),
            (Backwards, 1_999, Some(1_000)),
            (Backwards, 2_850, Some(2_800)),
            (Backwards, 2_999, Some(2_900)),
            (Backwards, 8_999, Some(3_100)),
            (Backwards, 999_999, Some(20_000)),
        ] {
            let call = EventByTimestamp {
                user: alice(),
                device: "PHONE".into(),
                ts_ms: began + offset,
                direction,
                ignored: Vec::new(),
            };
            let found = world.call(room_id.as_str(), &call).unwrap().event;
            let found = found.map(|event| u64::from(event.origin_server_ts.get()) - began);
            assert_eq!(found, expected, "{direction:?} {offset}");
        }
        for (direction, ts_ms) in [(Backwards, began - 1), (Backwards, 0), (Forwards, u64::MAX)] {
            let call =
                EventByTimestamp { user: alice(), device: "PHONE".into(), ts_ms, direction, ignored: Vec::new() };
            let found = world.call(room_id.as_str(), &call).unwrap();
            assert!(found.event.is_none() && found.gap.is_none(), "{direction:?} {ts_ms}");
        }
    }

    #[test]
    fn however_long_the_log_a_time_is_found_in_it_by_halving() {
        /// Counts what is read.
        struct Counted<'a>(&'a dyn Sql, std::cell::Cell<usize>);
        impl Sql for Counted<'_> {
            fn query(&self, sql: &str, params: &[platform::Value]) -> Result<Vec<platform::Row>, platform::Fault> {
                let rows = self.0.query(sql, params)?;
                self.1.set(self.1.get() + rows.len());
                Ok(rows)
            }
            fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), platform::Fault> {
                self.0.atomically(body)
            }
        }
        let year_ms = 365 * 24 * 3_600_000;
        let offsets: Vec<u64> = (0..2_000).map(|number| number * year_ms / 2_000).collect();
        let (world, room_id, began) = room(&offsets);
        let sql = world.sql(&Address::new(ActorKind::Room, room_id.as_str()));
        let counted = Counted(&*sql, std::cell::Cell::default());
        let head = super::store::log::head_position(&*sql).unwrap();
        passes(&counted, began + year_ms / 3, head).unwrap();
        assert!(counted.1.get() <= 53, "{} entries read", counted.1.get());
    }
}
