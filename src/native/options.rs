use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use domain::Config;

use crate::media_s3::S3Options;

/// Reads the command line, or explains it and ends.
pub(crate) fn parse() -> Options {
    let command = Options::command().mut_subcommand("serve", |serve| serve.after_help(settings()));
    Options::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

/// The settings, as `myelin serve --help` ends.
fn settings() -> String {
    let mut text = "Settings, as MYELIN_<NAME> in the environment or NAME in the file:\n".to_owned();
    for key in Config::KEYS {
        let default = key.default.map_or_else(String::new, |default| format!(" [default: {default}]"));
        let secret = if key.is_secret { "secret. " } else { "" };
        text.push_str(&format!("  {}: {secret}{}{default}\n", key.name, key.help));
    }
    text
}

/// A Matrix homeserver in one file.
#[derive(Parser)]
#[command(name = "myelin", version, about, arg_required_else_help = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve the client and federation APIs until SIGINT or SIGTERM
    Serve(Box<Serve>),
    /// Look after a server's data; the server itself must be stopped
    Admin(Admin),
}

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub storage: Storage,
    /// Where plain HTTP is served
    #[arg(long, env = "MYELIN_LISTEN", default_value = "127.0.0.1:8008", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where HTTPS is served, for federation without a proxy in front
    #[arg(long, env = "MYELIN_TLS_LISTEN", requires_all = ["tls_cert", "tls_key"], value_name = "ADDR")]
    pub tls_listen: Option<SocketAddr>,
    /// The certificate chain for HTTPS, as PEM
    #[arg(long, env = "MYELIN_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, as PEM
    #[arg(long, env = "MYELIN_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Media elsewhere")]
    pub s3: S3Options,
}

/// Where a server's settings and data are.
#[derive(Args)]
pub(crate) struct Storage {
    /// Settings; every one may also be given as MYELIN_<NAME> in the environment, which wins
    #[arg(long, env = "MYELIN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where data lies
    #[arg(long, env = "MYELIN_DATA_DIR", default_value = "./myelin-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// PostgreSQL for metadata instead of a SQLite file in the data directory
    #[arg(long, env = "MYELIN_DATABASE_URL", hide_env_values = true, value_name = "postgres://…")]
    pub database_url: Option<String>,
}

#[derive(Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    pub command: AdminCommand,
}

#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// The key that signs this server's events
    SigningKey {
        #[command(subcommand)]
        command: SigningKeyCommand,
    },
}

#[derive(Subcommand)]
pub(crate) enum SigningKeyCommand {
    /// Print the key; makes one if there is none. Whoever has it can speak for this server
    Export {
        #[command(flatten)]
        storage: Storage,
    },
    /// Sign with a key read from standard input from now on; the key until now stays known as a former one
    Import {
        #[command(flatten)]
        storage: Storage,
    },
}

/// Environment variables that are options, not settings.
pub(crate) const OPTION_VARIABLES: [&str; 14] = [
    "LISTEN",
    "TLS_LISTEN",
    "TLS_CERT",
    "TLS_KEY",
    "CONFIG",
    "DATA_DIR",
    "DATABASE_URL",
    "S3_ENDPOINT",
    "S3_BUCKET",
    "S3_REGION",
    "S3_PREFIX",
    "S3_URL_STYLE",
    "S3_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY",
];
