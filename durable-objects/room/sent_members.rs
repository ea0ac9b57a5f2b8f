//! Which members a device that loads them lazily was already sent. Spec: "Lazy-loading room members".
//!
//! «The server MAY assume that clients will remember membership events they have already been sent.» What is forgotten
//! here is sent once more, which does no harm. What was never received must not be taken for sent: an answer counts
//! only when its device comes back from where the answer ended, and is struck when it comes back from before. A device
//! that comes back from before what it had come back from was restored from an older copy: it may have nothing of all
//! this.

use std::collections::HashSet;

use ruma_common::{OwnedDeviceId, OwnedUserId};
use ruma_events::TimelineEventType;

use super::{
    Room,
    remembered::Remembered,
    store::{graph::Node, log::Logged},
};

/// Devices of which it is remembered.
const DEVICES_MAX: usize = 128;
/// Members remembered of one device.
const MEMBERS_MAX: usize = 1_000;

type Key = (OwnedUserId, OwnedDeviceId);

/// The members sent to one device, by the positions of their membership events: a new one is another member.
#[derive(Default)]
pub(super) struct SentMembers {
    received: HashSet<u64>,
    /// Where the device came back from last.
    came_from: u64,
    /// Of answers after which the device has not come back, by the position at which each ended.
    sent: Vec<(u64, Vec<u64>)>,
}

impl SentMembers {
    /// The device reads on from `from`; `None`: it starts afresh.
    pub(super) fn comes_back(&mut self, from: Option<u64>) {
        let sent = std::mem::take(&mut self.sent);
        let restored = from.is_some_and(|from| from < self.came_from);
        self.came_from = from.unwrap_or(0);
        match from.filter(|_| !restored) {
            Some(from) => {
                self.received.extend(sent.into_iter().filter(|(to, _)| *to <= from).flat_map(|(_, sent)| sent))
            }
            None => self.received.clear(),
        }
        if self.received.len() > MEMBERS_MAX {
            self.received.clear();
        }
    }

    /// Whether the device has this membership event.
    pub(super) fn has(&self, position: u64) -> bool {
        self.received.contains(&position)
    }

    /// An answer from `from` up to `to` shows these. One that ends where it began cannot be told from a lost one.
    pub(super) fn are_sent(&mut self, from: u64, to: u64, members: impl Iterator<Item = u64>) {
        let members: Vec<u64> = members.filter(|member| !self.has(*member)).collect();
        if to > from && !members.is_empty() && members.len() <= MEMBERS_MAX {
            self.sent.push((to, members));
        }
    }

    /// The number is another event's from now on.
    fn forget(&mut self, number: u64) {
        self.received.remove(&number);
        self.sent.iter_mut().for_each(|(_, sent)| sent.retain(|member| *member != number));
    }
}

/// Whether the event says who somebody is in the room.
pub(super) fn is_member(event: &Logged) -> bool {
    *event.pdu.event_type() == TimelineEventType::RoomMember
}

/// All devices lately here.
pub(super) struct Devices(Remembered<Key, SentMembers>);

impl Default for Devices {
    fn default() -> Self {
        Self(Remembered::new(DEVICES_MAX))
    }
}

impl Room {
    /// What was sent to a user's device, or one of its connections, which reads on from `since`, or afresh.
    pub(super) fn sent_members(
        &self,
        user: &OwnedUserId,
        device: &OwnedDeviceId,
        since: Option<u64>,
    ) -> Option<SentMembers> {
        let mut sent = self.sent_members.borrow_mut().0.take(&(user.clone(), device.clone()))?;
        sent.comes_back(since);
        Some(sent)
    }

    /// An event from beside the log gets a position: the number it had there may be the next one's.
    pub(super) fn number_is_free(&self, held: &Node) {
        if !held.is_in_log() && *held.pdu.event_type() == TimelineEventType::RoomMember {
            self.sent_members.borrow_mut().0.values_mut().for_each(|sent| sent.forget(held.number));
        }
    }

    pub(super) fn keep_sent_members(&self, user: &OwnedUserId, device: &OwnedDeviceId, sent: Option<SentMembers>) {
        if let Some(sent) = sent.filter(|sent| !sent.received.is_empty() || !sent.sent.is_empty()) {
            self.sent_members.borrow_mut().0.put((user.clone(), device.clone()), sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SentMembers;

    #[test]
    fn only_what_was_received_counts() {
        let mut members = SentMembers::default();
        members.comes_back(Some(10));
        members.sent.push((20, vec![1]));
        assert!(!members.has(1), "under way");
        // The answer was lost: the device comes back from before, and the next answer ends later.
        members.comes_back(Some(10));
        members.sent.push((30, vec![2]));
        members.comes_back(Some(30));
        assert!(!members.has(1) && members.has(2));
        // Further answers leave it known.
        members.comes_back(Some(50));
        assert!(members.has(2));
        // Its client was restored from an older copy, which lacks what it received since.
        members.comes_back(Some(20));
        assert!(!members.has(2));
        members.sent.push((60, vec![3]));
        members.comes_back(Some(60));
        members.comes_back(None);
        assert!(!members.has(3), "it starts afresh");
        // A number that becomes another event's.
        members.sent.push((70, vec![4, 5]));
        members.comes_back(Some(70));
        members.sent.push((80, vec![6]));
        members.forget(4);
        members.forget(6);
        members.comes_back(Some(80));
        assert_eq!([4, 5, 6].map(|number| members.has(number)), [false, true, false]);
    }
}
