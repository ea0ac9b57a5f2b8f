//! Finding people by what they are called. Spec: Client-Server API, "User Directory".

use ruma_common::UserId;
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// The words of a term that are looked for.
const WORDS_MAX: usize = 10;

/// What is searched for, without regard to case and accents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    whole: String,
    words: Vec<String>,
}

/// How well somebody fits, the best first: they are called exactly so, their name or a part of it begins so, it is
/// somewhere in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The whole id, the part before the server, or the whole name.
    Whole,
    /// Each word begins one.
    Beginning,
    /// Each word is somewhere.
    Inside,
}

impl Term {
    /// Reads what somebody typed.
    pub fn new(text: &str) -> Self {
        let whole = folded(text.trim());
        let words = whole.split_whitespace().take(WORDS_MAX).map(ToOwned::to_owned).collect();
        Self { whole, words }
    }

    /// With what the ids of those begin whose localpart one of the words begins: as ids are made today, in lower case.
    pub fn beginnings_of_ids(&self) -> impl Iterator<Item = String> {
        self.words.iter().map(|word| format!("@{}", word.trim_start_matches('@')))
    }

    /// How well a user fits, if at all.
    pub fn rank(&self, user_id: &UserId, display_name: Option<&str>) -> Option<Rank> {
        let (id, name) = (folded(user_id.as_str()), display_name.map(folded).unwrap_or_default());
        let localpart = id.split_once(':').map_or(&*id, |(localpart, _)| localpart).trim_start_matches('@');
        if [&*id, localpart, &*name].contains(&&*self.whole) {
            return Some(Rank::Whole);
        }
        let begins = |word: &str| {
            id.starts_with(word) || localpart.starts_with(word) || parts(&name).any(|part| part.starts_with(word))
        };
        if self.words.iter().all(|word| begins(word)) {
            return Some(Rank::Beginning);
        }
        self.words.iter().all(|word| id.contains(&**word) || name.contains(&**word)).then_some(Rank::Inside)
    }
}

/// The parts of a name that one may begin to type with.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty())
}

/// A text without regard to case and accents: `Ångström` as `angstrom`.
fn folded(text: &str) -> String {
    text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use ruma_common::user_id;

    use super::{Rank, Term};

    #[test]
    fn people_are_found_by_what_they_are_called() {
        let id = user_id!("@anders.a:example.org");
        let name = Some("Anders Jonas Ångström");
        for (term, expected) in [
            ("anders.a", Some(Rank::Whole)),
            ("@ANDERS.A:example.org", Some(Rank::Whole)),
            ("anders jonas angstrom", Some(Rank::Whole)),
            ("  Ande ", Some(Rank::Beginning)),
            ("@and", Some(Rank::Beginning)),
            ("ångs", Some(Rank::Beginning)),
            ("A\u{30a}NGS jon", Some(Rank::Beginning)),
            ("strom", Some(Rank::Inside)),
            ("ström ders", Some(Rank::Inside)),
            ("example.org", Some(Rank::Inside)),
            ("strom nobody", None),
            ("ﬁ", None),
            ("", Some(Rank::Beginning)),
        ] {
            assert_eq!(Term::new(term).rank(id, name), expected, "{term}");
        }
        assert_eq!(Term::new("Ångs @Anders.a:x").beginnings_of_ids().collect::<Vec<_>>(), ["@angs", "@anders.a:x"]);
        assert_eq!(Term::new("jonas").rank(id, None), None);
        assert_eq!(Term::new("straße").rank(user_id!("@a:b"), Some("Straße 5")), Some(Rank::Beginning));
        assert_eq!(Term::new("ぴかちゅう").rank(user_id!("@a:b"), Some("ピカ ぴかちゅう")), Some(Rank::Beginning));
    }
}
