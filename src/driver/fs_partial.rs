//! A blob being received into a local file.

use super::Partial;
use super::touched::Touched;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blobs at least this long get their space reserved ahead of the bytes.
const RESERVE_FROM: u64 = 1 << 20;
/// How far ahead: an announced length that is a lie holds no more than this.
const RESERVE_AHEAD: u64 = 64 << 20;
/// How much is written to a blob before the kernel is asked to start writing it out: the barrier finds little left to do.
const WRITE_OUT_EVERY: u64 = 8 << 20;

pub(super) fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A blob's file, locked with `flock(2)` as long as it is open.
pub(super) struct FsPartial {
    file: File,
    path: String,
    length: u64,
    /// How long the blob is to become.
    size: u64,
    touched: Option<Touched>,
    /// Up to where space is reserved.
    reserved: AtomicU64,
    /// Bytes written since the kernel was last asked to write out.
    since: AtomicU64,
}

impl FsPartial {
    /// The blob of `size` bytes that `file` at `path` is to become; it has `length` bytes and this process's lock.
    pub(super) fn new(file: File, path: String, length: u64, size: u64, touched: Option<Touched>) -> Self {
        Self { file, path, length, size, touched, reserved: AtomicU64::new(length), since: AtomicU64::new(0) }
    }

    /// Reserves space up to `end` and some way beyond: cheaper than growing the file write by write, and it keeps large blobs
    /// in one piece.
    fn reserve(&self, end: u64) -> io::Result<()> {
        let reserved = self.reserved.load(Ordering::Relaxed);
        if self.size < RESERVE_FROM || end <= reserved {
            return Ok(());
        }
        let ahead = (end + RESERVE_AHEAD).min(self.size);
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, reserved, ahead - reserved) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO)) => Err(error.into()),
            // What can't reserve space (NFS 3, some FUSE) runs out of it in the middle, if it does.
            _ => {
                self.reserved.fetch_max(ahead, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Partial for FsPartial {
    fn length(&self) -> u64 {
        self.length
    }

    fn extents(&self) -> io::Result<Vec<Range<u64>>> {
        let mut extents = Vec::new();
        let mut at = 0;
        while at < self.length {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) if start < self.length => start,
                // What was reserved and never written is a hole too.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            at = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?.min(self.length);
            if at <= start {
                // A file system that contradicts itself.
                return Err(io::ErrorKind::Unsupported.into());
            }
            extents.push(start..at);
        }
        Ok(extents)
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, range.start, range.end - range.start)?)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let count = bytes.len() as u64;
        self.reserve(offset + count)?;
        self.file.write_all_at(bytes, offset)?;
        if self.since.fetch_add(count, Ordering::Relaxed) + count >= WRITE_OUT_EVERY {
            self.since.store(0, Ordering::Relaxed);
            // SAFETY: the descriptor is open for as long as `self.file` lives; the call touches no memory. Offset and length 0
            // mean the whole file; what is already on its way out is skipped.
            #[cfg(target_os = "linux")]
            unsafe {
                libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, buffer)
    }

    fn finish(&self) -> io::Result<()> {
        if let Some(touched) = &self.touched {
            touched.file(&self.path);
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}
