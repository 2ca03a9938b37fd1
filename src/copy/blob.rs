//! One blob from a source into a sink: resumed, hashed, verified, committed.

use super::Engine;
use super::event::Event;
use super::follower::Followed;
use super::tally::Tally;
use crate::content::retry::{Attempts, Trickle};
use crate::content::{BlobWriter, Ingest, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest, Reference, Repository};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

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
        let apart = (!K::SHARED).then_some(home);
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
            let resumed = writer.received() > 0;
            let (writer, digest) = self.receive(source, reference, blob, writer, tally).await?;
            if digest == blob.digest {
                return writer.commit(&digest);
            }
            writer.discard()?;
            if !resumed {
                source.refuted(&reference.repository, &blob.digest);
            }
            let error =
                Error::new(ErrorKind::Corrupt, blob.digest, format!("the bytes received hash to {digest}"));
            self.again(&mut attempts, tally, &blob.digest, error.on(Side::Source)).await?;
        }
    }

    /// Refuses a blob that the disk has no room for, once the source has shown that it really has it.
    async fn check_room(&self, blob: &Descriptor, at: u64) -> Result<()> {
        let Some(room) = self.sink.room().await? else { return Ok(()) };
        let needed = blob.size - at;
        if needed <= room.free {
            return Ok(());
        }
        // What no emptying makes room for is one image's trouble, true or made up; else the disk is full.
        let (kind, place) = match needed > room.total {
            true => (ErrorKind::TooLarge, "the whole disk"),
            false => (ErrorKind::Storage, "the disk"),
        };
        let message = format!(
            "does not fit: {} are to come, and {place} has room for {}",
            megabytes(needed),
            megabytes(room.free)
        );
        Err(Error::new(kind, blob.digest, message)
            .on(Side::Sink)
            .with_hint("free some space and run the same command again: what is saved is kept"))
    }

    /// Receives a large blob to its last byte, through cuts and stalls; answers the digest of what is on disk.
    async fn receive<S: Source>(
        &self,
        source: &S,
        reference: &Reference,
        blob: &Descriptor,
        writer: K::Writer,
        tally: &Tally,
    ) -> Result<(K::Writer, Digest)> {
        let mut at = writer.received().min(blob.size);
        let mut slot = Some(tally.lane.requests.acquire().await);
        let shown = Shown::start(self, reference, blob, at);
        let writer = Arc::new(writer);
        let followed = self.hasher.follow(writer.clone(), blob.size);
        followed.advance(at).await;
        let mut attempts = Attempts::new(&self.options.retry);
        while at < blob.size {
            let from = at;
            // While a try is waited for, others may have the slot.
            let held = match slot.take() {
                Some(slot) => slot,
                None => tally.lane.requests.acquire().await,
            };
            let received = Receiver { engine: self, blob, writer: &writer, followed: &followed, tally }
                .stream(source, &reference.repository, &mut at)
                .await;
            if at - from >= PROGRESS {
                attempts.progress();
            }
            drop(held);
            if let Err(error) = received {
                self.again(&mut attempts, tally, &blob.digest, error).await?;
            }
        }
        let digest = followed.finish().await?;
        shown.complete(digest == blob.digest);
        match Arc::try_unwrap(writer) {
            Ok(writer) => Ok((writer, digest)),
            Err(_) => Err(Error::new(ErrorKind::Storage, blob.digest, "the blob is still being read")),
        }
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
        if K::SHARED {
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
            Err(error) if attempts.made() > 1 => {
                return Err(error.adding(&format!(" (tried {} times)", attempts.made())));
            }
            Err(error) => return Err(error),
        };
        tally.tried(attempts.made());
        let subject = subject.to_string();
        self.observer.event(&Event::Retrying { subject: &subject, attempts: attempts.made(), error: &error });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// One blob on its way into its writer.
struct Receiver<'a, K: Sink> {
    engine: &'a Engine<K>,
    blob: &'a Descriptor,
    writer: &'a K::Writer,
    followed: &'a Followed<K::Writer>,
    tally: &'a Tally,
}

impl<K: Sink> Receiver<'_, K> {
    /// One request's worth: from byte `at` on, as far as it comes.
    async fn stream<S: Source>(&self, source: &S, repository: &Repository, at: &mut u64) -> Result<()> {
        let mut stream = source.blob(repository, self.blob, *at, None).await?;
        if stream.start > *at {
            let wrong = format!("bytes from {} on were asked for, {} on were sent", *at, stream.start);
            return Err(Error::new(ErrorKind::Unavailable, self.blob.digest, wrong).on(Side::Source));
        }
        self.engine.check_room(self.blob, *at).await?;
        // A source that sends the blob from its start again: what is there already is passed over.
        let mut skip = *at - stream.start;
        let mut trickle = Trickle::new(&self.engine.options.retry);
        while let Some(chunk) = stream.chunks.next().await {
            let mut chunk = chunk?;
            self.tally.fetched(chunk.len() as u64);
            if trickle.is_too_slow(chunk.len() as u64) {
                return Err(trickles(self.blob, *at));
            }
            let passed = skip.min(chunk.len() as u64);
            skip -= passed;
            let chunk = chunk.split_off(usize::try_from(passed).unwrap_or(chunk.len()));
            if chunk.is_empty() {
                continue;
            }
            check_length(self.blob, *at, chunk.len())?;
            let written = Instant::now();
            self.writer.write_at(*at, &chunk)?;
            *at += chunk.len() as u64;
            self.engine
                .observer
                .event(&Event::BlobAdvanced { digest: self.blob.digest, bytes: chunk.len() as u64 });
            self.followed.advance(*at).await;
            trickle.excuse(written.elapsed());
        }
        if *at < self.blob.size { Err(cut(self.blob, *at)) } else { Ok(()) }
    }
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

fn megabytes(bytes: u64) -> String {
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
