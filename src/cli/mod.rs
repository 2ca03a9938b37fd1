//! The command line: the only part of saver that prints, exits, and reads the environment and the home directory.
//!
//! Arguments are taken in two steps: [`args`] and [`config`] say what was asked for, then the file of
//! each command resolves that into the library's options and calls the verb.

pub mod args;
mod commands;
mod completions;
pub mod config;
mod helm;
mod interrupt;
mod lists;
mod registries;
mod registry_args;
#[cfg(feature = "schema")]
pub mod schemas;
mod tree;
mod ui;

use crate::error::{Error, ErrorKind};
use args::{Cli, Command};
use clap::error::{ContextKind, ErrorKind as ClapError};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use config::Environment;
use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;
use ui::exit::Exit;
use ui::output;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    output::unless_lost(run(&argv, &Environment::of_process())).into()
}

fn run(argv: &[OsString], environment: &Environment) -> Exit {
    let cli = match parse(argv, environment) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    match cli.command {
        Some(Command::Completions { shell }) => completions::completions(shell),
        Some(Command::Man { command }) => completions::man(command.as_deref()),
        Some(Command::Inspect(args)) => block_on(commands::inspect::inspect(&args, &cli.global, environment)),
        Some(Command::Tags(args)) => block_on(commands::inspect::tags(&args, &cli.global, environment)),
        Some(Command::Digest(args)) => block_on(commands::inspect::digest(&args, &cli.global, environment)),
        Some(Command::Ls(args)) => commands::ls::run(&args, &cli.global),
        Some(Command::Export(args)) => block_on(commands::export::run(&args, &cli.global, environment)),
        Some(Command::Import(args)) => block_on(commands::import::run(&args, &cli.global, environment)),
        Some(Command::Serve(args)) => block_on(commands::serve::run(&args, &cli.global)),
        Some(Command::Cri(args)) => block_on(commands::cri::run(&args, &cli.global, environment)),
        Some(Command::Push(args)) => block_on(commands::push::run(&args, &cli.global, environment)),
        Some(Command::Copy(args)) => block_on(commands::copy::run(&args, &cli.global, environment)),
        Some(Command::Prune(args)) => commands::prune::run(&args, &cli.global),
        Some(Command::Rm(args)) => commands::rm::run(&args, &cli.global),
        Some(Command::Verify(args)) => commands::verify::run(&args, &cli.global, environment),
        Some(Command::Scan(args)) => block_on(commands::scan::run(&args, &cli.global, environment)),
        Some(Command::BuildContext(args)) => {
            block_on(commands::build_context::run(&args, &cli.global, environment))
        }
        Some(Command::Save(args)) => block_on(commands::save::run(&args, &cli.global, environment)),
        None => block_on(commands::save::run(&cli.save, &cli.global, environment)),
    }
}

/// What was asked for, with the environment's and the configuration's settings below it.
fn parse(argv: &[OsString], environment: &Environment) -> Result<Cli, Exit> {
    // Help and version answer whatever the configuration holds.
    if let Err(error) = Cli::command().try_get_matches_from(argv)
        && !error.use_stderr()
    {
        return Err(tell(error));
    }
    for warning in config::unknown(&Cli::command(), environment) {
        output::stderr(&format!("warning: {}", output::clean(&warning)));
    }
    let command = config::layer(Cli::command(), argv, environment).map_err(|error| {
        output::failure(&error);
        Exit::of_error(&error)
    })?;
    let matches = command.try_get_matches_from(argv).map_err(tell)?;
    if let Some(error) = misplaced(&matches) {
        output::failure(&error);
        return Err(Exit::Usage);
    }
    Cli::from_arg_matches(&matches).map_err(tell)
}

/// Flags of saving that stand before another command's name would be lost without a word.
fn misplaced(matches: &ArgMatches) -> Option<Error> {
    let command = matches.subcommand_name()?;
    let root = Cli::command();
    let own = root.get_arguments().filter(|arg| !arg.is_global_set());
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let arg = own.into_iter().find(|arg| given(arg.get_id().as_str()))?;
    let flag = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    let error = Error::new(
        ErrorKind::InvalidInput,
        flag.clone(),
        format!("this stands before the command {command}"),
    );
    Some(error.with_hint(format!("write saver {command} {flag} ...")))
}

fn tell(mut error: clap::Error) -> Exit {
    // That a flag's name may be an image's name, after a --, is nobody's question.
    if error.kind() == ClapError::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    let printed = error.print();
    match error.kind() {
        ClapError::DisplayHelp | ClapError::DisplayVersion => output::written(printed),
        // Nothing is left to do when stderr is gone.
        _ => Exit::Usage,
    }
}

/// Connections and blobs that come in take a descriptor or two each, and a shell's usual soft limit is 1024. Raising it to the hard limit
/// needs no permission. Should it fail all the same, what is too much fails and says so; there is no log yet.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Runs `work` on a runtime of all cores.
fn block_on(work: impl Future<Output = Exit>) -> Exit {
    raise_descriptor_limit();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(work);
            // A blocked file operation must not hold back the end.
            runtime.shutdown_background();
            exit
        }
        Err(cause) => {
            let error = Error::storage("runtime", "start the worker threads", cause);
            output::failure(&error);
            Exit::Stopped
        }
    }
}
