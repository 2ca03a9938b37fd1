//! The tags that lists select.

use super::args::images::SelectionArgs;
use super::context::Context;
use crate::content::retry::RetryPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::list::{self, ImageList, ListEntry, SelectedRepository};
use crate::registry::Access;
use crate::save::{ResolvedSelection, resolve_selections};

/// The images of lists, with those that their selections select.
///
/// # Errors
/// Those of listing tags, `NotFound` if a selection selects nothing, `InvalidInput` if all select too many images.
pub(super) async fn resolve(
    entries: Vec<ListEntry>,
    selections: Vec<SelectedRepository>,
    args: SelectionArgs,
    (access, retry): (&Access, &RetryPolicy),
    context: &Context<'_>,
) -> Result<Vec<ListEntry>> {
    if selections.is_empty() {
        return Ok(entries);
    }
    let mut selected = Vec::new();
    for ResolvedSelection { repository, tags, .. } in resolve_selections(selections, access, retry).await? {
        context.note(&format!("{}: {}: {}", repository.origin, repository.name(), tags.summary()));
        selected.extend(tags.tags.into_iter().map(|tag| repository.entry(tag)));
    }
    let max = args.max_images;
    if selected.len() > max {
        let why = format!("the lists select {} images, more than {max}", selected.len());
        return Err(Error::new(ErrorKind::InvalidInput, "--max-images", why)
            .with_hint("narrow the selections with tags=, newest= or except=, or raise --max-images"));
    }
    let entries = entries.into_iter().chain(selected).collect();
    Ok(list::merge([ImageList { entries, ..ImageList::default() }]).entries)
}
