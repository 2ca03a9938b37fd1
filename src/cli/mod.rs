//! The command line: the only part of saver that prints, exits, and reads the environment and the home directory.
//!
//! `command_line` and `args` define what can be written, `grammar` and `config` turn it into settings, the file of each
//! command in `commands` resolves these into the library's options and calls the library, and `ui` shows what happens.

mod args;
mod charts;
mod command_line;
mod commands;
mod completions;
pub mod config;
mod context;
mod grammar;
mod helm;
mod interrupt;
mod lists;
mod locks;
mod registries;
mod registry_args;
#[cfg(feature = "schema")]
pub mod schemas;
mod selections;
mod signing;
mod tree;
mod ui;

use clap::error::ErrorKind as ClapError;
use clap::{CommandFactory, FromArgMatches};
use command_line::{Cli, Command};
use config::Environment;
use context::Context;
use std::ffi::OsString;
use std::process::ExitCode;
use ui::exit::Exit;
use ui::output::{self, Paint};

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    output::unless_lost(run(&argv, &Environment::of_process())).into()
}

fn run(argv: &[OsString], environment: &Environment) -> Exit {
    match parse(argv, environment) {
        Ok(cli) => context::run(async {
            let context = Context::new(&cli.global, environment);
            match dispatch(&cli, &context).await {
                Ok(exit) => exit,
                Err(error) => context.fail(&error),
            }
        }),
        Err(exit) => exit,
    }
}

async fn dispatch(cli: &Cli, context: &Context<'_>) -> crate::error::Result<Exit> {
    match &cli.command {
        None => commands::save::run(&cli.save, context).await,
        Some(Command::Save(args)) => commands::save::run(args, context).await,
        Some(Command::Ls(args)) => commands::ls::run(args),
        Some(Command::Inspect(args)) => commands::inspect::run(args, context).await,
        Some(Command::Tags(args)) => commands::tags::run(args, context).await,
        Some(Command::Select(args)) => commands::select::run(args, context).await,
        Some(Command::Resolve(args)) => commands::resolve::run(args, context).await,
        Some(Command::Digest(args)) => commands::digest::run(args, context).await,
        Some(Command::Verify(args)) => commands::verify::run(args, context).await,
        Some(Command::Prune(args)) => commands::prune::run(args, context),
        Some(Command::Gc(args)) => commands::gc::run(args, context),
        Some(Command::Diff(args)) => commands::diff::run(args, context),
        Some(Command::Rm(args)) => commands::rm::run(args, context),
        Some(Command::Push(args)) => commands::push::run(args, context).await,
        Some(Command::Copy(args)) => commands::copy::run(args, context).await,
        Some(Command::Export(args)) => commands::export::run(args, context).await,
        Some(Command::Import(args)) => commands::import::run(args, context).await,
        Some(Command::Have(args)) => commands::have::run(args, context),
        Some(Command::Bundle(args)) => commands::bundle::run(args, context),
        Some(Command::Unbundle(args)) => commands::unbundle::run(args, context).await,
        Some(Command::BundleInspect(args)) => commands::bundle_inspect::run(args),
        Some(Command::BundleVerify(args)) => commands::bundle_verify::run(args, context),
        Some(Command::Serve(args)) => commands::serve::run(args, context).await,
        Some(Command::MirrorConfig(args)) => commands::mirror_config::run(args, context),
        Some(Command::Report(args)) => commands::report::run(args),
        Some(Command::Rewrite(args)) => commands::rewrite::run(args, context),
        Some(Command::Trust(args)) => commands::trust::run(args),
        Some(Command::Load(args)) => commands::load::run(args, context).await,
        Some(Command::Scan(args)) => commands::scan::run(args, context).await,
        Some(Command::BuildContext(args)) => commands::build_context::run(args, context).await,
        Some(Command::Cri(args)) => commands::cri::run(args, context).await,
        Some(Command::Completions { shell }) => Ok(completions::print(*shell, Cli::command())),
        Some(Command::Man { command }) => completions::print_manual(command.as_deref(), Cli::command()),
    }
}

/// The command line, with the settings of the environment and the configuration below it.
fn parse(argv: &[OsString], environment: &Environment) -> Result<Cli, Exit> {
    let fail = |error: &crate::error::Error| {
        output::failure(error, Paint::Plain);
        Exit::of_error(error)
    };
    let first = argv.get(1).and_then(|word| word.to_str());
    if let Some(error) = grammar::unknown_command(&Cli::command(), first) {
        return Err(fail(&error));
    }
    // Help and version do not depend on the configuration.
    if let Err(error) = Cli::command().try_get_matches_from(argv)
        && !error.use_stderr()
    {
        return Err(output::written(error.print()));
    }
    for warning in config::unknown(&Cli::command(), environment) {
        output::stderr(&format!("warning: {}", output::clean(&warning)));
    }
    let command = config::layer(Cli::command(), argv, environment).map_err(|error| fail(&error))?;
    let root = command.clone();
    let verb = first.filter(|word| root.find_subcommand(word).is_some());
    let reject = |error: clap::Error| match error.kind() {
        ClapError::DisplayHelp | ClapError::DisplayVersion => output::written(error.print()),
        _ => fail(&grammar::rejected(&error, verb)),
    };
    let matches = command.try_get_matches_from(argv).map_err(reject)?;
    if let Some(error) = grammar::misplaced_option(&root, &matches) {
        return Err(fail(&error));
    }
    let mut cli = Cli::from_arg_matches(&matches).map_err(reject)?;
    if let Some(Command::Verify(args)) = &mut cli.command
        && grammar::is_list_of_other_commands(&matches)
    {
        args.lists.list.clear();
    }
    let images: &[String] = match &cli.command {
        None => &cli.save.images,
        Some(_) => &[],
    };
    match grammar::not_an_image(&root, images) {
        Some(error) => Err(fail(&error)),
        None => Ok(cli),
    }
}
