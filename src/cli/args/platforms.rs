//! Which platforms of an image are taken, and what becomes of its index.

use crate::error::{Error, ErrorKind, Result};
use crate::oci::PlatformSet;
use crate::transfer::{IndexMode, MissingPlatform};
use clap::{ArgAction, ValueEnum};

/// The platforms of an image.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Platforms")]
pub(crate) struct PlatformArgs {
    /// Architectures: amd64, arm64, arm/v7, linux/arm64/v8, several separated by commas, or all; may be repeated
    ///
    /// Saving needs it, unless every line of the lists has a platform= of its own. The default is this machine's architecture for
    /// cri and load, and all for the other commands.
    #[arg(long, visible_alias = "platform", value_name = "ARCH[,ARCH]", action = ArgAction::Append)]
    pub(crate) arch: Vec<String>,
    /// Operating system of architectures that are written without one
    #[arg(long, value_name = "OS", default_value = "linux")]
    pub(crate) os: String,
}

impl PlatformArgs {
    /// The platforms that are selected; none when `--arch` is not given.
    ///
    /// # Errors
    /// `InvalidInput` naming the platform that is not one.
    pub(crate) fn selected(&self) -> Result<Option<PlatformSet>> {
        if self.arch.is_empty() {
            return Ok(None);
        }
        let arch = self.arch.join(",");
        if arch.contains(',') && arch.split(',').any(|part| part.trim() == "all") {
            let why = "'all' cannot be combined with other platforms";
            return Err(Error::new(ErrorKind::InvalidInput, format!("--arch {arch}"), why));
        }
        PlatformSet::parse(&arch, &self.os).map(Some)
    }

    /// The platforms that are selected: all when `--arch` is not given.
    ///
    /// # Errors
    /// As [`Self::selected`].
    pub(crate) fn selected_or_all(&self) -> Result<PlatformSet> {
        Ok(self.selected()?.unwrap_or(PlatformSet::All))
    }
}

/// What to do with an image that lacks a selected platform.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Platforms")]
pub(crate) struct MissingPlatformArgs {
    /// What to do with an image that lacks a selected platform
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub(crate) missing_platform: MissingPlatformArg,
}

/// What becomes of an index.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Platforms")]
pub(crate) struct IndexArgs {
    /// What to do with the index of a multi-platform image when only some platforms are selected
    ///
    /// Many registries accept an index only with all of its manifests: pushing with keep then fails. prune and flatten change the
    /// digest that the tag resolves to. docker-archive has no indexes.
    #[arg(long, value_name = "MODE", default_value = "keep")]
    pub(crate) index: IndexArg,
}

/// `--index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IndexArg {
    /// Keep it byte for byte, so that its digest still resolves
    Keep,
    /// Write a new index of the selected platforms, with a new digest
    Prune,
    /// Omit it: the tag resolves to the manifest of the one selected platform
    Flatten,
}

impl From<IndexArg> for IndexMode {
    fn from(index: IndexArg) -> Self {
        match index {
            IndexArg::Keep => Self::Keep,
            IndexArg::Prune => Self::Prune,
            IndexArg::Flatten => Self::Flatten,
        }
    }
}

/// `--missing-platform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MissingPlatformArg {
    /// Fail the image
    Fail,
    /// Take the selected platforms that it has, with a warning; skip an image that has none of them
    Skip,
}

impl From<MissingPlatformArg> for MissingPlatform {
    fn from(missing: MissingPlatformArg) -> Self {
        match missing {
            MissingPlatformArg::Fail => Self::Fail,
            MissingPlatformArg::Skip => Self::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_stands_alone() {
        for (arch, is_right) in [
            (&["all"][..], true),
            (&["amd64,arm64"], true),
            (&["amd64", "arm64"], true),
            (&["amd64,all"], false),
            (&["all", "amd64"], false),
        ] {
            let arch = arch.iter().map(|arch| (*arch).to_owned()).collect();
            let selected = PlatformArgs { arch, os: "linux".into() }.selected();
            assert_eq!(selected.is_ok(), is_right, "{selected:?}");
        }
    }
}
