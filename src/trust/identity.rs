//! What name a signature must be for: `signedIdentity`.

use super::policy_file::SignedIdentityFile;
use crate::oci::{Reference, Registry, Repository};
use std::fmt;

/// The name of an image in a signature or a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageName {
    /// Registry and repository.
    repository: String,
    /// `:tag`, `@digest` or both, as written; empty for a name that has none.
    suffix: String,
    has_tag: bool,
}

impl ImageName {
    /// The name that an image is pulled by. Beside a digest, the tag does not count.
    pub(super) fn intended(reference: &Reference) -> Self {
        let suffix = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => format!("@{digest}"),
            (None, Some(tag)) => format!(":{tag}"),
            (None, None) => String::new(),
        };
        let has_tag = reference.digest.is_none() && reference.tag.is_some();
        Self { repository: format!("{}/{}", reference.registry, reference.repository), suffix, has_tag }
    }

    /// Parses a name in Docker's normal form; `latest` is not added.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.contains("://") {
            return None;
        }
        let mut reference = Reference::parse(text).ok()?;
        if !Reference::has_written_tag(text) {
            reference.tag = None;
        }
        let tag = reference.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = reference.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        let repository = format!("{}/{}", reference.registry, reference.repository);
        Some(Self { repository, suffix: tag + &digest, has_tag: reference.tag.is_some() })
    }

    /// Its registry and repository.
    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    fn is_name_only(&self) -> bool {
        self.suffix.is_empty()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.suffix)
    }
}

/// `signedIdentity`, checked.
#[derive(Clone, Debug)]
pub(super) enum SignedIdentity {
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    ExactReference(ImageName),
    ExactRepository(ImageName),
    RemapIdentity { prefix: String, signed_prefix: String },
}

impl SignedIdentity {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(file: SignedIdentityFile) -> Result<Self, String> {
        let name =
            |text: &str| ImageName::parse(text).ok_or_else(|| format!("{text:?} is not an image name"));
        Ok(match file {
            SignedIdentityFile::MatchExact {} => Self::MatchExact,
            SignedIdentityFile::MatchRepoDigestOrExact => Self::MatchRepoDigestOrExact,
            SignedIdentityFile::MatchRepository {} => Self::MatchRepository,
            SignedIdentityFile::ExactReference { docker_reference } => {
                let name = name(&docker_reference)?;
                if name.is_name_only() {
                    return Err(format!("dockerReference {docker_reference:?} has neither tag nor digest"));
                }
                Self::ExactReference(name)
            }
            SignedIdentityFile::ExactRepository { docker_repository } => {
                Self::ExactRepository(name(&docker_repository)?)
            }
            SignedIdentityFile::RemapIdentity { prefix, signed_prefix } => {
                for prefix in [&prefix, &signed_prefix] {
                    if !is_prefix(prefix) {
                        return Err(format!(
                            "{prefix:?} is neither a registry, a namespace nor a repository"
                        ));
                    }
                }
                Self::RemapIdentity { prefix, signed_prefix }
            }
        })
    }

    /// Whether an image that is pulled as `intended` may be signed as `signed`.
    pub(super) fn accepts(&self, intended: &ImageName, signed: &ImageName) -> bool {
        match self {
            Self::MatchExact => is_exact(intended, signed),
            Self::MatchRepoDigestOrExact => is_exact_or_digest(intended, signed),
            Self::MatchRepository => intended.repository == signed.repository,
            Self::ExactReference(expected) => is_exact(expected, signed),
            Self::ExactRepository(expected) => expected.repository == signed.repository,
            Self::RemapIdentity { prefix, signed_prefix } => {
                match intended.repository.strip_prefix(prefix.as_str()) {
                    Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                        let text = format!("{signed_prefix}{rest}{}", intended.suffix);
                        // Without a repository, the registry would be read as one.
                        let remapped = ImageName::parse(&text).filter(|name| name.to_string() == text);
                        remapped.is_some_and(|intended| is_exact_or_digest(&intended, signed))
                    }
                    _ => is_exact_or_digest(intended, signed),
                }
            }
        }
    }
}

fn is_exact(expected: &ImageName, signed: &ImageName) -> bool {
    !expected.is_name_only() && !signed.is_name_only() && expected == signed
}

fn is_exact_or_digest(intended: &ImageName, signed: &ImageName) -> bool {
    if signed.is_name_only() || intended.is_name_only() {
        return false;
    }
    if intended.has_tag { intended == signed } else { intended.repository == signed.repository }
}

/// Whether `text` is a registry, or a registry and a namespace or repository.
fn is_prefix(text: &str) -> bool {
    let (registry, path) =
        text.split_once('/').map_or((text, None), |(registry, path)| (registry, Some(path)));
    registry.parse::<Registry>().is_ok() && path.is_none_or(|path| path.parse::<Repository>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(json: &str) -> Result<SignedIdentity, String> {
        let file = serde_json::from_str(json).map_err(|error| error.to_string())?;
        SignedIdentity::new(file)
    }

    #[test]
    fn identity_matches_as_in_podman() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let exact = r#"{"type":"matchExact"}"#;
        let repository = r#"{"type":"matchRepository"}"#;
        let default = r#"{"type":"matchRepoDigestOrExact"}"#;
        let reference = r#"{"type":"exactReference","dockerReference":"r.io/a/b:1"}"#;
        let named = r#"{"type":"exactRepository","dockerRepository":"r.io/a/b"}"#;
        let remap = r#"{"type":"remapIdentity","prefix":"mirror.io/x","signedPrefix":"r.io"}"#;
        for (identity, intended, signed, accepted) in [
            (exact, "r.io/a/b:1", "r.io/a/b:1", true),
            (exact, "r.io/a/b:1", "r.io/a/b:2", false),
            (exact, "r.io/a/b:1", "r.io/a/b", false),
            (exact, "busybox", "docker.io/library/busybox:latest", true),
            (exact, &format!("r.io/a/b@sha256:{a}"), "r.io/a/b:1", false),
            (exact, &format!("r.io/a/b@sha256:{a}"), &format!("r.io/a/b@sha256:{a}"), true),
            (default, "r.io/a/b:1", "r.io/a/b:1", true),
            (default, "r.io/a/b:1", "r.io/a/b:2", false),
            (default, "r.io/a/b:1", "r.io/a/b", false),
            (default, "r.io/a/b:1", &format!("r.io/a/b:1@sha256:{a}"), false),
            (default, &format!("r.io/a/b@sha256:{a}"), "r.io/a/b:1", true),
            (default, &format!("r.io/a/b@sha256:{a}"), &format!("r.io/a/b@sha256:{b}"), true),
            (default, &format!("r.io/a/b@sha256:{a}"), "r.io/a/c:1", false),
            (default, &format!("r.io/a/b@sha256:{a}"), "r.io/a/b", false),
            (default, &format!("r.io/a/b:1@sha256:{a}"), "r.io/a/b:2", true),
            (repository, "r.io/a/b:1", "r.io/a/b", true),
            (repository, "r.io/a/b:1", "r.io/a/b:2", true),
            (repository, "r.io/a/b:1", "r.io/a/c:1", false),
            (repository, "r.io/a/b:1", "docker://r.io/a/b:1", false),
            (repository, "r.io/a/b:1", "R.IO/A/B", false),
            (reference, "m.io/c:1", "r.io/a/b:1", true),
            (reference, "m.io/c:1", "r.io/a/b:2", false),
            (reference, "m.io/c:1", "r.io/a/b", false),
            (named, "m.io/c:1", "r.io/a/b:2", true),
            (named, "m.io/c:1", "r.io/a/b", true),
            (named, "m.io/c:1", "r.io/a/c:2", false),
            (remap, "mirror.io/x/a/b:1", "r.io/a/b:1", true),
            (remap, "mirror.io/x/a/b:1", "r.io/a/b:2", false),
            (remap, "mirror.io/x/a/b:1", "mirror.io/x/a/b:1", false),
            // Outside of the prefix, as without it.
            (remap, "mirror.io/xy/a:1", "mirror.io/xy/a:1", true),
            (remap, "mirror.io/xy/a:1", "r.io/y/a:1", false),
            (remap, &format!("mirror.io/x/a@sha256:{a}"), "r.io/a:1", true),
            // The prefix is the whole name: nothing but a registry is left.
            (remap, "mirror.io/x:1", "r.io:1", false),
        ] {
            let intended = ImageName::intended(&Reference::parse(intended).unwrap());
            let signed = ImageName::parse(signed);
            let found =
                signed.is_some_and(|signed| self::identity(identity).unwrap().accepts(&intended, &signed));
            assert_eq!(found, accepted, "{identity} {intended}");
        }
    }

    #[test]
    fn invalid_identity_is_refused() {
        for (json, reason) in [
            (r#"{"type":"exactReference","dockerReference":"r.io/a/b"}"#, "neither tag nor digest"),
            (r#"{"type":"exactReference","dockerReference":"R/B:1"}"#, "not an image name"),
            (r#"{"type":"exactRepository","dockerRepository":""}"#, "not an image name"),
            (r#"{"type":"remapIdentity","prefix":"","signedPrefix":"r.io"}"#, "neither a registry"),
            (r#"{"type":"remapIdentity","prefix":"r.io/","signedPrefix":"r.io"}"#, "neither a registry"),
            (r#"{"type":"remapIdentity","prefix":"r.io","signedPrefix":"r.io/A"}"#, "neither a registry"),
        ] {
            let error = identity(json).expect_err(json);
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
