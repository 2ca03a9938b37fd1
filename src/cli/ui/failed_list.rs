//! The images that failed in a run or would in a dry run: as rows, and as a list to give to `--list`.

use crate::cli::ui::failures;
use crate::cli::ui::output::clean;
use crate::error::ErrorReport;
use crate::list::{self, ListEntry};
use crate::oci::{Reference, Repository, Tag};
use crate::transfer::{ImagePlan, ImageReport, Plan, Report, Status};

/// What a failed list is when there is nothing to list.
const NONE: &str = "# no image failed\n";

/// The head of a failed list whose images had credentials in their own list: secrets are not copied to more files.
const CREDENTIALS_LEFT_OUT: &str = "\
# The credentials of the first list are not copied here. To use this list, docker login to the registries
# below, or name a file that has the credentials with --authfile.
";

/// An image that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed<'a> {
    /// Its row, counted from 0, which is that of its entry too.
    row: usize,
    /// The image as asked for.
    pub(crate) reference: &'a Reference,
    /// Its place where it was to go.
    repository: &'a Repository,
    tag: Option<&'a Tag>,
    /// Why.
    pub(crate) error: Option<&'a ErrorReport>,
}

impl<'a> Failed<'a> {
    /// Those of a run, in the order of its rows.
    pub(crate) fn of_report(report: &'a Report) -> Vec<Self> {
        let failed = |(row, image): (usize, &'a ImageReport)| Self {
            row,
            reference: &image.reference,
            repository: &image.repository,
            tag: image.tag.as_ref(),
            error: image.error.as_ref(),
        };
        let rows = report.images.iter().enumerate();
        rows.filter(|(_, image)| image.status == Status::Failed).map(failed).collect()
    }

    /// Those of a dry run, in the order of its rows.
    pub(crate) fn of_plan(plan: &'a Plan) -> Vec<Self> {
        let failed = |(row, image): (usize, &'a ImagePlan)| Self {
            row,
            reference: &image.reference,
            repository: &image.repository,
            tag: image.tag.as_ref(),
            error: image.error.as_ref(),
        };
        let rows = plan.images.iter().enumerate();
        rows.filter(|(_, image)| image.status == Status::Failed).map(failed).collect()
    }

    /// Its line in a failed list, by the name `reference`.
    fn line(&self, reference: &Reference, entry: Option<&ListEntry>) -> String {
        let platforms = entry.and_then(|entry| entry.platforms.as_ref());
        let reason = failures::reason(self.reference, self.error);
        list::failed_line(reference, platforms, &clean(reason)) + "\n"
    }
}

/// The list of what was not saved.
pub(crate) fn not_saved(failed: &[Failed<'_>], entries: &[ListEntry]) -> String {
    let mut text = String::new();
    let entry = |failed: &Failed<'_>| entries.get(failed.row);
    if failed.iter().filter_map(entry).any(|entry| entry.credential.is_some()) {
        text.push_str(CREDENTIALS_LEFT_OUT);
    }
    text.extend(failed.iter().map(|failed| failed.line(failed.reference, entry(failed))));
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// The list of what was not pushed: by the names that were asked for, else by the tree's, which are those at the
/// registry without `prefix`.
pub(crate) fn not_pushed(failed: &[Failed<'_>], entries: &[ListEntry], prefix: Option<&str>) -> String {
    let mut text = String::new();
    for failed in failed {
        if let Some(entry) = entries.get(failed.row) {
            text.push_str(&failed.line(&entry.reference, Some(entry)));
            continue;
        }
        let name = failed.repository.as_str();
        let name = prefix.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let tag = failed.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        match Reference::parse(&format!("{name}{tag}")) {
            Ok(reference) => text.push_str(&failed.line(&reference, None)),
            Err(_) => text.push_str(&format!("# {name}{tag}\n")),
        }
    }
    if text.is_empty() { NONE.to_owned() } else { text }
}
