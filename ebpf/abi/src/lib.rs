//! What the kernel's programs and the agent agree on: the layout of events and of the globals
//! that user space sets before loading, and the pure decisions that both sides test on the host.
//!
//! Every struct is `repr(C)`, without padding that is not named, without `bool` or `Option`; its
//! size is asserted at compile time.
#![no_std]

pub mod capture;
pub mod event;
pub mod kernel;

pub use capture::{MAX_CAPTURE, MAX_PLAIN_CAPTURE};
pub use event::{EventHeader, EventKind, Loss, SocketId};
pub use kernel::{Offsets, SyscallOp};
