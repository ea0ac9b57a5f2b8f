//! The Cloudflare host: one Worker, four classes of Durable Object, D1 or Postgres for metadata, R2 for
//! media.
//!
//! In scope: turning the runtime's requests, objects, sockets, alarms and databases into the traits of
//! `platform`. Out of scope: every rule and every handler (`domain`, `actors` and `api` own them).
//!
//! `entry.mjs` is what the runtime loads: it declares the classes, starts the wasm module afresh after a
//! trap, and hands each request ([`entry`]) and each object ([`shell`]) to this crate.
#![cfg(target_arch = "wasm32")]

mod actors_by_stub;
mod chance;
mod contract;
mod d1;
pub mod entry;
mod hyperdrive;
mod js;
mod logs;
mod object_sql;
mod outgoing;
mod r2;
mod settings;
pub mod shell;
