//! Blocking forms of the asynchronous verbs, for programs without an async runtime.
//!
//! Each call starts a runtime of its own and ends it. None may be called from asynchronous code, which it would block;
//! that is an `InvalidInput` error. [`verify`], [`repair`], [`prune`], [`remove`] and [`list`] are the same functions as elsewhere:
//! they are blocking already.
//!
//! ```no_run
//! # fn example() -> saver::Result<()> {
//! let report = saver::blocking::save_images(["nginx:1.27"], "/var/lib/registry", "amd64")?;
//! assert!(report.is_success());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "archive")]
use crate::bundle::{UnbundleFrom, UnbundleOptions, UnbundleReport};
use crate::content::Source;
use crate::copy::CopyOptions;
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "archive")]
use crate::export::{ExportOptions, ExportTo, Exported};
#[cfg(feature = "archive")]
use crate::import::{ImportFrom, ImportOptions};
use crate::inspect::{InspectOptions, Inspection};
use crate::oci::{Digest, Reference};
use crate::push::{ImagePusher, PushImage};
use crate::save::{ImageSaver, SaveImage, SaveOptions};
use crate::transfer::{ImageReport, Plan, Report};
use std::path::Path;

pub use crate::ls::list;
pub use crate::prune::{prune, remove};
pub use crate::verify::{repair, verify};

/// Runs `work` on a runtime of its own.
///
/// # Errors
/// Those of `work`; `InvalidInput` when called from asynchronous code.
pub fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    if tokio::runtime::Handle::try_current().is_ok() {
        let why = "called from asynchronous code, which it would block";
        return Err(Error::new(ErrorKind::InvalidInput, "saver::blocking", why)
            .with_hint("await the asynchronous form instead"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Error::storage("async runtime", "start it", error))?.block_on(work)
}

/// [`ImageSaver::save`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn save<I>(saver: &ImageSaver, images: I) -> Result<Report>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    run(saver.save(images))
}

/// [`ImageSaver::plan`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn plan_save<I>(saver: &ImageSaver, images: I) -> Result<Plan>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    run(saver.plan(images))
}

/// [`ImageSaver::pull`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn pull<T>(saver: &ImageSaver, image: T) -> Result<ImageReport>
where
    T: TryInto<SaveImage, Error: Into<Error>>,
{
    run(saver.pull(image))
}

/// [`save_images`](crate::save_images).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn save_images<I>(images: I, dir: impl AsRef<Path>, arch: &str) -> Result<Report>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    run(crate::save::save_images(images, dir, arch))
}

/// [`pull_image`](crate::pull_image).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn pull_image<T>(image: T, options: SaveOptions) -> Result<Digest>
where
    T: TryInto<SaveImage, Error: Into<Error>>,
{
    run(crate::save::pull_image(image, options))
}

/// [`inspect`](crate::inspect::inspect).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn inspect<S: Source>(source: &S, reference: &Reference, options: &InspectOptions) -> Result<Inspection> {
    run(crate::inspect::inspect(source, reference, options))
}

/// [`inspect::digest`](crate::inspect::digest).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn digest<S: Source>(source: &S, reference: &Reference, options: &InspectOptions) -> Result<Digest> {
    run(crate::inspect::digest(source, reference, options))
}

/// [`ImagePusher::push`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn push<I>(pusher: &ImagePusher, images: I) -> Result<Report>
where
    I: IntoIterator,
    I::Item: TryInto<PushImage, Error: Into<Error>>,
{
    run(pusher.push(images))
}

/// [`ImagePusher::push_all`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn push_all(pusher: &ImagePusher) -> Result<Report> {
    run(pusher.push_all())
}

/// [`ImagePusher::plan`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn plan_push<I>(pusher: &ImagePusher, images: I) -> Result<Plan>
where
    I: IntoIterator,
    I::Item: TryInto<PushImage, Error: Into<Error>>,
{
    run(pusher.plan(images))
}

/// [`ImagePusher::plan_all`].
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn plan_push_all(pusher: &ImagePusher) -> Result<Plan> {
    run(pusher.plan_all())
}

/// [`copy`](crate::copy::copy).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn copy<F, T>(from: F, to: T, options: CopyOptions) -> Result<Report>
where
    F: TryInto<Reference, Error: Into<Error>>,
    T: TryInto<Reference, Error: Into<Error>>,
{
    run(crate::copy::copy(from, to, options))
}

/// [`copy::plan`](crate::copy::plan).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
pub fn plan_copy<F, T>(from: F, to: T, options: CopyOptions) -> Result<Plan>
where
    F: TryInto<Reference, Error: Into<Error>>,
    T: TryInto<Reference, Error: Into<Error>>,
{
    run(crate::copy::plan(from, to, options))
}

/// [`unbundle`](crate::bundle::unbundle). [`bundle`](crate::bundle::bundle) blocks by itself.
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
#[cfg(feature = "archive")]
pub fn unbundle(from: Vec<UnbundleFrom>, options: UnbundleOptions) -> Result<UnbundleReport> {
    run(crate::bundle::unbundle(from, options))
}

/// [`export`](crate::export::export).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
#[cfg(feature = "archive")]
pub fn export<I>(images: I, to: ExportTo, options: ExportOptions) -> Result<Exported>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    run(crate::export::export(images, to, options))
}

/// [`import`](crate::import::import).
///
/// # Errors
/// As there; `InvalidInput` when called from asynchronous code.
#[cfg(feature = "archive")]
pub fn import(from: ImportFrom, options: ImportOptions) -> Result<Report> {
    run(crate::import::import(from, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn call_from_async_code_is_an_error() {
        let error = run(async { Ok(()) }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn name_that_cannot_be_parsed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = save_images(["UPPER case"], dir.path(), "amd64").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
