//! Transfers one blob from a source to a sink: resumed, hashed, verified, committed.

use super::Engine;
use super::event::Event;
use super::source_copies::SourceCopies;
use super::stats::ImageStats;
use crate::content::retry::{Attempts, ThroughputCheck};
use crate::content::{BlobWriter, Ingest, Sink, Source};
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Reference, Repository};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::fmt::Display;
use std::future::Future;

/// Blobs of up to this many bytes are held in memory and hashed as they arrive.
pub(super) const SMALL: u64 = 256 << 10;
/// This many consecutive bytes count as progress and reset the retry budget.
pub(super) const PROGRESS: u64 = 1 << 20;

/// The blob, and where it is downloaded from.
pub(super) struct Origin<'a, S> {
    pub(super) source: &'a S,
    pub(super) reference: &'a Reference,
    pub(super) blob: &'a Descriptor,
}

impl<K: Sink> Engine<K> {
    /// Ensures that the sink has the blob for the repository `home`: downloads it unless it is present or another image of the
    /// run downloads it.
    pub(crate) async fn bring<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        home: &Repository,
        blob: &Descriptor,
        ready: Option<Bytes>,
        stats: &ImageStats,
    ) -> Result<()> {
        let origin = (reference.registry.clone(), reference.repository.clone(), blob.size);
        let fetch = || async {
            self.fetch(source, reference, home, blob, ready.clone(), stats).await?;
            Ok(blob.size)
        };
        let apart = (!K::SHARES_BLOBS_ACROSS_REPOSITORIES).then_some(home);
        let size = self.flight.bring(blob.digest, apart, origin, fetch).await?;
        if size == blob.size {
            return Ok(());
        }
        let wrong = format!("the manifest announces {} bytes, but it has {size}", blob.size);
        Err(Error::new(ErrorKind::Corrupt, blob.digest, wrong).on(Side::Source))
    }

    async fn fetch<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        home: &Repository,
        blob: &Descriptor,
        ready: Option<Bytes>,
        stats: &ImageStats,
    ) -> Result<()> {
        let _open = stats.lane.writers.acquire().await;
        let mut attempts = Attempts::new(&self.options.retry);
        let mut alone = false;
        let origin = Origin { source, reference, blob };
        let mut copies = SourceCopies::default();
        loop {
            let ingest = || self.sink.ingest(home, blob);
            let writer = match self.attempt(stats, &blob.digest, ingest).await? {
                Ingest::Present => return Ok(()),
                Ingest::Write(writer) => writer,
                Ingest::Upload(upload) => {
                    let uploaded = self.upload(&origin, ready.clone(), upload, &mut copies, stats).await;
                    let error = match uploaded {
                        Err(error) if error.kind() == ErrorKind::Corrupt => error,
                        done => {
                            copies.report(blob, done.is_ok(), stats);
                            return done;
                        }
                    };
                    if let Err(error) = self.again(&mut attempts, stats, &blob.digest, error).await {
                        copies.report(blob, false, stats);
                        return Err(error);
                    }
                    continue;
                }
            };
            if blob.size <= SMALL {
                let bytes = match ready.clone() {
                    Some(bytes) => bytes,
                    None => self.small_blob(source, reference, blob, stats).await?,
                };
                writer.write_at(0, &bytes)?;
                return writer.commit(&blob.digest);
            }
            let resumed = writer.received() > 0 || !writer.extents().is_empty();
            let (mut writer, mut digest) = self.receive(&origin, writer, alone, stats).await?;
            if digest != blob.digest {
                if !resumed {
                    source.report_corrupt(&reference.repository, &blob.digest);
                }
                if let Err(error) =
                    self.again(&mut attempts, stats, &blob.digest, mismatch(blob, digest)).await
                {
                    writer.discard()?;
                    return Err(error);
                }
                (writer, digest) = self.recover(&origin, writer, stats).await?;
            }
            if digest == blob.digest {
                return writer.commit(&digest);
            }
            writer.discard()?;
            // Both copies are wrong in the same way, so that comparing more of them cannot help: try one stream from the start.
            alone = true;
            source.report_corrupt(&reference.repository, &blob.digest);
            self.again(&mut attempts, stats, &blob.digest, mismatch(blob, digest)).await?;
        }
    }

    /// Refuses a blob that does not fit on the disk, with `needed` bytes still to be downloaded. Checked only after the source
    /// has answered, so that a made-up size in a manifest does not end the run.
    pub(super) async fn check_room(&self, blob: &Descriptor, needed: u64) -> Result<()> {
        let Some(room) = self.sink.room().await? else { return Ok(()) };
        if needed <= room.free {
            return Ok(());
        }
        // A blob larger than the disk fails its own image only; a disk that is too full ends the run.
        let (kind, space, bytes) = if needed > room.total {
            (ErrorKind::TooLarge, "capacity of the disk", room.total)
        } else {
            (ErrorKind::Storage, "free space", room.free)
        };
        let (needed, excess) = (megabytes(needed), megabytes(needed - bytes));
        let message = format!(
            "does not fit: {needed} to download, {excess} more than the {space} of {}",
            room.directory
        );
        Err(Error::new(kind, blob.digest, message)
            .on(Side::Sink)
            .with_hint("free some space and run the same command again: it resumes"))
    }

    /// Downloads a small blob into memory and verifies it.
    pub(crate) async fn small_blob<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        blob: &Descriptor,
        stats: &ImageStats,
    ) -> Result<Bytes> {
        if blob.size == 0 && blob.digest == Digest::of(b"") {
            return Ok(Bytes::new());
        }
        self.attempt(stats, &blob.digest, || self.collect(source, reference, blob, stats)).await
    }

    async fn collect<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        blob: &Descriptor,
        stats: &ImageStats,
    ) -> Result<Bytes> {
        let _slot = stats.lane.requests.acquire().await;
        let shown = BlobProgress::start(self, reference, blob, 0);
        let mut stream = source.blob(&reference.repository, blob, 0, None).await?;
        // One buffer: chunks may be as small as a byte each.
        let (mut content, mut length) = (BytesMut::new(), 0);
        let mut throughput = ThroughputCheck::new(&self.options.retry);
        while let Some(chunk) = stream.chunks.next().await {
            let chunk = chunk?;
            self.count_read(stats, chunk.len());
            self.observer.event(&Event::BlobAdvanced { digest: blob.digest, bytes: chunk.len() as u64 });
            if throughput.is_too_slow(chunk.len() as u64) {
                return Err(too_slow(blob, length));
            }
            check_length(blob, length, chunk.len())?;
            length += chunk.len() as u64;
            content.extend_from_slice(&chunk);
        }
        if length < blob.size {
            return Err(truncated(blob, length));
        }
        let bytes = content.freeze();
        let digest = Digest::of(&bytes);
        if digest == blob.digest {
            shown.complete(true);
            return Ok(bytes);
        }
        source.report_corrupt(&reference.repository, &blob.digest);
        Err(mismatch(blob, digest))
    }

    /// Counts bytes read while planning. Where blobs are uploaded, only the uploaded bytes are counted.
    pub(super) fn count_read(&self, stats: &ImageStats, bytes: usize) {
        if K::SHARES_BLOBS_ACROSS_REPOSITORIES {
            stats.fetched(bytes as u64);
        }
    }

    /// Runs `request` until it succeeds or the retry policy gives up.
    pub(crate) async fn attempt<T, F>(
        &self,
        stats: &ImageStats,
        subject: &(dyn Display + Sync),
        mut request: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = Attempts::new(&self.options.retry);
        loop {
            match request().await {
                Ok(value) => return Ok(value),
                Err(error) => self.again(&mut attempts, stats, subject, error).await?,
            }
        }
    }

    /// Waits before the next attempt; returns `error` if there is none.
    pub(super) async fn again(
        &self,
        attempts: &mut Attempts<'_>,
        stats: &ImageStats,
        subject: &(dyn Display + Sync),
        error: Error,
    ) -> Result<()> {
        let wait = match attempts.after(error.clone()) {
            Ok(wait) => wait,
            Err(error) => return Err(error),
        };
        stats.tried(attempts.made());
        let subject = subject.to_string();
        self.observer.event(&Event::Retrying { subject: &subject, attempts: attempts.made(), error: &error });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

pub(super) fn mismatch(blob: &Descriptor, digest: Digest) -> Error {
    let detail = Detail::Mismatch { expected: blob.digest.to_string(), actual: digest.to_string() };
    Error::from_detail(ErrorKind::Corrupt, blob.digest, detail)
        .context("the content does not match its digest")
        .on(Side::Source)
}

/// Stops a source that sends more bytes than the manifest announces.
pub(super) fn check_length(blob: &Descriptor, at: u64, more: usize) -> Result<()> {
    if at + more as u64 <= blob.size {
        return Ok(());
    }
    let wrong = format!("the source sent more than the {} bytes that the manifest announces", blob.size);
    Err(Error::new(ErrorKind::Corrupt, blob.digest, wrong).on(Side::Source))
}

pub(super) fn too_slow(blob: &Descriptor, at: u64) -> Error {
    let message = format!("the download was too slow: abandoned after {at} of {} bytes", blob.size);
    Error::new(ErrorKind::Unavailable, blob.digest, message).on(Side::Source)
}

/// Formats a number of bytes for messages.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

pub(super) fn truncated(blob: &Descriptor, at: u64) -> Error {
    let message = format!("the response ended after {at} of {} bytes", blob.size);
    Error::new(ErrorKind::Unavailable, blob.digest, message).on(Side::Source)
}

/// Reports the start and end of a blob to the observer; the end also when the work is cancelled.
pub(super) struct BlobProgress<'a, K: Sink> {
    engine: &'a Engine<K>,
    digest: Digest,
    size: u64,
    complete: bool,
}

impl<'a, K: Sink> BlobProgress<'a, K> {
    pub(super) fn start(
        engine: &'a Engine<K>,
        reference: &Reference,
        blob: &Descriptor,
        resumed: u64,
    ) -> Self {
        let (digest, size) = (blob.digest, blob.size);
        engine.observer.event(&Event::BlobStarted { reference, digest, size, resumed });
        Self { engine, digest: blob.digest, size: blob.size, complete: false }
    }

    pub(super) fn complete(mut self, complete: bool) {
        self.complete = complete;
    }
}

impl<K: Sink> Drop for BlobProgress<'_, K> {
    fn drop(&mut self) {
        let event = Event::BlobFinished { digest: self.digest, size: self.size, complete: self.complete };
        self.engine.observer.event(&event);
    }
}
