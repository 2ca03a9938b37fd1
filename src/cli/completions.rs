//! Shell completions and manual pages, generated from the definition of the command line.

use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::error::{Error, ErrorKind, Result};
use clap::Command;

/// Prints the completion script of `shell`.
pub(super) fn print(shell: clap_complete::Shell, mut root: Command) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut root, "saver", &mut script);
    output::stdout(&script)
}

/// Prints the manual page of saver, or of one of its commands.
///
/// # Errors
/// `InvalidInput` when there is no such command.
pub(super) fn print_manual(command: Option<&str>, mut root: Command) -> Result<Exit> {
    root.build();
    let described = match command {
        None => root,
        Some(name) => root.find_subcommand(name).cloned().ok_or_else(|| {
            let error = Error::new(ErrorKind::InvalidInput, "", format!("unknown command '{name}'"));
            error.with_hint("saver --help lists the commands")
        })?,
    };
    let source = concat!("saver ", env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(described).source(source).render(&mut page);
    Ok(output::stdout(with_examples(&String::from_utf8_lossy(&page)).as_bytes()))
}

/// Gives the section of examples its name, and keeps its line breaks.
fn with_examples(page: &str) -> String {
    let Some((head, examples)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (examples, tail) = match examples.find("\n.SH ") {
        Some(end) => examples.split_at(end + 1),
        None => (examples, ""),
    };
    // Below the examples the text is prose again.
    let (examples, prose) = examples.split_at(examples.find("Every option").unwrap_or(examples.len()));
    format!("{head}.SH \"EXAMPLES AND EXIT CODES\"\n.nf\n{examples}.fi\n{prose}{tail}")
}
