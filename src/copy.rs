//! From one registry into another, or into another repository of the same, without a tree in between.

use crate::content::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Reference, Registry};
use crate::registry::{Access, Pusher, Session, Sessions};
use crate::save::until;
use crate::transfer::{Engine, Image, Observer, Plan, Report, Silent, TransferOptions, Verb};
use std::future::Future;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options of a copy between registries.
#[derive(Clone)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Platforms, index mode, retries, limits.
    pub copy: TransferOptions,
    /// How both registries are reached, and as whom.
    pub access: Access,
    /// Who is told of progress.
    pub observer: Arc<dyn Observer>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        let copy = TransferOptions { attestations: true, ..TransferOptions::default() };
        Self { copy, access: Access::default(), observer: Arc::new(Silent) }
    }
}

/// Copies the image `from` to the place `to` of the registry `registry`, until `stop` is ready. Bytes go through memory only, each once;
/// in one registry they are linked where it does that.
///
/// # Errors
/// `InvalidInput` for settings that can't be used. The copy's own failure is a row of the report.
pub async fn copy_until(
    from: Reference,
    registry: &Registry,
    to: Place,
    options: CopyOptions,
    stop: impl Future<Output = ()>,
) -> Result<Report> {
    let (engine, image) = prepare(from, registry, to, options)?;
    let token = CancellationToken::new();
    until(async { Ok(engine.run(vec![image], &token).await) }, stop, &token).await
}

/// What [`copy_until`] would do; asks both registries, and sends nothing.
///
/// # Errors
/// As `copy_until`.
pub async fn plan_copy_until(
    from: Reference,
    registry: &Registry,
    to: Place,
    options: CopyOptions,
    stop: impl Future<Output = ()>,
) -> Result<Plan> {
    let (engine, image) = prepare(from, registry, to, options)?;
    let token = CancellationToken::new();
    until(async { Ok(engine.plan(vec![image], &token).await) }, stop, &token).await
}

fn prepare(
    from: Reference,
    registry: &Registry,
    to: Place,
    options: CopyOptions,
) -> Result<(Arc<Engine<Pusher>>, Image<Session>)> {
    if from.registry == *registry
        && from.repository == to.repository
        && from.tag == to.tag
        && to.tag.is_some()
    {
        let error = Error::new(ErrorKind::InvalidInput, &from, "source and destination are one");
        return Err(error.with_hint("name another repository, tag or registry to copy to"));
    }
    let sessions = Sessions::new(options.access, options.copy.jobs);
    let source = sessions.with(&from.registry)?;
    let pusher = sessions.pusher(registry)?;
    if from.registry == *registry {
        pusher.link_from(&from.repository);
    }
    let engine = Engine::new(Arc::new(pusher), options.copy, options.observer)?.doing(Verb::Copy);
    let image = Image {
        source,
        reference: from,
        platforms: None,
        place: to,
        alias: None,
        resolved: None,
        warnings: Vec::new(),
    };
    Ok((Arc::new(engine), image))
}
