//! Somebody else's homeserver in earnest: Synapse, in a process of its own, with SQLite or a PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    Authority, Client, Database, PASSWORD, User,
    process::{Process, memory_peak},
    server::{free_port, is_in_ci, log_named},
};

/// Its cold start, on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// A running Synapse.
pub struct Synapse {
    port: u16,
    people: AtomicU32,
    folder: PathBuf,
    _process: Process,
    /// Dropped after who uses it.
    _database: Option<Database>,
}

impl Synapse {
    /// The Python that has Synapse: `MYELIN_SYNAPSE_PYTHON`. Without one there is no Synapse to talk to; fails
    /// then if `CI` is `true`.
    pub fn python() -> Option<PathBuf> {
        let python = std::env::var_os("MYELIN_SYNAPSE_PYTHON").map(PathBuf::from);
        assert!(python.is_some() || !is_in_ci(), "MYELIN_SYNAPSE_PYTHON is not set");
        python
    }

    /// Starts one that others reach by this name, and that trusts the tests' authority.
    pub fn starts(python: &Path, name: &str) -> Self {
        Self::starts_on(python, name, None)
    }

    /// As [`Synapse::starts`], with its data in this PostgreSQL.
    pub fn starts_on(python: &Path, name: &str, database: Option<Database>) -> Self {
        let port = free_port();
        let folder = tempfile::Builder::new().prefix("synapse-").tempdir().expect("a temporary folder").keep();
        let config = folder.join("homeserver.yaml");
        fs::write(&config, configuration(name, port, &folder, database.as_ref()))
            .expect("the configuration is written");
        fs::write(folder.join("log.yaml"), LOG).expect("the configuration is written");
        let program = |arguments: &[&str]| {
            let mut command = vec![text(python), "-m".to_owned(), "synapse.app.homeserver".to_owned()];
            command.extend(["--config-path".to_owned(), text(&config)]);
            command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
            command
        };
        let keys = program(&["--generate-keys"]);
        let made = Command::new(&keys[0]).args(&keys[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(made.is_ok_and(|status| status.success()), "Synapse makes no keys");
        let log = log_named("synapse");
        let mut process = Process::start(&program(&[]), &[], &log, &folder);
        let deadline = Instant::now() + STARTS_WITHIN;
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        while !client.try_send("GET", "/_matrix/client/versions", None).is_ok_and(|answer| answer.status == 200) {
            assert!(!process.is_over() && Instant::now() < deadline, "Synapse does not start: see {}", log.display());
            thread::sleep(Duration::from_millis(100));
        }
        Self { port, people: AtomicU32::new(0), folder, _process: process, _database: database }
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The most memory it had, in bytes, without that of a PostgreSQL; `None` where that is not known.
    pub fn memory_peak(&self) -> Option<u64> {
        memory_peak(&self.folder)
    }

    /// A new account, logged in, with [`PASSWORD`].
    #[track_caller]
    pub fn registers(&self, name: &str) -> User {
        let username = format!("{name}-{}", self.people.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "username": username, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        let anonymous = Client::new(&self.url());
        let account = anonymous.post("/_matrix/client/v3/register", body).ok();
        User::from_login(&anonymous, &account)
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths are UTF-8").to_owned()
}

const LOG: &str = "version: 1
disable_existing_loggers: false
root: { level: WARNING }
";

fn configuration(name: &str, port: u16, folder: &Path, database: Option<&Database>) -> String {
    let folder = text(folder);
    let database = match database {
        Some(database) => format!("{{ name: psycopg2, args: {{ dsn: '{}', cp_min: 5, cp_max: 10 }} }}", database.url()),
        None => format!("{{ name: sqlite3, args: {{ database: {folder}/homeserver.db }} }}"),
    };
    let authority = text(Authority::shared().file());
    let off = "{ per_second: 1000000, burst_count: 1000000 }";
    format!(
        "server_name: '{name}'
pid_file: {folder}/pid
signing_key_path: {folder}/signing.key
macaroon_secret_key: secret
form_secret: secret
log_config: {folder}/log.yaml
media_store_path: {folder}/media
report_stats: false
suppress_key_server_warning: true
trusted_key_servers: []
federation_custom_ca_list: ['{authority}']
ip_range_blocklist: []
ip_range_whitelist: ['127.0.0.0/8', '::1']
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
listeners:
  - {{ port: {port}, type: http, bind_addresses: ['127.0.0.1'], resources: [{{ names: [client, federation] }}] }}
database: {database}
rc_message: {off}
rc_registration: {off}
rc_room_creation: {off}
rc_login: {{ address: {off}, account: {off}, failed_attempts: {off} }}
rc_joins: {{ local: {off}, remote: {off} }}
rc_joins_per_room: {off}
rc_invites: {{ per_room: {off}, per_user: {off}, per_issuer: {off} }}
rc_federation: {{ window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100 }}
"
    )
}
