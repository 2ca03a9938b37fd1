//! Where `inspect`, `tags` and `digest` look: at a registry, or in a directory.

use crate::cli::args::missing_argument;
use crate::cli::args::output::JsonArgs;
use crate::cli::args::platforms::PlatformArgs;
use crate::cli::args::registry::RegistryArgs;
use crate::cli::args::transfer::retry_policy;
use crate::cli::args::tree::{DirArgs, NamesArgs};
use crate::cli::context::Context;
use crate::cli::{registry_args, tree};
use crate::content::retry::RetryPolicy;
use crate::error::{Error, Result};
use crate::inspect::InspectOptions;
use crate::oci::Reference;
use crate::registry::{Session, Sessions};
use crate::save::NameRule;
use crate::store::Store;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Requests at a time, which is plenty for one image.
const MAX_REQUESTS: usize = 8;

/// Where to look.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LookupArgs {
    /// The directory; none is the registry.
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// Names.
    #[command(flatten)]
    pub(crate) names: NamesArgs,
    /// How the registry is reached.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// An image to look up, and what is printed of it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// Image
    #[arg(value_name = "IMAGE", default_value = "", hide_default_value = true)]
    pub(crate) image: String,
    /// Which platforms.
    #[command(flatten)]
    pub(crate) platforms: PlatformArgs,
    /// What is printed.
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

impl ImageArgs {
    /// The name of the image, and how it is inspected.
    ///
    /// # Errors
    /// `InvalidInput` naming the argument that is missing or wrong.
    pub(crate) fn resolve(&self, lookup: &LookupArgs) -> Result<(Reference, InspectOptions)> {
        let platforms = self.platforms.selected_or_all()?;
        let reference = named(&self.image, "IMAGE")?;
        Ok((reference, InspectOptions { platforms, retry: lookup.retry_policy() }))
    }
}

/// What is looked at.
pub(crate) enum End {
    Tree(Store),
    Registry(Arc<Session>),
}

/// Evaluates an expression with the source of either end.
macro_rules! at_end {
    ($end:expr, $source:ident => $work:expr) => {
        match &$end {
            End::Tree($source) => $work,
            End::Registry(session) => {
                let $source = &**session;
                $work
            }
        }
    };
}
pub(crate) use at_end;

impl LookupArgs {
    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        retry_policy(&self.registry)
    }

    /// The error about the image that was written as `text`: with that name where a directory is looked at.
    pub(crate) fn named_as_written(&self, error: Error, text: &str) -> Error {
        if self.dir.dir.is_some() { tree::named_as_written(error, &[text.to_owned()]) } else { error }
    }

    /// Opens what is looked at, and finds the name that the image, or with `is_image` false the repository, has there.
    ///
    /// # Errors
    /// `InvalidInput` naming the option that is wrong; `NotFound` when the directory has no such image; `Storage`.
    pub(crate) fn open(
        &self,
        asked: &Reference,
        is_image: bool,
        context: &Context<'_>,
    ) -> Result<(End, Reference)> {
        let Some(dir) = &self.dir.dir else {
            let registries = BTreeSet::from([asked.registry.clone()]);
            let access = registry_args::resolve(&self.registry, context, &registries)?;
            let session = Sessions::new(access, MAX_REQUESTS).with(&asked.registry)?;
            return Ok((End::Registry(session), asked.clone()));
        };
        let store = tree::open(dir)?;
        let names = NameRule::of(&store, self.names.rule()?.as_ref())?;
        let repository = if is_image {
            names.find(&store, asked)?.repository
        } else {
            names.find_repository(&store, asked)?
        };
        Ok((End::Tree(store), Reference { repository, ..asked.clone() }))
    }
}

/// Parses the name that the positional argument `argument` gives.
///
/// # Errors
/// `InvalidInput` when there is none, or it is not a name.
pub(crate) fn named(text: &str, argument: &str) -> Result<Reference> {
    if text.is_empty() {
        return Err(missing_argument(argument, "add a name, such as nginx:1.27"));
    }
    Reference::parse(text)
}
