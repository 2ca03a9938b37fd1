//! Lists of the content that a directory has, which the far side sends to the near side.
//!
//! docs/reference/bundle-format.md describes the file.

use crate::error::{Error, ErrorKind, Result, Side};
use crate::oci::{Digest, Digester};
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::SystemTime;

/// What a Zstandard frame starts with (RFC 8878, 3.1.1).
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The version of the format.
const SCHEMA: u32 = 1;
/// The longest header, in bytes.
const MAX_HEADER: u64 = 4096;
/// The most digests that are read.
const MAX_COUNT: u64 = 8 << 20;
/// The largest window that a frame may ask for: 8 MiB, which every decoder supports.
const WINDOW_LOG: u32 = 23;
/// Digests do not compress, so more effort is wasted.
const LEVEL: i32 = 1;

/// The digests of the content of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HaveList {
    /// What the list says about itself.
    pub header: HaveHeader,
    /// The digests, sorted.
    pub digests: Vec<Digest>,
}

/// The header of a [`HaveList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct HaveHeader {
    /// Number of digests.
    pub count: u64,
    /// The digest of the digests' bytes: equal for directories with the same content.
    pub id: Digest,
    /// The version of the format: 1.
    pub schema: u32,
    /// When the list was made, in seconds since 1970.
    pub time: u64,
}

fn corrupt(why: impl Into<String>) -> Error {
    let error = Error::new(ErrorKind::InvalidInput, "", why).on(Side::Source);
    error.with_hint("saver have --dir DIR writes such a list")
}

/// The identity of a set of digests, which are sorted.
pub(super) fn id_of<'d>(digests: impl IntoIterator<Item = &'d Digest>) -> Digest {
    let mut id = Digester::new();
    for digest in digests {
        id.update(digest.as_bytes());
    }
    id.finish()
}

impl HaveList {
    /// The list of the content of the tree in `store`.
    ///
    /// # Errors
    /// `InvalidInput` if the directory is not a tree, `Storage` if it can't be read.
    pub fn of(store: &Store) -> Result<Self> {
        store.check_is_tree()?;
        let digests: Vec<Digest> = store.blobs()?.into_keys().collect();
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let count = digests.len() as u64;
        let header = HaveHeader { count, id: id_of(&digests), schema: SCHEMA, time };
        Ok(Self { header, digests })
    }

    /// Writes the list to `out`.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = zstd::stream::write::Encoder::new(out, LEVEL)?;
        out.include_checksum(true)?;
        serde_json::to_writer(&mut out, &self.header)?;
        out.write_all(b"\n")?;
        for digest in &self.digests {
            out.write_all(digest.as_bytes())?;
        }
        out.finish()?.flush()
    }

    /// Reads a list. Errors do not name its file; the caller does.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a list, or is damaged.
    pub fn read(input: impl Read) -> Result<Self> {
        let unreadable = |cause: io::Error| corrupt(format!("cannot read the list of content: {cause}"));
        let mut decoder = zstd::stream::read::Decoder::new(input).map_err(unreadable)?;
        decoder.window_log_max(WINDOW_LOG).map_err(unreadable)?;
        let mut decoder = BufReader::new(decoder);
        let mut line = Vec::new();
        decoder.by_ref().take(MAX_HEADER).read_until(b'\n', &mut line).map_err(unreadable)?;
        let header: HaveHeader =
            serde_json::from_slice(&line).map_err(|_| corrupt("it is not a list of content"))?;
        if header.schema != SCHEMA {
            let why = format!("version {} of the list is not supported", header.schema);
            return Err(Error::new(ErrorKind::Unsupported, "", why).with_hint("use a later version of saver"));
        }
        if header.count > MAX_COUNT {
            let why = format!("it announces {} digests, more than {MAX_COUNT}", header.count);
            return Err(corrupt(why));
        }
        // The announced number is not trusted with memory.
        let mut digests = Vec::new();
        for _ in 0..header.count {
            let mut bytes = [0; 32];
            decoder.read_exact(&mut bytes).map_err(unreadable)?;
            let digest = Digest::from_bytes(bytes);
            if digests.last().is_some_and(|last| *last >= digest) {
                return Err(corrupt("its digests are not sorted"));
            }
            digests.push(digest);
        }
        if decoder.read(&mut [0]).map_err(unreadable)? != 0 {
            return Err(corrupt("it is longer than it announces"));
        }
        if id_of(&digests) != header.id {
            return Err(corrupt("its digests do not match its ID"));
        }
        Ok(Self { header, digests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(count: u8) -> HaveList {
        let mut digests: Vec<Digest> = (0..count).map(|number| Digest::of(&[number])).collect();
        digests.sort();
        let header = HaveHeader { count: count.into(), id: id_of(&digests), schema: SCHEMA, time: 7 };
        HaveList { header, digests }
    }

    fn written(list: &HaveList) -> Vec<u8> {
        let mut bytes = Vec::new();
        list.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn list_is_read_as_written() {
        for count in [0, 1, 200] {
            let bytes = written(&list(count));
            assert!(bytes.starts_with(&MAGIC));
            assert_eq!(HaveList::read(&bytes[..]).unwrap(), list(count));
        }
    }

    #[test]
    fn damaged_list_is_refused() {
        let good = list(9);
        let pack = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        let mut unsorted = good.clone();
        unsorted.digests.swap(1, 2);
        let mut twice = good.clone();
        twice.digests[1] = twice.digests[0];
        let mut other = good.clone();
        other.header.id = Digest::of(b"other");
        let mut fewer = good.clone();
        fewer.header.count = 8;
        let mut more = good.clone();
        more.header.count = 10;
        let mut endless = good.clone();
        endless.header.count = u64::MAX;
        let mut later = good.clone();
        later.header.schema = 2;
        for (what, bytes) in [
            ("nothing", Vec::new()),
            ("text", b"sha256:00".to_vec()),
            ("no header", pack(b"")),
            ("endless header", pack(&vec![b' '; 1 << 20])),
            ("unsorted", written(&unsorted)),
            ("twice", written(&twice)),
            ("other ID", written(&other)),
            ("fewer", written(&fewer)),
            ("more", written(&more)),
            ("endless", written(&endless)),
            ("later", written(&later)),
        ] {
            assert!(HaveList::read(&bytes[..]).is_err(), "{what}");
        }
        let bytes = written(&good);
        for length in 0..bytes.len() {
            assert!(HaveList::read(&bytes[..length]).is_err(), "{length}");
        }
        // A list of which no byte is wrong in a way that is not noticed.
        for at in 4..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            if let Ok(read) = HaveList::read(&flipped[..]) {
                assert_eq!(read, good, "{at}");
            }
        }
    }
}
