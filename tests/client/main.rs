//! The client-server API, a file per section of the specification.

mod account_data;
mod creation;
mod discovery;
mod filtering;
mod forgetting;
mod history_visibility;
mod hosts;
mod knocking;
mod lazy_loading;
mod login;
mod membership;
mod messages;
mod profile;
mod rate_limits;
mod receipts;
mod redaction;
mod registration;
mod restricted_joins;
mod room_state;
mod room_versions;
mod sending;
mod standards;
mod sync;
mod sync_gaps;
mod sync_membership;
mod typing;
