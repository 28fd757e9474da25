//! Consistent probability sampling.

use crate::id::TraceId;

/// Values of the 56 random bits of a trace id (W3C Trace Context level 2, section 3.2.2.5.2).
const VALUES: f64 = (1u64 << 56) as f64;

/// Whether a trace belongs to the share `ratio` (0 to 1; beyond is cut) of all traces that is kept:
/// a threshold on the right-most seven bytes of its id, as OpenTelemetry's consistent probability
/// sampling has it, so that every participant with the same ratio decides alike.
#[must_use]
pub fn keeps(trace_id: TraceId, ratio: f64) -> bool {
    let [.., a, b, c, d, e, f, g] = trace_id.to_bytes();
    // 56 bits may be rounded to 53: the error is far below any ratio that somebody would write.
    let position = u64::from_be_bytes([0, a, b, c, d, e, f, g]) as f64;
    ratio > 0.0 && position >= (1.0 - ratio.clamp(0.0, 1.0)) * VALUES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdGenerator;

    fn id(low: u64) -> TraceId {
        TraceId::from_bytes((1u128 << 120 | u128::from(low)).to_be_bytes()).unwrap()
    }

    #[test]
    fn all_or_nothing_are_exact() {
        let mut ids = IdGenerator::new(1);
        for _ in 0..1000 {
            let trace = ids.trace_id();
            assert!(keeps(trace, 1.0) && !keeps(trace, 0.0));
        }
        assert!(keeps(id(0), 1.0));
        // The largest position rounds up to the threshold itself.
        assert!(!keeps(id((1 << 56) - 1), 0.0));
    }

    #[test]
    fn the_share_is_kept_and_is_a_part_of_every_larger_one() {
        let mut ids = IdGenerator::new(2);
        let traces: Vec<_> = (0..10_000).map(|_| ids.trace_id()).collect();
        let quarter = traces.iter().filter(|trace| keeps(**trace, 0.25)).count();
        assert!((2_300..2_700).contains(&quarter), "{quarter}");
        assert!(traces.iter().all(|trace| !keeps(*trace, 0.25) || keeps(*trace, 0.5)));
    }

    #[test]
    fn the_byte_above_is_no_part_of_the_decision() {
        assert!(!keeps(id(0xff << 56), 0.5));
        assert!(keeps(id(0xff << 48), 0.5));
    }
}
