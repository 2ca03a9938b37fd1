//! Doubtful finds and their reasons.

use crate::list::SourceLocation;
use crate::oci::Reference;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that may be an image name.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// The text, or the name that it would make; empty if there is no text to show.
    pub text: String,
    /// The image, if the text is a whole name.
    pub reference: Option<Reference>,
    /// Where it was found.
    pub origin: SourceLocation,
    /// Why it is doubtful.
    pub reason: DoubtReason,
    /// What the reason alone does not say, such as the defect of an invalid name.
    pub detail: Option<String>,
}

/// Why a find is doubtful. The serialised names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DoubtReason {
    /// Parts of the text are filled in by something else.
    UnrenderedTemplate,
    /// Neither a tag nor a digest is written.
    NoTag,
    /// An image name is expected, and the text is not a valid one.
    InvalidName,
    /// The text is meant to be replaced.
    Placeholder,
    /// The value of an environment variable.
    EnvironmentVariable,
    /// A command-line argument.
    Argument,
    /// A word in a script or in other free text.
    FreeText,
    /// A value under a key that does not announce an image.
    OtherValue,
    /// An image key in a file of unknown kind.
    UnknownFormat,
    /// A repository and a tag that are separate settings.
    SeparateParts,
    /// A default or an example in a custom resource definition.
    CustomResourceDefinition,
    /// An example or a record in an annotation.
    Annotation,
    /// A value of a chart that no template is known to use.
    ChartValue,
    /// The chart does not use it with these values.
    NotRendered,
    /// A subchart that is missing, whose images are unknown.
    MissingSubchart,
    /// A resource of a kustomization that is not in the scanned directory.
    MissingResource,
    /// An entry that selects tags by a pattern.
    TagPattern,
    /// An image that is built and not pulled.
    Built,
    /// An artifact that is not a container image.
    Artifact,
    /// An admission webhook replaces the image.
    Injected,
    /// An invalid entry in a list of another tool.
    InvalidEntry,
}

impl DoubtReason {
    /// Whether the image may be needed. What a rendered chart does not use is reported, but it is not an open question.
    #[must_use]
    pub fn is_open(self) -> bool {
        self != Self::NotRendered
    }

    fn message(self) -> &'static str {
        match self {
            Self::UnrenderedTemplate => "unrendered template",
            Self::NoTag => "neither a tag nor a digest is written",
            Self::InvalidName => "invalid image name",
            Self::Placeholder => "a placeholder",
            Self::EnvironmentVariable => "value of an environment variable",
            Self::Argument => "command-line argument",
            Self::FreeText => "a word in free text",
            Self::OtherValue => "a value that looks like an image name",
            Self::UnknownFormat => "an image key in a file of unknown format",
            Self::SeparateParts => "repository and tag are separate settings",
            Self::CustomResourceDefinition => "default or example in a custom resource definition",
            Self::Annotation => "example or record in an annotation",
            Self::ChartValue => "chart value that no template is known to use",
            Self::NotRendered => "not used by the chart with these values",
            Self::MissingSubchart => "missing subchart, whose images are unknown",
            Self::MissingResource => "resource outside the scanned directory, whose images are unknown",
            Self::TagPattern => "tags selected by a pattern",
            Self::Built => "built, not pulled",
            Self::Artifact => "not a container image",
            Self::Injected => "replaced by an admission webhook",
            Self::InvalidEntry => "invalid list entry",
        }
    }
}

impl fmt::Display for DoubtReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}
