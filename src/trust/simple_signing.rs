//! cosign's signatures: a payload in the form of containers-signature(5), "JSON data format", and its signature, certificate and log
//! entry in annotations of the layer.

use super::Verdict;
use crate::content::SignatureLayer;
use crate::oci::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use sigstore_verify::types::SignatureBytes;

/// The media type of the layers.
pub(super) const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const LOG_ENTRY: &str = "dev.sigstore.cosign/bundle";
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// A payload and its signature, neither of them verified.
pub(super) struct SimpleSignature<'a> {
    pub(super) payload: &'a [u8],
    pub(super) signature: SignatureBytes,
    /// The signing certificate, in PEM.
    pub(super) certificate: Option<&'a str>,
    /// The certificates above it, in PEM, the root last.
    pub(super) chain: Option<&'a str>,
    /// The entry of the transparency log, in JSON.
    pub(super) log_entry: Option<&'a str>,
}

impl<'a> SimpleSignature<'a> {
    /// # Errors
    /// What is missing or malformed.
    pub(super) fn read(layer: &'a SignatureLayer) -> Verdict<Self> {
        let annotation =
            |key: &str| layer.annotations.get(key).map(String::as_str).filter(|text| !text.is_empty());
        let signature =
            annotation(SIGNATURE).ok_or_else(|| format!("the annotation {SIGNATURE} is missing"))?;
        let signature =
            STANDARD.decode(signature).map_err(|error| format!("the signature is not base64: {error}"))?;
        Ok(Self {
            payload: &layer.bytes,
            signature: SignatureBytes::new(signature),
            certificate: annotation(CERTIFICATE),
            chain: annotation(CHAIN),
            log_entry: annotation(LOG_ENTRY),
        })
    }
}

/// What a payload says. Unknown keys are refused, except below `optional`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    /// The signer's annotations.
    #[serde(rename = "optional")]
    _optional: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: SignedImage,
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// The name in a payload whose signature was verified, if it is for `digest`.
///
/// # Errors
/// That it is malformed, or for another digest.
pub(super) fn signed_name(payload: &[u8], digest: &Digest) -> Verdict<String> {
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|error| format!("the signed payload cannot be parsed: {error}"))?;
    let Critical { kind, image, identity } = payload.critical;
    if kind != PAYLOAD_TYPE {
        return Err(format!("the signed payload has the type {kind:?}"));
    }
    if image.digest != digest.to_string() {
        return Err(format!("it is for the digest {}", image.digest));
    }
    Ok(identity.reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_must_be_for_the_digest() {
        let digest = Digest::of(b"manifest");
        let payload = |kind: &str, digest: &str, optional: &str, more: &str| {
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"r.io/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"{more}}},"optional":{optional}}}"#
            )
        };
        let own = digest.to_string();
        for (payload, expected) in [
            (payload(PAYLOAD_TYPE, &own, "null", ""), Ok("r.io/a")),
            (payload(PAYLOAD_TYPE, &own, r#"{"creator":"x","timestamp":1}"#, ""), Ok("r.io/a")),
            (payload("atomic container signature", &own, "null", ""), Err("has the type")),
            (payload(PAYLOAD_TYPE, &Digest::of(b"other").to_string(), "null", ""), Err("is for the digest")),
            (payload(PAYLOAD_TYPE, &own, "null", r#","other":1"#), Err("unknown field `other`")),
            (payload(PAYLOAD_TYPE, &own, "null", r#","type":"x""#), Err("duplicate field")),
            ("{}".to_owned(), Err("missing field")),
            (String::new(), Err("cannot be parsed")),
        ] {
            let found = signed_name(payload.as_bytes(), &digest);
            match expected {
                Ok(name) => assert_eq!(found.as_deref(), Ok(name), "{payload}"),
                Err(reason) => {
                    let error = found.expect_err(&payload);
                    assert!(error.contains(reason), "{payload}: {error}");
                }
            }
        }
    }
}
