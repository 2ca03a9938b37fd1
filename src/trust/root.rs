//! What is trusted besides a policy's own keys: a trusted root, as sigstore publishes it.

use super::key::PublicKey;
use super::{Verdict, base64, invalid, read_file};
use crate::error::Result;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use sigstore_verify::Verifier;
use sigstore_verify::crypto::sha256;
use sigstore_verify::trust_root::TrustedRoot;
use std::path::Path;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";

/// A trusted root (`trusted_root.json`): the certificate authorities, transparency logs and timestamp authorities of a sigstore
/// instance, with the times at which they are valid.
#[derive(Clone, Debug)]
pub struct TrustRoot {
    root: TrustedRoot,
}

impl TrustRoot {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// `InvalidInput` if it cannot be read, or is not a trusted root.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let read = |bytes: Vec<u8>| -> Verdict<Self> {
            let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
            let root = Self { root: TrustedRoot::from_json(&text).map_err(|error| error.to_string())? };
            root.verifier()?;
            Ok(root)
        };
        read(read_file(path)?).map_err(|why| invalid(path.display(), format!("not a trusted root: {why}")))
    }

    /// A root without authorities and logs.
    pub(super) fn empty() -> Verdict<Self> {
        Self::from_value(json!({ "mediaType": MEDIA_TYPE }))
    }

    fn from_value(document: serde_json::Value) -> Verdict<Self> {
        serde_json::from_value(document).map(|root| Self { root }).map_err(|error| error.to_string())
    }

    /// Trusts these logs instead.
    pub(super) fn with_logs(mut self, keys: &[PublicKey]) -> Verdict<Self> {
        let logs: Vec<_> = keys
            .iter()
            .map(|key| {
                let id = base64(sha256(key.der.as_bytes()).as_bytes());
                json!({
                    "baseUrl": "", "hashAlgorithm": "SHA2_256", "logId": { "keyId": id },
                    "publicKey": { "rawBytes": key.der, "keyDetails": "PUBLIC_KEY_DETAILS_UNSPECIFIED" },
                })
            })
            .collect();
        self.root.tlogs = Self::from_value(json!({ "mediaType": MEDIA_TYPE, "tlogs": logs }))?.root.tlogs;
        Ok(self)
    }

    /// Trusts these certificate authorities instead.
    pub(super) fn with_authorities(mut self, certificates: &[CertificateDer<'static>]) -> Verdict<Self> {
        let authorities: Vec<_> = certificates
            .iter()
            .map(|certificate| {
                let certificate = base64(certificate);
                json!({ "uri": "", "certChain": { "certificates": [{ "rawBytes": certificate }] } })
            })
            .collect();
        let root =
            Self::from_value(json!({ "mediaType": MEDIA_TYPE, "certificateAuthorities": authorities }))?;
        self.root.certificate_authorities = root.root.certificate_authorities;
        Ok(self)
    }

    /// # Errors
    /// Which key or certificate is malformed.
    pub(super) fn verifier(&self) -> Verdict<Verifier> {
        Verifier::new(&self.root).map_err(|error| error.to_string())
    }
}
