//! One line of a page in text format 0.0.4.

use std::fmt;

use meshweft_telemetry::DropReason;

use crate::fingerprint::Keys;
use crate::labels::{LabelReader, Labels};
use crate::number::Number;

/// Why a line of the page is not in the output.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum LineDrop {
    /// It is not UTF-8.
    NotUtf8,
    /// It is longer than [`crate::Limits::max_line_bytes`].
    TooLong,
    /// It is neither a sample nor a comment.
    Syntax,
    /// Its label set is broken, has a label twice, a reserved name or too many labels.
    Labels,
    /// Its value is no number, or its digits overflow a double.
    Value,
    /// Its timestamp is no whole number of milliseconds.
    Timestamp,
    /// A `# TYPE` or `# HELP` that is broken, or names a type that the format does not have.
    Metadata,
    /// A second `# TYPE` or `# HELP` for the same name. The first holds.
    DuplicateMetadata,
    /// A second sample of the same series. The first holds.
    DuplicateSample,
}

impl LineDrop {
    /// Every value, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::NotUtf8,
        Self::TooLong,
        Self::Syntax,
        Self::Labels,
        Self::Value,
        Self::Timestamp,
        Self::Metadata,
        Self::DuplicateMetadata,
        Self::DuplicateSample,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::TooLong => "too_long",
            Self::Syntax => "syntax",
            Self::Labels => "labels",
            Self::Value => "value",
            Self::Timestamp => "timestamp",
            Self::Metadata => "metadata",
            Self::DuplicateMetadata => "duplicate_metadata",
            Self::DuplicateSample => "duplicate_sample",
        }
    }

    /// The reason in Meshweft's one vocabulary of losses that this is a case of.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::NotUtf8 | Self::Syntax | Self::Labels | Self::Value | Self::Timestamp | Self::Metadata => {
                DropReason::Malformed
            }
            Self::TooLong => DropReason::TooLarge,
            Self::DuplicateMetadata | Self::DuplicateSample => DropReason::Duplicate,
        }
    }
}

impl fmt::Display for LineDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The types that OpenMetrics shares with the text format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Unknown,
}

impl Kind {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" | "unknown" => Self::Unknown,
            _ => return None,
        })
    }

    /// The name of the type in OpenMetrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Unknown => "unknown",
        }
    }
}

/// What a line says.
#[derive(Debug)]
pub(crate) enum Line<'p> {
    /// Blank, or a comment.
    Nothing,
    Type {
        name: &'p str,
        kind: Kind,
    },
    Help {
        name: &'p str,
        /// As it was read: `\\` and `\n` are escapes, quotes are not.
        text: &'p str,
    },
    Sample(Reading<'p>),
}

/// A sample as it stands on its line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'p> {
    pub(crate) name: &'p str,
    pub(crate) labels: Labels<'p>,
    pub(crate) number: Number<'p>,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp: Option<i64>,
}

/// Reads line after line.
#[derive(Debug)]
pub(crate) struct LineReader<'p, 'k> {
    labels: LabelReader<'p, 'k>,
    max_bytes: usize,
}

const BLANKS: [char; 2] = [' ', '\t'];

impl<'p, 'k> LineReader<'p, 'k> {
    pub(crate) fn new(keys: &'k Keys, max_bytes: usize) -> Self {
        Self { labels: LabelReader::new(keys), max_bytes }
    }

    /// Reads a line, without its line feed.
    pub(crate) fn read(&mut self, line: &'p [u8]) -> Result<Line<'p>, LineDrop> {
        if line.len() > self.max_bytes {
            return Err(LineDrop::TooLong);
        }
        let line = str::from_utf8(line).map_err(|_| LineDrop::NotUtf8)?;
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() {
            Ok(Line::Nothing)
        } else if let Some(comment) = line.strip_prefix('#') {
            read_comment(comment)
        } else {
            self.read_sample(line).map(Line::Sample)
        }
    }

    fn read_sample(&mut self, line: &'p str) -> Result<Reading<'p>, LineDrop> {
        let (name, rest) = split_name(line).ok_or(LineDrop::Syntax)?;
        let behind_name = rest.trim_start_matches(BLANKS);
        let (labels, rest) = match behind_name.strip_prefix('{') {
            Some(labels) => self.labels.read(labels)?,
            None if rest.starts_with(BLANKS) => (Labels::NONE, behind_name),
            None => return Err(LineDrop::Syntax),
        };
        let mut words = rest.split(BLANKS).filter(|word| !word.is_empty());
        let number = Number::parse(words.next().ok_or(LineDrop::Value)?).ok_or(LineDrop::Value)?;
        let timestamp = match words.next() {
            Some(word) => Some(word.parse().map_err(|_| LineDrop::Timestamp)?),
            None => None,
        };
        if words.next().is_some() {
            return Err(LineDrop::Syntax);
        }
        Ok(Reading { name, labels, number, timestamp })
    }
}

fn read_comment(comment: &str) -> Result<Line<'_>, LineDrop> {
    // Text format: `#TYPE`, without a blank, is a comment like any other.
    let body = comment.trim_start_matches(BLANKS);
    if body.len() == comment.len() {
        return Ok(Line::Nothing);
    }
    let (keyword, rest) = body.split_once(BLANKS).unwrap_or((body, ""));
    if !matches!(keyword, "TYPE" | "HELP") {
        return Ok(Line::Nothing);
    }
    let (name, rest) = split_name(rest.trim_start_matches(BLANKS)).ok_or(LineDrop::Metadata)?;
    if !rest.is_empty() && !rest.starts_with(BLANKS) {
        return Err(LineDrop::Metadata);
    }
    let rest = rest.trim_start_matches(BLANKS);
    if keyword == "HELP" {
        return Ok(Line::Help { name, text: rest });
    }
    match Kind::parse(rest.trim_end_matches(BLANKS)) {
        Some(kind) => Ok(Line::Type { name, kind }),
        None => Err(LineDrop::Metadata),
    }
}

/// Splits `metricname` of the ABNF off, or `None` where there is none.
fn split_name(text: &str) -> Option<(&str, &str)> {
    let end = text
        .bytes()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':')))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    let valid = name.starts_with(|c: char| !c.is_ascii_digit());
    valid.then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<String, LineDrop> {
        let keys = Keys::default();
        Ok(match LineReader::new(&keys, 200).read(line.as_bytes())? {
            Line::Nothing => String::new(),
            Line::Type { name, kind } => format!("type {name} {}", kind.as_str()),
            Line::Help { name, text } => format!("help {name} {text}"),
            Line::Sample(sample) => {
                let mut out = format!("sample {}", sample.name).into_bytes();
                sample.labels.write(&mut out);
                format!("{} {} {:?}", String::from_utf8(out).unwrap(), sample.number.text(), sample.timestamp)
            }
        })
    }

    #[test]
    fn lines_are_read_as_prometheus_reads_them() {
        for (line, read_as) in [
            ("", ""),
            (" \t ", ""),
            ("# EOF", ""),
            ("#TYPE a counter", ""),
            ("# TYPING a counter", ""),
            ("#  TYPE\ta  counter ", "type a counter"),
            ("# TYPE a untyped", "type a unknown"),
            ("# HELP a", "help a "),
            ("# HELP a  b \"c\"\\n ", "help a b \"c\"\\n "),
            ("a 1", "sample a 1 None"),
            ("  a{} 1 ", "sample a 1 None"),
            ("a:b {c=\"d\"}1 5", "sample a:b{c=\"d\"} 1 Some(5)"),
            ("a\t-Inf\t-5", "sample a -Inf Some(-5)"),
        ] {
            assert_eq!(read(line).as_deref(), Ok(read_as), "{line:?}");
        }
    }

    #[test]
    fn broken_lines_are_refused_with_their_reason() {
        for (line, drop) in [
            ("1a 1", LineDrop::Syntax),
            ("<html>", LineDrop::Syntax),
            ("a", LineDrop::Syntax),
            ("a.b 1", LineDrop::Syntax),
            ("{\"a.b\"} 1", LineDrop::Syntax),
            ("a 1 2 3", LineDrop::Syntax),
            ("a 1 2 # {} 1", LineDrop::Syntax),
            ("a ", LineDrop::Value),
            ("a{} x", LineDrop::Value),
            ("a 1\r", LineDrop::Value),
            ("a 1 1.5", LineDrop::Timestamp),
            ("a 1 99999999999999999999", LineDrop::Timestamp),
            ("a{b=\"} 1", LineDrop::Labels),
            ("# TYPE a info", LineDrop::Metadata),
            ("# TYPE a", LineDrop::Metadata),
            ("# TYPE", LineDrop::Metadata),
            ("# TYPE a.b counter", LineDrop::Metadata),
            ("# HELP 1 x", LineDrop::Metadata),
        ] {
            assert_eq!(read(line), Err(drop), "{line:?}");
        }
        assert_eq!(read(&format!("a{{b=\"{}\"}} 1", "x".repeat(200))), Err(LineDrop::TooLong));
        let keys = Keys::default();
        assert_eq!(LineReader::new(&keys, 200).read(b"a{b=\"\xff\"} 1").err(), Some(LineDrop::NotUtf8));
    }

    #[test]
    fn names_of_reasons_are_unique() {
        let mut names: Vec<_> = LineDrop::ALL.iter().map(|drop| drop.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LineDrop::ALL.len());
    }
}
