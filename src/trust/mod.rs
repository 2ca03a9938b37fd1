//! Signature policies: which images are accepted, by whom they are signed.
//!
//! [`Policy`] reads containers-policy.json(5), which Podman, CRI-O and Skopeo use, and judges signatures by it. It verifies cosign's
//! signatures (simple signing) and sigstore bundles, with public keys, private certificate authorities, and Fulcio with Rekor. All
//! keys and certificates are local files: nothing is requested from the network.
//!
//! ```no_run
//! use saver::SaveOptions;
//! use saver::trust::{Policy, PolicyOptions};
//! use std::sync::Arc;
//!
//! # fn main() -> saver::Result<()> {
//! let mut options = SaveOptions::new("registry");
//! options.transfer.policy = Some(Arc::new(Policy::read("policy.json", &PolicyOptions::default())?));
//! # Ok(())
//! # }
//! ```

mod bundle;
mod certificate;
mod export;
mod identity;
mod key;
mod options;
mod policy;
mod policy_file;
mod requirement;
mod root;
mod scope;
mod simple_signing;
#[cfg(test)]
mod tests;

pub use export::embed_files;
pub use options::{PolicyOptions, UnnamedSignatures};
pub use policy::Policy;
pub use root::TrustRoot;

use crate::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// The maximum size of a policy, key, certificate or trusted root, in bytes.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// Reads a file of a policy.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| invalid(path.display(), format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut content = Vec::new();
    // A device or pipe has no size of its own.
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut content).map_err(unreadable)?;
    let size = size.max(content.len() as u64);
    if size > MAX_FILE_SIZE {
        return Err(invalid(path.display(), format!("has {size} bytes, more than {MAX_FILE_SIZE}")));
    }
    Ok(content)
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn invalid(subject: impl fmt::Display, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, subject, message)
}

/// Why one signature is not accepted.
type Verdict<T = ()> = std::result::Result<T, String>;
