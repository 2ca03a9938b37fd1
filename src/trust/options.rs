//! Options of a policy.

use super::root::TrustRoot;

/// What happens to a signature that names no image. cosign 3 makes such: they sign a digest, and `signedIdentity` cannot be checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnnamedSignatures {
    /// It is not accepted.
    #[default]
    Reject,
    /// It is accepted for any image with the digest.
    Accept,
}

/// Options of a policy.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PolicyOptions {
    /// The authorities and logs of `fulcio` requirements that name none themselves.
    pub trusted_root: Option<TrustRoot>,
    /// What happens to signatures that name no image.
    pub unnamed: UnnamedSignatures,
}

impl PolicyOptions {
    /// Uses this trusted root.
    #[must_use]
    pub fn with_trusted_root(self, root: TrustRoot) -> Self {
        Self { trusted_root: Some(root), ..self }
    }

    /// Treats signatures that name no image like this.
    #[must_use]
    pub fn with_unnamed(self, unnamed: UnnamedSignatures) -> Self {
        Self { unnamed, ..self }
    }
}
