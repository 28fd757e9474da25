//! Names of span and resource attributes.
//!
//! What OpenTelemetry's semantic conventions name is written under their names; the rest stands
//! under `meshweft.` and `istio.`.

/// [`crate::Hop`] of the span.
pub const HOP: &str = "meshweft.hop";
/// [`crate::Evidence`] of the link to the parent.
pub const LINK_EVIDENCE: &str = "meshweft.link.evidence";
/// Confidence of that link, 0 to 1.
pub const LINK_CONFIDENCE: &str = "meshweft.link.confidence";

/// How a proxy came by the request's context: `wire`, `agent` or `new`.
pub const CONTEXT_ORIGIN: &str = "meshweft.context.origin";
/// Downstream remote `ip:port` of the proxy: who connected to it.
pub const SOURCE: &str = "meshweft.source.address";
/// Downstream local `ip:port` of the proxy: whom the client meant to reach (the original
/// destination, under redirection).
pub const DESTINATION: &str = "meshweft.destination.address";
/// Local `ip:port` of the proxy's upstream connection.
pub const UPSTREAM_LOCAL: &str = "meshweft.upstream.local_address";
/// Remote `ip:port` of the proxy's upstream connection.
pub const UPSTREAM: &str = "meshweft.upstream.address";
/// The proxy's id of the downstream connection.
pub const CONNECTION_ID: &str = "meshweft.connection.id";
/// Which request of its connection this was, counted from 1. Absent where it is not known.
pub const CONNECTION_ORDINAL: &str = "meshweft.connection.ordinal";
/// `x-request-id`.
pub const REQUEST_ID: &str = "meshweft.request.id";
/// Request size as the proxy counts it, in bytes, headers included.
pub const REQUEST_TOTAL_SIZE: &str = "meshweft.request.total_size";
/// Response size as the proxy counts it, in bytes, headers included.
pub const RESPONSE_TOTAL_SIZE: &str = "meshweft.response.total_size";
/// Envoy's response flags, in their short form (`UH`, `DC`, ...; `-` for none).
pub const RESPONSE_FLAGS: &str = "meshweft.response.flags";
/// Envoy's response code details.
pub const RESPONSE_CODE_DETAILS: &str = "meshweft.response.code_details";
/// `true` where the proxy had no duration of the request (its stream never finished), so that the
/// span ends when the proxy logged it.
pub const DURATION_ESTIMATED: &str = "meshweft.duration.estimated";
/// Prefix of the attributes that carry a label of Istio's standard metrics, for example
/// `istio.destination_workload`.
pub const ISTIO_LABEL_PREFIX: &str = "istio.";

/// Resource: Envoy's node id, for example `sidecar~10.0.0.7~orders-0.shop~shop.svc.cluster.local`.
pub const PROXY_ID: &str = "meshweft.proxy.id";

/// OpenTelemetry: `service.name` (resource).
pub const SERVICE_NAME: &str = "service.name";
/// OpenTelemetry: `service.namespace` (resource).
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// OpenTelemetry: `service.version` (resource).
pub const SERVICE_VERSION: &str = "service.version";
/// OpenTelemetry: `process.pid` (resource).
pub const PROCESS_PID: &str = "process.pid";
/// OpenTelemetry: `process.executable.name` (resource).
pub const PROCESS_EXECUTABLE_NAME: &str = "process.executable.name";
/// OpenTelemetry: `http.request.method`.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// OpenTelemetry: `http.request.method_original`.
pub const HTTP_REQUEST_METHOD_ORIGINAL: &str = "http.request.method_original";
/// OpenTelemetry: `http.response.status_code`.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// OpenTelemetry: `http.request.body.size`.
pub const HTTP_REQUEST_BODY_SIZE: &str = "http.request.body.size";
/// OpenTelemetry: `http.response.body.size`.
pub const HTTP_RESPONSE_BODY_SIZE: &str = "http.response.body.size";
/// OpenTelemetry: `url.path`.
pub const URL_PATH: &str = "url.path";
/// OpenTelemetry: `url.scheme`.
pub const URL_SCHEME: &str = "url.scheme";
/// OpenTelemetry: `url.full` (client spans), without its query.
pub const URL_FULL: &str = "url.full";
/// OpenTelemetry: `server.address`.
pub const SERVER_ADDRESS: &str = "server.address";
/// OpenTelemetry: `server.port`.
pub const SERVER_PORT: &str = "server.port";
/// OpenTelemetry: `client.address`.
pub const CLIENT_ADDRESS: &str = "client.address";
/// OpenTelemetry: `network.peer.address`.
pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
/// OpenTelemetry: `network.peer.port`.
pub const NETWORK_PEER_PORT: &str = "network.peer.port";
/// OpenTelemetry: `network.protocol.version`.
pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";
/// OpenTelemetry: `user_agent.original`.
pub const USER_AGENT_ORIGINAL: &str = "user_agent.original";
/// OpenTelemetry: `error.type`.
pub const ERROR_TYPE: &str = "error.type";
/// OpenTelemetry: `rpc.grpc.status_code`.
pub const RPC_GRPC_STATUS_CODE: &str = "rpc.grpc.status_code";
