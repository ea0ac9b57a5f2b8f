//! Where events stand in the graph, in the log and beside it.

use std::collections::BTreeSet;

use domain::Pdu;
use platform::{Fault, Row, Sql, Tx, Value};
use ruma_common::{EventId, OwnedEventId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{log, meta};

/// Where positions begin. Smaller numbers are those of events beside the log.
pub(crate) const LOG_START: u64 = 1 << 40;

/// Event ids in one parameter of a statement: of the longest ones, so many are a little more than half of what fits.
const IDS_AT_ONCE: usize = if cfg!(test) { 3 } else { 4_000 };
/// Bytes of one row of a snapshot, but for the change that reaches them.
const SNAPSHOT_ROW_BYTES_MAX: usize = if cfg!(test) { 300 } else { 512 * 1024 };
/// No position is larger.
pub(crate) const POSITION_MAX: u64 = (1 << 53) - 1;

/// The type and the state key of an event.
pub(crate) type Key = (String, String);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in the log, or held for what it says of a state.
    Accepted,
    Rejected,
    SoftFailed,
}

impl Verdict {
    fn stored(self) -> Value {
        match self {
            Verdict::Accepted => Value::Null,
            Verdict::Rejected => 1_u64.into(),
            Verdict::SoftFailed => 2_u64.into(),
        }
    }

    fn read(value: Option<u64>) -> Result<Self, Fault> {
        match value {
            None => Ok(Verdict::Accepted),
            Some(1) => Ok(Verdict::Rejected),
            Some(2) => Ok(Verdict::SoftFailed),
            Some(other) => Err(Fault::new(format!("no verdict {other}"))),
        }
    }
}

/// The state before an event, as it is stored: the log's at `base`, changed by a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    pub base: u64,
    pub snapshot: Option<u64>,
}

/// An event with what the graph knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its position, or its number beside the log.
    pub number: u64,
    pub pdu: Pdu,
    pub verdict: Verdict,
    pub before: StateBefore,
}

/// Which state is the one before an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateBefore {
    /// That of the log at the position before its own: it came after everything that was there.
    InTurn,
    Elsewhere(Before),
    Unknown,
}

impl Node {
    pub(crate) fn is_in_log(&self) -> bool {
        self.number >= LOG_START
    }
}

fn node(row: &mut Row) -> Result<Node, Fault> {
    let number = row.unsigned(0)?;
    let event_id = OwnedEventId::try_from(row.text(1)?).map_err(|_| Fault::new("a stored event has no event id"))?;
    let json = row.text(2)?;
    let verdict = Verdict::read(row.unsigned_or_null(3)?)?;
    let pdu = Pdu::from_stored(event_id, json, verdict == Verdict::Rejected)
        .map_err(|error| Fault::new(format!("a stored event: {error}")))?;
    let before = match row.unsigned_or_null(4)? {
        Some(base) => StateBefore::Elsewhere(Before { base, snapshot: row.unsigned_or_null(5)? }),
        None if number >= LOG_START => StateBefore::InTurn,
        None => StateBefore::Unknown,
    };
    Ok(Node { number, pdu, verdict, before })
}

/// The event with this id, wherever it stands.
pub(crate) fn by_id(sql: &dyn Sql, event_id: &EventId) -> Result<Option<Node>, Fault> {
    sql.query(
        "SELECT position, event_id, json, verdict, base, snapshot FROM event WHERE event_id = ?1",
        &[event_id.as_str().into()],
    )?
    .pop()
    .map(|mut row| node(&mut row))
    .transpose()
}

/// The events at these positions, in the log's order.
pub(crate) fn at(sql: &dyn Sql, positions: &[u64]) -> Result<Vec<Node>, Fault> {
    sql.query(
        "SELECT position, event_id, json, verdict, base, snapshot FROM event
         WHERE position IN (SELECT value FROM json_each(?1)) ORDER BY position",
        &[serde_json::to_string(positions)?.into()],
    )?
    .into_iter()
    .map(|mut row| node(&mut row))
    .collect()
}

/// A list of ids as JSON, in slices that are each small enough for a parameter of a statement.
pub(super) fn slices<'a>(event_ids: &'a [&OwnedEventId]) -> impl Iterator<Item = Result<Value, Fault>> + 'a {
    event_ids.chunks(IDS_AT_ONCE).map(|slice| Ok(serde_json::to_string(slice)?.into()))
}

/// Those of these events that are not held at all.
pub(crate) fn missing<'a>(
    sql: &dyn Sql,
    event_ids: impl IntoIterator<Item = &'a OwnedEventId>,
) -> Result<Vec<OwnedEventId>, Fault> {
    let event_ids: Vec<&OwnedEventId> = event_ids.into_iter().collect();
    let mut missing = Vec::new();
    for slice in slices(&event_ids) {
        let rows = sql.query(
            "SELECT value FROM json_each(?1) WHERE NOT EXISTS (SELECT 1 FROM event WHERE event_id = value)",
            &[slice?],
        )?;
        for mut row in rows {
            missing.push(event_id(&row.text(0)?)?);
        }
    }
    Ok(missing)
}

pub(crate) fn event_id(text: &str) -> Result<OwnedEventId, Fault> {
    OwnedEventId::try_from(text).map_err(|_| Fault::new("a stored event id is none"))
}

/// Puts an event beside the log, and answers its number there. Of what one says that the rules refuse nothing is kept.
pub(crate) fn insert_beside(tx: &Tx<'_>, pdu: &Pdu, verdict: Verdict, before: StateBefore) -> Result<u64, Fault> {
    let outline;
    let pdu = if verdict == Verdict::Rejected {
        let read = Pdu::from_stored(pdu.event_id().to_owned(), pdu.outline(), true);
        outline = read.map_err(|error| Fault::new(format!("the outline of an event: {error}")))?;
        &outline
    } else {
        pdu
    };
    let last = tx.query("SELECT max(position) FROM event WHERE position < ?1", &[LOG_START.into()])?.pop();
    let last = last.map_or(Ok(None), |mut row| row.unsigned_or_null(0))?;
    let number = last.unwrap_or(0).saturating_add(1);
    log::insert(tx, number, pdu, None)?;
    if verdict != Verdict::Accepted || before != StateBefore::Unknown {
        judge(tx, number, verdict, before)?;
    }
    Ok(number)
}

/// Forgets all that stands beside the log.
pub(crate) fn forget_beside(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.execute("DELETE FROM event WHERE position < ?1", &[LOG_START.into()])?;
    super::beside::clear(tx)
}

/// Notes what became of an event, and the state before it.
pub(crate) fn judge(tx: &Tx<'_>, number: u64, verdict: Verdict, before: StateBefore) -> Result<(), Fault> {
    let (base, snapshot) = match before {
        StateBefore::Elsewhere(before) => (Some(before.base), before.snapshot),
        StateBefore::InTurn | StateBefore::Unknown => (None, None),
    };
    tx.execute(
        "UPDATE event SET verdict = ?2, base = ?3, snapshot = ?4 WHERE position = ?1",
        &[number.into(), verdict.stored(), base.into(), snapshot.into()],
    )?;
    Ok(())
}

/// What `txn` says of an event beside the log which was judged on another server's word.
const ON_WORD: &str = "told";

/// Notes of an event beside the log that it is another server's word what state was before it.
pub(crate) fn rests_on_word(tx: &Tx<'_>, event_id: &EventId) -> Result<(), Fault> {
    let params = [event_id.as_str().into(), ON_WORD.into(), LOG_START.into()];
    tx.execute("UPDATE event SET txn = ?2 WHERE event_id = ?1 AND position < ?3", &params)?;
    Ok(())
}

/// Whether an event beside the log was judged on another server's word.
pub(crate) fn is_on_word(sql: &dyn Sql, event_id: &EventId) -> Result<bool, Fault> {
    let params = [event_id.as_str().into(), ON_WORD.into(), LOG_START.into()];
    let rows = sql.query("SELECT 1 FROM event WHERE event_id = ?1 AND txn = ?2 AND position < ?3", &params)?;
    Ok(!rows.is_empty())
}

/// An event beside the log gets a position, and the transaction that brought it; what the state says of it follows.
pub(crate) fn enter_log(tx: &Tx<'_>, node: &Node, position: u64, txn: Option<&str>) -> Result<(), Fault> {
    let (from, to) = (node.number.into(), position.into());
    tx.execute("UPDATE event SET position = ?2, txn = ?3 WHERE position = ?1", &[from, to, txn.into()])?;
    if !node.is_in_log() {
        let bytes = super::beside::bytes_of(node.pdu.json().len());
        super::beside::shrinks(tx, node.pdu.sender().server_name().as_str(), bytes)?;
    }
    let Some(state_key) = node.pdu.state_key() else { return Ok(()) };
    let key = || [node.pdu.event_type().to_string().into(), state_key.into(), node.number.into(), position.into()];
    tx.execute("UPDATE state SET position = ?4 WHERE type = ?1 AND state_key = ?2 AND position = ?3", &key())?;
    for sql in [
        "UPDATE state_change SET before = ?4 WHERE type = ?1 AND state_key = ?2 AND before = ?3",
        "UPDATE state_change SET after = ?4 WHERE type = ?1 AND state_key = ?2 AND after = ?3",
    ] {
        tx.execute(sql, &key())?;
    }
    Ok(())
}

/// The changes of a snapshot.
pub(crate) fn snapshot<T: DeserializeOwned>(sql: &dyn Sql, id: u64) -> Result<Vec<T>, Fault> {
    let (mut changes, mut next) = (Vec::new(), Some(id));
    while let Some(id) = next {
        let row = sql.query("SELECT changes FROM snapshot WHERE id = ?1", &[id.into()])?.pop();
        let text = row.ok_or_else(|| Fault::new("a snapshot is gone"))?.text(0)?;
        let (following, slice) =
            if text.starts_with('[') { ("", &*text) } else { text.split_once(' ').unwrap_or_default() };
        changes.append(&mut serde_json::from_str(slice)?);
        next = if following.is_empty() { None } else { Some(serde_json::from_str(following)?) };
    }
    Ok(changes)
}

/// Stores changes, of which there are some, as a snapshot, and answers its id. A large one takes several rows, each but
/// the last with the id of the next one in front of its list.
pub(crate) fn insert_snapshot(tx: &Tx<'_>, changes: &[impl Serialize]) -> Result<u64, Fault> {
    let mut slices: Vec<String> = Vec::new();
    for change in changes {
        let change = serde_json::to_string(change)?;
        match slices.last_mut().filter(|slice| slice.len() < SNAPSHOT_ROW_BYTES_MAX) {
            Some(slice) => slice.extend([",", &change]),
            None => slices.push(change),
        }
    }
    let mut next: Option<u64> = None;
    for slice in slices.iter().rev() {
        let following = next.map_or_else(String::new, |id| format!("{id} "));
        let rows = tx.execute(
            "INSERT INTO snapshot (changes) VALUES (?1) RETURNING id",
            &[format!("{following}[{slice}]").into()],
        )?;
        next = Some(rows.into_iter().next().ok_or_else(|| Fault::new("a snapshot has no id"))?.unsigned(0)?);
    }
    next.ok_or_else(|| Fault::new("a snapshot of nothing"))
}

/// The forward extremities: events of the log that none of it comes after.
pub(crate) struct Extremities {
    pub ids: Vec<OwnedEventId>,
    /// Whether they are stored; ordinarily there is one, the newest event.
    pub stored: bool,
}

pub(crate) fn extremities(sql: &dyn Sql) -> Result<Extremities, Fault> {
    if let Some(stored) = meta::text(sql, "extremities")? {
        return Ok(Extremities { ids: serde_json::from_str(&stored)?, stored: true });
    }
    let newest = sql
        .query("SELECT event_id FROM event WHERE position >= ?1 ORDER BY position DESC LIMIT 1", &[LOG_START.into()])?;
    let ids = newest.into_iter().map(|mut row| event_id(&row.text(0)?)).collect::<Result<_, Fault>>()?;
    Ok(Extremities { ids, stored: false })
}

/// Keeps the extremities; those that are what they are ordinarily (`None`) need no row.
pub(crate) fn set_extremities(tx: &Tx<'_>, several: Option<&[OwnedEventId]>) -> Result<(), Fault> {
    match several {
        Some(several) => meta::set(tx, "extremities", serde_json::to_string(several)?.into()),
        None => {
            tx.execute("DELETE FROM meta WHERE key IN ('extremities', 'extremities_dropped')", &[])?;
            Ok(())
        }
    }
}

/// Notes that some extremities are not kept, as there are too many: until there is one, and it came after all.
pub(crate) fn drop_extremities(tx: &Tx<'_>) -> Result<(), Fault> {
    if are_extremities_dropped(&**tx)? { Ok(()) } else { meta::set(tx, "extremities_dropped", 1_u64.into()) }
}

pub(crate) fn are_extremities_dropped(sql: &dyn Sql) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM meta WHERE key = 'extremities_dropped'", &[])?.is_empty())
}

/// The keys whose state changed in `(after, up_to]`.
pub(crate) fn changed_keys(sql: &dyn Sql, after: u64, up_to: u64) -> Result<Vec<Key>, Fault> {
    sql.query(
        "SELECT DISTINCT type, state_key FROM state_change INDEXED BY state_change_position
         WHERE position > ?1 AND position <= ?2",
        &[after.into(), up_to.into()],
    )?
    .into_iter()
    .map(|mut row| Ok((row.text(0)?, row.text(1)?)))
    .collect()
}

/// The id of the event that made the state for one key at `position`.
pub(crate) fn event_at(
    sql: &dyn Sql,
    (event_type, state_key): (&str, &str),
    position: u64,
) -> Result<Option<OwnedEventId>, Fault> {
    sql.query(
        "SELECT event_id FROM event WHERE position =
         (SELECT after FROM state_change WHERE type = ?1 AND state_key = ?2 AND position <= ?3
          ORDER BY position DESC LIMIT 1)",
        &[event_type.into(), state_key.into(), position.into()],
    )?
    .pop()
    .map(|mut row| event_id(&row.text(0)?))
    .transpose()
}

/// The whole state at `position`, by ids: for what has to know all of it.
pub(crate) fn state_at(sql: &dyn Sql, position: u64) -> Result<Vec<(Key, OwnedEventId)>, Fault> {
    sql.query(
        "SELECT entry.type, entry.state_key, event_id FROM
         (SELECT type, state_key,
          (SELECT after FROM state_change
           WHERE state_change.type = state.type AND state_change.state_key = state.state_key AND position <= ?1
           ORDER BY position DESC LIMIT 1) AS event FROM state) AS entry
         JOIN event ON event.position = entry.event ORDER BY entry.type, entry.state_key",
        &[position.into()],
    )?
    .into_iter()
    .map(|mut row| Ok(((row.text(0)?, row.text(1)?), event_id(&row.text(2)?)?)))
    .collect()
}

/// Which of `events` are in the auth chain of the log's state at `position`, `except` some keys of it, and of `more`
/// events besides.
///
/// It goes through that state in the database, whatever its size; what it holds in memory is the chain's ids.
pub(crate) fn in_auth_chain(
    sql: &dyn Sql,
    position: u64,
    except: &[Key],
    more: &[OwnedEventId],
    events: &[&OwnedEventId],
) -> Result<BTreeSet<OwnedEventId>, Fault> {
    sql.query(
        "WITH RECURSIVE
         excepted AS MATERIALIZED
          (SELECT json_extract(value, '$[0]') AS type, json_extract(value, '$[1]') AS state_key FROM json_each(?2)),
         entry AS
          (SELECT (SELECT after FROM state_change
            WHERE state_change.type = state.type AND state_change.state_key = state.state_key AND position <= ?1
            ORDER BY position DESC LIMIT 1) AS event
           FROM state WHERE (type, state_key) NOT IN (SELECT type, state_key FROM excepted)),
         start AS
          (SELECT event.json AS json FROM entry JOIN event ON event.position = entry.event
           UNION ALL SELECT event.json FROM json_each(?3) AS more JOIN event ON event_id = more.value),
         chain (id) AS
          (SELECT CASE reference.type WHEN 'array' THEN json_extract(reference.value, '$[0]') ELSE reference.value END
           FROM start, json_each(start.json, '$.auth_events') AS reference
           UNION
           SELECT CASE reference.type WHEN 'array' THEN json_extract(reference.value, '$[0]') ELSE reference.value END
           FROM chain JOIN event ON event_id = chain.id, json_each(event.json, '$.auth_events') AS reference)
         SELECT id FROM chain WHERE id IN (SELECT value FROM json_each(?4))",
        &[
            position.into(),
            serde_json::to_string(except)?.into(),
            serde_json::to_string(more)?.into(),
            serde_json::to_string(events)?.into(),
        ],
    )?
    .into_iter()
    .map(|mut row| event_id(&row.text(0)?))
    .collect()
}

/// The generation of an event that names these, where all of theirs are known.
pub(crate) fn next_generation(sql: &dyn Sql, pdu: &Pdu) -> Result<Option<u64>, Fault> {
    let named: BTreeSet<&OwnedEventId> = pdu.auth_events().iter().collect();
    let row = sql
        .query(
            "SELECT count(generation), coalesce(max(generation), 0) + 1 FROM event
             WHERE event_id IN (SELECT value FROM json_each(?1))",
            &[serde_json::to_string(&named)?.into()],
        )?
        .pop();
    let Some(mut row) = row else { return Ok(None) };
    if row.unsigned(0)? == named.len() as u64 { Ok(Some(row.unsigned(1)?)) } else { Ok(None) }
}

/// What an event names as its authorisation, and its generation, where that is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub event_id: OwnedEventId,
    pub generation: Option<u64>,
    pub auth_events: Vec<OwnedEventId>,
}

/// What these events name; of those that are held.
pub(crate) fn links(sql: &dyn Sql, events: &[&OwnedEventId]) -> Result<Vec<Stored>, Fault> {
    /// Since version 3 the id alone.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reference {
        Id(OwnedEventId),
        WithHashes(OwnedEventId, serde::de::IgnoredAny),
    }
    let mut links = Vec::new();
    for slice in slices(events) {
        let rows = sql.query(
            "SELECT event_id, generation, json_extract(json, '$.auth_events') FROM event
             WHERE event_id IN (SELECT value FROM json_each(?1))",
            &[slice?],
        )?;
        for mut row in rows {
            let references: Vec<Reference> = serde_json::from_str(&row.text(2)?)?;
            let id = |reference| match reference {
                Reference::Id(event_id) | Reference::WithHashes(event_id, _) => event_id,
            };
            links.push(Stored {
                event_id: event_id(&row.text(0)?)?,
                generation: row.unsigned_or_null(1)?,
                auth_events: references.into_iter().map(id).collect(),
            });
        }
    }
    Ok(links)
}

/// Keeps generations that were reckoned.
pub(crate) fn set_generations(tx: &Tx<'_>, generations: &[(OwnedEventId, u64)]) -> Result<(), Fault> {
    for (event_id, generation) in generations {
        tx.execute(
            "UPDATE event SET generation = ?2 WHERE event_id = ?1 AND generation IS NULL",
            &[event_id.as_str().into(), (*generation).into()],
        )?;
    }
    Ok(())
}

/// The auth chain of these events: what they name as their authorisation, what that names, and so on.
pub(crate) fn auth_chain(sql: &dyn Sql, events: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, Fault> {
    let mut chain = BTreeSet::new();
    for slice in slices(&events.iter().collect::<Vec<_>>()) {
        for mut row in sql.query(AUTH_CHAIN, &[slice?])? {
            chain.insert(event_id(&row.text(0)?)?);
        }
    }
    Ok(chain.into_iter().collect())
}

const AUTH_CHAIN: &str = "WITH RECURSIVE chain (id) AS
          (SELECT CASE reference.type WHEN 'array' THEN json_extract(reference.value, '$[0]') ELSE reference.value END
           FROM json_each(?1) AS start JOIN event ON event_id = start.value,
           json_each(event.json, '$.auth_events') AS reference
           UNION
           SELECT CASE reference.type WHEN 'array' THEN json_extract(reference.value, '$[0]') ELSE reference.value END
           FROM chain JOIN event ON event_id = chain.id, json_each(event.json, '$.auth_events') AS reference)
         SELECT id FROM chain";

/// Notes that events before the one at `position` are not held.
pub(crate) fn insert_gap(tx: &Tx<'_>, missing: &[OwnedEventId], position: u64) -> Result<(), Fault> {
    for event_id in missing {
        tx.execute(
            "INSERT INTO gap (event_id, position) VALUES (?1, ?2) ON CONFLICT (event_id) DO NOTHING",
            &[event_id.as_str().into(), position.into()],
        )?;
    }
    Ok(())
}

/// Whether an event of the log comes after this one, which is not held.
pub(crate) fn is_missed(sql: &dyn Sql, event_id: &EventId) -> Result<bool, Fault> {
    Ok(!sql.query("SELECT 1 FROM gap WHERE event_id = ?1", &[event_id.as_str().into()])?.is_empty())
}

/// Whether an event of the log comes after this one, which was not held; it is no longer missing.
pub(crate) fn fill_gap(tx: &Tx<'_>, event_id: &EventId) -> Result<bool, Fault> {
    let rows = tx.execute("DELETE FROM gap WHERE event_id = ?1 RETURNING position", &[event_id.as_str().into()])?;
    Ok(!rows.is_empty())
}

/// Notes a redaction of an event that is not held, unless `kept_max` of it are noted.
pub(crate) fn insert_early_redaction(
    tx: &Tx<'_>,
    event_id: &EventId,
    position: u64,
    kept_max: u64,
) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO redaction_ahead (event_id, position)
         SELECT ?1, ?2 WHERE (SELECT count(*) FROM redaction_ahead WHERE event_id = ?1) < ?3
         ON CONFLICT (event_id, position) DO NOTHING",
        &[event_id.as_str().into(), position.into(), kept_max.into()],
    )?;
    Ok(())
}

/// The positions of the redactions that came before their event, which is here now; in their order.
pub(crate) fn take_early_redactions(tx: &Tx<'_>, event_id: &EventId) -> Result<Vec<u64>, Fault> {
    let rows =
        tx.execute("DELETE FROM redaction_ahead WHERE event_id = ?1 RETURNING position", &[event_id.as_str().into()])?;
    let mut positions: Vec<u64> = rows.into_iter().map(|mut row| row.unsigned(0)).collect::<Result<_, Fault>>()?;
    positions.sort_unstable();
    Ok(positions)
}
