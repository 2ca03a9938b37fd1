//! Which images are accepted, by their signatures.

use crate::content::SignaturePolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::trust::{Policy, PolicyOptions, TrustRoot, UnnamedSignatures};
use clap::ValueEnum;
use std::path::PathBuf;
use std::sync::Arc;

/// The signature policy.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Signatures")]
pub(crate) struct PolicyArgs {
    /// Signature policy that every image must satisfy (containers-policy.json, as for podman)
    ///
    /// An image that does not is reported as untrusted, and nothing of it is saved. Keys and certificates are files that the policy
    /// names: nothing is requested from the network to check a signature.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Sigstore trusted root (trusted_root.json), for the fulcio requirements of the policy that name no authority
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_root: Option<PathBuf>,
    /// What to do with signatures that name no image, such as those of cosign 3: they sign a digest, whatever its name
    #[arg(long, value_name = "ACTION", default_value = "reject")]
    pub(crate) unnamed_signatures: UnnamedArg,
}

impl PolicyArgs {
    /// Reads the policy, if there is one.
    ///
    /// # Errors
    /// `InvalidInput` naming what is wrong with a file.
    pub(crate) fn read(&self) -> Result<Option<Arc<dyn SignaturePolicy>>> {
        let Some(path) = &self.policy else {
            if self.trusted_root.is_some() {
                let why = "it is used only with a policy";
                return Err(
                    Error::new(ErrorKind::InvalidInput, "--trusted-root", why).with_hint("add --policy FILE")
                );
            }
            return Ok(None);
        };
        let mut options = PolicyOptions::default().with_unnamed(match self.unnamed_signatures {
            UnnamedArg::Reject => UnnamedSignatures::Reject,
            UnnamedArg::Accept => UnnamedSignatures::Accept,
        });
        if let Some(root) = &self.trusted_root {
            options = options.with_trusted_root(TrustRoot::read(root)?);
        }
        Ok(Some(Arc::new(Policy::read(path, &options)?)))
    }
}

/// `--unnamed-signatures`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnnamedArg {
    /// Do not accept them
    Reject,
    /// Accept them for any image with the digest, whatever signedIdentity says
    Accept,
}
