//! What the kernel sees of the apps.
//!
//! | file | what |
//! |---|---|
//! | `btf.rs` | offsets of the running kernel's structs |
//! | `probes.rs` | loads the programs and reads their ring: the one file that talks to the kernel |
//! | `clock.rs` | from the kernel's time to wall time |
//! | `connections.rs` | from events to requests |

pub mod btf;
pub mod clock;
pub mod connections;
pub mod metrics;
pub mod probes;
