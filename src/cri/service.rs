//! The gRPC calls: requests are decoded, passed to [`ImageManager`], and its results encoded.

use super::image_manager::{self, ImageManager};
use super::proto::image_service_server::ImageService;
use super::proto::runtime_service_server::RuntimeService;
use super::proto::{
    FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, UInt64Value,
    VersionRequest, VersionResponse,
};
use super::snapshot::ImageEntry;
use super::{auth, status};
use crate::oci::config::{ImageConfig, chain_ids};
use crate::oci::{Descriptor, Manifest, RawManifest};
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// The version of the kubelet API, which every runtime reports as this.
const KUBELET_API: &str = "0.1.0";

/// The CRI version of a request, from its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiVersion(pub(super) &'static str);

/// The gRPC service.
#[derive(Clone)]
pub(super) struct CriService {
    pub(super) images: Arc<ImageManager>,
}

#[async_trait]
impl RuntimeService for CriService {
    async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        let api = request.extensions().get::<ApiVersion>().map_or("v1", |api| api.0);
        Ok(Response::new(VersionResponse {
            version: KUBELET_API.to_owned(),
            runtime_name: env!("CARGO_PKG_NAME").to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: api.to_owned(),
        }))
    }
}

#[async_trait]
impl ImageService for CriService {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let filter = request.into_inner().filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let images = match filter.filter(|name| !name.is_empty()) {
            Some(name) => {
                let image = self.images.find(name).await.map_err(|error| status::of(&error))?;
                image.as_ref().map(message).into_iter().collect()
            }
            None => {
                let images = self.images.list().await.map_err(|error| status::of(&error))?;
                images.listed().map(message).collect()
            }
        };
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let image = self.images.find(name).await.map_err(|error| status::of(&error))?;
        // For a missing image the response has no image; it is not an error.
        let mut response = ImageStatusResponse::default();
        if let Some(image) = image {
            response.image = Some(message(&image));
            if request.verbose {
                let documents = self.images.documents(image.summary.clone()).await;
                let documents = documents.map_err(|error| status::of(&error))?;
                let info = documents.map(|(manifest, config)| info(&manifest, &config)).unwrap_or_default();
                response.info = HashMap::from([("info".to_owned(), info)]);
            }
        }
        Ok(Response::new(response))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let pull = async {
            let reference = image_manager::parse_pull_name(&name)?;
            let credential = auth::credential(request.auth.as_ref(), &reference.registry)?;
            self.images.pull(reference, credential).await
        };
        let id = pull.await.map_err(|error| {
            // The error names the image. The name as it was sent may contain a password.
            tracing::info!(%error, "pull failed");
            status::of(&error)
        })?;
        tracing::info!(image = name, %id, "pulled");
        Ok(Response::new(PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = named(request.into_inner().image)?;
        self.images.remove(name).await.map_err(|error| status::of(&error))?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let usage = self.images.usage().await.map_err(|error| status::of(&error))?;
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![FilesystemUsage {
                timestamp: usage.timestamp,
                fs_id: Some(FilesystemIdentifier { mountpoint: usage.mount_point }),
                used_bytes: Some(UInt64Value { value: usage.bytes }),
                inodes_used: Some(UInt64Value { value: usage.inodes }),
            }],
            // This service runs no containers.
            container_filesystems: Vec::new(),
        }))
    }
}

fn named(spec: Option<ImageSpec>) -> Result<String, Status> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::invalid_argument("the request names no image"));
    }
    Ok(name)
}

fn message(image: &ImageEntry) -> Image {
    let (uid, username) = image_manager::user(&image.summary);
    let id = image.summary.id.to_string();
    Image {
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.summary.size(),
        uid: uid.map(|value| Int64Value { value }),
        username,
        spec: Some(ImageSpec { image: id.clone(), ..ImageSpec::default() }),
        pinned: false,
        id,
    }
}

/// The additional JSON of a verbose status: `chainID` and `imageSpec` as containerd has them, and the image's descriptors.
fn info(manifest: &RawManifest, config: &[u8]) -> String {
    let descriptor = |blob: &Descriptor| {
        serde_json::json!({
            "mediaType": blob.media_type,
            "digest": blob.digest.to_string(),
            "size": blob.size,
        })
    };
    let spec: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
    let mut info = serde_json::json!({
        "imageSpec": spec,
        "digest": manifest.digest.to_string(),
        "manifest": descriptor(&manifest.descriptor()),
    });
    if let Ok(Manifest::Image(image)) = manifest.parse() {
        info["config"] = descriptor(&image.config);
        info["layers"] = image.layers.iter().map(descriptor).collect();
    }
    if let Ok(config) = ImageConfig::parse(config) {
        let chain_id = chain_ids(&config.rootfs.diff_ids).last();
        info["chainID"] = chain_id.map(|id| id.to_string()).unwrap_or_default().into();
        info["platform"] = config.platform.to_string().into();
    }
    info.to_string()
}
