//! What strangers send that only actors read, for the fuzzer: tokens. `cargo test` feeds them a little; with
//! `--cfg fuzzing`, `scripts/fuzz` does so for hours.

use crate::{room::RoomToken, user::sync_token::SyncToken};

/// A parser's name, things that it takes, and itself. Each panics at what is wrong.
pub type Target = (&'static str, &'static [&'static [u8]], fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[("room_token", ROOM_TOKENS, room_token), ("sync_token", SYNC_TOKENS, sync_token)];

const ROOM_TOKENS: &[&[u8]] = &[b"t1790000000000", b"t0"];

fn room_token(bytes: &[u8]) {
    let Some(token) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<RoomToken>().ok()) else { return };
    assert_eq!(token.to_string().parse::<RoomToken>().ok(), Some(token));
}

const SYNC_TOKENS: &[&[u8]] = &[b"s1_2", b"s12_34_u5_p6_x7_d8_1.20_2-30_t40_1~3", b"s1_2_k"];

fn sync_token(bytes: &[u8]) {
    let Some(token) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<SyncToken>().ok()) else { return };
    let text = token.to_string();
    let again = text.parse::<SyncToken>().map(|again| again.to_string());
    assert_eq!(again.ok(), Some(text));
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_parser_takes_whatever_comes() {
        fuzzer::tries(super::TARGETS, 2_000);
    }
}
