//! The images that failed, as a list for `--list`.

use super::failures::FailedImage;
use super::output::clean;
use crate::list::{self, ListEntry};
use crate::oci::Reference;

/// A failed list without images. As an input it is no error, unlike other lists without images.
pub(crate) const EMPTY: &str = "# no image failed\n";

/// The head of a failed list whose images had credentials in their own list: secrets are not copied to more files.
const CREDENTIALS_OMITTED: &str = "\
# The credentials of the original list are not copied here. To use this list, docker login to the registries
# below, or name a file that has the credentials with --authfile.
";

/// The line of a failed image, under the name `reference`.
fn line(failed: &FailedImage<'_>, reference: &Reference, entry: Option<&ListEntry>) -> String {
    let platforms = entry.and_then(|entry| entry.platforms.as_ref());
    let reason = failed.reason();
    let reason = clean(&reason);
    let line = match entry.and_then(|entry| entry.chart.as_deref()) {
        Some(chart) => list::failed_line(chart, None, &reason),
        None => list::failed_line(reference, platforms, &reason),
    };
    line + "\n"
}

/// The list of the images that were not saved.
pub(crate) fn not_saved(failed: &[FailedImage<'_>], entries: &[ListEntry]) -> String {
    let mut text = String::new();
    let entry = |failed: &FailedImage<'_>| entries.get(failed.row);
    if failed.iter().filter_map(entry).any(|entry| entry.credential.is_some()) {
        text.push_str(CREDENTIALS_OMITTED);
    }
    text.extend(failed.iter().map(|failed| line(failed, failed.reference, entry(failed))));
    if text.is_empty() { EMPTY.to_owned() } else { text }
}

/// The list of the images that were not pushed: by the names that were requested, else by those in the directory, which are those
/// at the registry without `prefix`.
pub(crate) fn not_pushed(failed: &[FailedImage<'_>], entries: &[ListEntry], prefix: Option<&str>) -> String {
    let mut text = String::new();
    for failed in failed {
        if let Some(entry) = entries.get(failed.row) {
            text.push_str(&line(failed, &entry.reference, Some(entry)));
            continue;
        }
        let name = failed.repository.as_str();
        let name = prefix.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let tag = failed.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        match Reference::parse(&format!("{name}{tag}")) {
            Ok(reference) => text.push_str(&line(failed, &reference, None)),
            Err(_) => text.push_str(&format!("# {name}{tag}\n")),
        }
    }
    if text.is_empty() { EMPTY.to_owned() } else { text }
}
