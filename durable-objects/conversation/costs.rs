//! What a conversation costs, and whom it wakes.

use platform::{ActorKind, Address};
use ruma_common::{OwnedRoomId, OwnedUserId};

use super::{Story, device::Receipts, user_id};
use crate::room;

/// A room with a message, where both are joined and have seen everything.
fn quiet_room(story: &mut Story) -> (OwnedUserId, OwnedUserId, OwnedRoomId) {
    let (alice, bob) = (user_id("alice"), user_id("bob"));
    story.has_a_watcher();
    let room_id = story.creates_room(&story.rooms_creator(), "12");
    for user in [&alice, &bob] {
        story.changes(user, &room_id, room::MembershipAction::Join).unwrap();
    }
    // Once: the room does not forget, on the way, whom it is about to wake.
    let message = story.message(&alice);
    let event_id = story.world.call(room_id.as_str(), &message).unwrap();
    story.messages.entry(room_id.clone()).or_default().push(event_id);
    story.world.settle();
    for index in 0..4 {
        while story.syncs(index, false) {}
    }
    (alice, bob, room_id)
}

#[test]
fn a_private_receipt_wakes_nobody_else() {
    let mut story = Story::begin(1);
    let (_, bob, room_id) = quiet_room(&mut story);
    let event_id = story.messages[&room_id][0].clone();
    let receipts = vec![room::NewReceipt {
        kind: room::ReceiptKind::Private,
        event_id: event_id.clone(),
        thread: None,
        at_ms: None,
    }];
    let call = room::MarkRead { user: bob.clone(), device: "PHONE".into(), receipts, fully_read: None, marker: None };
    story.world.call(room_id.as_str(), &call).unwrap();
    let receipt = ((bob, "m.read.private".to_owned(), String::new()), event_id);
    story.receipts.insert(room_id.clone(), Receipts::from([receipt]));
    for evicted in [false, true] {
        if evicted {
            // Nor does the alarm that looks whether everyone was told, in a room that remembers nothing.
            story.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
        }
        story.world.settle();
        story.world.passes(60_000);
        for alices in 0..2 {
            assert!(!story.syncs(alices, false), "evicted: {evicted}");
        }
    }
    for bobs in 2..4 {
        assert!(story.syncs(bobs, false));
        assert!(!story.syncs(bobs, false));
    }
    // The room woken anew uses no position twice: what comes next is seen.
    story.world.evict(&Address::new(ActorKind::Room, room_id.as_str()));
    story.sends(&user_id("alice"), &room_id).unwrap();
    story.ends_well(1);
}

#[test]
fn typing_costs_no_row() {
    let mut story = Story::begin(2);
    let (alice, _, room_id) = quiet_room(&mut story);
    let before = story.world.rows_written();
    for timeout_ms in [Some(30_000), Some(30_000), None] {
        story.world.call(room_id.as_str(), &room::SetTyping { user: alice.clone(), timeout_ms }).unwrap();
        story.world.settle();
        for index in 0..4 {
            while story.syncs(index, false) {}
        }
    }
    assert_eq!(story.world.rows_written(), before);
    for device in &story.devices[..4] {
        assert_eq!(device.typing[&room_id], [] as [OwnedUserId; 0]);
    }
}

#[test]
fn a_message_and_a_receipt_cost_a_row_for_each_who_follows() {
    let mut story = Story::begin(3);
    let (alice, bob, room_id) = quiet_room(&mut story);
    let everyone_syncs = |story: &mut Story| {
        story.world.settle();
        for index in 0..4 {
            while story.syncs(index, false) {}
        }
    };
    let before = story.world.rows_written();
    story.sends(&alice, &room_id).unwrap();
    everyone_syncs(&mut story);
    // The event, the move of the room for the two who follow; an alarm stands already.
    assert_eq!(story.world.rows_written() - before, 3);
    let before = story.world.rows_written();
    let receipts = vec![room::NewReceipt {
        kind: room::ReceiptKind::Public,
        event_id: story.messages[&room_id][1].clone(),
        thread: None,
        at_ms: None,
    }];
    let call = room::MarkRead { user: bob, device: "PHONE".into(), receipts, fully_read: None, marker: None };
    story.world.call(room_id.as_str(), &call).unwrap();
    everyone_syncs(&mut story);
    assert_eq!(story.world.rows_written() - before, 3);
}

#[test]
fn a_count_that_is_forgotten_ends_somewhere() {
    let mut story = Story::begin(4);
    let (alice, _, room_id) = quiet_room(&mut story);
    let messages_max = room::UNREAD_SCAN_MAX;
    for _ in 0..messages_max / 10 + 1 {
        for _ in 0..10 {
            let message = story.message(&alice);
            story.world.call(room_id.as_str(), &message).unwrap();
        }
        story.world.settle();
        while story.syncs(2, false) {}
    }
    let bob = &story.devices[2];
    assert_eq!(bob.unread[&room_id]["notification_count"], messages_max + 11, "remembered, it goes on");
    assert_eq!(story.unread(bob, &room_id)["notification_count"], messages_max);
}
