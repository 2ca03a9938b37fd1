//! The model: names, digests, descriptors, manifests. Pure: no I/O, no async.

pub mod config;
pub mod descriptor;
pub mod digest;
pub mod layout;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod reference;
pub mod sha256;

pub use config::ImageConfig;
pub use descriptor::Descriptor;
pub use digest::{Digest, Digester};
pub use manifest::{Index, Manifest, RawManifest};
pub use name::{Registry, Repository, Tag};
pub use platform::{Platform, PlatformSet};
pub use reference::Reference;
