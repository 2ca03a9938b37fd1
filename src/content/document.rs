//! Reads whole documents, verified, from any source: to inspect an image without transferring it.

use super::retry::{Attempts, RetryPolicy};
use super::{Source, Target};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::config::{ImageConfig, MAX_CONFIG_SIZE};
use crate::oci::{Descriptor, Digest, RawManifest, Reference, Repository};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

/// Runs `request` until it succeeds or `policy` gives up.
///
/// # Errors
/// The last failure.
pub async fn retrying<T, F>(policy: &RetryPolicy, mut request: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut attempts = Attempts::new(policy);
    loop {
        match request().await {
            Ok(value) => return Ok(value),
            Err(error) => tokio::time::sleep(attempts.after(error)?).await,
        }
    }
}

/// The digest of `reference` at `source`: its own, or that of its tag.
///
/// # Errors
/// As [`Source::resolve`]; `InvalidInput` for a reference with neither.
pub async fn resolve<S: Source>(source: &S, reference: &Reference, policy: &RetryPolicy) -> Result<Digest> {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => Ok(*digest),
        (None, Some(tag)) => {
            let resolved = retrying(policy, || source.resolve(&reference.repository, tag)).await?;
            Ok(resolved.digest)
        }
        (None, None) => {
            Err(Error::new(ErrorKind::InvalidInput, reference, "the name has neither tag nor digest"))
        }
    }
}

/// Reads the manifest of `digest`.
///
/// # Errors
/// As [`Source::manifest`]; `Corrupt` if the source sends other bytes.
pub async fn manifest<S: Source>(
    source: &S,
    repository: &Repository,
    digest: Digest,
    policy: &RetryPolicy,
) -> Result<RawManifest> {
    retrying(policy, || async {
        let raw = source.manifest(repository, &Target::Digest(digest)).await?;
        if raw.digest == digest {
            return Ok(raw);
        }
        source.report_corrupt(repository, &digest);
        Err(wrong(digest, &format!("the content has digest {}", raw.digest)))
    })
    .await
}

/// Reads an image's configuration.
///
/// # Errors
/// As [`Source::blob`]; `TooLarge` for more than [`MAX_CONFIG_SIZE`] bytes, `Corrupt` for content that does not match its
/// descriptor or is not a configuration.
pub async fn config<S: Source>(
    source: &S,
    repository: &Repository,
    descriptor: &Descriptor,
    policy: &RetryPolicy,
) -> Result<ImageConfig> {
    if descriptor.size > MAX_CONFIG_SIZE {
        let message = format!(
            "the configuration has {} bytes, more than the limit of {MAX_CONFIG_SIZE}",
            descriptor.size
        );
        return Err(Error::new(ErrorKind::TooLarge, descriptor.digest, message).on(Side::Source));
    }
    ImageConfig::parse(&blob(source, repository, descriptor, policy).await?)
}

/// Reads a blob into memory. The caller bounds its size.
///
/// # Errors
/// As [`Source::blob`]; `Corrupt` for content that does not match its descriptor.
pub async fn blob<S: Source>(
    source: &S,
    repository: &Repository,
    descriptor: &Descriptor,
    policy: &RetryPolicy,
) -> Result<Bytes> {
    retrying(policy, || blob_once(source, repository, descriptor)).await
}

async fn blob_once<S: Source>(source: &S, repository: &Repository, descriptor: &Descriptor) -> Result<Bytes> {
    let digest = descriptor.digest;
    let mut stream = source.blob(repository, descriptor, 0, None).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > descriptor.size {
            return Err(wrong(digest, &format!("it has more than the announced {} bytes", descriptor.size)));
        }
    }
    let found = Digest::of(&bytes);
    if found != digest {
        source.report_corrupt(repository, &digest);
        return Err(wrong(digest, &format!("the content has digest {found}")));
    }
    Ok(bytes.freeze())
}

fn wrong(digest: Digest, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, digest, format!("the content does not match its descriptor: {why}"))
        .on(Side::Source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::memory::Memory;

    #[tokio::test]
    async fn config_is_verified_against_its_descriptor() {
        let source = Memory::new();
        let repository: Repository = "a".parse().unwrap();
        let text = r#"{"architecture":"amd64","os":"linux"}"#;
        let digest = source.insert_blob(&repository, text.as_bytes().to_vec());
        let policy = RetryPolicy { retries: 0, corruptions: 0, ..RetryPolicy::default() };
        let read = async |size| {
            let descriptor = Descriptor::new("", digest, size);
            config(&source, &repository, &descriptor, &policy).await
        };
        assert_eq!(read(text.len() as u64).await.unwrap().platform.architecture, "amd64");
        assert_eq!(read(5).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(read(MAX_CONFIG_SIZE + 1).await.unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
