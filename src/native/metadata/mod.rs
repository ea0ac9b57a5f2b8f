//! The metadata database: SQLite beside the actors, or PostgreSQL.

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{path::Path, rc::Rc};

use platform::{Fault, Metadata};

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

    pub(crate) fn connect(&self) -> Rc<dyn Metadata> {
        match self {
            Self::Sqlite(database) => Rc::new(database.clone()),
            Self::Postgres(address) => Rc::new(address.pool()),
        }
    }
}
