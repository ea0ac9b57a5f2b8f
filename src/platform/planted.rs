//! Faults that the simulation plants, to see that what it looks for is found.
//!
//! In scope: their names, and which one is planted in this thread. Out of scope: what goes wrong; that stands where it
//! does, behind [`is`]. Only the simulation asks for the feature `planted`: without it [`is`] is a constant, and
//! nothing of a fault is compiled.

/// Whether this is compiled for the simulation, whose rooms are small.
pub const IS_SIMULATED: bool = cfg!(feature = "planted");

/// What the code, or its host, does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Nobody looks at the signatures and hashes of what other servers send.
    SkippedSignature,
    /// What an actor owes others, its answer too, leaves before its commit is on disk.
    EarlyNudge,
    /// Now and then a room's word that somebody's membership changed is taken for delivered, and was not.
    LostMembership,
    /// The next position of a log is the last one and one, whatever the time: an older copy of it gives positions
    /// again.
    ReusedPosition,
    /// An event is taken in though what it comes after is not here.
    OutOfOrder,
    /// What the current state of a room does not allow is taken in all the same.
    ForgottenSoftFail,
    /// Now and then an event that another server sends is taken for received, and everything in that request is
    /// dropped.
    LostTransaction,
    /// Now and then a message that somebody sends to a device arrives at its user's actor once more.
    RepeatedWhisper,
    /// Who may not see an event by the room's history visibility is shown it.
    ForgottenVisibility,
}

impl Planted {
    pub const ALL: [Planted; 9] = [
        Self::SkippedSignature,
        Self::EarlyNudge,
        Self::LostMembership,
        Self::ReusedPosition,
        Self::OutOfOrder,
        Self::ForgottenSoftFail,
        Self::LostTransaction,
        Self::RepeatedWhisper,
        Self::ForgottenVisibility,
    ];

    /// The fault's name on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SkippedSignature => "skipped-signature",
            Self::EarlyNudge => "early-nudge",
            Self::LostMembership => "lost-membership",
            Self::ReusedPosition => "reused-position",
            Self::OutOfOrder => "out-of-order",
            Self::ForgottenSoftFail => "forgotten-soft-fail",
            Self::LostTransaction => "lost-transaction",
            Self::RepeatedWhisper => "repeated-whisper",
            Self::ForgottenVisibility => "forgotten-visibility",
        }
    }
}

#[cfg(feature = "planted")]
mod here {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Whether this fault is planted in this thread.
    pub fn is(planted: Planted) -> bool {
        PLANTED.get() == Some(planted)
    }

    /// Plants a fault in this thread, in the place of the one that was.
    pub fn plant(planted: Option<Planted>) {
        PLANTED.set(planted);
    }
}

#[cfg(feature = "planted")]
pub use here::{is, plant};

/// Whether this fault is planted in this thread: never.
#[cfg(not(feature = "planted"))]
pub const fn is(_: Planted) -> bool {
    false
}
