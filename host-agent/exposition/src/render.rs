//! Families and exemplars to OpenMetrics text.

use std::io::Write;

use crate::Error;
use crate::exemplars::{Exemplar, Exemplars};
use crate::labels::write_escaped;
use crate::page::{DroppedLines, Family, Page, Sample};
use crate::series::Metric;

/// What was done to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Samples that were written.
    pub samples: u64,
    /// Metric families that were written.
    pub families: u64,
    /// Families of the page that could not keep their type and were written as `unknown`, because
    /// OpenMetrics does not allow their samples under it or because their names clash with
    /// another family's. A counter without `_total` is not among them.
    pub retyped: u64,
    /// Exemplars that were written.
    pub exemplars: u64,
    /// Lines that are not in the output.
    pub dropped: DroppedLines,
}

/// Converts a page of Prometheus text format 0.0.4 to OpenMetrics 1.0, appended to `out`, with the
/// proxy's exemplars attached.
///
/// Takes time and memory linear in the page and the pending requests.
///
/// # Errors
///
/// [`Error::PageTooLarge`], [`Error::NoSamples`]. Then `out` and the exemplars are as they were.
pub fn render(page: &[u8], exemplars: &mut Exemplars, out: &mut Vec<u8>) -> Result<Summary, Error> {
    let limit = exemplars.limits().max_page_bytes.min(usize::try_from(u32::MAX).unwrap_or(usize::MAX));
    if page.len() > limit {
        return Err(Error::PageTooLarge { len: page.len(), limit });
    }
    let read = Page::read(page, exemplars.keys(), exemplars.limits().max_line_bytes);
    let dropped = read.dropped.total();
    if read.sample_count() == 0 && dropped > 0 {
        return Err(Error::NoSamples { dropped });
    }
    exemplars.settle(&read);

    let mut summary = Summary {
        samples: read.sample_count() as u64,
        families: read.families.len() as u64,
        retyped: read.retyped,
        exemplars: 0,
        dropped: read.dropped,
    };
    out.reserve(page.len());
    for family in &read.families {
        write_descriptor(family, out);
        let metric = Metric::of(family);
        for sample in read.samples(family) {
            write_sample(sample, out);
            if let Some(exemplar) = metric.and_then(|metric| exemplars.of(metric, sample)) {
                write_exemplar(exemplar, out);
                summary.exemplars += 1;
            }
            out.push(b'\n');
        }
    }
    out.extend_from_slice(b"# EOF\n");
    Ok(summary)
}

fn write_descriptor(family: &Family<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# TYPE ");
    out.extend_from_slice(family.name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(family.kind.as_str().as_bytes());
    out.push(b'\n');
    if let Some(help) = family.help {
        out.extend_from_slice(b"# HELP ");
        out.extend_from_slice(family.name.as_bytes());
        out.push(b' ');
        write_escaped(&unescape_help(help), out);
        out.push(b'\n');
    }
}

/// In the help of the text format a quote needs no escape, and `\"` is two characters.
fn unescape_help(help: &str) -> String {
    let mut text = String::with_capacity(help.len());
    let mut rest = help;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        rest = if let Some(behind) = escaped.strip_prefix('\\') {
            text.push('\\');
            behind
        } else if let Some(behind) = escaped.strip_prefix('n') {
            text.push('\n');
            behind
        } else {
            text.push('\\');
            escaped
        };
    }
    text.push_str(rest);
    text
}

fn write_sample(sample: &Sample<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(sample.reading.name.as_bytes());
    sample.reading.labels.write(out);
    out.push(b' ');
    out.extend_from_slice(sample.reading.number.text().as_bytes());
    if let Some(timestamp) = sample.reading.timestamp {
        out.push(b' ');
        if timestamp < 0 {
            out.push(b'-');
        }
        write_seconds(timestamp.unsigned_abs(), out);
    }
}

/// OpenMetrics, "Exemplars": at most 128 characters of label names and values; these are 63.
fn write_exemplar(exemplar: &Exemplar, out: &mut Vec<u8>) {
    let candidate = &exemplar.candidate;
    out.extend_from_slice(b" # {trace_id=\"");
    out.extend_from_slice(&candidate.trace_id.to_hex());
    out.extend_from_slice(b"\",span_id=\"");
    out.extend_from_slice(&candidate.span_id.to_hex());
    out.extend_from_slice(b"\"} ");
    write_formatted(format_args!("{} ", exemplar.value), out);
    write_seconds(candidate.timestamp, out);
}

/// Timestamps of OpenMetrics are in seconds; these keep their milliseconds.
fn write_seconds(millis: u64, out: &mut Vec<u8>) {
    write_formatted(format_args!("{}.{:03}", millis / 1000, millis % 1000), out);
}

fn write_formatted(text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, LineDrop};

    fn rendered(page: &str) -> (String, Summary) {
        let mut out = Vec::new();
        let mut exemplars = Exemplars::new(Limits::default());
        let summary = render(page.as_bytes(), &mut exemplars, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), summary)
    }

    #[test]
    fn help_is_escaped_for_openmetrics() {
        let (out, _) =
            rendered("# HELP a_total say \"x\\n\\\\\" \\\"\\q \n# TYPE a_total counter\na_total 1\n");
        assert_eq!(out, "# TYPE a counter\n# HELP a say \\\"x\\n\\\\\\\" \\\\\\\"\\\\q \na_total 1\n# EOF\n");
    }

    #[test]
    fn milliseconds_become_seconds() {
        let (out, _) = rendered("a 1 1395066363001\nb 1 -5\nc 1 0\n");
        assert_eq!(
            out,
            "# TYPE a unknown\na 1 1395066363.001\n# TYPE b unknown\nb 1 -0.005\n\
             # TYPE c unknown\nc 1 0.000\n# EOF\n"
        );
    }

    #[test]
    fn counters_without_total_and_clashing_ones_keep_their_names() {
        let (out, summary) = rendered(
            "# TYPE x_total counter\nx_total 1\n# TYPE x gauge\nx 2\n# TYPE y counter\ny 3\n\
             # TYPE z_total counter\nz_total 4\n# TYPE _total counter\n_total 5\n",
        );
        assert_eq!(
            out,
            "# TYPE x_total unknown\nx_total 1\n# TYPE x gauge\nx 2\n# TYPE y unknown\ny 3\n\
             # TYPE z counter\nz_total 4\n# TYPE _total unknown\n_total 5\n# EOF\n"
        );
        assert_eq!((summary.retyped, summary.families), (1, 5));
    }

    #[test]
    fn split_families_are_joined_and_repeated_lines_dropped() {
        let (out, summary) = rendered(
            "h_sum 3\n# TYPE a gauge\na{b=\"1\"} 1\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\n\
             # TYPE a counter\na{b=\"2\"} 2\n\nh_bucket{le=\"1\"} 1\nh_count 2\na{b=\"1\",c=\"\"} 3\n",
        );
        assert_eq!(
            out,
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n\
             # TYPE a gauge\na{b=\"1\"} 1\na{b=\"2\"} 2\n# EOF\n"
        );
        assert_eq!(summary.dropped.get(LineDrop::DuplicateMetadata), 1);
        assert_eq!(summary.dropped.get(LineDrop::DuplicateSample), 1);
        assert_eq!(summary.dropped.total(), 2);
    }

    #[test]
    fn histograms_that_openmetrics_forbids_keep_their_samples_as_unknown() {
        for broken in [
            "h_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
            "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\n",
            "h_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 1\n",
            "h_bucket{le=\"x\"} 1\nh_bucket{le=\"+Inf\"} 1\n",
            "h_bucket{le=\"+Inf\"} 1.5\n",
            "h_bucket{le=\"+Inf\"} 1\nh_sum 1\n",
            "h_bucket{le=\"+Inf\"} 1\nh_count 1\n",
            "h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
            "h_bucket{le=\"+Inf\"} 1\nh_sum NaN\nh_count 1\n",
            "h_bucket{le=\"-1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
            "h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1 5\n",
            "h_bucket 1\nh_bucket{le=\"+Inf\"} 1\n",
            "h_bucket{le=\"+Inf\"} 1\nh 1\n",
        ] {
            let (out, summary) = rendered(&format!("# TYPE h histogram\n{broken}"));
            assert_eq!(summary.retyped, 1, "{broken}");
            assert!(!out.contains("histogram"), "{out}");
            assert_eq!(summary.samples as usize, broken.lines().count(), "{broken}");
        }
    }

    #[test]
    fn summaries_and_odd_numbers_are_kept() {
        let page = "# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns{quantile=\"1\"} 2\ns_sum 3\ns_count 2\n";
        let (out, summary) = rendered(page);
        assert_eq!(out, format!("{page}# EOF\n"));
        assert_eq!(summary.retyped, 0);
        let (out, summary) = rendered(
            "# TYPE s summary\ns{quantile=\"2\"} 1\n# TYPE c_total counter\nc_total NaN\n\
             # TYPE g gauge\ng -inf\n",
        );
        assert_eq!(
            out,
            "# TYPE s unknown\ns{quantile=\"2\"} 1\n# TYPE c_total unknown\nc_total NaN\n\
             # TYPE g gauge\ng -Inf\n# EOF\n"
        );
        assert_eq!(summary.retyped, 2);
    }

    #[test]
    fn the_text_of_le_is_kept() {
        let page = "# TYPE h histogram\nh_bucket{le=\"0.5\"} 0\nh_bucket{le=\"1\"} 0\n\
                    h_bucket{le=\"3600000\"} 0\nh_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n";
        assert_eq!(rendered(page).0, format!("{page}# EOF\n"));
    }

    #[test]
    fn an_empty_page_is_a_page_and_a_web_page_is_none() {
        assert_eq!(rendered("").0, "# EOF\n");
        assert_eq!(rendered("# TYPE a counter\n\n# EOF").0, "# EOF\n");
        let mut out = b"before".to_vec();
        let mut exemplars = Exemplars::new(Limits::default());
        assert_eq!(
            render(b"<html>\n<body>\n\n</html>", &mut exemplars, &mut out),
            Err(Error::NoSamples { dropped: 3 })
        );
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_page_beyond_the_limit_is_refused() {
        let limits = Limits { max_page_bytes: 3, ..Limits::default() };
        let mut exemplars = Exemplars::new(limits);
        let mut out = Vec::new();
        assert!(render(b"a 1", &mut exemplars, &mut out).is_ok());
        assert_eq!(render(b"a 1\n", &mut exemplars, &mut out), Err(Error::PageTooLarge { len: 4, limit: 3 }));
    }
}
