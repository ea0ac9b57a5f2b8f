//! All of the User's SQL, by what it concerns.

pub(crate) mod account;
pub(crate) mod account_data;
pub(crate) mod announcement;
pub(crate) mod backup;
pub(crate) mod device;
pub(crate) mod filter;
pub(crate) mod keys;
pub(crate) mod login_token;
pub(crate) mod profile;
pub(crate) mod pushers;
pub(crate) mod rooms;
pub(crate) mod sliding;
pub(crate) mod stream;
pub(crate) mod to_device;
