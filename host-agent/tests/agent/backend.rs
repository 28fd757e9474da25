//! An OTLP server that does as it is told.

use crate::running::until;
use crate::spans;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What the next request is answered.
#[derive(Clone)]
pub(crate) enum Script {
    /// So many spans are rejected.
    Partial(i64),
    /// An HTTP status, with Retry-After.
    Http(u16, Option<&'static str>),
    /// A gRPC status.
    Grpc(tonic::Status),
    /// Nothing, ever.
    Silence,
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Script>>,
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    headers: Mutex<Vec<http::HeaderMap>>,
}

impl State {
    async fn answer(&self, request: ExportTraceServiceRequest) -> Result<ExportTraceServiceResponse, Script> {
        let next = self.script.lock().unwrap().pop_front();
        let rejected_spans = match next {
            Some(Script::Silence) => std::future::pending().await,
            Some(Script::Partial(rejected)) => rejected,
            Some(refusal) => return Err(refusal),
            None => 0,
        };
        self.requests.lock().unwrap().push(request);
        let error_message = "too old".to_owned();
        let partial = ExportTracePartialSuccess { rejected_spans, error_message };
        Ok(ExportTraceServiceResponse { partial_success: (rejected_spans > 0).then_some(partial) })
    }
}

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Backend {
    /// An OTLP/HTTP server.
    pub(crate) async fn http(script: impl IntoIterator<Item = Script>) -> Self {
        Self::http_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(crate) async fn http_at(address: SocketAddr, script: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = state(script);
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve_http(Arc::clone(&state), request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // The agent may close at any time.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// An OTLP/gRPC server, whose gRPC is tonic's.
    pub(crate) async fn grpc(script: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = state(script);
        let service = TraceServiceServer::new(Grpc(Arc::clone(&state)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(service.clone());
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// Numbers of the spans that were taken, in order.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let requests = self.state.requests.lock().unwrap();
        let mut numbers: Vec<_> = requests.iter().flat_map(spans::numbers).collect();
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Headers of the requests that came, of OTLP/HTTP.
    pub(crate) fn headers(&self) -> Vec<http::HeaderMap> {
        self.state.headers.lock().unwrap().clone()
    }

    pub(crate) async fn wait_for(&self, spans: usize) {
        until("the export", || self.numbers().len() >= spans).await;
    }
}

fn state(script: impl IntoIterator<Item = Script>) -> Arc<State> {
    Arc::new(State { script: Mutex::new(script.into_iter().collect()), ..State::default() })
}

async fn serve_http(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    assert_eq!(head.uri.path(), "/v1/traces");
    assert_eq!(head.headers["content-type"], "application/x-protobuf");
    let mut body = body.collect().await.unwrap().to_bytes().to_vec();
    if head.headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
        body = plain;
    }
    state.headers.lock().unwrap().push(head.headers);
    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    let response = Response::builder().header("content-type", "application/x-protobuf");
    Ok(match state.answer(request).await {
        Ok(answer) => response.body(Full::new(answer.encode_to_vec().into())).unwrap(),
        Err(Script::Http(status, after)) => {
            let response = response.status(status);
            let response = match after {
                Some(after) => response.header("retry-after", after),
                None => response,
            };
            response.body(Full::default()).unwrap()
        }
        Err(_) => panic!("not an answer of HTTP"),
    })
}

struct Grpc(Arc<State>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        match self.0.answer(request.into_inner()).await {
            Ok(answer) => Ok(tonic::Response::new(answer)),
            Err(Script::Grpc(status)) => Err(status),
            Err(_) => panic!("not an answer of gRPC"),
        }
    }
}
