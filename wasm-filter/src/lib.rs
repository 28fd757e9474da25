//! Meshweft's proxy-wasm module: the entry points, and the adapter between the proxy and
//! [`meshweft_filter_core`], which holds all logic.

#![expect(missing_docs, reason = "the macro of the SDK writes the entry point")]
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unreachable
)]

mod abi;
mod host;

use host::ProxyHost;
use meshweft_filter_core::{Filter, Stream, Verdict};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use std::rc::Rc;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root(Filter::new(ProxyHost))));
}}

struct Root(Rc<Filter<ProxyHost>>);

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, _body: usize, _trailers: usize) {
        self.0.call_response(token);
    }

    fn on_done(&mut self) -> bool {
        self.0.shutdown()
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.0.configure()
    }

    fn on_tick(&mut self) {
        self.0.tick();
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http(self.0.stream())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Http(Stream<ProxyHost>);

impl Context for Http {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, _body: usize, _trailers: usize) {
        self.0.call_response(token);
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        match self.0.request_headers() {
            Verdict::Continue => Action::Continue,
            // Envoy holds the body back as well: it takes a module's pause for "stop all iteration".
            Verdict::Pause => Action::Pause,
        }
    }

    fn on_log(&mut self) {
        self.0.log();
    }
}
