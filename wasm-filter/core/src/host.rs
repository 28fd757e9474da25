//! What the filter needs of the proxy that it runs in.

use core::cell::Cell;

/// A header map of the current callback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderMap {
    /// Headers of the request.
    Request,
    /// Headers of the answer to a call.
    CallResponse,
}

/// Kind of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
}

/// Level of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// Works as configured.
    Info,
    /// Works, but less than configured.
    Warn,
    /// Does not work.
    Error,
}

/// An HTTP request of the filter's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call<'a> {
    /// Name of the proxy's cluster.
    pub cluster: &'a str,
    /// Headers, with `:method`, `:path` and `:authority`.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body; empty for none.
    pub body: &'a [u8],
    /// Deadline in milliseconds.
    pub timeout_ms: u32,
}

/// The calls into the proxy. Each is one crossing of the VM's border, the dearest thing that the
/// filter does; [`Counted`] counts them.
///
/// Values are bytes: a header value or an address need not be UTF-8. Whatever the proxy refuses is
/// `None` (or nothing), never a panic.
pub trait Host {
    /// Time since the Unix epoch, in nanoseconds.
    fn now(&self) -> u64;
    /// A property by its path, the parts separated by NUL bytes.
    fn property(&self, path: &[u8]) -> Option<Vec<u8>>;
    /// Sets a property by its path.
    fn set_property(&self, path: &[u8], value: &[u8]);
    /// A whole header map in the proxy's serialized form (see [`crate::pairs`]); empty for none.
    fn headers(&self, map: HeaderMap) -> Vec<u8>;
    /// Sets a header of the request, in place of every header of that name.
    fn replace_header(&self, name: &str, value: &[u8]);
    /// Removes every header of that name from the request.
    fn remove_header(&self, name: &str);
    /// Starts a call and returns its token, or `None` where the proxy refuses (no such cluster).
    fn call(&self, call: &Call<'_>) -> Option<u32>;
    /// Lets a paused request go on.
    fn resume(&self);
    /// Asks for a tick every so many milliseconds.
    fn set_tick(&self, period_ms: u32);
    /// Calls a function that this proxy offers beyond the ABI.
    fn function(&self, name: &str, argument: &[u8]) -> Option<Vec<u8>>;
    /// A value that all VMs of the same `vm_id` share, with its version.
    fn shared_data(&self, key: &str) -> (Option<Vec<u8>>, u32);
    /// Sets such a value where its version is still `version`; `false` where it is not.
    fn set_shared_data(&self, key: &str, value: &[u8], version: u32) -> bool;
    /// Defines a metric, or finds the one that is there already.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32>;
    /// Adds to a metric.
    fn add_metric(&self, id: u32, amount: i64);
    /// Writes a line to the proxy's log.
    fn log(&self, level: LogLevel, message: &str);
    /// The plugin's configuration.
    fn configuration(&self) -> Vec<u8>;
    /// Says that this VM has nothing left to do, after [`crate::Filter::shutdown`] asked to wait.
    fn done(&self);
}

/// A host that counts the calls.
#[derive(Debug)]
pub struct Counted<H> {
    host: H,
    calls: Cell<u64>,
}

impl<H> Counted<H> {
    /// Counts the calls to `host`.
    pub const fn new(host: H) -> Self {
        Self { host, calls: Cell::new(0) }
    }

    /// Calls so far.
    pub const fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// The host itself, past the count.
    #[cfg(test)]
    pub(crate) const fn uncounted(&self) -> &H {
        &self.host
    }

    fn counted(&self) -> &H {
        self.calls.set(self.calls.get().wrapping_add(1));
        &self.host
    }
}

impl<H: Host> Host for Counted<H> {
    fn now(&self) -> u64 {
        self.counted().now()
    }
    fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.counted().property(path)
    }
    fn set_property(&self, path: &[u8], value: &[u8]) {
        self.counted().set_property(path, value);
    }
    fn headers(&self, map: HeaderMap) -> Vec<u8> {
        self.counted().headers(map)
    }
    fn replace_header(&self, name: &str, value: &[u8]) {
        self.counted().replace_header(name, value);
    }
    fn remove_header(&self, name: &str) {
        self.counted().remove_header(name);
    }
    fn call(&self, call: &Call<'_>) -> Option<u32> {
        self.counted().call(call)
    }
    fn resume(&self) {
        self.counted().resume();
    }
    fn set_tick(&self, period_ms: u32) {
        self.counted().set_tick(period_ms);
    }
    fn function(&self, name: &str, argument: &[u8]) -> Option<Vec<u8>> {
        self.counted().function(name, argument)
    }
    fn shared_data(&self, key: &str) -> (Option<Vec<u8>>, u32) {
        self.counted().shared_data(key)
    }
    fn set_shared_data(&self, key: &str, value: &[u8], version: u32) -> bool {
        self.counted().set_shared_data(key, value, version)
    }
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32> {
        self.counted().define_metric(kind, name)
    }
    fn add_metric(&self, id: u32, amount: i64) {
        self.counted().add_metric(id, amount);
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.counted().log(level, message);
    }
    fn configuration(&self) -> Vec<u8> {
        self.counted().configuration()
    }
    fn done(&self) {
        self.counted().done();
    }
}
