//! All of the Room's SQL.

pub(super) mod auth_use;
pub(super) mod beside;
pub(super) mod device_lists;
pub(super) mod erased;
pub(super) mod graph;
pub(super) mod history;
pub(super) mod inbox;
pub(super) mod log;
pub(super) mod members;
pub(super) mod meta;
pub(super) mod receipts;
pub(super) mod relations;
pub(super) mod search;
pub(super) mod servers;
pub(super) mod stage;
pub(super) mod state;
