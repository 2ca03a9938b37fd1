//! Layers as tools compress them: gzip, zstd, or not at all. What a layer is told by its first bytes, not by its media type:
//! tools get that wrong.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Digester};
use flate2::read::MultiGzDecoder;
use std::io::{self, Read};

/// How many bytes are read at a time.
const PIECE: usize = 128 << 10;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// zstd (RFC 8878), of one frame or several.
    Zstd,
}

impl Compression {
    /// How content that begins with `head` is compressed; four bytes are enough.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or a frame to be skipped (which zstd:chunked and pzstd begin with).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The content of `reader` without its compression, and what that was.
///
/// # Errors
/// What the reader says.
pub fn inflated<'r>(
    mut reader: impl Read + Send + 'r,
) -> io::Result<(Box<dyn Read + Send + 'r>, Compression)> {
    let mut head = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut head)?;
    let compression = Compression::of(&head);
    let whole = io::Cursor::new(head).chain(reader);
    let inflated: Box<dyn Read + Send + 'r> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(whole)?),
    };
    Ok((inflated, compression))
}

/// What a layer comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The digest of its bytes as they are.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// The digest of the tar inside, which configurations list (OCI config.md, `diff_ids`).
    pub diff_id: Digest,
    /// The tar's length in bytes.
    pub tar_size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// Reads a layer to its end, keeping nothing of it. A tar of more than `limit` bytes is not read further.
///
/// # Errors
/// `Corrupt` when it can't be inflated, `TooLarge` beyond the limit, `Storage` when it can't be read.
pub fn measure(reader: impl Read + Send, limit: u64) -> Result<Measured> {
    let mut raw = Hashed { reader, digester: Digester::new(), failed: None };
    let read = inflate(&mut raw, limit);
    if let Some(cause) = raw.failed {
        return Err(Error::new(ErrorKind::Storage, "", format!("cannot read it: {cause}")));
    }
    let (compression, tar) = read?;
    let (size, tar_size) = (raw.digester.length(), tar.length());
    Ok(Measured { digest: raw.digester.finish(), size, diff_id: tar.finish(), tar_size, compression })
}

fn inflate<R: Read + Send>(raw: &mut Hashed<R>, limit: u64) -> Result<(Compression, Digester)> {
    let wrong = |cause| Error::new(ErrorKind::Corrupt, "", format!("it cannot be inflated: {cause}"));
    let (mut reader, compression) = inflated(&mut *raw).map_err(wrong)?;
    let (mut tar, mut piece) = (Digester::new(), vec![0; PIECE]);
    loop {
        match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => tar.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(wrong(error)),
        }
        if tar.length() > limit {
            let why = format!("it inflates to more than {limit} bytes");
            return Err(Error::new(ErrorKind::TooLarge, "", why));
        }
    }
    drop(reader);
    // What stands behind the compressed content is the layer's too, as far as its digest goes.
    io::copy(raw, &mut io::sink()).map_err(wrong)?;
    Ok((compression, tar))
}

/// Hashes what passes, and keeps the reader's own failures apart from a decoder's.
struct Hashed<R> {
    reader: R,
    digester: Digester,
    failed: Option<String>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(error.to_string());
            }
        })?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    pub(in crate::archive) fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn layers_of_every_compression_are_measured() {
        let tar = b"what would be a tar ".repeat(10_000);
        let zstd = zstd::encode_all(&tar[..], 3).unwrap();
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd[..]].concat();
        let (half, rest) = tar.split_at(70_000);
        let members = [gzip(half), gzip(rest)].concat();
        for (content, compression) in [
            (tar.clone(), Compression::None),
            (gzip(&tar), Compression::Gzip),
            (members, Compression::Gzip),
            (zstd, Compression::Zstd),
            (skipped, Compression::Zstd),
        ] {
            let found = measure(&content[..], u64::MAX).unwrap();
            let expect = Measured {
                digest: Digest::of(&content),
                size: content.len() as u64,
                diff_id: Digest::of(&tar),
                tar_size: tar.len() as u64,
                compression,
            };
            assert_eq!(found, expect);
        }
        for short in [&b""[..], b"a", b"\x1f"] {
            assert_eq!(measure(short, 10).unwrap().diff_id, Digest::of(short));
        }
    }

    #[test]
    fn what_can_not_be_inflated_or_never_ends_is_refused() {
        let packed = gzip(&[0; 1 << 20]);
        assert_eq!(measure(&packed[..packed.len() - 9], u64::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(measure(&packed[..], 1 << 19).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(measure(&b"\x28\xb5\x2f\xfdjunk"[..], 100).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
