//! Those who are there and do nothing, or do not want to be seen.

use super::{
    GONE_MS,
    PresenceState::{Offline, Online, Unavailable},
    address, shown, two_who_wait,
};

#[test]
fn who_does_nothing_for_a_while_is_idle_until_they_do_something() {
    let (world, room_id, mut alice, mut bob) = two_who_wait();
    let rooms = [room_id];
    let mut waits = |ms: u64, acts: bool| {
        for _ in 0..ms / 10_000 {
            world.passes(10_000);
            if acts {
                alice.acts();
            }
            for _ in 0..2 {
                alice.goes_on();
                bob.goes_on();
                world.passes(0);
            }
        }
        (bob.sees("alice"), shown(&world, "alice", "bob", &rooms).unwrap())
    };
    assert_eq!(waits(290_000, false), (Online, Online));
    assert_eq!(waits(20_000, false), (Unavailable, Unavailable), "syncs go on, and nobody does anything");
    assert_eq!(waits(GONE_MS, false), (Unavailable, Unavailable));
    assert_eq!(waits(10_000, true), (Online, Online));
    assert_eq!(waits(GONE_MS, true), (Online, Online));
    // What was done last outlives the memory of it.
    world.crash();
    assert_eq!(waits(20_000, false), (Online, Online));
    assert_eq!(waits(GONE_MS, false), (Unavailable, Unavailable));
}

#[test]
fn who_hides_stays_hidden_and_who_is_idle_comes_back_with_what_they_do() {
    let (world, _, mut alice, mut bob) = two_who_wait();
    alice.waits(Unavailable);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Unavailable);
    alice.acts();
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Online, "any activity");
    alice.waits(Offline);
    world.passes(0);
    bob.goes_on();
    assert_eq!(bob.sees("alice"), Offline);
    for forgets in [false, true] {
        if forgets {
            world.evict(&address(&alice.user));
        }
        alice.acts();
        bob.goes_on();
        assert_eq!(bob.sees("alice"), Offline, "forgotten: {forgets}");
    }
}

#[test]
fn a_device_that_says_that_somebody_is_back_is_believed() {
    for forgets in [false, true] {
        let (world, _, mut alice, mut bob) = two_who_wait();
        let mut says = |state, rounds: usize| {
            alice.waits(state);
            for _ in 0..rounds {
                world.passes(10_000);
                alice.goes_on();
                bob.goes_on();
            }
            world.passes(0);
            bob.goes_on();
            if forgets {
                world.evict(&address(&alice.user));
            }
            bob.sees("alice")
        };
        assert_eq!(says(Unavailable, 40), Unavailable);
        assert_eq!(says(Online, 1), Online, "forgotten: {forgets}");
    }
}
