//! Dry runs.

use super::event::Event;
use super::image::{Preparation, PreparedImage, names};
use super::report::{ImagePlan, Plan, Report, Status};
use super::scheduler::{self, ImageSlot};
use super::stats::{ImageStats, sum};
use super::{Engine, Image, elapsed_seconds};
use crate::content::{Sink, Source};
use crate::error::ErrorReport;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::manifest::omitted;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

impl<K: Sink> Engine<K> {
    /// Reports what a run would do: resolves all images, downloads no layer and writes nothing.
    pub async fn plan<S: Source>(
        self: &Arc<Self>,
        images: Vec<Image<S>>,
        cancel: &CancellationToken,
    ) -> Plan {
        let started = Instant::now();
        self.observer.event(&Event::RunStarted { images: images.len() });
        let (engine, token) = (self.clone(), cancel.clone());
        let work = move |image, slot| {
            let (engine, token) = (engine.clone(), token.clone());
            async move { engine.plan_image(image, &token, slot).await }
        };
        let images = scheduler::each(self.jobs(), images, work).await;
        Plan {
            schema: Report::SCHEMA,
            fetch_bytes: sum(images.iter().map(|image| image.fetch_bytes)),
            fetch_blobs: sum(images.iter().map(|image| image.fetch_blobs)),
            reuse_bytes: sum(images.iter().map(|image| image.reuse_bytes)),
            images,
            seconds: elapsed_seconds(started),
        }
    }

    async fn plan_image<S: Source>(
        &self,
        image: Image<S>,
        token: &CancellationToken,
        slot: ImageSlot,
    ) -> ImagePlan {
        let stats = ImageStats::new(slot.lane);
        let mut warnings = image.warnings.clone();
        let result = tokio::select! {
            biased;
            () = token.cancelled() => Err(Error::new(ErrorKind::Cancelled, &image.reference, "the run was interrupted")),
            prepared = self.prepare_to_plan(&image, &stats, &mut warnings) => prepared,
        };
        if let Ok(Preparation::Ready(prepared)) = &result {
            warnings.extend(prepared.content.warnings.iter().cloned());
        }
        if let Ok(Preparation::Ready(prepared)) = &result
            && !prepared.unchanged
        {
            warnings.extend(self.incomplete_index(prepared, &stats).await);
        }
        let mut plan = ImagePlan::new(image.reference, image.place);
        plan.warnings = warnings;
        match result {
            Ok(Preparation::Ready(prepared)) => {
                plan.status = if prepared.unchanged { Status::Unchanged } else { self.verb.planned() };
                plan.digest = Some(prepared.root);
                plan.source_digest =
                    (prepared.source_digest != prepared.root).then_some(prepared.source_digest);
                plan.manifests = prepared.content.images.clone();
                plan.referrers = prepared.content.referrer_rows.clone();
                plan.platforms = names(&prepared.content);
                plan.fetch_bytes = prepared.fetch_bytes;
                plan.fetch_blobs = prepared.fetch_blobs;
                plan.reuse_bytes = prepared.reuse_bytes;
                plan.omitted = prepared.content.omitted.iter().cloned().collect();
            }
            Ok(Preparation::Skip(why)) => {
                (plan.status, plan.error) = (Status::Skipped, Some(ErrorReport::from(&why)))
            }
            Err(error) => plan.error = Some(ErrorReport::from(&error)),
        }
        plan
    }

    /// Prepares an image, and has a local sink check what a run would make it check.
    async fn prepare_to_plan<S: Source>(
        &self,
        image: &Image<S>,
        stats: &ImageStats,
        warnings: &mut Vec<String>,
    ) -> Result<Preparation> {
        let preparation = self.prepare(image, stats, warnings).await?;
        if let Preparation::Ready(prepared) = &preparation
            && !prepared.unchanged
            && K::SHARES_BLOBS_ACROSS_REPOSITORIES
        {
            self.sink.preflight(&self.publication(image, prepared)).await?;
        }
        Ok(preparation)
    }

    /// A warning for an index that would be pushed without some of its manifests, if the sink does not have them either.
    async fn incomplete_index(&self, prepared: &PreparedImage, stats: &ImageStats) -> Option<String> {
        let place = prepared.places.first().filter(|_| !K::SHARES_BLOBS_ACROSS_REPOSITORIES)?;
        for raw in &prepared.content.manifests {
            let Some(omitted) = omitted(raw, &prepared.content.manifests) else { continue };
            let asked = omitted.digests.iter().map(|digest| {
                self.attempt(stats, digest, || self.sink.is_revision(&place.repository, digest))
            });
            let present = futures::future::join_all(asked).await;
            if present.iter().any(|present| !matches!(present, Ok(true))) {
                return Some(format!(
                    "the index would be pushed without {}: registries that validate indexes reject it (use --index prune or flatten)",
                    omitted.names
                ));
            }
        }
        None
    }
}
