//! Recorded conversations (`testdata/http1/`), however they are cut, give the same events.

use meshweft_protocols::http1::{Chunk, Connection, Event, Peer, UNKNOWN};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(Clone, Debug)]
enum Step {
    Call(Peer, Vec<u8>),
    End(Peer),
}

struct Conversation {
    name: String,
    steps: Vec<Step>,
    expected: String,
}

fn conversations() -> Vec<Conversation> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/http1");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    files
        .iter()
        .map(|file| {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            parse(name, &std::fs::read_to_string(file).unwrap())
        })
        .collect()
}

fn parse(name: String, text: &str) -> Conversation {
    let mut steps: Vec<Step> = Vec::new();
    let mut expected = String::new();
    for line in text.lines() {
        let (kind, rest) = line.split_at(2);
        let peer = if kind.starts_with('C') { Peer::Client } else { Peer::Server };
        match kind {
            "C>" | "S>" => steps.push(Step::Call(peer, unescape(&rest[1..]))),
            "C " | "S " => match steps.last_mut() {
                Some(Step::Call(_, bytes)) => bytes.extend(unescape(&rest[1..])),
                _ => panic!("{name}: {line} goes on with nothing"),
            },
            "en" => steps.push(Step::End(if rest == "d C" { Peer::Client } else { Peer::Server })),
            "= " => writeln!(expected, "{rest}").unwrap(),
            "# " => {}
            _ => panic!("{name}: {line}"),
        }
    }
    Conversation { name, steps, expected }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let (byte, length) = match after.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b'\\' => (b'\\', 1),
            b'x' => (u8::from_str_radix(&after[1..3], 16).unwrap(), 3),
            other => panic!("\\{}", other.escape_ascii()),
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

fn describe(events: &[Event]) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut out = String::new();
    for event in events {
        match event {
            Event::Request { ordinal, head, .. } => {
                let host = head.host.as_deref().map_or("-".to_owned(), text);
                let length = head.content_length.map_or("-".to_owned(), |length| length.to_string());
                write!(
                    out,
                    "{ordinal} {} {} HTTP/1.{} host={host} length={length}",
                    head.method,
                    text(&head.target),
                    head.minor
                )
                .unwrap();
                if let Some(context) = head.extraction.context {
                    write!(out, " trace={}", context.trace_id).unwrap();
                }
                writeln!(out)
            }
            Event::RequestEnd { ordinal, body, .. } => writeln!(out, "{ordinal} request end, body={body}"),
            Event::Response { ordinal, head, .. } => {
                let length = head.content_length.map_or("-".to_owned(), |length| length.to_string());
                writeln!(out, "{ordinal} HTTP/1.{} {} length={length}", head.minor, head.status)
            }
            Event::ResponseEnd { ordinal, body, complete, .. } => {
                writeln!(out, "{ordinal} response end, body={body} complete={complete}")
            }
            Event::Upgraded { ordinal } => writeln!(out, "{ordinal} upgraded"),
            Event::Lost { from, reason } => writeln!(out, "lost {from:?} {reason}"),
        }
        .unwrap();
    }
    out
}

/// Feeds the steps; `cut` says how many bytes of a call are captured, in which pieces.
fn play(steps: &[Step], cut: impl Fn(usize, &[u8]) -> Vec<usize>) -> Vec<Event> {
    let mut connection = Connection::new();
    let mut events = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let at = index as u64 + 1;
        match step {
            Step::Call(from, bytes) => {
                let mut start = 0;
                for end in cut(index, bytes).into_iter().chain([bytes.len()]) {
                    connection.feed(*from, Chunk { bytes: &bytes[start..end], missing: 0, at }, &mut events);
                    start = end;
                }
            }
            Step::End(from) => connection.end(Some(*from), at, &mut events),
        }
    }
    connection.end(None, steps.len() as u64 + 1, &mut events);
    events
}

fn whole(steps: &[Step]) -> Vec<Event> {
    play(steps, |_, _| Vec::new())
}

#[test]
fn each_conversation_gives_the_events_that_stand_below_it() {
    for Conversation { name, steps, expected } in conversations() {
        let found = describe(&whole(&steps));
        assert_eq!(found, expected, "{name}:\n{found}");
    }
}

#[test]
fn one_byte_reads_give_the_same_events() {
    for Conversation { name, steps, .. } in conversations() {
        assert_eq!(play(&steps, |_, bytes| (0..bytes.len()).collect()), whole(&steps), "{name}");
    }
}

#[test]
fn every_split_point_gives_the_same_events() {
    for Conversation { name, steps, .. } in conversations() {
        let expected = whole(&steps);
        for (index, step) in steps.iter().enumerate() {
            let Step::Call(_, bytes) = step else { continue };
            for split in 1..bytes.len() {
                let found = play(&steps, |call, _| if call == index { vec![split] } else { Vec::new() });
                assert_eq!(found, expected, "{name}: call {index} at byte {split}");
            }
        }
    }
}

#[test]
fn every_prefix_gives_the_first_events_and_ends_what_is_open() {
    for Conversation { name, steps, .. } in conversations() {
        let expected = whole(&steps);
        for (index, step) in steps.iter().enumerate() {
            let Step::Call(from, bytes) = step else { continue };
            for length in 0..bytes.len() {
                let mut prefix = steps[..index].to_vec();
                prefix.push(Step::Call(*from, bytes[..length].to_vec()));
                let found = whole(&prefix);
                let same =
                    found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
                // What is different, the connection's early end brought.
                for event in &found[same..] {
                    let cut_off = match event {
                        Event::RequestEnd { .. } | Event::ResponseEnd { .. } => true,
                        Event::Lost { reason, .. } => reason.as_str() == "incomplete",
                        _ => false,
                    };
                    assert!(cut_off, "{name}: call {index}, {length} bytes: {event:?}");
                }
                let count = |kind: fn(&Event) -> bool| found.iter().filter(|event| kind(event)).count();
                assert_eq!(
                    count(|event| matches!(event, Event::Request { .. })),
                    count(|event| matches!(event, Event::ResponseEnd { .. })),
                    "{name}: call {index}, {length} bytes"
                );
            }
        }
    }
}

/// Which response was taken to answer which request.
fn pairs(events: &[Event]) -> HashSet<(u64, Vec<u8>, u64, u16)> {
    let mut requests = std::collections::HashMap::new();
    let mut pairs = HashSet::new();
    for event in events {
        match event {
            Event::Request { ordinal, started, head } => {
                requests.insert(*ordinal, (*started, head.target.clone()));
            }
            Event::Response { ordinal, started, head } => {
                let (sent, target) = requests[ordinal].clone();
                pairs.insert((sent, target, *started, head.status));
            }
            _ => {}
        }
    }
    pairs
}

#[test]
fn a_call_cut_at_any_byte_never_pairs_wrongly_and_costs_two_exchanges_at_most() {
    for Conversation { name, steps, .. } in conversations() {
        let truth = pairs(&whole(&steps));
        for (index, step) in steps.iter().enumerate() {
            let Step::Call(_, bytes) = step else { continue };
            for captured in 0..bytes.len() {
                for unknown in [false, true] {
                    let mut connection = Connection::new();
                    let mut events = Vec::new();
                    for (number, step) in steps.iter().enumerate() {
                        let at = number as u64 + 1;
                        match step {
                            Step::Call(from, bytes) => {
                                let end = if number == index { captured } else { bytes.len() };
                                let missing = (bytes.len() - end) as u64;
                                let missing = if unknown && number == index { UNKNOWN } else { missing };
                                connection.feed(
                                    *from,
                                    Chunk { bytes: &bytes[..end], missing, at },
                                    &mut events,
                                );
                            }
                            Step::End(from) => connection.end(Some(*from), at, &mut events),
                        }
                    }
                    connection.end(None, 1000, &mut events);
                    let found = pairs(&events);
                    let where_ = format!("{name}: call {index}, {captured} bytes:\n{}", describe(&events));
                    assert!(found.is_subset(&truth), "{where_}");
                    let pipelined = name.contains("pipelined");
                    assert!(pipelined || truth.len() - found.len() <= 2, "{where_}");
                }
            }
        }
    }
}
