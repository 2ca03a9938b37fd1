//! Saves container images from many registries into a directory tree that a registry can mount.
//!
//! # Architecture
//! One engine moves content between two ends: `copy(Source -> Sink)`. The model ([`oci`]) knows no
//! I/O; the seams ([`content`]) are contracts; media implement them; the engine ([`copy`]) knows the
//! seams only; verbs join two ends; the command line ([`cli`]) is the only part that speaks.

pub mod archive;
pub mod cli;
pub mod content;
pub mod copy;
pub mod credentials;
pub mod cri;
pub mod driver;
pub mod error;
pub mod export;
pub mod import;
pub mod inspect;
pub mod layout;
pub mod list;
pub mod ls;
pub mod oci;
pub mod prune;
pub mod push;
pub mod registry;
pub mod save;
pub mod scan;
pub mod serve;
pub mod store;
pub mod transfer;
pub mod verify;
pub mod yaml;

pub use credentials::Credentials;
pub use error::{Error, ErrorKind, ErrorReport, Result, Side};
pub use save::{ImageSaver, SaveImage, SaveOptions, blocking, local_digest, pull_image, save_images};
pub use transfer::{Report, Status};
