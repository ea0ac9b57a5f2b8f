//! What is said is not kept longer than the room and the operator want.
//!
//! An event's age is that of its position: when it came. When that is over nobody is shown it any more, and what it was
//! is gone from the database: of the row stays what a redaction leaves, for the graph stands on it. State stays. The
//! alarm does it in slices, an hour late at most. MSC1763, as Synapse has it.

use domain::{event, retention::RoomRetention};
use platform::{Fault, Sql, Tx};
use serde::{Deserialize, Serialize};

use super::{Room, store};
use crate::{Cx, Error, schedule};

/// The schedule's name for what is due to go.
pub(super) const DUE: &str = "retention";
/// Events that go in one transaction.
const SLICE_EVENTS: u64 = if cfg!(test) { 10 } else { 200 };
/// How long the room rests between two slices, in milliseconds.
const NEXT_SLICE_MS: u64 = 200;
/// How late an event may go, in milliseconds: so many go together.
const LATE_MS_MAX: u64 = 3_600_000;
/// Where it is kept among the small facts how far this has come.
const EXPIRED: &str = "expired";

/// How far this has come, by positions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Expired {
    /// Nobody is shown what was said up to here.
    hidden: u64,
    /// What was said up to here is gone.
    gone: u64,
    /// How long things were kept when that was found out last, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifetime_ms: Option<u64>,
}

fn expired(sql: &dyn Sql) -> Result<Expired, Fault> {
    Ok(store::meta::text(sql, EXPIRED)?.map_or(Ok(Expired::default()), |stored| serde_json::from_str(&stored))?)
}

/// The position up to which nobody is shown what was said.
pub(super) fn hidden_up_to(sql: &dyn Sql) -> Result<u64, Fault> {
    Ok(expired(sql)?.hidden)
}

/// How long what is said here is kept, in milliseconds; for ever without.
fn lifetime_ms(sql: &dyn Sql, cx: &Cx<'_>) -> Result<Option<u64>, Error> {
    let rules = cx.settings.config.retention;
    if !rules.is_on {
        return Ok(None);
    }
    let said = store::state::current(sql, domain::retention::RETENTION, "")?;
    // What another server let through says nothing.
    Ok(rules.lifetime_ms(said.and_then(|event| RoomRetention::parse(event.pdu.content()).ok())))
}

fn late_ms(lifetime_ms: u64) -> u64 {
    (lifetime_ms / 8).clamp(100, LATE_MS_MAX)
}

/// Some state changed: perhaps how long something is kept.
pub(super) fn follow(tx: &Tx<'_>, cx: &Cx<'_>, event_type: &str, state_key: &str) -> Result<(), Error> {
    if cx.settings.config.retention.is_on && event_type == domain::retention::RETENTION && state_key.is_empty() {
        schedule::at(tx, cx, DUE, cx.now_ms)?;
    }
    Ok(())
}

/// Something came, and will have to go; or somebody looks at what came before the operator had it go.
pub(super) fn came(tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
    let Some(lifetime_ms) = lifetime_ms(&**tx, cx)? else { return Ok(()) };
    let before = expired(&**tx)?;
    if before.lifetime_ms != Some(lifetime_ms) {
        write(tx, Expired { lifetime_ms: Some(lifetime_ms), ..before })?;
        return Ok(schedule::at(tx, cx, DUE, cx.now_ms)?);
    }
    if !schedule::has(&**tx, DUE)? {
        schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(lifetime_ms).saturating_add(late_ms(lifetime_ms)))?;
    }
    Ok(())
}

/// History came to stand at `position`, perhaps among what is gone.
pub(super) fn came_late(tx: &Tx<'_>, cx: &Cx<'_>, position: u64) -> Result<(), Error> {
    let before = expired(&**tx)?;
    if position <= before.gone {
        write(tx, Expired { gone: position.saturating_sub(1), ..before })?;
        schedule::at(tx, cx, DUE, cx.now_ms)?;
    }
    came(tx, cx)
}

fn write(tx: &Tx<'_>, expired: Expired) -> Result<(), Fault> {
    store::meta::set(tx, EXPIRED, serde_json::to_string(&expired)?.into())
}

impl Room {
    /// It is time that something goes.
    pub(super) fn expire(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        let before = expired(&**tx)?;
        let Some(lifetime_ms) = lifetime_ms(&**tx, cx)? else {
            // When it is switched on again, what comes meanwhile may be old.
            let is_new = before.lifetime_ms.is_some();
            return if is_new { Ok(write(tx, Expired { lifetime_ms: None, ..before })?) } else { Ok(()) };
        };
        // What is hidden stays so, whatever the room says later: it may be gone.
        let hidden = before.hidden.max(cx.now_ms.saturating_sub(lifetime_ms));
        let said = store::log::messages(&**tx, before.gone, hidden, SLICE_EVENTS)?;
        let version = self.version(&**tx)?;
        for event in store::log::each(&said, |slice| store::log::at(&**tx, slice)) {
            let event = event?;
            let left = event::redact(&event.pdu, &version, None)
                .map_err(|error| Fault::new(format!("a stored event does not redact: {error}")))?;
            if left.json() != event.pdu.json() || event.txn.is_some() {
                store::log::expire(tx, event.position, &left)?;
            }
        }
        let is_all = (said.len() as u64) < SLICE_EVENTS;
        let gone = if is_all { hidden } else { said.last().copied().unwrap_or(hidden) };
        let now = Expired { hidden, gone, lifetime_ms: Some(lifetime_ms) };
        if before != now {
            write(tx, now)?;
        }
        if !is_all {
            return Ok(schedule::at(tx, cx, DUE, cx.now_ms.saturating_add(NEXT_SLICE_MS))?);
        }
        if let Some(next) = store::log::messages(&**tx, hidden, u64::MAX, 1)?.pop() {
            let at_ms = next.max(cx.now_ms.saturating_sub(lifetime_ms)).saturating_add(lifetime_ms);
            schedule::at(tx, cx, DUE, at_ms.saturating_add(late_ms(lifetime_ms)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use domain::{Refusal, power::Preset};
    use platform::{ActorKind, Address, Sql};
    use ruma_common::{OwnedEventId, OwnedRoomId, OwnedUserId, user_id};
    use serde_json::{Value, json};

    use super::SLICE_EVENTS;
    use crate::{
        CallError,
        room::{Delta, Direction, GetEvent, GetEventsForServer, GetRelations, GetStateEvent, Wanted},
        world::World,
    };

    const DAY_MS: u64 = 86_400_000;

    fn alice() -> OwnedUserId {
        user_id!("@alice:myelin.test").to_owned()
    }

    struct Told {
        world: Rc<World>,
        room_id: OwnedRoomId,
    }

    impl Told {
        fn new(pairs: &[(&str, &str)]) -> Self {
            let world = World::configured(1, pairs);
            let room_id = world.creates_room(&alice(), "12", Preset::PrivateChat);
            Self { world, room_id }
        }

        fn says(&self, body: &str) -> OwnedEventId {
            let content = json!({ "msgtype": "m.text", "body": body });
            self.world.sends(&alice(), &self.room_id, "m.room.message", None, &content).unwrap()
        }

        fn keeps(&self, content: &Value) -> Result<OwnedEventId, CallError> {
            self.world.sends(&alice(), &self.room_id, "m.room.retention", Some(""), content)
        }

        fn shows(&self, event_id: &OwnedEventId) -> bool {
            let (user, device, event_id) = (alice(), "PHONE".into(), event_id.clone());
            self.world.call(self.room_id.as_str(), &GetEvent { user, device, ignored: Vec::new(), event_id }).is_ok()
        }

        fn holds(&self, text: &str) -> bool {
            let room = Address::new(ActorKind::Room, self.room_id.as_str());
            let rows = self.world.sql(&room).query("SELECT json FROM event", &[]).unwrap();
            rows.into_iter().any(|mut row| row.text(0).unwrap().contains(text))
        }

        fn passes(&self, ms: u64) {
            self.world.passes(ms);
            self.world.settle();
        }
    }

    #[test]
    fn what_is_old_is_gone_and_state_stays() {
        let told = Told::new(&[("RETENTION", "on"), ("RETENTION_DEFAULT", "1d")]);
        let named = json!({ "name": "Tea" });
        told.world.sends(&alice(), &told.room_id, "m.room.name", Some(""), &named).unwrap();
        let old: Vec<_> = (0..SLICE_EVENTS * 2 + 3).map(|number| told.says(&format!("a secret {number}"))).collect();
        told.passes(DAY_MS / 2);
        let young = told.says("still known");
        assert!(old.iter().all(|event_id| told.shows(event_id)));
        told.world.evict(&Address::new(ActorKind::Room, told.room_id.as_str()));
        for _ in 0..10 {
            told.passes(DAY_MS / 12);
        }
        assert!(!old.iter().any(|event_id| told.shows(event_id)));
        assert!(!told.holds("a secret") && told.holds("still known") && told.shows(&young));
        let state = GetStateEvent {
            user: alice(),
            device: "PHONE".into(),
            event_type: "m.room.name".into(),
            state_key: String::new(),
        };
        assert_eq!(told.world.call(told.room_id.as_str(), &state).unwrap().content.get(), named.to_string());
        // The graph stands: what comes now comes after what is gone.
        told.passes(DAY_MS * 2);
        assert!(!told.shows(&young));
        let new = told.says("new");
        assert!(told.shows(&new));
    }

    #[test]
    fn a_room_says_how_long_within_what_is_allowed() {
        let told = Told::new(&[("RETENTION", "on"), ("RETENTION_MIN", "1h"), ("RETENTION_MAX", "2d")]);
        let said = told.says("a secret");
        told.passes(DAY_MS * 3);
        assert!(told.shows(&said), "nobody said that it should go");
        for bad in [json!({ "max_lifetime": "1d" }), json!({ "min_lifetime": 2, "max_lifetime": 1 })] {
            let refused = told.keeps(&bad);
            assert!(matches!(refused, Err(CallError::Refused(Refusal::BadJson(_)))), "{refused:?}");
        }
        told.keeps(&json!({ "max_lifetime": DAY_MS * 365 })).unwrap();
        told.passes(1_000);
        assert!(!told.shows(&said) && !told.holds("a secret"), "two days are the most");
        told.keeps(&json!({ "max_lifetime": 0 })).unwrap();
        let said = told.says("another secret");
        told.passes(60_000);
        assert!(told.shows(&said), "an hour is the least");
        told.passes(DAY_MS / 12);
        assert!(!told.shows(&said) && !told.holds("another secret"));
    }

    #[test]
    fn a_room_may_say_any_number() {
        let told = Told::new(&[("RETENTION", "on")]);
        for lifetime_ms in [(1_u64 << 53) - 1, 1 << 53, u64::MAX] {
            // No event has a number from 2^53 on.
            let kept = told.keeps(&json!({ "max_lifetime": lifetime_ms }));
            assert_eq!(kept.is_ok(), lifetime_ms < 1 << 53, "{kept:?}");
            let said = told.says("hello");
            told.passes(DAY_MS);
            let delta = r#"{"user":"@alice:myelin.test","device":"PHONE"}"#;
            let delta: Delta = serde_json::from_str(delta).unwrap();
            told.world.call(told.room_id.as_str(), &delta).unwrap();
            told.says("hello again");
            assert!(told.shows(&said));
        }
    }

    #[test]
    fn what_came_before_the_operator_had_it_go_goes_too() {
        for (known, looks) in [(None, false), (None, true), (Some(DAY_MS * 365), false), (Some(DAY_MS * 365), true)] {
            let told = Told::new(&[("RETENTION", "on"), ("RETENTION_DEFAULT", "1d")]);
            let said = told.says("a secret");
            // As it is where nothing was to go, or only later.
            let room = Address::new(ActorKind::Room, told.room_id.as_str());
            let sql = told.world.sql(&room);
            sql.query("DELETE FROM due WHERE what = 'retention'", &[]).unwrap();
            let expired = known.map(|lifetime_ms| json!({ "hidden": 0, "gone": 0, "lifetime_ms": lifetime_ms }));
            let stored = expired.unwrap_or_else(|| json!({ "hidden": 0, "gone": 0 })).to_string();
            sql.query("UPDATE meta SET value = ?1 WHERE key = 'expired'", &[stored.into()]).unwrap();
            told.world.evict(&room);
            told.passes(DAY_MS * 3);
            assert!(told.shows(&said));
            if looks {
                let delta = r#"{"user":"@alice:myelin.test","device":"PHONE"}"#;
                let delta: Delta = serde_json::from_str(delta).unwrap();
                told.world.call(told.room_id.as_str(), &delta).unwrap();
            } else {
                told.says("new");
            }
            told.passes(1_000);
            assert!(!told.shows(&said) && !told.holds("a secret"), "{known:?} {looks}");
        }
    }

    #[test]
    fn what_is_hidden_is_hidden_from_whoever_asks() {
        let told = Told::new(&[("RETENTION", "on")]);
        let kept = told.keeps(&json!({ "max_lifetime": DAY_MS })).unwrap();
        let rules = json!({ "join_rule": "public" });
        told.world.sends(&alice(), &told.room_id, "m.room.join_rules", Some(""), &rules).unwrap();
        told.world.joins_from_elsewhere(&told.room_id, user_id!("@zoe:there.test"));
        let relation = json!({ "rel_type": "m.reference", "event_id": kept });
        let content = json!({ "body": "a secret", "m.relates_to": relation });
        let old = told.world.sends(&alice(), &told.room_id, "m.room.message", None, &content).unwrap();
        told.passes(10);
        let hidden = told.world.now_ms();
        told.passes(10);
        let young = told.says("young");
        let shows = |event_id: &OwnedEventId| {
            let wanted = Wanted::Event(event_id.clone());
            let call = GetEventsForServer { server: "there.test".try_into().unwrap(), wanted };
            let event = told.world.call(told.room_id.as_str(), &call).unwrap().pop().unwrap();
            serde_json::from_str::<Value>(event.get()).unwrap()["content"]["body"].is_string()
        };
        let related = || {
            let call = GetRelations {
                user: alice(),
                device: "PHONE".into(),
                ignored: Vec::new(),
                event_id: kept.clone(),
                rel_type: None,
                event_type: None,
                from: None,
                to: None,
                direction: Direction::Backwards,
                limit: None,
                recurse: None,
            };
            told.world.call(told.room_id.as_str(), &call).unwrap().chunk.len()
        };
        assert_eq!((shows(&old), shows(&young), related()), (true, true, 1));
        // Hidden, and not gone yet: that is done in slices.
        let room = Address::new(ActorKind::Room, told.room_id.as_str());
        let stored = json!({ "hidden": hidden, "gone": 0, "lifetime_ms": DAY_MS }).to_string();
        let stored = [stored.into()];
        told.world.sql(&room).query("UPDATE meta SET value = ?1 WHERE key = 'expired'", &stored).unwrap();
        told.world.evict(&room);
        assert_eq!((shows(&old), shows(&young), related()), (false, true, 0));
        assert!(told.holds("a secret"));
    }

    #[test]
    fn nothing_goes_unless_the_operator_says_so() {
        let told = Told::new(&[("RETENTION_DEFAULT", "1h")]);
        told.keeps(&json!({ "max_lifetime": "anything" })).unwrap();
        let said = told.says("kept");
        told.passes(DAY_MS * 365);
        assert!(told.shows(&said));
    }
}
