//! Resolving images without saving them.

use super::{NameRule, SaveImage, convert, sessions};
use crate::content::memory::Memory;
use crate::error::{Error, Result};
use crate::registry::Access;
use crate::transfer::{Engine, Image, Observer, Plan, Silent, TransferOptions, transfer_setters};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Options for resolving images.
#[derive(Clone)]
#[non_exhaustive]
pub struct ResolveOptions {
    /// Platforms, retries and limits.
    pub transfer: TransferOptions,
    /// Connections and credentials. Credentials of a [`SaveImage`] take precedence.
    pub access: Access,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Cancelling this token ends the run: images that are not resolved fail as cancelled.
    pub cancel: CancellationToken,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self {
            transfer: TransferOptions::default(),
            access: Access::default(),
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }
}

impl ResolveOptions {
    transfer_setters!();

    /// Uses these connections and credentials.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }
}

/// What saving `images` into an empty directory would do. Fetches manifests only.
///
/// # Errors
/// `InvalidInput` for names that cannot be parsed. A failed image is a row of the plan.
pub async fn resolve_images<I>(images: I, options: &ResolveOptions) -> Result<Plan>
where
    I: IntoIterator,
    I::Item: TryInto<SaveImage, Error: Into<Error>>,
{
    let images = convert(images)?;
    let ResolveOptions { transfer, access, observer, cancel } = options;
    let sessions = sessions(&images, access, transfer.jobs);
    let mut prepared = Vec::with_capacity(images.len());
    for image in images {
        prepared.push(Image {
            source: sessions.with(&image.reference.registry)?,
            // With their domains, different images have different places.
            place: NameRule::Domain.place(&image.reference)?,
            alias: None,
            origin: None,
            reference: image.reference,
            platforms: image.platforms,
            resolved: None,
            pinned: image.pinned,
            warnings: Vec::new(),
        });
    }
    let engine = Arc::new(Engine::new(Arc::new(Memory::new()), transfer.clone(), observer.clone())?);
    Ok(engine.plan(prepared, cancel).await)
}
