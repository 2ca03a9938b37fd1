//! The messages of containerd's API that saver uses, with the fields that it uses (containerd, api/services). Others are ignored
//! when they are received.

use prost::Message;
use std::collections::HashMap;

/// containerd.types.Descriptor
#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeDescriptor {
    #[prost(string, tag = "1")]
    pub(super) media_type: String,
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

/// containerd.types.Mount
#[derive(Clone, PartialEq, Message)]
pub(super) struct Mount {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) source: String,
    #[prost(string, tag = "3")]
    pub(super) target: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) options: Vec<String>,
}

/// google.protobuf.FieldMask
#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    pub(super) paths: Vec<String>,
}

/// google.protobuf.Empty, and responses that are not read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

/// content.v1.Info
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContentInfo {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(int64, tag = "2")]
    pub(super) size: i64,
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
}

/// content.v1.InfoRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContentInfoRequest {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
}

/// content.v1.InfoResponse
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContentInfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<ContentInfo>,
}

/// content.v1.UpdateRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateContentRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<ContentInfo>,
    #[prost(message, optional, tag = "2")]
    pub(super) update_mask: Option<FieldMask>,
}

/// content.v1.WriteAction
pub(super) mod write_action {
    pub(in super::super) const STAT: i32 = 0;
    pub(in super::super) const WRITE: i32 = 1;
    pub(in super::super) const COMMIT: i32 = 2;
}

/// content.v1.WriteContentRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteContentRequest {
    #[prost(int32, tag = "1")]
    pub(super) action: i32,
    #[prost(string, tag = "2")]
    pub(super) reference: String,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
    #[prost(string, tag = "4")]
    pub(super) expected: String,
    #[prost(int64, tag = "5")]
    pub(super) offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) data: bytes::Bytes,
    #[prost(map = "string, string", tag = "7")]
    pub(super) labels: HashMap<String, String>,
}

/// content.v1.WriteContentResponse
#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteContentResponse {
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
}

/// content.v1.AbortRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct AbortRequest {
    #[prost(string, tag = "1")]
    pub(super) reference: String,
}

/// images.v1.Image
#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageRecord {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(map = "string, string", tag = "2")]
    pub(super) labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub(super) target: Option<TypeDescriptor>,
}

/// images.v1.GetImageRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetImageRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// The response of Get, Create and Update in images.v1
#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<ImageRecord>,
}

/// images.v1.CreateImageRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<ImageRecord>,
}

/// images.v1.UpdateImageRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<ImageRecord>,
    #[prost(message, optional, tag = "2")]
    pub(super) update_mask: Option<FieldMask>,
}

/// leases.v1.CreateRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateLeaseRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(map = "string, string", tag = "3")]
    pub(super) labels: HashMap<String, String>,
}

/// leases.v1.DeleteRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteLeaseRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

/// snapshots.v1.PrepareSnapshotRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct PrepareSnapshotRequest {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(string, tag = "3")]
    pub(super) parent: String,
    #[prost(map = "string, string", tag = "4")]
    pub(super) labels: HashMap<String, String>,
}

/// snapshots.v1.PrepareSnapshotResponse
#[derive(Clone, PartialEq, Message)]
pub(super) struct PrepareSnapshotResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) mounts: Vec<Mount>,
}

/// snapshots.v1.StatSnapshotRequest and RemoveSnapshotRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct SnapshotRequest {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
}

/// snapshots.v1.CommitSnapshotRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct CommitSnapshotRequest {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) key: String,
}

/// diff.v1.ApplyRequest
#[derive(Clone, PartialEq, Message)]
pub(super) struct ApplyRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) diff: Option<TypeDescriptor>,
    #[prost(message, repeated, tag = "2")]
    pub(super) mounts: Vec<Mount>,
}

/// diff.v1.ApplyResponse
#[derive(Clone, PartialEq, Message)]
pub(super) struct ApplyResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) applied: Option<TypeDescriptor>,
}
