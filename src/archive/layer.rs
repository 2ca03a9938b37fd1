//! Layer compression: gzip, zstd or none. It is detected from a layer's first bytes, because tools write wrong
//! media types.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Digester};
use flate2::read::MultiGzDecoder;
use std::io::{self, Read};

/// How many bytes are read at once.
const CHUNK: usize = 128 << 10;

/// The compression of a layer or an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Uncompressed, or a format that is not recognized.
    None,
    /// gzip (RFC 1952), with one or more members.
    Gzip,
    /// zstd (RFC 8878), with one or more frames.
    Zstd,
}

impl Compression {
    /// Detects the compression from the first four bytes of the content.
    #[must_use]
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or a skippable frame (zstd:chunked and pzstd start with one).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The compression format that `head`, the first ten bytes of an archive, identifies, if saver cannot decompress
/// it, and the command that does.
#[must_use]
pub fn unsupported_compression(head: &[u8]) -> Option<(&'static str, &'static str)> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(("xz", "xz -dc")),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => {
            Some(("bzip2", "bzip2 -dc"))
        }
        [0x04, 0x22, 0x4d, 0x18, ..] => Some(("lz4", "lz4 -dc")),
        [b'L', b'Z', b'I', b'P', 0 | 1, ..] => Some(("lzip", "lzip -dc")),
        [0x5d, 0, 0, ..] => Some(("lzma", "xz -dc --format=lzma")),
        [0x1f, 0x9d, ..] => Some(("compress (.Z)", "gzip -dc")),
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => Some(("7z", "7z x -so")),
        [b'P', b'K', 3, 4, ..] => Some(("zip", "unzip -p")),
        _ => None,
    }
}

/// Decompresses `reader`; also returns the compression that was detected.
///
/// # Errors
/// Errors of `reader`.
pub fn decompressed<'r>(
    mut reader: impl Read + Send + 'r,
) -> io::Result<(Box<dyn Read + Send + 'r>, Compression)> {
    let mut head = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut head)?;
    let compression = Compression::detect(&head);
    let whole = io::Cursor::new(head).chain(reader);
    let decompressed: Box<dyn Read + Send + 'r> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(whole)?),
    };
    Ok((decompressed, compression))
}

/// The digests and sizes of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDigests {
    /// The digest of the layer blob as stored.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// The digest of the uncompressed tar, as listed in image configurations (OCI config.md, `diff_ids`).
    pub diff_id: Digest,
    /// The uncompressed tar's length in bytes.
    pub tar_size: u64,
    /// The compression.
    pub compression: Compression,
}

/// Reads and hashes a layer, and stops once it has decompressed to more than `limit` bytes.
///
/// # Errors
/// `Corrupt` if it cannot be decompressed, `TooLarge` beyond the limit, `Storage` if it cannot be read.
pub fn hash(reader: impl Read + Send, limit: u64) -> Result<LayerDigests> {
    let mut raw = HashingReader { reader, digester: Digester::new(), failed: None };
    let read = hash_tar(&mut raw, limit);
    if let Some(cause) = raw.failed {
        return Err(Error::new(ErrorKind::Storage, "", format!("cannot read the layer: {cause}")));
    }
    let (compression, tar) = read?;
    let size = raw.digester.length();
    let tar_size = tar.length();
    Ok(LayerDigests { digest: raw.digester.finish(), size, diff_id: tar.finish(), tar_size, compression })
}

fn hash_tar<R: Read + Send>(raw: &mut HashingReader<R>, limit: u64) -> Result<(Compression, Digester)> {
    let corrupt = |cause| Error::new(ErrorKind::Corrupt, "", format!("cannot decompress the layer: {cause}"));
    let (mut reader, compression) = decompressed(&mut *raw).map_err(corrupt)?;
    let mut tar = Digester::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => tar.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(corrupt(error)),
        }
        if tar.length() > limit {
            let message = format!("the layer decompresses to more than {limit} bytes");
            return Err(Error::new(ErrorKind::TooLarge, "", message));
        }
    }
    drop(reader);
    // The blob's digest covers trailing bytes that the decoder does not read.
    io::copy(raw, &mut io::sink()).map_err(corrupt)?;
    Ok((compression, tar))
}

/// Hashes the bytes read through it, and records the reader's own failures, which a decoder would obscure.
struct HashingReader<R> {
    reader: R,
    digester: Digester,
    failed: Option<String>,
}

impl<R: Read> Read for HashingReader<R> {
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
    fn layer_of_any_compression_is_hashed() {
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
            let found = hash(&content[..], u64::MAX).unwrap();
            let expect = LayerDigests {
                digest: Digest::of(&content),
                size: content.len() as u64,
                diff_id: Digest::of(&tar),
                tar_size: tar.len() as u64,
                compression,
            };
            assert_eq!(found, expect);
        }
        for short in [&b""[..], b"a", b"\x1f"] {
            assert_eq!(hash(short, 10).unwrap().diff_id, Digest::of(short));
        }
    }

    #[test]
    fn layer_that_is_damaged_or_too_large_is_refused() {
        let packed = gzip(&[0; 1 << 20]);
        assert_eq!(hash(&packed[..packed.len() - 9], u64::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(hash(&packed[..], 1 << 19).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(hash(&b"\x28\xb5\x2f\xfdjunk"[..], 100).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
