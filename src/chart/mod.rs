//! Charts of Helm repositories and files, as the OCI artifacts that `helm push` makes of them.
//!
//! [`ChartRepositories`] reads the `index.yaml` of repositories and downloads charts. A [`ChartPackage`] is a chart that was read, and
//! gives its [`ChartArtifact`]: the configuration from `Chart.yaml`, the archive and its provenance file, byte for byte.
//! A `ChartSource` offers the artifacts of a run to the engine, and downloads a chart when its turn comes.

mod artifact;
mod index;
mod metadata;
mod package;
mod repository;
mod source;

pub use artifact::ChartArtifact;
pub use package::{ChartPackage, MAX_PACKAGE_BYTES};
pub use repository::{ChartRepositories, LocatedChart, MAX_PROVENANCE_BYTES};
pub(crate) use source::ChartSource;
