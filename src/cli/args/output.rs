//! What a command prints and writes.

use clap::{ArgAction, ValueEnum};
use std::path::PathBuf;

/// The options of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Configuration file (YAML; the keys are the long option names)
    ///
    /// The default is $XDG_CONFIG_HOME/saver/config.yaml, else ~/.config/saver/config.yaml, if it exists.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print only failures
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log to stderr (-v debug, -vv trace)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Format of log lines
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub(crate) log_format: LogFormat,
    /// When to use colors
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    pub(crate) color: Color,
}

/// What a run writes beside its images.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct ReportArgs {
    /// Write the result of each image to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write metrics to FILE, for the textfile collector of Prometheus
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// Append a summary to FILE, as Markdown (in GitHub Actions: $GITHUB_STEP_SUMMARY)
    #[arg(long, value_name = "FILE")]
    pub(crate) summary: Option<PathBuf>,
    /// How to show progress
    ///
    /// Progress goes to stderr and the closing table to stdout; with json, stdout has one event a line and nothing else. A terminal
    /// with CI=true in the environment is shown lines.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) progress: ProgressMode,
}

/// `--failed-list`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct FailedListArgs {
    /// Write the images that failed to FILE, as a list for --list
    #[arg(long, value_name = "FILE")]
    pub(crate) failed_list: Option<PathBuf>,
}

/// `--json`.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars on a terminal, lines elsewhere
    Auto,
    /// Bars
    Bar,
    /// A line per image, and a status line every 10 seconds without one
    Plain,
    /// One JSON event a line, on stdout
    Json,
    /// None
    None,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text
    Text,
    /// One JSON object a line
    Json,
    /// Workflow commands of GitHub Actions, also for warnings and failures
    Github,
}

/// `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}
