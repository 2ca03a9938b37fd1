//! A private certificate authority and a server certificate for the loopback addresses.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// PEM files of one server.
#[derive(Clone)]
pub(crate) struct Tls {
    /// The authority that clients are to trust.
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Tls {
    /// Makes an authority and a certificate for 127.0.0.1, ::1 and localhost in a directory.
    pub(crate) fn make(dir: &Path) -> Self {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "saver test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("an authority");

        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1", "::1", "localhost"].map(String::from);
        let params = CertificateParams::new(names).expect("valid names");
        let certificate = params.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).expect("a certificate");

        let write = |name: &str, pem: String| {
            let path = dir.join(name);
            std::fs::write(&path, pem).expect("a PEM file");
            path
        };
        Self {
            ca: write("ca.crt", ca_certificate.pem()),
            certificate: write("server.crt", certificate.pem()),
            key: write("server.key", key.serialize_pem()),
        }
    }
}
