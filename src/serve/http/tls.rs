//! The server's certificate and private key.

use crate::error::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A certificate chain and its private key.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// Parses a certificate chain, with the server's certificate first, and a private key, both in PEM.
    ///
    /// # Errors
    /// `InvalidInput` if one of them is not PEM or is empty, or if they do not belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self> {
        let invalid = |what: &str, why: &dyn fmt::Display| {
            Error::new(ErrorKind::InvalidInput, what, format!("cannot be used for TLS: {why}"))
        };
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| invalid("the certificate", &error))?;
        if chain.is_empty() {
            return Err(invalid("the certificate", &"it contains no PEM certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("the key", &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("TLS", &error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| invalid("the certificate with its key", &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Reads the certificate chain and the key from files.
    ///
    /// # Errors
    /// As for [`TlsIdentity::from_pem`]; `InvalidInput` if a file cannot be read.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, path.display(), format!("cannot read: {error}"))
                    .with_source(error)
            })
        };
        Self::from_pem(&read(certificates)?, &read(key)?)
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.0).into()
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_pair_is_accepted() {
        let pair = || {
            let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            (signed.cert.pem(), signed.signing_key.serialize_pem())
        };
        let ((certificate, key), (other, _)) = (pair(), pair());
        assert!(TlsIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).is_ok());
        for (certificate, key) in [(&other, &key), (&key, &key), (&certificate, &certificate)] {
            let error = TlsIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(!error.to_string().contains("PRIVATE"), "{error}");
        }
    }
}
