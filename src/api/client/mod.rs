//! The Client-Server API, one file per section of the specification.

mod account;
mod account_data;
mod administration;
mod capabilities;
mod contacts;
mod dehydrated_device;
mod device_lists;
mod devices;
mod fallback;
mod filter;
mod key_backup;
pub(crate) mod keys;
mod login;
mod login_token;
mod logout;
mod notifications;
pub(crate) mod openid;
mod presence;
mod profile;
mod push_rules;
mod pushers;
pub(crate) mod register;
mod reports;
mod rooms;
mod search;
mod spaces;
mod sync;
mod tags;
mod to_device;
mod user_directory;
mod versions;
mod voip;
mod whoami;

pub(crate) use rooms::{INVITED_MAX, call_id, direction, directory, first_joined, found};

use domain::Config;

use crate::Routes;

pub(crate) fn routes(routes: &mut Routes, config: &Config) {
    versions::routes(routes);
    capabilities::routes(routes);
    register::routes(routes);
    login::routes(routes);
    if config.login_tokens {
        login_token::routes(routes);
    }
    logout::routes(routes);
    openid::routes(routes);
    whoami::routes(routes);
    account::routes(routes);
    administration::routes(routes);
    contacts::routes(routes);
    devices::routes(routes);
    dehydrated_device::routes(routes);
    fallback::routes(routes);
    presence::routes(routes);
    profile::routes(routes);
    filter::routes(routes);
    account_data::routes(routes);
    push_rules::routes(routes);
    pushers::routes(routes);
    notifications::routes(routes);
    tags::routes(routes);
    keys::routes(routes);
    key_backup::routes(routes);
    to_device::routes(routes);
    reports::routes(routes);
    user_directory::routes(routes);
    voip::routes(routes);
    rooms::routes(routes);
    search::routes(routes);
    spaces::routes(routes);
    sync::routes(routes);
}
