//! One contract suite per trait, run by every adapter: natively in tests, on Workers inside the runtime.
//!
//! A check answers what it found wrong instead of panicking, because a panic ends a Worker's whole isolate.
//! Suites that write leave their tables behind: give them a database of their own.

mod blobs;
mod outgoing;

use std::rc::Rc;

use futures_util::future::join_all;

use crate::{
    Actors, Address, Clock, Fault, INTEGER_MAX, LocalFuture, Metadata, ObjectHost, ROW_BYTES_MAX, Random, Row,
    STATEMENT_PARAMS_MAX, Sql, Statement, Tx, Value, transact,
};

pub use blobs::blobs;
pub use outgoing::outgoing;

/// What one check found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The promise that was checked.
    pub name: &'static str,
    /// How it was broken.
    pub result: Result<(), String>,
}

/// The failures among the outcomes, one line each; empty when the adapter keeps its contract.
pub fn failures(outcomes: &[Outcome]) -> String {
    let broken = outcomes.iter().filter_map(|outcome| Some((outcome.name, outcome.result.as_ref().err()?)));
    broken.map(|(name, why)| format!("{name}: {why}\n")).collect()
}

type Checked = Result<(), String>;

/// A broken promise, in words.
struct Broken(String);

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Broken(fault.to_string())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<(), Broken> {
    if found == expected { Ok(()) } else { Err(Broken(format!("found {found:?}, expected {expected:?}"))) }
}

fn refused<T>(outcome: Result<T, Fault>, what: &str) -> Result<(), Broken> {
    match outcome {
        Ok(_) => Err(Broken(format!("{what} was accepted"))),
        Err(_) => Ok(()),
    }
}

fn outcome(name: &'static str, result: Result<(), Broken>) -> Outcome {
    let result: Checked = result.map_err(|Broken(why)| why);
    Outcome { name, result }
}

type SqlCheck = (&'static str, fn(&dyn Sql) -> Result<(), Broken>);

const SQL_CHECKS: &[SqlCheck] = &[
    ("an Err rolls back", err_rolls_back),
    ("an inner Err rolls back alone", inner_err_rolls_back_alone),
    ("an outer Err rolls back what an inner transaction committed", outer_err_rolls_back_inner),
    ("a created table rolls back", created_table_rolls_back),
    ("a refused statement is a Fault, and the transaction may go on", refused_statement_leaves_transaction),
    ("a broken constraint is a Fault, and the database stays usable", broken_constraint),
    ("2^53 - 1 survives, and its negative", largest_integer_survives),
    ("integers beyond 2^53 - 1 are refused", larger_integers_are_refused),
    ("text, blobs and null come back as they went", values_round_trip),
    ("100 parameters are accepted, 101 refused", parameters_are_bounded),
    ("text and blobs beyond the row limit are refused", large_values_are_refused),
    ("a large row below the limit survives", large_row_survives),
    ("upserts and RETURNING work", upsert_and_returning),
    ("json_each binds lists", json_each),
    ("recursive queries work", recursive_query),
    ("WITHOUT ROWID tables keep their order", without_rowid),
    ("full-text search works", full_text_search),
    ("rows read after a write in the same transaction show it", transaction_reads_its_writes),
];

/// The contract of [`Sql`]. `open` answers an empty database of its own to each check.
pub fn sql(open: &dyn Fn() -> Rc<dyn Sql>) -> Vec<Outcome> {
    SQL_CHECKS.iter().map(|(name, check)| outcome(name, prepare(&*open()).and_then(check))).collect()
}

/// The contract of [`Sql`] on one database, which every check empties first: what an actor on Workers has.
pub fn sql_of(database: &dyn Sql) -> Vec<Outcome> {
    SQL_CHECKS.iter().map(|(name, check)| outcome(name, prepare(database).and_then(check))).collect()
}

fn prepare(sql: &dyn Sql) -> Result<&dyn Sql, Broken> {
    transact(sql, |tx| {
        for table in ["contract_note", "contract_pair", "contract_words", "contract_late"] {
            tx.execute(&format!("DROP TABLE IF EXISTS {table}"), &[])?;
        }
        tx.execute("CREATE TABLE contract_note (id INTEGER PRIMARY KEY, body BLOB, tag TEXT UNIQUE)", &[])
    })?;
    Ok(sql)
}

fn note(tx: &Tx<'_>, id: i64) -> Result<(), Fault> {
    tx.execute("INSERT INTO contract_note (id, body) VALUES (?1, 'note')", &[id.into()]).map(drop)
}

fn notes(sql: &dyn Sql) -> Result<Vec<i64>, Fault> {
    sql.query("SELECT id FROM contract_note ORDER BY id", &[])?.into_iter().map(|mut row| row.integer(0)).collect()
}

fn no<T>() -> Result<T, Fault> {
    Err(Fault::new("no"))
}

fn err_rolls_back(sql: &dyn Sql) -> Result<(), Broken> {
    transact(sql, |tx| note(tx, 1))?;
    let failed = transact(sql, |tx| {
        note(tx, 2)?;
        no::<()>()
    });
    refused(failed, "an Err")?;
    same(notes(sql)?, vec![1])
}

fn inner_err_rolls_back_alone(sql: &dyn Sql) -> Result<(), Broken> {
    transact(sql, |tx| {
        note(tx, 1)?;
        let failed = transact(&**tx, |inner| {
            note(inner, 2)?;
            no::<()>()
        });
        if failed.is_ok() {
            return no();
        }
        note(tx, 3)
    })?;
    same(notes(sql)?, vec![1, 3])
}

fn outer_err_rolls_back_inner(sql: &dyn Sql) -> Result<(), Broken> {
    let failed = transact(sql, |tx| {
        transact(&**tx, |inner| note(inner, 1))?;
        no::<()>()
    });
    refused(failed, "an Err")?;
    same(notes(sql)?, vec![])
}

fn created_table_rolls_back(sql: &dyn Sql) -> Result<(), Broken> {
    let failed = transact(sql, |tx| {
        tx.execute("CREATE TABLE contract_late (id INTEGER PRIMARY KEY)", &[])?;
        no::<()>()
    });
    refused(failed, "an Err")?;
    refused(sql.query("SELECT id FROM contract_late", &[]), "a table that was rolled back")
}

fn refused_statement_leaves_transaction(sql: &dyn Sql) -> Result<(), Broken> {
    transact(sql, |tx| {
        note(tx, 1)?;
        if tx.execute("INSERT INTO contract_note (nothing) VALUES (1)", &[]).is_ok() {
            return no();
        }
        note(tx, 2)
    })?;
    same(notes(sql)?, vec![1, 2])
}

fn broken_constraint(sql: &dyn Sql) -> Result<(), Broken> {
    transact(sql, |tx| note(tx, 1))?;
    refused(transact(sql, |tx| note(tx, 1)), "a second row with the same key")?;
    transact(sql, |tx| note(tx, 2))?;
    same(notes(sql)?, vec![1, 2])
}

fn echo(sql: &dyn Sql, value: Value) -> Result<Vec<Row>, Fault> {
    transact(sql, |tx| {
        tx.execute("INSERT OR REPLACE INTO contract_note (id, body) VALUES (1, ?1)", &[value])?;
        tx.query("SELECT body FROM contract_note WHERE id = 1", &[])
    })
}

fn largest_integer_survives(sql: &dyn Sql) -> Result<(), Broken> {
    for integer in [INTEGER_MAX, -INTEGER_MAX, 0] {
        same(echo(sql, integer.into())?, vec![Row(vec![Value::Integer(integer)])])?;
    }
    Ok(())
}

fn larger_integers_are_refused(sql: &dyn Sql) -> Result<(), Broken> {
    refused(echo(sql, Value::Integer(INTEGER_MAX + 1)), "2^53")?;
    refused(echo(sql, Value::Integer(i64::MIN)), "-2^63")
}

fn values_round_trip(sql: &dyn Sql) -> Result<(), Broken> {
    let blob: Vec<u8> = (0..=255).collect();
    let values: [Value; 7] = [
        Value::Null,
        "".into(),
        "Grüße, 世界 🌍, 'quoted' and \"double\"".into(),
        "12".into(),
        Value::Blob(Vec::new()),
        blob.into(),
        true.into(),
    ];
    for value in values {
        same(echo(sql, value.clone())?, vec![Row(vec![value])])?;
    }
    Ok(())
}

fn parameters_are_bounded(sql: &dyn Sql) -> Result<(), Broken> {
    let among = |count: usize| {
        let places: Vec<String> = (1..=count).map(|place| format!("?{place}")).collect();
        sql.query(&format!("SELECT 1 IN ({})", places.join(", ")), &vec![Value::Integer(1); count])
    };
    same(among(STATEMENT_PARAMS_MAX)?, vec![Row(vec![Value::Integer(1)])])?;
    refused(among(STATEMENT_PARAMS_MAX + 1), "a statement with too many parameters")
}

fn large_values_are_refused(sql: &dyn Sql) -> Result<(), Broken> {
    refused(echo(sql, "a".repeat(ROW_BYTES_MAX + 1).into()), "text beyond the limit")?;
    refused(echo(sql, vec![0; ROW_BYTES_MAX + 1].into()), "a blob beyond the limit")
}

fn large_row_survives(sql: &dyn Sql) -> Result<(), Broken> {
    let text = "a".repeat(ROW_BYTES_MAX);
    let found = echo(sql, text.as_str().into())?.pop().map(|mut row| row.text(0)).transpose()?;
    same(found.map(|found| found == text), Some(true))
}

fn upsert_and_returning(sql: &dyn Sql) -> Result<(), Broken> {
    let upsert = "INSERT INTO contract_note (id, body) VALUES (1, ?1)
        ON CONFLICT (id) DO UPDATE SET body = body || excluded.body RETURNING body";
    for expected in ["a", "aa"] {
        let rows = transact(sql, |tx| tx.execute(upsert, &["a".into()]))?;
        same(rows, vec![Row(vec![expected.into()])])?;
    }
    let guarded = "INSERT INTO contract_note (id, body) VALUES (1, 'b') ON CONFLICT (id) DO NOTHING RETURNING body";
    same(transact(sql, |tx| tx.execute(guarded, &[]))?, vec![])
}

fn json_each(sql: &dyn Sql) -> Result<(), Broken> {
    let list = r#"["a", "b"]"#;
    let rows = sql.query("SELECT value FROM json_each(?1) ORDER BY value", &[list.into()])?;
    same(rows, vec![Row(vec!["a".into()]), Row(vec!["b".into()])])
}

fn recursive_query(sql: &dyn Sql) -> Result<(), Broken> {
    let count = "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < ?1) SELECT sum(n) FROM up";
    same(sql.query(count, &[10_i64.into()])?, vec![Row(vec![Value::Integer(55)])])
}

fn without_rowid(sql: &dyn Sql) -> Result<(), Broken> {
    let rows = transact(sql, |tx| {
        tx.execute("CREATE TABLE contract_pair (a TEXT, b INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID", &[])?;
        tx.execute("INSERT INTO contract_pair (a, b) VALUES ('b', 1), ('a', 2), ('a', 1)", &[])?;
        tx.query("SELECT a, b FROM contract_pair ORDER BY a, b", &[])
    })?;
    let row = |a: &str, b: i64| Row(vec![a.into(), b.into()]);
    same(rows, vec![row("a", 1), row("a", 2), row("b", 1)])
}

fn full_text_search(sql: &dyn Sql) -> Result<(), Broken> {
    let rows = transact(sql, |tx| {
        tx.execute("CREATE VIRTUAL TABLE contract_words USING fts5 (body)", &[])?;
        tx.execute("INSERT INTO contract_words (rowid, body) VALUES (7, 'the quick fox'), (8, 'a slow snail')", &[])?;
        tx.query("SELECT rowid FROM contract_words WHERE contract_words MATCH ?1", &["quick".into()])
    })?;
    same(rows, vec![Row(vec![Value::Integer(7)])])
}

fn transaction_reads_its_writes(sql: &dyn Sql) -> Result<(), Broken> {
    let inside = transact(sql, |tx| {
        note(tx, 1)?;
        notes(&**tx)
    })?;
    same(inside, vec![1])?;
    same(notes(sql)?, vec![1])
}

/// The contract of [`Metadata`], on a database whose tables named `contract_…` may be dropped.
pub async fn metadata(metadata: &dyn Metadata) -> Vec<Outcome> {
    vec![
        outcome("values come back as they went", metadata_values(metadata).await),
        outcome("integers beyond 2^53 - 1 are refused", metadata_large_integers(metadata).await),
        outcome("a batch is all or nothing", metadata_batch(metadata).await),
        outcome("ON CONFLICT DO NOTHING keeps the first, which is read back", metadata_conflict(metadata).await),
        outcome("RETURNING answers what was written", metadata_returning(metadata).await),
        outcome("a refused statement is a Fault, and the next one works", metadata_refusal(metadata).await),
        outcome("many statements at once each get their own answer", metadata_concurrency(metadata).await),
    ]
}

async fn metadata_table(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata
        .batch(vec![
            Statement::new("DROP TABLE IF EXISTS contract_entry", vec![]),
            Statement::new("CREATE TABLE contract_entry (name TEXT PRIMARY KEY, count BIGINT, note TEXT)", vec![]),
        ])
        .await?;
    Ok(())
}

fn entry(name: &str, count: Value, note: Value) -> Statement {
    let insert = "INSERT INTO contract_entry (name, count, note) VALUES (?1, ?2, ?3)";
    Statement::new(insert, vec![name.into(), count, note])
}

async fn entries(metadata: &dyn Metadata) -> Result<Vec<Row>, Fault> {
    metadata.query(Statement::new("SELECT name, count, note FROM contract_entry ORDER BY name", vec![])).await
}

async fn metadata_values(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    let unicode = "Grüße, 世界 🌍, '?1'";
    metadata.query(entry("a", INTEGER_MAX.into(), unicode.into())).await?;
    metadata.query(entry("b", Value::Null, Value::Null)).await?;
    metadata.query(entry("c", (-INTEGER_MAX).into(), "".into())).await?;
    let row = |name: &str, count: Value, note: Value| Row(vec![name.into(), count, note]);
    let expected = vec![
        row("a", INTEGER_MAX.into(), unicode.into()),
        row("b", Value::Null, Value::Null),
        row("c", (-INTEGER_MAX).into(), "".into()),
    ];
    same(entries(metadata).await?, expected)?;
    let counted = "SELECT count(*), '?1' FROM contract_entry WHERE count = ?1";
    let counted = metadata.query(Statement::new(counted, vec![INTEGER_MAX.into()])).await?;
    same(counted, vec![Row(vec![Value::Integer(1), "?1".into()])])
}

async fn metadata_large_integers(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    refused(metadata.query(entry("a", Value::Integer(INTEGER_MAX + 1), Value::Null)).await, "2^53")
}

async fn metadata_batch(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    let twice = vec![entry("a", 1_i64.into(), Value::Null), entry("a", 2_i64.into(), Value::Null)];
    refused(metadata.batch(twice).await, "a batch with the same key twice")?;
    metadata.batch(Vec::new()).await?;
    same(entries(metadata).await?, vec![])?;
    metadata.batch(vec![entry("a", 1_i64.into(), Value::Null), entry("b", 2_i64.into(), Value::Null)]).await?;
    same(entries(metadata).await?.len(), 2)
}

async fn metadata_conflict(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    let claim = "INSERT INTO contract_entry (name, note) VALUES ('a', ?1) ON CONFLICT (name) DO NOTHING";
    for claimant in ["first", "second"] {
        metadata.query(Statement::new(claim, vec![claimant.into()])).await?;
    }
    same(entries(metadata).await?, vec![Row(vec!["a".into(), Value::Null, "first".into()])])
}

async fn metadata_returning(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    let count = "INSERT INTO contract_entry (name, count) VALUES (?1, 1)
        ON CONFLICT (name) DO UPDATE SET count = contract_entry.count + 1 RETURNING count";
    for expected in 1..=2_i64 {
        let rows = metadata.query(Statement::new(count, vec!["a".into()])).await?;
        same(rows, vec![Row(vec![expected.into()])])?;
    }
    Ok(())
}

async fn metadata_refusal(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    refused(metadata.query(Statement::new("SELECT nothing FROM contract_entry", vec![])).await, "an unknown column")?;
    same(entries(metadata).await?, vec![])
}

async fn metadata_concurrency(metadata: &dyn Metadata) -> Result<(), Broken> {
    metadata_table(metadata).await?;
    let echo = |count: i64| metadata.query(Statement::new("SELECT CAST(?1 AS BIGINT)", vec![count.into()]));
    let pairs = join_all((0..20).map(|count| async move { (count, echo(count).await) })).await;
    for (count, rows) in pairs {
        same(rows?, vec![Row(vec![Value::Integer(count)])])?;
    }
    Ok(())
}

/// The contract of [`Clock`].
pub fn clock(clock: &dyn Clock) -> Vec<Outcome> {
    let readings: Vec<u64> = (0..1_000).map(|_| clock.now_ms()).collect();
    let after_2020 = readings.iter().all(|now_ms| *now_ms > 1_577_836_800_000);
    vec![
        outcome("time does not run backwards", same(readings.is_sorted(), true)),
        outcome("time is in milliseconds since 1970", same(after_2020, true)),
    ]
}

/// The contract of [`Random`].
pub fn random(random: &dyn Random) -> Vec<Outcome> {
    let differs = || {
        let (mut one, mut other) = ([0; 32], [0; 32]);
        random.fill(&mut one)?;
        random.fill(&mut other)?;
        if one == other || one == [0; 32] { Err(Broken("chance repeated itself".to_owned())) } else { Ok(()) }
    };
    vec![
        outcome("chance differs from call to call", differs()),
        outcome("no bytes can be asked for", random.fill(&mut []).map_err(Broken::from)),
    ]
}

/// Reads an actor's alarm as its host has it: milliseconds since the Unix epoch.
pub type Armed<'a> = &'a dyn Fn() -> LocalFuture<'a, Result<Option<u64>, Fault>>;

/// The contract of [`ObjectHost`], on an actor of its own whose alarm `armed` reads. Run [`sql_of`] before it: an
/// actor without a database cannot be given an alarm.
pub async fn object_host(host: &dyn ObjectHost, armed: Armed<'_>) -> Vec<Outcome> {
    let mut outcomes = vec![
        outcome("an alarm set in a transaction is set by its commit", alarm_commits(host, armed).await),
        outcome("an alarm set in a transaction is forgotten by its rollback", alarm_rolls_back(host, armed).await),
        outcome("an alarm set in an inner rollback leaves the outer one's", inner_alarm_rolls_back(host, armed).await),
        outcome("the output gate opens", host.durable().await.map_err(Broken::from)),
        outcome("nobody waits on a new actor", same(host.waiting(), 0)),
        outcome("an actor reaches metadata, and again", object_reaches_metadata(host).await),
    ];
    outcomes.extend(clock(host));
    outcomes.extend(random(host));
    outcomes
}

async fn object_reaches_metadata(host: &dyn ObjectHost) -> Result<(), Broken> {
    for count in 1..=2_i64 {
        let echo = Statement::new("SELECT CAST(?1 AS BIGINT)", vec![count.into()]);
        same(host.metadata()?.query(echo).await?, vec![Row(vec![count.into()])])?;
    }
    Ok(())
}

/// Far enough away not to ring while the suite runs.
const DAY_MS: u64 = 86_400_000;

async fn alarm_commits(host: &dyn ObjectHost, armed: Armed<'_>) -> Result<(), Broken> {
    let at_ms = host.now_ms() + DAY_MS;
    transact(host.sql(), |_| host.set_alarm(Some(at_ms)))?;
    host.durable().await?;
    same(armed().await?, Some(at_ms))?;
    transact(host.sql(), |_| host.set_alarm(Some(at_ms + 1)))?;
    host.durable().await?;
    same(armed().await?, Some(at_ms + 1))?;
    transact(host.sql(), |_| host.set_alarm(None))?;
    host.durable().await?;
    same(armed().await?, None)
}

async fn alarm_rolls_back(host: &dyn ObjectHost, armed: Armed<'_>) -> Result<(), Broken> {
    let at_ms = host.now_ms() + DAY_MS;
    let failed = transact(host.sql(), |_| {
        host.set_alarm(Some(at_ms))?;
        no::<()>()
    });
    refused(failed, "an Err")?;
    host.durable().await?;
    same(armed().await?, None)
}

async fn inner_alarm_rolls_back(host: &dyn ObjectHost, armed: Armed<'_>) -> Result<(), Broken> {
    let at_ms = host.now_ms() + DAY_MS;
    transact(host.sql(), |tx| {
        host.set_alarm(Some(at_ms))?;
        let failed = transact(&**tx, |_| {
            host.set_alarm(Some(at_ms + 1))?;
            no::<()>()
        });
        refused(failed, "an Err").or_else(|_| no())
    })?;
    host.durable().await?;
    let found = armed().await?;
    host.set_alarm(None)?;
    host.durable().await?;
    same(found, Some(at_ms))
}

/// The contract of [`Actors`], as far as it does not depend on what an actor does. `stranger` was never founded.
pub async fn actors(actors: &dyn Actors, stranger: &Address) -> Vec<Outcome> {
    vec![
        outcome("a call that no actor knows is answered", answered(actors, stranger).await),
        outcome("a waiting call that no actor knows is answered at once", wait_answered(actors, stranger).await),
        outcome("calls at once are each answered", answered_at_once(actors, stranger).await),
        outcome("an evicted actor answers again", evicted(actors, stranger).await),
    ]
}

const UNKNOWN_CALL: &str = "contract.unknown";

async fn answered(actors: &dyn Actors, stranger: &Address) -> Result<(), Broken> {
    let reply = actors.call(stranger, UNKNOWN_CALL, b"{}".to_vec()).await?;
    same(reply.is_empty(), false)
}

async fn wait_answered(actors: &dyn Actors, stranger: &Address) -> Result<(), Broken> {
    let reply = actors.wait(stranger, UNKNOWN_CALL, b"{}".to_vec(), 60_000).await?;
    same(reply.is_some_and(|reply| !reply.is_empty()), true)
}

async fn answered_at_once(actors: &dyn Actors, stranger: &Address) -> Result<(), Broken> {
    for answered in join_all((0..8).map(|_| answered(actors, stranger))).await {
        answered?;
    }
    Ok(())
}

async fn evicted(actors: &dyn Actors, stranger: &Address) -> Result<(), Broken> {
    actors.evict(stranger).await?;
    actors.evict(stranger).await?;
    answered(actors, stranger).await
}
