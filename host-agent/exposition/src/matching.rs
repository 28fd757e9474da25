//! A request's labels to the one series that counted it.
//!
//! A request knows some labels, a series has some; those that both have must be equal. What a
//! request does not know, and what a series does not have (the Telemetry API can take labels
//! away), constrains nothing. Istio prints what it does not know as `unknown` or as nothing at
//! all; the two are taken for the same value, and for no other.
//!
//! Comparing each request with each series would be slow and, on a hostile page, endless. So the
//! requests are sorted by which labels they know, the series by which they have. For one such pair
//! of shapes the labels in common are fixed: the series are hashed by those, and each request is
//! one look-up.

use std::collections::hash_map::Entry;

use crate::fingerprint::{Fingerprint, FingerprintMap, Keys};
use crate::series::Series;

/// Most labels of a request. Istio's standard metrics have 25.
const MAX_REQUEST_LABELS: usize = 64;
/// Longest name of a request's label, in bytes. The longest of Istio's has 30.
const MAX_NAME_BYTES: usize = 128;
/// Most combinations of labels that requests know at a time. One proxy's requests differ in whether
/// the peer is known and whether they are gRPC, which makes a handful.
const MAX_REQUEST_SHAPES: usize = 16;
/// Most combinations of labels that the series of one metric have. It is one, or two while a
/// change of the Telemetry API takes effect.
const MAX_SERIES_SHAPES: usize = 16;

/// The distinct label sets of the requests that wait for a scrape.
#[derive(Debug, Default)]
pub(crate) struct LabelSets {
    sets: FingerprintMap<Fingerprint, LabelSet>,
    shapes: [Shape; MAX_REQUEST_SHAPES],
}

/// Names a label set, as long as it is not released as often as it was interned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SetKey(Fingerprint);

#[derive(Debug)]
struct LabelSet {
    shape: usize,
    /// Fingerprint of each label, in the order of the shape's names.
    labels: Box<[Fingerprint]>,
    uses: usize,
}

#[derive(Debug, Default)]
struct Shape {
    /// Ascending.
    names: Vec<Box<str>>,
    /// Sets of this shape.
    uses: usize,
}

impl LabelSets {
    /// Takes a set in. `None` where it has too many labels, too long names, or a label twice; or
    /// where too many sets of other shapes are there.
    pub(crate) fn intern(&mut self, keys: &Keys, labels: Vec<(Box<str>, Box<str>)>) -> Option<SetKey> {
        if labels.len() > MAX_REQUEST_LABELS || labels.iter().any(|(name, _)| name.len() > MAX_NAME_BYTES) {
            return None;
        }
        let mut labels: Vec<(Box<str>, Fingerprint)> = labels
            .into_iter()
            .map(|(name, value)| {
                let label = compared(keys, &name, &value);
                (name, label)
            })
            .collect();
        let key = labels.iter().fold(Fingerprint::ZERO, |sum, (_, label)| sum + *label);
        if let Some(set) = self.sets.get_mut(&key) {
            set.uses += 1;
            return Some(SetKey(key));
        }
        labels.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let (names, labels): (Vec<_>, Vec<_>) = labels.into_iter().unzip();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return None;
        }
        let is_same = |shape: &Shape| shape.uses > 0 && shape.names == names;
        let index = self
            .shapes
            .iter()
            .position(is_same)
            .or_else(|| self.shapes.iter().position(|shape| shape.uses == 0))?;
        let shape = self.shapes.get_mut(index)?;
        shape.names = names;
        shape.uses += 1;
        self.sets.insert(key, LabelSet { shape: index, labels: labels.into(), uses: 1 });
        Some(SetKey(key))
    }

    /// Gives one use of a set back.
    pub(crate) fn release(&mut self, key: SetKey) {
        let Entry::Occupied(mut set) = self.sets.entry(key.0) else {
            return;
        };
        set.get_mut().uses -= 1;
        if set.get().uses == 0 {
            let set = set.remove();
            if let Some(shape) = self.shapes.get_mut(set.shape) {
                shape.uses -= 1;
            }
        }
    }
}

/// How many series a label set fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    None,
    /// The one with this index.
    One(usize),
    Several,
}

impl Match {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, found) | (found, Self::None) => found,
            _ => Self::Several,
        }
    }
}

/// For each label set the series that it fits.
#[derive(Debug)]
pub(crate) struct Matches(FingerprintMap<Fingerprint, Match>);

impl Matches {
    pub(crate) fn find(keys: &Keys, sets: &LabelSets, series: &[Series<'_, '_>]) -> Self {
        let mut found: FingerprintMap<Fingerprint, Match> = FingerprintMap::default();
        let Some(groups) = group_by_names(keys, series) else {
            // Some series were not looked at, so nothing can be said to fit one alone.
            found.extend(sets.sets.keys().map(|key| (*key, Match::Several)));
            return Self(found);
        };
        let mut of_shape: [Vec<(Fingerprint, &LabelSet)>; MAX_REQUEST_SHAPES] = Default::default();
        for (key, set) in &sets.sets {
            if let Some(of_shape) = of_shape.get_mut(set.shape) {
                of_shape.push((*key, set));
            }
        }
        for (shape, sets) in sets.shapes.iter().zip(of_shape) {
            if sets.is_empty() {
                continue;
            }
            for group in &groups {
                let common = Common::of(&shape.names, &group.names);
                let mut index: FingerprintMap<Fingerprint, Match> = FingerprintMap::default();
                for (member, labels) in group.rows() {
                    let shared = sum_of(labels, &common.of_series);
                    let found = index.entry(shared).or_insert(Match::None);
                    *found = found.and(Match::One(member));
                }
                for (key, set) in &sets {
                    let shared = sum_of(&set.labels, &common.of_request);
                    let hit = index.get(&shared).copied().unwrap_or(Match::None);
                    let found = found.entry(*key).or_insert(Match::None);
                    *found = found.and(hit);
                }
            }
        }
        Self(found)
    }

    pub(crate) fn get(&self, key: SetKey) -> Match {
        self.0.get(&key.0).copied().unwrap_or(Match::None)
    }
}

/// Series that have the same labels.
struct Group<'p> {
    /// Ascending.
    names: Vec<&'p str>,
    /// Indices of the series.
    members: Vec<usize>,
    /// For each member, the fingerprints of its labels in the order of the names.
    labels: Vec<Fingerprint>,
}

impl Group<'_> {
    fn rows(&self) -> impl Iterator<Item = (usize, &[Fingerprint])> {
        let width = self.names.len();
        self.members.iter().enumerate().map(move |(row, member)| {
            let start = row * width;
            let labels = self.labels.get(start..start + width);
            (*member, labels.unwrap_or_default())
        })
    }
}

/// `None` where there are more than [`MAX_SERIES_SHAPES`] groups.
fn group_by_names<'p>(keys: &Keys, series: &[Series<'_, 'p>]) -> Option<Vec<Group<'p>>> {
    let mut groups: Vec<Group<'p>> = Vec::new();
    let mut labels: Vec<(&'p str, Fingerprint)> = Vec::new();
    for (member, series) in series.iter().enumerate() {
        labels.clear();
        labels.extend(series.labels().map(|(name, value)| (name, compared(keys, name, &value))));
        labels.sort_unstable_by_key(|(name, _)| *name);
        let names = labels.iter().map(|(name, _)| *name);
        let group = match groups.iter_mut().position(|group| group.names.iter().copied().eq(names.clone())) {
            Some(found) => groups.get_mut(found),
            None if groups.len() == MAX_SERIES_SHAPES => None,
            None => {
                groups.push(Group { names: names.collect(), members: Vec::new(), labels: Vec::new() });
                groups.last_mut()
            }
        }?;
        group.members.push(member);
        group.labels.extend(labels.iter().map(|(_, label)| *label));
    }
    Some(groups)
}

/// Where the names that two shapes have in common stand in each.
#[derive(Default)]
struct Common {
    of_request: Vec<usize>,
    of_series: Vec<usize>,
}

impl Common {
    fn of(request: &[Box<str>], series: &[&str]) -> Self {
        let mut common = Self::default();
        for (in_request, name) in request.iter().enumerate() {
            if let Ok(in_series) = series.binary_search(&&**name) {
                common.of_request.push(in_request);
                common.of_series.push(in_series);
            }
        }
        common
    }
}

fn sum_of(labels: &[Fingerprint], indices: &[usize]) -> Fingerprint {
    indices.iter().filter_map(|index| labels.get(*index)).fold(Fingerprint::ZERO, |sum, label| sum + *label)
}

/// Fingerprint by which labels of requests and series are compared.
fn compared(keys: &Keys, name: &str, value: &str) -> Fingerprint {
    keys.label(name, if value.is_empty() { "unknown" } else { value })
}
