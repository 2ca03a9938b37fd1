//! Compares the copies that a source sends of one blob, chunk by chunk, where the sink cannot be read back.
//!
//! A network path that flips one byte in some hundred megabytes damages every copy of a large layer, each at another place, so
//! that sending it again as a whole never ends. After a first damaged copy, the digests of the chunks of further ones are kept.
//! A chunk that differs from every earlier copy is not sent on but requested again until two copies agree. The digest of the
//! whole decides. Nothing of this costs anything while copies are intact.

use super::stats::ImageStats;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Descriptor, Digest};
use bytes::{Bytes, BytesMut};

/// The bytes in a chunk; the last one of a blob may have fewer.
const CHUNK: u64 = 1 << 20;
/// How many copies of a chunk are compared before the blob is given up.
const MAX_COPIES: usize = 8;

/// What is known of the copies of one blob.
#[derive(Default)]
pub(super) struct SourceCopies {
    /// How many copies were sent on as a whole and had another digest.
    failed: u64,
    /// The digests of each chunk's copies, once a copy has failed.
    chunks: Vec<Vec<Digest>>,
    /// How many copies of chunks differed from all earlier ones.
    differing: u64,
    /// Bytes received once a copy had failed.
    compared: u64,
    /// The beginning of the next chunk.
    partial: BytesMut,
}

impl SourceCopies {
    /// A whole copy had another digest than the blob: from here on, chunks are compared.
    pub(super) fn record_failure(&mut self) {
        self.failed += 1;
    }

    /// Where to begin to receive, in order to go on from `offset`: whole chunks are compared.
    pub(super) fn start(&mut self, offset: u64) -> u64 {
        self.partial.clear();
        if self.failed == 0 { offset } else { offset - offset % CHUNK }
    }

    /// Takes the next bytes to send on from the front of `bytes`, which begin at `offset`, if there are enough of them.
    pub(super) fn take(&mut self, bytes: &mut Bytes, offset: u64, blob: &Descriptor) -> Option<Bytes> {
        if bytes.is_empty() {
            return None;
        }
        if self.failed == 0 {
            return Some(std::mem::take(bytes));
        }
        let end = (offset - offset % CHUNK + CHUNK).min(blob.size);
        let missing = usize::try_from(end - offset).unwrap_or(usize::MAX) - self.partial.len();
        let piece = bytes.split_to(missing.min(bytes.len()));
        self.partial.extend_from_slice(&piece);
        (piece.len() == missing).then(|| self.partial.split().freeze())
    }

    /// Whether the bytes at `offset` may be sent on: nothing else is known of them, or an earlier copy was the same.
    ///
    /// # Errors
    /// `Corrupt` when too many copies differ.
    pub(super) fn accept(&mut self, bytes: &Bytes, offset: u64, blob: &Descriptor) -> Result<bool> {
        if self.failed == 0 {
            return Ok(true);
        }
        self.compared += bytes.len() as u64;
        let index = usize::try_from(offset / CHUNK).unwrap_or(usize::MAX);
        if self.chunks.len() <= index {
            self.chunks.resize(index + 1, Vec::new());
        }
        let (known, digest) = (&mut self.chunks[index], Digest::of(bytes));
        if known.contains(&digest) {
            return Ok(true);
        }
        known.push(digest);
        if known.len() == 1 {
            return Ok(true);
        }
        self.differing += 1;
        if known.len() < MAX_COPIES {
            return Ok(false);
        }
        let message = format!("{MAX_COPIES} copies of the bytes from {offset} on are all different");
        Err(Error::new(ErrorKind::Corrupt, blob.digest, message).on(Side::Source))
    }

    /// Counts what arrived damaged, and warns of it if the blob was repaired.
    pub(super) fn report(&self, blob: &Descriptor, is_repaired: bool, stats: &ImageStats) {
        let damaged = self.failed.max(self.differing);
        stats.count_corrupt(damaged);
        if damaged > 0 && is_repaired {
            stats.warn(damage(blob.digest, damaged, CHUNK, self.failed.min(1) * blob.size + self.compared));
        }
    }
}

/// The warning about a blob that was repaired: `damaged` chunks of `length` bytes in `received` bytes.
pub(super) fn damage(digest: Digest, damaged: u64, length: u64, received: u64) -> String {
    let plural = if damaged == 1 { "" } else { "s" };
    let every = received / damaged.max(1);
    format!(
        "layer {} arrived damaged and was repaired: {damaged} chunk{plural} of {} KiB, about one in {:.0} MB received; check the network and proxies to the registry",
        digest.short(),
        length >> 10,
        every as f64 / 1e6
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Descriptor {
        Descriptor::new("x", Digest::of(b"blob"), 2 * CHUNK + 3)
    }

    #[test]
    fn bytes_pass_unchanged_until_a_copy_has_failed() {
        let mut copies = SourceCopies::default();
        let mut bytes = Bytes::from_static(b"abc");
        assert_eq!(copies.start(CHUNK + 7), CHUNK + 7);
        assert_eq!(copies.take(&mut bytes, CHUNK + 7, &blob()).unwrap(), "abc");
        assert!(copies.take(&mut bytes, CHUNK + 10, &blob()).is_none());
        copies.record_failure();
        assert_eq!(copies.start(CHUNK + 7), CHUNK);
    }

    #[test]
    fn chunks_are_assembled_from_any_pieces() {
        let mut copies = SourceCopies::default();
        copies.record_failure();
        let content = Bytes::from(vec![7; blob().size as usize]);
        let (mut offset, mut lengths) = (copies.start(0), Vec::new());
        for piece in content.chunks(1000) {
            let mut bytes = content.slice_ref(piece);
            while let Some(chunk) = copies.take(&mut bytes, offset, &blob()) {
                offset += chunk.len() as u64;
                lengths.push(chunk.len() as u64);
            }
        }
        assert_eq!(lengths, [CHUNK, CHUNK, 3]);
    }

    #[test]
    fn chunk_is_accepted_once_two_copies_agree() {
        let mut copies = SourceCopies::default();
        let accept = |copies: &mut SourceCopies, text: &'static str| {
            copies.accept(&Bytes::from_static(text.as_bytes()), CHUNK, &blob()).ok()
        };
        assert_eq!(accept(&mut copies, "x"), Some(true));
        copies.record_failure();
        for (text, expect) in [("x", true), ("a", false), ("y", false), ("a", true), ("y", true)] {
            assert_eq!(accept(&mut copies, text), Some(expect), "{text}");
        }
        assert_eq!(copies.differing, 2);
        for (text, expect) in
            [("1", Some(false)), ("2", Some(false)), ("3", Some(false)), ("4", Some(false)), ("5", None)]
        {
            assert_eq!(accept(&mut copies, text), expect, "{text}");
        }
    }
}
