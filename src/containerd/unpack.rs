//! Unpacking: a snapshot for each layer, as containerd's client makes them.

use super::client::Client;
use super::closure::Rootfs;
use super::content;
use super::messages::{
    ApplyRequest, ApplyResponse, CommitSnapshotRequest, Empty, PrepareSnapshotRequest,
    PrepareSnapshotResponse, SnapshotRequest, TypeDescriptor,
};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::config::chain_ids;
use crate::oci::{Descriptor, Digest};
use std::collections::{BTreeMap, HashMap};
use tonic::{Code, Status};

const STAT: &str = "/containerd.services.snapshots.v1.Snapshots/Stat";
const PREPARE: &str = "/containerd.services.snapshots.v1.Snapshots/Prepare";
const COMMIT: &str = "/containerd.services.snapshots.v1.Snapshots/Commit";
const REMOVE: &str = "/containerd.services.snapshots.v1.Snapshots/Remove";
const APPLY: &str = "/containerd.services.diff.v1.Diff/Apply";

/// Unpacks the layers that have no snapshot yet; how many there were.
///
/// # Errors
/// Those of containerd; `Corrupt` if a layer unpacks to other content than the configuration says.
pub(super) async fn unpack(client: &Client, snapshotter: &str, rootfs: &Rootfs) -> Result<usize> {
    let mut unpacked = 0;
    let mut parent = String::new();
    let chain_ids = chain_ids(rootfs.layers.iter().map(|(_, diff_id)| diff_id));
    for ((layer, diff_id), chain_id) in rootfs.layers.iter().zip(chain_ids) {
        let chain_id = chain_id.to_string();
        if !exists(client, snapshotter, &chain_id).await? {
            extract(client, snapshotter, &Extraction { layer, diff_id, parent, chain_id: &chain_id }).await?;
            unpacked += 1;
        }
        parent = chain_id;
    }
    let label = (format!("containerd.io/gc.ref.snapshot.{snapshotter}"), parent);
    let labels = BTreeMap::from([label]);
    let added = content::add_labels(client, &rootfs.config, &HashMap::new(), &labels).await;
    added.map_err(|status| client.error(rootfs.config, &status))?;
    Ok(unpacked)
}

async fn exists(client: &Client, snapshotter: &str, key: &str) -> Result<bool> {
    let request = SnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    match client.call::<_, Empty>(STAT, request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(client.error(format!("snapshotter {snapshotter}"), &status)),
    }
}

struct Extraction<'a> {
    layer: &'a Descriptor,
    diff_id: &'a Digest,
    parent: String,
    chain_id: &'a str,
}

async fn extract(client: &Client, snapshotter: &str, extraction: &Extraction<'_>) -> Result<()> {
    let key = format!("extract-saver-{:016x} {}", fastrand::u64(..), extraction.chain_id);
    let failed = |status: Status| client.error(extraction.layer.digest, &status);
    let labels = HashMap::from([("containerd.io/snapshot.ref".to_owned(), extraction.chain_id.to_owned())]);
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.clone(),
        parent: extraction.parent.clone(),
        labels,
    };
    let prepared = match client.call::<_, PrepareSnapshotResponse>(PREPARE, request).await {
        Ok(prepared) => prepared,
        // A remote snapshotter has the layer without unpacking it.
        Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
        Err(status) => return Err(failed(status)),
    };
    let applied = apply(client, prepared, extraction).await;
    let committed = match applied {
        Ok(()) => {
            let (snapshotter, name) = (snapshotter.to_owned(), extraction.chain_id.to_owned());
            let request = CommitSnapshotRequest { snapshotter, name, key: key.clone() };
            match client.call::<_, Empty>(COMMIT, request).await {
                Err(status) if status.code() != Code::AlreadyExists => Err(failed(status)),
                Ok(_) => return Ok(()),
                Err(_) => Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    let request = SnapshotRequest { snapshotter: snapshotter.to_owned(), key };
    if let Err(status) = client.call::<_, Empty>(REMOVE, request).await {
        tracing::debug!(%status, "cannot remove the snapshot of a failed extraction");
    }
    committed
}

async fn apply(
    client: &Client,
    prepared: PrepareSnapshotResponse,
    extraction: &Extraction<'_>,
) -> Result<()> {
    let layer = extraction.layer;
    let diff = TypeDescriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest.to_string(),
        size: layer.size.cast_signed(),
    };
    let request = ApplyRequest { diff: Some(diff), mounts: prepared.mounts };
    let applied: ApplyResponse =
        client.call(APPLY, request).await.map_err(|status| client.error(layer.digest, &status))?;
    let applied = applied.applied.unwrap_or_default().digest;
    if applied != extraction.diff_id.to_string() {
        let why = format!("unpacks to {applied} instead of {}", extraction.diff_id);
        return Err(Error::new(ErrorKind::Corrupt, layer.digest, why));
    }
    Ok(())
}
