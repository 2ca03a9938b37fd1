//! The registry client against a scripted registry.

mod auth;
mod blobs;
mod manifests;
mod mirrors;
mod peers;
mod redirects;
mod storm;
mod tls;

use crate::support::fault::FaultServer;
use futures::StreamExt;
use saver::content::{BlobStream, Source};
use saver::oci::{Descriptor, Registry, Repository, Tag};
use saver::registry::{Anonymous, Credential, Fixed, Secret, Session, SessionOptions};
use saver::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

fn repository() -> Repository {
    "team/app".parse().unwrap()
}

fn tag() -> Tag {
    "v1".parse().unwrap()
}

/// Options that give up soon where a test waits for that.
fn options() -> SessionOptions {
    let mut options = SessionOptions::default();
    options.connect_timeout = Duration::from_secs(10);
    options
}

fn anonymous(server: &FaultServer) -> Session {
    session(server.registry(), options())
}

fn session(registry: Registry, options: SessionOptions) -> Session {
    Session::new(registry, Arc::new(Anonymous), options).unwrap()
}

fn basic() -> Credential {
    Credential::Basic { username: "ann".into(), password: Secret::new("hunter2") }
}

fn with_credential(server: &FaultServer, credential: Credential) -> Session {
    Session::new(server.registry(), Arc::new(Fixed::new(credential)), options()).unwrap()
}

/// Asks through the scripted server as through a proxy, so that it can play a public host.
fn through_proxy(server: &FaultServer, registry: &str, credential: Credential) -> Session {
    let mut options = options();
    options.plain_http = true;
    options.proxy.http = Some(server.url().parse().unwrap());
    Session::new(registry.parse().unwrap(), Arc::new(Fixed::new(credential)), options).unwrap()
}

/// All that a stream brings, and the error that it ends with if it does.
async fn read(stream: BlobStream) -> (Vec<u8>, Option<Error>) {
    let mut chunks = stream.chunks;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

async fn fetch(
    session: &Session,
    descriptor: &Descriptor,
    from: u64,
    to: Option<u64>,
) -> Result<(u64, Vec<u8>)> {
    let stream = session.blob(&repository(), descriptor, from, to).await?;
    let start = stream.start;
    match read(stream).await {
        (bytes, None) => Ok((start, bytes)),
        (_, Some(error)) => Err(error),
    }
}
