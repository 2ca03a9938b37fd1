//! Copying between registries, or between repositories of one registry, without a directory in between.

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Reference;
use crate::registry::{Access, Pusher, Session, Sessions};
use crate::transfer::{
    Engine, Image, Observer, Plan, Report, Silent, TransferOptions, Verb, transfer_setters,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options for copying between registries.
#[derive(Clone)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Platforms, index mode, retries and limits.
    pub transfer: TransferOptions,
    /// Connections and credentials of both registries.
    pub access: Access,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            transfer: TransferOptions::default(),
            access: Access::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }
}

impl CopyOptions {
    transfer_setters!();

    /// Uses these connections and credentials.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }
}

/// Copies the image `from` to `to`, a name in the same or in another registry.
///
/// Content passes through memory once and is not written to disk. Within one registry, blobs are mounted where the
/// registry supports it.
///
/// ```no_run
/// # async fn example() -> saver::Result<()> {
/// use saver::copy::{CopyOptions, copy};
///
/// let report = copy("nginx:1.27", "registry.lan:5000/mirror/nginx:1.27", CopyOptions::default()).await?;
/// assert!(report.is_success());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidInput` for names or options that cannot be used. A failure of the copy itself is a row of the report.
pub async fn copy<F, T>(from: F, to: T, options: CopyOptions) -> Result<Report>
where
    F: TryInto<Reference, Error: Into<Error>>,
    T: TryInto<Reference, Error: Into<Error>>,
{
    let cancel = options.cancel.clone();
    let from = from.try_into().map_err(Into::into)?;
    let to = to.try_into().map_err(Into::into)?;
    let (engine, image) = prepare(from, to, options)?;
    Ok(engine.run(vec![image], &cancel).await)
}

/// What [`copy`] would do. Asks both registries and uploads nothing.
///
/// # Errors
/// As [`copy`].
pub async fn plan<F, T>(from: F, to: T, options: CopyOptions) -> Result<Plan>
where
    F: TryInto<Reference, Error: Into<Error>>,
    T: TryInto<Reference, Error: Into<Error>>,
{
    let cancel = options.cancel.clone();
    let from = from.try_into().map_err(Into::into)?;
    let to = to.try_into().map_err(Into::into)?;
    let (engine, image) = prepare(from, to, options)?;
    Ok(engine.plan(vec![image], &cancel).await)
}

fn prepare(
    from: Reference,
    to: Reference,
    options: CopyOptions,
) -> Result<(Arc<Engine<Pusher>>, Image<Session>)> {
    if to.digest.is_some() {
        let why = "a destination cannot have a digest: the copied content determines it";
        return Err(Error::new(ErrorKind::InvalidInput, &to, why).with_hint("name a tag, or neither"));
    }
    if from.registry == to.registry
        && from.repository == to.repository
        && from.tag == to.tag
        && to.tag.is_some()
    {
        let error = Error::new(ErrorKind::InvalidInput, &from, "source and destination are the same");
        return Err(error.with_hint("name another repository, tag or registry to copy to"));
    }
    let sessions = Sessions::new(options.access, options.transfer.jobs);
    let source = sessions.with(&from.registry)?;
    let pusher = sessions.pusher(&to.registry)?;
    if from.registry == to.registry {
        pusher.link_from(&from.repository);
    }
    let engine = Engine::new(Arc::new(pusher), options.transfer, options.observer)?.doing(Verb::Copy);
    let image = Image {
        source,
        reference: from,
        platforms: None,
        place: Place { repository: to.repository, tag: to.tag },
        alias: None,
        resolved: None,
        pinned: None,
        origin: None,
        warnings: Vec::new(),
    };
    Ok((Arc::new(engine), image))
}
