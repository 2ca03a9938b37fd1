//! Reads the tar files of a bundle as a stream, in constant memory.
//!
//! The tar crate parses the headers. The iteration is our own, because an untrusted file chooses the length of names and extension
//! records, and each must be bounded before it is read (POSIX pax; GNU long names). Links, devices and sparse files are refused: no
//! bundle has any.

use super::tar_writer::{BLOCK, COMMENT};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::Digest;
use crate::oci::sha256::{Sha256State, update_lanes};
use std::io::{self, Read};
use tar::{EntryType, Header, PaxExtensions};

/// The longest extension record, in bytes.
const MAX_EXTENSION: u64 = 16 << 10;
/// The most extension records before a member.
const MAX_EXTENSIONS: usize = 8;

/// A member of a tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TarMember {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) is_directory: bool,
}

/// A tar file being read, and hashed.
pub(super) struct TarReader<R> {
    input: R,
    hash: Sha256State,
    /// Bytes of the current member's data that have not been read.
    remaining: u64,
    /// Bytes after that data up to the next block.
    padding: u64,
    bundle: Option<Digest>,
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "", why).on(Side::Source)
}

fn failed(cause: &io::Error) -> Error {
    if cause.kind() == io::ErrorKind::UnexpectedEof {
        return corrupt("it is truncated");
    }
    // An error of a tar file that holds this one.
    let own = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    own.unwrap_or_else(|| {
        Error::new(ErrorKind::Storage, "", format!("cannot read it: {cause}")).on(Side::Source)
    })
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, hash: Sha256State::new(), remaining: 0, padding: 0, bundle: None }
    }

    /// The bundle that the file is a part of, once its first member has been read.
    pub(super) fn bundle(&self) -> Option<Digest> {
        self.bundle
    }

    /// The next member; `None` at the end. What has not been read of the last one is skipped.
    ///
    /// # Errors
    /// `Corrupt` if the file is truncated, not a tar file, or has what no bundle has; `Storage` if it cannot be read. Errors do not
    /// name the file; the caller does.
    pub(super) fn next(&mut self) -> Result<Option<TarMember>> {
        self.skip_rest()?;
        let mut name: Option<Vec<u8>> = None;
        let mut size: Option<u64> = None;
        for _ in 0..MAX_EXTENSIONS {
            let Some(header) = self.header()? else {
                return match (name, size) {
                    (None, None) => Ok(None),
                    _ => Err(corrupt("it ends with an extension record")),
                };
            };
            let stated = header.entry_size().map_err(|_| corrupt("invalid size in a tar header"))?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let mut text = self.extension(stated)?;
                    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
                    name = Some(text);
                }
                EntryType::XHeader => {
                    let records = self.extension(stated)?;
                    for record in PaxExtensions::new(&records) {
                        let record = record.map_err(|_| corrupt("invalid pax record"))?;
                        let value = record.value_bytes();
                        match record.key_bytes() {
                            b"path" => name = Some(value.to_vec()),
                            b"size" => {
                                let number =
                                    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                                let number = number.ok_or_else(|| corrupt("invalid size in a pax record"))?;
                                size = Some(number);
                            }
                            key if key.starts_with(b"GNU.sparse") => {
                                return Err(corrupt("it has a sparse member, which no bundle has"));
                            }
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => {
                    let records = self.extension(stated)?;
                    self.bundle = self.bundle.or_else(|| bundle_of(&records));
                }
                kind => {
                    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
                    let name =
                        String::from_utf8(name).map_err(|_| corrupt("a member's name is not UTF-8"))?;
                    let is_directory = kind == EntryType::Directory;
                    if !is_directory && kind != EntryType::Regular {
                        let why = format!("{name:?} is neither a file nor a directory");
                        return Err(corrupt(why));
                    }
                    let size = if is_directory { 0 } else { size.unwrap_or(stated) };
                    self.begin(size)?;
                    return Ok(Some(TarMember { name, size, is_directory }));
                }
            }
        }
        Err(corrupt("a member has too many extension records"))
    }

    /// Reads data of the current member into `buffer`, and hashes it for `content` too. Returns 0 at its end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) fn data(&mut self, buffer: &mut [u8], content: Option<&mut Sha256State>) -> Result<usize> {
        let room = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let count = loop {
            match self.input.read(&mut buffer[..room]) {
                Ok(0) if room > 0 => return Err(corrupt("it is truncated")),
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        };
        let bytes = &buffer[..count];
        match content {
            Some(content) => update_lanes(&mut [(&mut self.hash, bytes), (content, bytes)]),
            None => self.hash.update(bytes),
        }
        self.remaining -= count as u64;
        Ok(count)
    }

    /// All data of the current member, which has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`next`](Self::next); `TooLarge` beyond the limit.
    pub(super) fn document(&mut self, limit: u64) -> Result<Vec<u8>> {
        if self.remaining > limit {
            let why = format!("it has {} bytes, more than the {limit} that are accepted", self.remaining);
            return Err(Error::new(ErrorKind::TooLarge, "", why).on(Side::Source));
        }
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match self.data(&mut chunk, None)? {
                0 => return Ok(bytes),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Reads what follows the end of the archive, which are zeros at most; returns the digest and length of the whole file.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) fn finish(mut self) -> Result<(Digest, u64)> {
        let mut chunk = [0; 4096];
        loop {
            match self.input.read(&mut chunk) {
                Ok(0) => {
                    let length = self.hash.len();
                    return Ok((Digest::from_bytes(self.hash.finish()), length));
                }
                Ok(count) if chunk[..count].iter().all(|byte| *byte == 0) => {
                    self.hash.update(&chunk[..count])
                }
                Ok(_) => return Err(corrupt("there is data after its end")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        let end =
            size.checked_next_multiple_of(BLOCK).ok_or_else(|| corrupt("a member's size is invalid"))?;
        self.remaining = size;
        self.padding = end - size;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(corrupt(format!("an extension record has {size} bytes, more than {MAX_EXTENSION}")));
        }
        self.begin(size)?;
        let bytes = self.document(MAX_EXTENSION)?;
        self.skip_rest()?;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut chunk = vec![0; 64 << 10];
        while self.remaining > 0 {
            self.data(&mut chunk, None)?;
        }
        self.remaining = std::mem::take(&mut self.padding);
        while self.remaining > 0 {
            self.data(&mut chunk, None)?;
        }
        Ok(())
    }

    /// The next header; `None` for the two blocks of zeros at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let block = self.block()?;
        if block.iter().all(|byte| *byte == 0) {
            if self.block()?.iter().any(|byte| *byte != 0) {
                return Err(corrupt("only one block of zeros is at its end"));
            }
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = block.iter().enumerate();
        // The checksum counts its own field as blanks.
        let sum: u32 =
            sum.map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ => Err(corrupt("the checksum of a tar header is wrong")),
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.input.read_exact(&mut block).map_err(|error| failed(&error))?;
        self.hash.update(&block);
        Ok(block)
    }
}

/// Reads the data of the current member, such as a tar file in a tar file.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.data(buffer, None).map_err(io::Error::other)
    }
}

/// The bundle that a global header names.
fn bundle_of(records: &[u8]) -> Option<Digest> {
    let mut records = PaxExtensions::new(records).flatten();
    let comment = records.find(|record| record.key_bytes() == b"comment")?;
    comment.value().ok()?.strip_prefix(COMMENT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tar_writer::{TarWriter, comment};
    use super::*;

    fn sample() -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new(), "x");
        tar.raw(&comment(&Digest::of(b"id"))).unwrap();
        tar.document("a/", b"").unwrap();
        tar.document(&format!("{}b", "long/".repeat(60)), b"content").unwrap();
        tar.document("c", &[1; 1000]).unwrap();
        tar.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut tar = TarReader::new(bytes);
        let mut members = Vec::new();
        while let Some(member) = tar.next()? {
            members.push((member.name, tar.document(1 << 20)?));
        }
        assert_eq!(tar.finish()?, (Digest::of(bytes), bytes.len() as u64));
        Ok(members)
    }

    #[test]
    fn written_members_are_read_back() {
        let members = read(&sample()).unwrap();
        assert_eq!(members.len(), 3);
        assert_eq!(members[0], ("a/".to_owned(), Vec::new()));
        assert_eq!(members[1], (format!("{}b", "long/".repeat(60)), b"content".to_vec()));
        assert_eq!(members[2], ("c".to_owned(), vec![1; 1000]));
        let bytes = sample();
        let mut tar = TarReader::new(&bytes[..]);
        tar.next().unwrap();
        assert_eq!(tar.bundle(), Some(Digest::of(b"id")));
    }

    #[test]
    fn truncated_file_is_corrupt_at_every_length() {
        let bytes = sample();
        for length in (0..bytes.len()).step_by(256) {
            let error = read(&bytes[..length]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}");
        }
    }

    #[test]
    fn members_that_no_bundle_has_are_refused() {
        let with = |kind: EntryType, size: u64| {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_path("x").unwrap();
            header.set_size(size);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend(vec![b'9'; 64 << 10]);
            bytes
        };
        for (what, bytes) in [
            ("symbolic link", with(EntryType::Symlink, 0)),
            ("hard link", with(EntryType::Link, 0)),
            ("device", with(EntryType::Char, 0)),
            ("sparse file", with(EntryType::GNUSparse, 0)),
            ("huge name", with(EntryType::GNULongName, 1 << 40)),
            ("huge record", with(EntryType::XHeader, MAX_EXTENSION + 1)),
            ("invalid record", with(EntryType::XHeader, 100)),
            ("endless size", with(EntryType::Regular, u64::MAX)),
            ("noise", vec![b'9'; 4096]),
            ("nothing", Vec::new()),
            ("trailing data", [sample(), b"more".to_vec()].concat()),
            ("many records", with(EntryType::GNULongName, 0)[..512].repeat(20)),
        ] {
            let error = read(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        }
        assert!(read(&[sample(), vec![0; 8192]].concat()).is_ok(), "tar fills its last record with zeros");
    }
}
