//! The server-server API, with other servers that the test plays.

mod authentication;
mod connections;
mod discovery;
mod history;
mod hostile;
mod keys;
mod large_rooms;
mod network;
mod queries;
mod rooms;
mod spaces;
mod synapse;
mod user_directory;
mod user_keys;
