//! `myelin serve`: puts the parts together, and takes them apart in order.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use actors::{Object, Settings};
use api::{KnownServers, MediaTurns, RateLimits, Server, Services};
use platform::Fault;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    actor_host::{self, ActorThreads, Living, Open, OpenThere, RealDisk, Router, Size, make_durable_dir, run_local},
    chance::Chance,
    clock::SystemClock,
    connection,
    errands::Errands,
    heavy::HeavyThreads,
    listen::{Accepted, Listener},
    logs,
    media_store::MediaStore,
    metadata::MetadataSource,
    options::Serve,
    outgoing::Network,
    settings::{self, read_config},
    tls::Certificate,
};

/// Requests under way when the server is told to stop have this long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// How often the server does what has to be done from time to time.
const TEND_EVERY: Duration = Duration::from_secs(10 * 60);
/// Actors kept open per executor: each holds up to a megabyte of pages.
const OPEN_MAX: usize = 512;
const OPEN_MIN: usize = 16;
/// The database, its log, and the log once more for syncing.
const FILES_PER_ACTOR: usize = 3;
/// Threads for long computations, per thread of the request tier.
const HEAVY_THREADS: usize = 8;
/// What users other than the owner and the group may do with a file.
const EVERYBODY: u32 = 0o007;
/// File handles left to connections, carriers' among them, and everything else.
const FILES_SPARE: usize = 768;

pub(crate) async fn run(options: Serve) -> Result<(), Fault> {
    let mut signals = Signals::caught()?;
    let config = read_config(options.storage.config.as_deref())?;
    logs::start(config.log_level)?;
    let data_dir = &options.storage.data_dir;
    let _claim = claim_data_dir(data_dir)?;
    let metadata = MetadataSource::open(data_dir, options.storage.database_url.as_deref())?;
    let claim = metadata.claim().await?;
    let settings = settings::load(&metadata, config).await?;
    let media = MediaStore::open(data_dir, &options.s3, &settings.config.outgoing).await?;
    let network = Network::new(&settings.config.outgoing)?;
    // Before any actor is opened: an address in use is why most starts fail.
    let certificate = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => Some(Certificate::read(cert, key)?),
        _ => None,
    };
    let listeners = listeners(&options, certificate.as_ref()).await?;

    let threads = thread::available_parallelism().map_or(1, usize::from);
    let size = Size { executors: threads.div_ceil(2), open_max: open_max(threads.div_ceil(2) * 2) };
    let actors = ActorThreads::start(data_dir, size, || living(&settings), &metadata, Arc::new(RealDisk))?;
    let (stop, stopping) = watch::channel(false);
    let heavy = HeavyThreads::new(threads);
    let rate_limits = Arc::new(RateLimits::new(&settings.config.rate_limits));
    let known_servers = Arc::new(KnownServers::default());
    let media_turns = Arc::new(MediaTurns::default());
    let mut tiers = Vec::new();
    for number in 0..threads {
        let parts = Parts {
            tends: number == 0,
            threads,
            router: actors.router(),
            metadata: metadata.clone(),
            media: media.clone(),
            heavy: heavy.clone(),
            settings: settings::copy(&settings)?,
            rate_limits: rate_limits.clone(),
            network: network.clone(),
            known_servers: known_servers.clone(),
            media_turns: media_turns.clone(),
        };
        tiers.push(Tier::start(parts, stopping.clone())?);
    }
    let inboxes: Vec<_> = tiers.iter().map(|tier| tier.inbox.clone()).collect();
    actors.router().carriers().are(tiers.iter().map(|tier| tier.errands.clone()).collect());

    let urls = listeners.iter().map(Listener::url).collect::<Result<Vec<_>, _>>()?;
    say(&format!("myelin listens on {} (server name {})", urls.join(" and "), settings.config.server_name))?;
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn_local(listener.distribute(inboxes.clone()));
    }
    let outcome = tokio::select! {
        () = signals.told_to_stop(certificate.as_deref()) => Ok(()),
        _ = accepting.join_next() => Ok(()),
        fault = claim.taken() => Err(fault),
    };

    info!("stopping: no more connections, finishing what is under way");
    accepting.shutdown().await;
    drop(inboxes);
    stop.send_replace(true);
    actors.end_waits();
    for tier in tiers {
        tier.join();
    }
    actors.stop();
    info!("stopped");
    outcome
}

/// What the operator tells the process.
struct Signals {
    interrupts: Signal,
    terminations: Signal,
    hangups: Signal,
}

impl Signals {
    /// From now on none of them ends the process by itself.
    fn caught() -> Result<Self, Fault> {
        let caught = |kind| signal(kind).map_err(|error| io_fault(&error));
        Ok(Self {
            interrupts: caught(SignalKind::interrupt())?,
            terminations: caught(SignalKind::terminate())?,
            hangups: caught(SignalKind::hangup())?,
        })
    }

    /// Resolves with SIGINT or SIGTERM. SIGHUP has the certificate read again, if there is one.
    async fn told_to_stop(&mut self, certificate: Option<&Certificate>) {
        loop {
            tokio::select! {
                _ = self.interrupts.recv() => return,
                _ = self.terminations.recv() => return,
                Some(()) = self.hangups.recv() => if let Some(certificate) = certificate {
                    certificate.read_again();
                }
            }
        }
    }
}

/// The addresses that connections come to, bound but not yet served.
async fn listeners(options: &Serve, certificate: Option<&Arc<Certificate>>) -> Result<Vec<Listener>, Fault> {
    let tls = certificate.map(Certificate::acceptor).transpose()?;
    let mut listeners = vec![Listener::bind(options.listen, None).await?];
    if let Some(address) = options.tls_listen {
        listeners.push(Listener::bind(address, tls).await?);
    }
    Ok(listeners)
}

/// Makes the data directory and claims it for this process, until the answer is dropped.
pub(crate) fn claim_data_dir(data_dir: &Path) -> Result<File, Fault> {
    let within = |error: &dyn std::fmt::Display| Fault::new(format!("{}: {error}", data_dir.display()));
    make_durable_dir(data_dir).map_err(|error| within(&error))?;
    let mode = fs::metadata(data_dir).map_err(|error| within(&error))?.mode();
    if mode & EVERYBODY != 0 {
        warn!("{} can be read by every user of this machine: chmod -R go= makes it yours alone", data_dir.display());
    }
    let lock = File::create(data_dir.join("lock")).map_err(|error| within(&error))?;
    lock.try_lock().map_err(|_| within(&"another myelin uses this data directory"))?;
    Ok(lock)
}

/// How real actors come to life on an executor.
fn living(settings: &Settings) -> Result<OpenThere, Fault> {
    let settings = settings::copy(settings)?;
    Ok(Box::new(move || {
        let settings = Rc::new(settings);
        let open: Open =
            Rc::new(move |address, host| -> Rc<dyn Living> { Object::new(address, host, settings.clone()) });
        open
    }))
}

/// How many actors each of `executors` may keep open, with as many file handles as the system grants.
fn open_max(executors: usize) -> usize {
    let granted = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(granted) => usize::try_from(granted).unwrap_or(usize::MAX),
        Err(error) => {
            warn!(%error, "the limit of open files is unknown");
            0
        }
    };
    (granted.saturating_sub(FILES_SPARE) / FILES_PER_ACTOR / executors.max(1)).clamp(OPEN_MIN, OPEN_MAX)
}

/// One thread of the request tier.
struct Tier {
    inbox: mpsc::UnboundedSender<Accepted>,
    /// Actors that have something for others.
    errands: mpsc::UnboundedSender<String>,
    thread: thread::JoinHandle<()>,
}

/// What a tier's thread makes its services from.
struct Parts {
    /// Whether this thread does what has to be done from time to time.
    tends: bool,
    /// How many there are of them.
    threads: usize,
    router: Router,
    metadata: MetadataSource,
    media: MediaStore,
    heavy: HeavyThreads,
    settings: Settings,
    rate_limits: Arc<RateLimits>,
    network: Network,
    known_servers: Arc<KnownServers>,
    media_turns: Arc<MediaTurns>,
}

impl Parts {
    fn server(self) -> Server {
        let routes = api::routes(&self.settings.config);
        let services = Services {
            actors: Rc::new(self.router),
            metadata: self.metadata.connect(),
            blobs: self.media.connect(),
            clock: Rc::new(SystemClock),
            random: Rc::new(Chance),
            heavy: Rc::new(self.heavy),
            settings: Rc::new(self.settings),
            rate_limits: self.rate_limits,
            outgoing: Rc::new(self.network.connections()),
            known_servers: self.known_servers,
            media_turns: self.media_turns,
            carrier_ms_max: None,
        };
        Server::new(services, routes)
    }
}

impl Tier {
    fn start(parts: Parts, stopping: watch::Receiver<bool>) -> Result<Self, Fault> {
        let (inbox, connections) = mpsc::unbounded_channel();
        let (errands, asked) = mpsc::unbounded_channel();
        let serve = move || serve(parts, connections, asked, stopping);
        let run = move || run_local("the request tier", HEAVY_THREADS, serve);
        Ok(Self { inbox, errands, thread: actor_host::spawn("http", run)? })
    }

    /// Waits until the thread's last request is answered or given up.
    fn join(self) {
        drop(self.inbox);
        // A panicked thread has said so.
        let _ = self.thread.join();
    }
}

async fn tend(server: Rc<Server>) {
    loop {
        if let Err(fault) = server.tend().await {
            warn!(%fault, "what has to be done from time to time was not");
        }
        tokio::time::sleep(TEND_EVERY).await;
    }
}

/// The carriers of a thread. They are cut off when the process ends: what was not acknowledged is sent again.
struct Carriers {
    errands: Errands,
    at_work: JoinSet<()>,
    carried_for: HashMap<Id, String>,
}

impl Carriers {
    fn of_one_of(threads: usize) -> Self {
        Self { errands: Errands::new(threads), at_work: JoinSet::new(), carried_for: HashMap::new() }
    }

    fn ask(&mut self, server: &Rc<Server>, actor: String) {
        if self.errands.ask(&actor) {
            self.come(server, actor);
        }
    }

    fn went(&mut self, server: &Rc<Server>, went: Result<(Id, ()), JoinError>) {
        let task = went.map_or_else(|error| error.id(), |(task, ())| task);
        if let Some(actor) = self.carried_for.remove(&task)
            && let Some(next) = self.errands.went(&actor)
        {
            self.come(server, next);
        }
    }

    fn come(&mut self, server: &Rc<Server>, actor: String) {
        let (server, carried_for) = (server.clone(), actor.clone());
        let task = self.at_work.spawn_local(async move { server.carry(&actor).await });
        self.carried_for.insert(task.id(), carried_for);
    }
}

async fn serve(
    parts: Parts,
    mut inbox: mpsc::UnboundedReceiver<Accepted>,
    mut errands: mpsc::UnboundedReceiver<String>,
    stopping: watch::Receiver<bool>,
) {
    let trusted_proxies: Rc<[_]> = parts.settings.config.trusted_proxies.as_slice().into();
    let tends = parts.tends;
    let mut carriers = Carriers::of_one_of(parts.threads);
    let server = Rc::new(parts.server());
    let mut tending = JoinSet::new();
    if tends {
        tending.spawn_local(tend(server.clone()));
    }
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = inbox.recv() => match accepted {
                Some(accepted) => {
                    connections.spawn_local(connection::serve(accepted, server.clone(), trusted_proxies.clone(), stopping.clone()));
                }
                None => break,
            },
            Some(actor) = errands.recv() => carriers.ask(&server, actor),
            Some(went) = carriers.at_work.join_next_with_id() => carriers.went(&server, went),
            Some(_) = connections.join_next() => {}
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        warn!("some requests were cut off");
    }
}

fn say(line: &str) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| io_fault(&error))
}

fn io_fault(error: &io::Error) -> Fault {
    Fault::new(error.to_string())
}
