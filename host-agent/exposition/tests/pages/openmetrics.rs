//! A strict reader of OpenMetrics 1.0 text: the ABNF and the MUSTs of the specification, written
//! for these tests and independent of the crate's own code.

use std::collections::{BTreeMap, HashSet};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) family: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: String,
    pub(crate) timestamp: Option<String>,
    pub(crate) exemplar: Option<Exemplar>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
    pub(crate) timestamp: Option<String>,
}

impl Sample {
    pub(crate) fn number(&self) -> f64 {
        self.value.parse().unwrap()
    }

    /// The series as Prometheus knows it: its name and the labels that are not empty.
    pub(crate) fn series(&self) -> (String, BTreeMap<String, String>) {
        let mut labels = self.labels.clone();
        labels.retain(|_, value| !value.is_empty());
        (self.name.clone(), labels)
    }
}

struct Family {
    name: String,
    kind: String,
    has_help: bool,
    samples: Vec<Sample>,
}

/// Reads an exposition, or says what is wrong with it.
pub(crate) fn check(bytes: &[u8]) -> Result<Vec<Sample>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let body = text.strip_suffix("# EOF\n").ok_or("does not end with # EOF")?;
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("# EOF is not on a line of its own".into());
    }
    let mut families: Vec<Family> = Vec::new();
    for line in body.split_terminator('\n') {
        let result = match line.strip_prefix("# ") {
            Some(descriptor) => read_descriptor(descriptor, &mut families),
            None => read_sample(line, &mut families),
        };
        result.map_err(|error| format!("{error} in {line:?}"))?;
    }
    let mut claimed = HashSet::new();
    let mut series = HashSet::new();
    for family in &families {
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["", "_total", "_created"],
            "histogram" => &["", "_bucket", "_sum", "_count", "_created"],
            "summary" => &["", "_sum", "_count", "_created"],
            _ => &[""],
        };
        for suffix in suffixes {
            if !claimed.insert(format!("{}{suffix}", family.name)) {
                return Err(format!("{}{suffix} clashes", family.name));
            }
        }
        for sample in &family.samples {
            if !series.insert(sample.series()) {
                return Err(format!("{:?} is there twice", sample.series()));
            }
        }
        check_family(family).map_err(|error| format!("{error} in family {}", family.name))?;
    }
    Ok(families.into_iter().flat_map(|family| family.samples).collect())
}

fn read_descriptor(descriptor: &str, families: &mut Vec<Family>) -> Result<(), String> {
    let mut words = descriptor.splitn(3, ' ');
    let (Some(keyword), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return Err("broken descriptor".into());
    };
    check_metric_name(name)?;
    match keyword {
        "TYPE" => {
            if !["counter", "gauge", "histogram", "summary", "unknown"].contains(&rest) {
                return Err("no such type".into());
            }
            families.push(Family {
                name: name.into(),
                kind: rest.into(),
                has_help: false,
                samples: Vec::new(),
            });
        }
        "HELP" => {
            let family = families.last_mut().ok_or("HELP before TYPE")?;
            if family.name != name || family.has_help || !family.samples.is_empty() {
                return Err("HELP out of place".into());
            }
            family.has_help = true;
            read_escaped(rest, None)?;
        }
        _ => return Err("no such descriptor".into()),
    }
    Ok(())
}

fn read_sample(line: &str, families: &mut [Family]) -> Result<(), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    check_metric_name(name)?;
    let (labels, rest) = read_labels(rest)?;
    let (sample, exemplar) = match rest.split_once(" # ") {
        Some((sample, exemplar)) => (sample, Some(exemplar)),
        None => (rest, None),
    };
    let (value, timestamp) = read_numbers(sample)?;
    let exemplar = match exemplar {
        Some(exemplar) => {
            if !exemplar.starts_with('{') {
                return Err("exemplar without labels".into());
            }
            let (labels, rest) = read_labels(exemplar)?;
            let length: usize =
                labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
            if length > 128 {
                return Err("exemplar too long".into());
            }
            let (value, timestamp) = read_numbers(rest)?;
            let value = value.parse().map_err(|_| "exemplar's value")?;
            Some(Exemplar { labels, value, timestamp })
        }
        None => None,
    };
    let family = families.last_mut().ok_or("sample before any family")?;
    family.samples.push(Sample {
        family: family.name.clone(),
        kind: family.kind.clone(),
        name: name.into(),
        labels,
        value,
        timestamp,
        exemplar,
    });
    Ok(())
}

/// ` value` or ` value timestamp`, with one blank before each.
fn read_numbers(text: &str) -> Result<(String, Option<String>), String> {
    let text = text.strip_prefix(' ').ok_or("no blank before the value")?;
    let mut words = text.split(' ');
    let value = words.next().unwrap_or_default();
    let timestamp = words.next();
    if words.next().is_some() {
        return Err("more after the timestamp".into());
    }
    let special = ["NaN", "+Inf", "-Inf"].contains(&value);
    if !special && !is_real_number(value) {
        return Err(format!("{value:?} is no number"));
    }
    if timestamp.is_some_and(|timestamp| !is_real_number(timestamp)) {
        return Err("timestamp is no number".into());
    }
    Ok((value.into(), timestamp.map(Into::into)))
}

fn is_real_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

fn read_labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return Ok((labels, text));
    };
    if let Some(rest) = rest.strip_prefix('}') {
        return Ok((labels, rest));
    }
    loop {
        let (name, behind) = rest.split_once("=\"").ok_or("label without a value")?;
        let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid
            || name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || name.starts_with("__")
        {
            return Err(format!("label name {name:?}"));
        }
        let (value, behind) = read_escaped(behind, Some('"'))?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("label {name} twice"));
        }
        match behind.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => {
                let behind = behind.strip_prefix('}').ok_or("label set is open")?;
                return Ok((labels, behind));
            }
        }
    }
}

/// `escaped-string`, up to an unescaped quote.
fn read_escaped(text: &str, end: Option<char>) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some(c @ ('\\' | '"')) => value.push(c),
                _ => return Err("no such escape".into()),
            },
            '"' if end.is_some() => return Ok((value, chars.as_str())),
            '"' => return Err("quote without escape".into()),
            _ => value.push(c),
        }
    }
    match end {
        Some(_) => Err("string is open".into()),
        None => Ok((value, "")),
    }
}

fn check_metric_name(name: &str) -> Result<(), String> {
    let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
    if !valid || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("metric name {name:?}"));
    }
    Ok(())
}

fn check_family(family: &Family) -> Result<(), String> {
    let mut ended: HashSet<BTreeMap<String, String>> = HashSet::new();
    let mut metrics: Vec<(BTreeMap<String, String>, Vec<&Sample>)> = Vec::new();
    for sample in &family.samples {
        let suffix = sample.name.strip_prefix(family.name.as_str()).ok_or("sample of another family")?;
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["", "_sum", "_count"],
            _ => &[""],
        };
        if !allowed.contains(&suffix) {
            return Err(format!("sample {}", sample.name));
        }
        if sample.exemplar.is_some() && !["_total", "_bucket"].contains(&suffix) {
            return Err("exemplar out of place".into());
        }
        let own = match (family.kind.as_str(), suffix) {
            ("histogram", "_bucket") => Some("le"),
            ("summary", "") => Some("quantile"),
            _ => None,
        };
        let (_, mut labels) = sample.series();
        if let Some(own) = own
            && labels.remove(own).is_none()
        {
            return Err(format!("{} without {own}", sample.name));
        }
        match metrics.last_mut() {
            Some((last, samples)) if *last == labels => samples.push(sample),
            _ => {
                if !ended.insert(labels.clone()) {
                    return Err("metric is interleaved".into());
                }
                metrics.push((labels, vec![sample]));
            }
        }
    }
    for (_, samples) in &metrics {
        let stamps: HashSet<_> = samples.iter().map(|sample| &sample.timestamp).collect();
        if stamps.len() > 1 {
            return Err("timestamps differ".into());
        }
        match family.kind.as_str() {
            "counter" if samples.iter().any(|sample| is_no_total(sample.number())) => {
                return Err("counter is negative or NaN".into());
            }
            "histogram" => check_histogram(samples)?,
            "summary" => check_summary(samples)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_no_total(value: f64) -> bool {
    value.is_nan() || value < 0.0
}

fn check_histogram(samples: &[&Sample]) -> Result<(), String> {
    let (mut bound, mut count) = (f64::NEG_INFINITY, 0.0);
    let mut last = "";
    let mut lowest = None;
    for bucket in samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        last = &bucket.labels["le"];
        let upper: f64 = last.parse().map_err(|_| "le is no number")?;
        if upper.is_nan() || upper <= bound && lowest.is_some() {
            return Err("bounds do not ascend".into());
        }
        if bucket.number() < count || bucket.number().fract() != 0.0 {
            return Err("counts do not ascend".into());
        }
        if let Some(exemplar) = &bucket.exemplar
            && exemplar.value > upper
        {
            return Err("exemplar beyond its bucket".into());
        }
        lowest.get_or_insert(upper);
        (bound, count) = (upper, bucket.number());
    }
    if last != "+Inf" {
        return Err("no bucket +Inf".into());
    }
    let one = |suffix: &str| {
        let mut found = samples.iter().filter(|sample| sample.name.ends_with(suffix));
        (found.next().map(|sample| sample.number()), found.count())
    };
    match (one("_sum"), one("_count")) {
        ((None, _), (None, _)) => Ok(()),
        ((Some(sum), 0), (Some(total), 0)) => {
            if is_no_total(sum) || lowest.is_some_and(|lowest| lowest < 0.0) {
                Err("sum is negative or not allowed".into())
            } else if total != count {
                Err("count differs from +Inf".into())
            } else {
                Ok(())
            }
        }
        _ => Err("sum and count are not one each".into()),
    }
}

fn check_summary(samples: &[&Sample]) -> Result<(), String> {
    for sample in samples {
        let value = sample.number();
        match sample.labels.get("quantile") {
            Some(quantile) => {
                let quantile: f64 = quantile.parse().map_err(|_| "quantile is no number")?;
                if !(0.0..=1.0).contains(&quantile) || value < 0.0 {
                    return Err("quantile out of range".into());
                }
            }
            None if is_no_total(value) => return Err("total is negative or NaN".into()),
            None => {}
        }
    }
    Ok(())
}
