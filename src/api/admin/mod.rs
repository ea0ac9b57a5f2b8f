//! What an administrator does over HTTP, with the endpoints that existing tools know.

mod media;
mod register;
mod registration_tokens;
mod reports;
mod server_notices;

use domain::Config;

use crate::Routes;

pub(crate) fn routes(routes: &mut Routes, config: &Config) {
    if config.registration_shared_secret.is_some() {
        register::routes(routes);
    }
    registration_tokens::routes(routes);
    media::routes(routes);
    reports::routes(routes);
    server_notices::routes(routes);
}
