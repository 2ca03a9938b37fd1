//! The `saver` command.

fn main() {}
