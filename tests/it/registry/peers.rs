//! The client against the real docker-registry: tokens, TLS with a private authority, ranges.

use super::*;
use crate::support::peers;
use crate::support::peers::registry::RegistryOptions;
use crate::support::peers::tls::Tls;
use crate::support::peers::token::{TokenOptions, TokenServer};
use crate::support::scratch::Scratch;
use saver::content::Target;
use saver::oci::manifest::Manifest;
use saver::oci::{Digest, RawManifest};

/// Reads `demo/app:1.0` with all that it names, hashing everything; answers how many blobs there were.
async fn walk(session: &Session) -> usize {
    let repository: Repository = "demo/app".parse().unwrap();
    let resolved = session.resolve(&repository, &"1.0".parse().unwrap()).await.unwrap();
    assert!(resolved.manifest.is_none(), "docker-registry tells digests");
    let root = manifest(session, &repository, resolved.digest).await;
    let mut left = vec![root];
    let mut blobs = 0;
    while let Some(next) = left.pop() {
        match next.parse().unwrap() {
            Manifest::Index(index) => {
                for entry in &index.manifests {
                    left.push(manifest(session, &repository, entry.digest).await);
                }
            }
            Manifest::Image(image) => {
                for blob in image.blobs() {
                    let half = blob.size / 2;
                    let mut bytes = part(session, &repository, blob, 0, Some(half)).await;
                    bytes.extend(part(session, &repository, blob, half, None).await);
                    assert_eq!(Digest::of(&bytes), blob.digest);
                    blobs += 1;
                }
            }
        }
    }
    blobs
}

async fn manifest(session: &Session, repository: &Repository, digest: Digest) -> RawManifest {
    session.manifest(repository, &Target::Digest(digest)).await.unwrap()
}

async fn part(
    session: &Session,
    repository: &Repository,
    blob: &Descriptor,
    from: u64,
    to: Option<u64>,
) -> Vec<u8> {
    let stream = session.blob(repository, blob, from, to).await.unwrap();
    assert_eq!(stream.start, from, "docker-registry does ranges");
    let (bytes, error) = read(stream).await;
    assert!(error.is_none(), "{error:?}");
    bytes
}

#[tokio::test]
async fn in_plain_http() {
    let registry = peers::registry::Registry::serve(&peers::samples());
    let session = session(registry.address.parse().unwrap(), options());
    assert!(walk(&session).await >= 4);
}

#[tokio::test]
async fn with_tokens_of_a_token_server() {
    let folder = Scratch::new();
    let user = Some(("ann", "hunter2"));
    let tokens = TokenServer::start(folder.path(), TokenOptions { user, lifetime: Duration::from_secs(300) });
    let options = RegistryOptions { token: Some(tokens.auth()), ..RegistryOptions::default() };
    let registry = peers::registry::Registry::start(&peers::samples(), &options);
    let name: Registry = registry.address.parse().unwrap();
    let refused = session(name.clone(), super::options());
    let error = refused.resolve(&"demo/app".parse().unwrap(), &"1.0".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), saver::ErrorKind::Unauthorized, "{error}");
    let before = tokens.asked().len();
    let session = Session::new(name, Arc::new(Fixed::new(basic())), super::options()).unwrap();
    assert!(walk(&session).await >= 4);
    assert_eq!(tokens.asked().len() - before, 1, "one token for one repository");
}

#[tokio::test]
async fn over_tls_with_a_private_authority() {
    let folder = Scratch::new();
    let tls = Tls::make(folder.path());
    let options = RegistryOptions { tls: Some(tls.clone()), ..RegistryOptions::default() };
    let registry = peers::registry::Registry::start(&peers::samples(), &options);
    let mut trusting = super::options();
    trusting.ca_certificates = vec![std::fs::read(&tls.ca).unwrap()];
    let session = session(registry.address.parse().unwrap(), trusting);
    assert!(walk(&session).await >= 4);
}
