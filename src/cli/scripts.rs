//! Shell completions and the manual page, both made from the command line's own definition.

use super::args::Cli;
use super::exit::Exit;
use super::output;
use clap::CommandFactory;

/// Prints the completion script of `shell`.
pub(super) fn completions(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "saver", &mut script);
    output::stdout(&script)
}

/// Prints the manual page.
pub(super) fn man() -> Exit {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(Cli::command()).render(&mut page);
    output::stdout(&page)
}
