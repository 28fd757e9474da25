//! Which bucket Envoy counts a value in.
//!
//! Envoy does not compare a value with the bounds. It keeps a log-linear histogram (circllhist)
//! whose bins hold the values with the same first two decimal digits: 1000 to 1099 are one bin.
//! The page's `le` counts are then sums of whole bins, up to and including the bin that the bound
//! itself falls into. A value of 1050 is therefore counted as `le="1000"`, and with a bound of
//! 1255 so is everything up to 1299. Seen on Envoy 1.40; libcircllhist does so since its change
//! "Fix above/below counting" of December 2022.

/// The lower edge of the value's bin: its first two decimal digits, the rest zeros. It is counted
/// in the first bucket whose bound is not below this.
///
/// Exact for whole numbers, which is all that Envoy records.
#[must_use]
pub(crate) fn lower_edge(value: u64) -> f64 {
    let mut scale = 1;
    while value / scale >= 100 {
        scale *= 10;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "two digits and a power of ten: the nearest double is what Envoy computes with"
    )]
    let edge = (value / scale * scale) as f64;
    edge
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy 1.40 did with these values under these bounds, read off its
    /// `/stats/prometheus` one request at a time.
    #[test]
    fn buckets_are_those_of_envoy() {
        const BOUNDS: [f64; 14] = [
            0.5,
            1.0,
            5.0,
            10.0,
            25.0,
            50.0,
            100.0,
            125.0,
            250.0,
            500.0,
            1000.0,
            1255.0,
            2500.0,
            f64::INFINITY,
        ];
        for (value, counted) in [
            (0, 0.5),
            (1, 1.0),
            (5, 5.0),
            (6, 10.0),
            (10, 10.0),
            (11, 25.0),
            (25, 25.0),
            (26, 50.0),
            (99, 100.0),
            (100, 100.0),
            (109, 100.0),
            (110, 125.0),
            (124, 125.0),
            (250, 250.0),
            (259, 250.0),
            (260, 500.0),
            (999, 1000.0),
            (1000, 1000.0),
            (1099, 1000.0),
            (1100, 1255.0),
            (1199, 1255.0),
            (1200, 1255.0),
            (1299, 1255.0),
            (1300, 2500.0),
            (2500, 2500.0),
            (2600, f64::INFINITY),
        ] {
            let bucket = BOUNDS.iter().find(|bound| **bound >= lower_edge(value));
            assert_eq!(bucket, Some(&counted), "{value}");
        }
    }

    #[test]
    fn the_largest_value_has_an_edge() {
        assert_eq!(lower_edge(u64::MAX), 1.8e19);
    }
}
