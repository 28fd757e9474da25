//! One module per command.

pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod up;
