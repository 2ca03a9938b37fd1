//! A blob being received into a local file.

use super::Partial;
use super::dirty::Touched;
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
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
/// How much of a blob is read back before the kernel is asked to start writing it out: the barrier finds little left to do.
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
    /// Bytes read back since the kernel was last asked to write out.
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

    /// After so many more bytes were read back the kernel is asked to start writing out. Whoever hashes does so, and not whoever
    /// receives: that one has more to do where a single large blob comes.
    fn write_out(&self, count: u64) {
        if self.since.fetch_add(count, Ordering::Relaxed) + count < WRITE_OUT_EVERY {
            return;
        }
        self.since.store(0, Ordering::Relaxed);
        // SAFETY: the descriptor is open for as long as `self.file` lives; the call touches no memory. Offset and length 0
        // mean the whole file; what is already on its way out is skipped.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    /// What the system takes for data, and not for holes: what was reserved and never written is a hole too.
    fn data(&self) -> io::Result<Vec<Range<u64>>> {
        let mut extents = Vec::new();
        let mut at = 0;
        while at < self.length {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) if start < self.length => start,
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
}

impl Partial for FsPartial {
    fn length(&self) -> u64 {
        self.length
    }

    fn extents(&self) -> io::Result<Vec<Range<u64>>> {
        // A page that somebody read counts as data, be there a hole below it. So what is in memory and on the disk too is dropped
        // first; and where there are holes, nothing is read ahead into them from here on. Only advice, so a refusal does no harm.
        let _ = rustix::fs::fdatasync(&self.file);
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        let extents = self.data()?;
        if extents.first() != Some(&(0..self.length)) {
            let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Random);
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
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_full(&self.file, offset, buffer)?;
        self.write_out(count as u64);
        Ok(count)
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

#[cfg(test)]
mod tests {
    use super::super::extents::Extents;
    use super::*;
    use std::path::Path;

    const MIB: u64 = 1 << 20;

    /// A file as a killed process leaves it, with what was reserved and never written; what the next one finds.
    fn left_behind(dir: &Path, written: &[Range<u64>]) -> (Extents, File) {
        let path = dir.join("partial");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let partial = FsPartial::new(open(), String::new(), 0, 64 * MIB, None);
        for range in written {
            for start in (range.start..range.end).step_by(300_000) {
                partial.write_at(start, &vec![7; (range.end - start).min(300_000) as usize]).unwrap();
            }
        }
        // Somebody looked at it, a backup say.
        std::fs::read(&path).unwrap();
        let file = open();
        let length = file.metadata().unwrap().len();
        let found = Extents::found(&FsPartial::new(open(), String::new(), length, 64 * MIB, None));
        std::fs::remove_file(path).unwrap();
        (found, file)
    }

    #[test]
    fn what_a_killed_process_wrote_is_found_and_nothing_else() {
        let here = tempfile::tempdir().unwrap();
        let in_memory = tempfile::tempdir_in("/dev/shm");
        for dir in [Some(here.path()), in_memory.as_ref().ok().map(|dir| dir.path())].into_iter().flatten() {
            let (found, _) = left_behind(dir, &[0..5_000_001, 5_000_001..9_999_999]);
            assert_eq!((found.front, found.islands().count()), (9_999_999, 0), "without holes to the byte");
            let written = [
                0..5_000_001,
                10 * MIB + 17..20 * MIB + 5,
                30 * MIB - 1..30 * MIB + 300_000,
                40 * MIB..50 * MIB,
            ];
            let (found, file) = left_behind(dir, &written);
            assert!(found.front > 4 * MIB && found.front <= 5_000_001, "{}", found.front);
            let islands: Vec<_> = found.islands().collect();
            assert_eq!(islands.len(), 2, "{islands:?}");
            for (island, written) in islands.iter().zip([&written[1], &written[3]]) {
                assert!(written.start <= island.start && island.end <= written.end, "{island:?}");
                assert!(island.end - island.start >= 9 * MIB, "{island:?}");
                let mut back = vec![0; (island.end - island.start) as usize];
                read_full(&file, island.start, &mut back).unwrap();
                assert!(back.iter().all(|byte| *byte == 7), "{island:?} in {}", dir.display());
            }
        }
    }
}
