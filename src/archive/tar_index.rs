//! The members of a tar file and their offsets, from one pass over the headers that skips the data.
//!
//! The tar crate parses the headers. The iteration is our own, because an untrusted archive chooses the length of
//! names and extension records, and each must be bounded before it is read (POSIX pax; GNU long names).

use crate::error::{Error, ErrorKind, Result, Side};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use tar::{EntryType, Header, PaxExtensions};

const BLOCK: u64 = 512;
/// The most members in an archive.
const MAX_MEMBERS: usize = 200_000;
/// The most bytes that all member names of an archive may have together.
const MAX_NAME_BYTES: usize = 32 << 20;
/// The longest name, in bytes.
const MAX_NAME: u64 = 4096;
/// The longest extension record (pax), in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most links that are followed to reach a member.
const MAX_LINKS: usize = 16;

/// Where a member's data is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberData {
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
enum TarMember {
    File(MemberData),
    /// A link to the member of this name.
    Link(String),
    /// Several members share the name, and readers disagree on which one counts. Holds the first one if it is a file.
    Ambiguous(Option<MemberData>),
}

/// The members of an archive by name.
#[derive(Debug)]
pub(super) struct TarIndex {
    members: HashMap<String, TarMember>,
}

/// Extension records that apply to the next member.
#[derive(Default)]
struct ExtensionRecords {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "", why).on(Side::Source)
}

impl TarIndex {
    /// Scans the headers of `file`. Errors do not name the file; the caller does.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a tar file; `Corrupt` if it is truncated or exceeds a limit; `Storage` if it
    /// cannot be read.
    pub(super) fn read(file: &File) -> Result<Self> {
        let length = file.metadata().map_err(unreadable)?.len();
        let mut headers = HeaderReader { file, length, position: 0 };
        let mut members = HashMap::new();
        let mut name_bytes = 0;
        let mut extensions = ExtensionRecords::default();
        while let Some(header) = headers.next()? {
            let kind = header.entry_type();
            if extensions.take(&mut headers, &header)? {
                continue;
            }
            let ExtensionRecords { name, link, size } = std::mem::take(&mut extensions);
            let size = match size {
                _ if is_header_only(kind) => 0,
                Some(size) => size,
                None => header.entry_size().map_err(|_| corrupt("invalid size in a tar header"))?,
            };
            let data = headers.skip_data(size)?;
            let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
            let Some(name) = normalize("", &name) else { continue };
            let member = match kind {
                EntryType::Regular | EntryType::Continuous => TarMember::File(data),
                EntryType::Link | EntryType::Symlink => {
                    let target = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
                    // Symbolic links are relative to their own directory, hard links to the archive's root.
                    let base = match kind {
                        EntryType::Symlink => name.rsplit_once('/').map_or("", |(directory, _)| directory),
                        _ => "",
                    };
                    let Some(target) = normalize(base, &target.unwrap_or_default()) else { continue };
                    TarMember::Link(target)
                }
                _ => continue,
            };
            name_bytes += name.len();
            if members.len() >= MAX_MEMBERS || name_bytes > MAX_NAME_BYTES {
                return Err(corrupt(format!(
                    "more than {MAX_MEMBERS} members, or {MAX_NAME_BYTES} bytes of member names"
                )));
            }
            let mark_ambiguous = |known: &mut TarMember| {
                let first = if let TarMember::File(data) = known { Some(*data) } else { None };
                *known = TarMember::Ambiguous(first);
            };
            members.entry(name).and_modify(mark_ambiguous).or_insert(member);
        }
        Ok(Self { members })
    }

    /// The data of the member `name`. Links are followed within the archive.
    ///
    /// # Errors
    /// `Corrupt` if several members have the name, or links form a cycle.
    pub(super) fn find(&self, name: &str) -> Result<Option<MemberData>> {
        let Some(mut name) = normalize("", name.as_bytes()) else { return Ok(None) };
        for _ in 0..MAX_LINKS {
            match self.members.get(&name) {
                None => return Ok(None),
                Some(TarMember::File(data)) => return Ok(Some(*data)),
                Some(TarMember::Link(target)) => name.clone_from(target),
                Some(TarMember::Ambiguous(_)) => {
                    return Err(corrupt(format!(
                        "several members are named {name:?}, and readers disagree on which one counts"
                    )));
                }
            }
        }
        Err(corrupt(format!("links to {name:?} form a cycle")))
    }

    /// The name that the link `name` resolves to, if it is a link.
    pub(super) fn link_target(&self, name: &str) -> Option<&str> {
        match self.members.get(&normalize("", name.as_bytes())?)? {
            TarMember::Link(target) => Some(target),
            _ => None,
        }
    }

    /// The members whose names start with `prefix`, with the rest of each name. Of several with the same name the
    /// first is returned, which is safe for names that are digests.
    pub(super) fn with_prefix<'i>(&'i self, prefix: &'i str) -> impl Iterator<Item = (&'i str, MemberData)> {
        self.members.iter().filter_map(move |(name, member)| match member {
            TarMember::File(data) | TarMember::Ambiguous(Some(data)) => {
                Some((name.strip_prefix(prefix)?, *data))
            }
            _ => None,
        })
    }
}

/// Whether members of this type have no data, even if their header states a size.
fn is_header_only(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

/// The error for a file that is not an archive of images.
pub(super) fn not_an_archive(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "", message)
        .on(Side::Source)
        .with_hint("saver reads archives of docker save, podman save, skopeo copy and crane pull")
}

fn unreadable(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, "", format!("cannot read the file: {cause}")).on(Side::Source)
}

/// Resolves `name` against the directory `base`, without `.` and empty components. `None` if it leads out of the
/// archive, is not UTF-8, or is too long.
fn normalize(base: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let name = parts.join("/");
    (!name.is_empty() && name.len() as u64 <= MAX_NAME).then_some(name)
}

impl ExtensionRecords {
    /// Reads the extension record that `header` starts, if it is one; returns whether it was.
    fn take(&mut self, headers: &mut HeaderReader<'_>, header: &Header) -> Result<bool> {
        let size = || header.entry_size().map_err(|_| corrupt("invalid size in an extension header"));
        match header.entry_type() {
            EntryType::GNULongName => self.name = Some(headers.read_name(size()?)?),
            EntryType::GNULongLink => self.link = Some(headers.read_name(size()?)?),
            EntryType::XHeader => {
                let content = headers.read_data(size()?, MAX_EXTENSION)?;
                for record in PaxExtensions::new(&content) {
                    let record = record.map_err(|_| corrupt("invalid pax record"))?;
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.name = Some(value.to_vec()),
                        b"linkpath" => self.link = Some(value.to_vec()),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                            self.size = Some(size.ok_or_else(|| corrupt("invalid size in a pax record"))?);
                        }
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => drop(headers.skip_data(size()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Iterates over the headers of a tar file.
struct HeaderReader<'f> {
    file: &'f File,
    length: u64,
    position: u64,
}

impl HeaderReader<'_> {
    /// The next header; `None` at the end.
    fn next(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK as usize];
        loop {
            // Many writers omit the two zero blocks at the end.
            if self.position == self.length {
                return Ok(None);
            }
            if self.position + BLOCK > self.length {
                return Err(self.invalid("the file is truncated"));
            }
            self.file.read_exact_at(&mut block, self.position).map_err(unreadable)?;
            self.position += BLOCK;
            if block != [0; BLOCK as usize] {
                break;
            }
            // A single zero block may be padding; two mark the end.
            if self.position + BLOCK > self.length {
                return Ok(None);
            }
            self.file.read_exact_at(&mut block, self.position).map_err(unreadable)?;
            if block == [0; BLOCK as usize] {
                return Ok(None);
            }
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 =
            block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.invalid("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    /// The error for an invalid header: if it is the first one, the file is not a tar file.
    fn invalid(&self, message: &str) -> Error {
        if self.position <= BLOCK {
            return not_an_archive("not a tar file");
        }
        corrupt(format!("{message} (at byte {})", self.position))
    }

    /// Skips the data of the current member.
    fn skip_data(&mut self, size: u64) -> Result<MemberData> {
        let data = MemberData { offset: self.position, size };
        let end = self.position.checked_add(size).filter(|end| *end <= self.length);
        let Some(end) = end else {
            let left = self.length - self.position;
            return Err(corrupt(format!(
                "the file is truncated: a member has {size} bytes, {left} are left"
            )));
        };
        // The padding of the last member may be missing.
        self.position = end.next_multiple_of(BLOCK).min(self.length);
        Ok(data)
    }

    fn read_data(&mut self, size: u64, limit: u64) -> Result<Vec<u8>> {
        if size > limit {
            return Err(corrupt(format!("a name or extension record has {size} bytes (maximum {limit})")));
        }
        self.skip_data(size)?.read(self.file)
    }

    /// Reads a zero-terminated name.
    fn read_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.read_data(size, MAX_NAME)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }
}

impl MemberData {
    /// Reads all of it. The caller has checked the size.
    pub(super) fn read(self, file: &File) -> Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(self.size).map_err(|_| corrupt("a member is too large"))?];
        file.read_exact_at(&mut content, self.offset).map_err(unreadable)?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tar::Builder;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn add(tar: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }

    fn link(tar: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
    }

    #[test]
    fn member_is_found_by_any_spelling_and_through_links() {
        let mut tar = Builder::new(Vec::new());
        let long = format!("{}/x", "long".repeat(60));
        add(&mut tar, "./a/b", b"first");
        add(&mut tar, &long, b"second");
        tar.append_pax_extensions([("path", b"by/pax".as_slice()), ("size", b"5")]).unwrap();
        add(&mut tar, "short", b"third");
        link(&mut tar, EntryType::Symlink, "c/layer.tar", "../a/b");
        link(&mut tar, EntryType::Link, "d", "a/b");
        link(&mut tar, EntryType::Symlink, "out", "../../etc/passwd");
        link(&mut tar, EntryType::Symlink, "round", "round");
        let file = file(&tar.into_inner().unwrap());
        let index = TarIndex::read(&file).unwrap();
        let content = |name: &str| index.find(name).unwrap().map(|part| part.read(&file).unwrap());
        for (name, expect) in [
            ("a/b", "first"),
            ("./a//b", "first"),
            ("a/x/../b", "first"),
            (&long, "second"),
            ("by/pax", "third"),
            ("c/layer.tar", "first"),
            ("d", "first"),
        ] {
            assert_eq!(content(name).as_deref(), Some(expect.as_bytes()), "{name}");
        }
        assert_eq!(index.link_target("c/layer.tar"), Some("a/b"));
        for name in ["short", "out", "../a/b", "etc/passwd", "", "nothing"] {
            assert_eq!(content(name), None, "{name}");
        }
        assert_eq!(index.find("round").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(index.with_prefix("a/").map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn duplicate_member_name_is_ambiguous() {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, "a", b"1");
        add(&mut tar, "./a", b"2");
        let index = TarIndex::read(&file(&tar.into_inner().unwrap())).unwrap();
        assert!(index.find("a").unwrap_err().to_string().contains("several members"));
    }

    #[test]
    fn truncated_or_oversized_tar_is_refused() {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, "a", &[1; 2000]);
        let whole = tar.into_inner().unwrap();
        for (length, fine) in [(0, true), (512 + 2000, true), (512 + 2048, true), (700, false), (1000, false)]
        {
            assert_eq!(TarIndex::read(&file(&whole[..length])).is_ok(), fine, "{length}");
        }
        assert_eq!(TarIndex::read(&file(&[7; 2048])).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(TarIndex::read(&file(b"short")).unwrap_err().kind(), ErrorKind::InvalidInput);
        for (kind, size) in [
            (EntryType::Regular, u64::MAX),
            (EntryType::Regular, 1 << 60),
            (EntryType::GNULongName, 1 << 40),
            (EntryType::XHeader, 1 << 40),
        ] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            let error =
                TarIndex::read(&file(&[header.as_bytes().as_slice(), &[0; 1024]].concat())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind:?} {size}");
        }
    }
}
