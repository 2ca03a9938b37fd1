//! What the receiving directory is assumed to have.

use super::document::{self, BaseKind, BundleBase, BundleDocument};
use super::have::{self, HaveList};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::store::Store;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// Something that the receiving directory has already.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BundleSince {
    /// A list of content, an earlier bundle (its directory or its `bundle.json`), or a directory of saved images: the content tells.
    Path(PathBuf),
    /// A list of content.
    Have(HaveList),
}

/// The content of all bases.
#[derive(Default)]
pub(super) struct AssumedContent {
    pub(super) digests: HashSet<Digest>,
    /// The bases, sorted.
    pub(super) bases: Vec<BundleBase>,
}

impl AssumedContent {
    /// Reads the bases.
    ///
    /// # Errors
    /// `InvalidInput` naming what is none of them, or is damaged; `Storage` if it can't be read.
    pub(super) fn read(since: &[BundleSince]) -> Result<Self> {
        let mut all = Self::default();
        for one in since {
            match one {
                BundleSince::Have(list) => all.add_list(list.clone(), BaseKind::Have),
                BundleSince::Path(path) => all.add_path(path)?,
            }
        }
        all.bases.sort();
        all.bases.dedup();
        Ok(all)
    }

    fn add_list(&mut self, list: HaveList, kind: BaseKind) {
        self.bases.push(BundleBase { id: list.header.id, kind });
        self.digests.extend(list.digests);
    }

    fn add_path(&mut self, path: &Path) -> Result<()> {
        let named = |error: Error| error.with_subject(path.display());
        if path.is_dir() {
            let document = path.join(document::FILE);
            if document.is_file() {
                self.add_bundle(&BundleDocument::read(&document)?);
                return Ok(());
            }
            self.add_list(HaveList::of(&Store::open_read_only(path)?)?, BaseKind::Directory);
            return Ok(());
        }
        let unreadable = |cause| super::unreadable(path, &cause);
        let mut file = File::open(path).map_err(unreadable)?;
        let mut magic = [0; 4];
        let count = file.read(&mut magic).map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
        match &magic[..count] {
            start if start == have::MAGIC => {
                self.add_list(HaveList::read(BufReader::new(file)).map_err(named)?, BaseKind::Have);
            }
            [b'{', ..] => self.add_bundle(&BundleDocument::read(path)?),
            _ => {
                let why = "it is neither a list of content, nor a bundle, nor a directory of images";
                return Err(Error::new(ErrorKind::InvalidInput, path.display(), why)
                    .with_hint("saver have --dir DIR -o FILE writes a list of what a directory has"));
            }
        }
        Ok(())
    }

    fn add_bundle(&mut self, document: &BundleDocument) {
        self.bases.push(BundleBase { id: document.id, kind: BaseKind::Bundle });
        self.digests.extend(document.content.iter().map(|content| content.digest));
    }
}
