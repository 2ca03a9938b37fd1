//! What an export is asked to do, and its result.

use crate::oci::layout::RefNameStyle;
use crate::registry::Access;
use crate::save::NameRule;
use crate::transfer::{
    Observer, ReferrerKinds, ReferrerOptions, Report, Silent, TransferOptions, transfer_setters,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The formats of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The format of `docker save`: a single platform of each image.
    DockerArchive,
    /// An OCI image layout in a directory.
    OciLayout,
    /// An OCI image layout in a tar file.
    OciArchive,
}

/// The source of an export.
#[derive(Clone)]
pub enum ExportFrom {
    /// A tree, and how images are named in it.
    Tree(PathBuf, Option<NameRule>),
    /// Registries. For an archive, images are first saved into `staging`: an existing one is resumed, and it is
    /// removed once all images are exported.
    Registries {
        /// Connection settings and credentials.
        access: Box<Access>,
        /// The directory of downloaded content.
        staging: PathBuf,
    },
}

/// Options of an export.
#[derive(Clone)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The format.
    pub format: Format,
    /// The source of the images.
    pub from: ExportFrom,
    /// Platforms, index mode, limits.
    pub transfer: TransferOptions,
    /// How `index.json` names the images.
    pub ref_names: RefNameStyle,
    /// Receives progress events. The end of an image is reported when its content is complete at the destination.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl ExportOptions {
    transfer_setters!();

    /// Default options: all platforms in the source, unchanged indexes, full names, no progress events.
    #[must_use]
    pub fn new(format: Format, from: ExportFrom) -> Self {
        Self {
            format,
            from,
            transfer: TransferOptions {
                attestations: true,
                // `podman load`, and skopeo without a name, read only what lists a single image.
                referrers: ReferrerOptions { kinds: ReferrerKinds::None, ..ReferrerOptions::default() },
                ..TransferOptions::default()
            },
            ref_names: RefNameStyle::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }
}

/// The result of an export.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exported {
    /// A row for each image. If an archive could not be written, its images have failed, and `aborted` says why.
    pub report: Report,
    /// The archive's length in bytes; `None` if no archive was written.
    pub archive_bytes: Option<u64>,
}
