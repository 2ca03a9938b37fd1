//! Makes old clients' requests acceptable: those that send the socket's path as the `:authority` of HTTP/2.
//!
//! What dials a unix socket through grpc-go before 2024, every kubelet and crictl of runtime.v1alpha2 among them, sends `/run/saver.sock` or
//! `%2Frun%2Fsaver.sock` there. That is no authority (RFC 3986, section 3.2), and the HTTP/2 library resets the stream. Nothing here asks
//! for an authority, so one that can't be one is changed, on its way in, into letters that can.
//!
//! Header blocks are compressed with a table that both sides build up from what was sent (HPACK, RFC 7541). The letters are
//! as many as the value was long: entries keep their size, so the table evolves as the client thinks it does, and nothing of it
//! has to be kept here. Blocks in which nothing has to change pass as they came, to the byte; so does what can't be understood.
//!
//! An empty authority is left out: encoders name it by its place in the static table, which adds nothing to the other. That `:authority` is named by
//! a place in the table that grows is not looked for: the encoders of Go, grpc, hyper-h2 and nghttp2 look for names in the static table first.

use super::hpack::{Reader, write_integer};
use bytes::{Buf, BytesMut};
use hyper::http::uri::Authority;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client's connection begins with (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's head.
const HEAD: usize = 9;
/// The most of a frame that every receiver takes: what comes out is cut to it.
const MAX_FRAME: usize = 16 << 10;
/// The longest header block that is looked into; a longer one is refused by who reads it.
const MAX_BLOCK: usize = 64 << 10;
/// How much is read from the client at a time.
const CHUNK: usize = 16 << 10;

/// The place in the static table of `:authority` without a value (RFC 7541, appendix A).
const STATIC_AUTHORITY: usize = 1;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A connection whose preface has been read, with the `:authority` of its requests put right.
pub(super) struct Acceptable<S> {
    inner: S,
    /// What came and has not been looked at.
    raw: BytesMut,
    /// What may be read.
    ready: BytesMut,
    /// Bytes of the frame under way that pass unseen.
    passing: usize,
    ended: bool,
}

impl<S> Acceptable<S> {
    pub(super) fn new(inner: S) -> Self {
        let (raw, ready) = (BytesMut::new(), BytesMut::from(&PREFACE[..]));
        Self { inner, raw, ready, passing: 0, ended: false }
    }

    /// Moves what can be judged from `raw` to `ready`.
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
            let Some(frame) = Frame::read(&self.raw) else { return };
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
            match corrected(&came) {
                Some(changed) => self.ready.extend_from_slice(&changed),
                None => self.ready.unsplit(came),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Acceptable<S> {
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
                // What is incomplete goes on as it is: the reader sees where it ended.
                this.ended = true;
                this.ready.unsplit(this.raw.split());
            } else {
                this.raw.extend_from_slice(read.filled());
                this.advance();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Acceptable<S> {
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

/// A frame's head (RFC 9113, section 4.1).
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Frame {
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

/// How long the frames of a header block are together, which `bytes` begins with, and whether they are to be looked into; none
/// while some of that is missing.
fn block_length(bytes: &[u8]) -> Option<(usize, bool)> {
    let mut at = 0;
    loop {
        let frame = Frame::read(bytes.get(at..)?)?;
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

/// The frames of a header block with an `:authority` that can be one; none when there is nothing to change.
fn corrected(frames: &[u8]) -> Option<Vec<u8>> {
    let first = Frame::read(frames)?;
    let mut content = frames.get(HEAD..HEAD + first.length)?;
    if first.flags & PADDED != 0 {
        let padding = usize::from(*content.first()?);
        content = content.get(1..content.len().checked_sub(padding)?)?;
    }
    let (priority, fragment) = content.split_at_checked(if first.flags & PRIORITY != 0 { 5 } else { 0 })?;
    let mut block = fragment.to_vec();
    let mut rest = &frames[HEAD + first.length..];
    let mut last = first.flags;
    while let Some(frame) = Frame::read(rest) {
        block.extend_from_slice(rest.get(HEAD..HEAD + frame.length)?);
        rest = &rest[HEAD + frame.length..];
        last = frame.flags;
    }
    if last & END_HEADERS == 0 {
        return None;
    }
    let block = corrected_block(&block)?;
    let mut parts = Vec::new();
    let (begin, more) = block.split_at(block.len().min(MAX_FRAME - priority.len()));
    let mut rest: Vec<&[u8]> = more.chunks(MAX_FRAME).collect();
    let end = |is_last: bool| if is_last { END_HEADERS } else { 0 };
    let flags = first.flags & !(PADDED | END_HEADERS) | end(rest.is_empty());
    Frame { flags, ..first }.write(&[priority, begin].concat(), &mut parts);
    let final_part = rest.pop();
    for part in rest {
        Frame { kind: CONTINUATION, flags: 0, ..first }.write(part, &mut parts);
    }
    if let Some(part) = final_part {
        Frame { kind: CONTINUATION, flags: END_HEADERS, ..first }.write(part, &mut parts);
    }
    Some(parts)
}

/// A header block with an `:authority` that can be one; none when it has that already, or can't be read.
fn corrected_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { bytes: block, at: 0 };
    let mut changed: Option<Vec<u8>> = None;
    let mut copied = 0;
    while reader.at < block.len() {
        // RFC 7541, section 6: what a field's first bits say.
        let (byte, start) = (block[reader.at], reader.at);
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
    use super::super::hpack::{CODES, unpacked};
    use super::*;
    use tokio::io::AsyncReadExt;

    /// A literal with a name from the static table, added to the dynamic one.
    fn literal(name: u8, value: &[u8]) -> Vec<u8> {
        [&[0x40 | name, value.len() as u8], value].concat()
    }

    #[test]
    fn only_an_authority_that_cannot_be_one_is_changed() {
        let path = literal(4, b"/run/saver.sock");
        for good in ["localhost", "a.io:1", "[::1]:5000"] {
            assert_eq!(
                corrected_block(&[path.clone(), literal(1, good.as_bytes())].concat()),
                None,
                "{good}"
            );
        }
        for bad in ["/run/saver.sock", "%2Frun%2Fsaver.sock", "unix:///run/saver.sock", "a b"] {
            let block = [&path[..], &literal(1, bad.as_bytes()), &[0x82, 0x3f, 0x01]].concat();
            let expect =
                [&path[..], &literal(1, "x".repeat(bad.len()).as_bytes()), &[0x82, 0x3f, 0x01]].concat();
            assert_eq!(corrected_block(&block).as_deref(), Some(&expect[..]), "{bad}");
        }
        // Empty: from the static table, and in letters.
        for empty in [&[0x81][..], &[0x01, 0], &[0x11, 0x80]] {
            let block = [&path[..], empty, &[0x82]].concat();
            assert_eq!(corrected_block(&block), Some([&path[..], &[0x82]].concat()), "{empty:?}");
        }
        // By its name in letters, and never to be indexed.
        let named = [&[0x10, 10][..], b":authority", &[2], b"/a"].concat();
        assert!(corrected_block(&named).unwrap().ends_with(b"\x02xx"));
    }

    #[test]
    fn packed_strings_are_read() {
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
            assert_eq!(unpacked(packed).unwrap(), text.as_bytes());
            let block = [&[0x41, 0x80 | packed.len() as u8][..], packed].concat();
            let changed = corrected_block(&block);
            assert_eq!(changed.is_some(), text.contains('/'), "{text}");
            if let Some(changed) = changed {
                assert_eq!(changed, literal(1, "x".repeat(text.len()).as_bytes()));
            }
        }
        assert_eq!(unpacked(&[0x00]), None);
        assert_eq!(unpacked(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(CODES.iter().map(|(_, count)| count).sum::<u32>(), 257);
    }

    #[test]
    fn nonsense_passes_as_it_is() {
        for block in [&[0x41][..], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff], &[0x00, 0xff], &[0xff, 0xff, 0xff]]
        {
            assert_eq!(corrected_block(block), None);
        }
        for frames in [&[0, 0, 2, 1, 0xc, 0, 0, 0, 1, 9, 9][..], &[0, 0, 1, 1, 0x24, 0, 0, 0, 1, 0]] {
            assert_eq!(corrected(frames), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_either_let_be_or_right_afterwards(
            mut block in proptest::collection::vec(proptest::num::u8::ANY, 0..60),
            authority in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            for block in [block.clone(), [&literal(1, &authority)[..], &block].concat(), { block.extend(literal(1, &authority)); block }] {
                if let Some(changed) = corrected_block(&block) {
                    assert_eq!(corrected_block(&changed), None);
                }
            }
        }
    }

    #[tokio::test]
    async fn noise_comes_out_as_it_went_in_or_ends() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut noise: Vec<u8> = (0..random.usize(..3000)).map(|_| random.u8(..)).collect();
            // Frames short enough to be reached one after the other.
            for at in (0..noise.len().saturating_sub(HEAD)).step_by(40) {
                noise[at..at + 5].copy_from_slice(&[0, 0, 31, random.u8(..10), random.u8(..)]);
            }
            let mut acceptable = Acceptable::new(noise.as_slice());
            let mut got = Vec::new();
            acceptable.read_to_end(&mut got).await.unwrap();
            assert!(got.len() <= PREFACE.len() + noise.len() + 9 * noise.len() / HEAD, "{seed}");
        }
    }

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Frame { length: content.len(), kind, flags, stream: [0, 0, 0, 1] }.write(content, &mut bytes);
        bytes
    }

    #[tokio::test]
    async fn frames_are_put_right_however_they_are_cut() {
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
            let mut acceptable = Acceptable::new(server);
            let came = came.clone();
            let sent = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut client, &came).await.unwrap();
            });
            let mut got = Vec::new();
            acceptable.read_to_end(&mut got).await.unwrap();
            sent.await.unwrap();
            assert!(got == expect, "cut by {cut}");
        }
    }
}
