//! The question that the filter asks the node's agent: `GET /v1/context`.
//!
//! All of it stands in request headers, so that no escaping is needed; the answer too:
//! `200` with `traceparent` (and `tracestate`), or `204` where the agent knows nothing.

/// Path of the endpoint.
pub const PATH: &str = "/v1/context";
/// `ip:port` that the proxy's downstream connection comes from: the app's own end.
pub const SOURCE: &str = "x-meshweft-source";
/// `ip:port` that the app meant to reach: the app's remote end.
pub const DESTINATION: &str = "x-meshweft-destination";
/// Which request of that connection it is, counted from 1. Absent where the proxy does not know.
pub const ORDINAL: &str = "x-meshweft-ordinal";
/// `METHOD SP path`, cut after [`MAX_REQUEST_LINE`] bytes.
pub const REQUEST_LINE: &str = "x-meshweft-request";
/// Longest value of [`REQUEST_LINE`], in bytes: enough to tell two requests of one connection
/// apart, short enough for one small frame.
pub const MAX_REQUEST_LINE: usize = 256;
