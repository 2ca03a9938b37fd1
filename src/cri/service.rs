//! The protocol's calls: messages in, messages out.

use super::images::{self, Images};
use super::proto::image_service_server::ImageService;
use super::proto::runtime_service_server::RuntimeService;
use super::proto::{
    FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, UInt64Value,
    VersionRequest, VersionResponse,
};
use super::snapshot::Listed;
use super::{auth, status};
use crate::oci::config::ImageConfig;
use crate::oci::{Descriptor, Digest, Manifest, RawManifest};
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// The version of the kubelet's side of the interface, which every runtime answers so.
const KUBELET_API: &str = "0.1.0";

/// Which version of the interface a request was made in, as the path had it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Api(pub(super) &'static str);

/// Answers calls.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) images: Arc<Images>,
}

#[async_trait]
impl RuntimeService for Service {
    async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        let api = request.extensions().get::<Api>().map_or("v1", |api| api.0);
        Ok(Response::new(VersionResponse {
            version: KUBELET_API.to_owned(),
            runtime_name: env!("CARGO_PKG_NAME").to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: api.to_owned(),
        }))
    }
}

#[async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let snapshot = self.images.snapshot().await.map_err(|error| status::of(&error))?;
        let filter = request.into_inner().filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let images = match filter.filter(|name| !name.is_empty()) {
            Some(name) => {
                let found = snapshot.find(&name).map_err(|error| status::of(&error))?;
                found.map(|found| message(found.image)).into_iter().collect()
            }
            None => snapshot.images().map(message).collect(),
        };
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let snapshot = self.images.snapshot_for(name.clone()).await.map_err(|error| status::of(&error))?;
        let found = snapshot.find(&name).map_err(|error| status::of(&error))?;
        // An image that is not there is an answer without one.
        let mut response = ImageStatusResponse::default();
        if let Some(found) = found {
            response.image = Some(message(found.image));
            if request.verbose {
                let documents = self.images.documents(found.image.facts.clone()).await;
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
            let reference = images::to_pull(&name)?;
            let credential = auth::credential(request.auth.as_ref(), &reference.registry)?;
            self.images.pull(reference, credential).await
        };
        let id = pull.await.map_err(|error| {
            // The error names the image; the name itself may hold what belongs in no log.
            tracing::info!(%error, "a pull failed");
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
            // No container runs here.
            container_filesystems: Vec::new(),
        }))
    }
}

fn named(spec: Option<ImageSpec>) -> Result<String, Status> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::invalid_argument("image: the request names none"));
    }
    Ok(name)
}

fn message(image: &Listed) -> Image {
    let (uid, username) = images::user(image);
    let id = image.id().to_string();
    Image {
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.facts.size(),
        uid: uid.map(|value| Int64Value { value }),
        username,
        spec: Some(ImageSpec { image: id.clone(), ..ImageSpec::default() }),
        pinned: false,
        id,
    }
}

/// What a verbose answer says beside, as JSON: what containerd says (`chainID`, `imageSpec`), and what the image is made of.
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
        info["chainID"] = chain_id(&config.rootfs.diff_ids).into();
        info["platform"] = config.platform.to_string().into();
    }
    info.to_string()
}

/// The name of the layers' sum (OCI image spec config.md, "Layer ChainID"); empty when there are none.
fn chain_id(diff_ids: &[Digest]) -> String {
    let mut layers = diff_ids.iter().map(Digest::to_string);
    let first = layers.next().unwrap_or_default();
    layers.fold(first, |below, layer| Digest::of(format!("{below} {layer}").as_bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_one_is_its_layer() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(&[]), "");
        assert_eq!(chain_id(&[a]), a.to_string());
        assert_eq!(chain_id(&[a, b]), Digest::of(format!("{a} {b}").as_bytes()).to_string());
    }
}
