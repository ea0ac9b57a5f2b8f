use ruma_common::ServerName;

use crate::glob;

/// Servers by name: patterns in which `*` stands for any text and `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerPatterns(Vec<String>);

impl ServerPatterns {
    /// Reads patterns separated by commas. `None` where one could not be of any server's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let patterns = text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-.:[]*?".contains(c);
        patterns
            .map(|pattern| pattern.chars().all(allowed).then(|| pattern.to_owned()))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is of this name, or of this name without its port.
    pub fn contain(&self, server_name: &ServerName) -> bool {
        let of = |name: &str| self.0.iter().any(|pattern| glob::matches(pattern, name));
        of(server_name.as_str()) || of(server_name.host())
    }

    /// Whether one is of this host.
    pub fn contain_host(&self, host: &str) -> bool {
        self.0.iter().any(|pattern| glob::matches(pattern, host))
    }
}

#[cfg(test)]
mod tests {
    use ruma_common::ServerName;

    use super::ServerPatterns;

    #[test]
    fn patterns_are_of_names_with_or_without_their_port() {
        let patterns = ServerPatterns::parse("a.org, *.evil.test,b.org:8448,[::1]").unwrap();
        for (name, expected) in [
            ("a.org", true),
            ("A.org", true),
            ("a.org:8448", true),
            ("ba.org", false),
            ("evil.test", false),
            ("x.y.evil.test:1", true),
            ("b.org", false),
            ("b.org:8448", true),
            ("[::1]:8448", true),
        ] {
            assert_eq!(patterns.contain(<&ServerName>::try_from(name).unwrap()), expected, "{name}");
        }
        for (host, expected) in [("a.org", true), ("x.evil.test", true), ("b.org", false), ("x_y.evil.test", true)] {
            assert_eq!(patterns.contain_host(host), expected, "{host}");
        }
        assert!(ServerPatterns::parse(" , ").unwrap().is_empty());
        assert_eq!(ServerPatterns::parse("https://a.org"), None);
    }
}
