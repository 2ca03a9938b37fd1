//! The server's certificate and key.

use crate::error::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A certificate chain and its private key: what a server needs to speak TLS.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// Reads a chain (the server's certificate first) and a key, both PEM.
    ///
    /// # Errors
    /// `InvalidInput` if one is not PEM, is empty, or the two don't belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self> {
        let refuse = |what: &str, why: &dyn fmt::Display| {
            Error::new(ErrorKind::InvalidInput, what, format!("can't be used for TLS: {why}"))
        };
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| refuse("the certificate", &error))?;
        if chain.is_empty() {
            return Err(refuse("the certificate", &"no PEM certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| refuse("the key", &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse("TLS", &error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| refuse("the certificate with its key", &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Reads the two from files.
    ///
    /// # Errors
    /// As [`TlsIdentity::from_pem`]; `InvalidInput` if a file can't be read.
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
    fn a_pair_that_fits_is_accepted_and_others_are_refused() {
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
