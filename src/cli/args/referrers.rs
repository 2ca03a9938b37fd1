//! Which signatures and other referrers go with an image.

use crate::transfer::{MissingReferrers, ReferrerKinds, ReferrerOptions};
use clap::{ArgAction, ValueEnum};

/// The referrers of an image.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Signatures")]
pub(crate) struct ReferrerArgs {
    /// Signatures, attestations and SBOMs that refer to an image and are transferred with it [default: all; none for export]
    ///
    /// They are found through the registry's referrers API, the tag sha256-DIGEST where there is none, and the tags of cosign. An
    /// archive or layout lists them beside the image, which podman load and others refuse; a docker-archive cannot hold any.
    #[arg(long, value_name = "KINDS")]
    pub(crate) referrers: Option<ReferrersArg>,
    /// Artifact type of the referrers to transfer, with * and ? as wildcards; may be repeated [default: all types]
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub(crate) referrer_type: Vec<String>,
    /// What to do with an image when one of its referrers cannot be transferred
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub(crate) missing_referrers: MissingReferrersArg,
}

impl ReferrerArgs {
    /// Applies them to `options`.
    pub(crate) fn apply(&self, options: &mut ReferrerOptions) {
        match self.referrers {
            Some(ReferrersArg::None) => options.kinds = ReferrerKinds::None,
            Some(ReferrersArg::Signatures) => options.kinds = ReferrerKinds::Signatures,
            Some(ReferrersArg::All) => options.kinds = ReferrerKinds::All,
            None => {}
        }
        options.types.clone_from(&self.referrer_type);
        options.missing = match self.missing_referrers {
            MissingReferrersArg::Fail => MissingReferrers::Fail,
            MissingReferrersArg::Warn => MissingReferrers::Warn,
        };
    }
}

/// `--referrers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReferrersArg {
    /// None; the registry is not asked for them
    None,
    /// Signatures by cosign, sigstore and Notary
    Signatures,
    /// Everything that refers to the image or to one of its manifests, and what refers to that in turn
    All,
}

/// `--missing-referrers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MissingReferrersArg {
    /// Fail the image
    Fail,
    /// Transfer the image without it, with a warning
    Warn,
}
