//! The images of a command: lists from files and stdin, and names from the command line.

use crate::cli::args::images::ListArgs;
use crate::cli::context::Context;
use crate::cli::ui::output::{self, clean, count};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, Diagnostic, ImageList, ListEntry, SourceLocation};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Notes beyond these are only counted.
const MAX_NOTES: usize = 5;

/// Reads the lists, then the names. All that is wrong with any of them is printed at once. A list without images is only worth a
/// warning: it may be the failed list of a run without failures.
///
/// # Errors
/// `InvalidInput` when anything is wrong, after it was printed.
pub(super) fn read_list(files: &[PathBuf], images: &[String], context: &Context<'_>) -> Result<ImageList> {
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Error::new(ErrorKind::InvalidInput, "--list -", "stdin can be read only once"));
    }
    let lists: Vec<ImageList> = files.iter().map(|file| read_file(file)).collect();
    let is_empty =
        |list: &ImageList| list.entries.is_empty() && list.selections.is_empty() && list.problems.is_empty();
    let pairs = files.iter().zip(&lists);
    let empty: Vec<String> = pairs.filter(|(_, list)| is_empty(list)).map(|(file, _)| name(file)).collect();
    let all = checked(list::merge(lists.into_iter().chain([list::parse_images(images)])), context)?;
    for name in empty {
        context.warn(&format!("{name}: the list names no images"));
    }
    Ok(all)
}

/// Reads lists for a command that does not select tags.
///
/// # Errors
/// As [`read_list`], and `InvalidInput` if a list selects tags.
pub(super) fn read(files: &[PathBuf], images: &[String], context: &Context<'_>) -> Result<Vec<ListEntry>> {
    let list = read_list(files, images, context)?;
    match list.selections.first() {
        Some(one) => {
            let subject = format!("{}: {}", one.origin, one.name());
            Err(Error::new(ErrorKind::InvalidInput, subject, "this command does not select tags")
                .with_hint("write the tags out, NAME:TAG; saver tags REPOSITORY lists them"))
        }
        None => Ok(list.entries),
    }
}

/// Checks that a command has images to work on.
///
/// # Errors
/// `InvalidInput` when there is neither a list nor a name.
pub(super) fn require_any(lists: &ListArgs, images: &[String], purpose: &str) -> Result<()> {
    if lists.list.is_empty() && images.is_empty() {
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

/// The images of lists that have no problem.
///
/// # Errors
/// `InvalidInput` when they have problems, after these were printed.
pub(super) fn checked(all: ImageList, context: &Context<'_>) -> Result<ImageList> {
    if !all.problems.is_empty() {
        print_problems(&all.problems);
        let why = format!("{} in the list of images; nothing was done", count(all.problems.len(), "problem"));
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

/// Reads a list. One that cannot be read is a list with a problem, so that the problems of the others are printed too.
fn read_file(file: &Path) -> ImageList {
    let is_stdin = file.as_os_str() == "-";
    let name = name(file);
    let limit = list::MAX_LIST_BYTES as u64 + 1;
    let mut text = Vec::new();
    let read = if is_stdin {
        std::io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut text))
    };
    match read {
        Ok(_) => list::parse(&name, &text),
        Err(cause) => {
            let origin = SourceLocation { file: name.into(), line: 0, module: None };
            let problem =
                Diagnostic { origin, message: format!("cannot read the list: {cause}"), hint: None };
            ImageList { problems: vec![problem], ..ImageList::default() }
        }
    }
}
