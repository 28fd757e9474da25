//! The mesh's certificate authority: one root, and a certificate per workload whose name is its
//! SPIFFE id, as istiod issues them.

use super::plan::TRUST_DOMAIN;
use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// The root of one lab. Its key lives and dies with the process.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A workload's certificate, PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = organization();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make the root's key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("cannot sign the root")?;
        Ok(Self { issuer })
    }

    /// The root, PEM.
    pub(crate) fn root(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for this SPIFFE id.
    pub(crate) fn issue(&self, spiffe_id: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = organization();
        params.subject_alt_names =
            vec![SanType::URI(spiffe_id.try_into().with_context(|| format!("{spiffe_id} is no SPIFFE id"))?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().context("cannot make a workload's key")?;
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign for {spiffe_id}"))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn organization() -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, TRUST_DOMAIN);
    name
}
