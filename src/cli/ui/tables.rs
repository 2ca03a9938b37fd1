//! The tables of runs and dry runs.

use super::failures;
use super::output::{self, clean, count, size, table, time};
use super::wording::Wording;
use crate::store::FreeSpace;
use crate::transfer::{ImagePlan, ImageReport, Plan, Report, Status};
use std::time::Duration;

/// Names in a table are not shortened below this length.
const MIN_NAME: usize = 20;

/// Whether the image's tag resolved to other content before.
pub(crate) fn is_update(image: &ImageReport) -> bool {
    image.status.is_done() && image.replaced.is_some()
}

/// The closing table of a run.
pub(crate) fn of_report(report: &Report, wording: Wording) -> String {
    let left = failures::unfinished(report);
    let updated = report.images.iter().filter(|image| is_update(image)).count();
    let mut rows: Vec<Vec<String>> =
        vec![vec![wording.done.into(), report.done().saturating_sub(updated).to_string()]];
    if updated > 0 {
        rows.push(vec!["updated".into(), updated.to_string()]);
    }
    rows.push(vec!["unchanged".into(), report.count(Status::Unchanged).to_string()]);
    let skipped = report.count(Status::Skipped);
    if skipped > 0 {
        rows.push(vec!["skipped".into(), skipped.to_string()]);
    }
    rows.push(vec!["failed".into(), report.count(Status::Failed).saturating_sub(left).to_string()]);
    if left > 0 {
        rows.push(vec!["not finished".into(), left.to_string()]);
    }
    rows.push(vec![wording.moved.into(), size(report.bytes_fetched)]);
    rows.push(vec!["reused".into(), size(report.bytes_reused)]);
    let corrupt: u64 = report.images.iter().map(|image| image.corrupt_chunks).sum();
    if let Some(every) = report.bytes_fetched.checked_div(corrupt) {
        let every = size(every);
        rows.push(vec!["corrupt".into(), format!("{}, 1 in {every}", count(corrupt as usize, "chunk"))]);
    }
    rows.push(vec!["time".into(), time(Duration::try_from_secs_f64(report.seconds).unwrap_or_default())]);
    if report.bytes_fetched > 0 && report.seconds > 0.0 {
        let rate = (report.bytes_fetched as f64 / report.seconds) as u64;
        rows.push(vec!["rate".into(), format!("{}/s", size(rate))]);
    }
    table(&["images", &report.images.len().to_string()], &[false, true], &rows)
}

/// Which clients can use an index that names manifests that are not there.
pub(super) const SPARSE_INDEX_CLIENTS: &str = "Docker, podman, crictl and skopeo pull it
  hint: ctr needs --skip-metadata; skopeo copy --all, oras cp and regctl need --index prune";

/// A note on the images of a run whose index names manifests that were not saved: some clients need another index mode.
pub(crate) fn note_of_report(report: &Report) -> String {
    let complete = report.images.iter().filter(|image| image.status != Status::Failed);
    sparse_indexes(complete.map(|image| image.omitted.as_slice()))
}

/// As `note_of_report`, of a dry run.
pub(crate) fn note_of_plan(plan: &Plan) -> String {
    sparse_indexes(plan.images.iter().map(|image| image.omitted.as_slice()))
}

fn sparse_indexes<'a>(omitted: impl Iterator<Item = &'a [String]>) -> String {
    let images = omitted.filter(|names| !names.is_empty()).count();
    if images == 0 {
        return String::new();
    }
    let images = count(images, "image");
    format!(
        "note: {images} with an index that names more platforms than were selected; {SPARSE_INDEX_CLIENTS}\n"
    )
}

/// The table of a dry run. Names are shortened where it would be wider than `width`.
pub(crate) fn of_plan(
    plan: &Plan,
    wording: Wording,
    free: Option<FreeSpace>,
    width: Option<usize>,
) -> String {
    let row = |image: &ImagePlan| {
        let what = match image.status {
            status if status.is_done() || status.is_planned() => wording.verb,
            Status::Unchanged => "unchanged",
            Status::Skipped => "skip",
            _ if failures::is_unfinished(image.error.as_ref()) => "unknown",
            _ => "fail",
        };
        vec![
            clean(&image.reference.to_string()).into_owned(),
            what.into(),
            clean(&platforms(&image.platforms)).into_owned(),
            size(image.fetch_bytes),
            size(image.reuse_bytes),
        ]
    };
    let mut rows: Vec<Vec<String>> = plan.images.iter().map(row).collect();
    rows.push(vec![
        count(plan.images.len(), "image"),
        String::new(),
        String::new(),
        size(plan.fetch_bytes),
        size(plan.reuse_bytes),
    ]);
    let to_move = format!("to {}", wording.verb);
    let heads = ["image", "would", "platforms", to_move.as_str(), "reused"];
    let right = [false, false, false, true, true];
    let mut text = table(&heads, &right, &rows);
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    if let Some(over) = width.map(|width| widest.saturating_sub(width)).filter(|over| *over > 0) {
        let longest = rows.iter().filter_map(|row| row.first()).map(|name| name.chars().count()).max();
        let room = longest.unwrap_or(0).saturating_sub(over).max(MIN_NAME);
        for name in rows.iter_mut().filter_map(|row| row.first_mut()) {
            *name = output::shortened(name, room);
        }
        text = table(&heads, &right, &rows);
    }
    if let Some(free) = free {
        text.push_str(&format!("free space: {}\n", output::size(free.bytes)));
    }
    text
}

/// Platforms, without the operating system where it is linux.
fn platforms(names: &[String]) -> String {
    let short: Vec<&str> = names.iter().map(|name| name.strip_prefix("linux/").unwrap_or(name)).collect();
    short.join(",")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::wording::SAVING;
    use super::*;
    use crate::content::Place;
    use crate::oci::Reference;

    /// A row with only a name and a status.
    pub(crate) fn image(name: &str, status: Status) -> ImageReport {
        let reference = Reference::parse(name).unwrap();
        ImageReport {
            repository: reference.repository.clone(),
            tag: reference.tag.clone(),
            reference,
            status,
            digest: None,
            source_digest: None,
            replaced: None,
            platforms: Vec::new(),
            manifests: Vec::new(),
            omitted: Vec::new(),
            referrers: Vec::new(),
            bytes_fetched: 0,
            corrupt_chunks: 0,
            bytes_reused: 0,
            attempts: 1,
            seconds: 1.0,
            error: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn closing_table_is_aligned() {
        let report = Report {
            schema: Report::SCHEMA,
            images: vec![image("nginx", Status::Saved), image("a.io/b:1", Status::Failed)],
            bytes_fetched: 12_000_000,
            bytes_reused: 0,
            seconds: 4.0,
            aborted: None,
        };
        assert_eq!(
            of_report(&report, SAVING),
            "images              2\nsaved               1\nunchanged           0\nfailed              1\n\
             downloaded    12.0 MB\nreused            0 B\ntime             4.0s\nrate        3.00 MB/s\n"
        );
    }

    #[test]
    fn plan_fits_the_terminal() {
        let row = |name: &str, platforms: &[&str]| {
            let reference = Reference::parse(name).unwrap();
            let place = Place { repository: reference.repository.clone(), tag: reference.tag.clone() };
            let mut row = ImagePlan::new(reference, place);
            row.platforms = platforms.iter().map(|name| (*name).to_owned()).collect();
            row.fetch_bytes = 346_000_000;
            row
        };
        let long = "registry.example.com:5000/a-team/with/a-long-name/of-an-image:v1.2.3-alpine";
        let plan = Plan {
            schema: Report::SCHEMA,
            images: vec![
                row(long, &["linux/amd64", "linux/arm64/v8"]),
                row("nginx", &["linux/amd64", "windows/amd64"]),
            ],
            fetch_bytes: 692_000_000,
            fetch_blobs: 2,
            reuse_bytes: 0,
            seconds: 0.0,
        };
        let free = FreeSpace { bytes: 1000, total: 1000, inodes: None };
        let text = of_plan(&plan, SAVING, Some(free), Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("registry.e") && text.contains("3-alpine  fail"),
            "both ends of a name tell: {text}"
        );
        assert!(text.contains("  amd64,arm64/v8 ") && text.contains(" amd64,windows/amd64 "), "{text}");
        assert!(of_plan(&plan, SAVING, None, None).contains(long));
    }
}
