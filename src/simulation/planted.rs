//! Faults that a test plants into the host, to see that the oracles find them. A real host has none of them.

/// What the host does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Now and then a room's word that somebody's membership changed is taken for delivered, and was not.
    LostMembership,
    /// Now and then an event that another server sends is taken for received, and everything in that request is dropped.
    LostTransaction,
    /// Now and then a message that somebody sends to a device arrives at its user's actor once more.
    RepeatedWhisper,
}
