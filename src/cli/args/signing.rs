//! Signatures of bundles.

/// `--verify-with`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Bundles")]
pub(crate) struct VerifyWithArgs {
    /// Require a signature, and verify it with this shell command
    ///
    /// The command reads bundle.json from stdin, and the signature from the file that $SAVER_SIGNATURE names, and exits with 0 if it
    /// accepts them.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) verify_with: Option<String>,
}
