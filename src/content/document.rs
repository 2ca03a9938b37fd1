//! Documents read whole and verified, from any source: for whoever wants to know about an image without moving it.

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

/// The digest that `reference` names at `source`: its own where it has one, else its tag's.
///
/// # Errors
/// As [`Source::resolve`]; `InvalidInput` for a name with neither.
pub async fn resolve<S: Source>(source: &S, reference: &Reference, policy: &RetryPolicy) -> Result<Digest> {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => Ok(*digest),
        (None, Some(tag)) => {
            let resolved = retrying(policy, || source.resolve(&reference.repository, tag)).await?;
            Ok(resolved.digest)
        }
        (None, None) => Err(Error::new(ErrorKind::InvalidInput, reference, "neither tag nor digest")),
    }
}

/// The manifest of `digest`.
///
/// # Errors
/// As [`Source::manifest`]; `Corrupt` when the source has other bytes.
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
        source.refuted(repository, &digest);
        Err(wrong(digest, &format!("its bytes hash to {}", raw.digest)))
    })
    .await
}

/// An image's configuration.
///
/// # Errors
/// As [`Source::blob`]; `TooLarge` for one of more than [`MAX_CONFIG_SIZE`] bytes, `Corrupt` for one that is not what its descriptor promises
/// or no configuration.
pub async fn config<S: Source>(
    source: &S,
    repository: &Repository,
    descriptor: &Descriptor,
    policy: &RetryPolicy,
) -> Result<ImageConfig> {
    if descriptor.size > MAX_CONFIG_SIZE {
        let message =
            format!("a configuration of {} bytes; at most {MAX_CONFIG_SIZE} are read", descriptor.size);
        return Err(Error::new(ErrorKind::TooLarge, descriptor.digest, message).on(Side::Source));
    }
    let bytes = retrying(policy, || config_once(source, repository, descriptor)).await?;
    ImageConfig::parse(&bytes)
}

async fn config_once<S: Source>(
    source: &S,
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<Bytes> {
    let digest = descriptor.digest;
    let mut stream = source.blob(repository, descriptor, 0, None).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > descriptor.size {
            return Err(wrong(
                digest,
                &format!("it has more than the {} bytes it should have", descriptor.size),
            ));
        }
    }
    let found = Digest::of(&bytes);
    if found != digest {
        source.refuted(repository, &digest);
        return Err(wrong(digest, &format!("its bytes hash to {found}")));
    }
    Ok(bytes.freeze())
}

fn wrong(digest: Digest, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, digest, format!("not what was asked for: {why}")).on(Side::Source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::memory::Memory;

    #[tokio::test]
    async fn a_configuration_is_read_only_when_it_is_what_it_should_be() {
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
