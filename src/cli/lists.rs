//! The images of a run: lists read from files and stdin, and names from the command line.

use crate::cli::config;
use crate::cli::ui::output::{self, clean, count};
use crate::cli::ui::terminal::Screen;
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, Diagnostic, ImageList, ListEntry, SourceLocation};
use clap::CommandFactory;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Notes beyond these are counted only.
const NOTES: usize = 5;

/// Makes sure that there is anything to read.
///
/// # Errors
/// `InvalidInput` when there is not.
pub(super) fn any(files: &[PathBuf], images: &[String]) -> Result<()> {
    if files.is_empty() && images.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "", "nothing to save")
            .with_hint("name images, or give a list with --list FILE; saver --help has examples"));
    }
    Ok(())
}

/// Refuses what is likely a command's name misspelt, and not an image.
///
/// # Errors
/// `InvalidInput` when the only thing to save is such a word.
pub(super) fn no_command(files: &[PathBuf], images: &[String]) -> Result<()> {
    let ([], [word]) = (files, images) else { return Ok(()) };
    if word.contains(['/', ':', '@', '.']) {
        return Ok(());
    }
    let commands = crate::cli::args::Cli::command();
    let names = commands.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let Some(near) = config::nearest(word, &names) else { return Ok(()) };
    let hint = format!("did you mean saver {near}? An image of this name is {word}:latest");
    Err(Error::new(ErrorKind::InvalidInput, word, "there is no such command").with_hint(hint))
}

/// Reads lists for a command that does not select tags.
///
/// # Errors
/// As [`read_list`], and `InvalidInput` if a list selects tags.
pub(super) fn read(
    files: &[PathBuf],
    images: &[String],
    screen: &Screen,
    quiet: bool,
) -> Result<Vec<ListEntry>> {
    let list = read_list(files, images, screen, quiet)?;
    match list.selections.first() {
        Some(one) => {
            let subject = format!("{}: {}", one.origin, one.name());
            Err(Error::new(ErrorKind::InvalidInput, subject, "this command does not select tags")
                .with_hint("write the tags out, NAME:TAG; saver tags REPOSITORY lists them"))
        }
        None => Ok(list.entries),
    }
}

/// Reads all lists and names, and prints everything that is invalid in them. A list without images is reported and is not
/// invalid: it may be the failed list of a run in which nothing failed.
///
/// # Errors
/// `InvalidInput` if something is invalid, after it was printed.
pub(super) fn read_list(
    files: &[PathBuf],
    images: &[String],
    screen: &Screen,
    quiet: bool,
) -> Result<ImageList> {
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Error::new(ErrorKind::InvalidInput, "--list -", "stdin can be read only once"));
    }
    let lists: Vec<ImageList> = files.iter().map(|file| read_file(file)).collect();
    let empty =
        |list: &ImageList| list.entries.is_empty() && list.selections.is_empty() && list.problems.is_empty();
    let empty: Vec<String> =
        files.iter().zip(&lists).filter(|(_, list)| empty(list)).map(|(file, _)| name(file)).collect();
    let all = settle(list::merge(lists.into_iter().chain([list::parse_images(images)])), screen, quiet)?;
    if !quiet {
        let word = screen.paint().yellow("warning:");
        for name in empty {
            screen.line(&format!("{word} {}: the list names no images", clean(&name)));
        }
    }
    Ok(all)
}

/// What a list is called in what is told of it.
fn name(file: &Path) -> String {
    if file.as_os_str() == "-" { "stdin".to_owned() } else { file.display().to_string() }
}

/// The images of lists that are right; all that is wrong is told.
///
/// # Errors
/// `InvalidInput` when something is wrong, after it was told where and why.
pub(super) fn settle(all: ImageList, screen: &Screen, quiet: bool) -> Result<ImageList> {
    if !all.problems.is_empty() {
        print_problems(&all.problems);
        let told = format!("{}; nothing was done", count(all.problems.len(), "problem"));
        return Err(Error::new(ErrorKind::InvalidInput, "", told));
    }
    if !quiet {
        let duplicates = all.duplicates.iter().map(ToString::to_string);
        let notes: Vec<String> = all.notes.iter().map(ToString::to_string).chain(duplicates).collect();
        print_notes(&notes, screen);
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

fn print_notes(notes: &[String], screen: &Screen) {
    let word = screen.paint().dim("note:");
    for note in notes.iter().take(NOTES) {
        screen.line(&format!("{word} {}", clean(note)));
    }
    if notes.len() > NOTES {
        screen.line(&format!("{word} and {} more like these", notes.len() - NOTES));
    }
}

/// A list that can't be read is a list with a problem, so that the problems of the others are told too.
fn read_file(file: &Path) -> ImageList {
    let stdin = file.as_os_str() == "-";
    let name = name(file);
    let limit = list::MAX_LIST_BYTES as u64 + 1;
    let mut text = Vec::new();
    let read = if stdin {
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
