//! `sampling`: which traces are kept. The samplers of the OpenTelemetry SDK specification.

use meshweft_telemetry::{TraceId, sampling};
use serde::{Deserialize, Serialize};

/// A sampler by its name in `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerName {
    /// Every span.
    AlwaysOn,
    /// No span.
    AlwaysOff,
    /// A share of the traces, by trace id.
    #[serde(rename = "traceidratio")]
    TraceIdRatio,
    /// What the parent decided; every trace that starts here.
    #[default]
    #[serde(rename = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    /// What the parent decided; no trace that starts here.
    #[serde(rename = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    /// What the parent decided; a share of the traces that start here.
    #[serde(rename = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

impl SamplerName {
    /// The sampler with this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "always_on" => Self::AlwaysOn,
            "always_off" => Self::AlwaysOff,
            "traceidratio" => Self::TraceIdRatio,
            "parentbased_always_on" => Self::ParentBasedAlwaysOn,
            "parentbased_always_off" => Self::ParentBasedAlwaysOff,
            "parentbased_traceidratio" => Self::ParentBasedTraceIdRatio,
            _ => return None,
        })
    }
}

/// The section `sampling`.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// The sampler. Default `parentbased_always_on`. Environment: `OTEL_TRACES_SAMPLER`.
    pub sampler: SamplerName,
    /// Share of the traces that the ratio samplers keep, 0 to 1. Default 1. Environment:
    /// `OTEL_TRACES_SAMPLER_ARG`.
    pub ratio: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { sampler: SamplerName::default(), ratio: 1.0 }
    }
}

impl Sampling {
    /// Whether a span is kept. `parent` is the decision that arrived with its context: `None` for
    /// a trace that starts here, `Some(true)` for a span that its sender already sampled.
    #[must_use]
    pub fn keeps(&self, trace_id: TraceId, parent: Option<bool>) -> bool {
        match self.sampler {
            SamplerName::AlwaysOn => true,
            SamplerName::AlwaysOff => false,
            SamplerName::TraceIdRatio => sampling::keeps(trace_id, self.ratio),
            SamplerName::ParentBasedAlwaysOn => parent.unwrap_or(true),
            SamplerName::ParentBasedAlwaysOff => parent.unwrap_or(false),
            SamplerName::ParentBasedTraceIdRatio => {
                parent.unwrap_or_else(|| sampling::keeps(trace_id, self.ratio))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshweft_telemetry::id::IdGenerator;

    #[test]
    fn a_ratio_keeps_its_share_and_parents_decide_before_it() {
        let sampling = Sampling { sampler: SamplerName::ParentBasedTraceIdRatio, ratio: 0.25 };
        let mut ids = IdGenerator::new(1);
        let kept = (0..10_000).filter(|_| sampling.keeps(ids.trace_id(), None)).count();
        assert!((2_300..2_700).contains(&kept), "{kept}");
        let id = ids.trace_id();
        assert!(sampling.keeps(id, Some(true)));
        assert!(!sampling.keeps(id, Some(false)));
    }

    #[test]
    fn the_ends_of_the_range_keep_all_and_nothing() {
        let mut ids = IdGenerator::new(2);
        for _ in 0..1_000 {
            let id = ids.trace_id();
            assert!(Sampling { sampler: SamplerName::TraceIdRatio, ratio: 1.0 }.keeps(id, None));
            assert!(!Sampling { sampler: SamplerName::TraceIdRatio, ratio: 0.0 }.keeps(id, None));
        }
    }
}
