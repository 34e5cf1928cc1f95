//! Certificates, good and bad, in folders as gnutls wants them.

use std::path::{Path, PathBuf};

use nbd::{CA_CERT, CLIENT_CERT, CLIENT_KEY, SERVER_CERT, SERVER_KEY};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// An authority.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A folder that trusts this authority.
    pub(crate) fn folder(&self, path: PathBuf) -> PathBuf {
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(CA_CERT), &self.pem).unwrap();
        path
    }

    fn leaf(&self, folder: &Path, names: &[&str], server: bool, expired: bool) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "somebody of a test");
        // QEMU wants the second too, though no key of ours enciphers.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let usage = if server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![usage];
        if expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let (certificate, secret) = if server { (SERVER_CERT, SERVER_KEY) } else { (CLIENT_CERT, CLIENT_KEY) };
        std::fs::write(folder.join(certificate), pem).unwrap();
        std::fs::write(folder.join(secret), key.serialize_pem()).unwrap();
    }

    /// Puts a server's certificate for `name` in `folder`.
    pub(crate) fn server(&self, folder: &Path, names: &[&str], expired: bool) {
        self.leaf(folder, names, true, expired);
    }

    /// Puts a client's certificate in `folder`.
    pub(crate) fn client(&self, folder: &Path, expired: bool) {
        self.leaf(folder, &[], false, expired);
    }
}
