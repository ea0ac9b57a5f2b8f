//! Another server, as far as we owe it anything; and what it tells of its users.
//!
//! It follows the rooms in which that server has somebody, holds how far the server was told of each, and says what is
//! to be sent next. It sends nothing itself: nothing waits for another server inside an actor. A *carrier* in the
//! request tier takes what there is, sends it, and says how that went.
//!
//! | call | does |
//! |---|---|
//! | [`RoomMoved`] | there is something new in a room |
//! | [`QueueEdu`], [`QueueEduIfKnown`], [`GetEdus`] | something that is no event of a room's, and may not get lost: messages to devices |
//! | [`DevicesChanged`], [`QueueDeviceList`] | whose devices changed, and what is told of them |
//! | [`GetSharedRooms`] | the rooms that are shared with the server |
//! | [`PassEdu`], [`QueuePresence`] | what may get lost: who types, what was read, how a user of ours is |
//! | [`HearPresence`], [`GetPresences`] | how its users are |
//! | [`UpdateDeviceLists`], [`CacheDeviceLists`], [`GetCachedDeviceLists`] | which devices and keys its users have |
//! | [`TakeWork`] | a carrier asks what to send; nobody else gets it meanwhile |
//! | [`StartAttempt`] | a carrier is about to send this: from now on nothing else is sent until it is acknowledged |
//! | [`Acknowledge`] | the server has it |
//! | [`ReportFailure`] | the server could not be reached, or did not take it |
//! | [`StopCarrying`] | a carrier's time is over |
//! | [`IsUp`] | the server was heard of: what waits for it is tried at once |
//!
//! In scope: the order and the exactness of what is sent, its repetition, and when to try again. Out of scope: where
//! the server is, and how to talk to it (the request tier's).

mod carrying;
mod device_list_cache;
mod device_lists;
mod edus;
mod passing;
mod portion;
mod room_moved;
mod store;
mod their_presence;

use std::cell::RefCell;

use platform::Tx;

pub use carrying::{
    Acknowledge, Attempt, IsUp, Range, Refused, ReportFailure, StartAttempt, StopCarrying, TakeWork, Work,
};
pub use device_list_cache::{
    AsOf, CacheDeviceLists, CachedDeviceList, CachedDeviceLists, DeviceList, DeviceListUpdate, GetCachedDeviceLists,
    UpdateDeviceLists, UpdatedDeviceLists,
};
pub use device_lists::{DevicesChanged, OwedDeviceList, QueueDeviceList};
pub use edus::{Edus, GetEdus, GetSharedRooms, QueueEdu, QueueEduIfKnown};
pub use passing::{PassEdu, QueuePresence};
pub use room_moved::RoomMoved;
pub use their_presence::{GetPresences, HearPresence};

use crate::{
    Cx, Error,
    cx::PresenceTo,
    object::{Logic, Operation, operations},
    told_rooms::ToldRooms,
};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_edus.sql"),
    include_str!("migrations/0003_presence.sql"),
    include_str!("migrations/0004_device_lists.sql"),
    include_str!("migrations/0005_device_list_cache.sql"),
    include_str!("migrations/0006_owed.sql"),
];

/// The Destination's memory: which rooms there is something in, what is on its way and may get lost, and of whom
/// something was told.
#[derive(Default)]
pub(crate) struct Destination {
    rooms: ToldRooms,
    passing: passing::Passing,
    theirs: their_presence::TheirPresence,
    told: RefCell<device_list_cache::Told>,
}

impl Logic for Destination {
    fn migrations(&self) -> &'static [&'static str] {
        MIGRATIONS
    }

    fn layout(&self) -> &'static str {
        include_str!("layout.sql")
    }

    fn operation(&self, name: &str) -> Option<Operation<'_>> {
        operations! { self, name;
            found RoomMoved => room_moved,
            found QueueEdu => queue_edu,
            write QueueEduIfKnown => queue_edu_if_known,
            read GetEdus => get_edus,
            found DevicesChanged => devices_changed,
            write QueueDeviceList => queue_device_list,
            read GetSharedRooms => get_shared_rooms,
            read GetCachedDeviceLists => get_cached_device_lists,
            write CacheDeviceLists => cache_device_lists,
            write UpdateDeviceLists => update_device_lists,
            found PassEdu => pass_edu,
            found QueuePresence => queue_presence,
            write HearPresence => hear_presence,
            read GetPresences => get_presences,
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
        self.rooms.rolled_back();
    }

    fn due(&self, tx: &Tx<'_>, cx: &Cx<'_>, what: &str) -> Result<bool, Error> {
        match what {
            carrying::DUE => self.look_for_a_carrier(tx, cx).map(|()| true),
            their_presence::SILENCE_DUE => self.look_for_silence(tx, cx).map(|()| true),
            _ => Ok(false),
        }
    }

    fn presence_told(&self, tx: &Tx<'_>, _cx: &Cx<'_>, told: &PresenceTo, reply: Option<&[u8]>) -> Result<(), Error> {
        self.members_heard(tx, &told.peer, reply)
    }
}
