//! Which processes are instrumented: `discovery.select` and `discovery.exclude`.

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::RangeInclusive;

/// A shell pattern over the whole text: `*` stands for any characters (`/` too), `?` for one.
/// There are no classes and no escapes.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Glob(String);

impl Glob {
    /// The pattern written as `text`. Every text is one.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether the pattern covers all of `text`. Takes time in proportion to the product of both
    /// lengths at worst.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let pattern = self.0.as_bytes();
        let text = text.as_bytes();
        let (mut p, mut t) = (0, 0);
        // Where to resume after a mismatch: behind the last star, one byte further on in the text.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&byte) = text.get(t) {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p + 1, t));
                    p += 1;
                }
                Some(&wanted) if wanted == b'?' || wanted == byte => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((after, from)) => {
                        star = Some((after, from + 1));
                        p = after;
                        t = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern.iter().skip(p).all(|byte| *byte == b'*')
    }
}

/// A set of TCP ports, written as `"80"`, `"8000-8999"` or `"80,443,8000-8999"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Every port that can be listened on: 1 to 65535.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// Whether the port belongs to the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    fn parse(text: &str) -> Option<Self> {
        text.split(',')
            .map(|part| {
                let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
                let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
                (*range.start() >= 1 && range.start() <= range.end()).then_some(range)
            })
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "ports such as 8080 or \"80,8000-8999\"")]
        enum Written {
            Port(u16),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Port(port) => port.to_string(),
            Written::Text(text) => text,
        };
        Self::parse(&text).ok_or_else(|| {
            D::Error::invalid_value(
                Unexpected::Str(&text),
                &"ports from 1 to 65535, such as \"80,8000-8999\"",
            )
        })
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts: Vec<_> = self.0.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
        serializer.serialize_str(&parts.join(","))
    }
}

/// What a [`Selector`] is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// TCP ports that the process listens on.
    pub ports: &'a [u16],
    /// File name of its executable, for example `python3.11`.
    pub executable: &'a str,
    /// Full path of its executable, for example `/usr/bin/python3.11`.
    pub path: &'a str,
}

/// One entry of `discovery.select` or `discovery.exclude`. All keys that are written must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// The process listens on one of these TCP ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortSet>,
    /// Pattern of the executable's file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Glob>,
    /// Pattern of the executable's full path; `/opt/shop/*` for everything below a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Glob>,
}

impl Selector {
    /// Whether the entry covers this process.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        !self.is_empty()
            && self.ports.as_ref().is_none_or(|ports| subject.ports.iter().any(|port| ports.contains(*port)))
            && self.executable.as_ref().is_none_or(|glob| glob.matches(subject.executable))
            && self.path.as_ref().is_none_or(|glob| glob.matches(subject.path))
    }

    /// Whether no key is written.
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_none() && self.executable.is_none() && self.path.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_cover_the_whole_text() {
        for (pattern, text, expected) in [
            ("python*", "python3.11", true),
            ("python*", "cpython", false),
            ("*java", "/usr/lib/jvm/bin/java", true),
            ("/opt/*/bin/*", "/opt/shop/bin/orders", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("*a*b", "xaxxbxab", true),
            ("*a*b", "xaxxbxa", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn ports_are_lists_of_ranges() {
        let ports = PortSet::parse("80, 8000-8999").unwrap();
        assert!(ports.contains(80) && ports.contains(8000) && ports.contains(8999));
        assert!(!ports.contains(81) && !ports.contains(9000));
        for wrong in ["", "0", "9-8", "65536", "a", "1-", "-1", "80,"] {
            assert_eq!(PortSet::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_written_key_must_hold() {
        let selector =
            Selector { ports: PortSet::parse("8080"), executable: Some(Glob::new("python*")), path: None };
        let subject = Subject { ports: &[22, 8080], executable: "python3", path: "/usr/bin/python3" };
        assert!(selector.matches(&subject));
        assert!(!selector.matches(&Subject { ports: &[22], ..subject }));
        assert!(!selector.matches(&Subject { executable: "java", ..subject }));
        assert!(!Selector::default().matches(&subject), "an empty entry covers nothing");
    }

    /// The plain recursive definition.
    fn covers(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| covers(rest, &text[skip..])),
            Some((wanted, rest)) => text
                .split_first()
                .is_some_and(|(byte, text)| (*wanted == b'?' || wanted == byte) && covers(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_their_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(Glob::new(&*pattern).matches(&text), covers(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
