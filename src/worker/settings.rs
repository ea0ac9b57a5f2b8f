//! What is the same for every request and object of the server: read once for each isolate.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actors::Settings;
use api::{KnownServers, MediaTurns, RateLimits, Routes};
use domain::config::Config;
use platform::{Fault, Metadata};
use wasm_bindgen::JsValue;
use worker::{D1Database, Env, Hyperdrive};

use crate::{chance::Runtime, d1::D1, hyperdrive::Postgres, logs};

/// The binding of the metadata database in D1.
const D1_BINDING: &str = "DB";
/// The binding of the metadata database in Postgres; where it exists it is used instead of D1.
const HYPERDRIVE_BINDING: &str = "HYPERDRIVE";

thread_local! {
    static SETTINGS: RefCell<Option<Rc<Settings>>> = const { RefCell::new(None) };
    static RATE_LIMITS: RefCell<Option<Arc<RateLimits>>> = const { RefCell::new(None) };
    static KNOWN_SERVERS: RefCell<Option<Arc<KnownServers>>> = const { RefCell::new(None) };
    static MEDIA_TURNS: RefCell<Option<Arc<MediaTurns>>> = const { RefCell::new(None) };
    static ROUTES: RefCell<Option<Rc<Routes>>> = const { RefCell::new(None) };
}

/// Every endpoint of the server.
pub(crate) fn routes(settings: &Settings) -> Rc<Routes> {
    ROUTES.with_borrow_mut(|slot| slot.get_or_insert_with(|| api::routes(&settings.config)).clone())
}

/// What is used up of the limits.
pub(crate) fn rate_limits(settings: &Settings) -> Arc<RateLimits> {
    let made = || Arc::new(RateLimits::new(&settings.config.rate_limits));
    RATE_LIMITS.with_borrow_mut(|slot| slot.get_or_insert_with(made).clone())
}

/// What is remembered of other servers.
pub(crate) fn known_servers() -> Arc<KnownServers> {
    KNOWN_SERVERS.with_borrow_mut(|slot| slot.get_or_insert_default().clone())
}

/// Which URLs are being looked at.
pub(crate) fn media_turns() -> Arc<MediaTurns> {
    MEDIA_TURNS.with_borrow_mut(|slot| slot.get_or_insert_default().clone())
}

/// The server's settings. The first call of an isolate migrates the metadata database and reads the
/// server's keys; requests that come meanwhile do so too, because the runtime lets no request wait for
/// another's promise.
///
/// # Errors
/// A configuration that is not valid, or a database that cannot be reached. The next call tries again.
pub(crate) async fn settings(env: &Env) -> Result<Rc<Settings>, Fault> {
    if let Some(settings) = SETTINGS.with_borrow(Clone::clone) {
        return Ok(settings);
    }
    let config = config(env)?;
    if config.outgoing.extra_ca_file.is_some() {
        return Err(Fault::new("EXTRA_CA_FILE: there are no files here; EXTRA_CA takes what is in it"));
    }
    logs::start(config.log_level);
    let metadata = metadata(env)?;
    let settings = Rc::new(api::load_settings(&*metadata, config, &Runtime).await?);
    Ok(SETTINGS.with_borrow_mut(|slot| slot.get_or_insert(settings).clone()))
}

/// The metadata database, for one request or one piece of an object's work.
pub(crate) fn metadata(env: &Env) -> Result<Rc<dyn Metadata>, Fault> {
    if is_bound(env, HYPERDRIVE_BINDING) {
        let hyperdrive: Hyperdrive = env.hyperdrive(HYPERDRIVE_BINDING).map_err(unbound)?;
        return Ok(Rc::new(Postgres::new(hyperdrive)));
    }
    let database: D1Database = env.d1(D1_BINDING).map_err(unbound)?;
    Ok(Rc::new(D1(database)))
}

/// What the platform takes of one request's body, in bytes, on the plans that most have.
const UPLOAD_BYTES_MAX: u64 = 100_000_000;

/// Reads the variables and secrets that are ours; the environment also holds bindings and whatever else the
/// operator put there.
fn config(env: &Env) -> Result<Config, Fault> {
    let pairs = Config::KEYS.iter().filter_map(|key| {
        let value = js_sys::Reflect::get(env, &key.name.into()).ok()?;
        let value = value.as_string().or_else(|| value.as_f64().map(|number| number.to_string()))?;
        Some((key.name.to_owned(), value))
    });
    let mut config = Config::from_pairs(pairs).map_err(|error| Fault::new(format!("configuration: {error}")))?;
    config.max_upload_size = config.max_upload_size.min(UPLOAD_BYTES_MAX);
    Ok(config)
}

fn is_bound(env: &Env, name: &str) -> bool {
    js_sys::Reflect::get(env, &JsValue::from_str(name)).is_ok_and(|binding| binding.is_truthy())
}

fn unbound(error: worker::Error) -> Fault {
    Fault::new(format!("binding: {error}"))
}
