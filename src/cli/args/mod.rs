//! Option groups, each defined once: an option has the same name, words and meaning in every command.
//!
//! Nothing here reads, checks or decides; that happens when a command resolves its arguments. Three rules that the merge of
//! settings rests on: every option has a long name; no option is `required` in a way that a default could not satisfy; options
//! that exclude each other are told apart when they are resolved.

pub(crate) mod bytes;
pub(crate) mod fetch;
pub(crate) mod images;
pub(crate) mod listen;
pub(crate) mod output;
pub(crate) mod platforms;
pub(crate) mod policy;
pub(crate) mod referrers;
pub(crate) mod registry;
pub(crate) mod save;
pub(crate) mod send;
pub(crate) mod signing;
pub(crate) mod transfer;
pub(crate) mod tree;

use crate::error::{Error, ErrorKind};

/// The error for an option that a command cannot do without.
pub(crate) fn missing_option(option: &str, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "", format!("missing required option '{option}'")).with_hint(hint)
}

/// The error for a positional argument that a command cannot do without.
pub(crate) fn missing_argument(name: &str, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "", format!("missing required argument '{name}'")).with_hint(hint)
}
