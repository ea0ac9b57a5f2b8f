//! The metadata database: SQLite beside the actors, or PostgreSQL.

mod claim;
mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{path::Path, rc::Rc};

use platform::{Fault, Metadata};

pub(crate) use self::claim::Claim;
use self::{postgres::PostgresAddress, sqlite::SqliteMetadata};

/// Where metadata lies. Crosses threads; [`MetadataSource::connect`] makes what one thread works with.
#[derive(Clone)]
pub(crate) enum MetadataSource {
    Sqlite(SqliteMetadata),
    Postgres(Box<PostgresAddress>),
}

impl MetadataSource {
    /// Opens `metadata.sqlite` in `data_dir`, or reads a `postgres://` URL.
    pub(crate) fn open(data_dir: &Path, database_url: Option<&str>) -> Result<Self, Fault> {
        match database_url {
            Some(url) => Ok(Self::Postgres(Box::new(PostgresAddress::parse(url)?))),
            None => Ok(Self::Sqlite(SqliteMetadata::open(&data_dir.join("metadata.sqlite"))?)),
        }
    }

    /// Claims the database for this process. A SQLite file lies in the data directory, which is claimed already.
    pub(crate) async fn claim(&self) -> Result<Claim, Fault> {
        match self {
            Self::Sqlite(_) => Ok(Claim::of_our_own()),
            Self::Postgres(address) => address.claim().await,
        }
    }

    pub(crate) fn connect(&self) -> Rc<dyn Metadata> {
        match self {
            Self::Sqlite(database) => Rc::new(database.clone()),
            Self::Postgres(address) => Rc::new(address.pool()),
        }
    }
}
