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
    /// sequence of {registry, username, password, images: [...]}. NAME:* and options such as tags=semver:^3 and
    /// newest=2 select tags. Lock files and files of docker compose, skopeo sync, regsync, dregsy, oc-mirror, hauler, image-syncer and
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

/// `--match`.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Images")]
pub(crate) struct MatchArgs {
    /// Select tags as a line of a list does: 'quay.io/team/app:* tags=semver:^3 newest=2'; may be repeated
    #[arg(long = "match", value_name = "RULE", action = ArgAction::Append)]
    pub(crate) rules: Vec<String>,
}

impl ListArgs {
    /// Whether a list is read from stdin.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.list.iter().any(|list| list.as_os_str() == "-")
    }
}
