//! The host functions of proxy-wasm ABI 0.2.1 that the filter calls.
//!
//! `proxy_wasm::hostcalls` has them too, but it panics where the host returns a status that it
//! does not expect, and a panic takes down the worker's VM; it also allocates a string for each
//! header name and a list for each property path.

use core::ptr::null_mut;

/// `proxy_status_t`; zero is success.
pub(crate) type Status = u32;
/// Success.
pub(crate) const OK: Status = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    pub(crate) fn proxy_log(level: u32, message: *const u8, len: usize) -> Status;
    pub(crate) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> Status;
    pub(crate) fn proxy_set_tick_period_milliseconds(period: u32) -> Status;
    pub(crate) fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> Status;
    pub(crate) fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, len: *mut usize) -> Status;
    pub(crate) fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> Status;
    pub(crate) fn proxy_remove_header_map_value(map: u32, name: *const u8, name_len: usize) -> Status;
    pub(crate) fn proxy_get_property(
        path: *const u8,
        path_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> Status;
    pub(crate) fn proxy_set_property(
        path: *const u8,
        path_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> Status;
    pub(crate) fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
        version: *mut u32,
    ) -> Status;
    pub(crate) fn proxy_set_shared_data(
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        version: u32,
    ) -> Status;
    pub(crate) fn proxy_continue_stream(stream: u32) -> Status;
    pub(crate) fn proxy_call_foreign_function(
        name: *const u8,
        name_len: usize,
        argument: *const u8,
        argument_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> Status;
    pub(crate) fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> Status;
    pub(crate) fn proxy_increment_metric(id: u32, amount: i64) -> Status;
    pub(crate) fn proxy_done() -> Status;
}

/// Runs a host function that returns bytes. The host puts them into memory that it got from this
/// module's own allocator, and gives them away.
pub(crate) fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> Status) -> Option<Vec<u8>> {
    let mut data = null_mut();
    let mut len = 0;
    if call(&raw mut data, &raw mut len) != OK {
        return None;
    }
    if data.is_null() {
        return Some(Vec::new());
    }
    // SAFETY: on success the host has set `data` to an allocation of exactly `len` bytes that it
    // made by calling this module's `malloc` (proxy-wasm's allocator, which allocates a
    // `Box<[u8]>`), and that nobody else owns.
    Some(unsafe { Vec::from_raw_parts(data, len, len) })
}
