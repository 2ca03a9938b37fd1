//! Uploads one blob to a sink that accepts it in order and cannot read it back: hashed on the way, verified, committed.
//!
//! After a failure the sink may hold less than was sent. Hash states are kept at intervals, so that hashing can resume from an
//! earlier offset: every byte that is sent again is hashed again, and what is committed is what was hashed.

use super::Engine;
use super::blob::{BlobProgress, Origin, PROGRESS, check_length, mismatch, too_slow, truncated};
use super::event::Event;
use super::source_copies::SourceCopies;
use super::stats::ImageStats;
use crate::content::retry::{Attempts, ThroughputCheck};
use crate::content::{BlobStream, BlobUpload, Sink, Source};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use crate::oci::sha256::Sha256State;
use bytes::Bytes;
use futures::StreamExt;
use std::time::Instant;

/// The distance between saved hash states, in bytes.
const MARK: u64 = 4 << 20;

/// An incremental hash with saved states.
#[derive(Default)]
struct Hashed {
    state: Sha256State,
    /// Saved states, in order.
    marks: Vec<Sha256State>,
}

impl Hashed {
    /// The number of bytes hashed.
    fn len(&self) -> u64 {
        self.state.len()
    }

    fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        if self.len() - self.marks.last().map_or(0, Sha256State::len) >= MARK {
            self.marks.push(self.state.clone());
        }
    }

    /// Goes back to the last saved state at or before `offset`, if the hash is beyond it.
    fn back_to(&mut self, offset: u64) {
        if self.len() > offset {
            self.marks.retain(|mark| mark.len() <= offset);
            self.state = self.marks.last().cloned().unwrap_or_default();
        }
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.state.clone().finish())
    }
}

/// An upload in progress.
struct Sender<'a, K: Sink, S> {
    engine: &'a Engine<K>,
    from: &'a Origin<'a, S>,
    copies: &'a mut SourceCopies,
    /// The whole blob, if it is in memory.
    ready: Option<Bytes>,
    stats: &'a ImageStats,
    upload: K::Upload,
    hashed: Hashed,
    /// The highest offset that was sent.
    furthest: u64,
}

impl<K: Sink> Engine<K> {
    /// Uploads a blob completely, with retries on both sides, and commits it. `copies` is what earlier calls for the same blob
    /// received.
    ///
    /// # Errors
    /// `Corrupt` if the content does not have its digest, at the source or at the sink; a new upload may succeed.
    pub(super) async fn upload<S: Source>(
        &self,
        from: &Origin<'_, S>,
        ready: Option<Bytes>,
        upload: K::Upload,
        copies: &mut SourceCopies,
        stats: &ImageStats,
    ) -> Result<()> {
        let shown = BlobProgress::start(self, from.reference, from.blob, 0);
        let (hashed, furthest) = (Hashed::default(), 0);
        let mut sender = Sender { engine: self, from, copies, ready, stats, upload, hashed, furthest };
        let mut attempts = Attempts::new(&self.options.retry);
        loop {
            let before = sender.furthest;
            // The slot is free for others during the wait for a retry.
            let slot = stats.lane.requests.acquire().await;
            let sent = sender.send().await;
            drop(slot);
            let Err(error) = sent else {
                shown.complete(true);
                return Ok(());
            };
            if error.kind() == ErrorKind::Corrupt {
                return Err(error);
            }
            if sender.furthest - before >= PROGRESS {
                attempts.progress();
            }
            self.again(&mut attempts, stats, &from.blob.digest, error).await?;
        }
    }
}

impl<K: Sink, S: Source> Sender<'_, K, S> {
    /// One attempt: from what the sink holds to the end.
    async fn send(&mut self) -> Result<()> {
        let (blob, held) = (self.from.blob, self.upload.received().await?);
        if held > blob.size {
            let wrong =
                format!("the upload already has {held} bytes, more than the {} of the blob", blob.size);
            return Err(Error::new(ErrorKind::Corrupt, blob.digest, wrong).on(Side::Sink));
        }
        self.hashed.back_to(held);
        while self.hashed.len() < blob.size {
            self.stream(held).await?;
        }
        let digest = self.hashed.digest();
        if digest != blob.digest {
            self.copies.record_failure();
            self.from.source.report_corrupt(&self.from.reference.repository, &blob.digest);
            return Err(mismatch(blob, digest));
        }
        self.upload.commit(&digest).await
    }

    /// Hashes the source's bytes, and sends those beyond `held`: all of them, or those before a chunk that must be requested
    /// again because it differs from earlier copies.
    async fn stream(&mut self, held: u64) -> Result<()> {
        let blob = self.from.blob;
        let from = self.copies.start(self.hashed.len());
        let mut stream = self.open(from).await?;
        if stream.start > from {
            let wrong = format!("requested bytes from {from}, received bytes from {}", stream.start);
            return Err(Error::new(ErrorKind::Unavailable, blob.digest, wrong).on(Side::Source));
        }
        let mut skip = from - stream.start;
        let (mut received, mut at) = (from, from);
        let mut throughput = ThroughputCheck::new(&self.engine.options.retry);
        while let Some(chunk) = stream.chunks.next().await {
            let mut chunk = chunk?;
            if throughput.is_too_slow(chunk.len() as u64) {
                return Err(too_slow(blob, received));
            }
            skip -= drop_front(&mut chunk, skip);
            check_length(blob, received, chunk.len())?;
            received += chunk.len() as u64;
            let sending = Instant::now();
            while let Some(piece) = self.copies.take(&mut chunk, at, blob) {
                if !self.copies.accept(&piece, at, blob)? {
                    return Ok(());
                }
                let length = piece.len() as u64;
                self.forward(piece, at, held).await?;
                at += length;
            }
            throughput.excuse(sending.elapsed());
        }
        if received < blob.size { Err(truncated(blob, received)) } else { Ok(()) }
    }

    /// Hashes what is new of the bytes at `offset`, and sends what the sink does not hold.
    async fn forward(&mut self, mut bytes: Bytes, offset: u64, held: u64) -> Result<()> {
        let hashed = self.hashed.len();
        drop_front(&mut bytes, hashed - offset);
        self.hashed.update(&bytes);
        drop_front(&mut bytes, held.saturating_sub(hashed));
        if bytes.is_empty() { Ok(()) } else { self.write(bytes).await }
    }

    async fn open(&mut self, from: u64) -> Result<BlobStream> {
        match self.ready.clone() {
            Some(bytes) => {
                let length = Some(bytes.len() as u64);
                Ok(BlobStream { start: 0, length, chunks: futures::stream::iter([Ok(bytes)]).boxed() })
            }
            None => {
                let Origin { source, reference, blob } = self.from;
                source.blob(&reference.repository, blob, from, None).await
            }
        }
    }

    /// Sends the bytes that precede the current position of the hash.
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.stats.fetched(bytes.len() as u64);
        self.upload.write(bytes).await?;
        let more = self.hashed.len().saturating_sub(self.furthest);
        self.furthest += more;
        if more > 0 {
            let event = Event::BlobAdvanced { digest: self.from.blob.digest, bytes: more };
            self.engine.observer.event(&event);
        }
        Ok(())
    }
}

/// Removes up to `count` bytes from the front; returns how many.
fn drop_front(bytes: &mut Bytes, count: u64) -> u64 {
    let dropped = count.min(bytes.len() as u64);
    *bytes = bytes.split_off(usize::try_from(dropped).unwrap_or(bytes.len()));
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::memory::{Contents, Memory};
    use crate::content::retry::RetryPolicy;
    use crate::content::{Ingest, Place, Publication};
    use crate::oci::{Descriptor, RawManifest, Reference, Repository, Tag};
    use crate::transfer::{Image, Report, Silent, TransferOptions};
    use parking_lot::Mutex;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    /// Failures of uploads, in turn: after so many bytes, with so many of them kept.
    type Faults = Arc<Mutex<Vec<(u64, u64)>>>;

    /// A registry: repositories have their own blobs, and mount them from each other.
    #[derive(Clone, Default)]
    struct Registry {
        memory: Memory,
        faults: Faults,
        uploads: Arc<Mutex<usize>>,
    }

    struct Upload {
        registry: Registry,
        repository: Repository,
        bytes: Vec<u8>,
        broken: bool,
    }

    impl BlobUpload for Upload {
        async fn received(&mut self) -> Result<u64> {
            self.broken = false;
            Ok(self.bytes.len() as u64)
        }

        async fn write(&mut self, bytes: Bytes) -> Result<()> {
            assert!(!self.broken, "written to after a failure");
            self.bytes.extend_from_slice(&bytes);
            let mut faults = self.registry.faults.lock();
            if let Some((after, kept)) = faults.first().copied()
                && self.bytes.len() as u64 >= after
            {
                faults.remove(0);
                self.broken = true;
                self.bytes.truncate(kept as usize);
                return Err(Error::new(ErrorKind::Unavailable, "upload", "cut").on(Side::Sink));
            }
            Ok(())
        }

        async fn commit(&mut self, digest: &Digest) -> Result<()> {
            assert_eq!(Digest::of(&self.bytes), *digest, "committed what was not hashed");
            self.registry.memory.insert_blob(&self.repository, std::mem::take(&mut self.bytes));
            *self.registry.uploads.lock() += 1;
            Ok(())
        }
    }

    impl Sink for Registry {
        type Writer = Infallible;
        type Upload = Upload;
        const SHARES_BLOBS_ACROSS_REPOSITORIES: bool = false;

        async fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
            self.memory.tag(repository, tag).await
        }

        async fn tag_has_named(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
            self.memory.tag_has_named(repository, tag, digest).await
        }

        async fn content(&self, _: &Digest, _: u64) -> Result<Option<Bytes>> {
            Ok(None)
        }

        async fn has_blob(&self, repository: &Repository, blob: &Descriptor) -> Result<bool> {
            self.is_linked(repository, &blob.digest).await
        }

        async fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
            self.memory.is_linked(repository, digest).await
        }

        async fn is_revision(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
            self.memory.is_revision(repository, digest).await
        }

        async fn ingest(
            &self,
            repository: &Repository,
            blob: &Descriptor,
        ) -> Result<Ingest<Infallible, Upload>> {
            if let Some(bytes) = self.memory.content(&blob.digest, blob.size).await? {
                self.memory.insert_blob(repository, bytes);
                return Ok(Ingest::Present);
            }
            let (registry, repository) = (self.clone(), repository.clone());
            Ok(Ingest::Upload(Upload { registry, repository, bytes: Vec::new(), broken: false }))
        }

        async fn publish(&self, image: Publication) -> Result<()> {
            for place in &image.places {
                for blob in &image.blobs {
                    assert!(self.is_linked(&place.repository, blob).await?, "published without {blob}");
                }
            }
            self.memory.publish(image).await
        }
    }

    fn layer(seed: u8, length: usize) -> Bytes {
        (0..length).map(|at| (at / 7) as u8 ^ seed).collect::<Vec<u8>>().into()
    }

    /// A source with one image of `layers`.
    fn source(layers: &[Bytes]) -> Memory {
        let (memory, repository) = (Memory::new(), "a/b".parse().unwrap());
        let config = Bytes::from_static(br#"{"os":"linux","architecture":"amd64"}"#);
        let describe = |content: &Bytes| {
            let digest = memory.insert_blob(&repository, content.clone());
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}}"#,
                content.len()
            )
        };
        let config = describe(&config);
        let layers: Vec<String> = layers.iter().map(describe).collect();
        let json = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
        let raw = RawManifest::new(json.into(), None).unwrap();
        memory.insert_manifest(&repository, Some(&"v1".parse().unwrap()), &raw);
        memory
    }

    async fn copy(source: &Memory, sink: &Registry, to: &[&str]) -> Report {
        let retry = RetryPolicy { first_delay: Duration::ZERO, ..RetryPolicy::default() };
        let options = TransferOptions { retry, ..TransferOptions::default() };
        let engine = Engine::new(Arc::new(sink.clone()), options, Arc::new(Silent)).unwrap();
        let source = Arc::new(source.clone());
        let image = |to: &&str| Image {
            source: source.clone(),
            reference: Reference::parse("r.io/a/b:v1").unwrap(),
            platforms: None,
            place: Place { repository: to.parse().unwrap(), tag: Some("v1".parse().unwrap()) },
            alias: None,
            resolved: None,
            pinned: None,
            origin: None,
            warnings: Vec::new(),
        };
        Arc::new(engine).run(to.iter().map(image).collect(), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn cut_upload_resumes_at_the_receivers_offset() {
        let size = 3 * MARK as usize + 5;
        for faults in [
            vec![],
            vec![(1, 0)],
            vec![(size as u64, size as u64)],
            vec![(MARK + 9, MARK + 9), (2 * MARK, MARK + 3), (3 * MARK, 0), (10, 7)],
        ] {
            let (source, sink) = (source(&[layer(1, size)]), Registry::default());
            *sink.faults.lock() = faults;
            let report = copy(&source, &sink, &["x"]).await;
            assert!(report.is_success(), "{:?}", report.images[0].error);
            let received: Contents = sink.memory.contents();
            assert_eq!(received.blobs, source.contents().blobs);
            assert!(sink.faults.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn blob_is_uploaded_once_and_mounted_elsewhere() {
        let (source, sink) = (source(&[layer(1, 1000), layer(2, 300_000)]), Registry::default());
        let report = copy(&source, &sink, &["x", "y", "z"]).await;
        assert!(report.is_success(), "{:?}", report.images);
        assert_eq!(*sink.uploads.lock(), 3);
        let received = sink.memory.contents();
        assert_eq!((received.links.len(), received.tags.len()), (9, 3));
        let again = copy(&source, &sink, &["x", "y", "z"]).await;
        assert_eq!(again.count(crate::transfer::Status::Unchanged), 3);
        assert_eq!(again.bytes_fetched, 0);
    }

    #[tokio::test]
    async fn upload_with_wrong_digest_is_not_committed() {
        let (right, sink) = (layer(1, 1000), Registry::default());
        let source = source(std::slice::from_ref(&right));
        source.replace_blob(&Digest::of(&right), layer(9, 1000));
        let report = copy(&source, &sink, &["x"]).await;
        let error = report.images[0].error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{}", error.message);
        assert!(sink.memory.contents().tags.is_empty());
    }
}
