//! The images of a run: lists read from files and stdin, and names from the command line.

use crate::cli::config;
use crate::cli::ui::output::{self, clean, count};
use crate::cli::ui::terminal::Screen;
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, Entry, Origin, Parsed, Remark};
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

/// Reads all lists and names. Everything that is wrong with any of them is told at once; a list that names nothing
/// is told of, and is not wrong: it may be the failed list of a run in which nothing failed.
///
/// # Errors
/// `InvalidInput` when something is wrong, after it was told where and why.
pub(super) fn read(files: &[PathBuf], images: &[String], screen: &Screen, quiet: bool) -> Result<Vec<Entry>> {
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Error::new(ErrorKind::InvalidInput, "--list -", "stdin can be read only once"));
    }
    let lists: Vec<Parsed> = files.iter().map(|file| read_file(file)).collect();
    let empty = |list: &Parsed| list.entries.is_empty() && list.problems.is_empty();
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
pub(super) fn settle(all: Parsed, screen: &Screen, quiet: bool) -> Result<Vec<Entry>> {
    if !all.problems.is_empty() {
        for problem in &all.problems {
            output::stderr(&clean(&problem.to_string()));
        }
        let told = format!("{}; nothing was done", count(all.problems.len(), "problem"));
        return Err(Error::new(ErrorKind::InvalidInput, "", told));
    }
    if !quiet {
        tell_notes(&all.notes, screen);
    }
    Ok(all.entries)
}

fn tell_notes(notes: &[Remark], screen: &Screen) {
    let word = screen.paint().dim("note:");
    for note in notes.iter().take(NOTES) {
        screen.line(&format!("{word} {}", clean(&note.to_string())));
    }
    if notes.len() > NOTES {
        screen.line(&format!("{word} and {} more like these", notes.len() - NOTES));
    }
}

/// A list that can't be read is a list with a problem, so that the problems of the others are told too.
fn read_file(file: &Path) -> Parsed {
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
            let origin = Origin { file: name.into(), line: 0, module: None };
            let problem = Remark { origin, message: format!("cannot read the list: {cause}"), hint: None };
            Parsed { problems: vec![problem], ..Parsed::default() }
        }
    }
}
