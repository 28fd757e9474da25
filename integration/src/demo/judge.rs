//! Truth: each request carries its number in its path, so that its spans tell where they belong.

use super::sink::Seen;
use std::collections::{HashMap, HashSet};

/// One span that each request must have: its hop, its `service.name`, and its path before the
/// number. Each is the parent of the next.
pub type Step<'a> = (&'a str, &'a str, &'a str);

/// The chain of the demo: gateway, then three services.
pub const CHAIN: [Step<'_>; 11] = [
    ("mesh.gateway", "gateway", "/checkout/"),
    ("mesh.inbound", "storefront", "/checkout/"),
    ("app.server", "storefront", "/checkout/"),
    ("app.client", "storefront", "/orders/"),
    ("mesh.outbound", "storefront", "/orders/"),
    ("mesh.inbound", "orders", "/orders/"),
    ("app.server", "orders", "/orders/"),
    ("app.client", "orders", "/stock/"),
    ("mesh.outbound", "orders", "/stock/"),
    ("mesh.inbound", "stock", "/stock/"),
    ("app.server", "stock", "/stock/"),
];

/// What the spans amount to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Requests with each span of the chain just once, all in one trace, each under the one before.
    pub complete: u64,
    /// Spans whose parent is another span than it should be, or that have one and should not.
    pub wrong_parent: u64,
    /// What is wrong with the first requests that are not complete.
    pub complaints: Vec<String>,
}

/// Complaints that are kept.
const MAX_COMPLAINTS: usize = 10;

/// Judges the requests with these numbers.
#[must_use]
pub fn judge(spans: &[Seen], chain: &[Step<'_>], numbers: impl Iterator<Item = u64>) -> Verdict {
    let mut by_step: HashMap<Step<'_>, Vec<&Seen>> = HashMap::new();
    for span in spans {
        by_step.entry((&span.hop, &span.service, &span.path)).or_default().push(span);
    }
    let mut verdict = Verdict::default();
    for number in numbers {
        let complaint = judge_one(&by_step, chain, number, &mut verdict.wrong_parent);
        match complaint {
            None => verdict.complete += 1,
            Some(complaint) if verdict.complaints.len() < MAX_COMPLAINTS => {
                verdict.complaints.push(complaint);
            }
            Some(_) => {}
        }
    }
    verdict
}

fn judge_one(
    by_step: &HashMap<Step<'_>, Vec<&Seen>>,
    chain: &[Step<'_>],
    number: u64,
    wrong_parent: &mut u64,
) -> Option<String> {
    let mut complaint = None;
    let mut above: Option<&Seen> = None;
    let mut above_known = true;
    let mut traces = HashSet::new();
    for (hop, service, prefix) in chain {
        let path = format!("{prefix}{number}");
        let found = by_step.get(&(*hop, *service, path.as_str())).map_or(&[][..], Vec::as_slice);
        let &[span] = found else {
            complaint.get_or_insert(format!("{hop} {service} {path}: {} spans instead of one", found.len()));
            (above, above_known) = (None, false);
            continue;
        };
        traces.insert(&span.trace);
        let parent = above.map(|above| above.span.as_slice()).unwrap_or_default();
        if above_known && span.parent != parent {
            complaint.get_or_insert(format!(
                "{hop} {service} {path}: wrong parent (evidence {:?})",
                span.evidence
            ));
            // A parent that is missing is a gap; one that is another is a lie.
            *wrong_parent += u64::from(!span.parent.is_empty());
        }
        (above, above_known) = (Some(span), true);
    }
    if traces.len() > 1 {
        complaint.get_or_insert(format!("number {number}: {} traces instead of one", traces.len()));
    }
    complaint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64) -> Vec<Seen> {
        let id = |step: usize| vec![u8::try_from(step + 1).unwrap(); 8];
        CHAIN
            .iter()
            .enumerate()
            .map(|(step, (hop, service, prefix))| Seen {
                trace: vec![u8::try_from(number).unwrap(); 16],
                span: id(step),
                parent: if step == 0 { Vec::new() } else { id(step - 1) },
                hop: (*hop).to_owned(),
                service: (*service).to_owned(),
                path: format!("{prefix}{number}"),
                ..Seen::default()
            })
            .collect()
    }

    fn judge_changed(change: impl FnOnce(&mut Vec<Seen>)) -> Verdict {
        let mut spans = request(1);
        change(&mut spans);
        judge(&spans, &CHAIN, 1..2)
    }

    #[test]
    fn a_whole_chain_is_complete() {
        let verdict = judge_changed(|_| {});
        assert_eq!((verdict.complete, verdict.wrong_parent), (1, 0));
    }

    #[test]
    fn what_is_missing_twice_split_or_misplaced_is_not() {
        type Change = fn(&mut Vec<Seen>);
        let changes: [(Change, u64); 5] = [
            (|spans| drop(spans.remove(3)), 0),
            (|spans| spans.push(spans[3].clone()), 0),
            (|spans| spans[5].trace = vec![9; 16], 0),
            (|spans| spans[5].parent = Vec::new(), 0),
            (|spans| spans[5].parent = vec![1; 8], 1),
        ];
        for (index, (change, wrong)) in changes.into_iter().enumerate() {
            let verdict = judge_changed(change);
            assert_eq!((verdict.complete, verdict.wrong_parent), (0, wrong), "change {index}");
            assert_eq!(verdict.complaints.len(), 1, "change {index}");
        }
    }
}
