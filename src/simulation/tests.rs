//! The host keeps the contracts of every host, a run follows from its seed, and a fixed set of stories ends well.

use std::rc::Rc;

use platform::{
    ActorKind, Address, LocalFuture, ObjectHost as _, Sql, Value,
    contract::{self, Outcome as Checked, failures},
    transact,
};

use crate::{
    Planted, Size, Story,
    actor_host::ActorHost,
    disk::Disk,
    run, run_with,
    story::{Deed, Step},
    world::World,
};

/// Stories that are always played.
const SEEDS: [u64; 3] = [1, 3, 4];
/// Those with a server that lies.
const HOSTILE_SEEDS: [u64; 2] = [1, 4];
/// As many of the stories with a planted fault as are played until one fails.
const PLANTED_MAX: u64 = 40;
/// The faults that few stories find; the others need minutes: `scripts/simulate --plant`.
const QUICKLY_FOUND: [Planted; 8] = [
    Planted::SkippedSignature,
    Planted::LostMembership,
    Planted::ReusedPosition,
    Planted::OutOfOrder,
    Planted::ForgottenSoftFail,
    Planted::LostTransaction,
    Planted::RepeatedWhisper,
    Planted::ForgottenVisibility,
];
const SMALL: Size = Size { servers: 3, people: 6, steps: 60, is_hostile: false };
/// Longer ones, each of which found something once.
const REGRESSIONS: [u64; 4] = [1001, 2010, 2018, 3068];
/// And shorter ones.
const SHORT_REGRESSIONS: [u64; 3] = [101_133, 300_513, 400_963];
/// And the shortest.
const BRIEF_REGRESSIONS: [u64; 1] = [806_103];
const BRIEF: Size = Size { people: 4, steps: 25, ..SMALL };
const SHORT: Size = Size { people: 5, steps: 50, ..SMALL };
const USUAL: Size = Size { people: 9, steps: 120, ..SMALL };
const HOSTILE: Size = Size { is_hostile: true, ..SMALL };

/// Runs something in a world of one server, where nothing goes wrong.
fn alone<F: Future<Output = Vec<Checked>> + 'static>(check: impl FnOnce(Rc<World>) -> F + 'static) {
    let world = World::new(1, Size { servers: 1, people: 1, steps: 0, is_hostile: false });
    let inside = world.clone();
    let outcomes = world.scheduler().run(async move {
        inside.machines[0].start().await;
        check(inside).await
    });
    world.ends();
    assert!(!outcomes.is_empty());
    assert_eq!(failures(&outcomes), "");
}

#[test]
fn a_disk_keeps_the_contract() {
    assert_eq!(failures(&contract::sql(&|| Rc::new(Disk::new()) as Rc<dyn Sql>)), "");
}

#[test]
fn a_server_keeps_the_contracts() {
    alone(|world| async move { contract::metadata(&*world.machines[0].metadata).await });
    alone(|world| async move { contract::blobs(&*world.machines[0].files, "run").await });
    alone(|world| async move {
        let mut outcomes = contract::clock(&**world.scheduler());
        outcomes.extend(contract::random(&world.machines[0].chance));
        outcomes
    });
    alone(|world| async move {
        let process = world.machines[0].process().unwrap();
        let host = ActorHost::new(Address::new(ActorKind::Room, "!any"), Rc::new(Disk::new()), &process);
        contract::actors(host.actors(), &Address::new(ActorKind::Room, "!stranger")).await
    });
}

#[test]
fn an_actor_keeps_the_contract() {
    alone(|world| async move {
        let process = world.machines[0].process().unwrap();
        let disk = Rc::new(Disk::new());
        let host = ActorHost::new(Address::new(ActorKind::Room, "!any"), disk.clone(), &process);
        let mut outcomes = contract::sql_of(host.disk.as_ref());
        let armed = || -> LocalFuture<'_, _> { Box::pin(async { Ok(disk.alarm()) }) };
        outcomes.extend(contract::object_host(&*host, &armed).await);
        outcomes
    });
}

fn numbers(disk: &Disk) -> Vec<i64> {
    let rows = disk.query("SELECT n FROM t ORDER BY n", &[]).unwrap_or_default();
    rows.into_iter().map(|mut row| row.integer(0).unwrap()).collect()
}

#[test]
fn a_crash_keeps_what_was_synced_and_some_of_the_rest_in_order() {
    let disk = Disk::new();
    let write = |statement: &str, params: &[Value]| transact(&disk, |tx| tx.execute(statement, params)).unwrap();
    write("CREATE TABLE t (n INTEGER PRIMARY KEY)", &[]);
    for n in 1..=4_i64 {
        write("INSERT INTO t (n) VALUES (?1)", &[n.into()]);
        disk.set_alarm(Some(n as u64));
        let _ = transact(&disk, |tx| {
            tx.execute("INSERT INTO t (n) VALUES (?1)", &[(n + 100).into()])?;
            Err::<(), _>(platform::Fault::new("no"))
        });
    }
    disk.sync(5);
    assert_eq!((disk.commits(), disk.survivors_min(), disk.alarm()), (9, 5, Some(4)));
    disk.keep(7).unwrap();
    assert_eq!((numbers(&disk), disk.alarm(), disk.is_synced()), (vec![1, 2, 3], Some(3), true));
    write("INSERT INTO t (n) VALUES (9)", &[]);
    disk.keep(2).unwrap();
    assert_eq!((numbers(&disk), disk.alarm()), (vec![1], None));
    disk.keep(0).unwrap();
    assert_eq!((numbers(&disk), disk.commits()), (vec![], 0));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let story = Story::new(5, SMALL);
    assert!(story.is_foul);
    let (one, other) = (run(&story, true), run(&story, true));
    let differs = one.trace.lines().zip(other.trace.lines()).find(|(one, other)| one != other);
    assert_eq!(differs, None);
    assert_eq!((&one.digest, one.virtual_ms), (&other.digest, other.virtual_ms));
    assert_ne!(one.digest, run(&Story::new(6, SMALL), false).digest);
}

#[test]
fn stories_end_well() {
    let (mut done, mut requests) = (0, 0);
    let hostile = HOSTILE_SEEDS.map(|seed| Story::new(seed, HOSTILE));
    let found = REGRESSIONS.map(|seed| Story::new(seed, USUAL));
    let short = SHORT_REGRESSIONS.map(|seed| Story::new(seed, SHORT));
    let brief = BRIEF_REGRESSIONS.map(|seed| Story::new(seed, BRIEF));
    let small = SEEDS.map(|seed| Story::new(seed, SMALL)).into_iter();
    for story in small.chain(found).chain(short).chain(brief).chain(hostile) {
        let outcome = run(&story, false);
        assert!(outcome.complaints.is_empty(), "{story}{:#?}", outcome.complaints);
        done += outcome.tally.values().map(|endings| endings[0]).sum::<u64>();
        requests += outcome.requests;
    }
    // Most of what the stories tell does happen, on several servers.
    assert!(done > SEEDS.len() as u64 * 20 && requests > SEEDS.len() as u64 * 40, "{done} {requests}");
}

/// Whether some story fails in code with this fault.
fn is_found(planted: Planted) -> bool {
    let size = if planted == Planted::SkippedSignature { HOSTILE } else { SMALL };
    (1..=PLANTED_MAX).any(|seed| !run_with(&Story::new(seed, size), Some(planted), false).complaints.is_empty())
}

#[test]
fn planted_faults_are_found() {
    let not_found: Vec<Planted> = QUICKLY_FOUND.into_iter().filter(|planted| !is_found(*planted)).collect();
    assert!(not_found.is_empty(), "{not_found:?}");
}

#[test]
fn a_story_is_read_as_a_list_of_steps() {
    let mut story = Story::new(1, SMALL);
    story.steps = vec![Step { after_ms: 1_500, deed: Deed::Crash { server: 1, down_ms: 2_000 } }];
    let told = story.to_string();
    assert!(told.ends_with("  1.     1.500 s  two.test loses its power for 2.0 s\n"), "{told}");
}
