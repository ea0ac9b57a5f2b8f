//! A database of one test's own in the PostgreSQL that we were given.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::server::is_in_ci;

/// An empty database, dropped with the value.
pub struct Database {
    /// The server, as we were given it.
    given: String,
    name: String,
    url: String,
}

impl Database {
    /// Makes one. `None`, after saying so, when `MYELIN_TEST_POSTGRES_URL` names no server; fails then if `CI` is
    /// `true`.
    pub fn create() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let Ok(given) = std::env::var("MYELIN_TEST_POSTGRES_URL") else {
            assert!(!is_in_ci(), "MYELIN_TEST_POSTGRES_URL is not set");
            println!("skipped: MYELIN_TEST_POSTGRES_URL is not set");
            return None;
        };
        let name = format!("myelin_test_{}_{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let (server, options) = given.split_once('?').unwrap_or((&given, ""));
        let (server, _) = server.rsplit_once('/').expect("postgres://user:password@host:port/database");
        let url = format!("{server}/{name}{}{options}", if options.is_empty() { "" } else { "?" });
        // Left there by a process that was killed and had our number.
        execute(&given, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).expect("it is dropped");
        execute(&given, &format!("CREATE DATABASE {name}")).expect("it is made");
        Some(Self { given, name, url })
    }

    /// The names of its tables.
    pub fn tables(&self) -> Vec<String> {
        let rows = execute(&self.url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename");
        rows.expect("the catalogue is read")
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = execute(&self.given, &format!("DROP DATABASE {} WITH (FORCE)", self.name)) {
            println!("{} stays behind: {error}", self.name);
        }
    }
}

/// Runs one statement and answers its rows' first column.
fn execute(url: &str, statement: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(statement).await;
        drop(client);
        let _ = connection.await;
        let first = |message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        Ok(messages?.into_iter().filter_map(first).collect())
    })
}
