//! Who is on the other side of a hop.
//!
//! Istio's metadata exchange leaves the peer in the filter state. Its form differs between
//! versions (a message, a map, an object with fields), but the fields can be read by path from
//! each of them. A host that holds the peer as bytes gives a serialized `google.protobuf.Struct`.
//! Where there is no exchange (no peer with a proxy), the endpoint's metadata from istiod names
//! the workload of an upstream host.

use crate::host::Host;
use crate::labels::Identity;
use meshweft_telemetry::Workload;
use prost::Message;
use std::collections::BTreeMap;

/// Largest serialized peer that is decoded, in bytes. Istio's are a few hundred.
const MAX_STRUCT: usize = 16 << 10;

/// The workload that sent the request, where it is known.
pub fn downstream(host: &impl Host) -> Option<Identity> {
    from_filter_state(
        host,
        [
            b"filter_state\0downstream_peer\0workload",
            b"filter_state\0downstream_peer\0namespace",
            b"filter_state\0downstream_peer\0service",
            b"filter_state\0downstream_peer\0revision",
            b"filter_state\0downstream_peer\0app",
            b"filter_state\0downstream_peer\0version",
            b"filter_state\0downstream_peer\0cluster",
        ],
        b"filter_state\0downstream_peer",
    )
}

/// The workload behind the upstream host, where it is known.
pub fn upstream(host: &impl Host) -> Option<Identity> {
    from_filter_state(
        host,
        [
            b"filter_state\0upstream_peer\0workload",
            b"filter_state\0upstream_peer\0namespace",
            b"filter_state\0upstream_peer\0service",
            b"filter_state\0upstream_peer\0revision",
            b"filter_state\0upstream_peer\0app",
            b"filter_state\0upstream_peer\0version",
            b"filter_state\0upstream_peer\0cluster",
        ],
        b"filter_state\0upstream_peer",
    )
    .or_else(|| {
        let metadata = host.property(b"xds\0upstream_host_metadata\0filter_metadata\0istio\0workload")?;
        let workload = Workload::parse_endpoint_metadata(core::str::from_utf8(&metadata).ok()?)?;
        Some(Identity {
            workload: workload.name.into_bytes(),
            namespace: workload.namespace.into_bytes(),
            canonical_service: workload.canonical_service.into_bytes(),
            canonical_revision: workload.canonical_revision.into_bytes(),
            cluster: workload.cluster.into_bytes(),
            ..Identity::default()
        })
    })
}

/// `fields` in the order of [`Identity`]. A peer without a workload is none: Istio marks so that it
/// looked for one and found none.
fn from_filter_state(host: &impl Host, fields: [&[u8]; 7], whole: &[u8]) -> Option<Identity> {
    let [workload, namespace, canonical_service, canonical_revision, app, version, cluster] = fields;
    let read = |path| host.property(path).unwrap_or_default();
    match read(workload) {
        workload if workload.is_empty() => from_struct(&host.property(whole)?),
        workload => Some(Identity {
            workload,
            namespace: read(namespace),
            canonical_service: read(canonical_service),
            canonical_revision: read(canonical_revision),
            app: read(app),
            version: read(version),
            cluster: read(cluster),
        }),
    }
}

fn from_struct(bytes: &[u8]) -> Option<Identity> {
    if bytes.len() > MAX_STRUCT {
        return None;
    }
    let mut fields = Struct::decode(bytes).ok()?.fields;
    let mut take = |name: &str| match fields.remove(name) {
        Some(Value { kind: Some(Kind::String(text)) }) => text.into_bytes(),
        _ => Vec::new(),
    };
    let workload = take("workload");
    (!workload.is_empty()).then(|| Identity {
        workload,
        namespace: take("namespace"),
        canonical_service: take("service"),
        canonical_revision: take("revision"),
        app: take("app"),
        version: take("version"),
        cluster: take("cluster"),
    })
}

/// `google.protobuf.Struct`, as far as a peer needs it.
#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`: other kinds than strings are skipped.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "3")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(string, tag = "3")]
    String(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::String(text.to_owned())) }
    }

    #[test]
    fn fields_a_struct_and_endpoint_metadata_give_the_same_workload() {
        let fields = FakeHost::default();
        let mut whole = Struct::default();
        for (name, value) in [
            ("workload", "orders-v1"),
            ("namespace", "shop"),
            ("service", "orders"),
            ("revision", "v1"),
            ("cluster", "c"),
        ] {
            fields.set(&format!("filter_state\0upstream_peer\0{name}"), value);
            whole.fields.insert(name.to_owned(), text(value));
        }
        let bytes = FakeHost::default();
        bytes.set("filter_state\0upstream_peer", whole.encode_to_vec());
        let endpoint = FakeHost::default();
        endpoint.set(
            "xds\0upstream_host_metadata\0filter_metadata\0istio\0workload",
            "orders-v1;shop;orders;v1;c",
        );
        let expected = upstream(&fields).unwrap();
        assert_eq!(
            (&expected.workload[..], &expected.canonical_service[..]),
            (&b"orders-v1"[..], &b"orders"[..])
        );
        assert_eq!(upstream(&bytes).as_ref(), Some(&expected));
        assert_eq!(upstream(&endpoint).as_ref(), Some(&expected));
        assert_eq!(downstream(&fields), None);
    }

    #[test]
    fn a_peer_without_a_workload_is_none() {
        let host = FakeHost::default();
        host.set("filter_state\0downstream_peer", Struct::default().encode_to_vec());
        assert_eq!(downstream(&host), None);
        host.set("filter_state\0downstream_peer", vec![0; MAX_STRUCT + 1]);
        assert_eq!(downstream(&host), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_peer_or_one_with_a_workload(bytes: Vec<u8>) {
            if let Some(peer) = from_struct(&bytes) {
                prop_assert!(!peer.workload.is_empty());
            }
        }
    }
}
