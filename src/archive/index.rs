//! What stands where in a tar file: one pass over its headers, which skips the data.
//!
//! The tar crate reads the headers; the walk is our own, because an archive from outside decides how long names and
//! extension records are, and each must be bounded before it is read (POSIX pax; GNU's long names).

use crate::error::{Error, ErrorKind, Result, Side};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use tar::{EntryType, Header, PaxExtensions};

const BLOCK: u64 = 512;
/// The most members of an archive.
const MAX_MEMBERS: usize = 200_000;
/// The most bytes of names of an archive's members together.
const MAX_NAME_BYTES: usize = 32 << 20;
/// The longest name, in bytes.
const MAX_NAME: u64 = 4096;
/// The longest extension record (pax), in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// How many links in a row are followed.
const MAX_LINKS: usize = 16;

/// A member's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
enum Member {
    File(Part),
    /// Another member, by its name.
    Link(String),
    /// Two members have the name, and readers differ in which of them they take. The first, where it is a file.
    Twice(Option<Part>),
}

/// The members of an archive by name.
#[derive(Debug)]
pub(super) struct TarIndex {
    members: HashMap<String, Member>,
}

/// What extension records say of the next member.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "", why).on(Side::Source)
}

impl TarIndex {
    /// Goes over `file`, of which messages say nothing: the caller names it.
    ///
    /// # Errors
    /// `InvalidInput` when it is no tar file; `Corrupt` when it is cut off or made to do harm; `Storage` when it can't be read.
    pub(super) fn read(file: &File) -> Result<Self> {
        let length = file.metadata().map_err(unreadable)?.len();
        let mut walk = Walk { file, length, at: 0 };
        let (mut members, mut names) = (HashMap::new(), 0);
        let mut extensions = Extensions::default();
        while let Some(header) = walk.header()? {
            let kind = header.entry_type();
            if extensions.take(&mut walk, &header)? {
                continue;
            }
            let Extensions { name, link, size } = std::mem::take(&mut extensions);
            let size = match size {
                _ if is_header_only(kind) => 0,
                Some(size) => size,
                None => header.entry_size().map_err(|_| corrupt("a member's size cannot be read"))?,
            };
            let part = walk.data(size)?;
            let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
            let Some(name) = normal("", &name) else { continue };
            let member = match kind {
                EntryType::Regular | EntryType::Continuous => Member::File(part),
                EntryType::Link | EntryType::Symlink => {
                    let target = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
                    let home = match kind {
                        EntryType::Symlink => name.rsplit_once('/').map_or("", |(home, _)| home),
                        _ => "",
                    };
                    let Some(target) = normal(home, &target.unwrap_or_default()) else { continue };
                    Member::Link(target)
                }
                _ => continue,
            };
            names += name.len();
            if members.len() >= MAX_MEMBERS || names > MAX_NAME_BYTES {
                return Err(corrupt(format!(
                    "it has more than {MAX_MEMBERS} members, or their names are too long"
                )));
            }
            let twice = |there: &mut Member| {
                let first = if let Member::File(part) = there { Some(*part) } else { None };
                *there = Member::Twice(first);
            };
            members.entry(name).and_modify(twice).or_insert(member);
        }
        Ok(Self { members })
    }

    /// Where the data of the member `name` is; links are followed, inside the archive.
    ///
    /// # Errors
    /// `Corrupt` when the name is there twice, or links lead round in a circle.
    pub(super) fn find(&self, name: &str) -> Result<Option<Part>> {
        let Some(mut name) = normal("", name.as_bytes()) else { return Ok(None) };
        for _ in 0..MAX_LINKS {
            match self.members.get(&name) {
                None => return Ok(None),
                Some(Member::File(part)) => return Ok(Some(*part)),
                Some(Member::Link(target)) => name.clone_from(target),
                Some(Member::Twice(_)) => {
                    return Err(corrupt(format!(
                        "it holds {name:?} twice, and readers differ in which they take"
                    )));
                }
            }
        }
        Err(corrupt(format!("its links lead from {name:?} to {name:?}")))
    }

    /// The members whose names begin with `folder`, each with the rest of its name. Of two of one name the first: this is for
    /// content whose name tells what it must be.
    pub(super) fn below<'i>(&'i self, folder: &'i str) -> impl Iterator<Item = (&'i str, Part)> {
        self.members.iter().filter_map(move |(name, member)| match member {
            Member::File(part) | Member::Twice(Some(part)) => Some((name.strip_prefix(folder)?, *part)),
            _ => None,
        })
    }
}

/// Links and directories have no data, whatever their headers say.
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

fn unreadable(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, "", format!("cannot read it: {cause}")).on(Side::Source)
}

/// A name as the index has it: no `.`, no empty parts. None for one that leads out of the archive or is no text.
fn normal(home: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let mut parts: Vec<&str> = home.split('/').filter(|part| !part.is_empty()).collect();
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

impl Extensions {
    /// Takes a record that speaks of the next member; answers whether it was one.
    fn take(&mut self, walk: &mut Walk<'_>, header: &Header) -> Result<bool> {
        let size = || header.entry_size().map_err(|_| corrupt("an extension's size cannot be read"));
        match header.entry_type() {
            EntryType::GNULongName => self.name = Some(walk.text(size()?)?),
            EntryType::GNULongLink => self.link = Some(walk.text(size()?)?),
            EntryType::XHeader => {
                let content = walk.content(size()?, MAX_EXTENSION)?;
                for record in PaxExtensions::new(&content) {
                    let record = record.map_err(|_| corrupt("a pax record cannot be read"))?;
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.name = Some(value.to_vec()),
                        b"linkpath" => self.link = Some(value.to_vec()),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                            self.size = Some(size.ok_or_else(|| corrupt("a pax size is no number"))?);
                        }
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => drop(walk.data(size()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The way through a file, block by block.
struct Walk<'f> {
    file: &'f File,
    length: u64,
    at: u64,
}

impl Walk<'_> {
    /// The next header; none at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK as usize];
        loop {
            // Many writers leave the end's blocks of zeros out.
            if self.at == self.length {
                return Ok(None);
            }
            if self.at + BLOCK > self.length {
                return Err(self.wrong("it is cut off"));
            }
            self.file.read_exact_at(&mut block, self.at).map_err(unreadable)?;
            self.at += BLOCK;
            if block != [0; BLOCK as usize] {
                break;
            }
            // One block of zeros may be padding; two are the end.
            if self.at + BLOCK > self.length {
                return Ok(None);
            }
            self.file.read_exact_at(&mut block, self.at).map_err(unreadable)?;
            if block == [0; BLOCK as usize] {
                return Ok(None);
            }
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 =
            block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.wrong("a member's header is damaged"));
        }
        Ok(Some(header))
    }

    /// What is wrong, or that this is no tar file, where its very beginning is.
    fn wrong(&self, why: &str) -> Error {
        if self.at <= BLOCK {
            return Error::new(ErrorKind::InvalidInput, "", "it is no tar file")
                .on(Side::Source)
                .with_hint("what docker save, podman save, skopeo copy and crane pull write can be read");
        }
        corrupt(format!("{why} (at byte {})", self.at))
    }

    /// Passes over the data that comes next.
    fn data(&mut self, size: u64) -> Result<Part> {
        let part = Part { offset: self.at, size };
        let end = self.at.checked_add(size).filter(|end| *end <= self.length);
        let Some(end) = end else {
            let there = self.length - self.at;
            return Err(corrupt(format!(
                "it is cut off: a member has {size} bytes, and {there} are left of the file"
            )));
        };
        // The last member's padding may be left out.
        self.at = end.next_multiple_of(BLOCK).min(self.length);
        Ok(part)
    }

    fn content(&mut self, size: u64, limit: u64) -> Result<Vec<u8>> {
        if size > limit {
            return Err(corrupt(format!("a name or extension of {size} bytes; at most {limit} are read")));
        }
        let part = self.data(size)?;
        part.read(self.file)
    }

    /// A name: what stands before the first zero.
    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut text = self.content(size, MAX_NAME)?;
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        Ok(text)
    }
}

impl Part {
    /// All of the data, which the caller has found to be short.
    pub(super) fn read(self, file: &File) -> Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(self.size).map_err(|_| corrupt("it is too long"))?];
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
    fn members_are_found_by_any_spelling_and_through_links() {
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
        for name in ["short", "out", "../a/b", "etc/passwd", "", "nothing"] {
            assert_eq!(content(name), None, "{name}");
        }
        assert_eq!(index.find("round").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(index.below("a/").map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_name_that_is_there_twice_is_no_name() {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, "a", b"1");
        add(&mut tar, "./a", b"2");
        let index = TarIndex::read(&file(&tar.into_inner().unwrap())).unwrap();
        assert!(index.find("a").unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn what_is_cut_off_or_lies_is_refused() {
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
