//! How much fits on a medium.

/// Space left on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes available to an unprivileged process.
    pub bytes: u64,
    /// Size of the whole file system in bytes.
    pub total: u64,
    /// Inodes available, or `None` if the file system has no fixed number of inodes.
    pub inodes: Option<u64>,
}

impl FreeSpace {
    /// The space of a file system with these counts of blocks and inodes (total and available). `None` for one without
    /// blocks, as some FUSE, overlay and object file systems report.
    pub(super) fn from_counts(
        blocks: u64,
        available: u64,
        block_size: u64,
        inodes: (u64, u64),
    ) -> Option<Self> {
        (blocks > 0).then(|| Self {
            bytes: available.saturating_mul(block_size),
            total: blocks.saturating_mul(block_size),
            inodes: (inodes.0 > 0).then_some(inodes.1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_without_blocks_is_unknown() {
        assert_eq!(FreeSpace::from_counts(0, 0, 4096, (0, 0)), None);
        assert_eq!(FreeSpace::from_counts(0, 0, 4096, (100, 50)), None);
        let space = |inodes| FreeSpace { bytes: 5 << 12, total: 10 << 12, inodes };
        assert_eq!(FreeSpace::from_counts(10, 5, 4096, (0, 0)), Some(space(None)));
        assert_eq!(FreeSpace::from_counts(10, 5, 4096, (100, 0)), Some(space(Some(0))));
    }
}
