//! The commands, one file each: a command's arguments, their resolution into the library's options, and the call.

pub(super) mod build_context;
pub(super) mod copy;
pub(super) mod cri;
pub(super) mod diff;
pub(super) mod digest;
pub(super) mod export;
pub(super) mod gc;
pub(super) mod import;
pub(super) mod inspect;
pub(super) mod load;
mod lookup;
pub(super) mod ls;
pub(super) mod mirror_config;
pub(super) mod prune;
pub(super) mod push;
pub(super) mod report;
pub(super) mod resolve;
pub(super) mod rewrite;
pub(super) mod rm;
pub(super) mod save;
pub(super) mod scan;
pub(super) mod select;
pub(super) mod serve;
pub(super) mod tags;
pub(super) mod trust;
pub(super) mod verify;
