//! Which event happened at a time.

use domain::Refusal;
use platform::{ActorKind, Fault, Sql};
use ruma_common::{MilliSecondsSinceUnixEpoch, OwnedDeviceId, OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{
    Direction, Room,
    store::{self, log::Logged},
    viewer::Viewer,
    walk::Walk,
};
use crate::{Call, Cx, Error};

/// How far around the place where the times pass the given one events are looked at, in log entries: where clocks went
/// back, or stood still, the closest event need not be the first.
const AROUND: u64 = 100;
/// Log entries looked at for an event that the user may see.
const SCAN_MAX: u64 = 2_000;

/// The event that the user may see closest to a time, by `origin_server_ts`, in a direction.
/// Spec: `GET /rooms/{roomId}/timestamp_to_event`.
///
/// Refused: `Forbidden` for who was never in the room, unless it is world-readable; `NotFound` if there is none.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventByTimestamp {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// Milliseconds since the Unix epoch.
    pub ts_ms: u64,
    pub direction: Direction,
}

/// An event and its time.
#[derive(Debug, Serialize, Deserialize)]
pub struct TimedEvent {
    pub event_id: OwnedEventId,
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
}

impl Call for EventByTimestamp {
    const ACTOR: ActorKind = ActorKind::Room;
    const NAME: &'static str = "event_by_timestamp";
    type Reply = TimedEvent;
}

impl Room {
    pub(super) fn event_by_timestamp(
        &self,
        sql: &dyn Sql,
        _cx: &Cx<'_>,
        call: EventByTimestamp,
    ) -> Result<TimedEvent, Error> {
        let viewer = Viewer::load(sql, call.user, call.device)?;
        viewer.sight()?;
        let head = self.head(sql)?;
        let passes = passes(sql, call.ts_ms, head)?;
        // A little beyond, against the direction: there may be events as close.
        let (from, span) = match call.direction {
            Direction::Forwards => {
                let from = store::log::backwards(sql, 0, passes.saturating_sub(1), AROUND)?;
                let from = from.last().map_or(0, |event| event.position.saturating_sub(1));
                (passes, (from, head))
            }
            Direction::Backwards => {
                let from = store::log::forwards(sql, passes, head, AROUND)?;
                (passes, (0, from.last().map_or(head, |event| event.position)))
            }
        };
        let found = closest(Walk::new(sql, &viewer, call.direction, span, AROUND), call.ts_ms, call.direction, from)?;
        let found = found.ok_or_else(|| {
            let direction = if call.direction == Direction::Forwards { "after" } else { "before" };
            Refusal::NotFound(format!("there is no event {direction} {} that you may see", call.ts_ms))
        })?;
        Ok(TimedEvent { event_id: found.pdu.event_id().to_owned(), origin_server_ts: found.pdu.origin_server_ts() })
    }
}

fn time(event: &Logged) -> u64 {
    event.pdu.origin_server_ts().get().into()
}

/// The first position whose event's time is not before `ts_ms`, where times grow with positions, as they do but for
/// clocks set back; one behind the head if there is none. Looks at one event for each halving.
fn passes(sql: &dyn Sql, ts_ms: u64, head: u64) -> Result<u64, Fault> {
    let mut passes = head.saturating_add(1);
    let (mut before, mut up_to) = (0, head);
    while before < up_to {
        let middle = before.midpoint(up_to);
        match store::log::forwards(sql, middle, up_to, 1)?.pop() {
            Some(event) if time(&event) < ts_ms => before = event.position,
            Some(event) => (passes, up_to) = (event.position, middle),
            None => up_to = middle,
        }
    }
    Ok(passes)
}

/// The event with the time closest to `ts_ms` on its side: of the first `AROUND` beyond `from`, if there is one, or else
/// the first of all.
fn closest(mut walk: Walk<'_>, ts_ms: u64, direction: Direction, from: u64) -> Result<Option<Logged>, Fault> {
    let mut closest: Option<Logged> = None;
    let mut beyond = 0_u64;
    while walk.scanned() < SCAN_MAX && (closest.is_none() || beyond < AROUND) {
        let Some(event) = walk.next()? else { break };
        let is_beyond = match direction {
            Direction::Forwards => event.position >= from,
            Direction::Backwards => event.position < from,
        };
        beyond = beyond.saturating_add(is_beyond.into());
        let closer = match direction {
            Direction::Forwards => {
                time(&event) >= ts_ms && closest.as_ref().is_none_or(|last| time(&event) < time(last))
            }
            Direction::Backwards => {
                time(&event) <= ts_ms && closest.as_ref().is_none_or(|last| time(&event) > time(last))
            }
        };
        if closer {
            closest = Some(event);
        }
    }
    Ok(closest)
}

#[cfg(test)]
mod tests {
    use domain::{Refusal, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedUserId, user_id};
    use serde_json::json;

    use super::{Direction, EventByTimestamp, passes};
    use crate::{CallError, world::World};

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
            let call = EventByTimestamp { user: alice(), device: "PHONE".into(), ts_ms: began + offset, direction };
            let found = world.call(room_id.as_str(), &call).ok();
            let found = found.map(|event| u64::from(event.origin_server_ts.get()) - began);
            assert_eq!(found, expected, "{direction:?} {offset}");
        }
        for (direction, ts_ms) in [(Backwards, began - 1), (Backwards, 0), (Forwards, u64::MAX)] {
            let call = EventByTimestamp { user: alice(), device: "PHONE".into(), ts_ms, direction };
            let outcome = world.call(room_id.as_str(), &call);
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::NotFound(_)))), "{direction:?} {ts_ms}");
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
