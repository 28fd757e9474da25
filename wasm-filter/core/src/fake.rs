//! A host for tests: what it is asked, it answers from maps; what it is told, it keeps.

use crate::facts;
use crate::host::{Call, HeaderMap, Host, LogLevel, MetricKind};
use crate::pairs::serialize;
use core::cell::{Cell, RefCell};
use std::collections::HashMap;

pub(crate) type Headers = Vec<(Vec<u8>, Vec<u8>)>;
/// Connection and path, and the value.
type Marks = HashMap<(u64, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
pub(crate) struct RecordedCall {
    pub(crate) cluster: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout_ms: u32,
}

impl RecordedCall {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
pub(crate) struct FakeHost {
    pub(crate) properties: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
    /// The connection whose marks are read and set.
    pub(crate) connection: Cell<u64>,
    pub(crate) marks: RefCell<Marks>,
    /// Functions and what they return.
    pub(crate) functions: RefCell<HashMap<String, Vec<u8>>>,
    /// Whether expressions can be compiled and evaluated.
    pub(crate) expressions: Cell<bool>,
    pub(crate) shared: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    pub(crate) request: RefCell<Headers>,
    pub(crate) response: RefCell<Headers>,
    pub(crate) calls: RefCell<Vec<RecordedCall>>,
    pub(crate) refuse_calls: Cell<bool>,
    pub(crate) resumed: Cell<u32>,
    pub(crate) writes: Cell<u32>,
    pub(crate) clock: Cell<u64>,
    pub(crate) metrics: RefCell<Vec<(String, i64)>>,
    pub(crate) logs: RefCell<Vec<(LogLevel, String)>>,
    pub(crate) configuration: RefCell<String>,
    pub(crate) tick_ms: Cell<u32>,
    pub(crate) done: Cell<bool>,
}

impl core::fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FakeHost")
    }
}

impl FakeHost {
    pub(crate) fn set(&self, path: &str, value: impl AsRef<[u8]>) {
        self.properties.borrow_mut().insert(path.as_bytes().to_vec(), value.as_ref().to_vec());
    }

    pub(crate) fn unset(&self, path: &str) {
        self.properties.borrow_mut().remove(path.as_bytes());
    }

    pub(crate) fn request_header(&self, name: &str) -> Option<String> {
        let request = self.request.borrow();
        let mut values = request.iter().filter(|(header, _)| header == name.as_bytes());
        let value = values.next().map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        assert!(values.next().is_none(), "{name} stands more than once");
        value
    }

    pub(crate) fn metric(&self, name: &str) -> i64 {
        self.metrics.borrow().iter().find(|(metric, _)| metric == name).map_or(0, |(_, value)| *value)
    }
}

impl Host for FakeHost {
    fn now(&self) -> u64 {
        self.clock.get()
    }
    fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mark = self.marks.borrow().get(&(self.connection.get(), path.to_vec())).cloned();
        if let Some(name) = path.strip_prefix(b"request\0headers\0") {
            let request = self.request.borrow();
            return request.iter().find(|(header, _)| header == name).map(|(_, value)| value.clone());
        }
        mark.or_else(|| self.properties.borrow().get(path).cloned())
    }
    fn set_property(&self, path: &[u8], value: &[u8]) {
        self.marks.borrow_mut().insert((self.connection.get(), path.to_vec()), value.to_vec());
    }
    fn headers(&self, map: HeaderMap) -> Vec<u8> {
        match map {
            HeaderMap::Request => serialize(&self.request.borrow()),
            HeaderMap::CallResponse => serialize(&self.response.borrow()),
        }
    }
    fn replace_header(&self, name: &str, value: &[u8]) {
        self.remove_header(name);
        self.request.borrow_mut().push((name.as_bytes().to_vec(), value.to_vec()));
    }
    fn remove_header(&self, name: &str) {
        self.writes.set(self.writes.get() + 1);
        self.request.borrow_mut().retain(|(header, _)| header != name.as_bytes());
    }
    fn call(&self, call: &Call<'_>) -> Option<u32> {
        if self.refuse_calls.get() {
            return None;
        }
        let mut calls = self.calls.borrow_mut();
        calls.push(RecordedCall {
            cluster: call.cluster.to_owned(),
            headers: call
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: call.body.to_vec(),
            timeout_ms: call.timeout_ms,
        });
        Some(u32::try_from(calls.len()).unwrap())
    }
    fn resume(&self) {
        self.resumed.set(self.resumed.get() + 1);
    }
    fn set_tick(&self, period_ms: u32) {
        self.tick_ms.set(period_ms);
    }
    fn function(&self, name: &str, argument: &[u8]) -> Option<Vec<u8>> {
        match name {
            "expr_create" if self.expressions.get() => {
                Some(u32::from(facts::is_usual(argument)).to_le_bytes().to_vec())
            }
            "expr_evaluate" if self.expressions.get() => {
                facts::evaluate(self, argument == 1_u32.to_le_bytes())
            }
            _ => self.functions.borrow().get(name).cloned(),
        }
    }
    fn shared_data(&self, key: &str) -> (Option<Vec<u8>>, u32) {
        match self.shared.borrow().get(key) {
            Some((value, version)) => (Some(value.clone()), *version),
            None => (None, 0),
        }
    }
    fn set_shared_data(&self, key: &str, value: &[u8], version: u32) -> bool {
        let mut shared = self.shared.borrow_mut();
        let current = shared.get(key).map_or(0, |(_, version)| *version);
        if current != version {
            return false;
        }
        shared.insert(key.to_owned(), (value.to_vec(), version + 1));
        true
    }
    fn define_metric(&self, _kind: MetricKind, name: &str) -> Option<u32> {
        let mut metrics = self.metrics.borrow_mut();
        metrics.push((name.to_owned(), 0));
        Some(u32::try_from(metrics.len() - 1).unwrap())
    }
    fn add_metric(&self, id: u32, amount: i64) {
        self.metrics.borrow_mut()[id as usize].1 += amount;
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.logs.borrow_mut().push((level, message.to_owned()));
    }
    fn configuration(&self) -> Vec<u8> {
        self.configuration.borrow().clone().into_bytes()
    }
    fn done(&self) {
        self.done.set(true);
    }
}
