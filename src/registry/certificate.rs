//! Trust in the certificates that the user names.
//!
//! They are added to the system's authorities. In addition, a server may present a named certificate itself: `openssl req
//! -x509` makes certificates that are their own authority, which RFC 5280 does not allow for servers, though the user trusts
//! that certificate. It is accepted if it is byte for byte a named one, within its dates, and valid for the host's name. The
//! handshake's signature proves, as always, that the server has its key.

use crate::oci::rfc3339::parse_rfc3339;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The TLS settings that trust `named` (PEM, one or more certificates each) in addition to the system's authorities.
/// `identity` is the client's certificate and key, both in one PEM.
///
/// # Errors
/// For invalid certificates or keys.
pub(super) fn client_config(named: &[Vec<u8>], identity: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let unreadable =
        |error: rustls::pki_types::pem::Error| TlsError::General(format!("invalid PEM: {error}"));
    let read = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let mut anchors: Vec<CertificateDer<'static>> = Vec::new();
    for pem in named {
        anchors.extend(read(pem).map_err(unreadable)?);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = NamedVerifier::new(anchors, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match identity {
        Some(pem) => {
            let key = PrivateKeyDer::from_pem_slice(pem).map_err(unreadable)?;
            builder.with_client_auth_cert(read(pem).map_err(unreadable)?, key)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The reason that webpki gave for a refusal that rustls has no variant for.
///
/// Both must use the same version of webpki, which `named_self_signed_certificate_is_trusted` notices.
pub(super) fn webpki_reason(error: &CertificateError) -> Option<&webpki::Error> {
    match error {
        CertificateError::Other(cause) => cause.0.downcast_ref(),
        _ => None,
    }
}

/// Whether a certificate was refused only because it is an authority's certificate.
pub(super) fn is_authority_itself(error: &CertificateError) -> bool {
    matches!(webpki_reason(error), Some(webpki::Error::CaUsedAsEndEntity))
}

/// The platform's verifier, extended by the named certificates.
#[derive(Debug)]
struct NamedVerifier {
    platform: rustls_platform_verifier::Verifier,
    anchors: Vec<CertificateDer<'static>>,
}

impl NamedVerifier {
    fn new(anchors: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let platform =
            rustls_platform_verifier::Verifier::new_with_extra_roots(anchors.iter().cloned(), provider)?;
        Ok(Self { platform, anchors })
    }
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let refused = match self.platform.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Err(TlsError::InvalidCertificate(refused)) => refused,
            other => return other,
        };
        let is_named = self.anchors.iter().any(|anchor| anchor.as_ref() == end_entity.as_ref());
        if !is_named || !is_authority_itself(&refused) {
            return Err(refused.into());
        }
        check_dates(end_entity, now)?;
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.platform.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.platform.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.platform.supported_verify_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (not_before, not_after) = dates(certificate.as_ref()).ok_or(CertificateError::BadEncoding)?;
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

/// The validity of a certificate: `notBefore` and `notAfter` (RFC 5280 4.1).
fn dates(certificate: &[u8]) -> Option<(UnixTime, UnixTime)> {
    const SEQUENCE: u8 = 0x30;
    let inside = |bytes| element(bytes).filter(|(tag, ..)| *tag == SEQUENCE).map(|(_, content, _)| content);
    let mut rest = inside(inside(certificate)?)?;
    // The optional version, then serial number, signature algorithm and issuer.
    if element(rest)?.0 == 0xa0 {
        rest = element(rest)?.2;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (tag, from, rest) = element(inside(rest)?)?;
    let (other, to, _) = element(rest)?;
    Some((time(tag, from)?, time(other, to)?))
}

/// The first DER element: its tag, its content and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// A `UTCTime` (tag 23: years 1950 to 2049 with two digits) or `GeneralizedTime` (tag 24).
fn time(tag: u8, digits: &[u8]) -> Option<UnixTime> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.is_ascii())?;
    let text = match tag {
        23 if text.get(..2)? < "50" => format!("20{text}"),
        23 => format!("19{text}"),
        24 => text.to_owned(),
        _ => return None,
    };
    let part = |range: std::ops::Range<usize>| text.get(range);
    let (date, clock) =
        ((part(0..4)?, part(4..6)?, part(6..8)?), (part(8..10)?, part(10..12)?, text.get(12..)?));
    let time = format!("{}-{}-{}T{}:{}:{}", date.0, date.1, date.2, clock.0, clock.1, clock.2);
    let since = parse_rfc3339(&time)?.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Some(UnixTime::since_unix_epoch(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_times_are_parsed() {
        let seconds = |tag, text: &str| time(tag, text.as_bytes()).map(|time| time.as_secs());
        for (tag, text, expect) in [
            (23, "700101000000Z", Some(0)),
            (23, "240229120000Z", Some(1_709_208_000)),
            (23, "500101000000Z", None),
            (24, "20240229120000Z", Some(1_709_208_000)),
            (24, "20500101000000Z", Some(2_524_608_000)),
            (23, "2402291200Z", None),
            (23, "", None),
            (22, "240229120000Z", None),
        ] {
            assert_eq!(seconds(tag, text), expect, "{text}");
        }
    }

    #[test]
    fn certificate_dates_are_found_and_checked() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["r.io".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let (from, to) = dates(certificate.der()).unwrap();
        assert_eq!((from.as_secs(), to.as_secs()), (1_709_164_800, 2_556_144_000));
        let at = |seconds| {
            check_dates(certificate.der(), UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        };
        assert!(matches!(at(from.as_secs() - 1), Err(CertificateError::NotValidYetContext { .. })));
        assert!(at(from.as_secs()).is_ok() && at(to.as_secs()).is_ok());
        assert!(matches!(at(to.as_secs() + 1), Err(CertificateError::ExpiredContext { .. })));
        for end in 0..certificate.der().len() / 2 {
            let _ = dates(&certificate.der()[..end]);
        }
    }
}
