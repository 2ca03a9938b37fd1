//! What a bundle assumed to be present and was not: the file that asks the near side for it.

use super::document::BundledContent;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Repository, Tag};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The version of the format.
const SCHEMA: u32 = 1;
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// The content that images of a bundle lack, and the images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct MissingContent {
    /// The ID of the bundle.
    pub bundle: Digest,
    /// What is missing, sorted by digest.
    pub content: Vec<BundledContent>,
    /// The images of the bundle, none of which was published.
    pub images: Vec<RequestedImage>,
    /// The version of the format: 1.
    pub schema: u32,
}

/// An image of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RequestedImage {
    /// Its digest.
    pub digest: Digest,
    /// Its repository.
    pub repository: Repository,
    /// Its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
}

impl MissingContent {
    pub(super) fn new(bundle: Digest, content: Vec<BundledContent>, images: Vec<RequestedImage>) -> Self {
        Self { bundle, content, images, schema: SCHEMA }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `InvalidInput` if it is not such a file; `Storage` if it can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = |cause| super::unreadable(path, &cause);
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(unreadable)?;
        let refuse = |kind, why: String| {
            Error::new(kind, path.display(), why)
                .with_hint("saver unbundle --missing FILE writes the file for --only")
        };
        let missing: Self = serde_json::from_slice(&bytes).map_err(|error| {
            refuse(ErrorKind::InvalidInput, format!("it is not a list of missing content: {error}"))
        })?;
        if missing.schema != SCHEMA {
            let why = format!("version {} of the list is not supported", missing.schema);
            return Err(refuse(ErrorKind::Unsupported, why));
        }
        Ok(missing)
    }
}
