//! Describes failed TLS handshakes.

use super::certificate::{is_authority_itself, webpki_reason};
use super::message::{failure, quotable};
use crate::error::{Error, ErrorKind};
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error as Tls};
use std::fmt::Debug;
use std::time::{Duration, UNIX_EPOCH};

/// The most names of a certificate that a message lists.
const MAX_NAMES: usize = 5;

/// The error of a failed handshake with `host`; `place` is the host with its port.
pub(super) fn tls_failure(subject: &str, host: &str, place: &str, tls: &Tls) -> Error {
    match tls {
        Tls::InvalidCertificate(reason) => {
            let (why, advice) = refusal(host, reason);
            failure(
                ErrorKind::Certificate,
                subject,
                format!("the certificate of {place} is not accepted: {why}"),
            )
            .with_hint(format!("{advice}, or disable verification with --insecure-tls {place}"))
        }
        Tls::NoCertificatesPresented => {
            failure(ErrorKind::Certificate, subject, format!("{place} sent no certificate"))
        }
        Tls::AlertReceived(alert) if wants_certificate(*alert) => failure(
            ErrorKind::Unauthorized,
            subject,
            format!("{place} requires a client certificate, or another one: TLS alert {}", spaced(alert)),
        )
        .with_hint(format!("put client.cert and client.key for {place} into its directory below --cert-dir")),
        Tls::InvalidMessage(_) => {
            failure(ErrorKind::Unsupported, subject, format!("{place} does not speak TLS"))
                .with_hint(format!("if it serves plain HTTP, allow that with --plain-http {place}"))
        }
        other => {
            failure(ErrorKind::Unavailable, subject, format!("TLS with {place} failed: {}", broken(other)))
        }
    }
}

/// Why a certificate is not accepted, and what to do about it.
fn refusal(host: &str, reason: &CertificateError) -> (String, String) {
    use CertificateError as Reason;
    let trust = "trust it, or its authority, with --ca-file FILE".to_owned();
    let renew = "ask the registry's operator to renew it".to_owned();
    let other = "ask the registry's operator for a valid server certificate".to_owned();
    match reason {
        Reason::UnknownIssuer => {
            ("it is self-signed, or signed by an authority that is not trusted".into(), trust)
        }
        reason if is_authority_itself(reason) => ("it is self-signed and not trusted".into(), trust),
        Reason::ExpiredContext { not_after, .. } => (format!("it expired on {}", date(*not_after)), renew),
        Reason::Expired => ("it has expired".into(), renew),
        Reason::NotValidYetContext { not_before, .. } => {
            (format!("it is not valid before {}", date(*not_before)), "check this machine's clock".into())
        }
        Reason::NotValidYet => ("it is not valid yet".into(), "check this machine's clock".into()),
        Reason::NotValidForNameContext { presented, .. } => (
            format!("it is not valid for {host} {}", names(presented)),
            "use one of the names in the certificate".into(),
        ),
        Reason::NotValidForName => {
            (format!("it is not valid for {host}"), "use one of the names in the certificate".into())
        }
        Reason::Revoked => ("it was revoked".into(), renew),
        Reason::BadEncoding => ("it is malformed".into(), other),
        Reason::BadSignature => ("its signature is invalid".into(), other),
        Reason::UnhandledCriticalExtension => ("it has an unknown critical extension".into(), other),
        Reason::UnsupportedSignatureAlgorithmContext { .. }
        | Reason::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            ("its signature algorithm is not supported".into(), other)
        }
        Reason::InvalidPurpose | Reason::InvalidPurposeContext { .. } => {
            ("it is not a server certificate".into(), other)
        }
        reason if matches!(webpki_reason(reason), Some(webpki::Error::UnsupportedCertVersion)) => {
            ("it is not an X.509 version 3 certificate".into(), other)
        }
        _ => ("it fails the checks of RFC 5280".into(), other),
    }
}

fn broken(error: &Tls) -> String {
    match error {
        Tls::AlertReceived(alert) => format!("the server sent the alert: {}", spaced(alert)),
        Tls::PeerIncompatible(_) => "no TLS version or cipher in common".into(),
        Tls::PeerMisbehaved(_)
        | Tls::InappropriateMessage { .. }
        | Tls::InappropriateHandshakeMessage { .. } => "the server violated the protocol".into(),
        Tls::DecryptError => "decryption failed".into(),
        Tls::NoApplicationProtocol => "no HTTP version in common".into(),
        _ => "the handshake failed".into(),
    }
}

/// The names that a certificate is valid for.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "or any other host: it has no subjectAltName".into();
    }
    // They come as `DnsName("a.io")` and `IpAddress(10.0.0.1)`.
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        quotable(inner.trim_matches('"'))
    };
    let mut shown = presented.iter().take(MAX_NAMES).map(bare).collect::<Vec<_>>().join(", ");
    if presented.len() > MAX_NAMES {
        shown.push_str(", ...");
    }
    format!("but for {shown}")
}

fn date(time: UnixTime) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.as_secs().min(253_402_300_799)))
}

/// A name like `HandshakeFailure` as words.
fn spaced(name: &impl Debug) -> String {
    let mut words = String::new();
    for c in format!("{name:?}").chars() {
        if c.is_ascii_uppercase() && words.ends_with(|last: char| last.is_ascii_lowercase()) {
            words.push(' ');
        }
        words.push(c);
    }
    words.to_ascii_lowercase()
}

/// How servers say that they do not like the certificate they were shown, or that there was none (RFC 8446 6.2).
fn wants_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{OtherError, PeerIncompatible};
    use std::sync::Arc;

    #[test]
    fn reasons_are_words_and_never_a_program_s_values() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("r.io").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        for (error, words) in [
            (CertificateError::UnknownIssuer.into(), "not trusted"),
            (
                CertificateError::ExpiredContext { time: at(9), not_after: at(0) }.into(),
                "expired on Thu, 01 Jan 1970",
            ),
            (
                CertificateError::NotValidYetContext { time: at(9), not_before: at(0) }.into(),
                "not valid before Thu",
            ),
            (
                name(&["DnsName(\"a.io\")", "IpAddress(10.0.0.1)"]).into(),
                "it is not valid for r.io but for a.io, 10.0.0.1",
            ),
            (name(&[]).into(), "no subjectAltName"),
            (
                CertificateError::Other(OtherError(Arc::new(std::io::Error::other("Odd { x: 1 }")))).into(),
                "RFC 5280",
            ),
            (Tls::AlertReceived(AlertDescription::HandshakeFailure), "sent the alert: handshake failure"),
            (Tls::AlertReceived(AlertDescription::UnknownCA), "requires a client certificate"),
            (Tls::PeerIncompatible(PeerIncompatible::Tls12NotOffered), "in common"),
        ] {
            let error = tls_failure("x", "r.io", "r.io:5000", &error);
            let text = format!("{error} {}", error.hint().unwrap_or_default());
            assert!(text.contains(words), "{text}");
            assert!(!text.contains(['{', '(', ')']) && !text.contains("Other"), "{text}");
        }
    }
}
