//! Options of a transfer.

use crate::content::SignaturePolicy;
use crate::content::retry::RetryPolicy;
use crate::oci::referrer::is_signature_type;
use crate::oci::{PlatformSet, wildcard};
use std::sync::Arc;
use std::time::Duration;

/// How an index is published if only some of its platforms are transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexMode {
    /// Byte for byte: its digest stays valid, and requests for omitted platforms return 404.
    #[default]
    Keep,
    /// Rewritten to name only what was transferred, which changes its digest.
    Prune,
    /// The tag names one platform's manifest directly. Requires a single platform.
    Flatten,
}

impl IndexMode {
    /// Its name on the command line and in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Prune => "prune",
            Self::Flatten => "flatten",
        }
    }
}

/// What happens to an image that lacks a requested platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingPlatform {
    /// The image fails.
    #[default]
    Fail,
    /// The image is skipped.
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

/// Which referrers of an image are transferred with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferrerKinds {
    /// None.
    None,
    /// Signatures: cosign's, sigstore's bundles, Notary's.
    Signatures,
    /// All: signatures, attestations, SBOMs and whatever else refers to the image.
    #[default]
    All,
}

/// What happens to an image with a referrer that cannot be transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingReferrers {
    /// The image fails.
    #[default]
    Fail,
    /// The image is transferred without it, with a warning.
    Warn,
}

/// Which referrers are transferred: those that refer to the image's digest, to one of its manifests, or to another referrer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReferrerOptions {
    /// Which kinds.
    pub kinds: ReferrerKinds,
    /// Patterns of artifact types, with `*` and `?`, of which one must match; all types if there are none.
    pub types: Vec<String>,
    /// What happens to an image with a referrer that cannot be transferred.
    pub missing: MissingReferrers,
}

impl ReferrerOptions {
    /// Whether a referrer of this artifact type is transferred.
    pub(super) fn selects(&self, artifact_type: Option<&str>) -> bool {
        let artifact_type = artifact_type.unwrap_or_default();
        let is_kind = match self.kinds {
            ReferrerKinds::None => false,
            ReferrerKinds::Signatures => is_signature_type(artifact_type),
            ReferrerKinds::All => true,
        };
        let matches = |pattern: &String| wildcard::matches(pattern, artifact_type);
        is_kind && (self.types.is_empty() || self.types.iter().any(matches))
    }

    /// Whether any referrers are transferred.
    pub(super) fn selects_any(&self) -> bool {
        self.kinds != ReferrerKinds::None
    }

    /// Whether all referrers are transferred, whatever their artifact type.
    pub(super) fn selects_all(&self) -> bool {
        self.kinds == ReferrerKinds::All && self.types.is_empty()
    }
}

/// When a large blob is downloaded over several connections at once.
///
/// Only idle slots are used, and only as many connections as improve throughput.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RangePolicy {
    /// The minimum size of a range, in bytes; [`u64::MAX`] disables ranges.
    pub min_size: u64,
    /// A stream that ends sooner than this is not split.
    pub min_time: Duration,
    /// How often splitting is considered.
    pub interval: Duration,
    /// The maximum distance of a range from the first missing byte. What is written further ahead would no longer be in the
    /// page cache when it is read back for hashing.
    pub max_distance: u64,
}

impl Default for RangePolicy {
    fn default() -> Self {
        Self {
            min_size: 1 << 20,
            min_time: Duration::from_millis(300),
            interval: Duration::from_millis(100),
            max_distance: 512 << 20,
        }
    }
}

/// Options of the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransferOptions {
    /// The platforms to transfer, for images without platforms of their own.
    pub platforms: PlatformSet,
    /// How a filtered index is published.
    pub index: IndexMode,
    /// What happens to an image that lacks a requested platform.
    pub missing_platform: MissingPlatform,
    /// Whether an image manifest that is named by digest must be for one of the platforms. If not, it is copied whatever its
    /// platform, as containerd does; indexes are still filtered.
    pub filter_pinned_manifests: bool,
    /// Whether the source may lack manifests that an index names, like a tree that was saved for some platforms: these are
    /// left out. An index of which it has none fails.
    pub sparse: bool,
    /// Whether the attestations of the selected platforms are copied with them. Docker 29.1 and later cannot pull an image
    /// whose index names an attestation that is missing.
    pub attestations: bool,
    /// Which signatures and other referrers are transferred with their images.
    pub referrers: ReferrerOptions,
    /// Which images are accepted, by their signatures; all of them if there is none.
    pub policy: Option<Arc<dyn SignaturePolicy>>,
    /// Whether foreign (non-distributable) layers are downloaded.
    pub foreign_layers: bool,
    /// The retry policy.
    pub retry: RetryPolicy,
    /// The maximum number of concurrent blob requests to one source. The source limits itself below that.
    pub jobs: usize,
    /// When large blobs are downloaded over several connections.
    pub ranges: RangePolicy,
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
            referrers: ReferrerOptions::default(),
            policy: None,
            foreign_layers: false,
            retry: RetryPolicy::default(),
            jobs: 16,
            ranges: RangePolicy::default(),
            fail_fast: false,
            media_types: MediaTypes::Keep,
        }
    }
}

/// The methods that change the options of every verb that moves images.
macro_rules! transfer_setters {
    () => {
        /// Selects these platforms: a [`PlatformSet`](crate::PlatformSet), or text such as `"amd64,arm64"` or `"all"`.
        ///
        /// # Errors
        /// `InvalidInput` for text that names no platform.
        pub fn with_platforms<P>(mut self, platforms: P) -> crate::error::Result<Self>
        where
            P: TryInto<crate::oci::PlatformSet, Error: Into<crate::error::Error>>,
        {
            self.transfer.platforms = platforms.try_into().map_err(Into::into)?;
            Ok(self)
        }

        /// Sends progress events to `observer`.
        #[must_use]
        pub fn with_observer(self, observer: std::sync::Arc<dyn crate::transfer::Observer>) -> Self {
            Self { observer, ..self }
        }

        /// Ends the run when `cancel` is cancelled.
        #[must_use]
        pub fn with_cancel(self, cancel: tokio_util::sync::CancellationToken) -> Self {
            Self { cancel, ..self }
        }
    };
}
pub(crate) use transfer_setters;
