//! Sample values.

/// The value of a sample, with its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<'p> {
    text: &'p str,
    value: f64,
}

impl<'p> Number<'p> {
    /// Parses a value. `None` also for digits that overflow a double: Prometheus refuses a whole
    /// page for one of them.
    pub(crate) fn parse(text: &'p str) -> Option<Self> {
        // What `f64` parses is exactly `number` of OpenMetrics' ABNF: no hex, no underscores.
        let value: f64 = text.parse().ok()?;
        let digits = text.bytes().any(|byte| byte.is_ascii_digit());
        (value.is_finite() || !digits).then_some(Self { text, value })
    }

    pub(crate) fn value(&self) -> f64 {
        self.value
    }

    /// Whether this can be a count: whole, not negative.
    pub(crate) fn is_count(&self) -> bool {
        self.value >= 0.0 && self.value.fract() == 0.0
    }

    /// How it is written: as it was read, but for the one spelling of NaN and infinities.
    pub(crate) fn text(&self) -> &'p str {
        if self.value.is_nan() {
            "NaN"
        } else if self.value == f64::INFINITY {
            "+Inf"
        } else if self.value == f64::NEG_INFINITY {
            "-Inf"
        } else {
            self.text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_text() {
        for (text, written) in [
            ("1", "1"),
            ("+1.50", "+1.50"),
            ("-0", "-0"),
            ("1E+06", "1E+06"),
            ("1.", "1."),
            ("1e-999", "1e-999"),
            ("nan", "NaN"),
            ("Inf", "+Inf"),
            ("-inf", "-Inf"),
        ] {
            assert_eq!(Number::parse(text).unwrap().text(), written);
        }
    }

    #[test]
    fn what_prometheus_refuses_is_no_number() {
        for text in ["", "x", "0x10", "1_0", "1e999", "-1e999", "1e", ".", "1 ", "١"] {
            assert!(Number::parse(text).is_none(), "{text:?}");
        }
    }
}
