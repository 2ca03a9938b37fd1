//! Nodes that pull from a directory, or are loaded from it, by the original names.

mod mirror_config;
mod mirror_files;
mod upstreams;
