//! How bad the weather is: rates of everything that goes wrong by itself.

/// One in so many; 0 is never. Times are in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knobs {
    /// A call to an actor, or to the metadata database, takes up to so long in each direction.
    pub(crate) call_ms_max: u64,
    /// A sync of an actor's disk takes up to so long, …
    pub(crate) sync_ms_max: u64,
    /// … and one in so many takes [`Knobs::SLOW_SYNC_MS`].
    pub(crate) slow_sync_one_in: u64,
    /// A call to an actor is lost, or its answer.
    pub(crate) lost_call_one_in: u64,
    /// A call to an actor finds it just evicted.
    pub(crate) eviction_one_in: u64,
    /// A request between servers takes up to so long in each direction.
    pub(crate) travel_ms_max: u64,
    /// A request between servers is lost, or its answer.
    pub(crate) lost_request_one_in: u64,
    /// A request between servers arrives a second time, later.
    pub(crate) repeated_request_one_in: u64,
    /// A client's connection breaks before the request arrives, or before its answer does.
    pub(crate) broken_connection_one_in: u64,
}

impl Knobs {
    pub(crate) const SLOW_SYNC_MS: u64 = 500;
    /// How long a request that was sent a second time is on its way at most.
    pub(crate) const REPEATED_MS_MAX: u64 = 20_000;

    /// Nothing goes wrong.
    pub(crate) const FAIR: Self = Self {
        call_ms_max: 1,
        sync_ms_max: 3,
        slow_sync_one_in: 0,
        lost_call_one_in: 0,
        eviction_one_in: 0,
        travel_ms_max: 60,
        lost_request_one_in: 0,
        repeated_request_one_in: 0,
        broken_connection_one_in: 0,
    };

    /// Everything does, now and then.
    pub(crate) const FOUL: Self = Self {
        call_ms_max: 4,
        sync_ms_max: 15,
        slow_sync_one_in: 60,
        lost_call_one_in: 400,
        eviction_one_in: 150,
        travel_ms_max: 400,
        lost_request_one_in: 25,
        repeated_request_one_in: 25,
        broken_connection_one_in: 30,
    };
}
