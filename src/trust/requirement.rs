//! The requirements of a policy, with their keys and certificates, and how signatures are checked against them.

use super::certificate::{self, Pki};
use super::identity::{ImageName, SignedIdentity};
use super::key::PublicKey;
use super::options::{PolicyOptions, UnnamedSignatures};
use super::policy_file::{Base64, FulcioFile, PkiFile, RequirementFile, SigstoreSignedFile};
use super::root::TrustRoot;
use super::simple_signing::{self, SimpleSignature, signed_name};
use super::{Verdict, bundle, read_file};
use crate::content::{SignatureLayer, SignedManifest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use sigstore_verify::types::Bundle;
use sigstore_verify::{IdentityMatcher, PublicKeyVerificationPolicy, VerificationPolicy, Verifier};
use std::fmt;
use std::path::PathBuf;

/// A requirement.
#[derive(Debug)]
pub(super) enum Requirement {
    Accept,
    Reject,
    /// Of this type, which saver cannot check.
    Unsupported(&'static str),
    Signed(Box<SigstoreSigned>),
}

impl Requirement {
    /// Reads what `file` names.
    ///
    /// # Errors
    /// What is contradictory, missing or malformed.
    pub(super) fn new(file: RequirementFile, options: &PolicyOptions) -> Verdict<Self> {
        Ok(match file {
            RequirementFile::InsecureAcceptAnything {} => Self::Accept,
            RequirementFile::Reject {} => Self::Reject,
            RequirementFile::SignedBy(_) => Self::Unsupported("signedBy"),
            RequirementFile::SignedBaseLayer(_) => Self::Unsupported("signedBaseLayer"),
            RequirementFile::SigstoreSigned(file) => {
                let signed =
                    SigstoreSigned::new(*file, options).map_err(|why| format!("sigstoreSigned: {why}"))?;
                Self::Signed(Box::new(signed))
            }
        })
    }
}

/// `sigstoreSigned`.
#[derive(Debug)]
pub(super) struct SigstoreSigned {
    signer: Signer,
    identity: SignedIdentity,
    unnamed: UnnamedSignatures,
}

/// Who must have signed.
enum Signer {
    /// The owner of one of the keys, in a log if there is one.
    Keys { keys: Vec<PublicKey>, log: Option<Verifier> },
    /// The owner of an identity, to whom Fulcio gave a certificate for a moment: a time of the log, or of a timestamp if authorities
    /// for these are known.
    Fulcio { policy: VerificationPolicy, verifier: Verifier, timestamps: bool },
    /// The owner of a certificate of a private authority.
    Pki(Pki),
}

impl SigstoreSigned {
    fn new(file: SigstoreSignedFile, options: &PolicyOptions) -> Verdict<Self> {
        let keys = key_source(file.key_path, file.key_paths, file.key_data, file.key_datas, "key")?;
        let logs = key_source(
            file.rekor_public_key_path,
            file.rekor_public_key_paths,
            file.rekor_public_key_data,
            file.rekor_public_key_datas,
            "rekorPublicKey",
        )?;
        let signer = match (keys, file.fulcio, file.pki) {
            (Some(keys), None, None) => {
                let log = match logs {
                    Some(logs) => Some(TrustRoot::empty()?.with_logs(&logs)?.verifier()?),
                    None => None,
                };
                Signer::Keys { keys, log }
            }
            (None, Some(fulcio), None) => {
                fulcio_signer(fulcio, logs, options).map_err(|why| format!("fulcio: {why}"))?
            }
            (None, None, Some(pki)) => {
                if logs.is_some() {
                    return Err("rekorPublicKey cannot be combined with pki".to_owned());
                }
                Signer::Pki(pki_signer(pki).map_err(|why| format!("pki: {why}"))?)
            }
            _ => {
                return Err("exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki is needed"
                    .to_owned());
            }
        };
        let identity = SignedIdentity::new(file.signed_identity.unwrap_or_default())
            .map_err(|why| format!("signedIdentity: {why}"))?;
        Ok(Self { signer, identity, unnamed: options.unnamed })
    }

    /// Accepts `manifest` as `image` if one of the signatures satisfies the requirement.
    ///
    /// # Errors
    /// Why each signature does not.
    pub(super) fn check(
        &self,
        image: &ImageName,
        manifest: &SignedManifest,
        signatures: &[SignatureLayer],
    ) -> Result<(), Vec<String>> {
        let mut rejected = Vec::new();
        for layer in signatures {
            let verdict = if layer.media_type == simple_signing::MEDIA_TYPE {
                self.simple_signature(image, manifest, layer)
            } else if bundle::is_bundle(&layer.media_type) {
                self.bundle(image, manifest, layer)
            } else {
                continue;
            };
            match verdict {
                Ok(()) => return Ok(()),
                Err(why) if rejected.contains(&why) => {}
                Err(why) => rejected.push(why),
            }
        }
        Err(rejected)
    }

    fn simple_signature(
        &self,
        image: &ImageName,
        manifest: &SignedManifest,
        layer: &SignatureLayer,
    ) -> Verdict {
        let signature = SimpleSignature::read(layer)?;
        let (payload, bytes) = (signature.payload, &signature.signature);
        match &self.signer {
            Signer::Keys { keys, log: None } => any(keys, |key| key.verify(payload, bytes))?,
            Signer::Keys { keys, log: Some(log) } => {
                let keyed = SimpleSignature { certificate: None, chain: None, ..signature };
                self.logged(keys, log, payload, &bundle::of_simple_signature(&keyed)?)?;
            }
            Signer::Fulcio { policy, verifier, .. } => {
                if signature.certificate.is_none() {
                    return Err("it has no certificate".to_owned());
                }
                let bundle = bundle::of_simple_signature(&signature)?;
                verifier.verify(payload, &bundle, policy).map_err(|error| error.to_string())?;
            }
            Signer::Pki(pki) => {
                let leaf = signature.certificate.ok_or("it has no certificate")?;
                let mut chain = certificate::certificates(leaf.as_bytes())?;
                if let Some(above) = signature.chain {
                    chain.extend(certificate::certificates(above.as_bytes())?);
                }
                pki.accept(&chain[0], &chain[1..])?.verify(payload, bytes)?;
            }
        }
        let name = signed_name(payload, &manifest.digest)?;
        self.accept_names(image, &[name])
    }

    fn bundle(&self, image: &ImageName, manifest: &SignedManifest, layer: &SignatureLayer) -> Verdict {
        let bundle = bundle::parse(&layer.bytes)?;
        let artifact: &[u8] = &manifest.bytes;
        match &self.signer {
            Signer::Keys { keys, log: None } => {
                let (message, signature) = bundle::signed_message(&bundle, artifact)?;
                any(keys, |key| key.verify(&message, &signature))?;
            }
            Signer::Keys { keys, log: Some(log) } => self.logged(keys, log, artifact, &bundle)?,
            Signer::Fulcio { policy, verifier, timestamps } => {
                let bundle = if *timestamps { bundle.clone() } else { bundle::without_timestamps(&bundle) };
                verifier.verify(artifact, &bundle, policy).map_err(|error| error.to_string())?;
            }
            Signer::Pki(pki) => {
                let chain: Vec<CertificateDer<'_>> = bundle::chain(&bundle);
                let (leaf, above) = chain.split_first().ok_or("it has no certificate")?;
                let (message, signature) = bundle::signed_message(&bundle, artifact)?;
                pki.accept(leaf, above)?.verify(&message, &signature)?;
            }
        }
        let names = bundle::signed_names(&bundle, &manifest.digest)?;
        if names.is_empty() {
            return match self.unnamed {
                UnnamedSignatures::Accept => Ok(()),
                UnnamedSignatures::Reject => {
                    Err("it names no image (--unnamed-signatures accept accepts such signatures)".to_owned())
                }
            };
        }
        self.accept_names(image, &names)
    }

    /// Verifies a signature with one of `keys` that is in a log.
    fn logged(&self, keys: &[PublicKey], log: &Verifier, artifact: &[u8], bundle: &Bundle) -> Verdict {
        // A key has no end that a timestamp could prove the signature older than.
        let bundle = bundle::without_timestamps(bundle);
        any(keys, |key| {
            let policy = PublicKeyVerificationPolicy::new(key.der.clone());
            log.verify(artifact, &bundle, &policy).map(drop).map_err(|error| error.to_string())
        })
    }

    fn accept_names(&self, image: &ImageName, names: &[String]) -> Verdict {
        let is_accepted =
            |name: &String| ImageName::parse(name).is_some_and(|name| self.identity.accepts(image, &name));
        if names.iter().any(is_accepted) {
            return Ok(());
        }
        let is_repository = |name: &ImageName| SignedIdentity::MatchRepository.accepts(image, name);
        Err(match names.iter().find(|name| ImageName::parse(name).as_ref().is_some_and(is_repository)) {
            Some(name) => format!("it is for {name}, which signedIdentity accepts only with matchRepository"),
            None => format!("it is for the image {}", names.join(", ")),
        })
    }
}

/// Tries each key.
///
/// # Errors
/// That of the last one.
fn any(keys: &[PublicKey], verify: impl Fn(&PublicKey) -> Verdict) -> Verdict {
    let mut verdict = Err("there is no key".to_owned());
    for key in keys {
        verdict = verify(key);
        if verdict.is_ok() {
            break;
        }
    }
    verdict
}

/// The keys of at most one of four fields, whose names begin with `name`.
fn key_source(
    path: Option<PathBuf>,
    paths: Option<Vec<PathBuf>>,
    data: Option<Base64>,
    datas: Option<Vec<Base64>>,
    name: &str,
) -> Verdict<Option<Vec<PublicKey>>> {
    let paths = match (path, paths) {
        (Some(path), None) => Some(vec![path]),
        (None, paths) => paths,
        _ => return Err(format!("{name}Path and {name}Paths are both given")),
    };
    let datas = match (data, datas) {
        (Some(data), None) => Some(vec![data]),
        (None, datas) => datas,
        _ => return Err(format!("{name}Data and {name}Datas are both given")),
    };
    let keys: Vec<PublicKey> = match (paths, datas) {
        (None, None) => return Ok(None),
        (Some(paths), None) => {
            let read = |path: PathBuf| {
                let pem = read_file(&path).map_err(|error| error.to_string())?;
                PublicKey::from_pem(&pem).map_err(|why| format!("{}: {why}", path.display()))
            };
            paths.into_iter().map(read).collect::<Verdict<_>>()?
        }
        (None, Some(datas)) => {
            let read =
                |data: Base64| PublicKey::from_pem(&data.0).map_err(|why| format!("{name}Data: {why}"));
            datas.into_iter().map(read).collect::<Verdict<_>>()?
        }
        _ => return Err(format!("{name}Path and {name}Data are both given")),
    };
    if keys.is_empty() { Err(format!("{name} lists no key")) } else { Ok(Some(keys)) }
}

/// The content of at most one of two fields.
fn source(path: Option<PathBuf>, data: Option<Base64>, name: &str) -> Verdict<Option<Vec<u8>>> {
    match (path, data) {
        (Some(_), Some(_)) => Err(format!("{name}Path and {name}Data are both given")),
        (Some(path), None) => read_file(&path).map(Some).map_err(|error| error.to_string()),
        (None, data) => Ok(data.map(|data| data.0)),
    }
}

fn fulcio_signer(file: FulcioFile, logs: Option<Vec<PublicKey>>, options: &PolicyOptions) -> Verdict<Signer> {
    let issuer = file.oidc_issuer.filter(|text| !text.is_empty()).ok_or("oidcIssuer is missing")?;
    let authority = source(file.ca_path, file.ca_data, "ca")?;
    let identity = match (file.subject_email.filter(|text| !text.is_empty()), file.subject_uri) {
        (Some(email), None) => IdentityMatcher::Email(email),
        (None, Some(uri)) if authority.is_none() && !uri.is_empty() => IdentityMatcher::Uri(uri),
        (None, _) => return Err("subjectEmail is missing".to_owned()),
        (Some(_), Some(_)) => return Err("subjectEmail and subjectURI are both given".to_owned()),
    };
    let policy = VerificationPolicy::new(identity, issuer);
    let timestamps = authority.is_none();
    let (root, policy) = match (authority, &options.trusted_root) {
        (Some(pem), _) => {
            let logs = logs.ok_or("a rekorPublicKey is needed besides the certificate authority")?;
            let root =
                TrustRoot::empty()?.with_authorities(&certificate::certificates(&pem)?)?.with_logs(&logs)?;
            // No key of a certificate log can be named beside an authority.
            (root, policy.skip_sct())
        }
        (None, Some(root)) => match logs {
            Some(logs) => (root.clone().with_logs(&logs)?, policy),
            None => (root.clone(), policy),
        },
        (None, None) => return Err("caPath or caData is missing, and no trusted root is given".to_owned()),
    };
    Ok(Signer::Fulcio { policy, verifier: root.verifier()?, timestamps })
}

fn pki_signer(file: PkiFile) -> Verdict<Pki> {
    let roots = source(file.roots_path, file.roots_data, "caRoots")?
        .ok_or("caRootsPath or caRootsData is missing")?;
    let intermediates = source(file.intermediates_path, file.intermediates_data, "caIntermediates")?;
    let (email, hostname) =
        (file.email.filter(|text| !text.is_empty()), file.hostname.filter(|text| !text.is_empty()));
    if email.is_none() && hostname.is_none() {
        return Err("subjectEmail or subjectHostname is needed".to_owned());
    }
    let hostname = match hostname {
        Some(name) => {
            let invalid = format!("subjectHostname {name:?} is not a host name");
            Some(ServerName::try_from(name).map_err(|_| invalid)?)
        }
        None => None,
    };
    Ok(Pki {
        roots: certificate::anchors(&roots)?,
        intermediates: intermediates.map_or(Ok(Vec::new()), |pem| certificate::certificates(&pem))?,
        email,
        hostname,
    })
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { keys, log } => write!(f, "Keys({}, logged: {})", keys.len(), log.is_some()),
            Self::Fulcio { policy, .. } => {
                write!(f, "Fulcio({:?}, {:?})", policy.identity(), policy.issuer())
            }
            Self::Pki(pki) => pki.fmt(f),
        }
    }
}
