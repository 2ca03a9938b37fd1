//! Writes the tar files of a bundle: POSIX ustar, with headers that contain nothing that differs between two runs.
//!
//! The length of a file is known before it is written, since a bundle is planned first.

use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::oci::sha256::{Sha256State, update_lanes};
use std::io::{self, Write};
use tar::{Builder, EntryType, Header};

/// The unit of a tar file, in bytes.
pub(super) const BLOCK: u64 = 512;
/// The length of the end of a tar file: two blocks of zeros.
pub(super) const END: u64 = 2 * BLOCK;
/// What the comment of a part starts with; the ID of the bundle follows.
pub(super) const COMMENT: &str = "saver-bundle ";

/// The length of a member of `size` bytes, header and padding included.
///
/// # Errors
/// As [`header`].
pub(super) fn member_length(path: &str, size: u64) -> Result<u64> {
    Ok(header(path, size)?.len() as u64 + size.next_multiple_of(BLOCK))
}

/// What precedes the data of a member. A path that ends with a slash is a directory.
///
/// # Errors
/// `Internal` for a path that a tar file cannot hold.
pub(super) fn header(path: &str, size: u64) -> Result<Vec<u8>> {
    let is_directory = path.ends_with('/');
    let mut header = Header::new_ustar();
    header.set_entry_type(if is_directory { EntryType::Directory } else { EntryType::Regular });
    header.set_mode(if is_directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header, path, io::empty()).map_err(|_| Error::internal(path))?;
    // What is left gets the end of the file, which is dropped.
    Ok(std::mem::take(tar.get_mut()))
}

/// The global header that starts a part. Programs that unpack tar files skip it.
pub(super) fn comment(id: &Digest) -> Vec<u8> {
    let text = format!(" comment={COMMENT}{id}\n");
    // The length counts its own digits.
    let length = text.len() + 2;
    let record = format!("{}{text}", if length < 100 { length } else { length + 1 });
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XGlobalHeader);
    header.set_size(record.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    // A fixed name, which fits.
    let _ = header.set_path("pax_global_header");
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(record.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    bytes
}

/// A tar file being written, and hashed.
pub(super) struct TarWriter<W> {
    out: W,
    name: String,
    hash: Sha256State,
}

impl<W: Write> TarWriter<W> {
    /// Starts a tar file that messages call `name`.
    pub(super) fn new(out: W, name: &str) -> Self {
        Self { out, name: name.to_owned(), hash: Sha256State::new() }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// `Storage` if they cannot be written.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.write(bytes)
    }

    /// Adds a member with content held in memory.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub(super) fn document(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.raw(&header(path, content.len() as u64)?)?;
        self.raw(content)?;
        self.pad(content.len() as u64)
    }

    /// Writes bytes of a member's data, and hashes them for `content` too.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub(super) fn data(&mut self, bytes: &[u8], content: &mut Sha256State) -> Result<()> {
        update_lanes(&mut [(&mut self.hash, bytes), (content, bytes)]);
        self.write(bytes)
    }

    /// Fills the last block of a member of `size` bytes.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub(super) fn pad(&mut self, size: u64) -> Result<()> {
        let missing = (size.next_multiple_of(BLOCK) - size) as usize;
        self.raw(&[0; BLOCK as usize][..missing])
    }

    /// Writes the end of the file and flushes; returns the file and its digest.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub(super) fn finish(mut self) -> Result<(W, Digest)> {
        self.raw(&[0; END as usize])?;
        self.out.flush().map_err(|cause| Error::storage(&self.name, "write", cause))?;
        Ok((self.out, Digest::from_bytes(self.hash.finish())))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|cause| Error::storage(&self.name, "write", cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path;

    #[test]
    fn member_length_is_what_is_written() {
        let blob = path::data(&Digest::of(b"x"));
        assert_eq!(member_length(&blob, 3).unwrap(), 1024, "the path of a blob fits into a header");
        let long = format!("docker/registry/v2/repositories/{}/_layers/", "a/".repeat(110));
        for (path, size) in [("bundle.json", 0), (&blob, 1), (&blob, 512), (&long, 0)] {
            let mut tar = TarWriter::new(Vec::new(), "x");
            tar.document(path, &vec![7; size]).unwrap();
            let (bytes, digest) = tar.finish().unwrap();
            assert_eq!(bytes.len() as u64, member_length(path, size as u64).unwrap() + END, "{path}");
            assert_eq!(digest, Digest::of(&bytes));
        }
    }

    #[test]
    fn comment_is_a_valid_pax_record() {
        let id = Digest::of(b"x");
        let bytes = comment(&id);
        assert_eq!(bytes.len() % BLOCK as usize, 0);
        let record = bytes[BLOCK as usize..].split(|byte| *byte == 0).next().unwrap();
        let records: Vec<_> = tar::PaxExtensions::new(record).map(Result::unwrap).collect();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].key().unwrap(), "comment");
        assert_eq!(records[0].value().unwrap(), format!("{COMMENT}{id}"));
    }
}
