//! What is found wrong with a run.

use std::fmt;

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Nothing of ours breaks while nothing goes wrong.
    Answers,
    /// No server logs a fault of its own.
    Faults,
    /// After all is mended, nothing goes on for ever.
    Rest,
    /// Rooms, state and timeline of a client, from its syncs alone, are what its server says.
    Rooms,
    State,
    Timeline,
    /// All servers agree on the state of a room.
    Agreement,
    /// That state is what the whole graph resolves to.
    Resolution,
    /// What the current state does not allow is not taken in.
    SoftFail,
    /// Nobody reads what they may not.
    Visibility,
    /// Nothing is in a room that its sender's server did not sign.
    Forgery,
    /// What was acknowledged is kept.
    Durability,
    /// A server that was in a room has what was said there.
    Delivery,
    /// A transaction is one event.
    Once,
    /// Who shares a room with somebody knows their devices.
    Devices,
    /// A message to a device arrives once; a one-time key is given out once.
    Whispers,
    OneTimeKeys,
    /// It costs no more than it may.
    Budget,
}

#[derive(Debug, Clone)]
pub struct Complaint {
    pub promise: Promise,
    /// How it was broken.
    pub how: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.how)
    }
}
