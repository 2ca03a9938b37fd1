//! Loading images into containerd, without a registry and without an archive: what the content store of the node lacks is written
//! through containerd's API, with the labels by which its garbage collection keeps it.
//!
//! Everything that a load writes is under a lease, so that nothing is collected before the image refers to it. The lease of an
//! interrupted load expires after a day; until then the next load resumes.

mod client;
mod closure;
mod content;
mod messages;
mod unpack;

use crate::content::Place;
use crate::error::{Error, ErrorKind, ErrorReport, Result};
use crate::oci::{Digest, PlatformSet, RawManifest, Reference};
use crate::save::NameRule;
use crate::serve::http::DateTime;
use crate::store::Store;
use client::Client;
use futures::{StreamExt, TryStreamExt};
use messages::{
    CreateImageRequest, CreateLeaseRequest, DeleteLeaseRequest, Empty, FieldMask, GetImageRequest,
    ImageRecord, ImageResponse, TypeDescriptor, UpdateImageRequest,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use tonic::Code;

const CREATE_LEASE: &str = "/containerd.services.leases.v1.Leases/Create";
const DELETE_LEASE: &str = "/containerd.services.leases.v1.Leases/Delete";
const GET_IMAGE: &str = "/containerd.services.images.v1.Images/Get";
const CREATE_IMAGE: &str = "/containerd.services.images.v1.Images/Create";
const UPDATE_IMAGE: &str = "/containerd.services.images.v1.Images/Update";

/// The label of images that the kubelet does not remove (containerd 1.7.14 and later).
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// How long an interrupted load is kept.
const LEASE_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of blobs that are written at a time.
const WRITES: usize = 4;

/// Options of a load.
#[derive(Clone)]
#[non_exhaustive]
pub struct LoadOptions {
    /// containerd's socket.
    pub socket: PathBuf,
    /// containerd's namespace: `k8s.io` is that of Kubernetes.
    pub namespace: String,
    /// The rule of the names in the directory; `None` for the one that it was saved with.
    pub names: Option<NameRule>,
    /// The platforms to load.
    pub platforms: PlatformSet,
    /// Whether to pin the images, so that the kubelet does not remove them.
    pub pin: bool,
    /// The snapshotter to unpack the layers with; `None` leaves that to the first container.
    pub unpack: Option<String>,
    /// Receives each image as it is finished.
    pub observer: Arc<dyn LoadObserver>,
    /// Cancelling this token ends the load. What was sent is kept for a day, for the next load.
    pub cancel: CancellationToken,
}

impl LoadOptions {
    /// Options for `platforms`, in the namespace of Kubernetes.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, platforms: PlatformSet) -> Self {
        Self {
            socket: socket.into(),
            namespace: "k8s.io".to_owned(),
            names: None,
            platforms,
            pin: false,
            unpack: None,
            observer: Arc::new(()),
            cancel: CancellationToken::new(),
        }
    }

    /// Loads into this namespace of containerd.
    #[must_use]
    pub fn with_namespace(self, namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), ..self }
    }

    /// Finds images in the directory by this rule.
    #[must_use]
    pub fn with_names(self, names: NameRule) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Pins the images, so that the kubelet does not remove them.
    #[must_use]
    pub fn with_pin(self, pin: bool) -> Self {
        Self { pin, ..self }
    }

    /// Unpacks the layers with this snapshotter.
    #[must_use]
    pub fn with_unpack(self, snapshotter: impl Into<String>) -> Self {
        Self { unpack: Some(snapshotter.into()), ..self }
    }

    /// Sends each image to `observer` as it is finished.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn LoadObserver>) -> Self {
        Self { observer, ..self }
    }

    /// Ends the load when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }
}

/// Receives the progress of a load.
pub trait LoadObserver: Send + Sync {
    /// An image was loaded, was unchanged, or failed.
    fn image_finished(&self, image: &LoadedImage) {
        let _ = image;
    }
}

impl LoadObserver for () {}

/// The result of a load.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoadReport {
    /// The version of this format: 1.
    pub schema: u32,
    /// The images, in the order requested.
    pub images: Vec<LoadedImage>,
    /// Total size of the content that was sent.
    pub bytes_sent: u64,
}

impl LoadReport {
    /// The current version of the JSON format.
    pub const SCHEMA: u32 = 1;

    /// Whether no image failed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.images.iter().all(|image| image.status != LoadStatus::Failed)
    }
}

/// The result for one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LoadedImage {
    /// The name of the image in containerd.
    pub reference: Reference,
    /// What became of it.
    pub status: LoadStatus,
    /// The digest of its manifest or index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Number of blobs and manifests that were sent.
    pub sent: usize,
    /// Their size in bytes, without what an interrupted load had sent.
    pub bytes_sent: u64,
    /// Number of layers that were unpacked.
    pub unpacked: usize,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LoadStatus {
    /// It is new, moved, or had missing content.
    Loaded,
    /// The node had all of it.
    Unchanged,
    /// It could not be loaded.
    Failed,
}

/// Loads images of a directory. The failure of one image is a row of the report, and the others continue.
///
/// # Errors
/// `InvalidInput` for an invalid namespace, or for names by another rule than those of the directory; `Storage` if containerd does
/// not listen on the socket; its errors for the lease; `Cancelled`.
pub async fn load(store: &Store, images: &[Reference], options: &LoadOptions) -> Result<LoadReport> {
    let names = NameRule::of(store, options.names.as_ref())?;
    let client = Client::connect(&options.socket, &options.namespace).await?;
    let lease = Lease::create(&client).await?;
    let loader = Loader { store, options, names, client: client.with_lease(&lease.id) };
    let mut report = LoadReport { schema: LoadReport::SCHEMA, images: Vec::new(), bytes_sent: 0 };
    for reference in images {
        let mut row = LoadedImage {
            reference: reference.clone(),
            status: LoadStatus::Failed,
            digest: None,
            sent: 0,
            bytes_sent: 0,
            unpacked: 0,
            error: None,
        };
        let loaded = options.cancel.run_until_cancelled(loader.load(&mut row)).await;
        match loaded.ok_or_else(|| Error::new(ErrorKind::Cancelled, "load", "cancelled"))? {
            Ok(status) => row.status = status,
            Err(error) => row.error = Some(ErrorReport::from(&error)),
        }
        options.observer.image_finished(&row);
        report.bytes_sent += row.bytes_sent;
        report.images.push(row);
    }
    // The content of a failed image is kept until the lease expires, for the next load.
    if report.is_success()
        && let Err(error) = lease.delete(&client).await
    {
        tracing::warn!("{error}; content that is not part of an image is kept for a day");
    }
    Ok(report)
}

/// A lease, which keeps what was written from being collected.
struct Lease {
    id: String,
}

impl Lease {
    async fn create(client: &Client) -> Result<Self> {
        let id = format!("saver-{:016x}", fastrand::u64(..));
        let expiry = DateTime::from(SystemTime::now() + LEASE_TIME).to_string();
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry)]);
        let request = CreateLeaseRequest { id: id.clone(), labels };
        let created = client.call::<_, Empty>(CREATE_LEASE, request).await;
        created.map_err(|status| client.error("lease", &status))?;
        Ok(Self { id })
    }

    async fn delete(self, client: &Client) -> Result<()> {
        let deleted = client.call::<_, Empty>(DELETE_LEASE, DeleteLeaseRequest { id: self.id }).await;
        deleted.map(drop).map_err(|status| client.error("lease", &status))
    }
}

struct Loader<'a> {
    store: &'a Store,
    options: &'a LoadOptions,
    names: NameRule,
    client: Client,
}

impl Loader<'_> {
    async fn load(&self, row: &mut LoadedImage) -> Result<LoadStatus> {
        let (root, image) = self.read(&row.reference).await?;
        row.digest = Some(root.digest);
        let (parents, blobs): (Vec<_>, Vec<_>) = image.items.iter().partition(|item| item.is_manifest);
        let writes = blobs.into_iter().map(|item| content::ensure(&self.client, self.store, item));
        let mut sent: Vec<Option<u64>> =
            futures::stream::iter(writes).buffer_unordered(WRITES).try_collect().await?;
        for item in parents {
            sent.push(content::ensure(&self.client, self.store, item).await?);
        }
        row.sent = sent.iter().flatten().count();
        row.bytes_sent = sent.into_iter().flatten().sum();
        if let Some(snapshotter) = &self.options.unpack {
            for rootfs in &image.rootfs {
                row.unpacked += unpack::unpack(&self.client, snapshotter, rootfs).await?;
            }
        }
        let is_new = self.record(&row.reference, &root).await?;
        let is_unchanged = !is_new && row.sent == 0 && row.unpacked == 0;
        Ok(if is_unchanged { LoadStatus::Unchanged } else { LoadStatus::Loaded })
    }

    async fn read(&self, reference: &Reference) -> Result<(RawManifest, closure::ImageClosure)> {
        let store = self.store.clone();
        let names = self.names.clone();
        let options = self.options.clone();
        let reference = reference.clone();
        let read = move || {
            let place = names.find(&store, &reference)?;
            let root = root_of(&store, &reference, &place)?;
            let source = (reference.registry.as_str(), reference.repository.as_str());
            closure::read(&store, &place, root, source, &options)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err(Error::internal("load")))
    }

    /// Creates or moves the image; whether it was not there before.
    async fn record(&self, reference: &Reference, root: &RawManifest) -> Result<bool> {
        let failed = |status| self.client.error(reference, &status);
        let name = reference.to_string();
        let target = TypeDescriptor {
            media_type: root.media_type.clone(),
            digest: root.digest.to_string(),
            size: (root.bytes.len() as u64).cast_signed(),
        };
        let pinned = self.options.pin.then(|| (PINNED.0.to_owned(), PINNED.1.to_owned()));
        let labels: HashMap<String, String> = pinned.into_iter().collect();
        let wanted = ImageRecord { name: name.clone(), labels, target: Some(target) };
        let present = match self.client.call::<_, ImageResponse>(GET_IMAGE, GetImageRequest { name }).await {
            Ok(response) => response.image.unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => {
                let request = CreateImageRequest { image: Some(wanted) };
                self.client.call::<_, ImageResponse>(CREATE_IMAGE, request).await.map_err(failed)?;
                return Ok(true);
            }
            Err(status) => return Err(failed(status)),
        };
        let mut paths = Vec::new();
        if present.target != wanted.target {
            paths.push("target".to_owned());
        }
        if wanted.labels.iter().any(|(key, value)| present.labels.get(key) != Some(value)) {
            paths.push(format!("labels.{}", PINNED.0));
        }
        if paths.is_empty() {
            return Ok(false);
        }
        let request = UpdateImageRequest { image: Some(wanted), update_mask: Some(FieldMask { paths }) };
        self.client.call::<_, ImageResponse>(UPDATE_IMAGE, request).await.map_err(failed)?;
        Ok(true)
    }
}

/// The digest that a reference stands for in the tree.
fn root_of(store: &Store, reference: &Reference, place: &Place) -> Result<Digest> {
    let digest = match (&reference.digest, &place.tag) {
        (Some(digest), _) => Some(*digest),
        (None, Some(tag)) => store.read_tag(&place.repository, tag)?,
        (None, None) => None,
    };
    digest.ok_or_else(|| Error::new(ErrorKind::NotFound, reference, "no such image in the directory"))
}
