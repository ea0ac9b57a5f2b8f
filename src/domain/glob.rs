//! Patterns in which `*` stands for any text and `?` for one character. Case does not matter. Spec: "Glob-style
//! matching", "Conditions".
//!
//! A pattern and a text that strangers choose can be of those that take long to compare: whoever lets them has an
//! [`Effort`], beyond which nothing matches any more.

use std::cell::Cell;

/// How much may still be compared, for many patterns and texts together.
#[derive(Debug)]
pub struct Effort(Cell<u64>);

impl Effort {
    /// So many characters compared, looked at, or made ready for it: a hundred million take a fraction of a second.
    pub fn new(steps: u64) -> Self {
        Self(Cell::new(steps))
    }

    /// As much as it takes.
    fn any() -> Self {
        Self::new(u64::MAX)
    }

    /// Takes some. Answers whether there was as much; else nothing is left.
    fn spend(&self, steps: usize) -> bool {
        let left = u64::try_from(steps).ok().and_then(|steps| self.0.get().checked_sub(steps));
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    fn is_over(&self) -> bool {
        self.0.get() == 0
    }
}

/// A text that patterns are held against, made ready once for all of them.
#[derive(Debug)]
pub(crate) struct Text(Vec<char>);

/// Whether the whole text is of the pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    Text::new(text, &Effort::any()).is_of(pattern, &Effort::any())
}

impl Text {
    pub(crate) fn new(text: &str, effort: &Effort) -> Self {
        Self(if effort.spend(text.len()) { folded(text) } else { Vec::new() })
    }

    /// Whether the whole text is of the pattern.
    pub(crate) fn is_of(&self, pattern: &str, effort: &Effort) -> bool {
        if !effort.spend(pattern.len()) {
            return false;
        }
        found(&pieces(pattern), &self.0, effort, |place| place == 0, |place| place == self.0.len())
    }

    /// Whether a part of the text is of the pattern that starts and ends at the boundary of a word: «the start or end
    /// of the value, or any character not in the sets `[A-Z]`, `[a-z]`, `[0-9]` or `_`». An empty pattern is of an
    /// empty text only.
    pub(crate) fn has_words_of(&self, pattern: &str, effort: &Effort) -> bool {
        effort.spend(pattern.len()) && self.has_among_words(&pieces(pattern), effort)
    }

    /// As [`Text::has_words_of`], for a text that is no pattern.
    pub(crate) fn has_words(&self, literal: &str, effort: &Effort) -> bool {
        let pieces = [folded(literal).into_iter().map(Some).collect()];
        effort.spend(literal.len()) && self.has_among_words(&pieces, effort)
    }

    fn has_among_words(&self, pieces: &[Piece], effort: &Effort) -> bool {
        let Self(text) = self;
        if pieces.iter().all(Vec::is_empty) && pieces.len() == 1 {
            return text.is_empty() && !effort.is_over();
        }
        let is_word = |place: Option<usize>| {
            place.and_then(|place| text.get(place)).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_')
        };
        // At the start and the end of the text there is no character of a word on one side.
        let is_boundary = |place: usize| !(is_word(place.checked_sub(1)) && is_word(Some(place)));
        found(pieces, text, effort, is_boundary, is_boundary)
    }
}

/// The part of a pattern between two stars; `None` is any one character.
type Piece = Vec<Option<char>>;

fn folded(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn pieces(pattern: &str) -> Vec<Piece> {
    let piece = |piece: &str| folded(piece).into_iter().map(|c| (c != '?').then_some(c)).collect();
    pattern.split('*').map(piece).collect()
}

/// Looks for the pieces one after the other, each as early as can be; only the last has a say in where it ends.
fn found(
    pieces: &[Piece],
    text: &[char],
    effort: &Effort,
    may_start: impl Fn(usize) -> bool,
    may_end: impl Fn(usize) -> bool,
) -> bool {
    let places = |from: usize| (from..=text.len()).take_while(|_| effort.spend(1));
    let is_at = |piece: &Piece, place: usize| {
        let Some(text) = text.get(place..place.saturating_add(piece.len())) else { return false };
        let is_same = |(wanted, c): &(&Option<char>, &char)| wanted.is_none_or(|wanted| wanted == **c);
        let same = piece.iter().zip(text).take_while(is_same).count();
        effort.spend(same) && same == piece.len()
    };
    let end = |piece: &Piece, place: usize| place.saturating_add(piece.len());
    let Some((first, rest)) = pieces.split_first() else { return false };
    let Some((last, middle)) = rest.split_last() else {
        return places(0).any(|place| may_start(place) && is_at(first, place) && may_end(end(first, place)));
    };
    let Some(start) = places(0).find(|place| may_start(*place) && is_at(first, *place)) else { return false };
    let mut from = end(first, start);
    for piece in middle {
        let Some(place) = places(from).find(|place| is_at(piece, *place)) else { return false };
        from = end(piece, place);
    }
    places(from).any(|place| is_at(last, place) && may_end(end(last, place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches_words(pattern: &str, text: &str) -> bool {
        Text::new(text, &Effort::any()).has_words_of(pattern, &Effort::any())
    }

    fn contains_words(literal: &str, text: &str) -> bool {
        Text::new(text, &Effort::any()).has_words(literal, &Effort::any())
    }

    #[test]
    fn a_pattern_is_of_the_whole_text() {
        for (pattern, text, expected) in [
            ("lunc?*", "Lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", " lunch", false),
            ("lunc?*", "lunc", false),
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("?", "é", true),
            ("?", "", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abcabc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*a", "bab", false),
            ("É*", "école", true),
            ("!room:a", "!room:a", true),
            ("!room:a", "!room:ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_is_of_whole_words() {
        for (pattern, text, expected) in [
            ("ex*ple", "An example event.", true),
            ("ex*ple", "exple", true),
            ("ex*ple", "An exciting triple-whammy", true),
            ("ex*ple", "An exciting triplet", false),
            ("cake", "let them eat cake", true),
            ("cake", "Cake!", true),
            ("cake", "cakes", false),
            ("cake", "cupcake", false),
            ("cake", "cup_cake", false),
            ("cake", "cupcake cake", true),
            ("cake", "écake", true),
            ("ca?e", "a cave", true),
            ("ca?e", "a cave_", false),
            ("@room", "hi @room", true),
            ("@room", "hi@room", true),
            ("@room", "hi @rooms", false),
            ("c*", "a cat", true),
            ("*t", "a cat", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a a", "a a a", true),
        ] {
            assert_eq!(matches_words(pattern, text), expected, "{pattern} {text}");
        }
        assert!(contains_words("A*", "is a* here?") && !contains_words("A*", "is anybody here?"));
    }

    #[test]
    fn what_does_not_match_takes_its_time_and_no_stack() {
        let text = "aab ".repeat(16_000);
        assert!(!matches_words("aa", &text) && !matches_words(&"aab ".repeat(60), "aab"));
        assert!(!matches_words(&"*a".repeat(120), &"b".repeat(60_000)));
    }

    /// Compared one by one these would take fifteen million steps each.
    #[test]
    fn what_takes_too_long_does_not_match() {
        let effort = Effort::new(1_000_000);
        let text = Text::new(&".".repeat(60_000), &effort);
        let pattern = ".".repeat(255) + "b";
        for _ in 0..100_000 {
            assert!(!text.has_words_of(&pattern, &effort) && !text.has_words(&pattern, &effort));
        }
        assert!(effort.is_over());
        assert!(!text.has_words_of(".", &effort) && !text.is_of("*", &effort) && !text.has_words_of("", &effort));
        assert!(!Text::new("", &effort).has_words_of("", &effort));
        assert!(text.has_words_of(".", &Effort::new(1_000)));
    }
}
