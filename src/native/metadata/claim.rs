//! Who serves from a PostgreSQL database: one process. Two with data of their own would be the same server twice.

use std::{future::pending, time::Duration};

use platform::Fault;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, Config, NoTls};
use tracing::warn;

use super::postgres::fault;

/// A lock of the session's, on the schema that our tables are in. It ends with the connection.
const LOCK: &str = "SELECT pg_try_advisory_lock(1836671084, hashtext(current_schema()))";
/// Of a client whose machine is gone the database knows within half a minute.
const KEEPALIVE: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// A process that was just killed may seem to be there for so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to get the lock, and to get a connection.
const PAUSE: Duration = Duration::from_millis(200);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A database that is ours, for as long as this is there.
pub(crate) struct Claim(Option<Held>);

struct Held {
    config: Config,
    /// While it is there, the connection is.
    _client: Client,
    connection: JoinHandle<()>,
}

impl Claim {
    /// Of what nobody else can reach.
    pub(super) fn of_our_own() -> Self {
        Self(None)
    }

    /// # Errors
    /// Another process has it, or it does not answer.
    pub(super) async fn of(mut config: Config) -> Result<Self, Fault> {
        config.application_name("myelin claim").keepalives_idle(KEEPALIVE_IDLE);
        Ok(Self(Some(claimed(&config).await?.ok_or_else(another_has_it)?)))
    }

    /// Resolves when another process took what was ours, which it can when our connection broke.
    pub(crate) async fn taken(self) -> Fault {
        let Some(mut held) = self.0 else { return pending().await };
        loop {
            // However it ended: it is over.
            let _ = (&mut held.connection).await;
            warn!("the connection that claims the database ended");
            held = loop {
                match claimed(&held.config).await {
                    Ok(Some(held)) => break held,
                    Ok(None) => return another_has_it(),
                    Err(fault) => warn!(%fault, "the database is not claimed"),
                }
                sleep(RECONNECT_PAUSE).await;
            };
        }
    }
}

fn another_has_it() -> Fault {
    Fault::new(
        "another myelin is served from the database of --database-url: stop it, or give this one a database of its own",
    )
}

/// `None` when another has it and keeps it.
async fn claimed(config: &Config) -> Result<Option<Held>, Fault> {
    let (client, connection) = config.connect(NoTls).await.map_err(fault)?;
    let connection = tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            warn!(%error, "a connection to PostgreSQL ended");
        }
    });
    client.batch_execute(KEEPALIVE).await.map_err(fault)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = client.query_typed(LOCK, &[]).await.map_err(fault)?;
        let is_ours = rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(fault)?;
        if is_ours {
            return Ok(Some(Held { config: config.clone(), _client: client, connection }));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(PAUSE).await;
    }
}
