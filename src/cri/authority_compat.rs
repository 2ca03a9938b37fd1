//! Admits old clients that send the path of the socket as the HTTP/2 `:authority`.
//!
//! Clients that dial a Unix socket through grpc-go send `/run/saver.sock` or `%2Frun%2Fsaver.sock`; kubelet and crictl did so until
//! 2024, and every version that uses runtime.v1alpha2 does. This is not a valid authority (RFC 3986, section 3.2), and h2 resets
//! the stream. The service does not use the authority, so an invalid one is replaced by letters before h2 parses it.
//!
//! Header blocks are compressed with a dynamic table that both sides maintain (HPACK, RFC 7541). The replacement has the length of
//! the original, so table entries keep their size and indexes, and no table is needed here. Blocks without an invalid authority,
//! and blocks that cannot be parsed, pass unchanged.
//!
//! An empty authority is removed: encoders refer to it by its static table entry, which does not change the dynamic table. An
//! `:authority` name that refers to the dynamic table is not handled, because the encoders of Go, gRPC, hyper-h2 and nghttp2 search
//! the static table first.

use super::hpack::{Reader, write_integer};
use bytes::{Buf, BytesMut};
use hyper::http::uri::Authority;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The HTTP/2 connection preface (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame header.
const HEAD: usize = 9;
/// The frame size that every receiver accepts. Rewritten blocks are split into frames of this size.
const MAX_FRAME: usize = 16 << 10;
/// The longest header block that is parsed. hyper rejects longer ones.
const MAX_BLOCK: usize = 64 << 10;
/// The size of a read from the client.
const CHUNK: usize = 16 << 10;

/// The static table index of `:authority` with an empty value (RFC 7541, appendix A).
const STATIC_AUTHORITY: usize = 1;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A connection whose preface was read, with invalid authorities of its requests replaced.
pub(super) struct AuthorityCompat<S> {
    inner: S,
    /// Bytes received and not examined yet.
    raw: BytesMut,
    /// Bytes that may be read.
    ready: BytesMut,
    /// The remaining bytes of the current frame, which pass unchanged.
    passing: usize,
    ended: bool,
}

impl<S> AuthorityCompat<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, raw: BytesMut::new(), ready: BytesMut::from(&PREFACE[..]), passing: 0, ended: false }
    }

    /// Moves complete frames from `raw` to `ready`.
    fn advance(&mut self) {
        loop {
            if self.passing > 0 {
                let part = self.passing.min(self.raw.len());
                self.ready.unsplit(self.raw.split_to(part));
                self.passing -= part;
                if self.passing > 0 {
                    return;
                }
            }
            let Some(frame) = FrameHeader::read(&self.raw) else { return };
            if frame.kind != HEADERS {
                self.passing = HEAD + frame.length;
                continue;
            }
            let Some((length, complete)) = block_length(&self.raw) else { return };
            if !complete {
                self.passing = length;
                continue;
            }
            let came = self.raw.split_to(length);
            match rewrite_frames(&came) {
                Some(changed) => self.ready.extend_from_slice(&changed),
                None => self.ready.unsplit(came),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityCompat<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let part = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready[..part]);
                this.ready.advance(part);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // An incomplete frame passes unchanged, and the reader reports it.
                this.ended = true;
                this.ready.unsplit(this.raw.split());
            } else {
                this.raw.extend_from_slice(read.filled());
                this.advance();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityCompat<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A frame header (RFC 9113, section 4.1).
struct FrameHeader {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl FrameHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD] = bytes.get(..HEAD)?.try_into().ok()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags, stream })
    }

    fn write(&self, content: &[u8], into: &mut Vec<u8>) {
        let [.., a, b, c] = (content.len() as u32).to_be_bytes();
        into.extend_from_slice(&[a, b, c, self.kind, self.flags]);
        into.extend_from_slice(&self.stream);
        into.extend_from_slice(content);
    }
}

/// The total length of the frames of the header block that `bytes` starts with, and whether the block is to be parsed; `None`
/// while it is incomplete.
fn block_length(bytes: &[u8]) -> Option<(usize, bool)> {
    let mut at = 0;
    loop {
        let frame = FrameHeader::read(bytes.get(at..)?)?;
        if at > 0 && frame.kind != CONTINUATION {
            return Some((at, false));
        }
        at += HEAD + frame.length;
        if at > MAX_BLOCK {
            return Some((at, false));
        }
        if at > bytes.len() {
            return None;
        }
        if frame.flags & END_HEADERS != 0 {
            return Some((at, true));
        }
    }
}

/// The frames of a header block with a valid `:authority`; `None` if nothing has to change.
fn rewrite_frames(frames: &[u8]) -> Option<Vec<u8>> {
    let first = FrameHeader::read(frames)?;
    let mut content = frames.get(HEAD..HEAD + first.length)?;
    if first.flags & PADDED != 0 {
        let padding = usize::from(*content.first()?);
        content = content.get(1..content.len().checked_sub(padding)?)?;
    }
    let (priority, fragment) = content.split_at_checked(if first.flags & PRIORITY != 0 { 5 } else { 0 })?;
    let mut block = fragment.to_vec();
    let mut rest = &frames[HEAD + first.length..];
    let mut last = first.flags;
    while let Some(frame) = FrameHeader::read(rest) {
        block.extend_from_slice(rest.get(HEAD..HEAD + frame.length)?);
        rest = &rest[HEAD + frame.length..];
        last = frame.flags;
    }
    if last & END_HEADERS == 0 {
        return None;
    }
    let block = rewrite_block(&block)?;
    let mut parts = Vec::new();
    let (begin, more) = block.split_at(block.len().min(MAX_FRAME - priority.len()));
    let mut rest: Vec<&[u8]> = more.chunks(MAX_FRAME).collect();
    let end = |is_last: bool| if is_last { END_HEADERS } else { 0 };
    let flags = first.flags & !(PADDED | END_HEADERS) | end(rest.is_empty());
    FrameHeader { flags, ..first }.write(&[priority, begin].concat(), &mut parts);
    let final_part = rest.pop();
    for part in rest {
        FrameHeader { kind: CONTINUATION, flags: 0, ..first }.write(part, &mut parts);
    }
    if let Some(part) = final_part {
        FrameHeader { kind: CONTINUATION, flags: END_HEADERS, ..first }.write(part, &mut parts);
    }
    Some(parts)
}

/// A header block with a valid `:authority`; `None` if it has one already, or cannot be parsed.
fn rewrite_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { bytes: block, at: 0 };
    let mut changed: Option<Vec<u8>> = None;
    let mut copied = 0;
    while reader.at < block.len() {
        // RFC 7541, section 6: the first bits are the field's representation.
        let start = reader.at;
        let byte = block[start];
        let prefix = match byte {
            0x80.. => {
                if reader.integer(7)? == STATIC_AUTHORITY {
                    changed.get_or_insert_default().extend_from_slice(&block[copied..start]);
                    copied = reader.at;
                }
                continue;
            }
            0x20..0x40 => {
                reader.integer(5)?;
                continue;
            }
            0x40..0x80 => 6,
            _ => 4,
        };
        let is_authority = match reader.integer(prefix)? {
            STATIC_AUTHORITY => true,
            0 => reader.text()? == b":authority",
            _ => false,
        };
        let before = reader.at;
        let value = reader.text()?;
        if is_authority && value.is_empty() && prefix == 4 {
            changed.get_or_insert_default().extend_from_slice(&block[copied..start]);
            copied = reader.at;
        } else if is_authority && Authority::try_from(value.as_slice()).is_err() && !value.is_empty() {
            let into = changed.get_or_insert_default();
            into.extend_from_slice(&block[copied..before]);
            write_integer(value.len(), into);
            into.resize(into.len() + value.len(), b'x');
            copied = reader.at;
        }
    }
    let mut changed = changed?;
    changed.extend_from_slice(&block[copied..]);
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{CODES, huffman_decode};
    use super::*;
    use tokio::io::AsyncReadExt;

    /// A literal with an indexed name and incremental indexing.
    fn literal(name: u8, value: &[u8]) -> Vec<u8> {
        [&[0x40 | name, value.len() as u8], value].concat()
    }

    #[test]
    fn only_invalid_authority_is_replaced() {
        let path = literal(4, b"/run/saver.sock");
        for good in ["localhost", "a.io:1", "[::1]:5000"] {
            assert_eq!(rewrite_block(&[path.clone(), literal(1, good.as_bytes())].concat()), None, "{good}");
        }
        for bad in ["/run/saver.sock", "%2Frun%2Fsaver.sock", "unix:///run/saver.sock", "a b"] {
            let block = [&path[..], &literal(1, bad.as_bytes()), &[0x82, 0x3f, 0x01]].concat();
            let expect =
                [&path[..], &literal(1, "x".repeat(bad.len()).as_bytes()), &[0x82, 0x3f, 0x01]].concat();
            assert_eq!(rewrite_block(&block).as_deref(), Some(&expect[..]), "{bad}");
        }
        // Empty, by its static table index and as a literal.
        for empty in [&[0x81][..], &[0x01, 0], &[0x11, 0x80]] {
            let block = [&path[..], empty, &[0x82]].concat();
            assert_eq!(rewrite_block(&block), Some([&path[..], &[0x82]].concat()), "{empty:?}");
        }
        // With a literal name, never indexed.
        let named = [&[0x10, 10][..], b":authority", &[2], b"/a"].concat();
        assert!(rewrite_block(&named).unwrap().ends_with(b"\x02xx"));
    }

    #[test]
    fn huffman_strings_are_decoded() {
        // RFC 7541, appendix C.4.1 and C.6.1.
        for (packed, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
            (
                &[
                    0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae,
                    0x43, 0xd3,
                ],
                "https://www.example.com",
            ),
        ] {
            assert_eq!(huffman_decode(packed).unwrap(), text.as_bytes());
            let block = [&[0x41, 0x80 | packed.len() as u8][..], packed].concat();
            let changed = rewrite_block(&block);
            assert_eq!(changed.is_some(), text.contains('/'), "{text}");
            if let Some(changed) = changed {
                assert_eq!(changed, literal(1, "x".repeat(text.len()).as_bytes()));
            }
        }
        assert_eq!(huffman_decode(&[0x00]), None);
        assert_eq!(huffman_decode(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(CODES.iter().map(|(_, count)| count).sum::<u32>(), 257);
    }

    #[test]
    fn malformed_blocks_pass_unchanged() {
        for block in [&[0x41][..], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff], &[0x00, 0xff], &[0xff, 0xff, 0xff]]
        {
            assert_eq!(rewrite_block(block), None);
        }
        for frames in [&[0, 0, 2, 1, 0xc, 0, 0, 0, 1, 9, 9][..], &[0, 0, 1, 1, 0x24, 0, 0, 0, 1, 0]] {
            assert_eq!(rewrite_frames(frames), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn rewriting_is_idempotent(
            mut block in proptest::collection::vec(proptest::num::u8::ANY, 0..60),
            authority in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            for block in [block.clone(), [&literal(1, &authority)[..], &block].concat(), { block.extend(literal(1, &authority)); block }] {
                if let Some(changed) = rewrite_block(&block) {
                    assert_eq!(rewrite_block(&changed), None);
                }
            }
        }
    }

    #[tokio::test]
    async fn random_frames_do_not_grow() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut noise: Vec<u8> = (0..random.usize(..3000)).map(|_| random.u8(..)).collect();
            // Short frames, so that many are parsed.
            for at in (0..noise.len().saturating_sub(HEAD)).step_by(40) {
                noise[at..at + 5].copy_from_slice(&[0, 0, 31, random.u8(..10), random.u8(..)]);
            }
            let mut acceptable = AuthorityCompat::new(noise.as_slice());
            let mut got = Vec::new();
            acceptable.read_to_end(&mut got).await.unwrap();
            assert!(got.len() <= PREFACE.len() + noise.len() + 9 * noise.len() / HEAD, "{seed}");
        }
    }

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameHeader { length: content.len(), kind, flags, stream: [0, 0, 0, 1] }.write(content, &mut bytes);
        bytes
    }

    #[tokio::test]
    async fn frames_are_rewritten_at_any_read_size() {
        let block = [literal(4, b"/a/b"), literal(1, b"/run/saver.sock"), literal(1, b"ok")].concat();
        let right = [literal(4, b"/a/b"), literal(1, &[b'x'; 15]), literal(1, b"ok")].concat();
        let settings = frame(4, 0, &[0; 6]);
        let data = frame(0, 1, &[7; 40_000]);
        let padded = [&[3, 0, 0, 0, 0, 9][..], &block, &[0; 3]].concat();
        let came = [
            settings.clone(),
            frame(HEADERS, END_HEADERS | 1, &block),
            data.clone(),
            frame(HEADERS, PADDED | PRIORITY | END_HEADERS, &padded),
            frame(HEADERS, 0, &block[..9]),
            frame(CONTINUATION, 0, &block[9..12]),
            frame(CONTINUATION, END_HEADERS, &block[12..]),
            frame(HEADERS, END_HEADERS, &literal(1, b"localhost")),
        ]
        .concat();
        let expect = [
            PREFACE.to_vec(),
            settings,
            frame(HEADERS, END_HEADERS | 1, &right),
            data,
            frame(HEADERS, PRIORITY | END_HEADERS, &[&[0, 0, 0, 0, 9][..], &right].concat()),
            frame(HEADERS, END_HEADERS, &right),
            frame(HEADERS, END_HEADERS, &literal(1, b"localhost")),
        ]
        .concat();
        for cut in [1, 7, 1000, came.len()] {
            let (mut client, server) = tokio::io::duplex(cut);
            let mut acceptable = AuthorityCompat::new(server);
            let came = came.clone();
            let sent = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut client, &came).await.unwrap();
            });
            let mut got = Vec::new();
            acceptable.read_to_end(&mut got).await.unwrap();
            sent.await.unwrap();
            assert!(got == expect, "reads of {cut}");
        }
    }
}
