//! Patterns in which `*` stands for any text and `?` for one character. Case does not matter. Spec: "Glob-style
//! matching", "Conditions".

/// Whether the whole text is of the pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (text, pieces) = (folded(text), pieces(pattern));
    found(&pieces, &text, |place| place == 0, |place| place == text.len())
}

/// Whether a part of the text is of the pattern that starts and ends at the boundary of a word: «the start or end of the
/// value, or any character not in the sets `[A-Z]`, `[a-z]`, `[0-9]` or `_`». An empty pattern is of an empty text only.
pub(crate) fn matches_words(pattern: &str, text: &str) -> bool {
    found_among_words(&pieces(pattern), text)
}

/// As [`matches_words`], for a text that is no pattern.
pub(crate) fn contains_words(literal: &str, text: &str) -> bool {
    found_among_words(&[folded(literal).into_iter().map(Some).collect()], text)
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

fn found_among_words(pieces: &[Piece], text: &str) -> bool {
    let text = folded(text);
    if pieces.iter().all(Vec::is_empty) && pieces.len() == 1 {
        return text.is_empty();
    }
    let is_word = |place: Option<usize>| {
        place.and_then(|place| text.get(place)).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_')
    };
    // At the start and the end of the text there is no character of a word on one side.
    let is_boundary = |place: usize| !(is_word(place.checked_sub(1)) && is_word(Some(place)));
    found(pieces, &text, is_boundary, is_boundary)
}

/// Looks for the pieces one after the other, each as early as can be; only the last has a say in where it ends.
fn found(pieces: &[Piece], text: &[char], may_start: impl Fn(usize) -> bool, may_end: impl Fn(usize) -> bool) -> bool {
    let places = |from: usize| from..=text.len();
    let is_at = |piece: &Piece, place: usize| {
        text.get(place..place.saturating_add(piece.len()))
            .is_some_and(|text| piece.iter().zip(text).all(|(wanted, c)| wanted.is_none_or(|wanted| wanted == *c)))
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
}
