//! The same without async, for programs that have no runtime of their own.

use super::{ImageSaver, SaveImage};
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::Report;
use std::path::Path;

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::storage("async runtime", "start it", error))
}

/// Refuses to block a thread that drives other work.
fn outside_of_async() -> Result<()> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Err(Error::new(
            ErrorKind::InvalidInput,
            "saver::blocking",
            "called from async code, which it would block: use the async form",
        )),
        Err(_) => Ok(()),
    }
}

/// [`ImageSaver::save`] to its end.
///
/// # Errors
/// As there; `InvalidInput` when called from async code.
pub fn save(saver: &ImageSaver, images: Vec<SaveImage>) -> Result<Report> {
    outside_of_async()?;
    runtime()?.block_on(saver.save(images))
}

/// [`save_images`](super::save_images) to its end.
///
/// # Errors
/// As there; `InvalidInput` when called from async code.
pub fn save_images<I>(images: I, dir: impl AsRef<Path>, arch: &str) -> Result<Report>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    outside_of_async()?;
    runtime()?.block_on(super::save_images(images, dir, arch))
}
