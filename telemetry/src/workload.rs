//! Who a span belongs to.

/// A workload's identity, in Istio's words. An empty field is one that is not known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Workload {
    /// Name of the workload (Deployment, StatefulSet, Job ...).
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `service.istio.io/canonical-name`, else `app`, else the workload's name.
    pub canonical_service: String,
    /// `service.istio.io/canonical-revision`, else `version`.
    pub canonical_revision: String,
    /// Cluster id.
    pub cluster: String,
}

impl Workload {
    /// Parses `workload;namespace;canonical service;canonical revision;cluster`, the form that
    /// istiod writes into an endpoint's `filter_metadata.istio.workload`. Missing fields stay
    /// empty; more than five are not this form.
    #[must_use]
    pub fn parse_endpoint_metadata(text: &str) -> Option<Self> {
        let mut fields = text.split(';');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let mut next = || fields.next().unwrap_or_default().to_owned();
        let workload = Self {
            name: name.to_owned(),
            namespace: next(),
            canonical_service: next(),
            canonical_revision: next(),
            cluster: next(),
        };
        fields.next().is_none().then_some(workload)
    }

    /// `service.name` of this workload's spans: the canonical service, else the workload.
    #[must_use]
    pub fn service_name(&self) -> &str {
        if self.canonical_service.is_empty() { &self.name } else { &self.canonical_service }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_metadata_parses_with_missing_fields() {
        let full = Workload::parse_endpoint_metadata("orders-v1;shop;orders;v1;Kubernetes").unwrap();
        assert_eq!(full.service_name(), "orders");
        assert_eq!(full.cluster, "Kubernetes");
        let short = Workload::parse_endpoint_metadata("orders-v1;shop").unwrap();
        assert_eq!(short.service_name(), "orders-v1");
        assert_eq!(Workload::parse_endpoint_metadata(""), None);
        assert_eq!(Workload::parse_endpoint_metadata("a;b;c;d;e;f"), None);
    }
}
