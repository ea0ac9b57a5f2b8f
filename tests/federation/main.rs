//! The server-server API, with other servers that the test plays.

mod appservices;
mod authentication;
mod connections;
mod discovery;
mod history;
mod hostile;
mod invitations;
mod invites_by_address;
mod keys;
mod large_rooms;
mod media;
mod network;
mod policy_servers;
mod presence;
mod queries;
mod rooms;
mod spaces;
mod synapse;
mod synapse_versions;
mod third_party_invites;
mod user_directory;
mod user_keys;

use harness::guest;
