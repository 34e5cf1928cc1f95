//! Folders of certificates, named as gnutls names them.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority that signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A folder whose owner trusts this authority and is called `role` ("server", "client" or nobody) by it.
    pub(crate) fn folder(&self, folder: &Path, role: Option<&str>) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("ca-cert.pem"), &self.certificate).unwrap();
        let Some(role) = role else { return };
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, role);
        let usage =
            if role == "server" { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::write(folder.join(format!("{role}-cert.pem")), certificate).unwrap();
        fs::write(folder.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
    }
}
