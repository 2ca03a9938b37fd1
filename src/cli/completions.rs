//! Shell completions and the manual page, both made from the command line's own definition.

use crate::cli::args::Cli;
use crate::cli::ui::exit::Exit;
use crate::cli::ui::output;
use crate::error::{Error, ErrorKind};
use clap::CommandFactory;

/// Prints the completion script of `shell`.
pub(super) fn completions(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "saver", &mut script);
    output::stdout(&script)
}

/// Prints the manual page of saver, or of one of its commands.
pub(super) fn man(command: Option<&str>) -> Exit {
    let mut root = Cli::command();
    root.build();
    let described = match command {
        None => root,
        Some(name) => match root.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                let error = Error::new(ErrorKind::InvalidInput, name, "there is no such command");
                output::failure(&error.with_hint("saver --help lists the commands"));
                return Exit::Usage;
            }
        },
    };
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let source = concat!("saver ", env!("CARGO_PKG_VERSION"));
    let _ = clap_mangen::Man::new(described).source(source).render(&mut page);
    output::stdout(tidy(&String::from_utf8_lossy(&page)).as_bytes())
}

/// Names the section of examples for what it is, and keeps its lines as they are.
fn tidy(page: &str) -> String {
    let Some((head, examples)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (examples, tail) = match examples.find("\n.SH ") {
        Some(end) => examples.split_at(end + 1),
        None => (examples, ""),
    };
    // What follows the examples is prose again.
    let (examples, prose) = examples.split_at(examples.find("Every flag").unwrap_or(examples.len()));
    format!("{head}.SH \"EXAMPLES AND EXIT CODES\"\n.nf\n{examples}.fi\n{prose}{tail}")
}
