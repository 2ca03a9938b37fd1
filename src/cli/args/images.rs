//! Lists of images.

use clap::ArgAction;
use std::path::PathBuf;

/// Lists of images.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Images")]
pub(crate) struct ListArgs {
    /// List of images; - is stdin; may be repeated
    ///
    /// One image a line; # starts a comment; platform=linux/arm64 after a name overrides --arch for that image. Or YAML: a
    /// sequence of {registry, username, password, images: [...]}. Files of docker compose, skopeo sync, hauler, image-syncer and
    /// kubeadm config images list are read too.
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub(crate) list: Vec<PathBuf>,
}

/// Tags that lists select.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Images")]
pub(crate) struct SelectionArgs {
    /// Maximum number of images that the tag selections of lists may select
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) max_images: usize,
}

impl ListArgs {
    /// Whether a list is read from stdin.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.list.iter().any(|list| list.as_os_str() == "-")
    }
}
