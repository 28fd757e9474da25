//! Who an app is: its workload as the mesh calls it, else what its process runs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use meshweft_telemetry::attributes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::discovery::Process;
use crate::intake::text_attribute as text;

/// Addresses whose workload is remembered: more than a node has pods, with room for those that
/// come and go.
const MAX_ADDRESSES: usize = 4_096;

/// The attributes of a proxy's resource that its app's spans share.
const SHARED: [&str; 3] =
    [attributes::SERVICE_NAME, attributes::SERVICE_NAMESPACE, attributes::SERVICE_VERSION];

/// What is known of workloads, by the address of their pod and by process.
#[derive(Debug, Default)]
pub(super) struct Identities {
    workloads: HashMap<IpAddr, Arc<Vec<KeyValue>>>,
    resources: HashMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    workload: Option<Arc<Vec<KeyValue>>>,
    process: Arc<Process>,
    resource: Arc<Resource>,
}

impl Identities {
    /// A proxy said who it stands before. The address is the second field of Envoy's node id
    /// (`sidecar~10.0.0.7~orders-0.shop~shop.svc.cluster.local`).
    pub(super) fn learn(&mut self, proxy: &Resource) {
        let Some(address) = text(&proxy.attributes, attributes::PROXY_ID)
            .and_then(|id| id.strip_prefix("sidecar~")?.split('~').next()?.parse::<IpAddr>().ok())
        else {
            return;
        };
        let shared: Vec<KeyValue> =
            proxy.attributes.iter().filter(|pair| SHARED.contains(&pair.key.as_str())).cloned().collect();
        if self.workloads.get(&address).is_some_and(|known| **known == shared) {
            return;
        }
        if self.workloads.len() >= MAX_ADDRESSES {
            // Which one goes hardly matters: a pod that is alive reports again within the second.
            self.workloads.clear();
        }
        self.workloads.insert(address, Arc::new(shared));
    }

    /// The resource of an app's spans. `address` is the app's own end of the connection.
    pub(super) fn resource(&mut self, id: u32, process: &Arc<Process>, address: IpAddr) -> Arc<Resource> {
        let workload = self.workloads.get(&address);
        if let Some(known) = self.resources.get(&id)
            && Arc::ptr_eq(&known.process, process)
            && match (workload, &known.workload) {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                // A connection over loopback tells no workload; the process has one all the same.
                (None, _) => true,
                (Some(_), None) => false,
            }
        {
            return Arc::clone(&known.resource);
        }
        let mut list = match workload {
            Some(shared) => shared.to_vec(),
            None => vec![string(attributes::SERVICE_NAME, process.name.clone())],
        };
        list.push(int(attributes::PROCESS_PID, id.into()));
        list.push(string(attributes::PROCESS_EXECUTABLE_NAME, process.executable.clone()));
        let resource = Arc::new(Resource { attributes: list, ..Resource::default() });
        self.resources.insert(
            id,
            Known {
                workload: workload.cloned(),
                process: Arc::clone(process),
                resource: Arc::clone(&resource),
            },
        );
        resource
    }

    /// The process is gone.
    pub(super) fn forget(&mut self, id: u32) {
        self.resources.remove(&id);
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// An attribute with a text.
pub(super) fn string(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

/// An attribute with a number.
pub(super) fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

/// An attribute with a fraction.
pub(super) fn double(key: &str, value: f64) -> KeyValue {
    pair(key, Value::DoubleValue(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(id: &str, service: &str) -> Resource {
        Resource {
            attributes: vec![string(attributes::PROXY_ID, id), string(attributes::SERVICE_NAME, service)],
            ..Resource::default()
        }
    }

    fn process() -> Arc<Process> {
        Arc::new(Process { name: "app".into(), executable: "python3".into(), is_go: false })
    }

    #[test]
    fn an_app_is_called_as_its_sidecar_says() {
        let mut identities = Identities::default();
        let (process, address) = (process(), "10.0.0.7".parse().unwrap());
        let before = identities.resource(1, &process, address);
        assert_eq!(text(&before.attributes, attributes::SERVICE_NAME), Some("app"));
        identities.learn(&proxy("sidecar~10.0.0.7~orders-0.shop~shop.svc.cluster.local", "orders"));
        let after = identities.resource(1, &process, address);
        assert_eq!(text(&after.attributes, attributes::SERVICE_NAME), Some("orders"));
        let loopback = identities.resource(1, &process, "127.0.0.1".parse().unwrap());
        assert!(Arc::ptr_eq(&after, &loopback));
    }

    #[test]
    fn a_gateway_names_no_app() {
        let mut identities = Identities::default();
        identities.learn(&proxy("router~10.0.0.7~gw.istio-system~x", "gateway"));
        let resource = identities.resource(1, &process(), "10.0.0.7".parse().unwrap());
        assert_eq!(text(&resource.attributes, attributes::SERVICE_NAME), Some("app"));
    }
}
