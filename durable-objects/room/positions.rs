//! Positions of the log are never used twice: `max(last + 1, now in ms)`.

use domain::power::Preset;
use ruma_common::user_id;
use serde_json::json;

use crate::world::World;

#[test]
fn a_position_is_the_time_or_the_next_one() {
    let world = World::new(1);
    let alice = user_id!("@alice:myelin.test");
    let room_id = world.creates_room(alice, "12", Preset::PrivateChat);
    let says = || {
        world.sends(alice, &room_id, "m.room.message", None, &json!({ "body": "hi" })).unwrap();
        world.head_of(&room_id)
    };
    let now_ms = world.now_ms() + 10_000;
    world.sets_clock(now_ms);
    assert_eq!([says(), says()], [now_ms, now_ms + 1], "two of one instant");
    world.sets_clock(now_ms - 5_000);
    assert_eq!(says(), now_ms + 2, "the clock went back");
    // An older copy of the room has another last position: by the time it is there, the clock is past all of them.
    world.sets_clock(now_ms + 5_000);
    assert_eq!(says(), now_ms + 5_000);
}
