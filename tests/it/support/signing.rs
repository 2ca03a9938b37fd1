//! Signatures made by openssl, in the forms in which cosign attaches them.

use super::fault::FaultServer;
use super::peers::succeed;
use super::program::Home;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use saver::oci::referrer::{ReferrerTag, ReferrerTagKind};
use saver::oci::{Digest, media_type};
use serde_json::{Value, json};
use std::path::PathBuf;

pub(crate) const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// The kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

/// A key pair in two files.
pub(crate) struct Key {
    kind: KeyKind,
    private: PathBuf,
    pub(crate) public: PathBuf,
}

impl Key {
    /// Makes a key; its files are named after it.
    pub(crate) fn new(home: &Home, name: &str, kind: KeyKind) -> Self {
        let (private, public) = (home.path(&format!("{name}.key")), home.path(&format!("{name}.pub")));
        let options: &[&str] = match kind {
            KeyKind::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            KeyKind::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            KeyKind::Ed25519 => &["-algorithm", "ED25519"],
            KeyKind::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let mut make = vec!["genpkey", "-out", private.to_str().unwrap()];
        make.extend(options);
        succeed("openssl", make);
        succeed(
            "openssl",
            ["pkey", "-in", private.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()],
        );
        Self { kind, private, public }
    }

    /// The signature of `message`.
    pub(crate) fn sign(&self, home: &Home, message: &[u8]) -> Vec<u8> {
        let (input, output) = (home.path("message"), home.path("signature"));
        std::fs::write(&input, message).unwrap();
        let (key, input, out) =
            (self.private.to_str().unwrap(), input.to_str().unwrap(), output.to_str().unwrap());
        if self.kind == KeyKind::Ed25519 {
            succeed("openssl", ["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", input, "-out", out]);
        } else {
            succeed("openssl", ["dgst", "-sha256", "-sign", key, "-out", out, input]);
        }
        std::fs::read(&output).unwrap()
    }

    /// The requirement that this key has signed, with further fields.
    pub(crate) fn requirement(&self, more: Value) -> Value {
        let mut requirement = json!({ "type": "sigstoreSigned", "keyPath": self.public });
        for (field, value) in more.as_object().unwrap() {
            requirement[field] = value.clone();
        }
        requirement
    }
}

/// What cosign signs: that `digest` is the image `reference`.
pub(crate) fn payload(reference: &str, digest: &Digest) -> String {
    json!({ "critical": {
        "identity": { "docker-reference": reference },
        "image": { "docker-manifest-digest": digest },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string()
}

/// A payload and the annotations with its signature.
pub(crate) type SimpleSignature = (String, Value);

/// The signature of `payload`, as an annotation.
pub(crate) fn simple_signature(home: &Home, key: &Key, payload: &str) -> SimpleSignature {
    let signature = STANDARD.encode(key.sign(home, payload.as_bytes()));
    (payload.to_owned(), json!({ SIGNATURE: signature }))
}

/// Attaches signatures to `subject` by cosign's tag.
pub(crate) fn attach_simple(
    server: &FaultServer,
    repository: &str,
    subject: &Digest,
    signatures: &[SimpleSignature],
) {
    let mut layers = Vec::new();
    for (payload, annotations) in signatures {
        let mut layer = json!(server.add_blob(SIMPLE_SIGNING, payload.clone()));
        layer["annotations"] = annotations.clone();
        layers.push(layer);
    }
    let config = server.add_blob(
        media_type::OCI_CONFIG,
        r#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#,
    );
    let document = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers });
    let tag = ReferrerTag { subject: *subject, kind: ReferrerTagKind::Signature }.tag();
    server.add_manifest(repository, Some(tag.as_str()), media_type::OCI_MANIFEST, document.to_string());
}

/// A bundle with a statement about `digest`, as cosign 3 makes them with a key and without a log.
pub(crate) fn statement_bundle(home: &Home, key: &Key, name: &str, digest: &str, predicate: &str) -> Value {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
        "subject": [{ "name": name, "digest": { "sha256": digest } }],
    })
    .to_string();
    let kind = "application/vnd.in-toto+json";
    let signed = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
    let signature = STANDARD.encode(key.sign(home, signed.as_bytes()));
    json!({
        "mediaType": BUNDLE, "verificationMaterial": { "publicKey": { "hint": "" } },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&statement), "payloadType": kind,
            "signatures": [{ "sig": signature, "keyid": "" }],
        },
    })
}

/// A bundle with the signature of a manifest itself.
pub(crate) fn message_bundle(home: &Home, key: &Key, manifest: &[u8]) -> Value {
    json!({
        "mediaType": BUNDLE, "verificationMaterial": { "publicKey": { "hint": "" } },
        "messageSignature": { "signature": STANDARD.encode(key.sign(home, manifest)) },
    })
}

/// Attaches a bundle to `subject` as its referrer.
pub(crate) fn attach_bundle(
    server: &FaultServer,
    repository: &str,
    subject: &Digest,
    bundle: &str,
) -> Digest {
    let config = server.add_blob(media_type::OCI_EMPTY, "{}");
    let layer = server.add_blob(BUNDLE, bundle.to_owned());
    let (_, image) = server.manifest(repository, &subject.to_string()).unwrap();
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": BUNDLE, "config": config,
        "layers": [layer],
        "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": image.len() },
    });
    server.add_manifest(repository, None, media_type::OCI_MANIFEST, document.to_string())
}
