//! What people read: the terminal, progress, tables, failures and exit codes.

pub(super) mod exit;
pub(super) mod failed_list;
pub(super) mod failures;
mod metrics;
pub(super) mod output;
pub(super) mod output_files;
pub(super) mod progress;
pub(super) mod run;
mod summary;
pub(super) mod tables;
pub(super) mod terminal;
pub(super) mod wording;
