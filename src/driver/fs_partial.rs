//! A blob that is being received into a local file.

use super::Partial;
use super::dirty::DirtyPaths;
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Smallest blob for which space is preallocated, in bytes.
const RESERVE_FROM: u64 = 1 << 20;
/// How far ahead of the writes space is preallocated. A false announced size ties up no more than this.
const RESERVE_AHEAD: u64 = 64 << 20;
/// How many bytes are read back before the kernel is asked to start writeback. This leaves little work for the barrier.
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

/// The file of a blob, locked with `flock(2)` while it is open.
pub(super) struct FsPartial {
    file: File,
    path: String,
    length: u64,
    /// Announced size of the blob.
    size: u64,
    dirty: Option<DirtyPaths>,
    /// Space is preallocated up to this offset.
    reserved: AtomicU64,
    /// Bytes read back since writeback was last started.
    since: AtomicU64,
}

impl FsPartial {
    /// `file`, which is open at `path`, has `length` bytes, is locked by this process and is to receive a blob of `size` bytes.
    pub(super) fn new(file: File, path: String, length: u64, size: u64, dirty: Option<DirtyPaths>) -> Self {
        Self { file, path, length, size, dirty, reserved: AtomicU64::new(length), since: AtomicU64::new(0) }
    }

    /// As [`new`](Self::new), for a file that grows for as long as there is something to add: no space is preallocated.
    pub(super) fn growing(file: File, path: String, length: u64, dirty: Option<DirtyPaths>) -> Self {
        let reserved = AtomicU64::new(u64::MAX);
        Self { file, path, length, size: u64::MAX, dirty, reserved, since: AtomicU64::new(0) }
    }

    /// Preallocates space up to `end` and beyond. This costs less than growing the file with every write, and reduces fragmentation.
    fn reserve(&self, end: u64) -> io::Result<()> {
        let reserved = self.reserved.load(Ordering::Relaxed);
        if self.size < RESERVE_FROM || end <= reserved {
            return Ok(());
        }
        let ahead = (end + RESERVE_AHEAD).min(self.size);
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, reserved, ahead - reserved) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO)) => Err(error.into()),
            // File systems without fallocate (NFS 3, some FUSE) report a full disk later, from write.
            _ => {
                self.reserved.fetch_max(ahead, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Starts writeback every [`WRITE_OUT_EVERY`] bytes. The hashing thread does this rather than the receiving task, which is
    /// the bottleneck for a single large blob.
    fn write_out(&self, count: u64) {
        if self.since.fetch_add(count, Ordering::Relaxed) + count < WRITE_OUT_EVERY {
            return;
        }
        self.since.store(0, Ordering::Relaxed);
        // SAFETY: the descriptor stays open as long as `self.file`, and the call accesses no memory. Offset and length 0
        // select the whole file; pages already under writeback are skipped.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    /// The ranges that hold data. Space that was preallocated but never written counts as a hole.
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
                // The file system contradicts itself.
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
        // A cached page counts as data even if there is a hole below it, so clean pages are dropped first; if there are holes,
        // readahead is turned off so that it does not fill them again. These calls are advisory: failures are harmless.
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
        if let Some(dirty) = &self.dirty {
            dirty.file(&self.path);
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

    /// Writes a file as a killed process leaves it, with preallocated space that was never written, and recovers its extents.
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
        // Another program, such as a backup, has read the file.
        std::fs::read(&path).unwrap();
        let file = open();
        let length = file.metadata().unwrap().len();
        let found = Extents::recover(&FsPartial::new(open(), String::new(), length, 64 * MIB, None));
        std::fs::remove_file(path).unwrap();
        (found, file)
    }

    #[test]
    fn extents_of_a_killed_process_are_recovered() {
        let here = tempfile::tempdir().unwrap();
        let in_memory = tempfile::tempdir_in("/dev/shm");
        for dir in [Some(here.path()), in_memory.as_ref().ok().map(|dir| dir.path())].into_iter().flatten() {
            let (found, _) = left_behind(dir, &[0..5_000_001, 5_000_001..9_999_999]);
            assert_eq!((found.front, found.beyond().count()), (9_999_999, 0), "exact without holes");
            let written = [
                0..5_000_001,
                10 * MIB + 17..20 * MIB + 5,
                30 * MIB - 1..30 * MIB + 300_000,
                40 * MIB..50 * MIB,
            ];
            let (found, file) = left_behind(dir, &written);
            assert!(found.front > 4 * MIB && found.front <= 5_000_001, "{}", found.front);
            let ranges: Vec<_> = found.beyond().collect();
            assert_eq!(ranges.len(), 2, "{ranges:?}");
            for (range, written) in ranges.iter().zip([&written[1], &written[3]]) {
                assert!(written.start <= range.start && range.end <= written.end, "{range:?}");
                assert!(range.end - range.start >= 9 * MIB, "{range:?}");
                let mut back = vec![0; (range.end - range.start) as usize];
                read_full(&file, range.start, &mut back).unwrap();
                assert!(back.iter().all(|byte| *byte == 7), "{range:?} in {}", dir.display());
            }
        }
    }
}
