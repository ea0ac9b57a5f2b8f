//! Servers killed and actors evicted while people talk: what was acknowledged is there, once.

mod alarms;
mod dealings;
mod deleting;
mod eviction;
mod killing;
mod seed;
