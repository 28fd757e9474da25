//! Where on a request's way a span was seen, and what a link between two spans rests on.

use core::fmt;

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in attributes, metrics and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use names;

names! {
    /// The value of `meshweft.hop`.
    Hop {
        /// A client's sidecar, on the way out.
        MeshOutbound = "mesh.outbound",
        /// A server's sidecar, on the way in.
        MeshInbound = "mesh.inbound",
        /// A gateway at the edge.
        MeshGateway = "mesh.gateway",
        /// An ambient waypoint.
        MeshWaypoint = "mesh.waypoint",
        /// A request that an app sent, seen in its process.
        AppClient = "app.client",
        /// A request that an app served, seen in its process.
        AppServer = "app.server",
    }
}

impl Hop {
    /// Whether a proxy made the span.
    #[must_use]
    pub const fn is_mesh(self) -> bool {
        matches!(self, Self::MeshOutbound | Self::MeshInbound | Self::MeshGateway | Self::MeshWaypoint)
    }
}

names! {
    /// The value of `meshweft.link.evidence`: why a span's parent is its parent.
    Evidence {
        /// The parent's id stood in the request's own headers.
        Traceparent = "traceparent",
        /// Both spans saw the same request of the same connection.
        Tuple = "tuple",
        /// Both spans saw the same `x-request-id`.
        RequestId = "request_id",
        /// An OpenTelemetry SDK in the app reported the parent.
        Sdk = "sdk",
        /// The same goroutine served one request and sent the other.
        Goroutine = "goroutine",
        /// The same asynchronous task did.
        Task = "task",
        /// The same thread did, and served nothing else meanwhile.
        Thread = "thread",
        /// Time and shape of the requests alone.
        Inferred = "inferred",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for hop in Hop::ALL {
            assert_eq!(Hop::from_name(hop.as_str()), Some(*hop));
        }
        for evidence in Evidence::ALL {
            assert_eq!(Evidence::from_name(evidence.as_str()), Some(*evidence));
        }
        assert_eq!(Hop::from_name("mesh"), None);
    }
}
