//! What is in the auth chain of a state: told from the log's state at one position, of which it is kept, by the keys on
//! which the two differ.
//!
//! An event is in the chain of a state while an event of the state names it, or one of the chain does: so these are
//! counted. What leaves a state takes with it what nothing else names, and so on, from the later to the earlier; what
//! comes brings what it names. Nobody goes further down than to the event that is asked for, whatever the size of the
//! state and of the chain. Kept are the counts from the first fork of the room on, and moved with the state when the
//! next one comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use domain::{Pdu, state::Link};
use platform::{Fault, Sql, Tx};
use ruma_common::OwnedEventId;

use super::{
    Room,
    graph::{Generations, links},
    store::{self, graph::Key},
};
use crate::{Cx, Error};

/// Keys on which two states may differ, if one's chain is told from the other's: with more, all is counted anew.
const KEYS_MAX: usize = if cfg!(test) { 50 } else { 5_000 };
/// Generations that were reckoned and are stored at once.
const GENERATIONS_AT_ONCE: usize = if cfg!(test) { 10 } else { 2_000 };

/// How often events are named by a state and its chain, as it is asked for.
pub(super) struct Uses {
    /// What of it is not looked at yet, by generations: the links, and how much more often each is named than by the
    /// state that is kept.
    ahead: BTreeMap<u64, BTreeMap<OwnedEventId, (Rc<Link>, i64)>>,
    /// What was looked at and is named more or less often than there: how often now.
    counted: BTreeMap<OwnedEventId, u64>,
}

impl Uses {
    /// Of the log's state at `base` `except` some keys, and of `more` events. `None` where that is not to be told from
    /// what is kept.
    pub(super) fn of(
        sql: &dyn Sql,
        generations: &Generations,
        base: u64,
        except: &[Key],
        more: &[OwnedEventId],
    ) -> Result<Option<Self>, Fault> {
        let Some(kept) = store::auth_use::position(sql)? else { return Ok(None) };
        let limit = KEYS_MAX.saturating_add(1);
        let changed = store::auth_use::changed_keys(sql, base.min(kept), base.max(kept), limit)?;
        if changed.len().max(except.len()).max(more.len()) > KEYS_MAX {
            return Ok(None);
        }
        let except: BTreeSet<&Key> = except.iter().collect();
        let (mut gone, mut came) = (Vec::new(), more.to_vec());
        let keys: BTreeSet<&Key> = changed.iter().chain(except.iter().copied()).collect();
        for key in keys {
            let at = |position| store::graph::event_at(sql, (&key.0, &key.1), position);
            let before = at(kept)?;
            let now = if except.contains(key) { None } else { at(base)? };
            if before != now {
                gone.extend(before);
                came.extend(now);
            }
        }
        let mut uses = Self { ahead: BTreeMap::new(), counted: BTreeMap::new() };
        let mut named = BTreeMap::new();
        for (events, by) in [(gone, -1), (came, 1)] {
            for link in links(sql, generations, &events)? {
                for auth_event in link.auth_events {
                    *named.entry(auth_event).or_default() += by;
                }
            }
        }
        uses.goes_to(sql, generations, named)?;
        Ok(Some(uses))
    }

    fn goes_to(
        &mut self,
        sql: &dyn Sql,
        generations: &Generations,
        named: BTreeMap<OwnedEventId, i64>,
    ) -> Result<(), Fault> {
        let events: Vec<OwnedEventId> = named.iter().filter(|(_, by)| **by != 0).map(|(id, _)| id.clone()).collect();
        for link in links(sql, generations, &events)? {
            let by = named.get(&link.event_id).copied().unwrap_or(0);
            let events = self.ahead.entry(link.generation).or_default();
            events.entry(link.event_id.clone()).or_insert_with(|| (Rc::new(link), 0)).1 += by;
        }
        Ok(())
    }

    /// Looks at all down to a generation.
    pub(super) fn goes_down(&mut self, sql: &dyn Sql, generations: &Generations, to: u64) -> Result<(), Fault> {
        while let Some(events) = self.ahead.last_entry().filter(|entry| *entry.key() >= to) {
            let events = events.remove();
            let known = store::auth_use::of(sql, &events.keys().collect::<Vec<_>>())?;
            let mut named = BTreeMap::new();
            for (event_id, (link, by)) in events {
                let before = known.get(&event_id).copied().unwrap_or(0);
                let now = before.saturating_add_signed(by);
                let by = i64::from(now > 0) - i64::from(before > 0);
                for auth_event in link.auth_events.iter().filter(|_| by != 0) {
                    *named.entry(auth_event.clone()).or_default() += by;
                }
                if now != before {
                    self.counted.insert(event_id, now);
                }
            }
            self.goes_to(sql, generations, named)?;
        }
        Ok(())
    }

    /// Those of these events that are named. All down to them was looked at.
    pub(super) fn named(&self, sql: &dyn Sql, events: &[&OwnedEventId]) -> Result<BTreeSet<OwnedEventId>, Fault> {
        let mut uses = store::auth_use::of(sql, events)?;
        let counted = |id: &OwnedEventId| self.counted.get(id).map(|count| (id.clone(), *count));
        uses.extend(events.iter().filter_map(|id| counted(id)));
        Ok(uses.into_iter().filter(|(_, uses)| *uses > 0).map(|(event_id, _)| event_id).collect())
    }
}

impl Room {
    /// Keeps what the current state names, where an event comes that does not come after everything that is there.
    pub(super) fn keep_auth_uses(&self, tx: &Tx<'_>, cx: &Cx<'_>, pdu: &Pdu) -> Result<(), Error> {
        let extremities = store::graph::extremities(&**tx)?.ids;
        if extremities.iter().all(|event_id| pdu.prev_events().contains(event_id)) {
            return Ok(());
        }
        let reckoned = self.generations.take_some(GENERATIONS_AT_ONCE);
        store::graph::set_generations(tx, &reckoned)?;
        let head = self.log_end(&**tx, cx)?;
        if store::auth_use::position(&**tx)? == Some(head) {
            return Ok(());
        }
        let Some(mut uses) = Uses::of(&**tx, &self.generations, head, &[], &[])? else {
            return Ok(store::auth_use::count(tx, head)?);
        };
        uses.goes_down(&**tx, &self.generations, 0)?;
        let counted: Vec<_> = uses.counted.iter().map(|(event_id, uses)| (event_id, *uses)).collect();
        Ok(store::auth_use::set(tx, &counted, head)?)
    }
}

/// The counts that are kept, and those of the state of which they are; for tests that compare them.
#[cfg(test)]
pub(crate) fn kept_and_counted(sql: &dyn Sql) -> Option<[BTreeMap<OwnedEventId, u64>; 2]> {
    let kept = store::auth_use::position(sql).unwrap()?;
    let generations = Generations::default();
    let names = |id: &OwnedEventId| links(sql, &generations, std::slice::from_ref(id)).unwrap().remove(0).auth_events;
    let mut counted: BTreeMap<OwnedEventId, u64> = BTreeMap::new();
    let mut ahead: Vec<OwnedEventId> =
        store::graph::state_at(sql, kept).unwrap().into_iter().map(|(_, event_id)| event_id).collect();
    while let Some(event_id) = ahead.pop() {
        for named in names(&event_id) {
            let uses = counted.entry(named.clone()).or_default();
            *uses += 1;
            if *uses == 1 {
                ahead.push(named);
            }
        }
    }
    let rows = sql.query("SELECT event_id, uses FROM auth_use", &[]).unwrap();
    let stored = |mut row: platform::Row| (row.text(0).unwrap().try_into().unwrap(), row.unsigned(1).unwrap());
    Some([rows.into_iter().map(stored).collect(), counted])
}
