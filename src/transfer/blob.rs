//! One blob from a source into a sink: resumed, hashed, verified, committed.

use super::Engine;
use super::download::Origin;
use super::event::Event;
use super::stats::Tally;
use crate::content::retry::{Attempts, Trickle};
use crate::content::{BlobWriter, Ingest, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Reference, Repository};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::fmt::Display;
use std::future::Future;

/// Blobs up to this many bytes are held in memory and hashed as they come.
pub(super) const SMALL: u64 = 256 << 10;
/// This many bytes in a row count as progress, which makes the retry budget whole again.
pub(super) const PROGRESS: u64 = 1 << 20;

impl<K: Sink> Engine<K> {
    /// Sees to it that the sink has the blob for the repository `home`, fetching it unless it is there or another image brings it.
    pub(crate) async fn bring<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        home: &Repository,
        blob: &Descriptor,
        ready: Option<Bytes>,
        tally: &Tally,
    ) -> Result<()> {
        let origin = (reference.registry.clone(), reference.repository.clone(), blob.size);
        let fetch = || async {
            self.fetch(source, reference, home, blob, ready.clone(), tally).await?;
            Ok(blob.size)
        };
        let apart = (!K::SHARES_BLOBS_ACROSS_REPOSITORIES).then_some(home);
        let size = self.flight.bring(blob.digest, apart, origin, fetch).await?;
        if size == blob.size {
            return Ok(());
        }
        let wrong = format!("the manifest says it has {} bytes, it has {size}", blob.size);
        Err(Error::new(ErrorKind::Corrupt, blob.digest, wrong).on(Side::Source))
    }

    async fn fetch<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        home: &Repository,
        blob: &Descriptor,
        ready: Option<Bytes>,
        tally: &Tally,
    ) -> Result<()> {
        let _open = tally.lane.writers.acquire().await;
        let mut attempts = Attempts::new(&self.options.retry);
        let mut alone = false;
        loop {
            let ingest = || self.sink.ingest(home, blob);
            let writer = match self.attempt(tally, &blob.digest, ingest).await? {
                Ingest::Present => return Ok(()),
                Ingest::Write(writer) => writer,
                Ingest::Upload(upload) => {
                    match self.upload(source, reference, blob, ready.clone(), upload, tally).await {
                        Err(error) if error.kind() == ErrorKind::Corrupt => {
                            self.again(&mut attempts, tally, &blob.digest, error).await?;
                            continue;
                        }
                        done => return done,
                    }
                }
            };
            if blob.size <= SMALL {
                let bytes = match ready.clone() {
                    Some(bytes) => bytes,
                    None => self.small_blob(source, reference, blob, tally).await?,
                };
                writer.write_at(0, &bytes)?;
                return writer.commit(&blob.digest);
            }
            let resumed = writer.received() > 0 || !writer.islands().is_empty();
            let origin = Origin { source, reference, blob };
            let (mut writer, mut digest) = self.receive(&origin, writer, alone, tally).await?;
            if digest != blob.digest {
                if !resumed {
                    source.refuted(&reference.repository, &blob.digest);
                }
                if let Err(error) =
                    self.again(&mut attempts, tally, &blob.digest, mismatch(blob, digest)).await
                {
                    writer.discard()?;
                    return Err(error);
                }
                (writer, digest) = self.recover(&origin, writer, tally).await?;
            }
            if digest == blob.digest {
                return writer.commit(&digest);
            }
            writer.discard()?;
            // The source sends the same wrong bytes every time: what is left to try is one stream from the start.
            alone = true;
            source.refuted(&reference.repository, &blob.digest);
            self.again(&mut attempts, tally, &blob.digest, mismatch(blob, digest)).await?;
        }
    }

    /// Refuses a blob that the disk has no room for, `needed` bytes of which are lacking, once the source has shown that it
    /// really has it.
    pub(super) async fn check_room(&self, blob: &Descriptor, needed: u64) -> Result<()> {
        let Some(room) = self.sink.room().await? else { return Ok(()) };
        if needed <= room.free {
            return Ok(());
        }
        // What no emptying makes room for is one image's trouble, true or made up; else the disk is full.
        let (kind, place, bytes) = match needed > room.total {
            true => (ErrorKind::TooLarge, "the whole disk", room.total),
            false => (ErrorKind::Storage, "the disk", room.free),
        };
        let lacking = megabytes(needed - bytes);
        let message = format!(
            "does not fit: {} are to come, {lacking} more than {place} has room for",
            megabytes(needed)
        );
        Err(Error::new(kind, blob.digest, message)
            .on(Side::Sink)
            .with_hint("free some space and run the same command again: what is saved is kept"))
    }

    /// A small blob, whole, in memory and verified.
    pub(crate) async fn small_blob<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        blob: &Descriptor,
        tally: &Tally,
    ) -> Result<Bytes> {
        if blob.size == 0 && blob.digest == Digest::of(b"") {
            return Ok(Bytes::new());
        }
        self.attempt(tally, &blob.digest, || self.collect(source, reference, blob, tally)).await
    }

    async fn collect<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        blob: &Descriptor,
        tally: &Tally,
    ) -> Result<Bytes> {
        let _slot = tally.lane.requests.acquire().await;
        let shown = Shown::start(self, reference, blob, 0);
        let mut stream = source.blob(&reference.repository, blob, 0, None).await?;
        // One buffer: a list of chunks of one byte each would take many times what they hold.
        let (mut content, mut length) = (BytesMut::new(), 0);
        let mut trickle = Trickle::new(&self.options.retry);
        while let Some(chunk) = stream.chunks.next().await {
            let chunk = chunk?;
            self.count_read(tally, chunk.len());
            self.observer.event(&Event::BlobAdvanced { digest: blob.digest, bytes: chunk.len() as u64 });
            if trickle.is_too_slow(chunk.len() as u64) {
                return Err(trickles(blob, length));
            }
            check_length(blob, length, chunk.len())?;
            length += chunk.len() as u64;
            content.extend_from_slice(&chunk);
        }
        if length < blob.size {
            return Err(cut(blob, length));
        }
        let bytes = content.freeze();
        let digest = Digest::of(&bytes);
        if digest == blob.digest {
            shown.complete(true);
            return Ok(bytes);
        }
        source.refuted(&reference.repository, &blob.digest);
        let wrong = format!("the bytes received hash to {digest}");
        Err(Error::new(ErrorKind::Corrupt, blob.digest, wrong).on(Side::Source))
    }

    /// Counts what was read to learn what to copy. Where blobs are sent on, what counts is what was sent.
    pub(super) fn count_read(&self, tally: &Tally, bytes: usize) {
        if K::SHARES_BLOBS_ACROSS_REPOSITORIES {
            tally.fetched(bytes as u64);
        }
    }

    /// Runs `request` until it succeeds or the retry policy gives up.
    pub(crate) async fn attempt<T, F>(
        &self,
        tally: &Tally,
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
                Err(error) => self.again(&mut attempts, tally, subject, error).await?,
            }
        }
    }

    /// Waits for the next try, or gives `error` back when there is none.
    pub(super) async fn again(
        &self,
        attempts: &mut Attempts<'_>,
        tally: &Tally,
        subject: &(dyn Display + Sync),
        error: Error,
    ) -> Result<()> {
        let wait = match attempts.after(error.clone()) {
            Ok(wait) => wait,
            Err(error) => return Err(error),
        };
        tally.tried(attempts.made());
        let subject = subject.to_string();
        self.observer.event(&Event::Retrying { subject: &subject, attempts: attempts.made(), error: &error });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

fn mismatch(blob: &Descriptor, digest: Digest) -> Error {
    Error::new(ErrorKind::Corrupt, blob.digest, format!("the bytes received hash to {digest}"))
        .on(Side::Source)
}

/// A source that sends more than the manifest says is stopped there: no lie fills the disk.
pub(super) fn check_length(blob: &Descriptor, at: u64, more: usize) -> Result<()> {
    if at + more as u64 <= blob.size {
        return Ok(());
    }
    let wrong = format!("the manifest says it has {} bytes, more were sent", blob.size);
    Err(Error::new(ErrorKind::Corrupt, blob.digest, wrong).on(Side::Source))
}

pub(super) fn trickles(blob: &Descriptor, at: u64) -> Error {
    let message = format!("the answer only trickles: given up after {at} of {} bytes", blob.size);
    Error::new(ErrorKind::Unavailable, blob.digest, message).on(Side::Source)
}

/// Bytes as messages tell them.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

pub(super) fn cut(blob: &Descriptor, at: u64) -> Error {
    let message = format!("the answer ended after {at} of {} bytes", blob.size);
    Error::new(ErrorKind::Unavailable, blob.digest, message).on(Side::Source)
}

/// Tells the observer of a blob's end, whichever way it ends.
pub(super) struct Shown<'a, K: Sink> {
    engine: &'a Engine<K>,
    digest: Digest,
    size: u64,
    complete: bool,
}

impl<'a, K: Sink> Shown<'a, K> {
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

impl<K: Sink> Drop for Shown<'_, K> {
    fn drop(&mut self) {
        let event = Event::BlobFinished { digest: self.digest, size: self.size, complete: self.complete };
        self.engine.observer.event(&event);
    }
}
