//! Sigstore bundles: signatures with everything that is needed to verify them, in one document.

use super::certificate::certificates;
use super::simple_signing::SimpleSignature;
use super::{Verdict, base64};
use crate::oci::Digest;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::json;
use sigstore_verify::crypto::sha256;
use sigstore_verify::types::bundle::{TimestampVerificationData, VerificationMaterialContent};
use sigstore_verify::types::{
    Bundle, Sha256Hash, SignatureBytes, SignatureContent, SignedTimestamp, Statement,
};

/// The predicate of a signature of an image, as cosign makes it.
const SIGNATURE_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

/// Whether a layer of this media type is a bundle.
pub(super) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

/// # Errors
/// That it is malformed.
pub(super) fn parse(bytes: &[u8]) -> Verdict<Bundle> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the bundle is not UTF-8".to_owned())?;
    Bundle::from_json(text).map_err(|error| format!("the bundle cannot be parsed: {error}"))
}

/// The bytes that were signed, and the signature. `manifest` is the artifact.
///
/// # Errors
/// That the bundle has an unknown content.
pub(super) fn signed_message(bundle: &Bundle, manifest: &[u8]) -> Verdict<(Vec<u8>, SignatureBytes)> {
    match &bundle.content {
        SignatureContent::MessageSignature(message) => Ok((manifest.to_vec(), message.signature.clone())),
        SignatureContent::DsseEnvelope(envelope) => Ok((envelope.pae(), envelope.signature.sig.clone())),
        _ => Err("the bundle has an unknown content".to_owned()),
    }
}

/// The certificates of the bundle, the signer's first.
pub(super) fn chain(bundle: &Bundle) -> Vec<CertificateDer<'_>> {
    match &bundle.verification_material.content {
        VerificationMaterialContent::Certificate(leaf) => {
            vec![CertificateDer::from(leaf.raw_bytes.as_bytes())]
        }
        VerificationMaterialContent::X509CertificateChain { certificates } => {
            certificates.iter().map(|one| CertificateDer::from(one.raw_bytes.as_bytes())).collect()
        }
        _ => Vec::new(),
    }
}

/// The bundle without its timestamps, which count only where an authority for them is trusted.
pub(super) fn without_timestamps(bundle: &Bundle) -> Bundle {
    let mut bundle = bundle.clone();
    bundle.verification_material.timestamp_verification_data = TimestampVerificationData::default();
    bundle
}

/// The names that a bundle, whose signature was verified, gives the manifest `digest`. None if it signs the digest alone, as
/// cosign 3 does.
///
/// # Errors
/// That it is a statement about something else, or no signature.
pub(super) fn signed_names(bundle: &Bundle, digest: &Digest) -> Verdict<Vec<String>> {
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else { return Ok(Vec::new()) };
    if envelope.payload_type != STATEMENT_TYPE {
        return Err(format!("the bundle's payload has the type {:?}", envelope.payload_type));
    }
    let statement: Statement = serde_json::from_slice(envelope.payload.as_bytes())
        .map_err(|error| format!("the bundle's statement cannot be parsed: {error}"))?;
    let hash = Sha256Hash::from_hex(&digest.hex()).map_err(|error| error.to_string())?;
    let subjects = statement.subject.iter().filter(|subject| subject.digest.sha256 == Some(hash));
    let names: Vec<&str> = subjects.map(|subject| subject.name.as_str()).collect();
    if names.is_empty() {
        return Err("the bundle's statement is about another digest".to_owned());
    }
    if statement.predicate_type != SIGNATURE_PREDICATE {
        return Err(format!("it is an attestation ({}), not a signature", statement.predicate_type));
    }
    Ok(names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The entry of the log that cosign keeps beside a signature.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogEntry {
    #[serde(rename = "SignedEntryTimestamp")]
    timestamp: SignedTimestamp,
    #[serde(rename = "Payload")]
    payload: LogPayload,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogPayload {
    body: String,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logIndex")]
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// cosign's signature as a bundle: of the payload, with the promise of the log and the certificates.
///
/// # Errors
/// What is missing or malformed.
pub(super) fn of_simple_signature(signature: &SimpleSignature<'_>) -> Verdict<Bundle> {
    let entry = signature.log_entry.ok_or("it has no entry of a transparency log")?;
    let LogEntry { timestamp, payload } =
        serde_json::from_str(entry).map_err(|error| format!("its log entry cannot be parsed: {error}"))?;
    let log_id = Sha256Hash::from_hex(&payload.log_id).map_err(|error| format!("its log entry: {error}"))?;
    let mut chain = Vec::new();
    for pem in [signature.certificate, signature.chain].into_iter().flatten() {
        chain.extend(certificates(pem.as_bytes()).map_err(|why| format!("its certificate {why}"))?);
    }
    let certificates: Vec<_> = chain.iter().map(|one| json!({ "rawBytes": base64(one) })).collect();
    let material = if certificates.is_empty() {
        json!({ "publicKey": { "hint": "" } })
    } else {
        json!({ "x509CertificateChain": { "certificates": certificates } })
    };
    let mut document = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": material,
        "messageSignature": {
            "messageDigest": {
                "algorithm": "SHA2_256",
                "digest": base64(sha256(signature.payload).as_bytes()),
            },
            "signature": signature.signature,
        },
    });
    document["verificationMaterial"]["tlogEntries"] = json!([{
        "logIndex": payload.log_index.to_string(),
        "logId": { "keyId": base64(log_id.as_bytes()) },
        "kindVersion": { "kind": "hashedrekord", "version": "0.0.1" },
        "integratedTime": payload.integrated_time.to_string(),
        "inclusionPromise": { "signedEntryTimestamp": timestamp },
        "canonicalizedBody": payload.body,
    }]);
    serde_json::from_value(document).map_err(|error| format!("its log entry cannot be parsed: {error}"))
}
