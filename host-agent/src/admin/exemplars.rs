//! The exemplars of every proxy of this node, fed by what was exported.

use crate::config::Scrape;
use crate::intake::{self, ExportSpan};
use crate::metrics::Metrics;
use crate::otlp::Exported;
use meshweft_exposition::{Error, Exemplars, Limits, Request, Stats, Summary, render};
use meshweft_telemetry::{SpanId, TraceId, attributes};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

/// What waits for a proxy while its page is converted: milliseconds, so some thousand requests
/// are many.
const MAX_WAITING: usize = 4_096;

/// One [`Exemplars`] for each proxy, by the proxy's address.
pub struct ProxyExemplars {
    proxies: Mutex<Proxies>,
    limits: Limits,
    max_proxies: usize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Proxies {
    by_address: HashMap<IpAddr, Known>,
    /// Counts uses, so that the proxy that was not heard of for longest goes first.
    clock: u64,
}

struct Known {
    proxy: Arc<Proxy>,
    used: u64,
}

struct Proxy {
    exemplars: Mutex<Placed>,
    /// Requests that came while the page was converted.
    waiting: Mutex<Vec<Request>>,
}

struct Placed {
    exemplars: Exemplars,
    /// What was counted into the metrics already.
    counted: Stats,
}

impl ProxyExemplars {
    /// No proxies yet.
    #[must_use]
    pub fn new(config: &Scrape, metrics: Arc<Metrics>) -> Self {
        let limits = Limits { max_page_bytes: config.max_page_bytes.0, ..Limits::default() };
        Self { proxies: Mutex::default(), limits, max_proxies: config.max_proxies, metrics }
    }

    /// Converts a page of the proxy with this address. Takes milliseconds for each MiB.
    pub(super) fn render(&self, address: IpAddr, page: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(page.len() + page.len() / 8);
        let summary = match self.known(address) {
            Some(proxy) => {
                let mut placed = proxy.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
                proxy.settle(&mut placed);
                let summary = render(page, &mut placed.exemplars, &mut out);
                self.count(&mut placed);
                summary?
            }
            // A proxy that no span came from: its page all the same.
            None => render(page, &mut Exemplars::new(self.limits), &mut out)?,
        };
        let Summary { exemplars, dropped, .. } = summary;
        self.metrics.scrape.exemplars.inc_by(exemplars);
        for (reason, lines) in dropped.iter() {
            self.metrics.scrape.lines_dropped(reason.as_str(), lines);
        }
        Ok(out)
    }

    fn known(&self, address: IpAddr) -> Option<Arc<Proxy>> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        proxies.by_address.get(&address).map(|known| Arc::clone(&known.proxy))
    }

    fn known_or_new(&self, address: IpAddr) -> Arc<Proxy> {
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        proxies.clock += 1;
        let used = proxies.clock;
        if let Some(known) = proxies.by_address.get_mut(&address) {
            known.used = used;
            return Arc::clone(&known.proxy);
        }
        if proxies.by_address.len() >= self.max_proxies {
            let oldest =
                proxies.by_address.iter().min_by_key(|(_, known)| known.used).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                proxies.by_address.remove(&oldest);
            }
        }
        let placed = Placed { exemplars: Exemplars::new(self.limits), counted: Stats::default() };
        let proxy = Arc::new(Proxy { exemplars: Mutex::new(placed), waiting: Mutex::default() });
        proxies.by_address.insert(address, Known { proxy: Arc::clone(&proxy), used });
        self.metrics.scrape.proxies.set(proxies.by_address.len().try_into().unwrap_or(i64::MAX));
        proxy
    }

    /// Counts what became of requests since the last time.
    fn count(&self, placed: &mut Placed) {
        let (now, before) = (placed.exemplars.stats(), placed.counted);
        for (outcome, now, before) in [
            ("refused", now.refused, before.refused),
            ("attached", now.attached, before.attached),
            ("superseded", now.superseded, before.superseded),
            ("ambiguous", now.ambiguous, before.ambiguous),
            ("unmatched", now.unmatched, before.unmatched),
            ("metric_absent", now.metric_absent, before.metric_absent),
            ("uncounted", now.uncounted, before.uncounted),
            ("restarted", now.restarted, before.restarted),
            ("table_full", now.table_full, before.table_full),
            ("evicted", now.evicted, before.evicted),
        ] {
            self.metrics.scrape.observations(outcome, now.saturating_sub(before));
        }
        placed.counted = now;
    }
}

impl Exported for ProxyExemplars {
    fn exported(&self, spans: &[ExportSpan]) {
        let now = SystemTime::now();
        // The spans of one proxy stand together more often than not.
        let mut last: Option<(*const Resource, Option<Arc<Proxy>>)> = None;
        for span in spans {
            if !intake::hop(&span.span).is_some_and(meshweft_telemetry::Hop::is_mesh) {
                continue;
            }
            let resource = Arc::as_ptr(&span.resource);
            let proxy = match &last {
                Some((known, proxy)) if *known == resource => proxy.clone(),
                _ => proxy_address(&span.resource).map(|address| self.known_or_new(address)),
            };
            if let (Some(proxy), Some(request)) = (&proxy, request(&span.span, now)) {
                proxy.record(request, &self.metrics);
            }
            last = Some((resource, proxy));
        }
    }
}

impl Proxy {
    fn record(&self, request: Request, metrics: &Metrics) {
        match self.exemplars.try_lock() {
            Ok(mut placed) => {
                self.settle(&mut placed);
                placed.exemplars.record(request);
            }
            // The page is being converted, which takes longer than an async thread may wait.
            Err(TryLockError::WouldBlock) => {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.len() < MAX_WAITING {
                    waiting.push(request);
                } else {
                    metrics.scrape.observations("evicted", 1);
                }
            }
            Err(TryLockError::Poisoned(placed)) => placed.into_inner().exemplars.record(request),
        }
    }

    /// Records what came while the page was converted.
    fn settle(&self, placed: &mut Placed) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for request in waiting {
            placed.exemplars.record(request);
        }
    }
}

/// The proxy's address: the second field of Envoy's node id,
/// `sidecar~10.0.0.7~orders-0.shop~shop.svc.cluster.local`.
fn proxy_address(resource: &Resource) -> Option<IpAddr> {
    let id = intake::text_attribute(&resource.attributes, attributes::PROXY_ID)?;
    id.split('~').nth(1)?.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// What the exemplars need to know of a proxy's span.
fn request(span: &Span, now: SystemTime) -> Option<Request> {
    const NANOS_PER_MILLI: u64 = 1_000_000;
    let labels = span.attributes.iter().filter_map(|attribute| {
        let name = attribute.key.strip_prefix(attributes::ISTIO_LABEL_PREFIX)?;
        match attribute.value.as_ref()?.value.as_ref()? {
            Value::StringValue(value) => Some((name.into(), value.as_str().into())),
            Value::IntValue(value) => Some((name.into(), value.to_string().into())),
            _ => None,
        }
    });
    let size =
        |key| intake::integer_attribute(&span.attributes, key).and_then(|bytes| u64::try_from(bytes).ok());
    let duration = span.end_time_unix_nano.checked_sub(span.start_time_unix_nano);
    let ended = SystemTime::UNIX_EPOCH + Duration::from_nanos(span.end_time_unix_nano);
    Some(Request {
        labels: labels.collect(),
        trace_id: TraceId::from_slice(&span.trace_id)?,
        span_id: SpanId::from_slice(&span.span_id)?,
        // A clock that runs ahead must not hold a bucket until it is caught up with.
        timestamp: ended.min(now),
        duration_ms: duration.map(|nanos| nanos / NANOS_PER_MILLI),
        request_bytes: size(attributes::REQUEST_TOTAL_SIZE),
        response_bytes: size(attributes::RESPONSE_TOTAL_SIZE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
    use prometheus_client::registry::Registry;

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn text(key: &str, value: &str) -> KeyValue {
        attribute(key, Value::StringValue(value.to_owned()))
    }

    fn span(address: &str, hop: &str) -> ExportSpan {
        let id = format!("sidecar~{address}~orders-0.shop~shop.svc.cluster.local");
        ExportSpan {
            resource: Arc::new(Resource {
                attributes: vec![text(attributes::PROXY_ID, &id)],
                ..Resource::default()
            }),
            scope: Arc::new(InstrumentationScope::default()),
            span: Span {
                trace_id: vec![1; 16],
                span_id: vec![2; 8],
                start_time_unix_nano: 1_000_000_000,
                end_time_unix_nano: 1_004_900_000,
                attributes: vec![
                    text(attributes::HOP, hop),
                    text("istio.reporter", "source"),
                    text("istio.response_code", "200"),
                    attribute(attributes::REQUEST_TOTAL_SIZE, Value::IntValue(70)),
                    attribute(attributes::RESPONSE_TOTAL_SIZE, Value::IntValue(-1)),
                ],
                ..Span::default()
            },
        }
    }

    fn store(max_proxies: usize) -> ProxyExemplars {
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        ProxyExemplars::new(&Scrape { max_proxies, ..Scrape::default() }, metrics)
    }

    const PAGE: &str = "# TYPE istio_requests_total counter\n\
                        istio_requests_total{reporter=\"source\",response_code=\"200\"} ";

    fn page(count: u32) -> Vec<u8> {
        format!("{PAGE}{count}\n").into_bytes()
    }

    #[test]
    fn a_proxys_span_becomes_a_request() {
        let request = request(&span("10.0.0.7", "mesh.outbound").span, SystemTime::now()).unwrap();
        let labels: Vec<_> = request.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(labels, [("reporter", "source"), ("response_code", "200")]);
        assert_eq!(request.duration_ms, Some(4), "truncated, as Envoy counts");
        assert_eq!((request.request_bytes, request.response_bytes), (Some(70), None));
        assert_eq!(request.timestamp, SystemTime::UNIX_EPOCH + Duration::from_nanos(1_004_900_000));
    }

    #[test]
    fn times_of_the_future_are_not_let_in() {
        let mut span = span("10.0.0.7", "mesh.outbound").span;
        span.end_time_unix_nano = u64::MAX;
        let now = SystemTime::now();
        assert_eq!(request(&span, now).unwrap().timestamp, now);
    }

    #[test]
    fn an_exported_span_is_the_exemplar_of_its_own_proxy_alone() {
        let store = store(10);
        let (own, other) = ("10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap());
        store.render(own, &page(1)).unwrap();
        store.exported(&[span("10.0.0.7", "mesh.outbound"), span("10.0.0.8", "app.client")]);
        store.render(own, &page(1)).unwrap();
        let out = String::from_utf8(store.render(own, &page(2)).unwrap()).unwrap();
        assert!(out.contains("# {trace_id=\"01010101010101010101010101010101\""), "{out}");
        let out = String::from_utf8(store.render(other, &page(2)).unwrap()).unwrap();
        assert!(!out.contains("trace_id"), "{out}");
        assert!(store.known(other).is_none(), "an app's span names no proxy");
    }

    #[test]
    fn the_proxy_that_was_not_heard_of_for_longest_goes_first() {
        let store = store(2);
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"] {
            store.exported(&[span(address, "mesh.inbound")]);
        }
        let known = |address: &str| store.known(address.parse().unwrap()).is_some();
        assert!(known("10.0.0.1") && known("10.0.0.3"));
        assert!(!known("10.0.0.2"));
    }

    #[test]
    fn what_comes_while_a_page_is_converted_waits_for_the_next() {
        let store = store(2);
        store.exported(&[span("10.0.0.1", "mesh.inbound")]);
        let proxy = store.known("10.0.0.1".parse().unwrap()).unwrap();
        let converting = proxy.exemplars.lock().unwrap();
        store.exported(&[span("10.0.0.1", "mesh.inbound")]);
        assert_eq!(converting.exemplars.stats().requests, 1);
        drop(converting);
        store.exported(&[span("10.0.0.1", "mesh.inbound")]);
        assert_eq!(proxy.exemplars.lock().unwrap().exemplars.stats().requests, 3);
    }

    #[test]
    fn node_ids_that_are_none_name_no_proxy() {
        for id in ["", "sidecar", "sidecar~~x~y", "sidecar~host~x~y", "~"] {
            let resource =
                Resource { attributes: vec![text(attributes::PROXY_ID, id)], ..Resource::default() };
            assert_eq!(proxy_address(&resource), None, "{id}");
        }
    }
}
