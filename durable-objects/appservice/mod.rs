//! An application service, as far as we owe it anything.
//!
//! It follows the rooms that are of interest to the service, holds how far the service was told of each, and says what
//! is to be sent next. It sends nothing itself: nothing waits for the service inside an actor. A *carrier* in the
//! request tier takes what there is, sends it, and says how that went.
//!
//! | call | does |
//! |---|---|
//! | [`RoomMoved`] | there is something of interest in a room |
//! | [`QueueEvent`] | an event of a room that is not here |
//! | [`TypingChanged`], [`PresenceChanged`] | who types, who is there: told as well as that goes |
//! | [`TakeWork`] | a carrier asks what to send; nobody else gets it meanwhile |
//! | [`StartAttempt`] | a carrier is about to send this: from now on nothing else is sent until it is acknowledged |
//! | [`Acknowledge`] | the service has it |
//! | [`ReportFailure`] | the service could not be reached, or did not take it |
//! | [`StopCarrying`] | a carrier's time is over |
//! | [`IsUp`] | the service was heard of: what waits for it is tried at once |
//!
//! In scope: the order and the exactness of what is sent, its repetition, and when to try again. Out of scope: what is
//! of interest (the rooms'), and how to talk to the service (the request tier's).
//! Spec: Application Service API, "Pushing events".

mod carrying;
mod passing;
mod queue_event;
mod room_moved;
mod store;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use platform::Tx;

pub use carrying::{
    Acknowledge, Attempt, IsUp, Range, ReportFailure, SentEvents, StartAttempt, StopCarrying, TakeWork, Work,
};
pub use passing::{PresenceChanged, TypingChanged, TypingUser};
pub use queue_event::QueueEvent;
pub use room_moved::RoomMoved;

use crate::{
    Cx, Error,
    object::{Logic, Operation, operations},
    told_rooms::ToldRooms,
};

const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_init.sql")];

/// The Appservice's memory: what may get lost, who is about to send, and which rooms there is something in.
#[derive(Default)]
pub(crate) struct Appservice {
    rooms: ToldRooms,
    passing: RefCell<passing::Passing>,
    lease: RefCell<Option<carrying::Lease>>,
}

impl Logic for Appservice {
    fn migrations(&self) -> &'static [&'static str] {
        MIGRATIONS
    }

    fn layout(&self) -> &'static str {
        include_str!("layout.sql")
    }

    fn operation(&self, name: &str) -> Option<Operation<'_>> {
        operations! { self, name;
            found RoomMoved => room_moved,
            found QueueEvent => queue_event,
            found TypingChanged => typing_changed,
            found PresenceChanged => presence_changed,
            write TakeWork => take_work,
            write StartAttempt => start_attempt,
            write Acknowledge => acknowledge,
            write ReportFailure => report_failure,
            write StopCarrying => stop_carrying,
            write IsUp => is_up,
        }
    }

    fn owed_call(&self) -> fn(&str) -> Option<&'static str> {
        |_| None
    }

    fn rolled_back(&self) {
        // What is stored with an attempt counts.
        *self.lease.borrow_mut() = None;
        self.rooms.rolled_back();
    }

    fn alarm(&self, tx: &Tx<'_>, cx: &Cx<'_>) -> Result<(), Error> {
        self.look_who_types(tx, cx)
    }

    fn due(&self, tx: &Tx<'_>, cx: &Cx<'_>, what: &str) -> Result<bool, Error> {
        match what {
            carrying::DUE => self.look_for_a_carrier(tx, cx).map(|()| true),
            _ => Ok(false),
        }
    }
}
