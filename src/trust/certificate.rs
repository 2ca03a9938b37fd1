//! Signatures with certificates of a private authority (`pki`).

use super::Verdict;
use super::key::PublicKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use sigstore_verify::crypto::{SubjectAltName, WEBPKI_VERIFICATION_ALGS, parse_certificate_info};
use sigstore_verify::types::DerCertificate;
use std::fmt;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// The extended key usage `codeSigning`, 1.3.6.1.5.5.7.3.3.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

/// A private authority, and whom its certificates must be for.
pub(super) struct Pki {
    pub(super) roots: Vec<TrustAnchor<'static>>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) email: Option<String>,
    pub(super) hostname: Option<ServerName<'static>>,
}

impl Pki {
    /// The key of `leaf`, if it is valid now for signing code, and for the subject. `chain` are untrusted certificates above it.
    ///
    /// # Errors
    /// Why the certificate is not accepted.
    pub(super) fn accept(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Verdict<PublicKey> {
        let refused = |error: webpki::Error| format!("its certificate is not valid: {error}");
        let certificate = EndEntityCert::try_from(leaf).map_err(refused)?;
        let intermediates: Vec<CertificateDer<'_>> =
            self.intermediates.iter().chain(chain).cloned().collect();
        certificate
            .verify_for_usage(
                WEBPKI_VERIFICATION_ALGS,
                &self.roots,
                &intermediates,
                UnixTime::now(),
                KeyUsage::required(CODE_SIGNING),
                None,
                None,
            )
            .map_err(refused)?;
        if let Some(hostname) = &self.hostname {
            certificate
                .verify_is_valid_for_subject_name(hostname)
                .map_err(|_| format!("its certificate is not for {}", hostname.to_str()))?;
        }
        let info =
            parse_certificate_info(&DerCertificate::new(leaf.to_vec())).map_err(|error| error.to_string())?;
        if let Some(email) = &self.email {
            match &info.identity {
                Some(SubjectAltName::Email(found)) if found == email => {}
                Some(other) => return Err(format!("its certificate is for {other}, not {email}")),
                None => return Err(format!("its certificate is not for {email}")),
            }
        }
        PublicKey::from_der(info.public_key)
    }
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki")
            .field("email", &self.email)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// The certificates of PEM text, of which there must be one.
///
/// # Errors
/// That there is none, or one is malformed.
pub(super) fn certificates(pem: &[u8]) -> Verdict<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("cannot be parsed as PEM: {error}"))?;
    if found.is_empty() { Err("contains no certificate in PEM".to_owned()) } else { Ok(found) }
}

/// The trust anchors of PEM text.
///
/// # Errors
/// As `certificates`.
pub(super) fn anchors(pem: &[u8]) -> Verdict<Vec<TrustAnchor<'static>>> {
    let anchor = |certificate: &CertificateDer<'static>| {
        let anchor =
            anchor_from_trusted_cert(certificate).map_err(|error| format!("invalid certificate: {error}"))?;
        Ok(anchor.to_owned())
    };
    certificates(pem)?.iter().map(anchor).collect()
}
