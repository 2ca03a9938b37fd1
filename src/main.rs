//! The `saver` command.

fn main() -> std::process::ExitCode {
    saver::cli::main()
}
