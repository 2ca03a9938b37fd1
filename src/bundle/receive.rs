//! Writes the content of parts into a tree.
//!
//! Blobs are written through the store as a download is: to files outside the tree, which move to their final path once their digest
//! is verified. A range of a blob that is cut is appended to the file of its blob if it follows what that has; otherwise it is kept
//! beside it, in a file under a name of its own among the interrupted downloads, until those before it have come. So any part may come
//! first, in any run, and there is no state beside the tree.

use super::BundleObserver;
use super::document::BundleDocument;
use super::member::PartMember;
use super::tar_reader::{TarMember, TarReader};
use crate::content::BlobWriter;
use crate::error::{Detail, Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use crate::oci::descriptor::MAX_SIZE;
use crate::oci::sha256::Sha256State;
use crate::store::{Store, StoreWriter};
use std::io::Read;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How many bytes are moved at once.
const CHUNK: usize = 1 << 20;

/// Writes content into a tree.
pub(super) struct Receiver<'a> {
    store: &'a Store,
    /// Runs the store's tasks: parts are read on a thread that may block.
    runtime: Handle,
    observer: &'a dyn BundleObserver,
    cancel: CancellationToken,
    chunk: Vec<u8>,
    /// The blobs that were written, in the order in which they came.
    pub(super) written: Vec<Digest>,
    pub(super) bytes_written: u64,
    /// Bytes of content that the tree had already.
    pub(super) bytes_present: u64,
}

/// A part that was read to its end.
pub(super) struct ReceivedPart {
    /// The digest of its bytes.
    pub(super) digest: Digest,
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// The bundle that it says it belongs to.
    pub(super) bundle: Option<Digest>,
}

/// Whether the run cannot continue after this error: the tree can't be written, as opposed to a part that can't be read.
pub(super) fn is_final(error: &Error) -> bool {
    let is_of_sink = error.kind() == ErrorKind::Storage && error.side() != Some(Side::Source);
    is_of_sink || matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Internal)
}

/// The name of the file of a range that came before those in front of it.
fn range_key(digest: &Digest, start: u64) -> Digest {
    Digest::of(format!("range {start} of {digest}").as_bytes())
}

fn mismatch(digest: &Digest, actual: Digest) -> Error {
    let detail = Detail::Mismatch { expected: digest.to_string(), actual: actual.to_string() };
    Error::from_detail(ErrorKind::Corrupt, format!("blob {digest}"), detail).on(Side::Source)
}

impl<'a> Receiver<'a> {
    pub(super) fn new(
        store: &'a Store,
        runtime: Handle,
        observer: &'a dyn BundleObserver,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            store,
            runtime,
            observer,
            cancel,
            chunk: vec![0; CHUNK],
            written: Vec::new(),
            bytes_written: 0,
            bytes_present: 0,
        }
    }

    /// Writes the content of a part whose first member is `first`. Content that is damaged is left out, and the rest is written
    /// before the error is returned.
    ///
    /// # Errors
    /// `Corrupt` for a damaged part; `Storage` if it can't be read, or the tree can't be written.
    pub(super) fn part<R: Read>(
        &mut self,
        mut tar: TarReader<R>,
        first: Option<TarMember>,
    ) -> Result<ReceivedPart> {
        let bundle = tar.bundle();
        let mut damage = None;
        let mut member = first;
        while let Some(TarMember { name, size, is_directory }) = member {
            let outcome = match PartMember::parse(&name)? {
                PartMember::Repository => Ok(()),
                _ if is_directory || size > MAX_SIZE => {
                    return Err(Error::new(ErrorKind::Corrupt, name, "it is not content").on(Side::Source));
                }
                PartMember::Blob(digest) => self.blob(&mut tar, &digest, size),
                PartMember::Range { digest, start, total } if size <= total - start => {
                    self.range(&mut tar, &digest, start..start + size, total)
                }
                PartMember::Range { .. } => {
                    return Err(Error::new(ErrorKind::Corrupt, name, "it is too long").on(Side::Source));
                }
            };
            match outcome {
                Err(error) if error.kind() == ErrorKind::Corrupt && !error.subject().is_empty() => {
                    damage.get_or_insert(error);
                }
                outcome => outcome?,
            }
            member = tar.next()?;
        }
        let (digest, bytes) = tar.finish()?;
        match damage {
            Some(error) => Err(error),
            None => Ok(ReceivedPart { digest, bytes, bundle }),
        }
    }

    fn open(&self, digest: &Digest, size: u64) -> Result<Option<StoreWriter>> {
        self.runtime.block_on(self.store.writer(digest, size))
    }

    fn blob<R: Read>(&mut self, tar: &mut TarReader<R>, digest: &Digest, size: u64) -> Result<()> {
        let Some(writer) = self.open(digest, size)? else {
            self.bytes_present += size;
            self.observer.moved(size);
            return Ok(());
        };
        let mut state = Sha256State::new();
        self.copy(tar, &writer, 0, Some(&mut state))?;
        self.commit(writer, digest, state)
    }

    /// Commits a blob if `state`, the hash of its content, gives its digest, and discards it otherwise.
    fn commit(&mut self, writer: StoreWriter, digest: &Digest, state: Sha256State) -> Result<()> {
        let actual = Digest::from_bytes(state.finish());
        if actual != *digest {
            writer.discard()?;
            return Err(mismatch(digest, actual));
        }
        writer.commit(digest)?;
        self.written.push(*digest);
        Ok(())
    }

    fn range<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        digest: &Digest,
        range: std::ops::Range<u64>,
        total: u64,
    ) -> Result<()> {
        let length = range.end - range.start;
        let Some(writer) = self.open(digest, total)? else {
            self.bytes_present += length;
            self.observer.moved(length);
            return Ok(());
        };
        let front = writer.received();
        if range.start > front {
            drop(writer);
            if let Some(aside) = self.open(&range_key(digest, range.start), length)? {
                self.copy(tar, &aside, 0, None)?;
            }
            return Ok(());
        }
        self.copy(tar, &writer, range.start, None)?;
        if front.max(range.end) == total { self.complete(writer, digest, total) } else { Ok(()) }
    }

    /// Writes the data of the current member to `writer`, from `at` on.
    fn copy<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        writer: &StoreWriter,
        mut at: u64,
        mut state: Option<&mut Sha256State>,
    ) -> Result<()> {
        loop {
            self.check_cancelled()?;
            let count = tar.data(&mut self.chunk, state.as_deref_mut())?;
            if count == 0 {
                return Ok(());
            }
            writer.write_at(at, &self.chunk[..count])?;
            at += count as u64;
            self.bytes_written += count as u64;
            self.observer.moved(count as u64);
        }
    }

    /// Verifies a blob that came in ranges, and commits it. All of it is read back: an earlier run wrote a part of it, and another process
    /// may have.
    fn complete(&mut self, writer: StoreWriter, digest: &Digest, total: u64) -> Result<()> {
        let mut state = Sha256State::new();
        let mut at = 0;
        while at < total {
            self.check_cancelled()?;
            let count = writer.read_at(at, &mut self.chunk)?;
            if count == 0 {
                break;
            }
            state.update(&self.chunk[..count]);
            at += count as u64;
        }
        self.commit(writer, digest, state)
    }

    /// Puts the ranges together that came before those in front of them.
    ///
    /// # Errors
    /// `Storage` if the tree can't be written. A blob whose digest is wrong is discarded, and missing then.
    pub(super) fn assemble(&mut self, document: &BundleDocument) -> Result<()> {
        let range = document.range_bytes;
        for content in document.content.iter().filter(|content| content.parts.len() > 1) {
            let Some(writer) = self.open(&content.digest, content.size)? else { continue };
            let front = writer.received();
            let mut start = front / range * range;
            while start < content.size {
                let length = range.min(content.size - start);
                let Some(aside) = self.open(&range_key(&content.digest, start), length)? else { break };
                if aside.received() < length {
                    break;
                }
                self.move_range(&aside, &writer, start, length)?;
                aside.discard()?;
                start += length;
            }
            if front.max(start) >= content.size {
                match self.complete(writer, &content.digest, content.size) {
                    Err(error) if is_final(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn move_range(&mut self, from: &StoreWriter, to: &StoreWriter, start: u64, length: u64) -> Result<()> {
        let mut at = 0;
        while at < length {
            self.check_cancelled()?;
            let room = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
            let count = from.read_at(at, &mut self.chunk[..room])?;
            if count == 0 {
                return Err(Error::internal("a range of a blob"));
            }
            to.write_at(start + at, &self.chunk[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "", "the run was interrupted"));
        }
        Ok(())
    }
}
