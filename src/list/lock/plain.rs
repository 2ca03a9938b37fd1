//! saver's own lock files.

use super::{LockFile, LockOptions, LockedImage, LockedManifest, LockedReferrer};
use crate::list::{ImageList, MAX_PROBLEMS, SourceLocation, platforms};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

const HEAD: &str = "# saver lock v";
const VERSION: &str = "1";
const MANIFEST: &str = "#   manifest ";
const REFERRER: &str = "#   referrer ";
/// Maximum length of a rule that is written, in bytes.
const MAX_RULE: usize = 1500;

pub(super) fn write(lock: &LockFile) -> String {
    let yes = |on: bool| if on { "yes" } else { "no" };
    let LockOptions { index, attestations, foreign_layers } = &lock.options;
    let mut text = format!(
        "{HEAD}{VERSION} index={index} attestations={} foreign-layers={}\n",
        yes(*attestations),
        yes(*foreign_layers)
    );
    for image in &lock.images {
        let platforms = image.platforms.as_deref().unwrap_or("all");
        let rule = one_line(&image.selected_by, MAX_RULE);
        let line = format!("{}  # platform={platforms} {rule}", image.reference);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
        for LockedManifest { digest, bytes, platform } in &image.manifests {
            let platform = platform.as_ref().map(|platform| format!(" {platform}")).unwrap_or_default();
            let _ = writeln!(text, "{MANIFEST}{digest} {}{platform}", bytes.unwrap_or_default());
        }
        for LockedReferrer { digest, subject, artifact_type } in image.referrers.iter().flatten() {
            let kind = artifact_type.as_deref().map(|kind| format!(" {}", one_line(kind, MAX_RULE)));
            let _ = writeln!(text, "{REFERRER}{digest} of {subject}{}", kind.unwrap_or_default());
        }
    }
    text
}

/// Text of a registry or a list without line breaks and terminal escapes.
fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() || c == '\u{2028}' { ' ' } else { c }) {
        if line.len() + c.len_utf8() > limit {
            break;
        }
        line.push(c);
    }
    line.trim().to_owned()
}

/// Adds to the entries of a plain list what its comments pin, if it is a lock file.
pub(in crate::list) fn attach(file: &Arc<str>, text: &[u8], mut list: ImageList) -> ImageList {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let head = std::str::from_utf8(first).ok().and_then(|line| line.trim_end().strip_prefix(HEAD));
    let Some(head) = head else { return list };
    let at = |line: u64| SourceLocation { file: file.clone(), line, module: None };
    let (version, options) = head.split_once(' ').unwrap_or((head, ""));
    if version != VERSION {
        let message = format!("version {version:?} of lock files is not supported");
        list.problem(at(1), message, Some("use a later release of saver, or write the lock file again"));
        return list;
    }
    match read_options(options) {
        Some(options) => list.lock_options = Some(options),
        None => list.problem(at(1), "the options of the lock file are invalid", Some(WRITE_AGAIN)),
    }
    for selection in std::mem::take(&mut list.selections) {
        list.problem(selection.origin, "a lock file does not select tags", Some(WRITE_AGAIN));
    }
    let lines: HashMap<u64, usize> =
        list.entries.iter().enumerate().map(|(index, entry)| (entry.origin.line, index)).collect();
    let mut locked: Vec<Option<LockedImage>> = vec![None; list.entries.len()];
    let mut current = None;
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        if list.problems.len() >= MAX_PROBLEMS {
            break;
        }
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let line = line.trim_end();
        let read = if let Some(index) = lines.get(&number) {
            current = Some(*index);
            let entry = &mut list.entries[*index];
            read_image(line, entry.reference.digest.is_some()).map(|(platforms_text, rule)| {
                entry.platforms = platforms(&platforms_text).ok();
                locked[*index] = Some(LockedImage {
                    reference: entry.reference.clone(),
                    platforms: Some(platforms_text),
                    manifests: Vec::new(),
                    referrers: Some(Vec::new()),
                    selected_by: rule,
                });
            })
        } else if line.starts_with(MANIFEST) || line.starts_with(REFERRER) {
            match current.and_then(|index| locked[index].as_mut()) {
                Some(image) => read_detail(line, image),
                None => Err("this line belongs to no image"),
            }
        } else {
            Ok(())
        };
        if let Err(why) = read {
            list.problem(at(number), why, Some(WRITE_AGAIN));
        }
    }
    for (entry, image) in list.entries.iter_mut().zip(locked) {
        entry.lock = image.map(Arc::new);
    }
    list
}

const WRITE_AGAIN: &str = "saver resolve writes the lock file again";

fn read_options(text: &str) -> Option<LockOptions> {
    let value = |key: &str| {
        text.split_whitespace().find_map(|word| word.split_once('=').filter(|(name, _)| *name == key))
    };
    let flag = |key: &str| match value(key)?.1 {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let index = value("index")?.1;
    ["keep", "prune", "flatten"].contains(&index).then_some(())?;
    Some(LockOptions {
        index: index.to_owned(),
        attestations: flag("attestations")?,
        foreign_layers: flag("foreign-layers")?,
    })
}

/// The platforms and the rule in the comment after an image.
fn read_image(line: &str, is_pinned: bool) -> Result<(String, String), &'static str> {
    if !is_pinned {
        return Err("the lock file does not pin this image");
    }
    let (_, comment) = line.split_once('#').ok_or("the platforms of the image are missing")?;
    let comment = comment.trim();
    let (first, rule) = comment.split_once(' ').unwrap_or((comment, ""));
    let text = first.strip_prefix("platform=").ok_or("the platforms of the image are missing")?;
    platforms(text).map_err(|_| "the platforms of the image are invalid")?;
    Ok((text.to_owned(), rule.to_owned()))
}

fn read_detail(line: &str, image: &mut LockedImage) -> Result<(), &'static str> {
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    let digest = |text: &str| text.parse().map_err(|_| "the digest is invalid");
    match words.as_slice() {
        [one, bytes, platform @ ..] if line.starts_with(MANIFEST) && platform.len() <= 1 => {
            image.manifests.push(LockedManifest {
                digest: digest(one)?,
                bytes: Some(bytes.parse().map_err(|_| "the size is invalid")?),
                platform: platform.first().map(|platform| (*platform).to_owned()),
            });
        }
        [one, "of", subject, kind @ ..] if line.starts_with(REFERRER) => {
            let artifact_type = (!kind.is_empty()).then(|| kind.join(" "));
            let referrer = LockedReferrer { digest: digest(one)?, subject: digest(subject)?, artifact_type };
            image.referrers.get_or_insert_default().push(referrer);
        }
        _ => return Err("the line is incomplete"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{LockFormat, sample};
    use crate::list::parse;

    #[test]
    fn lock_file_is_read_as_it_was_written() {
        let lock = sample();
        let text = lock.to_text(LockFormat::Plain);
        let list = parse("want.lock", text.as_bytes());
        assert!(list.problems.is_empty(), "{:?}", list.problems);
        assert_eq!(list.lock_options.as_ref(), Some(&lock.options));
        let images: Vec<_> =
            list.entries.iter().map(|entry| (**entry.lock.as_ref().unwrap()).clone()).collect();
        assert_eq!(images, lock.images);
        let platforms: Vec<_> =
            list.entries.iter().map(|entry| entry.platforms.as_ref().unwrap().to_string()).collect();
        assert_eq!(platforms, ["linux/amd64,linux/arm64", "all", "linux/amd64,linux/arm64"]);
        // Without the version line it is a plain list of pinned names.
        let plain = text.split_once('\n').unwrap().1;
        let list = parse("want.list", plain.as_bytes());
        assert!(list.problems.is_empty() && list.entries.iter().all(|entry| entry.lock.is_none()));
        assert_eq!(list.entries.len(), 3);
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let mut lock = sample();
        lock.images.truncate(1);
        lock.images[0].selected_by = format!("a\nevil.io/x:1\u{1b}[31m{}", "y".repeat(9000));
        lock.images[0].referrers.as_mut().unwrap()[0].artifact_type = Some("a\nevil.io/y:1".into());
        let list = parse("want.lock", lock.to_text(LockFormat::Plain).as_bytes());
        assert!(list.problems.is_empty(), "{:?}", list.problems);
        assert_eq!(list.entries.len(), 1);
    }

    #[test]
    fn damaged_lock_files_are_refused() {
        let text = sample().to_text(LockFormat::Plain);
        for (from, to, why) in [
            ("lock v1", "lock v2", "want.lock:1: version \"2\""),
            ("index=keep", "index=other", "want.lock:1: the options"),
            ("attestations=yes", "", "want.lock:1: the options"),
            ("app:1.4@", "app:1.4 #", "want.lock:2: the lock file does not pin"),
            ("app:1.4@", "app:* #", "a lock file does not select tags"),
            ("# platform=linux/amd64,linux/arm64", "#", "want.lock:2: the platforms"),
            ("# platform=linux/amd64,linux/arm64", "# platform=a/b/c/d/e", "want.lock:2: the platforms"),
            ("manifest sha256:", "manifest sha257:", "want.lock:3: the digest"),
            (" 12 ", " twelve ", "want.lock:3: the size"),
            (" of sha256", " for sha256", "want.lock:5: the line is incomplete"),
        ] {
            let damaged = text.replacen(from, to, 1);
            assert_ne!(damaged, text, "{from}");
            let problems = parse("want.lock", damaged.as_bytes()).problems;
            assert!(problems.iter().any(|one| one.to_string().contains(why)), "{from}: {problems:?}");
        }
    }
}
