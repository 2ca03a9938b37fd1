//! containerd's content store: looking up, labelling and writing content.

use super::client::{Client, Exchange};
use super::closure::ContentItem;
use super::messages::{
    AbortRequest, ContentInfo, ContentInfoRequest, ContentInfoResponse, Empty, FieldMask,
    UpdateContentRequest, WriteContentRequest, WriteContentResponse, write_action,
};
use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::store::Store;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tonic::{Code, Status};

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const UPDATE: &str = "/containerd.services.content.v1.Content/Update";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const ABORT: &str = "/containerd.services.content.v1.Content/Abort";

/// The size of a chunk in bytes. containerd accepts messages of 16 MiB.
const CHUNK: u64 = 1 << 20;

type WriteStream = Exchange<WriteContentRequest, WriteContentResponse>;

/// Makes content present with its labels, and returns how many bytes were sent; none if the node had it.
///
/// # Errors
/// Those of containerd, which checks the digest; `Storage` if the tree cannot be read.
pub(super) async fn ensure(client: &Client, store: &Store, item: &ContentItem) -> Result<Option<u64>> {
    let failed = |status: Status| client.error(item.digest, &status);
    if let Some(labels) = labels_of(client, &item.digest).await.map_err(failed)? {
        add_labels(client, &item.digest, &labels, &item.labels).await.map_err(failed)?;
        return Ok(None);
    }
    let opened = {
        let store = store.clone();
        let digest = item.digest;
        tokio::task::spawn_blocking(move || store.open_blob(&digest)).await
    };
    let opened = opened.unwrap_or_else(|_| Err(Error::internal(item.digest)))?;
    let (file, _) = opened.ok_or_else(|| client.error(item.digest, &Status::not_found("no such content")))?;
    let file = Arc::new(file);
    let mut written = write(client, Arc::clone(&file), item).await;
    if written.as_ref().is_err_and(WriteError::is_wrong_digest) {
        // What an interrupted ingest had received may be damaged, so it is written once more from the beginning.
        abort(client, item).await.map_err(failed)?;
        written = write(client, file, item).await;
    }
    if written.as_ref().is_err_and(WriteError::is_wrong_digest) {
        abort(client, item).await.map_err(failed)?;
    }
    match written {
        Ok(sent) => Ok(Some(sent)),
        // Another client was faster, or the content is in another namespace.
        Err(WriteError::Refused(status)) if status.code() == Code::AlreadyExists => {
            let present = labels_of(client, &item.digest).await.map_err(failed)?.unwrap_or_default();
            add_labels(client, &item.digest, &present, &item.labels).await.map_err(failed)?;
            Ok(None)
        }
        Err(WriteError::Refused(status)) => Err(failed(status)),
        Err(WriteError::Unreadable(error)) => Err(Error::storage(item.digest, "read", error)),
    }
}

/// The labels of content; `None` if the node does not have it.
async fn labels_of(
    client: &Client,
    digest: &Digest,
) -> std::result::Result<Option<HashMap<String, String>>, Status> {
    let request = ContentInfoRequest { digest: digest.to_string() };
    match client.call::<_, ContentInfoResponse>(INFO, request).await {
        Ok(response) => Ok(Some(response.info.unwrap_or_default().labels)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Adds the labels that are missing. Others, such as those of another repository with the same content, stay.
pub(super) async fn add_labels(
    client: &Client,
    digest: &Digest,
    present: &HashMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> std::result::Result<(), Status> {
    let mut labels = HashMap::new();
    for (key, value) in wanted {
        let value = match present.get(key) {
            Some(old) if old.split(',').any(|one| one == value) => continue,
            // The label of a source lists all repositories (containerd, docker.AppendDistributionSourceLabel).
            Some(old) if key.starts_with("containerd.io/distribution.source.") => format!("{old},{value}"),
            _ => value.clone(),
        };
        labels.insert(key.clone(), value);
    }
    if labels.is_empty() {
        return Ok(());
    }
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let info = ContentInfo { digest: digest.to_string(), labels, ..ContentInfo::default() };
    let request = UpdateContentRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
    client.call::<_, ContentInfoResponse>(UPDATE, request).await.map(drop)
}

enum WriteError {
    Refused(Status),
    Unreadable(std::io::Error),
}

impl WriteError {
    /// Whether containerd has rejected the content at the end.
    fn is_wrong_digest(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::FailedPrecondition)
    }
}

impl From<Status> for WriteError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Drops an ingest.
async fn abort(client: &Client, item: &ContentItem) -> std::result::Result<(), Status> {
    let request = AbortRequest { reference: item.ingest.clone() };
    match client.call::<_, Empty>(ABORT, request).await {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

/// Writes content from where an interrupted ingest ended; how many bytes were sent.
async fn write(client: &Client, file: Arc<File>, item: &ContentItem) -> Result<u64, WriteError> {
    let total = item.size.cast_signed();
    let request = |action| WriteContentRequest {
        action,
        reference: item.ingest.clone(),
        total,
        expected: item.digest.to_string(),
        ..WriteContentRequest::default()
    };
    let mut stream: WriteStream = client.open(WRITE, request(write_action::STAT)).await?;
    let start = stream.response().await?.offset.cast_unsigned().min(item.size);
    let mut offset = start;
    while offset < item.size {
        let length = usize::try_from(CHUNK.min(item.size - offset)).unwrap_or(0);
        let file = Arc::clone(&file);
        let read = move || {
            let mut chunk = vec![0; length];
            file.read_exact_at(&mut chunk, offset).map(|()| Bytes::from(chunk))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let data = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let data = data.map_err(WriteError::Unreadable)?;
        let chunk =
            WriteContentRequest { offset: offset.cast_signed(), data, ..request(write_action::WRITE) };
        let written = stream.send(chunk).await?.offset.cast_unsigned();
        if written <= offset || written > item.size {
            return Err(
                Status::aborted(format!("the write is at byte {written} after one at {offset}")).into()
            );
        }
        offset = written;
    }
    let labels = item.labels.clone().into_iter().collect();
    let commit =
        WriteContentRequest { offset: offset.cast_signed(), labels, ..request(write_action::COMMIT) };
    stream.send(commit).await?;
    Ok(item.size - start)
}
