//! The proxy as the filter's [`Host`].

use crate::abi::{self, OK, returned};
use core::time::Duration;
use meshweft_filter_core::host::{Call, HeaderMap, Host, LogLevel, MetricKind};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel as ProxyLogLevel, MapType, MetricType, StreamType};

/// The proxy that this module runs in.
#[derive(Debug)]
pub(crate) struct ProxyHost;

impl Host for ProxyHost {
    fn now(&self) -> u64 {
        let mut time = 0;
        // SAFETY: the host writes eight bytes to a valid place.
        unsafe { abi::proxy_get_current_time_nanoseconds(&raw mut time) };
        time
    }

    fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        // SAFETY: the host reads `path` and writes to the two places.
        returned(|data, len| unsafe { abi::proxy_get_property(path.as_ptr(), path.len(), data, len) })
    }

    fn set_property(&self, path: &[u8], value: &[u8]) {
        // SAFETY: the host reads both.
        unsafe { abi::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) };
    }

    fn headers(&self, map: HeaderMap) -> Vec<u8> {
        let map = match map {
            HeaderMap::Request => MapType::HttpRequestHeaders,
            HeaderMap::CallResponse => MapType::HttpCallResponseHeaders,
        };
        // SAFETY: the host writes to the two places.
        returned(|data, len| unsafe { abi::proxy_get_header_map_pairs(map as u32, data, len) })
            .unwrap_or_default()
    }

    fn replace_header(&self, name: &str, value: &[u8]) {
        let map = MapType::HttpRequestHeaders as u32;
        // SAFETY: the host reads both.
        unsafe {
            abi::proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len());
        }
    }

    fn remove_header(&self, name: &str) {
        // SAFETY: the host reads `name`.
        unsafe {
            abi::proxy_remove_header_map_value(MapType::HttpRequestHeaders as u32, name.as_ptr(), name.len());
        }
    }

    fn call(&self, call: &Call<'_>) -> Option<u32> {
        // By the SDK, which alone can note whose call it is. The statuses on which it panics are
        // none that a host returns for memory that is valid.
        let timeout = Duration::from_millis(call.timeout_ms.into());
        let body = (!call.body.is_empty()).then_some(call.body);
        hostcalls::dispatch_http_call(call.cluster, call.headers.to_vec(), body, Vec::new(), timeout).ok()
    }

    fn resume(&self) {
        // SAFETY: no memory is involved.
        unsafe { abi::proxy_continue_stream(StreamType::HttpRequest as u32) };
    }

    fn set_tick(&self, period_ms: u32) {
        // SAFETY: no memory is involved.
        unsafe { abi::proxy_set_tick_period_milliseconds(period_ms) };
    }

    fn function(&self, name: &str, argument: &[u8]) -> Option<Vec<u8>> {
        // SAFETY: the host reads both and writes to the two places.
        returned(|data, len| unsafe {
            abi::proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                argument.as_ptr(),
                argument.len(),
                data,
                len,
            )
        })
    }

    fn shared_data(&self, key: &str) -> (Option<Vec<u8>>, u32) {
        let mut version = 0;
        // SAFETY: the host reads `key` and writes to the three places.
        let value = returned(|data, len| unsafe {
            abi::proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut version)
        });
        (value, version)
    }

    fn set_shared_data(&self, key: &str, value: &[u8], version: u32) -> bool {
        // SAFETY: the host reads both.
        let status = unsafe {
            abi::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version)
        };
        status == OK
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32> {
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        let mut id = 0;
        // SAFETY: the host reads `name` and writes four bytes to a valid place.
        let status = unsafe { abi::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) };
        (status == OK).then_some(id)
    }

    fn add_metric(&self, id: u32, amount: i64) {
        // SAFETY: no memory is involved.
        unsafe { abi::proxy_increment_metric(id, amount) };
    }

    fn log(&self, level: LogLevel, message: &str) {
        let level = match level {
            LogLevel::Info => ProxyLogLevel::Info,
            LogLevel::Warn => ProxyLogLevel::Warn,
            LogLevel::Error => ProxyLogLevel::Error,
        };
        // SAFETY: the host reads `message`.
        unsafe { abi::proxy_log(level as u32, message.as_ptr(), message.len()) };
    }

    fn configuration(&self) -> Vec<u8> {
        let buffer = BufferType::PluginConfiguration as u32;
        // SAFETY: the host writes to the two places.
        returned(|data, len| unsafe { abi::proxy_get_buffer_bytes(buffer, 0, usize::MAX, data, len) })
            .unwrap_or_default()
    }

    fn done(&self) {
        // SAFETY: no memory is involved.
        unsafe { abi::proxy_done() };
    }
}
