//! A policy and its evaluation.

use super::identity::ImageName;
use super::options::PolicyOptions;
use super::policy_file::{PolicyFile, RequirementList};
use super::requirement::Requirement;
use super::{Verdict, invalid, read_file, scope};
use crate::content::{SignatureLayer, SignaturePolicy, SignedManifest};
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::Reference;
use std::collections::BTreeMap;
use std::path::Path;

/// A signature policy, with all keys and certificates that it names.
///
/// The scopes of the transport `docker` apply, as in Podman when it pulls. Requirements of the types `signedBy` and `signedBaseLayer`
/// (GPG) cannot be checked: images that they apply to fail as `Unsupported`.
#[derive(Debug)]
pub struct Policy {
    default: Vec<Requirement>,
    scopes: BTreeMap<String, Vec<Requirement>>,
}

impl Policy {
    /// Reads the policy `path`, and the files that it names.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a policy, or a file that applies to images of registries cannot be read.
    pub fn read(path: impl AsRef<Path>, options: &PolicyOptions) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(&read_file(path)?, options)
            .map_err(|why| invalid(path.display(), format!("invalid signature policy: {why}")))
    }

    fn parse(document: &[u8], options: &PolicyOptions) -> Verdict<Self> {
        let file: PolicyFile = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        let compile = |list: RequirementList| -> Verdict<Vec<Requirement>> {
            list.0.into_iter().map(|file| Requirement::new(file, options)).collect()
        };
        let default = compile(file.default).map_err(|why| format!("default: {why}"))?;
        let mut scopes = BTreeMap::new();
        let mut transports = file.transports.0;
        for (scope, list) in transports.remove(scope::TRANSPORT).unwrap_or_default().0 {
            let compiled = compile(list).map_err(|why| format!("scope {scope:?}: {why}"))?;
            scopes.insert(scope, compiled);
        }
        Ok(Self { default, scopes })
    }

    /// The scope that applies to `image`, and its requirements.
    fn requirements(&self, image: &ImageName) -> (&str, &[Requirement]) {
        let found = scope::scopes(image).into_iter().find_map(|scope| self.scopes.get_key_value(&scope));
        match found.or_else(|| self.scopes.get_key_value("")) {
            Some((scope, requirements)) if scope.is_empty() => (scope::TRANSPORT, requirements),
            Some((scope, requirements)) => (scope, requirements),
            None => ("default", &self.default),
        }
    }
}

impl SignaturePolicy for Policy {
    fn needs_signatures(&self, reference: &Reference) -> bool {
        let (_, requirements) = self.requirements(&ImageName::intended(reference));
        let fails = |one: &Requirement| matches!(one, Requirement::Reject | Requirement::Unsupported(_));
        requirements.iter().any(|one| matches!(one, Requirement::Signed(_)))
            && !requirements.iter().any(fails)
    }

    fn check(
        &self,
        reference: &Reference,
        manifest: &SignedManifest,
        signatures: &[SignatureLayer],
    ) -> Result<()> {
        let image = ImageName::intended(reference);
        let (scope, requirements) = self.requirements(&image);
        for requirement in requirements {
            match requirement {
                Requirement::Accept => {}
                Requirement::Reject => {
                    let why = format!("the policy rejects all images of the scope {scope}");
                    return Err(Error::new(ErrorKind::Untrusted, reference, why).on(Side::Source));
                }
                Requirement::Unsupported(kind) => {
                    let why =
                        format!("the policy requires {kind} for the scope {scope}, which saver cannot check");
                    return Err(Error::new(ErrorKind::Unsupported, reference, why)
                        .with_hint("use sigstoreSigned; GPG signatures are not supported"));
                }
                Requirement::Signed(signed) => {
                    signed.check(&image, manifest, signatures).map_err(|rejected| {
                        let detail = Detail::Signatures { digest: manifest.digest.to_string(), rejected };
                        Error::from_detail(ErrorKind::Untrusted, reference, detail)
                            .context(format!("not trusted by the policy for {scope}"))
                            .on(Side::Source)
                    })?
                }
            }
        }
        Ok(())
    }
}
