//! Fetches the chart that a command names: of a Helm repository, or of a registry.

use super::args::registry::RegistryArgs;
use super::context::Context;
use super::registry_args;
use crate::chart::{ChartRepositories, MAX_PACKAGE_BYTES};
use crate::content::retry::RetryPolicy;
use crate::content::{Catalog, document};
use crate::error::{Error, ErrorKind, Result};
use crate::list::{ChartName, VersionRange, chart_version};
use crate::oci::{Manifest, Reference, Registry, Tag, media_type};
use crate::registry::{Access, Session, Sessions};
use bytes::Bytes;

/// How many requests a registry gets at a time.
const CONNECTIONS: usize = 4;

/// Whether text names a chart elsewhere, and not a file.
pub(super) fn is_remote(text: &str) -> bool {
    ["https://", "http://", "oci://"].iter().any(|scheme| text.starts_with(scheme))
}

/// Fetches the chart that `name` is the URL of, in the newest of the versions in the range `version`; its full name, and the archive.
///
/// # Errors
/// `InvalidInput` for an invalid name or range; those of the repository or registry; `Unsupported` for what is no chart.
pub(super) async fn fetch(
    name: &str,
    version: Option<&str>,
    args: &RegistryArgs,
    context: &Context<'_>,
) -> Result<(String, Bytes)> {
    let retry = RetryPolicy { retries: args.retries, ..RetryPolicy::default() };
    let access = |registry: &Registry| registry_args::resolve(args, context, &[registry.clone()].into());
    if name.starts_with("oci://") {
        let reference = Reference::parse(name)?;
        let has_tag = Reference::has_written_tag(name) || reference.digest.is_some();
        let range = version.filter(|_| !has_tag).or((!has_tag).then_some("*"));
        return from_registry(reference.clone(), range, access(&reference.registry)?, &retry).await;
    }
    let chart = ChartName::parse(name, version.unwrap_or("*"))?;
    let repositories = ChartRepositories::new(access(&chart.registry()?)?, retry.clone());
    let located = repositories.locate(&chart).await?;
    let package = document::retrying(&retry, || repositories.fetch(&located)).await?;
    Ok((located.reference.to_string(), package.archive().clone()))
}

/// Fetches the chart `reference`, with the tag of the newest version in `range` if there is one.
async fn from_registry(
    mut reference: Reference,
    range: Option<&str>,
    access: Access,
    retry: &RetryPolicy,
) -> Result<(String, Bytes)> {
    let session = Sessions::new(access, CONNECTIONS).with(&reference.registry)?;
    if let Some(range) = range {
        reference.tag = Some(newest(&session, &reference, range, retry).await?);
    }
    let digest = document::resolve(&*session, &reference, retry).await?;
    let raw = document::manifest(&*session, &reference.repository, digest, retry).await?;
    let no_chart = || Error::new(ErrorKind::Unsupported, &reference, "not a Helm chart");
    let Manifest::Image(manifest) = raw.parse()? else { return Err(no_chart()) };
    let is_chart = manifest.config.media_type == media_type::HELM_CONFIG;
    let layer = manifest.layers.iter().find(|layer| layer.media_type == media_type::HELM_CHART);
    let layer = layer.filter(|_| is_chart).ok_or_else(no_chart)?;
    if layer.size > MAX_PACKAGE_BYTES as u64 {
        let message =
            format!("the chart has {} bytes, more than the limit of {MAX_PACKAGE_BYTES}", layer.size);
        return Err(Error::new(ErrorKind::TooLarge, &reference, message));
    }
    let archive = document::blob(&*session, &reference.repository, layer, retry).await?;
    Ok((reference.to_string(), archive))
}

/// The tag of the newest version in a range. Tags have `_` where versions have `+`.
async fn newest(session: &Session, reference: &Reference, range: &str, retry: &RetryPolicy) -> Result<Tag> {
    let invalid =
        || Error::new(ErrorKind::InvalidInput, format!("--version {range}"), "neither a version nor a range");
    let parsed = VersionRange::parse(range).ok_or_else(invalid)?;
    let tags = document::retrying(retry, || session.tags(&reference.repository)).await?;
    let versions = tags.iter().filter_map(|tag| Some((chart_version(&tag.as_str().replace('_', "+"))?, tag)));
    let newest =
        versions.filter(|(version, _)| parsed.matches(version)).max_by(|(one, _), (other, _)| one.cmp(other));
    newest.map(|(_, tag)| tag.clone()).ok_or_else(|| {
        let name = format!("{}/{}", reference.registry, reference.repository);
        Error::new(ErrorKind::NotFound, name, format!("none of the {} tags matches {range}", tags.len()))
    })
}
