//! Sans-IO parsers of the protocols that probes see on an app's connections.
//!
//! They read along, they do not take part: what they get was captured, so it may begin anywhere, be
//! cut and have holes, and nothing can be asked for again. All of it is hostile: each parser is
//! total, keeps a bounded amount of memory for a connection, and says what it dropped and why.
//!
//! | module | what |
//! |---|---|
//! | [`http1`] | HTTP/1.0 and HTTP/1.1 |

// What is parsed here was written by whoever talks to an app.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod http1;
