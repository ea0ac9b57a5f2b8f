//! Finds the shortest story that still fails.

use platform::planted::Planted;

use crate::{
    run::{Outcome, run_with},
    story::Story,
};

/// Drops steps for as long as the story breaks the same promise without them: first many at a time, in the end one by
/// one. `tell` hears of every shorter one.
pub fn shrink(
    story: &Story,
    planted: Option<Planted>,
    tries_max: usize,
    tell: &mut dyn FnMut(&Story),
) -> (Story, Outcome) {
    let mut best = story.clone();
    let mut failure = run_with(&best, planted, false);
    // Another failure is another story.
    let promise = failure.complaints.iter().map(|complaint| complaint.promise).min();
    let mut tries = 0;
    let mut piece = best.steps.len().div_ceil(2).max(1);
    loop {
        let (mut from, mut shorter) = (0, false);
        while from < best.steps.len() && tries < tries_max {
            tries += 1;
            let mut candidate = best.clone();
            candidate.steps.drain(from..(from + piece).min(best.steps.len()));
            let outcome = run_with(&candidate, planted, false);
            if !outcome.complaints.iter().any(|complaint| Some(complaint.promise) == promise) {
                from += piece;
            } else {
                (best, failure, shorter) = (candidate, outcome, true);
                tell(&best);
            }
        }
        if tries >= tries_max || (piece == 1 && !shorter) {
            return (best, failure);
        }
        piece = (piece / 2).max(1);
    }
}
