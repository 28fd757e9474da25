//! Content negotiation of a scrape (RFC 9110, section 12.5.1).

/// Whether a client with this `Accept` header is to be given OpenMetrics 1.0.
///
/// It is, if it names `application/openmetrics-text` itself (a wildcard is not enough: the answer
/// to a client that does not know OpenMetrics is text), without a version or with 1.0.0, at a
/// quality above 0 and not below the quality that `text/plain` has for it. Several header lines
/// are joined with a comma by the caller. Anything malformed counts as not named.
#[must_use]
pub fn accepts_openmetrics(accept: impl AsRef<[u8]>) -> bool {
    let mut openmetrics = None;
    // RFC 9110: the most specific range that matches a type decides its quality.
    let (mut text, mut any_text, mut any) = (None, None, None);
    for range in split_unquoted(accept.as_ref(), b',') {
        let mut parts = split_unquoted(range, b';');
        let media_type = parts.next().unwrap_or_default();
        let Some(parameters) = Parameters::read(parts) else {
            continue;
        };
        let best = if media_type.eq_ignore_ascii_case(b"application/openmetrics-text") {
            if !matches!(parameters.version, None | Some(b"1.0.0")) {
                continue;
            }
            &mut openmetrics
        } else if media_type.eq_ignore_ascii_case(b"text/plain") {
            &mut text
        } else if media_type.eq_ignore_ascii_case(b"text/*") {
            &mut any_text
        } else if media_type == b"*/*" {
            &mut any
        } else {
            continue;
        };
        *best = (*best).max(Some(parameters.quality));
    }
    let text = text.or(any_text).or(any).unwrap_or(0);
    openmetrics.is_some_and(|quality| quality > 0 && quality >= text)
}

struct Parameters<'a> {
    /// In thousandths, 0 to 1000.
    quality: u16,
    version: Option<&'a [u8]>,
}

impl<'a> Parameters<'a> {
    fn read(parts: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut read = Self { quality: 1000, version: None };
        for part in parts {
            let Some(equals) = part.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (name, value) = part.split_at_checked(equals)?;
            let name = name.trim_ascii();
            let value = unquote(value.get(1..)?.trim_ascii());
            if name.eq_ignore_ascii_case(b"q") {
                read.quality = quality(value)?;
            } else if name.eq_ignore_ascii_case(b"version") {
                read.version = Some(value);
            }
        }
        Some(read)
    }
}

/// `qvalue` of RFC 9110, section 12.4.2, in thousandths.
fn quality(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut quality = u16::from(whole - b'0') * 1000;
    let mut weight = 100;
    for digit in fraction {
        if !digit.is_ascii_digit() {
            return None;
        }
        quality += u16::from(digit - b'0') * weight;
        weight /= 10;
    }
    (quality <= 1000).then_some(quality)
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Splits at `separator` outside of quoted strings; the pieces come trimmed.
fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        if escaped {
            escaped = false;
        } else if quoted && *byte == b'\\' {
            escaped = true;
        } else if *byte == b'"' {
            quoted = !quoted;
        }
        !quoted && *byte == separator
    })
    .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_2_42_is_given_openmetrics() {
        assert!(accepts_openmetrics(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        // With --enable-feature=native-histograms.
        assert!(accepts_openmetrics(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
             encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
             application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
             */*;q=0.1"
        ));
    }

    #[test]
    fn prometheus_3_is_given_openmetrics() {
        assert!(accepts_openmetrics(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        // scrape_protocols: [PrometheusText0.0.4, OpenMetricsText1.0.0]
        assert!(!accepts_openmetrics(
            "text/plain;version=0.0.4;q=0.6,\
             application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.4"
        ));
    }

    #[test]
    fn who_does_not_name_openmetrics_is_given_text() {
        for accept in [
            "",
            "*/*",
            "application/*",
            "text/plain",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-textual",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.000",
        ] {
            assert!(!accepts_openmetrics(accept), "{accept:?}");
        }
    }

    #[test]
    fn the_more_specific_range_decides_the_quality_of_text() {
        assert!(accepts_openmetrics("application/openmetrics-text;q=0.5,text/plain;q=0.5"));
        assert!(!accepts_openmetrics("application/openmetrics-text;q=0.5,*/*"));
        assert!(!accepts_openmetrics("application/openmetrics-text;q=0.5,text/*;q=0.6,*/*;q=0.1"));
        assert!(accepts_openmetrics("application/openmetrics-text;q=0.5,text/plain;q=0.4,*/*"));
    }

    #[test]
    fn quoted_parameters_and_odd_spaces_are_read() {
        assert!(accepts_openmetrics(
            b" Application/OpenMetrics-Text ; Version = \"1.0.0\" ; x=\"a,b;q=0\" ; Q=0.9 , text/plain;q=0.8"
        ));
    }

    #[test]
    fn a_range_with_a_broken_quality_does_not_count() {
        for quality in ["2", "1.001", "0.1234", "-1", "x", "", ".5", "1.0.0"] {
            assert!(!accepts_openmetrics(format!("application/openmetrics-text;q={quality}")), "{quality}");
        }
        assert!(!accepts_openmetrics(b"\xff\xfe,;;==,\"application/openmetrics-text"));
    }
}
