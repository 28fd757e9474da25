//! Finds code and links in Markdown, as far as the check of documents needs them.

/// What a document names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mention<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A code span of one word.
    Code,
    /// A word of a block of code or of a longer code span.
    Word,
    /// The target of a link or picture.
    Link,
    /// What follows `cargo xtask`.
    Subcommand,
}

/// All mentions, in the document's order.
pub(super) fn mentions(document: &str) -> Vec<Mention<'_>> {
    let mut found = Vec::new();
    // The fence that opened the current block of code.
    let mut fence = None;
    for (index, text) in document.lines().enumerate() {
        let line = index + 1;
        let mark = fence_of(text);
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            (Some(open), Some(mark)) if mark == open => fence = None,
            (Some(_), _) => words(line, text, &mut found),
            (None, None) => prose(line, text, &mut found),
        }
    }
    found
}

/// "A code fence is a sequence of at least three consecutive backtick characters or tildes"
/// (CommonMark 0.31.2, section 4.5). Longer fences count as three here.
fn fence_of(line: &str) -> Option<&'static str> {
    let line = line.trim_start();
    ["```", "~~~"].into_iter().find(|fence| line.starts_with(fence))
}

fn prose<'a>(line: usize, text: &'a str, found: &mut Vec<Mention<'a>>) {
    let mut rest = text;
    while let Some(at) = rest.find(['`', ']']) {
        let (_, from) = rest.split_at(at);
        if let Some(link) = from.strip_prefix("](") {
            let end = link.find([')', ' ']).unwrap_or(link.len());
            let (target, behind) = link.split_at(end);
            found.push(Mention { line, kind: Kind::Link, text: target });
            rest = behind;
        } else if from.starts_with('`') {
            // A span ends with as many backticks as it begins with.
            let ticks = from.len() - from.trim_start_matches('`').len();
            let (mark, inner) = from.split_at(ticks);
            let Some(end) = inner.find(mark) else {
                rest = inner;
                continue;
            };
            let (code, behind) = inner.split_at(end);
            let code = code.trim();
            if code.contains(char::is_whitespace) {
                words(line, code, found);
            } else {
                found.push(Mention { line, kind: Kind::Code, text: code });
            }
            rest = behind.get(ticks..).unwrap_or_default();
        } else {
            rest = from.get(1..).unwrap_or_default();
        }
    }
}

fn words<'a>(line: usize, text: &'a str, found: &mut Vec<Mention<'a>>) {
    let mut before = ["", ""];
    for word in text.split_whitespace() {
        let word = word.trim_matches(|c: char| "\"'(),;".contains(c));
        let is_name = word.starts_with(|c: char| c.is_ascii_lowercase());
        if before == ["cargo", "xtask"] && is_name {
            found.push(Mention { line, kind: Kind::Subcommand, text: word });
        } else {
            found.push(Mention { line, kind: Kind::Word, text: word });
        }
        before = [before[1], word];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(document: &str, kind: Kind) -> Vec<(usize, &str)> {
        mentions(document)
            .into_iter()
            .filter(|mention| mention.kind == kind)
            .map(|mention| (mention.line, mention.text))
            .collect()
    }

    #[test]
    fn code_spans_and_links_are_found_in_prose() {
        let document = "See `a/b.rs` and [`c`](d/e.md \"title\").\n![p](f.png) ``g`h``";
        assert_eq!(of(document, Kind::Code), [(1, "a/b.rs"), (1, "c"), (2, "g`h")]);
        assert_eq!(of(document, Kind::Link), [(1, "d/e.md"), (2, "f.png")]);
    }

    #[test]
    fn subcommands_are_found_in_spans_and_blocks_but_not_in_prose() {
        let document = "cargo xtask is one entry: `cargo xtask demo --once`, `cargo xtask`.\n\
                        ```sh\n$ cargo xtask lab up FILE\ncargo xtask SUBCOMMAND\n```\n";
        assert_eq!(of(document, Kind::Subcommand), [(1, "demo"), (3, "lab")]);
    }

    #[test]
    fn other_fence_inside_a_block_does_not_end_it() {
        let document = "~~~\n```\na/b\n~~~\n`c`";
        assert_eq!(of(document, Kind::Code), [(5, "c")]);
        assert!(of(document, Kind::Word).contains(&(3, "a/b")));
    }

    #[test]
    fn unbalanced_marks_are_survived() {
        for document in ["`", "a ``b`", "](", "]", "[x](y", "```", "é` ]( `é"] {
            let _ = mentions(document);
        }
    }
}
