//! One trace as text.

use super::sink::Seen;
use std::fmt::Write as _;

/// Draws the spans of a trace, each under its parent, in the order of their start.
#[must_use]
pub(super) fn draw(spans: &[Seen], trace: &[u8]) -> String {
    let mut of_trace: Vec<&Seen> = spans.iter().filter(|span| span.trace == trace).collect();
    of_trace.sort_by_key(|span| span.start);
    let is_root =
        |span: &&&Seen| span.parent.is_empty() || !of_trace.iter().any(|other| other.span == span.parent);
    let mut text = format!("trace {}\n", hex(trace));
    let roots: Vec<&Seen> = of_trace.iter().filter(is_root).copied().collect();
    for root in roots {
        branch(&of_trace, root, 0, &mut text);
    }
    text
}

fn branch(spans: &[&Seen], span: &Seen, depth: usize, text: &mut String) {
    // Deeper than any chain of services; keeps a circle, which would be a fault, from hanging this.
    const MAX_DEPTH: usize = 64;
    let indent = "  ".repeat(depth);
    let what = format!("{indent}{} {}", span.name, span.path);
    let nanos = span.end.saturating_sub(span.start);
    let evidence = match span.confidence {
        Some(confidence) => format!("{} ({confidence:.2})", span.evidence),
        None => "root".to_owned(),
    };
    let line = format!(
        "{:<14} {:<12} {what:<44} {:>9} {evidence}",
        span.hop,
        span.service,
        format!("{}.{:02} ms", nanos / 1_000_000, nanos / 10_000 % 100),
    );
    let _ = writeln!(text, "{}", line.trim_end());
    if depth < MAX_DEPTH {
        for child in spans.iter().filter(|other| other.parent == span.span) {
            branch(spans, child, depth + 1, text);
        }
    }
}

/// Lowercase hex.
#[must_use]
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_under_their_parents() {
        let span = |id: u8, parent: &[u8], start| Seen {
            trace: vec![1; 16],
            span: vec![id; 8],
            parent: parent.to_vec(),
            name: format!("s{id}"),
            start,
            ..Seen::default()
        };
        let spans = [span(3, &[1; 8], 3), span(1, &[], 1), span(2, &[1; 8], 2)];
        let drawn = draw(&spans, &[1; 16]);
        let order: Vec<usize> = ["s1", "  s2", "  s3"].iter().map(|name| drawn.find(name).unwrap()).collect();
        assert!(order.is_sorted(), "{drawn}");
    }
}
