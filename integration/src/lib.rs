//! The lab, and what is built on it: the demo, the benches, and the tests that need real parts.

pub mod bench;
pub mod demo;
pub mod lab;
