//! Signatures with certificates and transparency logs: those of public tools, and such as need an authority and a log of their own.

use super::*;
use crate::content::{SignatureLayer, SignaturePolicy, SignedManifest};
use crate::error::{Detail, ErrorKind};
use crate::oci::{Digest, Reference};
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SigningKey,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const ISSUER: &str = "https://github.com/login/oauth";

fn testdata(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/trust").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn policy(requirement: &Value, options: &PolicyOptions) -> Policy {
    let document = json!({ "default": [requirement] }).to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    std::fs::write(&path, document).unwrap();
    Policy::read(&path, options).unwrap()
}

/// Why an artifact with one signature is not accepted as r.io/app:v1; nothing if it is.
fn refusal(policy: &Policy, artifact: &[u8], layer: SignatureLayer) -> Option<String> {
    let manifest = SignedManifest { digest: Digest::of(artifact), bytes: Bytes::copy_from_slice(artifact) };
    let reference = Reference::parse("r.io/app:v1").unwrap();
    assert!(policy.needs_signatures(&reference));
    let error = policy.check(&reference, &manifest, &[layer]).err()?;
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
    let Some(Detail::Signatures { rejected, .. }) = error.detail() else { panic!("{error}") };
    Some(rejected.join("; "))
}

fn layer(media_type: &str, bytes: impl Into<Bytes>, annotations: BTreeMap<String, String>) -> SignatureLayer {
    SignatureLayer { media_type: media_type.to_owned(), annotations, bytes: bytes.into() }
}

/// Asserts that `found` is nothing, or the reason that is given.
fn assert_refusal(case: &str, found: Option<String>, expected: Option<&str>) {
    match (&found, expected) {
        (None, None) => {}
        (Some(found), Some(expected)) if found.contains(expected) => {}
        _ => panic!("{case}: expected {expected:?}, got {found:?}"),
    }
}

/// A trusted root without one of its parts, or with another validity.
fn root(name: &str, change: impl FnOnce(&mut Value)) -> TrustRoot {
    let mut document: Value = serde_json::from_str(&testdata(name)).unwrap();
    change(&mut document);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("root.json"), document.to_string()).unwrap();
    TrustRoot::read(dir.path().join("root.json")).unwrap()
}

fn keep(_: &mut Value) {}

#[test]
fn public_bundle_needs_every_part_of_its_proof() {
    type Change = fn(&mut Value);
    let empty = |part: &'static str| move |root: &mut Value| root[part] = json!([]);
    let v1: Change = keep;
    let no_proof: Change = |bundle| {
        let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
        entry.as_object_mut().unwrap().remove("inclusionProof");
    };
    let no_entry: Change = |bundle| bundle["verificationMaterial"]["tlogEntries"] = json!([]);
    let no_timestamp: Change = |bundle| {
        bundle["verificationMaterial"].as_object_mut().unwrap().remove("timestampVerificationData");
    };
    let other_signature: Change = |bundle| {
        let signature = bundle["messageSignature"]["signature"].as_str().unwrap().to_owned();
        bundle["messageSignature"]["signature"] = signature.replacen("ME", "MF", 1).into();
    };
    let other_hash: Change = |bundle| {
        let hash = &mut bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["hashes"][0];
        *hash = base64(&[7; 32]).into();
    };
    let other_tree: Change = |bundle| {
        let checkpoint =
            &mut bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"];
        let text = checkpoint["envelope"].as_str().unwrap().to_owned();
        let (origin, rest) = text.split_once('\n').unwrap();
        let (size, rest) = rest.split_once('\n').unwrap();
        let size: u64 = size.parse().unwrap();
        checkpoint["envelope"] = format!("{origin}\n{}\n{rest}", size + 1).into();
    };
    let other_time: Change = |bundle| {
        let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
        let time: i64 = entry["integratedTime"].as_str().unwrap().parse().unwrap();
        entry["integratedTime"] = (time + 1).to_string().into();
    };
    let (own, staging) = ("public-good.json", "staging.json");
    let (author, other) = ("w.vollprecht@gmail.com", "jku@goto.fi");
    for (case, bundle, change, root, email, issuer, expected) in [
        ("v1", "rekor-v1", v1, self::root(own, keep), author, ISSUER, None),
        ("v2", "rekor-v2", v1, self::root(staging, keep), other, ISSUER, None),
        (
            "v2 without timestamp",
            "rekor-v2",
            no_timestamp,
            self::root(staging, keep),
            other,
            ISSUER,
            Some("imestamp"),
        ),
        (
            "v2 other checkpoint",
            "rekor-v2",
            other_tree,
            self::root(staging, keep),
            other,
            ISSUER,
            Some("inclusion proof verification failed"),
        ),
        ("v1 without timestamp", "rekor-v1", no_timestamp, self::root(own, keep), author, ISSUER, None),
        ("other identity", "rekor-v1", v1, self::root(own, keep), other, ISSUER, Some("dentity")),
        ("other issuer", "rekor-v1", v1, self::root(own, keep), author, "https://example.com", Some("ssuer")),
        (
            "other instance",
            "rekor-v1",
            v1,
            self::root(staging, keep),
            author,
            ISSUER,
            Some("does not match any trusted TSA"),
        ),
        (
            "no inclusion proof",
            "rekor-v1",
            no_proof,
            self::root(own, keep),
            author,
            ISSUER,
            Some("inclusion proof"),
        ),
        (
            "no entry",
            "rekor-v1",
            no_entry,
            self::root(own, keep),
            author,
            ISSUER,
            Some("must have an inclusion proof"),
        ),
        (
            "other signature",
            "rekor-v1",
            other_signature,
            self::root(own, keep),
            author,
            ISSUER,
            Some("Timestamp message hash mismatch"),
        ),
        (
            "other hash",
            "rekor-v1",
            other_hash,
            self::root(own, keep),
            author,
            ISSUER,
            Some("inclusion proof"),
        ),
        (
            "other checkpoint",
            "rekor-v1",
            other_tree,
            self::root(own, keep),
            author,
            ISSUER,
            Some("No valid Rekor signature"),
        ),
        (
            "other time",
            "rekor-v1",
            other_time,
            self::root(own, keep),
            author,
            ISSUER,
            Some("SET verification failed"),
        ),
        (
            "no authority",
            "rekor-v1",
            v1,
            self::root(own, empty("certificateAuthorities")),
            author,
            ISSUER,
            Some("no trusted certificate authority"),
        ),
        ("no log", "rekor-v1", v1, self::root(own, empty("tlogs")), author, ISSUER, Some("No log key")),
        (
            "no certificate log",
            "rekor-v1",
            v1,
            self::root(own, empty("ctlogs")),
            author,
            ISSUER,
            Some("no CT log keys"),
        ),
        (
            "no timestamps",
            "rekor-v1",
            v1,
            self::root(own, empty("timestampAuthorities")),
            author,
            ISSUER,
            Some("imestamp"),
        ),
        (
            "authority of the past",
            "rekor-v1",
            v1,
            self::root(own, |root| {
                for authority in root["certificateAuthorities"].as_array_mut().unwrap() {
                    authority["validFor"] =
                        json!({ "start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z" });
                }
            }),
            author,
            ISSUER,
            Some("no trusted certificate authority"),
        ),
    ] {
        let options =
            PolicyOptions::default().with_trusted_root(root).with_unnamed(UnnamedSignatures::Accept);
        let fulcio = json!({ "oidcIssuer": issuer, "subjectEmail": email });
        let policy = policy(&json!({ "type": "sigstoreSigned", "fulcio": fulcio }), &options);
        let artifact = testdata(&format!("{bundle}.txt"));
        let mut document: Value = serde_json::from_str(&testdata(&format!("{bundle}.json"))).unwrap();
        change(&mut document);
        let signature = || layer(BUNDLE, document.to_string(), BTreeMap::new());
        assert_refusal(case, refusal(&policy, artifact.as_bytes(), signature()), expected);
        // The same signature of something else.
        assert!(refusal(&policy, b"something else", signature()).is_some(), "{case}");
    }
}

#[test]
fn signature_with_a_key_needs_its_log_entry_where_a_log_is_required() {
    let artifact = testdata("public-key.txt");
    let log = |root: &str| -> Vec<String> {
        let root: Value = serde_json::from_str(&testdata(root)).unwrap();
        let pem = |log: &Value| {
            let key = log["publicKey"]["rawBytes"].as_str().unwrap();
            base64(format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n").as_bytes())
        };
        root["tlogs"].as_array().unwrap().iter().map(pem).collect()
    };
    let key = |name: &str| base64(testdata(name).as_bytes());
    let (own, other) = (log("public-good.json"), log("staging.json"));
    let other_key = own[0].clone();
    for (case, key, logs, with_entry, expected) in [
        ("log", key("public-key.pub"), Some(&own), true, None),
        ("no log required", key("public-key.pub"), None, true, None),
        ("no entry required", key("public-key.pub"), None, false, None),
        ("no entry", key("public-key.pub"), Some(&own), false, Some("must have an inclusion proof")),
        ("another log", key("public-key.pub"), Some(&other), true, Some("No matching Rekor key")),
        ("another key", other_key, Some(&own), true, Some("invalid signature")),
    ] {
        let mut requirement = json!({ "type": "sigstoreSigned", "keyData": key });
        if let Some(logs) = logs {
            requirement["rekorPublicKeyDatas"] = json!(logs);
        }
        let policy = policy(&requirement, &PolicyOptions::default().with_unnamed(UnnamedSignatures::Accept));
        let mut document: Value = serde_json::from_str(&testdata("public-key.json")).unwrap();
        if !with_entry {
            document["verificationMaterial"]["tlogEntries"] = json!([]);
        }
        let signature = layer(BUNDLE, document.to_string(), BTreeMap::new());
        assert_refusal(case, refusal(&policy, artifact.as_bytes(), signature), expected);
    }
}

/// An authority that gives out certificates for signing.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate says.
struct Subject<'a> {
    email: &'a str,
    issuer: &'a str,
    usage: ExtendedKeyUsagePurpose,
    /// The years at whose first days its validity begins and ends.
    years: (i32, i32),
}

impl Default for Subject<'_> {
    fn default() -> Self {
        let usage = ExtendedKeyUsagePurpose::CodeSigning;
        Self { email: "ann@example.com", issuer: "https://login.example.com", usage, years: (2020, 2100) }
    }
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate in PEM, and its key.
    fn certify(&self, subject: &Subject<'_>) -> (String, KeyPair) {
        let mut params = CertificateParams::new(vec!["build.example.com".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(subject.email.try_into().unwrap()));
        params.extended_key_usages = vec![subject.usage.clone()];
        params.not_before = rcgen::date_time_ymd(subject.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(subject.years.1, 1, 1);
        let mut issuer = vec![0x0c, u8::try_from(subject.issuer.len()).unwrap()];
        issuer.extend(subject.issuer.as_bytes());
        let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, issuer));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key)
    }
}

fn payload(artifact: &[u8]) -> String {
    json!({ "critical": {
        "identity": { "docker-reference": "r.io/app:v1" },
        "image": { "docker-manifest-digest": Digest::of(artifact) },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string()
}

/// The entry of a log for a signature of `payload`, at `time`.
fn log_entry(log: &KeyPair, payload: &str, signature: &[u8], certificate: &str, time: i64) -> String {
    let body = json!({ "apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
        "data": { "hash": { "algorithm": "sha256", "value": Digest::of(payload.as_bytes()).hex() } },
        "signature": { "content": base64(signature), "publicKey": { "content": base64(certificate.as_bytes()) } },
    }});
    let body = base64(body.to_string().as_bytes());
    let id = Digest::of(&log.subject_public_key_info()).hex();
    let promised = format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{id}","logIndex":7}}"#);
    let timestamp = base64(&log.sign(promised.as_bytes()).unwrap());
    json!({ "SignedEntryTimestamp": timestamp, "Payload": {
        "body": body, "integratedTime": time, "logIndex": 7, "logID": id,
    }})
    .to_string()
}

fn pem_of(key: &KeyPair) -> String {
    key.public_key_pem()
}

/// 2024-01-02.
const SIGNED: i64 = 1_704_153_600;

#[test]
fn cosign_signature_with_a_certificate_needs_authority_log_and_time() {
    let artifact = b"manifest";
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (log, other_log) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let day = || Subject { years: (2024, 2025), ..Subject::default() };
    for (case, issued_by, subject, logged_by, time, entry_of, expected) in [
        ("valid", &authority, day(), &log, SIGNED, None, None),
        ("another authority", &stranger, day(), &log, SIGNED, None, Some("certificate chain is invalid")),
        (
            "another identity",
            &authority,
            Subject { email: "eve@example.com", ..day() },
            &log,
            SIGNED,
            None,
            Some("dentity"),
        ),
        (
            "another issuer",
            &authority,
            Subject { issuer: "https://x.example", ..day() },
            &log,
            SIGNED,
            None,
            Some("ssuer"),
        ),
        ("another log", &authority, day(), &other_log, SIGNED, None, Some("No log key")),
        (
            "expired",
            &authority,
            Subject { years: (2023, 2024), ..day() },
            &log,
            SIGNED,
            None,
            Some("CertExpired"),
        ),
        (
            "not yet valid",
            &authority,
            Subject { years: (2025, 2026), ..day() },
            &log,
            SIGNED,
            None,
            Some("CertNotValidYet"),
        ),
        (
            "certificate of a server",
            &authority,
            Subject { usage: ExtendedKeyUsagePurpose::ServerAuth, ..day() },
            &log,
            SIGNED,
            None,
            Some("RequiredEkuNotFound"),
        ),
        // The entry of another signature would prove another time.
        (
            "entry of another payload",
            &authority,
            day(),
            &log,
            SIGNED,
            Some("other"),
            Some("artifact hash mismatch"),
        ),
    ] {
        let requirement = json!({
            "type": "sigstoreSigned",
            "fulcio": {
                "caData": base64(authority.0.pem().as_bytes()), "oidcIssuer": "https://login.example.com",
                "subjectEmail": "ann@example.com",
            },
            "rekorPublicKeyData": base64(pem_of(&log).as_bytes()),
        });
        let policy = policy(&requirement, &PolicyOptions::default());
        let (certificate, key) = issued_by.certify(&subject);
        let payload = payload(artifact);
        let signature = key.sign(payload.as_bytes()).unwrap();
        let entry = log_entry(logged_by, entry_of.unwrap_or(&payload), &signature, &certificate, time);
        let annotations = |with: &[&str]| -> BTreeMap<String, String> {
            [
                ("dev.cosignproject.cosign/signature", base64(&signature)),
                ("dev.sigstore.cosign/certificate", certificate.clone()),
                ("dev.sigstore.cosign/chain", issued_by.0.pem()),
                ("dev.sigstore.cosign/bundle", entry.clone()),
            ]
            .into_iter()
            .filter(|(key, _)| with.iter().any(|part| key.ends_with(part)))
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
        };
        let signed = |with: &[&str]| layer(simple_signing::MEDIA_TYPE, payload.clone(), annotations(with));
        let all = ["signature", "certificate", "chain", "bundle"];
        assert_refusal(case, refusal(&policy, artifact, signed(&all)), expected);
        assert_refusal(
            case,
            refusal(&policy, b"another image", signed(&all)),
            Some(expected.unwrap_or("is for the digest")),
        );
        let no_entry = refusal(&policy, artifact, signed(&["signature", "certificate", "chain"]));
        assert_refusal(case, no_entry, Some("no entry of a transparency log"));
        let no_certificate = refusal(&policy, artifact, signed(&["signature", "bundle"]));
        assert_refusal(case, no_certificate, Some("it has no certificate"));
    }
}

#[test]
fn cosign_signature_with_a_key_may_need_a_log_entry() {
    let artifact = b"manifest";
    let (key, log, other) =
        (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let requirement = json!({
        "type": "sigstoreSigned", "keyData": base64(pem_of(&key).as_bytes()),
        "rekorPublicKeyData": base64(pem_of(&log).as_bytes()),
    });
    let policy = policy(&requirement, &PolicyOptions::default());
    let payload = payload(artifact);
    let signature = key.sign(payload.as_bytes()).unwrap();
    let entry = |log: &KeyPair, key: &KeyPair| log_entry(log, &payload, &signature, &pem_of(key), SIGNED);
    for (case, entry, expected) in [
        ("logged", Some(entry(&log, &key)), None),
        ("not logged", None, Some("no entry of a transparency log")),
        ("another log", Some(entry(&other, &key)), Some("No log key")),
        ("entry of another key", Some(entry(&log, &other)), Some("does not match managed key")),
        ("truncated", Some(entry(&log, &key)[..40].to_owned()), Some("cannot be parsed")),
        ("unknown field", Some(entry(&log, &key).replacen('{', r#"{"x":1,"#, 1)), Some("unknown field `x`")),
    ] {
        let mut annotations =
            BTreeMap::from([("dev.cosignproject.cosign/signature".to_owned(), base64(&signature))]);
        annotations.extend(entry.map(|entry| ("dev.sigstore.cosign/bundle".to_owned(), entry)));
        let signature = layer(simple_signing::MEDIA_TYPE, payload.clone(), annotations);
        assert_refusal(case, refusal(&policy, artifact, signature), expected);
    }
}

#[test]
fn certificate_of_a_private_authority_must_be_valid_and_for_the_subject() {
    let artifact = b"manifest";
    let (authority, stranger) = (Authority::new(), Authority::new());
    let email = json!({ "subjectEmail": "ann@example.com" });
    let hostname = json!({ "subjectHostname": "build.example.com" });
    let other_host = json!({ "subjectHostname": "www.example.com" });
    let both = json!({ "subjectEmail": "ann@example.com", "subjectHostname": "build.example.com" });
    let subject = Subject::default;
    for (case, issued_by, subject, wanted, expected) in [
        ("email", &authority, subject(), &email, None),
        ("host", &authority, subject(), &hostname, None),
        ("both", &authority, subject(), &both, None),
        (
            "another email",
            &authority,
            Subject { email: "eve@example.com", ..subject() },
            &both,
            Some("is for eve@example.com"),
        ),
        ("another host", &authority, subject(), &other_host, Some("is not for www.example.com")),
        ("another authority", &stranger, subject(), &email, Some("its certificate is not valid")),
        ("expired", &authority, Subject { years: (2020, 2021), ..subject() }, &email, Some("CertExpired")),
        (
            "not yet valid",
            &authority,
            Subject { years: (2098, 2099), ..subject() },
            &email,
            Some("CertNotValidYet"),
        ),
        (
            "certificate of a server",
            &authority,
            Subject { usage: ExtendedKeyUsagePurpose::ServerAuth, ..subject() },
            &email,
            Some("RequiredEkuNotFound"),
        ),
    ] {
        let mut pki = wanted.clone();
        pki["caRootsData"] = base64(authority.0.pem().as_bytes()).into();
        let policy = policy(&json!({ "type": "sigstoreSigned", "pki": pki }), &PolicyOptions::default());
        let (certificate, key) = issued_by.certify(&subject);
        let payload = payload(artifact);
        let signed = |signer: &KeyPair| {
            let signature = base64(&signer.sign(payload.as_bytes()).unwrap());
            let annotations = [
                ("dev.cosignproject.cosign/signature", signature),
                ("dev.sigstore.cosign/certificate", certificate.clone()),
                ("dev.sigstore.cosign/chain", issued_by.0.pem()),
            ];
            let annotations = annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            layer(simple_signing::MEDIA_TYPE, payload.clone(), annotations)
        };
        assert_refusal(case, refusal(&policy, artifact, signed(&key)), expected);
        let forged = refusal(&policy, artifact, signed(&KeyPair::generate().unwrap()));
        assert_refusal(case, forged, Some(expected.unwrap_or("not made with this key")));
    }
}
