//! The images of a command: lists from files and stdin, and names from the command line.

use crate::cli::args::images::ListArgs;
use crate::cli::context::Context;
use crate::cli::ui::failed_list;
use crate::cli::ui::output::{self, clean, count};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, Diagnostic, ImageList, ListEntry, SourceLocation};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Notes beyond these are only counted.
const MAX_NOTES: usize = 5;

/// Reads the lists, then the names. All that is wrong with any of them is printed at once. A list without images is only worth a
/// warning if others name some, or if it is the failed list of a run without failures.
///
/// # Errors
/// `InvalidInput` when anything is wrong, after it was printed, or when the lists name no images.
pub(super) fn read_list(files: &[PathBuf], images: &[String], context: &Context<'_>) -> Result<ImageList> {
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Error::new(ErrorKind::InvalidInput, "--list -", "stdin can be read only once"));
    }
    let named = list::parse_images(images);
    if let ([], [problem]) = (files, named.problems.as_slice()) {
        let error = Error::new(ErrorKind::InvalidInput, "", problem.message.clone());
        return Err(match &problem.hint {
            Some(hint) => error.with_hint(hint.clone()),
            None => error,
        });
    }
    let lists: Vec<ListFile> = files.iter().map(|file| ListFile::read(file)).collect();
    let (empty, lists): (Vec<_>, Vec<_>) = lists.into_iter().partition(ListFile::is_empty);
    let source = if files.is_empty() { "names of images" } else { "list of images" };
    let all = lists.into_iter().map(|list| list.images).chain([named]);
    let all = checked(list::merge(all), source, context)?;
    let has_images = !all.entries.is_empty() || !all.selections.is_empty() || !all.charts.is_empty();
    if let Some(list) = empty.iter().find(|list| !has_images && !list.is_failed_list) {
        let error = Error::new(ErrorKind::InvalidInput, &list.name, "the list names no images");
        return Err(error.with_hint("write one image a line, such as nginx:1.27"));
    }
    for list in empty {
        context.warn(&format!("{}: the list names no images", list.name));
    }
    Ok(all)
}

/// As [`read_list`], with rules that select tags, as a line of a list does.
///
/// # Errors
/// As [`read_list`], and `InvalidInput` for a rule that selects no tags.
pub(super) fn read_with_rules(
    files: &[PathBuf],
    images: &[String],
    rules: &[String],
    context: &Context<'_>,
) -> Result<ImageList> {
    let list = read_list(files, images, context)?;
    let rules = checked(list::parse_rules(rules), "rules", context)?;
    if let Some(entry) = rules.entries.first() {
        let why = format!("{} selects no tags", entry.reference);
        return Err(Error::new(ErrorKind::InvalidInput, &entry.origin, why)
            .with_hint("write NAME:*, and options such as tags=semver:^3 and newest=2"));
    }
    Ok(list::merge([list, rules]))
}

/// Reads lists for a command that does not select tags.
///
/// # Errors
/// As [`read_list`], and `InvalidInput` if a list selects tags.
pub(super) fn read(files: &[PathBuf], images: &[String], context: &Context<'_>) -> Result<Vec<ListEntry>> {
    let list = read_list(files, images, context)?;
    refuse_charts(&list, "this command does not fetch charts of Helm repositories")?;
    match list.selections.first() {
        Some(one) => {
            let subject = format!("{}: {}", one.origin, one.name());
            Err(Error::new(ErrorKind::InvalidInput, subject, "this command does not select tags")
                .with_hint("write the tags out, NAME:TAG; saver tags REPOSITORY lists them"))
        }
        None => Ok(list.entries),
    }
}

/// Refuses charts of Helm repositories, for the reason `why`.
///
/// # Errors
/// `InvalidInput` if a list names one.
pub(super) fn refuse_charts(list: &ImageList, why: &str) -> Result<()> {
    let Some(one) = list.charts.first() else { return Ok(()) };
    let error = Error::new(ErrorKind::InvalidInput, format!("{}: {}", one.origin, one.chart), why);
    Err(error
        .with_hint("saver save fetches them; then use their names in the directory, which saver ls lists"))
}

/// Checks that a command has images to work on.
///
/// # Errors
/// `InvalidInput` when there is neither a list nor a name.
pub(super) fn require_any<const N: usize>(
    lists: &ListArgs,
    named: [&Vec<String>; N],
    purpose: &str,
) -> Result<()> {
    if lists.list.is_empty() && named.iter().all(|names| names.is_empty()) {
        let error = Error::new(ErrorKind::InvalidInput, "", format!("no images to {purpose}"));
        return Err(error.with_hint("name images, or give a list with --list FILE"));
    }
    Ok(())
}

/// Checks that stdin is read for one purpose only.
///
/// # Errors
/// `InvalidInput` when a list and a password both come from stdin.
pub(super) fn require_one_reader_of_stdin(lists: &ListArgs, password_stdin: bool) -> Result<()> {
    if password_stdin && lists.reads_stdin() {
        let why = "both read stdin: put one of them in a file";
        return Err(Error::new(ErrorKind::InvalidInput, "--list - and --password-stdin", why));
    }
    Ok(())
}

/// The name of a list in messages.
fn name(file: &Path) -> String {
    if file.as_os_str() == "-" { "stdin".to_owned() } else { file.display().to_string() }
}

/// The images of lists that have no problem. `source` says where they come from: a list or names.
///
/// # Errors
/// `InvalidInput` when they have problems, after these were printed.
pub(super) fn checked(all: ImageList, source: &str, context: &Context<'_>) -> Result<ImageList> {
    if !all.problems.is_empty() {
        print_problems(&all.problems);
        let why = format!("{} in the {source}; nothing was done", count(all.problems.len(), "problem"));
        return Err(Error::new(ErrorKind::InvalidInput, "", why));
    }
    let duplicates = all.duplicates.iter().map(ToString::to_string);
    let notes: Vec<String> = all.notes.iter().map(ToString::to_string).chain(duplicates).collect();
    for note in notes.iter().take(MAX_NOTES) {
        context.note(note);
    }
    if notes.len() > MAX_NOTES {
        context.note(&format!("and {} more like these", notes.len() - MAX_NOTES));
    }
    Ok(all)
}

/// Prints each problem on a line, and a hint on its own line after the last of the problems in a row that share it.
fn print_problems(problems: &[Diagnostic]) {
    for (position, problem) in problems.iter().enumerate() {
        output::stderr(&clean(&problem.to_string()));
        let next = problems.get(position + 1).and_then(|next| next.hint.as_ref());
        if let Some(hint) = problem.hint.as_ref().filter(|hint| Some(*hint) != next) {
            output::stderr(&format!("  hint: {}", clean(hint)));
        }
    }
}

/// A list that was read.
struct ListFile {
    /// Its name in messages.
    name: String,
    images: ImageList,
    /// Whether it is the failed list of a run without failures.
    is_failed_list: bool,
}

impl ListFile {
    /// Reads a list. One that cannot be read is a list with a problem, so that the problems of the others are printed too.
    fn read(file: &Path) -> Self {
        let name = name(file);
        let limit = list::MAX_LIST_BYTES as u64 + 1;
        let mut text = Vec::new();
        let read = if file.as_os_str() == "-" {
            std::io::stdin().lock().take(limit).read_to_end(&mut text)
        } else {
            std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut text))
        };
        let images = match read {
            Ok(_) => list::parse(&name, &text),
            Err(cause) => {
                let origin = SourceLocation { file: name.as_str().into(), line: 0, module: None };
                let problem =
                    Diagnostic { origin, message: format!("cannot read the list: {cause}"), hint: None };
                ImageList { problems: vec![problem], ..ImageList::default() }
            }
        };
        Self { name, images, is_failed_list: text.starts_with(failed_list::EMPTY.as_bytes()) }
    }

    /// Whether it names no images, and nothing in it is wrong.
    fn is_empty(&self) -> bool {
        let Self { images, .. } = self;
        let is_named =
            !images.entries.is_empty() || !images.selections.is_empty() || !images.charts.is_empty();
        !is_named && images.problems.is_empty()
    }
}
