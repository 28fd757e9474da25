//! What a bench prints and writes.

use super::measure::Series;
use serde::Serialize;
use std::fmt;

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Unit of `median`, `min` and `max`.
    pub unit: &'static str,
    /// Over the rounds.
    pub median: f64,
    /// Over the rounds.
    pub min: f64,
    /// Over the rounds.
    pub max: f64,
    /// Against the baseline of the same run: the median of each round's own ratio.
    pub ratio: Option<f64>,
    /// Upper bound of `ratio`.
    pub target: Option<f64>,
}

impl Row {
    /// A figure with nothing to compare it with.
    pub(super) fn new(name: impl Into<String>, unit: &'static str, series: &Series) -> Self {
        let (median, min, max) = (series.median(), series.min(), series.max());
        Self { name: name.into(), unit, median, min, max, ratio: None, target: None }
    }

    /// Against another figure of the same rounds.
    pub(super) fn against(mut self, series: &Series, baseline: &Series) -> Self {
        self.ratio =
            Some(series.zip(baseline, |value, base| value / base).median()).filter(|ratio| ratio.is_finite());
        self
    }

    /// With an upper bound of the ratio.
    pub(super) const fn target(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }
}

/// The figures of one bench.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Table {
    /// In the order in which they are printed.
    pub rows: Vec<Row>,
    /// What is to be known with them.
    pub notes: Vec<String>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max(4);
        writeln!(
            f,
            "{:width$}  {:<7} {:>10} {:>10} {:>10} {:>8}  target",
            "what", "unit", "median", "min", "max", "ratio"
        )?;
        for row in &self.rows {
            let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            let target = match (row.target, row.ratio) {
                (Some(target), Some(ratio)) if ratio <= target => format!("<= {target} met"),
                (Some(target), _) => format!("<= {target} MISSED"),
                (None, _) => "-".to_owned(),
            };
            let [median, min, max] = [row.median, row.min, row.max].map(shown);
            writeln!(
                f,
                "{:width$}  {:<7} {median:>10} {min:>10} {max:>10} {ratio:>8}  {target}",
                row.name, row.unit
            )?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

fn shown(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn the_ratio_is_taken_within_each_round() {
        let (base, value) = (series(&[10.0, 20.0, 40.0]), series(&[11.0, 26.0, 48.0]));
        let row = Row::new("a", "us", &value).against(&value, &base).target(1.25);
        assert_eq!((row.median, row.min, row.max), (26.0, 11.0, 48.0));
        assert_eq!((row.ratio, row.target), (Some(1.2), Some(1.25)));
    }

    #[test]
    fn a_row_is_written_with_null_where_there_is_nothing_to_compare() {
        let row = Row::new("host calls", "calls", &series(&[7.0]));
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"name":"host calls","unit":"calls","median":7.0,"min":7.0,"max":7.0,"ratio":null,"target":null}"#
        );
    }

    #[test]
    fn a_missed_target_and_one_without_a_ratio_are_shown_as_missed() {
        let (base, value) = (series(&[1.0]), series(&[2.0]));
        let rows = vec![
            Row::new("a", "us", &value).against(&value, &base).target(2.0),
            Row::new("b", "us", &value).against(&value, &base).target(1.5),
            Row::new("c", "us", &value).against(&value, &series(&[0.0])).target(1.5),
        ];
        let text = Table { rows, notes: Vec::new() }.to_string();
        let lines: Vec<_> = text.lines().skip(1).map(|line| line.rsplit("  ").next().unwrap()).collect();
        assert_eq!(lines, ["<= 2 met", "<= 1.5 MISSED", "<= 1.5 MISSED"]);
    }
}
