//! What can be chosen about a copy.

use crate::content::retry::RetryPolicy;
use crate::oci::PlatformSet;
use std::time::Duration;

/// What becomes of an index when only some of its platforms are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexMode {
    /// It is kept byte for byte: its digest keeps resolving, and the platforms left out answer 404.
    #[default]
    Keep,
    /// It is written anew with only the entries that were copied: a new digest.
    Prune,
    /// The tag names the one platform's manifest; needs exactly one.
    Flatten,
}

/// What becomes of an image that has none of the platforms asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingPlatform {
    /// It fails.
    #[default]
    Fail,
    /// It is left out, with a warning.
    Skip,
}

/// Which media types manifests have at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those of the source, so that digests are unchanged.
    #[default]
    Keep,
    /// OCI's in place of Docker's: manifests that have Docker's get another digest.
    Oci,
}

/// When a big blob is fetched in parts, over several connections at once.
///
/// Only slots that nobody else wants are used for it, and only as many as bring more in a second.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartPolicy {
    /// No part is made smaller than so many bytes; [`u64::MAX`] for none at all.
    pub least: u64,
    /// A stream that will be done sooner is left alone.
    pub worth: Duration,
    /// How often it is looked whether another part is worth it.
    pub look: Duration,
    /// No part begins further than so many bytes beyond the first that is lacking: what is written there is still to be read
    /// back and hashed, best from the page cache.
    pub ahead: u64,
}

impl Default for PartPolicy {
    fn default() -> Self {
        Self {
            least: 1 << 20,
            worth: Duration::from_millis(300),
            look: Duration::from_millis(100),
            ahead: 512 << 20,
        }
    }
}

/// Options of the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransferOptions {
    /// The platforms to copy of each image, unless the image says otherwise.
    pub platforms: PlatformSet,
    /// What becomes of a filtered index.
    pub index: IndexMode,
    /// What becomes of an image without the platform.
    pub missing_platform: MissingPlatform,
    /// Whether an image manifest that is named by digest must be for one of the platforms. If not, it is copied whatever its
    /// platform, as containerd does; indexes are still filtered.
    pub filter_pinned_manifests: bool,
    /// Whether the source may lack some of an index's manifests, as a tree does that was saved for some platforms: what it
    /// lacks is passed over. An index of which it has nothing fails.
    pub sparse: bool,
    /// Whether the attestations of the selected platforms are copied with them. Docker 29.1 and later cannot pull an image
    /// whose index names an attestation that is missing.
    pub attestations: bool,
    /// Whether foreign (non-distributable) layers are fetched too.
    pub foreign_layers: bool,
    /// What is tried again, and how often.
    pub retry: RetryPolicy,
    /// The most blobs, or parts of them, in flight at once from one source. The source finds its own pace below.
    pub jobs: usize,
    /// When big blobs are fetched in parts.
    pub parts: PartPolicy,
    /// Whether the first failed image ends the run.
    pub fail_fast: bool,
    /// Which media types manifests have at the destination.
    pub media_types: MediaTypes,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            platforms: PlatformSet::All,
            index: IndexMode::Keep,
            missing_platform: MissingPlatform::Fail,
            filter_pinned_manifests: true,
            sparse: false,
            attestations: true,
            foreign_layers: false,
            retry: RetryPolicy::default(),
            jobs: 16,
            parts: PartPolicy::default(),
            fail_fast: false,
            media_types: MediaTypes::Keep,
        }
    }
}
