//! The command line: the only part that speaks, reads the environment and exits.
