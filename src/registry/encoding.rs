//! Content-Encoding on the way: labels that mean nothing, and compression that was really applied.
//!
//! Object stores repeat an uploader's label (`aws-chunked`), and web servers call every gzip file `x-gzip`, though the bytes
//! are the blob. The length and the digest decide whether an encoding was applied; real gzip is undone.

use super::message::{failure, quotable};
use crate::error::{Error, ErrorKind};
use crate::oci::Descriptor;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use std::io::{self, Write};

/// How many compressed bytes are decoded at once: bounds the memory that a compression bomb takes.
const DECODE_STEP: usize = 8 << 10;

/// The first bytes of gzip (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A Content-Encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `gzip`.
    Gzip,
    /// A compression that saver does not undo.
    Foreign(String),
    /// A label that says nothing about compression.
    Label,
}

impl Encoding {
    /// The encoding that a response's headers name; `None` for no encoding.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_ENCODING)?;
        let name = quotable(&String::from_utf8_lossy(value.as_bytes())).to_ascii_lowercase();
        match name.as_str() {
            "" | "identity" => None,
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "br" | "deflate" | "compress" | "x-compress" | "zstd" => Some(Self::Foreign(name)),
            _ => Some(Self::Label),
        }
    }
}

/// The error of content that was compressed in a way that saver does not undo. A retry would bring the same: something
/// between saver and the registry rewrites responses.
pub(super) fn unsupported(subject: &str, encoding: &str) -> Error {
    let message = format!("the response was compressed on the way (Content-Encoding: {encoding})");
    failure(ErrorKind::Unsupported, subject, message)
        .with_hint("a proxy compresses responses: disable that, or bypass the proxy with NO_PROXY")
}

/// Undoes gzip that was applied to a document of at most `max` bytes. Content that is no gzip is returned as it is.
pub(super) fn decode_document(body: Vec<u8>, max: usize) -> io::Result<Option<Vec<u8>>> {
    if !body.starts_with(&GZIP_MAGIC) {
        return Ok(Some(body));
    }
    let mut decoder = MultiGzDecoder::new(Vec::new());
    for step in body.chunks(DECODE_STEP) {
        decoder.write_all(step)?;
        decoder.flush()?;
        if decoder.get_ref().len() > max {
            return Ok(None);
        }
    }
    decoder.finish().map(Some)
}

/// Undoes gzip that may have been applied to a blob on the way.
///
/// A blob that is itself gzip and carries the label may be intact or compressed twice: it was compressed twice if what
/// comes out is gzip again.
pub(super) struct BlobDecoder {
    blob_is_gzip: bool,
    state: DecoderState,
    /// What came and was not decoded yet.
    input: Bytes,
}

enum DecoderState {
    /// Not known yet; holds what came so far.
    Undecided(Vec<u8>),
    Intact,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
}

impl BlobDecoder {
    pub(super) fn new(blob: &Descriptor) -> Self {
        let blob_is_gzip = blob.media_type.contains("gzip") || blob.media_type.is_empty();
        Self { blob_is_gzip, state: DecoderState::Undecided(Vec::new()), input: Bytes::new() }
    }

    /// Takes what came. All of it must be decoded with [`decode`](Self::decode) before more is pushed.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.input = bytes;
    }

    /// Decodes a bounded part of what was pushed; `None` when nothing is left.
    ///
    /// # Errors
    /// When the content is not valid gzip.
    pub(super) fn decode(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            let step = self.input.split_to(self.input.len().min(DECODE_STEP));
            let decoded = self.decode_step(step)?;
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
    }

    /// Decodes what is left when the response has ended.
    ///
    /// # Errors
    /// When the content ends in the middle of a gzip stream.
    pub(super) fn finish(&mut self) -> io::Result<Bytes> {
        match &mut self.state {
            DecoderState::Undecided(seen) => Ok(std::mem::take(seen).into()),
            DecoderState::Intact => Ok(Bytes::new()),
            DecoderState::Gzip(decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }

    fn decode_step(&mut self, step: Bytes) -> io::Result<Bytes> {
        match &mut self.state {
            DecoderState::Intact => return Ok(step),
            DecoderState::Gzip(decoder) => {
                decoder.write_all(&step)?;
                decoder.flush()?;
                return Ok(std::mem::take(decoder.get_mut()).into());
            }
            DecoderState::Undecided(seen) => seen.extend_from_slice(&step),
        }
        let DecoderState::Undecided(seen) = &mut self.state else { return Ok(Bytes::new()) };
        if seen.len() < GZIP_MAGIC.len() {
            return Ok(Bytes::new());
        }
        if !seen.starts_with(&GZIP_MAGIC) {
            let seen = std::mem::take(seen);
            self.state = DecoderState::Intact;
            return Ok(seen.into());
        }
        let mut decoder = MultiGzDecoder::new(Vec::new());
        decoder.write_all(seen)?;
        decoder.flush()?;
        if self.blob_is_gzip {
            if decoder.get_ref().len() < GZIP_MAGIC.len() && seen.len() < DECODE_STEP {
                return Ok(Bytes::new());
            }
            if !decoder.get_ref().starts_with(&GZIP_MAGIC) {
                let seen = std::mem::take(seen);
                self.state = DecoderState::Intact;
                return Ok(seen.into());
            }
        }
        let decoded = std::mem::take(decoder.get_mut());
        self.state = DecoderState::Gzip(Box::new(decoder));
        Ok(decoded.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(media_type: &str, sent: &[u8], step: usize) -> Vec<u8> {
        let blob = Descriptor::new(media_type, Digest::of(b""), 0);
        let mut decoder = BlobDecoder::new(&blob);
        let mut received = Vec::new();
        for chunk in sent.chunks(step) {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(bytes) = decoder.decode().unwrap() {
                received.extend_from_slice(&bytes);
            }
        }
        received.extend_from_slice(&decoder.finish().unwrap());
        received
    }

    #[test]
    fn gzip_is_undone_only_where_it_was_applied() {
        let tar: Vec<u8> =
            (0..100_000_u32).flat_map(|number| number.wrapping_mul(7919).to_le_bytes()).collect();
        let layer = gzip(&tar);
        let (layer_type, other_type) =
            ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar");
        for step in [1, 3, 1000, 100_000] {
            assert_eq!(decoded(layer_type, &layer, step), layer, "an intact layer, labelled gzip");
            assert_eq!(decoded(layer_type, &gzip(&layer), step), layer, "compressed twice");
            assert_eq!(decoded(other_type, &layer, step), tar);
            assert_eq!(decoded(other_type, &tar, step), tar, "labelled, but not gzip");
            assert_eq!(decoded(other_type, b"x", step), b"x");
            assert_eq!(decoded(other_type, b"", step), b"");
        }
    }

    #[test]
    fn document_is_decoded_within_its_bound() {
        assert_eq!(decode_document(b"{}".to_vec(), 2).unwrap().unwrap(), b"{}");
        assert_eq!(decode_document(gzip(b"{}"), 2).unwrap().unwrap(), b"{}");
        assert_eq!(decode_document(gzip(&vec![b' '; 10 << 20]), 4 << 20).unwrap(), None);
        assert!(decode_document(b"\x1f\x8b no gzip at all".to_vec(), 100).is_err());
    }

    #[test]
    fn encoding_is_compression_or_a_label() {
        for (value, expect) in [
            ("identity", None),
            ("", None),
            ("GZIP", Some(Encoding::Gzip)),
            ("x-gzip", Some(Encoding::Gzip)),
            ("br", Some(Encoding::Foreign("br".into()))),
            ("aws-chunked", Some(Encoding::Label)),
            ("UTF-8", Some(Encoding::Label)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, value.parse().unwrap());
            assert_eq!(Encoding::from_headers(&headers), expect, "{value}");
        }
    }
}
