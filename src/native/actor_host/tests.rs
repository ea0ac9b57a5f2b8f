//! The actor host with a small actor of its own instead of Matrix.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use platform::{Row, Value, WAITING_CALLS_MAX, contract, transact};
use tokio::sync::Semaphore;

use super::{disk::Wal, *};

/// An actor that counts. It lays itself out with its first `add`.
struct Counter {
    host: Rc<dyn ObjectHost>,
    rang: Arc<AtomicUsize>,
}

const FOUND: &str = "CREATE TABLE IF NOT EXISTS count (id INTEGER PRIMARY KEY, n INTEGER)";
const ADD: &str = "INSERT INTO count (id, n) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1";

impl Counter {
    fn n(&self) -> Result<Option<i64>, Fault> {
        let laid_out = self.host.sql().query("SELECT 1 FROM sqlite_master WHERE name = 'count'", &[])?;
        if laid_out.is_empty() {
            return Ok(None);
        }
        self.host.sql().query("SELECT n FROM count", &[])?.pop().map(|mut row| row.integer(0)).transpose()
    }

    fn add(&self, alarm_at_ms: Option<u64>, fail: bool) -> Result<(), Fault> {
        transact(self.host.sql(), |tx| {
            tx.execute(FOUND, &[])?;
            tx.execute(ADD, &[])?;
            if let Some(at_ms) = alarm_at_ms {
                self.host.set_alarm(Some(at_ms))?;
            }
            if fail { Err(Fault::new("no")) } else { Ok(()) }
        })
    }

    async fn answer(self: Rc<Self>, call: &str, body: &[u8]) -> Result<Option<i64>, Fault> {
        let number = std::str::from_utf8(body).unwrap().parse().ok();
        let outcome = match call {
            "add" => self.add(None, false),
            "add, then alarm" => self.add(number, false),
            "fail" => self.add(Some(1), true),
            "change nothing" => {
                transact(self.host.sql(), |tx| tx.execute("UPDATE count SET n = n WHERE id = 9", &[]).map(drop))
            }
            "define" => {
                transact(self.host.sql(), |tx| tx.execute("CREATE TABLE IF NOT EXISTS more (n)", &[]).map(drop))
            }
            "panic" => transact(self.host.sql(), |tx| {
                tx.execute(ADD, &[])?;
                panic!("as a test asked");
            }),
            _ => Ok(()),
        };
        let n = outcome.and_then(|()| self.n());
        self.host.durable().await?;
        self.host.wake();
        n
    }
}

fn told(outcome: Result<Option<i64>, Fault>) -> Vec<u8> {
    match outcome {
        Ok(Some(n)) => n.to_string(),
        Ok(None) => "absent".to_owned(),
        Err(fault) => format!("{} {fault}", if fault.retriable { "retriable" } else { "fault" }),
    }
    .into_bytes()
}

impl Living for Counter {
    fn call(self: Rc<Self>, call: String, body: Vec<u8>) -> LocalFuture<'static, Vec<u8>> {
        Box::pin(async move { told(self.answer(&call, &body).await) })
    }

    /// Waits until the count reaches the body's number.
    fn wait(&self, call: &str, body: &[u8]) -> Option<Vec<u8>> {
        if call == "alarm, then wait" {
            self.host.set_alarm(Some(self.host.now_ms() + 86_400_000)).unwrap();
        }
        let Ok(wanted) = std::str::from_utf8(body).unwrap().parse::<i64>() else { return Some(b"what?".to_vec()) };
        match self.n() {
            Ok(n) if n.unwrap_or(0) < wanted => None,
            outcome => Some(told(outcome)),
        }
    }

    fn alarm(self: Rc<Self>) -> LocalFuture<'static, ()> {
        self.rang.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            self.add(None, false).unwrap();
            self.host.durable().await.unwrap();
            self.host.wake();
        })
    }
}

/// A disk whose syncs a test lets through one at a time, or fails.
#[derive(Default)]
struct SlowDisk {
    asked: AtomicUsize,
    allowed: Option<Semaphore>,
    broken: AtomicUsize,
}

impl SlowDisk {
    fn stopped() -> Arc<Self> {
        Arc::new(Self { allowed: Some(Semaphore::new(0)), ..Self::default() })
    }

    fn allow(&self) {
        self.allowed.as_ref().unwrap().add_permits(1);
    }
}

struct DiskOf(Arc<SlowDisk>);

impl Disk for DiskOf {
    fn sync(&self, wal: Arc<Wal>) -> LocalFuture<'static, Result<(), Fault>> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let disk = self.0.clone();
        Box::pin(async move {
            if let Some(allowed) = &disk.allowed {
                allowed.acquire().await.unwrap().forget();
            }
            if disk.broken.load(Ordering::SeqCst) > 0 {
                return Err(Fault::retriable("the disk is broken"));
            }
            RealDisk.sync(wal).await
        })
    }
}

struct Host {
    threads: Option<ActorThreads>,
    rang: Arc<AtomicUsize>,
    _metadata: tempfile::TempDir,
}

impl Host {
    fn start(dir: &Path, disk: Arc<dyn Disk>, open_max: usize) -> Self {
        let rang = Arc::new(AtomicUsize::new(0));
        let counters = rang.clone();
        let living = move || -> Result<OpenThere, Fault> {
            let rang = counters.clone();
            Ok(Box::new(move || {
                let open: Open =
                    Rc::new(move |_, host| -> Rc<dyn Living> { Rc::new(Counter { host, rang: rang.clone() }) });
                open
            }))
        };
        // Not in `dir`: a host that starts again there need not wait until the one before let go of it.
        let elsewhere = tempfile::tempdir().unwrap();
        let metadata = MetadataSource::open(elsewhere.path(), None).unwrap();
        let size = Size { executors: 1, open_max };
        let threads = ActorThreads::start(dir, size, living, &metadata, disk).unwrap();
        Self { threads: Some(threads), rang, _metadata: elsewhere }
    }

    fn router(&self) -> Router {
        self.threads.as_ref().unwrap().router()
    }

    fn stop(mut self) {
        self.threads.take().unwrap().stop();
    }

    async fn call(&self, to: &Address, call: &str, body: &str) -> String {
        let reply = self.router().call(to, call, body.as_bytes().to_vec()).await;
        reply.map_or_else(|fault| fault.to_string(), |bytes| String::from_utf8(bytes).unwrap())
    }
}

fn room(name: &str) -> Address {
    Address::new(ActorKind::Room, name)
}

/// Every file below the actors' directory.
fn actor_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.join("actors")];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found
}

/// A log that something lies in: closing empties it.
fn is_filled_wal(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "sqlite-wal")
        && std::fs::metadata(file).is_ok_and(|file| file.len() > 0)
}

fn story<F: Future<Output = ()>>(story: impl FnOnce(tempfile::TempDir) -> F) {
    let dir = tempfile::tempdir().unwrap();
    run_local("a test", 4, || async {
        tokio::time::timeout(Duration::from_secs(30), story(dir)).await.expect("the story hangs");
    });
}

#[test]
fn an_actor_keeps_what_it_acknowledged_across_a_restart() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        assert_eq!(host.call(&room("!a"), "add", "").await, "1");
        assert_eq!(host.call(&room("!a"), "add", "").await, "2");
        host.stop();
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        assert_eq!(host.call(&room("!a"), "look", "").await, "2");
        host.stop();
    });
}

#[test]
fn strangers_leave_no_file_behind() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        assert_eq!(host.call(&room("!never"), "look", "").await, "absent");
        let outcomes = contract::actors(&host.router(), &room("!stranger")).await;
        assert_eq!(contract::failures(&outcomes), "");
        assert_eq!(host.call(&room("!refused"), "fail", "").await, "fault no");
        assert_eq!(actor_files(dir.path()), Vec::<PathBuf>::new());
        assert_eq!(host.call(&room("!refused"), "add", "").await, "1");
        assert_ne!(actor_files(dir.path()), Vec::<PathBuf>::new());
        host.stop();
    });
}

#[test]
fn a_reply_leaves_only_after_its_sync_and_waiting_ones_share_the_next() {
    story(|dir| async move {
        let disk = SlowDisk::stopped();
        let host = Rc::new(Host::start(dir.path(), Arc::new(DiskOf(disk.clone())), 8));
        let (first, second, third) = (room("!a"), room("!a"), room("!a"));
        let mut one = Box::pin(host.call(&first, "add", ""));
        assert!(futures_util::FutureExt::now_or_never(&mut one).is_none());
        while disk.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // These commit while the first sync is under way, so it does not count for them.
        let mut rest = Box::pin(async { tokio::join!(host.call(&second, "add", ""), host.call(&third, "look", "")) });
        assert!(futures_util::FutureExt::now_or_never(&mut rest).is_none());
        assert!(futures_util::FutureExt::now_or_never(&mut one).is_none());
        disk.allow();
        assert_eq!(one.await, "1");
        assert!(futures_util::FutureExt::now_or_never(&mut rest).is_none());
        disk.allow();
        assert_eq!(rest.await, ("2".to_owned(), "2".to_owned()));
        assert_eq!(disk.asked.load(Ordering::SeqCst), 2);
        Rc::into_inner(host).unwrap().stop();
    });
}

#[test]
fn what_changes_nothing_waits_for_no_sync() {
    story(|dir| async move {
        let disk = Arc::new(SlowDisk::default());
        let host = Host::start(dir.path(), Arc::new(DiskOf(disk.clone())), 8);
        assert_eq!(host.call(&room("!a"), "add", "").await, "1");
        let asked = disk.asked.load(Ordering::SeqCst);
        assert_eq!(host.call(&room("!a"), "change nothing", "").await, "1");
        assert_eq!(disk.asked.load(Ordering::SeqCst), asked);
        assert_eq!(host.call(&room("!a"), "define", "").await, "1");
        assert_eq!(disk.asked.load(Ordering::SeqCst), asked + 1);
        assert_eq!(host.call(&room("!a"), "add", "").await, "2");
        assert_eq!(disk.asked.load(Ordering::SeqCst), asked + 2);
        host.stop();
    });
}

#[test]
fn a_failed_sync_kills_the_actor_and_the_next_call_starts_from_the_file() {
    story(|dir| async move {
        let disk = Arc::new(SlowDisk::default());
        let host = Host::start(dir.path(), Arc::new(DiskOf(disk.clone())), 8);
        assert_eq!(host.call(&room("!a"), "add", "").await, "1");
        disk.broken.store(1, Ordering::SeqCst);
        let router = host.router();
        let to = room("!a");
        let waiting = router.wait(&to, "wait", b"9".to_vec(), 20_000);
        let (waited, added) = tokio::join!(waiting, host.call(&to, "add", ""));
        assert!(added.starts_with("retriable"), "{added}");
        assert!(waited.unwrap_err().retriable);
        disk.broken.store(0, Ordering::SeqCst);
        // Unacknowledged, so it may have happened or not; what is seen now is on disk.
        let seen = host.call(&room("!a"), "look", "").await;
        assert!(["1", "2"].contains(&&*seen), "{seen}");
        host.stop();
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        // The alarm that looks after a killed actor may have counted once.
        let kept: i64 = host.call(&room("!a"), "look", "").await.parse().unwrap();
        assert!(kept >= seen.parse().unwrap());
        host.stop();
    });
}

#[test]
fn a_panic_rolls_back_and_drops_the_actors_memory() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        assert_eq!(host.call(&room("!a"), "add", "").await, "1");
        assert_eq!(host.call(&room("!a"), "panic", "").await, "the actor was closed during a call");
        assert_eq!(host.call(&room("!a"), "look", "").await, "1");
        host.stop();
    });
}

#[test]
fn the_least_recently_used_actor_is_closed_and_opens_again() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 2);
        let rooms: Vec<Address> = (0..6).map(|n| room(&format!("!{n}"))).collect();
        for round in 1..=3 {
            for room in &rooms {
                assert_eq!(host.call(room, "add", "").await, round.to_string());
            }
        }
        let open = actor_files(dir.path()).iter().filter(|file| is_filled_wal(file)).count();
        assert!(open <= 3, "{open} actors are open");
        host.stop();
        assert_eq!(actor_files(dir.path()).iter().filter(|file| is_filled_wal(file)).count(), 0);
    });
}

#[test]
fn waiters_are_woken_time_out_and_count_only_while_they_wait() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        let (router, to) = (host.router(), room("!a"));
        assert_eq!(host.call(&to, "add", "").await, "1");
        assert_eq!(router.wait(&to, "wait", b"1".to_vec(), 20_000).await.unwrap().unwrap(), b"1");
        assert_eq!(router.wait(&to, "wait", b"2".to_vec(), 10).await.unwrap(), None);
        let waiting = router.wait(&to, "wait", b"3".to_vec(), 20_000);
        let (woken, _) = tokio::join!(waiting, async {
            host.call(&to, "add", "").await;
            host.call(&to, "add", "").await
        });
        assert_eq!(woken.unwrap().unwrap(), b"3");
        let waiting = router.wait(&to, "wait", b"9".to_vec(), 20_000);
        let (evicted, _) = tokio::join!(waiting, router.evict(&to));
        assert!(evicted.unwrap_err().retriable);
        assert_eq!(host.call(&to, "look", "").await, "3");
        let waiting = router.wait(&to, "wait", b"9".to_vec(), 20_000);
        let (ended, ()) = tokio::join!(waiting, async { host.threads.as_ref().unwrap().end_waits() });
        assert_eq!(ended.unwrap(), None);
        host.stop();
    });
}

#[test]
fn an_alarm_rings_once_also_after_a_restart() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        let (router, to) = (host.router(), room("!a"));
        let soon_ms = SystemClock.now_ms() + 30;
        assert_eq!(host.call(&to, "add, then alarm", &soon_ms.to_string()).await, "1");
        assert_eq!(router.wait(&to, "wait", b"2".to_vec(), 20_000).await.unwrap().unwrap(), b"2");
        assert!(SystemClock.now_ms() >= soon_ms);
        assert_eq!(host.rang.load(Ordering::SeqCst), 1);
        // Set, and the host stops before its time.
        let later_ms = SystemClock.now_ms() + 300;
        assert_eq!(host.call(&to, "add, then alarm", &later_ms.to_string()).await, "3");
        host.stop();
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        let rang = host.rang.clone();
        while rang.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(SystemClock.now_ms() >= later_ms);
        assert_eq!(host.router().wait(&to, "wait", b"4".to_vec(), 20_000).await.unwrap().unwrap(), b"4");
        host.stop();
        let opened = AlarmIndex::open(&dir.path().join("alarms.sqlite"), &[], 0).unwrap();
        assert_eq!(opened.kept, vec![], "an alarm that rang is forgotten");
    });
}

#[test]
fn the_index_of_alarms_survives_a_kill_at_any_acknowledgement() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        let day_ms = SystemClock.now_ms() + 86_400_000;
        let to = room("!a");
        assert_eq!(host.call(&to, "add, then alarm", &day_ms.to_string()).await, "1");
        // What a kill right after the answer leaves: the files as they are now.
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let opened = AlarmIndex::open(&copy.path().join("alarms.sqlite"), &[], 0).unwrap();
        assert_eq!(opened.kept, vec![(to.clone(), day_ms)]);
        drop(opened.index);
        opened.thread.join().unwrap();
        // The actor's log was left behind, so the next host calls it by itself; here that counts.
        let again = Host::start(copy.path(), Arc::new(RealDisk), 8);
        assert_eq!(again.router().wait(&to, "wait", b"2".to_vec(), 20_000).await.unwrap().unwrap(), b"2");
        again.stop();
        host.stop();
    });
}

#[test]
fn a_start_that_fails_forgets_no_actor_that_a_crash_left_open() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        assert_eq!(host.call(&room("!a"), "add", "").await, "1");
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        host.stop();

        let size = Size { executors: 1, open_max: 8 };
        let metadata = MetadataSource::open(tempfile::tempdir().unwrap().path(), None).unwrap();
        let failed = ActorThreads::start(copy.path(), size, || Err(Fault::new("no")), &metadata, Arc::new(RealDisk));
        assert_eq!(failed.err().unwrap().to_string(), "no");
        // Had it got further, it would have opened the actor, and nothing in its folder tells of the crash then.
        let files = ActorFiles::new(copy.path());
        assert_eq!(files.left_open().unwrap(), [room("!a")]);
        files.open(&room("!a")).unwrap().unwrap().close().unwrap();
        assert_eq!(files.left_open().unwrap(), []);

        let again = Host::start(copy.path(), Arc::new(RealDisk), 8);
        assert_eq!(again.router().wait(&room("!a"), "wait", b"2".to_vec(), 20_000).await.unwrap().unwrap(), b"2");
        again.stop();
    });
}

#[test]
fn what_nobody_waits_for_is_written_and_does_not_hold_up_the_end() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        let (router, to) = (host.router(), room("!a"));
        assert_eq!(host.call(&to, "add", "").await, "1");
        assert_eq!(router.wait(&to, "alarm, then wait", b"9".to_vec(), 1).await.unwrap(), None);
        let stopping = tokio::time::Instant::now();
        host.stop();
        assert!(stopping.elapsed() < executor::STOP, "an actor never rested");
    });
}

#[test]
fn one_waiting_call_too_many_ends_the_oldest() {
    story(|dir| async move {
        let host = Host::start(dir.path(), Arc::new(RealDisk), 8);
        let (router, to) = (host.router(), room("!a"));
        assert_eq!(host.call(&to, "add", "").await, "1");
        let mut oldest = router.wait(&to, "wait", b"2".to_vec(), 20_000);
        // Polled in this order, so asked in this order.
        assert!(futures_util::FutureExt::now_or_never(&mut oldest).is_none());
        let younger = (0..WAITING_CALLS_MAX).map(|_| router.wait(&to, "wait", b"2".to_vec(), 20_000));
        let (ended, answered) = tokio::join!(futures_util::future::join_all(younger), async {
            assert_eq!(oldest.await.unwrap(), None);
            host.call(&to, "add", "").await
        });
        assert_eq!(answered, "2");
        assert!(ended.into_iter().all(|reply| reply.unwrap().unwrap() == b"2"));
        host.stop();
    });
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_dir(&path, &target) } else { assert!(std::fs::copy(&path, &target).is_ok()) }
    }
}

/// An actor that does nothing but lend its host.
struct Lender;

impl Living for Lender {
    fn call(self: Rc<Self>, _: String, _: Vec<u8>) -> LocalFuture<'static, Vec<u8>> {
        Box::pin(async { Vec::new() })
    }
    fn wait(&self, _: &str, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
    fn alarm(self: Rc<Self>) -> LocalFuture<'static, ()> {
        Box::pin(async {})
    }
}

#[test]
fn an_actors_host_keeps_the_contract() {
    story(|dir| async move {
        let opened = AlarmIndex::open(&dir.path().join("alarms.sqlite"), &[], 0).unwrap();
        let clock = Rc::new(SystemClock);
        let alarms = Alarms::new(clock.clone(), opened.index, Vec::new());
        let lent: Rc<RefCell<Vec<Rc<dyn ObjectHost>>>> = Rc::default();
        let lender = lent.clone();
        let open: Open = Rc::new(move |_, host| -> Rc<dyn Living> {
            lender.borrow_mut().push(host);
            Rc::new(Lender)
        });
        let (router, _inboxes) = Router::new(1);
        let executor = Rc::new(Executor {
            files: ActorFiles::new(dir.path()),
            open,
            alarms: alarms.clone(),
            carriers: router.carriers(),
            actors: Rc::new(router),
            clock,
            metadata: MetadataSource::open(dir.path(), None).unwrap().connect(),
            disk: Arc::new(RealDisk),
            open_max: 1_000,
            slots: RefCell::default(),
            uses: Cell::new(0),
            rest: Notify::new(),
        });
        let borrow = |name: &str| {
            executor.actor(&room(name)).unwrap();
            lent.borrow().last().unwrap().clone()
        };
        let count = Cell::new(0);
        let outcomes = contract::sql(&|| {
            count.set(count.get() + 1);
            Rc::new(SqlOf(borrow(&count.get().to_string())))
        });
        assert_eq!(contract::failures(&outcomes), "");
        let host = borrow("!host");
        assert_eq!(contract::failures(&contract::sql_of(host.sql())), "");
        let armed = || -> LocalFuture<'_, Result<Option<u64>, Fault>> {
            let armed = alarms.armed(&room("!host"));
            Box::pin(async move { Ok(armed) })
        };
        assert_eq!(contract::failures(&contract::object_host(&*host, &armed).await), "");
    });
}

struct SqlOf(Rc<dyn ObjectHost>);

impl platform::Sql for SqlOf {
    fn query(&self, statement: &str, params: &[Value]) -> Result<Vec<Row>, Fault> {
        self.0.sql().query(statement, params)
    }
    fn atomically(&self, body: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        self.0.sql().atomically(body)
    }
}
