//! Nodes that pull from a directory, or are loaded from it, by the original names.

mod load;
mod mirror_config;
mod mirror_files;
mod page;
mod rewrite;
mod upstreams;
