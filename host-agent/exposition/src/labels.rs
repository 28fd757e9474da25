//! Label sets as text format 0.0.4 writes them.

use std::borrow::Cow;

use crate::fingerprint::{Fingerprint, Keys};
use crate::line::LineDrop;

/// Most labels that a sample may have. Istio's standard metrics have 25 and the Telemetry API adds
/// a handful; the limit keeps the search for duplicates short.
pub(crate) const MAX_LABELS: usize = 128;

/// A valid label set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels<'p> {
    /// What stands between the braces.
    raw: &'p str,
    /// Whether `raw` is valid OpenMetrics as it stands.
    verbatim: bool,
    fingerprint: Fingerprint,
    bound: Option<Bound<'p>>,
}

/// `le`, or else `quantile`: the label that tells the samples of one histogram or summary apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'p> {
    pub(crate) kind: BoundKind,
    /// As it was read, without the quotes.
    pub(crate) text: &'p str,
    /// NaN where the text is no number.
    pub(crate) value: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BoundKind {
    Le,
    Quantile,
}

impl BoundKind {
    fn of(label: &str) -> Option<Self> {
        match label {
            "le" => Some(Self::Le),
            "quantile" => Some(Self::Quantile),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Le => "le",
            Self::Quantile => "quantile",
        }
    }
}

impl<'p> Bound<'p> {
    fn new(kind: BoundKind, text: &'p str) -> Self {
        let value = text.parse().unwrap_or(f64::NAN);
        Self { kind, text, value }
    }
}

impl<'p> Labels<'p> {
    /// The labels of a sample that has none.
    pub(crate) const NONE: Self =
        Self { raw: "", verbatim: true, fingerprint: Fingerprint::ZERO, bound: None };

    /// Identity of the labels without the bound. Labels with an empty value do not count: to
    /// Prometheus and OpenMetrics they are absent.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Identity of the labels with the bound.
    pub(crate) fn full_fingerprint(&self, keys: &Keys) -> Fingerprint {
        match self.bound {
            Some(bound) if !bound.text.is_empty() => {
                self.fingerprint + keys.label(bound.kind.name(), &unescape(bound.text))
            }
            _ => self.fingerprint,
        }
    }

    pub(crate) fn bound(&self) -> Option<Bound<'p>> {
        self.bound
    }

    /// Names and unescaped values, in the order of the page, the bound among them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'p str, Cow<'p, str>)> {
        self.iter_raw().map(|(name, value)| (name, unescape(value)))
    }

    fn iter_raw(&self) -> impl Iterator<Item = (&'p str, &'p str)> {
        let mut cursor = Cursor::new(self.raw);
        std::iter::from_fn(move || cursor.label().ok().flatten())
    }

    /// Writes the set with its braces, or nothing where it is empty.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if self.raw.is_empty() {
            return;
        }
        if self.verbatim {
            out.push(b'{');
            out.extend_from_slice(self.raw.as_bytes());
            out.push(b'}');
            return;
        }
        let mut separator = b'{';
        for (name, value) in self.iter_raw() {
            out.push(separator);
            separator = b',';
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"=\"");
            write_canonical(value, out);
            out.push(b'"');
        }
        if separator == b',' {
            out.push(b'}');
        }
    }
}

/// Reads label sets, and remembers the last one: the twenty lines of a histogram's buckets differ
/// in nothing but their `le`, and need not be checked twenty times.
#[derive(Debug)]
pub(crate) struct LabelReader<'p, 'k> {
    keys: &'k Keys,
    /// The last set, without its bound.
    last: Labels<'p>,
    names: Vec<&'p str>,
}

impl<'p, 'k> LabelReader<'p, 'k> {
    pub(crate) fn new(keys: &'k Keys) -> Self {
        Self { keys, last: Labels::NONE, names: Vec::new() }
    }

    /// Reads the set whose opening brace stood before `text`; returns it and what follows its
    /// closing brace.
    pub(crate) fn read(&mut self, text: &'p str) -> Result<(Labels<'p>, &'p str), LineDrop> {
        if let Some(known) = self.read_like_last(text) {
            return Ok(known);
        }
        let mut cursor = Cursor::new(text);
        let mut fingerprint = Fingerprint::ZERO;
        let mut bound: Option<Bound<'p>> = None;
        let mut before_bound = 0;
        self.names.clear();
        loop {
            let start = cursor.at;
            let Some((name, value)) = cursor.label()? else {
                break;
            };
            if self.names.len() == MAX_LABELS {
                return Err(LineDrop::Labels);
            }
            self.names.push(name);
            match BoundKind::of(name) {
                Some(kind) if kind == BoundKind::Le || bound.is_none() => {
                    if let Some(quantile) = bound.replace(Bound::new(kind, value)) {
                        fingerprint += self.label(quantile.kind.name(), quantile.text);
                    }
                    before_bound = start;
                }
                _ => fingerprint += self.label(name, value),
            }
        }
        // `label` stops before the closing brace, or where the text ends without one.
        let raw = text.get(..cursor.at).ok_or(LineDrop::Labels)?;
        let rest = text.get(cursor.at..).and_then(|rest| rest.strip_prefix('}')).ok_or(LineDrop::Labels)?;
        let bound_is_last = match (bound, self.names.last()) {
            (Some(bound), Some(last)) => bound.kind.name() == *last,
            _ => false,
        };
        self.names.sort_unstable();
        if self.names.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(LineDrop::Labels);
        }
        let labels = Labels { raw, verbatim: cursor.verbatim, fingerprint, bound };
        if labels.verbatim && self.names.len() < MAX_LABELS && (bound.is_none() || bound_is_last) {
            let end = if bound.is_some() { before_bound } else { raw.len() };
            self.last = Labels { raw: raw.get(..end).unwrap_or_default(), bound: None, ..labels };
        }
        Ok((labels, rest))
    }

    /// The same labels as those of the last sample, with a plain `le` behind them or without.
    fn read_like_last(&self, text: &'p str) -> Option<(Labels<'p>, &'p str)> {
        if self.last.raw.is_empty() {
            return None;
        }
        let behind = text.strip_prefix(self.last.raw)?;
        if let Some(rest) = behind.strip_prefix('}') {
            return Some((self.last, rest));
        }
        let value = behind.strip_prefix(",le=\"")?;
        let end = value.bytes().position(|byte| matches!(byte, b'"' | b'\\'))?;
        let (value, rest) = value.split_at_checked(end)?;
        let rest = rest.strip_prefix("\"}")?;
        let raw = text.get(..text.len() - rest.len() - 1)?;
        let bound = Some(Bound::new(BoundKind::Le, value));
        let labels = Labels { raw, bound, ..self.last };
        Some((labels, rest))
    }

    fn label(&self, name: &str, value: &str) -> Fingerprint {
        if value.is_empty() { Fingerprint::ZERO } else { self.keys.label(name, &unescape(value)) }
    }
}

/// Position in the text between the braces. All stops are at ASCII characters.
#[derive(Clone, Copy, Debug)]
struct Cursor<'p> {
    text: &'p str,
    at: usize,
    /// Nothing was seen that OpenMetrics' ABNF would not have: blanks, a comma at the end, an
    /// escape that is none.
    verbatim: bool,
}

impl<'p> Cursor<'p> {
    fn new(text: &'p str) -> Self {
        Self { text, at: 0, verbatim: true }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.peek() {
            self.at += 1;
            self.verbatim = false;
        }
    }

    fn is_at_end(&self) -> bool {
        matches!(self.peek(), None | Some(b'}'))
    }

    fn expect(&mut self, byte: u8) -> Result<(), LineDrop> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(LineDrop::Labels)
        }
    }

    /// The next label, or `None` before the closing brace or at the end of the text.
    fn label(&mut self) -> Result<Option<(&'p str, &'p str)>, LineDrop> {
        let first = self.at == 0;
        self.skip_blanks();
        if self.is_at_end() {
            return Ok(None);
        }
        if !first {
            self.expect(b',')?;
            self.skip_blanks();
            if self.is_at_end() {
                // A comma at the end: allowed in the text format, not in OpenMetrics.
                self.verbatim = false;
                return Ok(None);
            }
        }
        let name = self.name()?;
        self.skip_blanks();
        self.expect(b'=')?;
        self.skip_blanks();
        self.expect(b'"')?;
        let value = self.quoted()?;
        Ok(Some((name, value)))
    }

    fn name(&mut self) -> Result<&'p str, LineDrop> {
        let start = self.at;
        while let Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_') = self.peek() {
            self.at += 1;
        }
        let name = self.text.get(start..self.at).unwrap_or_default();
        // OpenMetrics, "Label Names": those that begin with two underscores are reserved.
        // Prometheus reads `__name__` as the metric's own name.
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || name.starts_with("__") {
            return Err(LineDrop::Labels);
        }
        Ok(name)
    }

    /// The text up to the closing quote, behind which the cursor stops.
    fn quoted(&mut self) -> Result<&'p str, LineDrop> {
        let start = self.at;
        loop {
            match self.peek().ok_or(LineDrop::Labels)? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    match self.peek().ok_or(LineDrop::Labels)? {
                        b'\\' | b'"' | b'n' => self.at += 1,
                        // Not an escape, so the character behind it is looked at for itself.
                        _ => self.verbatim = false,
                    }
                }
                _ => self.at += 1,
            }
        }
        let value = self.text.get(start..self.at).ok_or(LineDrop::Labels)?;
        self.at += 1;
        Ok(value)
    }
}

/// The value that an escaped text stands for. As in Prometheus, a backslash before any other
/// character than `\`, `"` and `n` stands for itself.
pub(crate) fn unescape(escaped: &str) -> Cow<'_, str> {
    if !escaped.contains('\\') {
        return Cow::Borrowed(escaped);
    }
    let mut value = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            value.push(c);
            continue;
        }
        let mut ahead = chars.clone();
        match ahead.next() {
            Some('n') => value.push('\n'),
            Some(c @ ('\\' | '"')) => value.push(c),
            _ => {
                value.push('\\');
                continue;
            }
        }
        chars = ahead;
    }
    Cow::Owned(value)
}

/// Writes a text with the escapes that OpenMetrics has (`escaped-string` of the ABNF).
pub(crate) fn write_escaped(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
}

fn write_canonical(escaped: &str, out: &mut Vec<u8>) {
    write_escaped(&unescape(escaped), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, LineDrop> {
        let keys = Keys::default();
        let mut out = Vec::new();
        let (labels, rest) = LabelReader::new(&keys).read(text)?;
        labels.write(&mut out);
        out.extend_from_slice(rest.as_bytes());
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_may_hold_quotes_backslashes_commas_and_braces() {
        for text in [r#"a="x\"y",b="\\",c="1,2",d="}{",e="\n",f="ü"} 1"#, r#"a="\\\"} 2"} 1"#, r#"a=""} 1"#]
        {
            assert_eq!(read(text), Ok(format!("{{{text}")));
        }
    }

    #[test]
    fn what_openmetrics_would_not_have_is_rewritten() {
        assert_eq!(read("} 1"), Ok(" 1".into()));
        assert_eq!(read(" } 1"), Ok(" 1".into()));
        assert_eq!(read("a=\"1\",} 1"), Ok("{a=\"1\"} 1".into()));
        assert_eq!(read(" a = \"1\" ,\tb=\"2\" , }"), Ok("{a=\"1\",b=\"2\"}".into()));
        assert_eq!(read(r#"a="C:\dir\"}"#), Err(LineDrop::Labels));
        assert_eq!(read(r#"a="C:\dir\\"}"#), Ok(r#"{a="C:\\dir\\"}"#.into()));
    }

    #[test]
    fn broken_sets_are_refused() {
        for text in [
            "",
            "a=\"1\"",
            "a=\"1\" b=\"2\"}",
            "a=\"1\"b=\"2\"}",
            "a=\"1\",,b=\"2\"}",
            ",a=\"1\"}",
            ",}",
            "a=1}",
            "a}",
            "=\"1\"}",
            "1a=\"1\"}",
            "a-b=\"1\"}",
            "\"a\"=\"1\"}",
            "ä=\"1\"}",
            "a=\"1}",
            "a=\"\\",
            "a=\"1\",a=\"2\"}",
            "le=\"1\",le=\"1\"}",
            "__name__=\"x\"}",
        ] {
            assert_eq!(read(text), Err(LineDrop::Labels), "{text:?}");
        }
    }

    #[test]
    fn too_many_labels_are_refused() {
        let set = |n: usize| (0..n).map(|i| format!("l{i}=\"\",")).collect::<String>() + "}";
        assert!(read(&set(MAX_LABELS)).is_ok());
        assert_eq!(read(&set(MAX_LABELS + 1)), Err(LineDrop::Labels));
    }

    #[test]
    fn the_memory_of_the_last_set_changes_nothing() {
        let keys = Keys::default();
        let mut reader = LabelReader::new(&keys);
        for text in [
            r#"a="1",b="2",le="0.5"}"#,
            r#"a="1",b="2",le="1"}"#,
            r#"a="1",b="2"}"#,
            r#"a="1",b="2",le="\"}"}"#,
            r#"a="1",b="2",c="3"}"#,
            r#"a="1",b="2",c="3",le="7"}"#,
            r#"a="1",b="2",c="3",le="7",le="7"}"#,
            r#"a="1",b="2",c="3",c="3"}"#,
            r#"quantile="1",le="2"}"#,
            r#"quantile="1",le="3"}"#,
            r#"le="3",quantile="1"}"#,
            r#"le="3",a="1"}"#,
            r#"le="3",a="1",le="4"}"#,
        ] {
            let remembered = reader.read(text);
            let fresh = LabelReader::new(&keys).read(text);
            match (remembered, fresh) {
                (Ok((a, _)), Ok((b, _))) => {
                    assert_eq!(a.raw, b.raw);
                    assert_eq!(a.fingerprint, b.fingerprint, "{text}");
                    assert_eq!(a.full_fingerprint(&keys), b.full_fingerprint(&keys));
                    assert_eq!(a.bound.map(|bound| bound.text), b.bound.map(|bound| bound.text));
                }
                (a, b) => assert_eq!(a.map(|_| ()), b.map(|_| ()), "{text}"),
            }
        }
    }

    #[test]
    fn order_and_empty_labels_do_not_change_identity() {
        let keys = Keys::default();
        let of = |text| LabelReader::new(&keys).read(text).unwrap().0.fingerprint();
        assert_eq!(of(r#"a="1",b="2"}"#), of(r#"b="2",c="",a="1"}"#));
        assert_eq!(of(r#"a="\x"}"#), of(r#"a="\\x"}"#));
        assert_ne!(of(r#"a="1",b="2"}"#), of(r#"a="2",b="1"}"#));
    }
}
