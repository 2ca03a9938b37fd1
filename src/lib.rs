//! Mirrors container images from any number of registries into a directory that `registry:2` can serve as is.
//!
//! This is the library behind the `saver` command. It downloads images and other OCI artifacts into the storage layout of
//! docker/distribution, and moves them on: into another registry, into archives, or to nodes by a read-only registry of
//! its own. All content is verified against its digest before it becomes visible, interrupted downloads are resumed, and
//! content that several images share is stored once.
//!
//! # Saving images
//!
//! [`save_images`] is the shortest form. Names are those that `docker pull` takes:
//!
//! ```no_run
//! # async fn example() -> saver::Result<()> {
//! let report = saver::save_images(["nginx:1.27", "quay.io/cilium/cilium:v1.16.0"], "/var/lib/registry", "amd64").await?;
//! for image in &report.images {
//!     println!("{} {:?} {:?}", image.reference, image.status, image.digest);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A failed image is a row of the [`Report`], and the other images continue. `Err` means that the run as a whole could not
//! start or continue. Programs without an async runtime use [`blocking`].
//!
//! An [`ImageSaver`] takes [`SaveOptions`]. Image lists are parsed by [`list::parse`], which reports every unreadable line:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use saver::{ImageSaver, SaveOptions};
//!
//! let list = saver::list::parse("images.txt", &std::fs::read("images.txt")?);
//! let options = SaveOptions::new("/var/lib/registry").with_platforms("linux/amd64,linux/arm64")?;
//! let report = ImageSaver::new(options)?.save(list.entries).await?;
//! assert!(report.is_success());
//! # Ok(())
//! # }
//! ```
//!
//! # Credentials, certificates and proxies
//!
//! By default, access is anonymous and uses the system's certificate authorities. [`credentials::docker_access`] uses what
//! Docker, Podman and Skopeo have stored: credential files, helpers, `certs.d` directories and proxy variables. The library
//! does not read the environment by itself, so that call takes a function that does:
//!
//! ```no_run
//! # fn example() -> saver::Result<()> {
//! use saver::registry::{Credential, Secret};
//! use saver::{Credentials, SaveOptions, credentials};
//! use std::sync::Arc;
//!
//! let mut access = credentials::docker_access(|name| std::env::var_os(name))?;
//! // Or with credentials of the program's own:
//! let robot = Credential::Basic { username: "robot".into(), password: Secret::new("hunter2") };
//! access.credentials = Arc::new(Credentials::new().with_credential("registry.lan:5000".parse()?, robot));
//! let options = SaveOptions::new("/var/lib/registry").with_access(access);
//! # Ok(())
//! # }
//! ```
//!
//! # Mirrors and insecure registries
//!
//! [`RegistrySettings`](credentials::RegistrySettings) holds connection settings for each registry:
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use saver::credentials::{RegistrySettings, docker_access};
//! use std::sync::Arc;
//!
//! let env = |name: &str| std::env::var_os(name);
//! let settings = RegistrySettings::docker_default(env)?
//!     .with_mirror("docker.io".parse()?, "https://mirror.lan/hub".parse()?)
//!     .with_ca_file("/etc/ssl/company-ca.pem")?
//!     .with_plain_http("registry.lan:5000".parse()?);
//! let mut access = docker_access(env)?;
//! access.settings = Arc::new(settings);
//! # Ok(())
//! # }
//! ```
//!
//! # Progress and cancellation
//!
//! An [`Observer`](transfer::Observer) receives [events](transfer::Event). Cancelling the options'
//! [`CancellationToken`] ends a run: complete images stay, the others are reported as cancelled, and the next run resumes.
//!
//! ```no_run
//! # async fn example() -> saver::Result<()> {
//! use saver::transfer::{Event, Observer};
//! use saver::{CancellationToken, ImageSaver, SaveOptions};
//! use std::sync::Arc;
//!
//! struct Log;
//!
//! impl Observer for Log {
//!     fn event(&self, event: &Event<'_>) {
//!         if let Event::ImageFinished { image } = event {
//!             println!("{}: {:?}", image.reference, image.status);
//!         }
//!     }
//! }
//!
//! let cancel = CancellationToken::new();
//! let options =
//!     SaveOptions::new("/var/lib/registry").with_observer(Arc::new(Log)).with_cancel(cancel.clone());
//! let timeout = tokio::time::sleep(std::time::Duration::from_secs(3600));
//! let saver = ImageSaver::new(options)?;
//! let mut run = std::pin::pin!(saver.save(["nginx:1.27"]));
//! let report = tokio::select! {
//!     report = &mut run => report?,
//!     () = timeout => {
//!         cancel.cancel();
//!         run.await?
//!     }
//! };
//! # Ok(())
//! # }
//! ```
//!
//! # Pushing and copying
//!
//! [`push::ImagePusher`] uploads saved images to a registry. [`copy::copy`] moves an image between registries without a
//! directory in between:
//!
//! ```no_run
//! # async fn example() -> saver::Result<()> {
//! use saver::copy::{CopyOptions, copy};
//! use saver::push::{ImagePusher, PushOptions};
//!
//! let options = PushOptions::new("/var/lib/registry", "registry.lan:5000/mirror".parse()?);
//! let pushed = ImagePusher::new(options)?.push_all().await?;
//! let copied = copy("nginx:1.27", "registry.lan:5000/nginx:1.27", CopyOptions::default()).await?;
//! # Ok(())
//! # }
//! ```
#![cfg_attr(
    feature = "archive",
    doc = r#"
# Archives

[`export::export`] writes archives for `docker load`, `podman load` and `ctr image import`, and OCI image layouts;
[`import::import`] reads them. Both need the feature `archive`.

```no_run
# async fn example() -> saver::Result<()> {
use saver::export::{ExportFrom, ExportOptions, ExportTo, Format, export};

let from = ExportFrom::Tree("/var/lib/registry".into(), None);
let options = ExportOptions::new(Format::DockerArchive, from).with_platforms("amd64")?;
let exported = export(["nginx:1.27"], ExportTo::Path("nginx.tar".into()), options).await?;
assert!(exported.report.is_success());
# Ok(())
# }
```
"#
)]
//! # Checking a directory
//!
//! [`verify::verify`] checks that every tag is complete and that all files match their digests. It can run while images
//! are saved or served:
//!
//! ```no_run
//! # fn example() -> saver::Result<()> {
//! use saver::store::Store;
//! use saver::verify::{VerifyOptions, verify};
//!
//! let store = Store::open_read_only("/var/lib/registry".as_ref())?;
//! let report = verify(&store, &VerifyOptions::default().with_deep(true))?;
//! assert!(report.is_clean(), "{:?}", report.problems);
//! # Ok(())
//! # }
//! ```
#![cfg_attr(
    feature = "serve",
    doc = r#"
# Serving a directory

[`serve::http::RegistryServer`] is a read-only registry. It needs the feature `serve`.

```no_run
# async fn example() -> Result<(), Box<dyn std::error::Error>> {
use saver::serve::http::{RegistryServer, ServeOptions};
use saver::store::Store;

let store = Store::open_read_only("/var/lib/registry".as_ref())?;
let server = RegistryServer::bind(store, "0.0.0.0:5000".parse()?, ServeOptions::default()).await?;
server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
# Ok(())
# }
```
"#
)]
//! # Other destinations
//!
//! The engine ([`transfer::Engine`]) moves content from a [`Source`](content::Source) to a [`Sink`](content::Sink). Anything
//! that implements these traits can take part; `examples/custom_sink.rs` has a complete sink. This saves an image into
//! memory:
//!
//! ```no_run
//! # async fn example() -> saver::Result<()> {
//! use saver::content::Place;
//! use saver::content::memory::Memory;
//! use saver::registry::{Access, Sessions};
//! use saver::transfer::{Engine, Image, Silent, TransferOptions};
//! use saver::{CancellationToken, Reference};
//! use std::sync::Arc;
//!
//! let reference = Reference::parse("nginx:1.27")?;
//! let image = Image {
//!     source: Sessions::new(Access::default(), 8).with(&reference.registry)?,
//!     place: Place { repository: reference.repository.clone(), tag: reference.tag.clone() },
//!     alias: None,
//!     reference,
//!     platforms: Some("amd64".parse()?),
//!     resolved: None,
//!     pinned: None,
//!     origin: None,
//!     warnings: Vec::new(),
//! };
//! let sink = Arc::new(Memory::new());
//! let engine = Arc::new(Engine::new(sink.clone(), TransferOptions::default(), Arc::new(Silent))?);
//! let report = engine.run(vec![image], &CancellationToken::new()).await;
//! println!("{} blobs", sink.contents().blobs.len());
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | adds | dependencies |
//! |---|---|---|
//! | `cli` (default) | the `saver` command, and all features below | clap, tracing-subscriber |
//! | `archive` | `export`, `import` | tar, zstd, flate2 |
//! | `scan` | `scan`: finds image names in Kubernetes manifests and Helm charts | tar, flate2, walkdir |
//! | `serve` | `serve`: the read-only registry | hyper's server |
//! | `trust` | `trust`: signature policies | sigstore-verify |
//! | `cri` | `cri`: the Kubernetes image service | hyper's server, tonic, prost |
//! | `containerd` | `containerd`: loads images into containerd | hyper, tonic, prost |
//!
//! Libraries depend on saver with `default-features = false` and the features that they need.
//!
//! # Stability
//!
//! The minimum supported Rust version is 1.89; raising it is a minor release. Public items follow semantic versioning. Items
//! that the documentation hides (for the command, for tests and for fuzzing) do not. Option and report types are
//! `#[non_exhaustive]`: create options by their constructors. The JSON forms of reports have a `schema` number, which rises
//! when a field changes its meaning or is removed.

#[doc(hidden)]
#[cfg(feature = "archive")]
pub mod archive;
pub mod blocking;
#[cfg(feature = "archive")]
pub mod bundle;
pub mod chart;
#[doc(hidden)]
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "containerd")]
pub mod containerd;
pub mod content;
pub mod copy;
pub mod credentials;
#[cfg(feature = "cri")]
pub mod cri;
pub mod diff;
#[doc(hidden)]
pub mod driver;
pub mod error;
#[cfg(feature = "archive")]
pub mod export;
#[cfg(feature = "archive")]
pub mod import;
pub mod inspect;
#[doc(hidden)]
#[cfg(feature = "archive")]
pub mod layout;
pub mod list;
pub mod ls;
pub mod mirror_config;
pub mod oci;
#[doc(hidden)]
#[cfg(feature = "serve")]
pub mod page;
pub mod prune;
pub mod push;
pub mod registry;
#[cfg(feature = "scan")]
pub mod rewrite;
pub mod save;
#[cfg(feature = "scan")]
pub mod scan;
#[cfg(feature = "serve")]
pub mod serve;
mod single_flight;
pub mod store;
pub mod transfer;
#[cfg(feature = "trust")]
pub mod trust;
pub mod verify;
#[doc(hidden)]
pub mod yaml;

pub use credentials::Credentials;
pub use error::{Error, ErrorKind, ErrorReport, Result};
pub use oci::{Digest, PlatformSet, Reference};
pub use save::{ImageSaver, SaveImage, SaveOptions, local_digest, pull_image, save_images};
pub use tokio_util::sync::CancellationToken;
pub use transfer::{Report, Status};
