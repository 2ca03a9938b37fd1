//! Lock files on the command line: what `--locked` requires, and what is written.

use crate::error::{Error, ErrorKind, Result};
use crate::list::{ImageList, ListEntry, LockFile, LockOptions};
use crate::save::lock_file;
use crate::transfer::{
    IndexMode, MissingPlatform, MissingReferrers, Plan, ReferrerKinds, Report, TransferOptions,
};

/// The options of the lock file that `--locked` requires all images to come from.
///
/// # Errors
/// `InvalidInput` for an image that no lock file pins.
pub(super) fn require(list: &ImageList) -> Result<Option<LockOptions>> {
    let unpinned = list.entries.iter().filter(|entry| entry.lock.is_none());
    let mut unpinned = unpinned.map(|entry| (&entry.origin, entry.reference.to_string()));
    let selection = list.selections.first().map(|selection| (&selection.origin, selection.name()));
    let chart = list.charts.first().map(|one| (&one.origin, one.chart.to_string()));
    let Some((origin, name)) = unpinned.next().or(selection).or(chart) else {
        return Ok(list.lock_options.clone());
    };
    Err(Error::new(ErrorKind::InvalidInput, origin, format!("no lock file pins {name}"))
        .with_hint("write a lock file with saver resolve, or leave out --locked"))
}

/// Sets what a lock file decides.
///
/// # Errors
/// `InvalidInput` if the lock file names an unknown form of indexes.
pub(super) fn apply(
    lock: &Option<LockOptions>,
    entries: &[ListEntry],
    options: &mut TransferOptions,
) -> Result<()> {
    // A platform that the lock file pins and the image lacks is drift; others may be missing, as they were before.
    options.missing_platform = MissingPlatform::Skip;
    if entries.iter().all(|entry| entry.lock.as_ref().is_some_and(|lock| lock.referrers.is_some())) {
        options.referrers.kinds = ReferrerKinds::All;
        options.referrers.types.clear();
        options.referrers.missing = MissingReferrers::Fail;
    }
    let Some(lock) = lock else { return Ok(()) };
    options.index = [IndexMode::Keep, IndexMode::Prune, IndexMode::Flatten]
        .into_iter()
        .find(|mode| mode.as_str() == lock.index)
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "lock file", format!("unknown index={}", lock.index))
        })?;
    options.attestations = lock.attestations;
    options.foreign_layers = lock.foreign_layers;
    Ok(())
}

/// The lock file of a run that saved all of `entries`.
pub(super) fn of_report(options: &TransferOptions, entries: &[ListEntry], report: &Report) -> LockFile {
    lock_file(options, entries, report.images.iter().map(Into::into))
}

/// The lock file of resolved images.
pub(super) fn of_plan(options: &TransferOptions, entries: &[ListEntry], plan: &Plan) -> LockFile {
    lock_file(options, entries, plan.images.iter().map(Into::into))
}
