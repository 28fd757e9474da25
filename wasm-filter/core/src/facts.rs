//! What Envoy knows of a finished stream.
//!
//! Reading one property costs a crossing of the VM's border, and a finished stream has a dozen of
//! interest. Envoy offers its expression language to modules (`expr_create` and `expr_evaluate`,
//! the functions on which Istio's own Wasm telemetry was built), and a list in that language comes
//! back in one call. Where a host lacks it, the properties are read one by one.

use crate::host::Host;
use crate::pairs::Pairs;
use core::ops::Range;

macro_rules! facts {
    ($($(#[$doc:meta])* $variant:ident = $path:literal, $usual:literal, $any:literal;)+) => {
        /// A property of a finished stream.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Fact { $($(#[$doc])* $variant,)+ }

        /// Path of each property.
        const PATHS: &[&[u8]] = &[$($path,)+];
        /// A list of all, for streams that were answered by an upstream: they have all of them.
        const USUAL: &str = concat!("[", $($usual, ",",)+ "'']");
        /// The same for any stream. What is not known is an empty string in it. Each condition
        /// looks its property up a second time, which is why this is not the only list.
        const ANY: &str = concat!("[", $($any, ",",)+ "'']");
    };
}

facts! {
    /// When the stream began, in nanoseconds since the Unix epoch.
    Time = b"request\0time", "request.time", "request.time";
    /// How long it took, in nanoseconds, as Envoy's histograms have it.
    Duration = b"request\0duration", "request.duration", "has(request.duration)?request.duration:''";
    /// Status code.
    Code = b"response\0code", "response.code", "has(response.code)?response.code:''";
    /// Response flags, as a mask.
    Flags = b"response\0flags", "response.flags", "response.flags";
    /// Response code details.
    CodeDetails = b"response\0code_details", "response.code_details",
        "has(response.code_details)?response.code_details:''";
    /// Bytes of the request, headers included.
    RequestSize = b"request\0total_size", "request.total_size", "request.total_size";
    /// Bytes of the response, headers and trailers included.
    ResponseSize = b"response\0total_size", "response.total_size", "response.total_size";
    /// Name of the upstream cluster.
    Cluster = b"xds\0cluster_name", "xds.cluster_name", "has(xds.cluster_name)?xds.cluster_name:''";
    /// Remote address of the upstream connection.
    Upstream = b"upstream\0address", "upstream.address", "has(upstream.address)?upstream.address:''";
    /// Local address of the upstream connection.
    UpstreamLocal = b"upstream\0local_address", "upstream.local_address",
        "has(upstream.local_address)?upstream.local_address:''";
    /// `traceparent` as the router sent it.
    Traceparent = b"request\0headers\0traceparent", "request.headers.traceparent",
        "has(request.headers.traceparent)?request.headers.traceparent:''";
}

const COUNT: usize = PATHS.len();

/// Reads the facts.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Tokens of the compiled expressions: the usual one, and the one for any stream.
    expressions: Option<([u8; 4], [u8; 4])>,
}

impl Reader {
    /// Compiles the expressions, where the host can.
    pub fn new(host: &impl Host) -> Self {
        let compile = |text: &str| host.function("expr_create", text.as_bytes())?.try_into().ok();
        Self { expressions: compile(USUAL).zip(compile(ANY)) }
    }

    /// The facts of the stream whose log callback runs.
    pub fn read(&mut self, host: &impl Host) -> Facts {
        if let Some((usual, any)) = self.expressions {
            let evaluate = |token: [u8; 4]| host.function("expr_evaluate", &token).and_then(Facts::from_list);
            if let Some(facts) = evaluate(usual).or_else(|| evaluate(any)) {
                return facts;
            }
            // A property that this host's language lacks will be lacking the next time too.
            self.expressions = None;
        }
        Facts::from_properties(host)
    }
}

/// The facts of one stream.
#[derive(Clone, Debug)]
pub struct Facts {
    raw: Vec<u8>,
    ranges: [Range<usize>; COUNT],
}

impl Facts {
    /// A serialized list: proxy-wasm has no form for lists, so Envoy gives each value as the name
    /// of a pair without value.
    fn from_list(raw: Vec<u8>) -> Option<Self> {
        let mut ranges: [Range<usize>; COUNT] = core::array::from_fn(|_| 0..0);
        let mut pairs = Pairs::new(&raw);
        for range in &mut ranges {
            *range = pairs.next_ranges()?.0;
        }
        Some(Self { raw, ranges })
    }

    fn from_properties(host: &impl Host) -> Self {
        let mut raw = Vec::new();
        let mut ranges: [Range<usize>; COUNT] = core::array::from_fn(|_| 0..0);
        for (range, path) in ranges.iter_mut().zip(PATHS) {
            let start = raw.len();
            raw.extend(host.property(path).unwrap_or_default());
            *range = start..raw.len();
        }
        Self { raw, ranges }
    }

    /// The bytes of a fact; empty where it is not known.
    #[must_use]
    pub fn bytes(&self, fact: Fact) -> &[u8] {
        self.ranges.get(fact as usize).and_then(|range| self.raw.get(range.clone())).unwrap_or_default()
    }

    /// A fact that is a number, a time or a duration.
    #[must_use]
    pub fn number(&self, fact: Fact) -> Option<i64> {
        number(self.bytes(fact))
    }
}

/// A number as the host serializes it.
#[must_use]
pub fn number(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(bytes.try_into().ok()?))
}

/// What Envoy returns for the expressions, for hosts of tests: an error where the usual one meets
/// a property that there is not.
#[cfg(test)]
pub(crate) fn evaluate(host: &impl Host, usual: bool) -> Option<Vec<u8>> {
    let values = PATHS.iter().map(|path| match host.property(path) {
        None if usual => None,
        value => Some((value.unwrap_or_default(), b"")),
    });
    let mut values = values.collect::<Option<Vec<_>>>()?;
    values.push((Vec::new(), b""));
    Some(crate::pairs::serialize(&values))
}

/// Whether a text is the usual expression, for hosts of tests.
#[cfg(test)]
pub(crate) fn is_usual(expression: &[u8]) -> bool {
    expression == USUAL.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::serialize;

    #[test]
    fn a_list_and_single_properties_give_the_same() {
        let host = crate::fake::FakeHost::default();
        host.set("request\0time", 5_i64.to_le_bytes());
        host.set("response\0code", 200_i64.to_le_bytes());
        host.set("upstream\0address", "10.0.0.1:80");
        let single = Facts::from_properties(&host);
        let list = Facts::from_list(evaluate(&host, false).unwrap()).unwrap();
        for facts in [single, list] {
            assert_eq!(facts.number(Fact::Time), Some(5));
            assert_eq!(facts.number(Fact::Code), Some(200));
            assert_eq!(facts.number(Fact::Duration), None);
            assert_eq!(facts.bytes(Fact::Upstream), b"10.0.0.1:80");
        }
    }

    #[test]
    fn a_list_that_is_too_short_is_none() {
        assert!(Facts::from_list(serialize(&[("a", "")])).is_none());
        assert!(Facts::from_list(Vec::new()).is_none());
    }

    #[test]
    fn a_host_that_fails_to_evaluate_is_asked_once() {
        let host = crate::fake::FakeHost::default();
        host.functions.borrow_mut().insert("expr_create".to_owned(), vec![1, 0, 0, 0]);
        let mut reader = Reader::new(&host);
        assert!(reader.expressions.is_some());
        host.set("response\0code", 204_i64.to_le_bytes());
        assert_eq!(reader.read(&host).number(Fact::Code), Some(204));
        assert!(reader.expressions.is_none());
    }
}
